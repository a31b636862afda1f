import type { ClusterNotes } from './record.ts'
import { describeError } from '../../protocol/core/errors.ts'
import type { MasterRecord } from '../../protocol/core/master/record.ts'

/** Looks across the segment from the master's gateway; sets firstPingMs and mtuInner. @returns whether something changed */
export type Probe = (record: MasterRecord, notes: ClusterNotes, now: () => number) => Promise<boolean>

/** Inner packet sizes to try, largest first: Ethernet, VXLAN over Ethernet, over WireGuard, the IPv6 minimum. */
const SIZES = [1500, 1450, 1370, 1280]
/** A single packet may be lost, and what is found is kept. */
const TRIES = 3

/** Asks somebody on a segment for an answer; `size`: bytes of the inner IP packet, which must not be broken up. */
export type SegmentPing = (vni: number, address: string, size?: number) => Promise<{ ok: boolean, why: string }>

/**
 * Pings the other gateways' own addresses on the segment, first any packet, then the largest that
 * passes unfragmented inside. A cluster at one site alone has nobody to ping: its own bridge counts.
 */
export function createProbe (segmentPing: SegmentPing, log: { debug: (data: object, message: string) => void }): Probe {
  const ping = async (record: MasterRecord, address: string, size?: number): Promise<boolean> => {
    const { ok, why } = await segmentPing(record.vni, address, size).catch((error: unknown) => ({ ok: false, why: describeError(error) }))
    if (!ok) log.debug({ cluster: record.name, address, error: why }, 'no answer across the segment')
    return ok
  }
  return async (record, notes, now) => {
    const document = record.document
    if (document === null) return false
    const far = document.sites.filter(s => s.site !== document.masterSite)
    const targets = (far.length > 0 ? far : document.sites).map(s => s.gatewayAddress)
    const answers = await Promise.all(targets.map(t => ping(record, t)))
    if (!answers.every(Boolean)) return false
    notes.firstPingMs ??= Math.round(now() - record.createdMs)
    const passes = async (target: string, size: number): Promise<boolean> => {
      for (let i = 0; i < TRIES; i++) if (await ping(record, target, size)) return true
      return false
    }
    for (const size of SIZES) {
      const passed = await Promise.all(targets.map(t => passes(t, size)))
      if (passed.every(Boolean)) { notes.mtuInner = size; break }
    }
    return true
  }
}

/** With fake drivers there is no segment to ping. */
export const noProbe: Probe = () => Promise.resolve(false)
