/** What every process of the world shares: who is where, what sites see of each other, certificates that nobody can forge. */
import { InvalidInputError } from '../../../protocol/core/errors.ts'
import { buildClusterDocument } from '../../../protocol/core/document.ts'
import { documentSource } from '../../../protocol/core/master/changes/growth.ts'
import type { KnownSite } from '../../../protocol/core/master/events.ts'
import type { MasterRecord } from '../../../protocol/core/master/record.ts'
import type { PolicyDocument } from '../../../protocol/policy-api.ts'
import type { Quotas } from '../../../protocol/core/lease/state.ts'
import type { ClusterDocument, EpochGrant, GatewayFacts, Grant, Secret } from '../../../protocol/core/messages.ts'
import type { SiteCalendar } from '../../../protocol/core/calendar/together.ts'
import type { SiteHost } from '../../../protocol/core/gateway/events.ts'
import type { GatewayTruth, HostTruth } from '../../../protocol/core/verify/document.ts'
import type { EventLog } from '../../../agent/events.ts'
import type { Network } from '../kernel/network.ts'
import type { Operation } from '../kernel/disk.ts'
import { hash128 } from '../kernel/prng.ts'
import type { Observation } from '../observation.ts'
import type { Config, HostPlan } from './config.ts'
import type { Machine } from './machine.ts'

export interface Surroundings {
  readonly config: Config
  readonly network: Network
  readonly machines: ReadonlyMap<string, Machine>
  readonly plans: ReadonlyMap<string, HostPlan>
  readonly events: EventLog
  readonly log: never
  uuid (): string
  /** what a gateway believes of its hosts */
  siteHosts (site: string): SiteHost[]
  /** what hosts that answer have free over time */
  calendarOf (site: string): SiteCalendar
  /** what a master believes of all sites */
  knownSites (viewer: HostPlan): KnownSite[]
  quotasOf (plan: HostPlan): Quotas
  /** of every site; null: none */
  policy: PolicyDocument | null
  prepare (plan: HostPlan, record: MasterRecord): Promise<{ document: ClusterDocument, secrets: Secret[] }>
  /** other hosts of its site that are there, as the directory knows them */
  targets (machine: Machine): Array<{ host: string, peer: string, gateway: boolean }>
  observe (observation: Observation): void
  /** something happened that counts as an event */
  activity (): void
  /** for the trace */
  note (host: string, text: string): void
  fault (kind: string): void
  operated (action: string, refused: string): void
  crash (machine: Machine, how: 'kill' | 'power', at: string): void
  durable (machine: Machine, operations: readonly Operation[]): void
  healed (): boolean
}

const tunnelAddress = (peer: string): string => {
  const n = Number.parseInt(hash128(peer).slice(0, 6), 16)
  return `100.64.${(n >>> 8) & 0xff}.${n & 0xff}`
}
/** Characters of base64 that every WireGuard key ends with are such that the last two bits are zero. */
const tunnelKeys = new Map<string, string>()
function tunnelKey (peer: string): string {
  let key = tunnelKeys.get(peer)
  if (key === undefined) tunnelKeys.set(peer, key = Buffer.from(hash128(peer) + hash128(`${peer}!`), 'hex').toString('base64'))
  return key
}

export const TUNNEL_PORT = 51820

export const gatewayFacts = (plan: HostPlan): GatewayFacts => ({
  host: plan.host, peer: plan.peer, underlayAddress: plan.underlayAddress, tunnelPublicKey: tunnelKey(plan.peer),
  tunnelEndpoint: `${plan.underlayAddress}:${TUNNEL_PORT}`, tunnelAddress: tunnelAddress(plan.peer), chain: []
})

export function truthFor (around: Surroundings, { plan }: Machine): HostTruth & GatewayTruth {
  return {
    isGatewayOf: (peer, site, host) => {
      const known = around.plans.get(host)
      return known !== undefined && known.peer === peer && known.site === site && known.gateway
    },
    tunnelAddressFor: tunnelAddress, peer: plan.peer, underlayAddress: plan.underlayAddress, tunnelEndpoint: `${plan.underlayAddress}:${TUNNEL_PORT}`,
    addressOf: host => { const known = around.plans.get(host); return known !== undefined && known.site === plan.site ? known.underlayAddress : null }
  }
}

/** A grant that only the named signer can make: its name stands where a signature would. */
interface Sealed { signer: string, document: EpochGrant }

export const signGrant = (plan: Pick<HostPlan, 'peer'>, document: EpochGrant): Grant => ({
  envelope: Buffer.from(JSON.stringify({ signer: plan.peer, document } satisfies Sealed)), chain: []
})

/**
 * As protocol/mesh/trust/grant.ts reads them: signed by the anchor of the master's site, where it is known, and about this cluster.
 *
 * @throws InvalidInputError when it is none
 */
export function holderOf (around: Surroundings, grant: Grant, about: { clusterId: string, masterSite: string, anchor: string }): { epoch: number, peer: string } {
  const { signer, document } = JSON.parse(Buffer.from(grant.envelope).toString()) as Sealed
  const known = around.plans.get(document.host)
  const fine = known !== undefined && known.peer === signer && known.site === document.site &&
    document.clusterId === about.clusterId && document.site === about.masterSite && (about.anchor === '' || document.host === about.anchor)
  if (!fine) throw new InvalidInputError(`the grant of epoch ${document.epoch} is refused`)
  return { epoch: document.epoch, peer: document.holder }
}

/** Document and secrets, as agent/master/build.ts makes them, without keys and images. */
export function documentOf (plan: HostPlan, record: MasterRecord): { document: ClusterDocument, secrets: Secret[] } {
  const document = buildClusterDocument({
    ...documentSource(record), id: record.id, name: record.name, vni: record.vni, nowMs: record.createdMs, startMs: record.startMs, endMs: record.endMs, epoch: record.epoch,
    imageDigest: record.imageDigest, masterSite: plan.site, masterPeer: plan.peer, sshPublicKey: 'ssh-ed25519 AAAA', hash: hash128
  })
  return {
    document,
    secrets: document.volumes.map(({ name }) => ({ name, user: `user-${record.id}.${name}`, secret: 'secret' }))
  }
}
