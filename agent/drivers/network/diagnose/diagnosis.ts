import { isIPv4 } from 'node:net'
import { join } from 'node:path'
import { clusterNamespace, type SegmentSpec, type TunnelSpec } from '../../../../protocol/core/desired.ts'
import { ConflictError, NotFoundError } from '../../../../protocol/core/errors.ts'
import { LOCAL } from '../../../../protocol/core/network/local.ts'
import type { ServiceManager } from '../../../services.ts'
import type { Echo, SegmentFacts } from '../../../diagnose/facts.ts'
import { lookAtForwarding } from '../forward/forwarding.ts'
import { lookAtSnooping } from '../snoop/snooping.ts'
import { createRecords } from '../records.ts'
import { bareAddress } from '../tunnel/wireguard.ts'
import { capture, type Captured, type CaptureRequest } from './capture.ts'
import { echo, largestEcho, SMALL_BYTES } from './echo.ts'
import { lookAtSegment, splitEndpoint, type Asked } from './look.ts'

/** From where: the cluster's namespace, into the tunnel, or on the underlay. */
export type EchoWhere = 'segment' | 'tunnel' | 'underlay'
export interface EchoAsked { name: string, where: EchoWhere, address: string, bytes: number, count: number, largest: boolean }

/** What is asked of segments when something is wrong; it changes nothing. Names are of objects, or of clusters; `CLUSTER.local` is the segment that does not leave the site. */
export interface Diagnosis {
  /** @param gatewayAddress on the segment: asked by hosts that have no address there  @throws NotFoundError, ConflictError */
  look (name: string, gatewayAddress: string | null, signal: AbortSignal): Promise<SegmentFacts>
  /** @throws NotFoundError also for an address that the segment has nothing to do with */
  echo (asked: EchoAsked, signal: AbortSignal): Promise<{ echo: Echo, largestBytes: number | null }>
  capture (name: string, request: CaptureRequest, signal: AbortSignal): Promise<Captured>
}

/** @param options.stateDir folder of the records that the drivers of segments and tunnels keep; only read; `options.services`: what runs here */
export function createDiagnosis ({ stateDir, services }: { stateDir: string, services: ServiceManager }): Diagnosis {
  const segments = createRecords<SegmentSpec>(join(stateDir, 'segments'))
  const tunnels = createRecords<TunnelSpec>(join(stateDir, 'tunnels'))

  async function find (name: string): Promise<Asked> {
    const all = await segments.all()
    const ofSite = `.${LOCAL}`
    const called = (object: string, cluster: string): string => `${cluster}${object.endsWith(ofSite) ? ofSite : ''}`
    const found = all.has(name) ? [name] : [...all].filter(([object, { cluster }]) => called(object, cluster) === name).map(([object]) => object)
    const [one, ...others] = found
    const spec = one === undefined ? undefined : all.get(one)
    if (one === undefined || spec === undefined) throw new NotFoundError(`this host carries no segment of "${name}"`, all.size === 0 ? 'it carries none at all' : `it carries those of ${[...all].map(([object, { cluster }]) => called(object, cluster)).sort().join(', ')}`)
    if (others.length > 0) throw new ConflictError(`several clusters here are called "${name}"`, `say which, by its object: ${found.join(', ')}`)
    return { name: one, spec, tunnel: spec.gateway?.tunnel == null ? null : (await tunnels.all()).values().next().value ?? null }
  }

  /** Pings of the host itself go to members of the segment and to nobody else. */
  function mustBeMember ({ name, spec, tunnel }: Asked, where: EchoWhere, address: string): void {
    const peers = tunnel?.peers ?? []
    const members = where === 'tunnel' ? peers.map(peer => bareAddress(peer.address)) : [...spec.site.remoteAddresses, ...peers.flatMap(({ endpoint, tracks = [] }) => [endpoint, ...tracks.map(track => track.endpoint)]).map(endpoint => splitEndpoint(endpoint).address)]
    if (!members.includes(address)) throw new NotFoundError(`${address} is no address of the ${where} of ${name}`)
  }

  return {
    async look (name, gatewayAddress, signal) {
      const asked = await find(name)
      return await lookAtSegment(asked, gatewayAddress, (space) => lookAtForwarding(stateDir, services, space), await lookAtSnooping(stateDir, services, asked.spec, signal), signal)
    },
    async echo ({ name, where, address, bytes, count, largest }, signal) {
      const asked = await find(name)
      if (where === 'segment') {
        if (asked.spec.gateway === undefined || !isIPv4(address)) throw new ConflictError(`this host is not the gateway of ${name}: it has no address on the segment`, 'run it on the gateway')
      } else mustBeMember(asked, where, address)
      const from = where === 'segment' ? { netns: clusterNamespace(asked.spec.vni), address } : { address }
      const answer = await echo({ ...from, bytes, count }, signal)
      if (answer.received > 0 || !largest) return { echo: answer, largestBytes: answer.received > 0 ? bytes : null }
      // that nobody is there at all is told by a small one, and soon
      const small = await echo({ ...from, bytes: SMALL_BYTES, count: 2 }, signal)
      return { echo: small.received > 0 ? { ...answer, rttMs: small.rttMs } : answer, largestBytes: small.received > 0 ? await largestEcho(from, bytes, small, signal) : null }
    },
    capture: async (name, request, signal) => await capture((await find(name)).spec, request, signal)
  }
}
