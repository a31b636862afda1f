/**
 * What the simulated world tells its checker: plain data, as seen from outside by somebody who knows
 * the true time, every disk, every wire and every engine. Nothing here is a type of the product, so
 * that the checker need not know any of its code; records of the product are handed over as they are
 * (`unknown` where only their JSON matters).
 *
 * All `...Ms` called `trueMs` are true time, which no host knows, in ms since the beginning of the run;
 * all others are of the ledger clock of the host that they belong to, Unix ms. A clock without error
 * shows EPOCH_MS of kernel/clock.ts and `trueMs`.
 * SETTLED BY D1 at 20:16, I change it no more: trueMs begins with 0; of an `answer`, `from` is who answers and `to` who had called.
 */

export interface ResourceFacts { vcpus: number, memoryMib: number, diskMib: number, volumes: number, bandwidthMbit: number, nodes?: number }

export interface HostDescription {
  site: string
  host: string
  /** as the mesh proves it of whoever calls: `peer-<host>` */
  peer: string
  gateway: boolean
  capacity: ResourceFacts
  /** segment ids that it may give out, both ends included; null unless it is a gateway */
  slice: { from: number, to: number } | null
  /** rate error of its crystal, parts per million */
  ratePpm: number
}

export interface SiteDescription {
  site: string
  /** everything that it sends may be forged, stale or malformed; nothing is promised to it */
  malicious: boolean
  hosts: HostDescription[]
}

/** What the checker may hold against what it sees. */
export interface WorldBounds {
  holdTtlMs: number
  activateTtlMs: number
  /** how long what has ended may run on */
  endGuardMs: number
  /** how long a segment id that was in use rests */
  idQuarantineMs: number
  keepAliveMs: number
  masterlessMs: number
  /** how far a ledger clock may be off another over a true duration: share of the duration */
  clockRate: number
  /** ms by which a step of a ledger clock at (re)start may be off the true time, beside injected jumps */
  clockGrainMs: number
  /** from agent to helper, longest */
  helperDelayMs: number
  /** longest a due agent goes without a tick while it is up and its disk works, true ms */
  tickMs: number
  /** within which after `heal` everything must have converged, true ms */
  convergeMs: number
}

/**
 * Disks as a loss of power at this very moment would leave them at worst: only what is synced. Pulled
 * by the checker when an answer leaves, so it costs nothing otherwise. Null: there is no such record.
 */
export interface DiskView {
  lease (host: string, leaseId: string): LeaseFacts | null
  /** whether the answer of a hold is kept under its idempotency key */
  replay (host: string, key: string): unknown
  /** the document that a host runs a cluster with; absent: it is not looked at */
  document? (host: string, clusterId: string): unknown
  /** the copy of a decision that a host keeps for another one of its site; absent: it is not looked at */
  copy? (host: string, clusterId: string): unknown
  /** the gateway's record of a cluster */
  gatewayRecord (host: string, clusterId: string): unknown
  /** the ledger's counter */
  counter (host: string): number
}

export interface WorldDescription { seed: number, sites: SiteDescription[], bounds: WorldBounds, disks: DiskView }

export interface LeaseFacts {
  id: string, offerId: string, clusterId: string, cluster: string, kind: string, name: string
  resources: ResourceFacts
  segmentId: number
  masterSite: string, masterPeer: string, requester: string
  state: string
  startMs: number, endMs: number, ttlMs: number, deadlineMs: number
  /** when an advance reservation ends unless its master is heard of shortly before; 0: needs no confirmation (any more) */
  confirmByMs: number
  token: number, heldToken: number, commitToken: number
  activatedMs: number, endedMs: number, endReason: string
  vacated: boolean
  /** the end before a notice of its lender, and the number of that */
  formerEndMs?: number, noticeSeq?: number
}

/** A later end for leases of one cluster, as the ledger keeps it. */
export interface ExtensionFacts {
  clusterId: string, offerId: string, key: string, requester: string
  /** `held`, `committed` or `ended` */
  state: string
  endMs: number
  leases: ReadonlyArray<{ id: string, formerEndMs: number }>
  ttlMs: number, deadlineMs: number, token: number, endedMs: number
}

/** What the helper's fence keeps of one resource, on its disk. */
export interface FenceFacts { resource: string, state: string, clusterId: string, counter: number, endMs: number }

/** One thing that really runs on a host, whoever knows of it. */
export interface RunningFacts {
  /** as the fence names it, `<kind> <name>` */
  resource: string
  kind: string
  clusterId: string
  /** lease under which the document puts it here; '' for what belongs to the whole cluster on this host (tunnel, cache) */
  leaseId: string
  /** what it takes of the host while it runs */
  resources: ResourceFacts
  /** plugged id; 0 unless it is a segment */
  segmentId: number
  /** counter of the command that started it */
  counter: number
  sinceTrueMs: number
}

/** Everything of one host, after an event that changed any of it. Lists are shared and never changed later. */
export interface HostFacts {
  site: string, host: string
  /** the agent's process is there and its ledger open */
  up: boolean
  /** the ledger answers nothing until its disk works again */
  failed: boolean
  capacity: ResourceFacts
  slice: { from: number, to: number } | null
  /** lent at most by this host, by the master's site; `whole`: by all gateways of its site together */
  quotas: Array<{ masterSite: string, resources: ResourceFacts, whole?: ResourceFacts }>
  /** the ledger's resource counter; in memory while up, as a crash would leave it at worst while down */
  counter: number
  /** of the ledger clock at its last event */
  clockMs: number
  leases: readonly LeaseFacts[]
  extensions: readonly ExtensionFacts[]
  /** highest epoch known by cluster, and its holder's peer */
  epochs: ReadonlyArray<{ clusterId: string, epoch: number, holder: string }>
  fence: readonly FenceFacts[]
  running: readonly RunningFacts[]
  bootId: string
  /** ledger clock minus true time now, ms; null while down */
  ledgerOffMs: number | null
  /** wall clock minus true time now, ms, as injected */
  wallOffMs: number
  /** |ledger clock - true time| is at most this by what was injected so far */
  clockErrorMs: number
}

export interface Caller { peerId: string, site: string | null, host: string, gateway: boolean }

export type Observation =
  /** facts of a host have changed (or it is the first time) */
  | { type: 'host', trueMs: number, facts: HostFacts }
  /** a call leaves a process; `id` is unique in the run. Copies that the network makes of it are not told */
  | { type: 'call', trueMs: number, id: number, from: string, to: string, caller: Caller, method: string, request: unknown, forged: boolean }
  /** a copy of a call arrives at a process that is up; `copy` counts the copies from 1 */
  | { type: 'arrive', trueMs: number, id: number, copy: number, from: string, to: string, method: string }
  /** an answer leaves the process `from` for whoever called, `to`: exactly one of `reply`, `error`. Told whether or not it will arrive */
  | { type: 'answer', trueMs: number, id: number, copy: number, from: string, to: string, method: string, request: unknown, caller: Caller, reply: unknown, error: { code: string, message: string } | null }
  /** the master's record of a cluster as it is safe on its disk from now on; null: deleted */
  | { type: 'decision', trueMs: number, site: string, host: string, clusterId: string, record: unknown }
  /** the agent told the helper something; it arrives later, even when the agent has died */
  | { type: 'command', trueMs: number, host: string, command: 'grant' | 'revoke', resource: string, clusterId: string, counter: number, endMs: number }
  /** the helper took it or not, and what the engine then did; the host's facts follow */
  | { type: 'helper', trueMs: number, host: string, command: 'grant' | 'revoke' | 'expire', resource: string, clusterId: string, counter: number, accepted: boolean, why: string }
  /** `kill`: the agent's process only; `power`: agent, helper and engine, nothing runs afterwards */
  | { type: 'crash', trueMs: number, host: string, how: 'kill' | 'power', at: string, lostBatches: number }
  | { type: 'boot', trueMs: number, host: string, bootId: string, newBoot: boolean }
  /** a host's state folder is gone; the operator has declared it */
  | { type: 'disk-lost', trueMs: number, host: string }
  | { type: 'disk-failing', trueMs: number, host: string, errno: 'ENOSPC' | 'EIO' | null }
  | { type: 'clock-jump', trueMs: number, host: string, byMs: number }
  | { type: 'partition', trueMs: number, what: string }
  /** operators act on one host; `refused`: the code it got, '' when it was done */
  | { type: 'operator', trueMs: number, host: string, action: 'create' | 'accept' | 'delete' | 'extend' | 'grow' | 'shrink' | 'revoke' | 'adopt' | 'force-adopt' | 'cordon' | 'uncordon' | 'confirm-gone' | 'notice' | 'withdraw', clusterId: string, detail: string, refused: string }
  /** faults have stopped: from here on everything must converge within `bounds.convergeMs` */
  | { type: 'heal', trueMs: number }

/** Thrown by the checker: names the invariant as in docs/lease-protocol.md. */
export class Violation extends Error {
  override readonly name = 'Violation'
  readonly invariant: string
  constructor (invariant: string, message: string) {
    super(`${invariant}: ${message}`)
    this.invariant = invariant
  }
}

export interface Checker {
  /** @throws Violation */
  observe (observation: Observation): void
  /**
   * The run is over, `convergeMs` after heal at the latest.
   *
   * @returns true ms from `heal` until the last change that convergence asked for
   * @throws Violation when it has not converged
   */
  end (trueMs: number): { convergedMs: number }
}

/** Exported by `checker/checker.ts`. */
export type CreateChecker = (world: WorldDescription) => Checker
