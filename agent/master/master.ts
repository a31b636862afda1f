import { setTimeout as sleep } from 'node:timers/promises'
import type { Logger } from 'pino'
import type { CallPeer, HostStatus } from '../peers.ts'
import type { EventLog } from '../events.ts'
import type { Store } from '../../store/store.ts'
import type { ClusterResource } from '../../protocol/api.ts'
import type { Probe } from './probe.ts'
import { KEEP_ENDED_MS, isEnded, noPhases, type ClusterRecord } from './record.ts'
import { negotiate, releaseAll, repeated, type KnownSite, type NegotiationDeps } from './negotiate.ts'
import { clusterView, foldStatus } from './view.ts'
import type { Builder } from './build.ts'
import { parseClusterSpec, type ClusterSpec } from '../../protocol/core/spec.ts'
import { placeAmongSites } from '../../protocol/core/spread.ts'
import { ConflictError, describeError, errorCode, MusubiError, NoCapacityError, NotFoundError } from '../../protocol/core/errors.ts'
import { ACTIVATE_TTL_MS, MAX_CLUSTERS, MAX_ENDED_KEPT } from '../../protocol/core/limits.ts'
import type { GatewayTruth } from '../../protocol/core/verify.ts'

export interface MasterDeps {
  site: string
  call: CallPeer
  sites: () => KnownSite[]
  store: Store
  events: EventLog
  log: Logger
  now: () => number
  monotonic: () => number
  newId: () => string
  builder: Builder
  probe: Probe
  /** what is known of gateways whatever offers say */
  truth: GatewayTruth
}

export interface Master {
  create (spec: unknown): Promise<ClusterResource>
  /** Where it would go now; holds nothing. @throws NoCapacityError */
  plan (spec: unknown): { explanation: string }
  list (): ClusterResource[]
  /** By name (the latest of that name) or id. @throws NotFoundError */
  get (nameOrId: string): ClusterResource
  record (nameOrId: string): ClusterRecord
  remove (nameOrId: string): Promise<ClusterResource>
  /** Takes up what an earlier process left, in any state. */
  resume (): Promise<void>
  stop (): Promise<void>
}

const PREFIX = 'cluster/'
const POLL_BUILDING_MS = 500
const POLL_READY_MS = 3_000
const ACTIVATE_DEADLINE_MS = 15_000
/** A gateway that restarts is back by then; committed leases live twice as long. */
const ACTIVATE_PATIENCE_MS = ACTIVATE_TTL_MS / 2
/** Told to let go when a cluster fails: people wait for the error, the rest is done behind it. */
const FAIL_RELEASE_MS = 5_000
const STATUS_DEADLINE_MS = 6_000
const RETRY_MS = 2_000
/** Without a document nothing was ever activated: what a site still holds ends by itself within T_activate, and a message under way. */
const NEVER_ACTIVE_MS = ACTIVATE_TTL_MS + 15_000
const PRUNE_MS = 10 * 60_000

/** The master of clusters: asks, decides, activates, watches, deletes; everything resumable from disk. */
export function createMaster (deps: MasterDeps): Master {
  const { store, events, log, call } = deps
  const records = new Map<string, ClusterRecord>()
  const statuses = new Map<string, HostStatus[]>()
  const loops = new Map<string, Promise<void>>()
  /** ends the pauses of a cluster's loop when it is to be deleted */
  const deletions = new Map<string, AbortController>()
  const abort = new AbortController()

  const save = (record: ClusterRecord): Promise<void> => store.put(PREFIX + record.id, record, { sync: true })
  const view = (record: ClusterRecord): ClusterResource => clusterView(record, statuses.get(record.id) ?? [])

  /** A cluster that is being deleted goes nowhere else. @returns false then */
  async function advance (record: ClusterRecord, state: ClusterRecord['state'], message: string): Promise<boolean> {
    if (record.state === 'deleting') return false
    await setState(record, state, message)
    return true
  }

  async function setState (record: ClusterRecord, state: ClusterRecord['state'], message: string): Promise<void> {
    const before = record.state
    record.state = state
    try {
      await save(record)
    } catch (error) {
      // What is not on the disk has not happened: it is tried again from where it was.
      if (record.state === state) record.state = before
      throw error
    }
    events.add('cluster.state', `${record.name}: ${state}${message === '' ? '' : `, ${message}`}`, record.name)
  }

  function find (nameOrId: string): ClusterRecord {
    const byId = records.get(nameOrId)
    if (byId !== undefined) return byId
    const named = [...records.values()].filter(r => r.name === nameOrId).sort((a, b) => Number(isEnded(a.state)) - Number(isEnded(b.state)) || b.createdMs - a.createdMs)
    const found = named[0]
    if (found === undefined) throw new NotFoundError(`there is no cluster "${nameOrId}" here`, 'see: musubi cluster list; a cluster is shown at the site that is its master')
    return found
  }

  const negotiation = (record: ClusterRecord): NegotiationDeps => ({
    site: deps.site, call, sites: deps.sites, monotonic: deps.monotonic, newId: deps.newId, truth: deps.truth, log, save,
    progress: message => { events.add('cluster.progress', `${record.name}: ${message}`, record.name) }
  })

  async function fail (record: ClusterRecord, error: unknown): Promise<void> {
    const hint = error instanceof MusubiError ? error.hint : undefined
    record.error = { code: errorCode(error), message: describeMessage(error), ...(hint === undefined ? {} : { hint }) }
    log.error({ cluster: record.name, error: describeError(error) }, 'cluster failed')
    await finishFailure(record)
  }

  async function finishFailure (record: ClusterRecord): Promise<void> {
    await releaseAll(deps, record, 'the cluster failed', FAIL_RELEASE_MS)
    await deps.builder.forget(record)
    if (await advance(record, 'failed', record.error?.message ?? '')) await finishRelease(record)
  }

  /** A failed cluster may still run where the master's word has not arrived: it is said again until it has. */
  async function finishRelease (record: ClusterRecord): Promise<void> {
    const untilMs = record.document === null ? deps.now() + NEVER_ACTIVE_MS : record.endMs
    while (record.asked.length > 0 && record.state === 'failed' && !abort.signal.aborted && deps.now() < untilMs) {
      await pause(record, RETRY_MS)
      await releaseAll(deps, record, 'the cluster failed')
      await save(record)
    }
  }

  async function activate (record: ClusterRecord): Promise<void> {
    await deps.builder.prepare(record)
    if (!await advance(record, 'activating', `${record.receipts.length} leases at ${record.offers.length} sites committed in ${record.negotiateMs} ms`)) return
    if (record.document === null) throw new MusubiError('INTERNAL', 'a cluster without a document cannot be activated')
    const { id: clusterId, document, receipts } = record
    const failed = new AbortController()
    const untilMs = deps.monotonic() + ACTIVATE_PATIENCE_MS
    const results = await Promise.allSettled(record.offers.map(async offer => {
      try {
        await repeated(deps.monotonic, untilMs, async leftMs => {
          if (record.state === 'deleting') return
          // A site learns the secrets of the volumes that it has, no others.
          const secrets = record.secrets.filter(secret => document.volumes.some(volume => volume.site === offer.site && volume.name === secret.name))
          await call(offer.gateway.peer, 'activate', { clusterId, document, receipts, secrets }, { deadlineMs: Math.min(ACTIVATE_DEADLINE_MS, leftMs) })
        }, AbortSignal.any([abort.signal, failed.signal]))
      } catch (error) {
        failed.abort()
        throw new MusubiError(errorCode(error), `site ${offer.site} could not activate its leases: ${describeMessage(error)}`, { hint: 'nothing is kept; ask again', cause: error })
      }
    }))
    for (const result of results) if (result.status === 'rejected') throw result.reason
    await advance(record, 'building', '')
  }

  async function poll (record: ClusterRecord): Promise<HostStatus[]> {
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

  /** Keeps looking until the cluster ends: phases, first ping, readiness, the end of the term. */
  async function watch (record: ClusterRecord): Promise<void> {
    while (!abort.signal.aborted && !isEnded(record.state) && record.state !== 'deleting') {
      if (deps.now() >= record.endMs) { await remove(record.id); return }
      const hosts = await poll(record)
      statuses.set(record.id, hosts)
      const before = structuredClone(record.phases)
      let changed = foldStatus(record, hosts, deps.now())
      for (const [node, phases] of Object.entries(record.phases)) {
        if (phases.ready !== null && before[node]?.ready == null) events.add('node.ready', `${node} is ready`, record.name)
      }
      if (record.firstPingMs === null || record.mtuInner === 0) changed = await deps.probe(record, deps.now) || changed
      const state = nextState(record, hosts)
      if (state !== record.state) {
        if (state !== 'building') record.readyMs ??= deps.now()
        await setState(record, state, '')
      } else if (changed) await save(record)
      await pause(record, record.state === 'ready' ? POLL_READY_MS : POLL_BUILDING_MS)
    }
  }

  const stopOf = (record: ClusterRecord): AbortController => {
    const stop = deletions.get(record.id) ?? new AbortController()
    deletions.set(record.id, stop)
    return stop
  }
  /** Ends early when the process stops, or when the cluster is to be deleted. */
  const pause = (record: ClusterRecord, ms: number): Promise<void> =>
    sleep(ms, undefined, { signal: record.state === 'deleting' ? abort.signal : AbortSignal.any([abort.signal, stopOf(record).signal]) }).catch(() => undefined)

  async function drive (record: ClusterRecord): Promise<void> {
    try {
      if (record.state === 'negotiating') {
        await measureRtt(record)
        await negotiate(negotiation(record), record)
      }
      if (record.state === 'committing' || record.state === 'activating') await activate(record)
    } catch (error) {
      if (record.state !== 'deleting' && !abort.signal.aborted) await fail(record, error)
      return
    }
    await watch(record)
  }

  /** The slowest answer among the gateways of the sites in view, for the figures of the negotiation. */
  async function measureRtt (record: ClusterRecord): Promise<void> {
    const others = deps.sites().filter(s => s.site !== deps.site)
    const times = await Promise.all(others.map(async s => {
      try {
        await call(s.peer, 'status', { clusterId: record.id }, { deadlineMs: 2_000 })
        const started = deps.monotonic()
        await call(s.peer, 'status', { clusterId: record.id }, { deadlineMs: 2_000 })
        return deps.monotonic() - started
      } catch {
        return 0 // a site that does not answer is found out by the request itself
      }
    }))
    record.rttMs = Math.round(Math.max(0, ...times) * 10) / 10
  }

  /** What is to be done for a cluster, whatever was done before: also after a failed write, or by another process. */
  async function goOn (record: ClusterRecord): Promise<void> {
    if (record.state === 'deleting') await finishRemoval(record)
    else if (record.state === 'failed') await finishRelease(record)
    else if (isEnded(record.state)) return
    else if (record.error !== null) await finishFailure(record)
    else await drive(record)
  }

  function start (record: ClusterRecord, work: (record: ClusterRecord) => Promise<void>): void {
    const before = loops.get(record.id) ?? Promise.resolve()
    const loop = before.then(() => persist(record, work)).finally(() => {
      if (loops.get(record.id) === loop) loops.delete(record.id)
    })
    loops.set(record.id, loop)
  }

  /** A disk that is full for a while must not leave a cluster without anybody who looks after it. */
  async function persist (record: ClusterRecord, work: (record: ClusterRecord) => Promise<void>): Promise<void> {
    let next = work
    while (!abort.signal.aborted) {
      try {
        await next(record)
        return
      } catch (error) {
        log.error({ cluster: record.name, error: describeError(error) }, 'the work on a cluster was cut short; it is taken up again in a moment')
      }
      await sleep(RETRY_MS, undefined, { signal: abort.signal }).catch(() => undefined)
      next = goOn
    }
  }

  /** Forgets clusters that ended long ago, and the oldest of very many. */
  async function prune (): Promise<void> {
    const endedAt = (record: ClusterRecord): number => record.deletedMs ?? record.createdMs
    const ended = [...records.values()].filter(r => isEnded(r.state) && !loops.has(r.id)).sort((a, b) => endedAt(b) - endedAt(a))
    for (const [i, record] of ended.entries()) {
      if (i < MAX_ENDED_KEPT && deps.now() - endedAt(record) <= KEEP_ENDED_MS) continue
      await store.delete(PREFIX + record.id)
      for (const map of [records, statuses, deletions]) map.delete(record.id)
    }
  }
  let pruner: NodeJS.Timeout | undefined

  /** Tries until every site has confirmed: a site that is away gets it when it is back. */
  async function finishRemoval (record: ClusterRecord): Promise<void> {
    const untilMs = record.document === null ? Math.min(record.endMs, (record.deleteStartedMs ?? deps.now()) + NEVER_ACTIVE_MS) : record.endMs
    while (!abort.signal.aborted) {
      const open = await releaseAll(deps, record, record.error === null ? 'deleted by the user' : 'the cluster failed')
      await save(record)
      // Beyond the end of the term, or without an activation, nothing runs anywhere: hosts end leases by themselves.
      if (open.length === 0 || deps.now() > untilMs) {
        await deps.builder.forget(record)
        record.deletedMs = deps.now()
        statuses.delete(record.id)
        deletions.delete(record.id)
        await setState(record, 'deleted', '')
        return
      }
      events.add('cluster.progress', `${record.name}: waiting for ${open.join('; ')}`, record.name)
      await pause(record, RETRY_MS)
    }
  }

  async function remove (nameOrId: string): Promise<ClusterResource> {
    const record = find(nameOrId)
    if (record.state === 'deleted' || record.state === 'deleting') return view(record)
    if (record.state === 'failed' && record.asked.length === 0) {
      // Nothing is held any more; forget it, so that the name reads free.
      record.deleteStartedMs = record.deletedMs = deps.now()
      await setState(record, 'deleted', '')
      return view(record)
    }
    record.deleteStartedMs = deps.now()
    try {
      await setState(record, 'deleting', '')
    } catch (error) {
      start(record, goOn) // its loop may have seen the state that could not be kept, and ended
      throw error
    }
    stopOf(record).abort()
    start(record, goOn)
    return view(record)
  }

  function newRecord (spec: ClusterSpec, imageDigest: string): ClusterRecord {
    const id = deps.newId()
    const now = deps.now()
    return {
      id, name: spec.name, state: 'negotiating', spec, vni: deps.builder.vniFor(id, new Set([...records.values()].map(r => r.vni))),
      createdMs: now, endMs: now + spec.termMs, error: null, asked: [], offers: [], receipts: [], document: null, secrets: [],
      sshPrivateKey: '', imageDigest, phases: {}, failures: {}, negotiateMs: 0, rttMs: 0, firstPingMs: null, mtuInner: 0,
      readyMs: null, deleteStartedMs: null, deletedMs: null
    }
  }

  return {
    async create (input) {
      const spec = parseClusterSpec(input)
      const imageDigest = await deps.builder.imageFor(spec)
      const same = [...records.values()].find(r => r.name === spec.name && !isEnded(r.state))
      if (same !== undefined) throw new ConflictError(`cluster ${spec.name} exists already (${same.state})`, `choose another name, or: musubi cluster delete ${spec.name}`)
      const alive = [...records.values()].filter(r => !isEnded(r.state)).length
      if (alive >= MAX_CLUSTERS) throw new NoCapacityError(`this master looks after ${alive} clusters and takes no more`, 'delete one: musubi cluster list; or ask at another gateway')
      const record = newRecord(spec, imageDigest)
      records.set(record.id, record)
      try {
        await setState(record, 'negotiating', `${spec.nodes.count} nodes of ${spec.nodes.vcpus} vCPU and ${spec.nodes.memoryMiB} MiB`)
      } catch (error) {
        records.delete(record.id) // nobody has been promised anything
        throw error
      }
      start(record, drive)
      await prune().catch((error: unknown) => { log.warn({ error: describeError(error) }, 'ended clusters could not be forgotten') })
      return view(record)
    },
    plan (input) {
      const spec = parseClusterSpec(input)
      const placed = placeAmongSites(spec, deps.sites(), deps.site)
      if ('refusal' in placed) throw new NoCapacityError(`cluster ${spec.name}: ${placed.refusal}`, 'see what is free: musubi search')
      return { explanation: `cluster ${spec.name} would go to\n${placed.why.map(w => `  ${w}`).join('\n')}\n(a dry run: nothing is held)` }
    },
    list: () => [...records.values()].filter(r => r.state !== 'deleted').sort((a, b) => a.createdMs - b.createdMs).map(view),
    get: nameOrId => view(find(nameOrId)),
    record: find,
    remove,
    async resume () {
      for await (const { value: record } of store.iterate<ClusterRecord>(PREFIX)) {
        if (isEnded(record.state) && record.asked.length === 0 && deps.now() - record.createdMs > KEEP_ENDED_MS) { await store.delete(PREFIX + record.id); continue }
        records.set(record.id, record)
        for (const node of record.document?.nodes ?? []) record.phases[node.name] ??= noPhases()
        if (record.state === 'negotiating' || record.state === 'committing') {
          // No activation has left, so nothing runs anywhere: the safe way is back.
          start(record, r => fail(r, new MusubiError('MASTER_RESTARTED', `the master restarted while ${r.name} was being negotiated; nothing is kept`, { retryable: true, hint: 'ask again' })))
        } else if (record.state !== 'deleted') start(record, goOn)
      }
      pruner = setInterval(() => {
        prune().catch((error: unknown) => { log.warn({ error: describeError(error) }, 'ended clusters could not be forgotten') })
      }, PRUNE_MS).unref()
    },
    async stop () {
      abort.abort()
      clearInterval(pruner)
      await Promise.allSettled(loops.values())
    }
  }
}

const describeMessage = (error: unknown): string => error instanceof Error ? error.message : String(error)

/** Ready when all nodes are; degraded when what was ready no longer runs or does not answer. */
function nextState (record: ClusterRecord, hosts: readonly HostStatus[]): ClusterRecord['state'] {
  if (record.state !== 'building' && record.state !== 'ready' && record.state !== 'degraded') return record.state
  const nodes = record.document?.nodes ?? []
  const allReady = nodes.length > 0 && nodes.every(n => (record.phases[n.name]?.ready ?? null) !== null)
  if (!allReady) return 'building'
  const broken = hosts.some(h => !h.reachable || h.objects.some(o => o.state !== 'ok'))
  return broken ? 'degraded' : 'ready'
}
