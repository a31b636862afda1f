import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { mkdir, rm, stat } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import type { CacheSpec } from '../../../protocol/core/desired.ts'
import { clusterNamespace } from '../../../protocol/core/desired.ts'
import { ConflictError, InvalidInputError, MusubiError, NotFoundError } from '../../../protocol/core/errors.ts'
import { CACHE_ORDERS_MAX } from '../../../protocol/core/limits.ts'
import { run } from '../../exec.ts'
import { fingerprint } from '../../fingerprint.ts'
import type { ServiceManager, ServiceSpec, ServiceStatus } from '../../services.ts'
import { keeperArgv, keeperId } from '../../services/keepers.ts'
import { runOutside } from '../../services/outside.ts'
import type { Driver, ObservedObject } from '../driver.ts'
import { readCounters, storedBytes } from './accounting.ts'
import type { CacheCounters } from './accounting.ts'
import { budgetState, withBudget } from './budget.ts'
import type { BudgetState } from './budget.ts'
import { cacheFolder, readRecord, readRecords, removeFolder, writeAtomically, writeRecord } from './folder.ts'
import type { CacheRecord } from './folder.ts'
import { applyRouting, applyTables, checkTables, hasBridge, observeInterception, pauseTables, removeInterception } from './interception.ts'
import { LIVE_SECONDS, LIVE_SET, TABLE } from './nft.ts'
import { renderNginxConf } from './nginx-conf.ts'
import { measureLink } from './link.ts'
import { OWN_ORDER, eachOrder, orderNames, putOrder, renderOrder, renderOwnOrder } from './orders.ts'
import type { PreheatOrder } from './orders.ts'
import { planCache, serviceNames, vniOfService } from './plan.ts'
import type { CachePlan } from './plan.ts'
import { readProgress } from './progress.ts'
import type { FetchProgress } from './progress.ts'
import { createRetained } from './retained/retained.ts'
import type { Retained, RetainedOptions } from './retained/retained.ts'
import { listStore, purgeStore } from './store.ts'
import type { ObjectPage, Purged } from './store.ts'
import { tftpService } from './tftp/service.ts'
import { readWireBytes } from './wire.ts'
import type { WireBytes } from './wire.ts'

/** Figures of one cache; bytes are those of HTTP, `stored` is what lies on disk. */
export interface CacheStats extends CacheCounters {
  stored: number
  /** bytes of packets that came from the frontend: for the cache itself, and for nodes */
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
  /** Removes objects from the store, see `purgeStore`. @throws NotFoundError, InvalidInputError */
  purge (name: string, prefix: string, signal: AbortSignal): Promise<Purged>
  /** stores of caches whose clusters are over */
  readonly retained: Pick<Retained, 'list' | 'purge' | 'tend'>
}

export interface CacheDriverOptions extends Pick<RetainedOptions, 'limits' | 'now'> {
  /** folder of this driver alone: configuration, stored objects, logs */
  stateDir: string
  services: ServiceManager
}

const LAUNCHER = fileURLToPath(new URL('./launch.pl', import.meta.url))
const PROBER = fileURLToPath(new URL('./prober.pl', import.meta.url))
/** It goes on over upgrades: another program under the same name is another service. */
const FETCHER = fileURLToPath(new URL('./fetcher/main.pl', import.meta.url))
const FETCHER_PRINT = fingerprint(['main.pl', 'Ahead.pm', 'Clock.pm', 'Http.pm', 'Indexes.pm', 'Orders.pm', 'index.pl'].map(file => readFileSync(new URL(`./fetcher/${file}`, import.meta.url), 'utf8')))
const PROBER_PRINT = fingerprint(readFileSync(PROBER, 'utf8'))
/** It talks TCP, so it is not root: it may write to the nft set, turn the engine's logs over, and be ahead of a busy host. */
const PROBER_CAPABILITIES = ['net_admin', 'dac_override', 'kill', 'sys_nice'] as const
/**
 * The engine talks TCP as well: it may take connections for the frontend's address and make them from the nodes' (either needs
 * net_raw), reach its folder below those that are root's alone, and be ahead of a busy host. Its user is that of one
 * cluster's cache: what one cluster's nodes do to it does nothing to the store of another.
 */
const ENGINE_CAPABILITIES = ['net_raw', 'dac_read_search', 'sys_nice'] as const
/** It reads orders, which lie below root's folder, and tells the engine of another list; nothing else. */
const FETCHER_CAPABILITIES = ['dac_read_search'] as const
/** How long a started engine may take to answer, and a live one to be seen by the prober. */
const ANSWER_MS = 8_000
const POLL_MS = 100
/** Objects that only their services tell of go by such names. */
const ORPHAN = 'orphan-'

/** Transparent HTTP cache of a cluster: nginx, TPROXY and a dead-man switch in the cluster's namespace. */
export function createCacheDriver ({ services, ...options }: CacheDriverOptions): CacheDriver {
  const root = resolve(options.stateDir)
  const retained = createRetained(options)
  let counting: Promise<unknown> = Promise.resolve()

  const planOf = (record: Pick<CacheRecord, 'name' | 'spec' | 'link'>): CachePlan => planCache(record.spec, cacheFolder(root, record.name), record.link)

  function engineService (plan: CachePlan, config: string): ServiceSpec {
    const { paths, listeners } = plan
    return {
      argv: [...keeperArgv('engine', ENGINE_CAPABILITIES, plan.spec.vni), 'perl', LAUNCHER, ...listeners.map(({ listenPort }) => `127.0.0.1:${listenPort}`), '--',
        'nginx', '-c', paths.config, '-p', paths.engine, '-e', paths.errorLog],
      netns: plan.namespace,
      cwd: '/',
      // listening sockets are made by the launcher, so another configuration is another process
      env: { MZ_CONFIG: createHash('sha256').update(config).digest('hex').slice(0, 16) }
    }
  }

  function proberService (plan: CachePlan): ServiceSpec {
    const ports = plan.listeners.map(({ port }) => String(port))
    return {
      argv: [...keeperArgv('prober', PROBER_CAPABILITIES, plan.spec.vni), 'perl', PROBER, String(plan.healthPort), plan.paths.engine, TABLE, LIVE_SET, String(LIVE_SECONDS), ...ports],
      netns: plan.namespace,
      cwd: '/',
      env: { MZ_KEEPER: PROBER_PRINT },
      keeper: true
    }
  }

  function fetcherService (plan: CachePlan): ServiceSpec {
    const { paths, listeners, spec, sliceBytes } = plan
    return {
      argv: [...keeperArgv('engine', FETCHER_CAPABILITIES, plan.spec.vni), 'perl', FETCHER, paths.engine, paths.orders, String(sliceBytes), spec.frontendAddress, ...listeners.map(({ port, listenPort }) => `${port}:${listenPort}`)],
      netns: plan.namespace,
      cwd: '/',
      env: { MZ_KEEPER: FETCHER_PRINT },
      keeper: true
    }
  }

  /** True when the service runs as wanted, in the namespace that now bears the name. */
  async function runsAsWanted (status: ServiceStatus, wanted: ServiceSpec, namespace: string): Promise<boolean> {
    return status.running && status.pid !== null && status.fingerprint === fingerprint(wanted) &&
      await inNamespace(status.pid, namespace)
  }

  /** True as well when none is wanted and none runs. */
  async function tftpAsWanted (plan: CachePlan): Promise<boolean> {
    const [status, wanted] = [await services.status(plan.services.tftp), tftpService(plan)]
    if (wanted === null) return !status.running
    return await runsAsWanted(status, wanted, plan.namespace) && await isIn(status.pid, plan.paths.tftp)
  }

  async function ensureTftp (plan: CachePlan, signal: AbortSignal): Promise<void> {
    const wanted = tftpService(plan)
    if (wanted === null) {
      await services.stop(plan.services.tftp)
      return
    }
    await giveTo(keeperId('tftp', plan.spec.vni), plan.paths.tftp, signal)
    const { pid } = await services.status(plan.services.tftp)
    // its folder was deleted and made again
    if (pid !== null && !await isIn(pid, plan.paths.tftp)) await services.stop(plan.services.tftp)
    await ensureService(plan.services.tftp, wanted, plan.namespace)
  }

  async function ensureService (name: string, wanted: ServiceSpec, namespace: string): Promise<void> {
    const status = await services.status(name)
    // same argv, but left behind in a namespace that was deleted and made again
    if (status.running && status.pid !== null && !await inNamespace(status.pid, namespace)) await services.stop(name)
    await services.ensure(name, wanted)
  }

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
    const [engine, prober, fetcher, tftpOk, state] = await Promise.all([
      services.status(plan.services.engine),
      services.status(plan.services.prober),
      services.status(plan.services.fetcher),
      tftpAsWanted(plan),
      observeInterception(plan, signal)
    ])
    const engineOk = await runsAsWanted(engine, engineService(plan, renderNginxConf(plan)), plan.namespace)
    const proberOk = await runsAsWanted(prober, proberService(plan), plan.namespace)
    const fetcherOk = await runsAsWanted(fetcher, fetcherService(plan), plan.namespace)
    const live = record.spec.ports.every(port => state.live.includes(port))
    const healthy = engineOk && proberOk && fetcherOk && tftpOk && state.tables && state.routing && live
    const serving = engineOk && state.tables && state.routing && live
    const figures = await statsOf(record.name)
    return { ...base, healthy, detail: { state: serving ? 'caching' : 'bypassed', engine: engineOk, prober: proberOk, fetcher: fetcherOk, live, ...(record.spec.tftp === undefined ? {} : { tftp: tftpOk, tftpStopped: state.tftpStopped }), ...figures } }
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
      const budget = budgetState(record.spec, wire)
      await eachOrder(join(folder, 'orders'), text => withBudget(text, budget))
      return {
        ...await readCounters(folder, engine),
        stored: await storedBytes(join(engine, 'store')),
        wire, budget, fetch: await readProgress(join(engine, 'progress.json'))
      }
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

  /** Without the list of digests: an engine does not start with one that is damaged, and the fetcher makes it again. */
  async function startAnew (plan: CachePlan, config: string): Promise<void> {
    await rm(plan.paths.listed, { force: true }).catch(() => undefined)
    await services.ensure(plan.services.engine, engineService(plan, config))
  }

  async function build (plan: CachePlan, signal: AbortSignal): Promise<void> {
    const { paths, namespace } = plan
    const config = renderNginxConf(plan)
    await giveTo(keeperId('engine', plan.spec.vni), paths.engine, signal)
    await writeAtomically(paths.config, config)
    const { tables } = await observeInterception(plan, signal)
    // rules of another plan may name a socket that will serve another port: nodes go directly until the new ones
    if (!tables) await pauseTables(plan, signal)
    await applyRouting(plan, signal)
    await ensureTftp(plan, signal)
    await ensureService(plan.services.engine, engineService(plan, config), namespace).catch(async () => { await startAnew(plan, config) })
    if (!tables) await applyTables(plan, signal)
    await ensureService(plan.services.prober, proberService(plan), namespace)
    await putBudgeted(plan, OWN_ORDER, renderOwnOrder(plan))
    await ensureService(plan.services.fetcher, fetcherService(plan), namespace)
    if (await becomesLive(plan, signal)) return
    // it runs and does not answer: hung
    await services.stop(plan.services.engine)
    await startAnew(plan, config)
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
      planCache(spec, folder)
      const records = await readRecords(root)
      const other = records.find(record => record.spec.vni === spec.vni && record.name !== name)
      if (other !== undefined) throw new ConflictError(`cache ${name}: segment ${spec.vni} already has the cache ${other.name}`)
      const before = records.find(record => record.name === name)
      if (before !== undefined && before.spec.vni !== spec.vni) await stopAll(before.spec.vni, signal)
      const namespace = clusterNamespace(spec.vni)
      if (!await hasBridge(namespace, signal)) {
        throw new MusubiError('SEGMENT_MISSING', `cache ${name}: ${namespace} has no bridge br0`, { retryable: true, hint: 'the segment of the cluster comes first' })
      }
      const link = before?.link ?? (before === undefined ? await retained.claim(name, spec) : undefined) ?? await measureLink(namespace, spec.frontendAddress, signal) ?? undefined
      const plan = planCache(spec, folder, link)
      if (before?.applied !== fingerprint(spec)) await writeRecord(folder, name, spec, false, link)
      await retained.handOver(name, spec, signal)
      await build(plan, signal)
      await writeRecord(folder, name, spec, true, link)
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

    async purge (name, prefix, signal) {
      const plan = planOf(await recordOf(name))
      return await purgeStore(plan.paths.engine, plan.spec.vni, prefix, signal)
    }
  }
}

/** Makes a service's own folder, which lies in one of root's: what is in it the service makes, and nobody follows its links. */
async function giveTo (id: number, folder: string, signal: AbortSignal): Promise<void> {
  await mkdir(folder, { recursive: true, mode: 0o700 })
  // made by a release whose engines had another user
  if ((await stat(folder)).uid !== id) await run('chown', ['-hR', `${id}:${id}`, folder], { signal })
}

const orphanName = (vni: number): string => `${ORPHAN}${clusterNamespace(vni)}`

async function exists (path: string): Promise<boolean> {
  return await stat(path).then(() => true, () => false)
}

async function answers (plan: CachePlan, signal: AbortSignal): Promise<boolean> {
  const { exitCode } = await runOutside('perl', [PROBER, String(plan.healthPort)], { netns: plan.namespace, signal, okCodes: [1] })
  return exitCode === 0
}

/** True when a process runs in this very folder, not in one that was deleted. */
async function isIn (pid: number | null, folder: string): Promise<boolean> {
  if (pid === null) return false
  const [of, wanted] = await Promise.all([`/proc/${pid}/cwd`, folder].map(async path => await stat(path).catch(() => null)))
  return of != null && wanted != null && of.ino === wanted.ino && of.dev === wanted.dev
}

async function inNamespace (pid: number, namespace: string): Promise<boolean> {
  const [ofProcess, ofName] = await Promise.all([`/proc/${pid}/ns/net`, `/run/netns/${namespace}`]
    .map(async path => await stat(path).then(found => found.ino, () => null)))
  return ofProcess !== null && ofProcess === ofName
}

function messageOf (error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
