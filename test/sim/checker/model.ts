/**
 * What the checker itself believes, built from observations alone. It shares no code with the product:
 * where both are wrong in the same way nobody would notice.
 */
import {
  type Caller, type ExtensionFacts, type HostDescription, type HostFacts, type LeaseFacts, type Observation, type RunningFacts, type WorldDescription, Violation
} from '../observation.ts'

export type ObservationOf<T extends Observation['type']> = Extract<Observation, { type: T }>
export type CallMade = ObservationOf<'call'>
export type AnswerGiven = ObservationOf<'answer'>

/** How far a lease has come; what a host has told somebody can never be less. */
export const rankOf = (state: string): number => state === 'held' ? 1 : state === 'committed' ? 2 : state === 'active' ? 3 : 4
export const ENDED = 4

/** One lease as the checker follows it. */
export interface LeaseModel {
  readonly id: string
  readonly host: HostModel
  /** as last seen: in the ledger's memory, or what a loss of power leaves of it while the host is down */
  facts: LeaseFacts
  /** false once the ledger has it no more */
  there: boolean
  /** first seen, true time */
  readonly heldTrueMs: number
  readonly firstTtlMs: number
  /** since when its present time to live counts: hold, commit, or the last boot of the machine */
  countsFromMs: number
  /** as `countsFromMs`, at the latest: when the agent had read its ledger after a boot */
  countsLatestMs: number
  committedTrueMs: number
  endedTrueMs: number
  /** what answers that left the host have said of it, 0 for nothing */
  promised: number
  /** end that answers have promised */
  promisedEndMs: number
  promisedToken: number
  /** ended by a rule of the protocol, so its loss means nothing */
  over: boolean
  /** its ledger was lost with the disk */
  lost: boolean
  /** when somebody entitled has said that it ends; 0: nobody */
  releasedMs: number
  /** it alone was given back, while its cluster goes on */
  givenBack: boolean
}

export interface RunningModel { facts: RunningFacts, sinceMs: number, lease: LeaseModel | null }

export interface ClusterModel {
  readonly id: string
  /** host on which a user asked for it; '' for one that only strangers speak of */
  creator: string
  /** peer of the master of each epoch, as the world has seen it decided */
  readonly holders: Map<number, string>
  readonly leases: Set<LeaseModel>
}

export interface HostModel {
  readonly name: string
  readonly site: string
  readonly peer: string
  readonly description: HostDescription
  readonly malicious: boolean
  facts: HostFacts | null
  readonly leases: Map<string, LeaseModel>
  readonly extensions: Map<string, ExtensionFacts>
  readonly running: Map<string, RunningModel>
  up: boolean
  failed: boolean
  /** disk errors are being injected */
  failing: boolean
  /** when they last began or ended; 0: never */
  failingMs: number
  /** up and answering since, true ms; Infinity while it is not */
  readySinceMs: number
  /** counts starts of the agent */
  life: number
  /** raised whenever a lease or extension of it changes */
  changes: number
  bootTrueMs: number
  /** when its wall clock last jumped */
  jumpedMs: number
  /** offsets that its wall clock had before it was set, since its agent last ended */
  wallsMs: number[]
  /** it has booted, and its agent has not read its ledger since */
  booting: boolean
  /** when its state folder was lost; 0: never */
  ledgerLostMs: number
}

export interface Arrival { id: number, copy: number, atMs: number, call: CallMade, changesAtHost: number, life: number }

export interface LeaseChange {
  host: HostModel
  lease: LeaseModel
  before: LeaseFacts | null
  after: LeaseFacts | null
  /** the state was read from the disk: what was never answered may be gone, or be there after all */
  reread: boolean
}

export interface World {
  readonly description: WorldDescription
  readonly hosts: Map<string, HostModel>
  readonly byPeer: Map<string, HostModel>
  readonly sites: Map<string, HostModel[]>
  readonly clusters: Map<string, ClusterModel>
  readonly calls: Map<number, CallMade>
  nowMs: number
  healedMs: number
  lastChangeMs: number
}

/** Beginning of every run: what the checker compares is Unix ms, as leases have it. */
export const EPOCH_MS = 1_800_000_000_000
/** True time as observations have it: since the beginning of the run, or already Unix ms. */
export const unixMs = (trueMs: number): number => trueMs < EPOCH_MS / 2 ? trueMs + EPOCH_MS : trueMs
export const clockText = (trueMs: number): string => `+${((trueMs - EPOCH_MS) / 1000).toFixed(3)} s`

/** @throws Violation naming the invariant, where, when and what */
export function violated (world: World, invariant: string, where: string, what: string): never {
  throw new Violation(invariant, `${where} at ${clockText(world.nowMs)}: ${what}`)
}

export function createWorld (description: WorldDescription): World {
  const world: World = {
    description, hosts: new Map(), byPeer: new Map(), sites: new Map(), clusters: new Map(), calls: new Map(),
    nowMs: EPOCH_MS, healedMs: Number.POSITIVE_INFINITY, lastChangeMs: EPOCH_MS
  }
  for (const { site, malicious, hosts } of description.sites) {
    for (const one of hosts) {
      const host: HostModel = {
        name: one.host, site, peer: one.peer, description: one, malicious, facts: null, leases: new Map(), extensions: new Map(), running: new Map(),
        up: false, failed: false, failing: false, failingMs: 0, readySinceMs: Number.POSITIVE_INFINITY, life: 0, changes: 0, bootTrueMs: EPOCH_MS, jumpedMs: 0, wallsMs: [], booting: false, ledgerLostMs: 0
      }
      world.hosts.set(one.host, host)
      world.byPeer.set(one.peer, host)
      const list = world.sites.get(site)
      if (list === undefined) world.sites.set(site, [host])
      else list.push(host)
    }
  }
  return world
}

export function clusterOf (world: World, id: string): ClusterModel {
  let cluster = world.clusters.get(id)
  if (cluster === undefined) world.clusters.set(id, cluster = { id, creator: '', holders: new Map(), leases: new Set() })
  return cluster
}

export const isLive = (lease: LeaseModel): boolean => lease.there && lease.facts.state !== 'ended'

/** A field of a record of the product, whose shape is not taken for granted. */
export const field = (record: unknown, name: string): unknown => typeof record === 'object' && record !== null ? (record as Record<string, unknown>)[name] : undefined
export const textOf = (record: unknown, name: string): string => {
  const value = field(record, name)
  return typeof value === 'string' ? value : ''
}
export const numberOf = (record: unknown, name: string): number => {
  const value = field(record, name)
  return typeof value === 'number' ? value : 0
}
export const listOf = (record: unknown, name: string): readonly unknown[] => {
  const value = field(record, name)
  return Array.isArray(value) ? value : []
}

/** A gateway of the host's own site, or the host itself. */
export const isOwnGateway = (host: HostModel, caller: Caller): boolean => caller.site === host.site && (caller.gateway || caller.host === host.name)

/** What is worth reading in a message about a lease. */
export const leaseText = ({ id, kind, name, clusterId, state }: LeaseFacts): string => `${kind} ${name} of cluster ${clusterId.slice(0, 8)} (lease ${id}, ${state})`
