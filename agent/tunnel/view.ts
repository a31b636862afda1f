import type { ObservedObject } from '../drivers/driver.ts'
import type { PublicTrack } from '../drivers/network/tunnel/driver.ts'
import type { TunnelResource } from '../../protocol/network-api.ts'
import type { TunnelTrack } from '../../protocol/core/desired.ts'
import type { NamedGateway } from './book.ts'

export type TunnelObserved = Pick<ObservedObject, 'healthy' | 'detail'>

export interface TunnelFacts {
  host: string
  site: string
  /** own, as documents carry it */
  endpoint: string
  /** own, inside tunnels */
  address: string
  maxAgeHours: number
  own: { epoch: number, tracks: readonly PublicTrack[], exchanging: boolean, oldestMs: number | null, overdue: boolean }
  published: readonly TunnelTrack[]
  /** wall clock, Unix ms */
  nowMs: number
  gateways: ReadonlyArray<NamedGateway & { address: string, heard: boolean, tracks: readonly TunnelTrack[] | null }>
  /** null: there is no tunnel */
  observed: TunnelObserved | null
  problems: readonly string[]
}

type Loose = Readonly<Record<string, unknown>>
const listOf = (value: unknown): Loose[] => Array.isArray(value) ? value.filter((one): one is Loose => typeof one === 'object' && one !== null) : []
const textOf = (value: unknown): string => typeof value === 'string' ? value : ''
const textsOf = (value: unknown): string[] => Array.isArray(value) ? value.filter(one => typeof one === 'string') : []
const numberOf = (value: unknown): number | null => typeof value === 'number' && Number.isFinite(value) ? value : null

/** What `detail` of a driver says is read, not trusted to have a form: it is for people. */
export function tunnelResource (facts: TunnelFacts): TunnelResource {
  const { own, observed, nowMs } = facts
  const detail = observed?.detail ?? {}
  const interfaces = listOf(detail.tracks)
  const sessions = listOf(detail.peers)
  return {
    host: facts.host, site: facts.site, address: facts.address, endpoint: facts.endpoint, state: observed === null ? 'none' : observed.healthy ? 'ok' : 'changing', mtu: numberOf(detail.mtu),
    epoch: own.epoch, exchanging: own.exchanging, keyAgeMs: own.oldestMs, keyMaxAgeMs: facts.maxAgeHours * 3_600_000,
    tracks: own.tracks.map(({ track, publicKey, draining, epoch, madeMs }) => {
      const seen = interfaces.find(one => one.track === track)
      return {
        track, interface: textOf(seen?.interface), publicKey, endpoint: facts.published.find(one => one.track === track)?.endpoint ?? '', epoch, draining, madeMs, mode: textOf(seen?.mode), pid: numberOf(seen?.pid)
      }
    }),
    gateways: facts.gateways.map(({ site, host, address, heard, tracks }) => ({
      site, host, address, heard, keyFrom: tracks === null ? 'document' as const : 'record' as const,
      tracks: (tracks ?? []).map(({ track, publicKey, endpoint, draining }) => ({ track, publicKey, endpoint, draining })),
      sessions: sessions.filter(one => textOf(one.address) === address).map(one => {
        const handshake = numberOf(one.latestHandshake) ?? 0
        return {
          track: numberOf(one.track) ?? 0, inUse: one.inUse === true, publicKey: textOf(one.publicKey), endpoint: typeof one.endpoint === 'string' ? one.endpoint : null,
          // handshakes are told in whole seconds
          handshakeAgeMs: handshake === 0 ? null : Math.max(0, nowMs - handshake * 1000), rxBytes: numberOf(one.rxBytes) ?? 0, txBytes: numberOf(one.txBytes) ?? 0, pathMtu: numberOf(one.pathMtu)
        }
      })
    })),
    waiting: textsOf(detail.waiting), missing: textsOf(detail.missing), problems: [...facts.problems, ...textsOf(detail.problems)]
  }
}
