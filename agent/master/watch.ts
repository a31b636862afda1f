import { setTimeout as sleep } from 'node:timers/promises'
import type { Logger } from 'pino'
import type { CallPeer, HostStatus } from '../peers.ts'
import type { EventLog } from '../events.ts'
import type { Probe } from './probe.ts'
import type { ClusterNotes } from './record.ts'
import { foldStatus, pausedCaches } from './view.ts'
import { describeError } from '../../protocol/core/errors.ts'
import type { MasterRecord } from '../../protocol/core/master/record.ts'

const POLL_BUILDING_MS = 500
const POLL_READY_MS = 3_000
const STATUS_DEADLINE_MS = 6_000
const PING_DEADLINE_MS = 2_000

export interface WatcherDeps {
  site: string
  call: CallPeer
  events: Pick<EventLog, 'add'>
  log: Logger
  now: () => number
  monotonic: () => number
  probe: Probe
  get: (id: string) => MasterRecord | undefined
  notesOf: (id: string) => ClusterNotes
  /** keeps the notes; must not throw */
  keep: (notes: ClusterNotes) => void
}

/** Looks after what people want to know of active clusters: phases, first ping, readiness. */
export interface Watcher {
  /** Begins to watch a cluster, unless it does; ends when the cluster is no longer active. */
  watch (id: string): void
  statuses (id: string): readonly HostStatus[]
  forget (id: string): void
  /** The slowest answer among gateways, ms, for the figures of a negotiation. */
  measure (peers: readonly string[], clusterId: string): Promise<number>
  /** Of one gateway, ms; null when it does not answer in time. */
  rttMs (peer: string, clusterId: string): Promise<number | null>
  stop (): Promise<void>
}

export function createWatcher (deps: WatcherDeps): Watcher {
  const { call, events, log } = deps
  const statuses = new Map<string, HostStatus[]>()
  /** sites whose caches are known to wait, by cluster */
  const paused = new Map<string, Set<string>>()
  const loops = new Map<string, Promise<void>>()
  const abort = new AbortController()
  const pause = (ms: number): Promise<void> => sleep(ms, undefined, { signal: abort.signal }).catch(() => undefined)

  async function poll (record: MasterRecord): Promise<HostStatus[]> {
    const replies = await Promise.all(record.offers.map(async (offer): Promise<HostStatus[]> => {
      const started = deps.monotonic()
      try {
        const { hosts } = await call(offer.gateway.peer, 'status', { clusterId: record.id }, { deadlineMs: STATUS_DEADLINE_MS })
        // A site speaks for its own hosts only, and for those that take part.
        return hosts.filter((h, i) => h.site === offer.site && offer.held.some(held => held.host === h.host) && hosts.findIndex(other => other.host === h.host) === i)
      } catch (error) {
        log.debug({ site: offer.site, error: describeError(error), ms: Math.round(deps.monotonic() - started) }, 'no status from site')
        return [{ site: offer.site, host: offer.gateway.host, leaseState: '', objects: [], reachable: false, nowMs: 0 }]
      }
    }))
    return replies.flat()
  }

  async function look (record: MasterRecord): Promise<void> {
    const notes = deps.notesOf(record.id)
    const hosts = await poll(record)
    statuses.set(record.id, hosts)
    const before = structuredClone(notes)
    let changed = foldStatus(record, notes, hosts, deps.now())
    for (const [node, phases] of Object.entries(notes.phases)) {
      if (phases.ready !== null && before.phases[node]?.ready == null) events.add('node.ready', `${node} is ready`, record.name)
    }
    if (notes.firstPingMs === null || notes.mtuInner === 0) changed = await deps.probe(record, notes, deps.now) || changed
    const stopped = pausedCaches(hosts)
    for (const [site, why] of stopped) {
      if (paused.get(record.id)?.has(site) !== true) events.add('cache.paused', `the cache at ${site} fetches nothing before nodes ask: ${why}`, record.name)
    }
    paused.set(record.id, new Set(stopped.keys()))
    const health = healthOf(record, notes, hosts)
    if (health !== notes.health) {
      notes.health = health
      if (health !== 'building') notes.readyMs ??= deps.now()
      events.add('cluster.state', `${record.name}: ${health}`, record.name)
    }
    if (changed || health !== before.health) deps.keep(notes)
  }

  async function loop (id: string): Promise<void> {
    for (let record = deps.get(id); record?.state === 'active' && !abort.signal.aborted; record = deps.get(id)) {
      try {
        await look(record)
      } catch (error) {
        log.warn({ cluster: record.name, error: describeError(error) }, 'a cluster could not be looked at')
      }
      await pause(deps.notesOf(id).health === 'ready' ? POLL_READY_MS : POLL_BUILDING_MS)
    }
  }

  async function ping (peer: string, clusterId: string): Promise<number | null> {
    try {
      await call(peer, 'status', { clusterId }, { deadlineMs: PING_DEADLINE_MS }) // connects
      const started = deps.monotonic()
      await call(peer, 'status', { clusterId }, { deadlineMs: PING_DEADLINE_MS })
      return deps.monotonic() - started
    } catch {
      return null
    }
  }

  return {
    watch (id) {
      if (loops.has(id) || abort.signal.aborted) return
      loops.set(id, loop(id).finally(() => {
        loops.delete(id)
        // It may have become active again, by adoption, between the last look and now.
        if (deps.get(id)?.state === 'active') this.watch(id)
      }))
    },
    statuses: id => statuses.get(id) ?? [],
    forget (id) { statuses.delete(id); paused.delete(id) },
    rttMs: ping,
    async measure (peers, clusterId) {
      // a site that does not answer is found out by the request itself
      const times = (await Promise.all(peers.map(peer => ping(peer, clusterId)))).map(ms => ms ?? 0)
      return Math.round(Math.max(0, ...times) * 10) / 10
    },
    async stop () {
      abort.abort()
      await Promise.allSettled(loops.values())
    }
  }
}

/** Ready when all nodes are; degraded when what was ready no longer runs or does not answer. */
function healthOf (record: MasterRecord, notes: ClusterNotes, hosts: readonly HostStatus[]): ClusterNotes['health'] {
  const nodes = record.document?.nodes ?? []
  const allReady = nodes.length > 0 && nodes.every(n => (notes.phases[n.name]?.ready ?? null) !== null)
  if (!allReady) return 'building'
  const broken = hosts.some(h => !h.reachable || h.objects.some(o => o.state !== 'ok'))
  return broken ? 'degraded' : 'ready'
}
