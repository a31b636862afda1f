import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { mkdir, stat } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { run } from '../../exec.ts'
import { fingerprint } from '../../fingerprint.ts'
import type { ServiceManager, ServiceSpec, ServiceStatus } from '../../services.ts'
import { keeperArgv, keeperId } from '../../services/keepers.ts'
import { runOutside } from '../../services/outside.ts'
import { LIVE_SECONDS, LIVE_SET, TABLE } from './intercept/nft.ts'
import type { CachePlan } from './plan.ts'
import { tftpService } from './tftp/service.ts'

const LAUNCHER = fileURLToPath(new URL('./launch.pl', import.meta.url))
const PROBER = fileURLToPath(new URL('./prober.pl', import.meta.url))
/** It goes on over upgrades: another program under the same name is another service. */
const FETCHER = fileURLToPath(new URL('./fetcher/main.pl', import.meta.url))
const FETCHER_PRINT = fingerprint(['main.pl', 'Ahead.pm', 'Http.pm', 'Indexes.pm', 'Orders.pm', 'index.pl'].map(file => readFileSync(new URL(`./fetcher/${file}`, import.meta.url), 'utf8')))
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

/** nginx, with listening sockets for what TPROXY hands over. @param config text of its configuration */
export function engineService (plan: CachePlan, config: string): ServiceSpec {
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

/** The dead-man switch: keeps ports in the live set while the engine answers. */
export function proberService (plan: CachePlan): ServiceSpec {
  const ports = plan.listeners.map(({ port }) => String(port))
  return {
    argv: [...keeperArgv('prober', PROBER_CAPABILITIES, plan.spec.vni), 'perl', PROBER, String(plan.healthPort), plan.paths.engine, TABLE, LIVE_SET, String(LIVE_SECONDS), ...ports],
    netns: plan.namespace,
    cwd: '/',
    env: { MZ_KEEPER: PROBER_PRINT },
    keeper: true
  }
}

/** What fetches ahead of nodes, beside the engine and as its user. */
export function fetcherService (plan: CachePlan): ServiceSpec {
  const { paths, listeners, spec, sliceBytes } = plan
  return {
    argv: [...keeperArgv('engine', FETCHER_CAPABILITIES, plan.spec.vni), 'perl', FETCHER, paths.engine, paths.orders, String(sliceBytes), spec.frontendAddress, ...listeners.map(({ port, listenPort }) => `${port}:${listenPort}`)],
    netns: plan.namespace,
    cwd: '/',
    env: { MZ_KEEPER: FETCHER_PRINT },
    keeper: true
  }
}

/** What the driver does with services, beside asking for them by name. */
export interface CacheServices {
  /** True when the service runs as wanted, in the namespace that now bears the name. */
  runsAsWanted: (status: ServiceStatus, wanted: ServiceSpec, namespace: string) => Promise<boolean>
  /** Runs it as wanted; one that was left behind in a namespace of before is stopped first. */
  ensureService: (name: string, wanted: ServiceSpec, namespace: string) => Promise<void>
  /** True as well when none is wanted and none runs. */
  tftpAsWanted: (plan: CachePlan) => Promise<boolean>
  ensureTftp: (plan: CachePlan, signal: AbortSignal) => Promise<void>
}

export function cacheServices (services: ServiceManager): CacheServices {
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

  return {
    runsAsWanted,
    ensureService,

    async tftpAsWanted (plan) {
      const [status, wanted] = [await services.status(plan.services.tftp), tftpService(plan)]
      if (wanted === null) return !status.running
      return await runsAsWanted(status, wanted, plan.namespace) && await isIn(status.pid, plan.paths.tftp)
    },

    async ensureTftp (plan, signal) {
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
  }
}

/** Makes a service's own folder, which lies in one of root's: what is in it the service makes, and nobody follows its links. */
export async function giveTo (id: number, folder: string, signal: AbortSignal): Promise<void> {
  await mkdir(folder, { recursive: true, mode: 0o700 })
  // made by a release whose engines had another user
  if ((await stat(folder)).uid !== id) await run('chown', ['-hR', `${id}:${id}`, folder], { signal })
}

/** True when the engine answers at this moment. */
export async function answers (plan: CachePlan, signal: AbortSignal): Promise<boolean> {
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
