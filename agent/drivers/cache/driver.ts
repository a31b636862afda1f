import { randomUUID } from 'node:crypto'
import { rm, stat } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { CacheSpec } from '../../../protocol/core/desired.ts'
import { clusterNamespace } from '../../../protocol/core/desired.ts'
import { ConflictError, InvalidInputError, MusubiError, NotFoundError } from '../../../protocol/core/errors.ts'
import { CACHE_ORDERS_MAX } from '../../../protocol/core/limits.ts'
import { run } from '../../exec.ts'
import { fingerprint } from '../../fingerprint.ts'
import type { ServiceManager } from '../../services.ts'
import { keeperId } from '../../services/keepers.ts'
import type { Driver, ObservedObject } from '../driver.ts'
import { readCounters, storedBytes } from './account/accounting.ts'
import type { CacheCounters, ClassCounters } from './account/accounting.ts'
import { budgetState, withBudget } from './account/budget.ts'
import type { BudgetState } from './account/budget.ts'
import { cacheFolder, readRecord, readRecords, removeFolder, writeAtomically, writeRecord } from './folder.ts'
import type { CacheRecord } from './folder.ts'
import { applyRouting, applyTables, checkTables, hasBridge, observeInterception, pauseTables, removeInterception } from './intercept/interception.ts'
import { measureLink, settleLink } from './link.ts'
import { OWN_ORDER, coveringOrders, oddOrders, orderNames, putOrder, renderOrder, renderOwnOrder } from './fetcher/orders.ts'
import type { OrdersWanted, PreheatOrder } from './fetcher/orders.ts'
import { planCache, serviceNames, vniOfService } from './plan.ts'
import type { CachePlan } from './plan.ts'
import { isListing, readProgress } from './fetcher/progress.ts'
import type { FetchProgress } from './fetcher/progress.ts'
import { createRetained } from './retained/retained.ts'
import type { Retained, RetainedOptions } from './retained/retained.ts'
import { answers, cacheServices, engineConfig, fetcherService, giveTo, proberService } from './services.ts'
import { listStore, purgeStore } from './store.ts'
import type { ObjectPage, Purged } from './store.ts'
import { readWireBytes } from './account/wire.ts'
import type { WireBytes } from './account/wire.ts'

/** Figures of one cache; bytes are those of HTTP, `stored` is what lies on disk. */
export interface CacheStats extends Omit<CacheCounters, 'classes'> {
  /** `tftp` is of packets, and in no sum of others */
  classes: CacheCounters['classes'] & { tftp: ClassCounters }
  stored: number
  wire: WireBytes
  /** what is fetched ahead of nodes; null while the fetcher says nothing */
  fetch: FetchProgress | null
  /** null: none was set */
  budget: BudgetState | null
}

export interface CacheDriver extends Driver<'cache'> {
  /** Figures since the cache was made; null when there is no such cache here. */
  stats (name: string): Promise<CacheStats | null>
  /**
   * Fetches objects before nodes ask, in the background; another order under the same name takes its place.
   *
   * @param order null takes the order away; what was fetched stays
   * @throws NotFoundError when there is no such cache here; InvalidInputError for an order that cannot be carried out
   */
  preheat (name: string, orderName: string, order: PreheatOrder | null): Promise<void>
  /** Objects of the store by path, a page at a time, see `listStore`. @throws NotFoundError, InvalidInputError */
  list (name: string, prefix: string, after: string, signal: AbortSignal): Promise<ObjectPage>
  /**
   * Removes objects from the store, see `purgeStore`.
   *
   * @param refetch whether orders that name them fetch them again; else they do not, as they are done
   * @returns also the orders that name them, as far as is known
   * @throws NotFoundError, InvalidInputError
   */
  purge (name: string, prefix: string, refetch: boolean, signal: AbortSignal): Promise<Purged & { orders: string[] }>
  /** stores of caches whose clusters are over */
  readonly retained: Pick<Retained, 'list' | 'purge' | 'tend'>
}

export interface CacheDriverOptions extends Pick<RetainedOptions, 'limits' | 'now'> {
  /** folder of this driver alone: configuration, stored objects, logs */
  stateDir: string
  services: ServiceManager
  /** how long a new cache may take to read the indexes of its frontend, ms; default 3,000: what is asked for before may be fetched twice */
  listMs?: number
}

/** How long a started engine may take to answer, and a live one to be seen by the prober. */
const ANSWER_MS = 8_000
const POLL_MS = 100
const LIST_MS = 3_000
/** Objects that only their services tell of go by such names. */
const ORPHAN = 'orphan-'

/** Transparent HTTP cache of a cluster: nginx, TPROXY and a dead-man switch in the cluster's namespace. */
export function createCacheDriver ({ services, ...options }: CacheDriverOptions): CacheDriver {
  const root = resolve(options.stateDir)
  const retained = createRetained(options)
  const { runsAsWanted, ensureService, engineAsWanted, ensureEngine, tftpAsWanted, ensureTftp } = cacheServices(services)
  let counting: Promise<unknown> = Promise.resolve()

  const planOf = (record: Pick<CacheRecord, 'name' | 'spec' | 'link'>): CachePlan => planCache(record.spec, cacheFolder(root, record.name), record.link)

  async function observeOne (record: CacheRecord, signal: AbortSignal): Promise<ObservedObject> {
    const base = { kind: 'cache' as const, name: record.name, fingerprint: record.applied }
    let plan: CachePlan
    try {
      plan = planOf(record)
    } catch (error) {
      // written by another version, or damaged: whatever it was, `apply` brings it to the spec
      return { ...base, fingerprint: null, healthy: false, detail: { state: messageOf(error) } }
    }
    const bridge = await hasBridge(plan.namespace, signal)
    if (!bridge) return { ...base, healthy: false, detail: { state: 'no segment' } }
    const [prober, fetcher, tftpOk, state] = await Promise.all([
      services.status(plan.services.prober),
      services.status(plan.services.fetcher),
      tftpAsWanted(plan),
      observeInterception(plan, signal)
    ])
    const engineOk = await engineAsWanted(plan, engineConfig(plan))
    const proberOk = await runsAsWanted(prober, proberService(plan), plan.namespace)
    const fetcherOk = await runsAsWanted(fetcher, fetcherService(plan), plan.namespace)
    const live = record.spec.ports.every(port => state.live.includes(port))
    const works = engineOk && proberOk && fetcherOk && tftpOk && state.tables && state.routing && live
    const serving = engineOk && state.tables && state.routing && live
    const figures = await statsOf(record.name)
    const odd = (await oddOrders(plan.paths.orders, wantedOrders(plan, figures?.budget ?? null))).map(({ name }) => name)
    const problem = works && odd.length > 0 ? { problem: `orders that do not say what the specification and the budget have them say: ${odd.join(', ')}` } : {}
    return { ...base, healthy: works && odd.length === 0, detail: { state: serving ? 'caching' : 'bypassed', ...problem, engine: engineOk, prober: proberOk, fetcher: fetcherOk, live, ...(record.spec.tftp === undefined ? {} : { tftp: tftpOk, tftpStopped: state.tftpStopped }), ...figures } }
  }

  /** One after the other: sums and orders are read, and written anew. */
  async function inTurn<T> (work: () => Promise<T>): Promise<T> {
    const mine = counting.then(work)
    counting = mine.catch(() => undefined)
    return await mine
  }

  async function statsOf (name: string): Promise<CacheStats | null> {
    const folder = cacheFolder(root, name)
    return await inTurn(async () => {
      const record = await readRecord(folder)
      if (record === null) return null
      const engine = join(folder, 'engine')
      const wire = await readWireBytes(folder, clusterNamespace(record.spec.vni))
      const counters = await readCounters(folder, engine)
      return {
        ...counters, classes: { ...counters.classes, tftp: { requests: wire.tftpAsked, bytesToNodes: wire.tftpOut, bytesFromUpstream: wire.tftpIn } },
        stored: await storedBytes(join(engine, 'store')),
        wire, budget: budgetState(record.spec, wire), fetch: await readProgress(join(engine, 'progress.json'))
      }
    })
  }

  /** Brings orders to what the specification and the budget have them say. */
  async function mendOrders (plan: CachePlan): Promise<void> {
    await inTurn(async () => {
      const { paths, spec, namespace } = plan
      const wanted = wantedOrders(plan, budgetState(spec, await readWireBytes(paths.dir, namespace)))
      for (const { name, text } of await oddOrders(paths.orders, wanted)) await putOrder(paths.orders, name, text)
    })
  }

  async function putBudgeted (plan: CachePlan, orderName: string, text: string): Promise<void> {
    await inTurn(async () => {
      const { paths, spec, namespace } = plan
      await putOrder(paths.orders, orderName, withBudget(text, budgetState(spec, await readWireBytes(paths.dir, namespace))))
    })
  }

  async function recordOf (name: string): Promise<CacheRecord> {
    const record = await readRecord(cacheFolder(root, name))
    if (record === null) throw new NotFoundError(`no cache ${name} on this host`)
    return record
  }

  /** VNIs of running services whose record is gone: somebody deleted our files. */
  async function orphans (records: readonly CacheRecord[]): Promise<Set<number>> {
    const recorded = new Set(records.map(record => record.spec.vni))
    const vnis = (await services.list()).map(service => vniOfService(service.name))
    return new Set(vnis.filter(vni => vni !== null && !recorded.has(vni)) as number[])
  }

  async function stopAll (vni: number, signal: AbortSignal): Promise<void> {
    const names = serviceNames(vni)
    const namespace = clusterNamespace(vni)
    // first the rules: from then on new connections need no engine
    if (await exists(`/run/netns/${namespace}`)) await removeInterception(namespace, signal)
    await services.stop(names.prober)
    await services.stop(names.tftp)
    await services.stop(names.fetcher)
    await services.stop(names.engine)
  }

  /** Waits until the prober has seen the engine answer. What it saw may be an engine that has died since, so that is asked as well. */
  async function becomesLive (plan: CachePlan, signal: AbortSignal): Promise<boolean> {
    const deadline = performance.now() + ANSWER_MS
    for (;;) {
      const { live } = await observeInterception(plan, signal)
      if (plan.spec.ports.every(port => live.includes(port)) && await answers(plan, signal)) return true
      if (performance.now() > deadline) return false
      await delay(POLL_MS, undefined, { signal })
    }
  }

  /** Waits until the fetcher has read an index, or has an answer that is none: nodes are served in any case. */
  async function listsObjects ({ spec, paths }: CachePlan, signal: AbortSignal): Promise<void> {
    if ((spec.profile?.indexes ?? []).length === 0 && spec.preheat === undefined) return
    const deadline = performance.now() + (options.listMs ?? LIST_MS)
    while (performance.now() < deadline && !isListing(await readProgress(join(paths.engine, 'progress.json')))) await delay(POLL_MS, undefined, { signal })
  }

  /** Without the list of digests: an engine does not start with one that is damaged, and the fetcher makes it again. */
  async function startAnew (plan: CachePlan, config: string, signal: AbortSignal): Promise<void> {
    await rm(plan.paths.listed, { force: true }).catch(() => undefined)
    await ensureEngine(plan, config, signal)
  }

  async function build (plan: CachePlan, signal: AbortSignal): Promise<void> {
    const { paths, namespace } = plan
    const config = engineConfig(plan)
    await giveTo(keeperId('engine', plan.spec.vni), paths.engine, signal)
    await writeAtomically(paths.config, config)
    const { tables } = await observeInterception(plan, signal)
    // rules of another plan may name a socket that will serve another port: nodes go directly until the new ones
    if (!tables) await pauseTables(plan, signal)
    await applyRouting(plan, signal)
    await ensureTftp(plan, signal)
    await ensureEngine(plan, config, signal).catch(async () => { await startAnew(plan, config, signal) })
    if (!tables) await applyTables(plan, signal)
    await ensureService(plan.services.prober, proberService(plan), namespace)
    await mendOrders(plan)
    await ensureService(plan.services.fetcher, fetcherService(plan), namespace)
    if (await becomesLive(plan, signal)) return
    // it runs and does not answer: hung
    await services.stop(plan.services.engine)
    await startAnew(plan, config, signal)
    if (await becomesLive(plan, signal)) return
    throw new MusubiError('CACHE_SILENT', `the cache of cluster ${plan.spec.cluster} does not answer in ${namespace}`, {
      retryable: true, hint: `see ${paths.errorLog}; nodes go to their frontend directly meanwhile`
    })
  }

  return {
    kind: 'cache',

    async probe (signal) {
      const problems: string[] = []
      for (const [file, args] of [['perl', ['-e', 'use IO::Socket::INET; use Fcntl; 1']], ['sysctl', ['--version']], ['ip', ['-V']], ['nft', ['--version']]] as const) {
        await run(file, args, { signal }).catch((error: unknown) => { problems.push(`cache: ${messageOf(error)}`) })
      }
      try {
        const { stderr } = await run('nginx', ['-V'], { signal })
        if (!stderr.includes('--with-http_slice_module')) problems.push('cache: this nginx has no slice module; install Debian\'s package nginx-light')
      } catch (error) {
        problems.push(`cache: ${messageOf(error)}; install the package nginx-light`)
      }
      if (problems.length === 0) {
        const sample: CacheSpec = { cluster: 'probe', vni: 1, frontendAddress: '10.0.0.1', ownAddress: '10.0.0.2', bridgeMac: '02:00:00:00:00:01', ports: [80], maxSizeMiB: 1 }
        await checkTables(planCache(sample, join(root, 'probe')), signal)
          .catch((error: unknown) => { problems.push(`cache: the kernel does not take the rules (bridge tables, socket match, tproxy): ${messageOf(error)}`) })
      }
      return problems
    },

    retained,

    async observe (signal) {
      void retained.tend()
      const observed: ObservedObject[] = []
      const records = await readRecords(root)
      for (const record of records) observed.push(await observeOne(record, signal))
      for (const vni of await orphans(records)) {
        observed.push({ kind: 'cache', name: orphanName(vni), fingerprint: null, healthy: false, detail: { state: 'no record' } })
      }
      return observed
    },

    async apply (name, spec, signal) {
      const folder = cacheFolder(root, name)
      const { paths } = planCache(spec, folder)
      const records = await readRecords(root)
      const other = records.find(record => record.spec.vni === spec.vni && record.name !== name)
      if (other !== undefined) throw new ConflictError(`cache ${name}: segment ${spec.vni} already has the cache ${other.name}`)
      const before = records.find(record => record.name === name)
      if (before !== undefined && before.spec.vni !== spec.vni) await stopAll(before.spec.vni, signal)
      const namespace = clusterNamespace(spec.vni)
      if (!await hasBridge(namespace, signal)) {
        throw new MusubiError('SEGMENT_MISSING', `cache ${name}: ${namespace} has no bridge br0`, { retryable: true, hint: 'the segment of the cluster comes first' })
      }
      const claimed = before === undefined ? await retained.claim(name, spec) : undefined
      const way = claimed !== undefined ? { link: claimed } : await settleLink(before, paths, Date.now(), async () => await measureLink(namespace, spec.frontendAddress, signal))
      const plan = planCache(spec, folder, way.link)
      if (before?.applied !== fingerprint(spec)) await writeRecord(folder, name, spec, false, way)
      await retained.handOver(name, spec, signal)
      await build(plan, signal)
      if (before === undefined) await listsObjects(plan, signal)
      await writeRecord(folder, name, spec, true, way)
    },

    async remove (name, signal) {
      const folder = cacheFolder(root, name)
      const record = await readRecord(folder)
      if (record !== null) await stopAll(record.spec.vni, signal)
      else if (await exists(folder) || name.startsWith(ORPHAN)) {
        for (const vni of await orphans(await readRecords(root))) await stopAll(vni, signal)
      }
      if (record !== null) await retained.keep(record, signal)
      await removeFolder(folder)
      void retained.tend()
    },

    stats: statsOf,

    async preheat (name, orderName, order) {
      const plan = planOf(await recordOf(name))
      if (orderName === OWN_ORDER) throw new InvalidInputError(`${OWN_ORDER} is the order of the cluster's own specification`)
      const names = await orderNames(plan.paths.orders)
      if (order !== null && !names.includes(orderName) && names.length >= CACHE_ORDERS_MAX) throw new ConflictError(`cache ${name} has ${names.length} orders already`, 'take away what is done: musubi cache preheat --cancel ORDER')
      await putBudgeted(plan, orderName, order === null ? '' : renderOrder(plan, order))
    },

    async list (name, prefix, after, signal) {
      const plan = planOf(await recordOf(name))
      return await listStore(plan.paths.engine, plan.spec.vni, prefix, after, signal)
    },

    async purge (name, prefix, refetch, signal) {
      const plan = planOf(await recordOf(name))
      const purged = await purgeStore(plan.paths.engine, plan.spec.vni, prefix, signal)
      return { ...purged, orders: await inTurn(async () => await coveringOrders(plan.paths.orders, prefix, refetch ? randomUUID() : null)) }
    }
  }
}

/** The specification's own order, and those of people, with what the budget allows. Pure. */
const wantedOrders = (plan: CachePlan, budget: BudgetState | null): OrdersWanted =>
  ({ own: renderOwnOrder(plan), fit: text => withBudget(text, budget) })

const orphanName = (vni: number): string => `${ORPHAN}${clusterNamespace(vni)}`

async function exists (path: string): Promise<boolean> {
  return await stat(path).then(() => true, () => false)
}

function messageOf (error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
