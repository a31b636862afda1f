import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { chown, mkdir, stat } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import type { CacheSpec } from '../../../protocol/core/desired.ts'
import { clusterNamespace } from '../../../protocol/core/desired.ts'
import { ConflictError, MusubiError } from '../../../protocol/core/errors.ts'
import { run } from '../../exec.ts'
import { fingerprint } from '../../fingerprint.ts'
import type { ServiceManager, ServiceSpec, ServiceStatus } from '../../services.ts'
import type { Driver, ObservedObject } from '../driver.ts'
import { readCounters, storedBytes } from './accounting.ts'
import { cacheFolder, readRecord, readRecords, removeFolder, writeAtomically, writeRecord } from './folder.ts'
import type { CacheRecord } from './folder.ts'
import { applyRouting, applyTables, checkTables, hasBridge, observeInterception, removeInterception } from './interception.ts'
import { LIVE_SECONDS, LIVE_SET, TABLE } from './nft.ts'
import { renderNginxConf } from './nginx-conf.ts'
import { planCache, serviceNames, vniOfService } from './plan.ts'
import type { CachePlan } from './plan.ts'

/** Figures of one cache; bytes are those of HTTP, `stored` is what lies on disk. */
export interface CacheStats {
  requests: number
  /** requests answered from the store alone */
  hits: number
  bytesToNodes: number
  bytesFromUpstream: number
  stored: number
}

export interface CacheDriver extends Driver<'cache'> {
  /** Figures since the cache was made; null when there is no such cache here. */
  stats (name: string): Promise<CacheStats | null>
}

export interface CacheDriverOptions {
  /** folder of this driver alone: configuration, stored objects, logs */
  stateDir: string
  services: ServiceManager
}

const LAUNCHER = fileURLToPath(new URL('./launch.pl', import.meta.url))
const PROBER = fileURLToPath(new URL('./prober.pl', import.meta.url))
/** It goes on over upgrades: another program under the same name is another service. */
const PROBER_PRINT = fingerprint(readFileSync(PROBER, 'utf8'))
/** It talks TCP, so it is not root: it may write to the nft set, turn the engine's logs over, and be ahead of a busy host. */
const PROBER_CAPABILITIES = '-all,+net_admin,+dac_override,+kill,+sys_nice'
/**
 * The engine talks TCP as well: it may take connections for the frontend's address and make them from the nodes' (either needs
 * net_raw), reach its folder below those that are root's alone, and be ahead of a busy host.
 */
const ENGINE_USER = 'www-data'
const ENGINE_CAPABILITIES = '-all,+net_raw,+dac_read_search,+sys_nice'
const asUser = (user: string, group: string, capabilities: string): readonly string[] =>
  ['setpriv', `--reuid=${user}`, `--regid=${group}`, '--clear-groups', `--inh-caps=${capabilities}`, `--ambient-caps=${capabilities}`, `--bounding-set=${capabilities}`, '--no-new-privs', '--']
/** How long a started engine may take to answer, and a live one to be seen by the prober. */
const ANSWER_MS = 8_000
const POLL_MS = 100
/** Objects that only their services tell of go by such names. */
const ORPHAN = 'orphan-'

/** Transparent HTTP cache of a cluster: nginx, TPROXY and a dead-man switch in the cluster's namespace. */
export function createCacheDriver ({ stateDir, services }: CacheDriverOptions): CacheDriver {
  const root = resolve(stateDir)
  let counting: Promise<unknown> = Promise.resolve()

  const planOf = (record: Pick<CacheRecord, 'name' | 'spec'>): CachePlan => planCache(record.spec, cacheFolder(root, record.name))

  function engineService (plan: CachePlan, config: string): ServiceSpec {
    const { paths, listeners } = plan
    return {
      argv: [...asUser(ENGINE_USER, ENGINE_USER, ENGINE_CAPABILITIES), 'perl', LAUNCHER, ...listeners.map(({ listenPort }) => `127.0.0.1:${listenPort}`), '--',
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
      argv: [...asUser('nobody', 'nogroup', PROBER_CAPABILITIES), 'perl', PROBER, String(plan.healthPort), plan.paths.engine, TABLE, LIVE_SET, String(LIVE_SECONDS), ...ports],
      netns: plan.namespace,
      cwd: '/',
      env: { MZ_KEEPER: PROBER_PRINT },
      keeper: true
    }
  }

  /** True when the service runs as wanted, in the namespace that now bears the name. */
  async function runsAsWanted (status: ServiceStatus, wanted: ServiceSpec, namespace: string): Promise<boolean> {
    return status.running && status.pid !== null && status.fingerprint === fingerprint(wanted) &&
      await inNamespace(status.pid, namespace)
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
    const [engine, prober, state] = await Promise.all([
      services.status(plan.services.engine),
      services.status(plan.services.prober),
      observeInterception(plan, signal)
    ])
    const engineOk = await runsAsWanted(engine, engineService(plan, renderNginxConf(plan)), plan.namespace)
    const proberOk = await runsAsWanted(prober, proberService(plan), plan.namespace)
    const live = record.spec.ports.every(port => state.live.includes(port))
    const healthy = engineOk && proberOk && state.tables && state.routing && live
    const figures = await statsOf(record.name)
    return { ...base, healthy, detail: { state: healthy ? 'caching' : 'bypassed', engine: engineOk, prober: proberOk, live, ...figures } }
  }

  async function statsOf (name: string): Promise<CacheStats | null> {
    const folder = cacheFolder(root, name)
    const mine = counting.then(async () => {
      if (await readRecord(folder) === null) return null
      return { ...await readCounters(folder, join(folder, 'engine')), stored: await storedBytes(join(folder, 'engine', 'store')) }
    })
    counting = mine.catch(() => undefined)
    return await mine
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
    await services.stop(names.engine)
  }

  /** Waits until the prober has seen the engine answer. */
  async function becomesLive (plan: CachePlan, signal: AbortSignal): Promise<boolean> {
    const deadline = performance.now() + ANSWER_MS
    for (;;) {
      const { live } = await observeInterception(plan, signal)
      if (plan.spec.ports.every(port => live.includes(port))) return true
      if (performance.now() > deadline) return false
      await delay(POLL_MS, undefined, { signal })
    }
  }

  async function build (plan: CachePlan, signal: AbortSignal): Promise<void> {
    const { paths, namespace } = plan
    const config = renderNginxConf(plan)
    await giveToEngine(paths.engine)
    await writeAtomically(paths.config, config)
    const { tables } = await observeInterception(plan, signal)
    // rules of another plan may name a socket that will serve another port: nodes go directly until the new ones
    if (!tables) await removeInterception(namespace, signal)
    await applyRouting(plan, signal)
    await ensureService(plan.services.engine, engineService(plan, config), namespace)
    if (!tables) await applyTables(plan, signal)
    await ensureService(plan.services.prober, proberService(plan), namespace)
    if (await becomesLive(plan, signal)) return
    // it runs and does not answer: hung
    await services.stop(plan.services.engine)
    await services.ensure(plan.services.engine, engineService(plan, config))
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

    async observe (signal) {
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
      const plan = planCache(spec, folder)
      const records = await readRecords(root)
      const other = records.find(record => record.spec.vni === spec.vni && record.name !== name)
      if (other !== undefined) throw new ConflictError(`cache ${name}: segment ${spec.vni} already has the cache ${other.name}`)
      const before = records.find(record => record.name === name)
      if (before !== undefined && before.spec.vni !== spec.vni) await stopAll(before.spec.vni, signal)
      if (!await hasBridge(plan.namespace, signal)) {
        throw new MusubiError('SEGMENT_MISSING', `cache ${name}: ${plan.namespace} has no bridge br0`, { retryable: true, hint: 'the segment of the cluster comes first' })
      }
      if (before?.applied !== fingerprint(spec)) await writeRecord(folder, name, spec, false)
      await build(plan, signal)
      await writeRecord(folder, name, spec, true)
    },

    async remove (name, signal) {
      const folder = cacheFolder(root, name)
      const record = await readRecord(folder)
      if (record !== null) await stopAll(record.spec.vni, signal)
      else if (await exists(folder) || name.startsWith(ORPHAN)) {
        for (const vni of await orphans(await readRecords(root))) await stopAll(vni, signal)
      }
      await removeFolder(folder)
    },

    stats: statsOf
  }
}

/** Makes the engine's folder, which lies in one of root's: what is in it the engine makes, and nobody follows its links. */
async function giveToEngine (folder: string): Promise<void> {
  await mkdir(folder, { recursive: true, mode: 0o700 })
  const [uid, gid] = await Promise.all(['-u', '-g'].map(async what => Number((await run('id', [what, ENGINE_USER])).stdout)))
  if (uid !== undefined && gid !== undefined) await chown(folder, uid, gid)
}

const orphanName = (vni: number): string => `${ORPHAN}${clusterNamespace(vni)}`

async function exists (path: string): Promise<boolean> {
  return await stat(path).then(() => true, () => false)
}

async function inNamespace (pid: number, namespace: string): Promise<boolean> {
  const [ofProcess, ofName] = await Promise.all([`/proc/${pid}/ns/net`, `/run/netns/${namespace}`]
    .map(async path => await stat(path).then(found => found.ino, () => null)))
  return ofProcess !== null && ofProcess === ofName
}

function messageOf (error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
