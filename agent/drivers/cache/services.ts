import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { mkdir, stat } from 'node:fs/promises'
import { basename } from 'node:path'
import { fileURLToPath } from 'node:url'
import { resolvedArgv, run } from '../../exec.ts'
import { fingerprint } from '../../fingerprint.ts'
import type { ServiceManager, ServiceSpec, ServiceStatus } from '../../services.ts'
import { keeperArgv, keeperId } from '../../services/keepers.ts'
import { runOutside } from '../../services/outside.ts'
import { LIVE_SECONDS, LIVE_SET, TABLE } from './intercept/nft.ts'
import { renderNginxConf } from './nginx-conf.ts'
import type { CachePlan } from './plan.ts'
import { tftpService } from './tftp/service.ts'

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
 * net_raw), and be ahead of a busy host. Its folder lies below those that are root's alone: it is started in there, and knows
 * all its files by names in it. Its user is that of one cluster's cache: what one cluster's nodes do to it does nothing to the
 * store of another.
 */
const ENGINE_CAPABILITIES = ['net_raw', 'sys_nice'] as const
/** What it reads, in its own folder: written by its own user, as root writes nothing there. */
const ENGINE_CONFIG = 'nginx.conf'
const WRITE_CONFIG = `umask 0077; local $/; my $text = <STDIN>; unlink 'nginx.new'; open(my $file, '>', 'nginx.new') or die "$!\\n"; print {$file} $text; close $file or die "$!\\n"; rename 'nginx.new', '${ENGINE_CONFIG}' or die "$!\\n"`
/** It reads orders, which lie below root's folder, and tells the engine of another list; nothing else. */
const FETCHER_CAPABILITIES = ['dac_read_search'] as const

/** The configuration as the engine gets it, which is started in its folder. Pure. */
export function engineConfig (plan: CachePlan): string {
  const { engine } = plan.paths
  const inside = Object.fromEntries(Object.entries(plan.paths).map(([what, path]) => [what, path === engine ? '.' : path.startsWith(`${engine}/`) ? path.slice(engine.length + 1) : path])) as CachePlan['paths']
  return renderNginxConf({ ...plan, paths: inside })
}

/** Puts the configuration where the engine reads it. */
async function writeEngineConfig ({ paths, spec }: CachePlan, config: string, signal: AbortSignal): Promise<void> {
  const [perl = 'perl'] = resolvedArgv(['perl'])
  const [setpriv = 'setpriv', ...as] = keeperArgv('engine', [], spec.vni)
  await runOutside(setpriv, [...as, perl, '-e', WRITE_CONFIG], { cwd: paths.engine, input: config, signal })
}

/** nginx, with listening sockets for what TPROXY hands over. @param config text of its configuration */
export function engineService (plan: CachePlan, config: string): ServiceSpec {
  const { paths, listeners } = plan
  return {
    argv: [...keeperArgv('engine', ENGINE_CAPABILITIES, plan.spec.vni), 'perl', LAUNCHER, ...listeners.map(({ listenPort }) => `127.0.0.1:${listenPort}`), '--',
      'nginx', '-p', './', '-c', ENGINE_CONFIG, '-e', basename(paths.errorLog)],
    netns: plan.namespace,
    // entered as root, below whose folders it lies: the engine itself may not pass through these
    cwd: paths.engine,
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
  /** As `runsAsWanted`, of the engine: in its folder as it is now. */
  engineAsWanted: (plan: CachePlan, config: string) => Promise<boolean>
  ensureEngine: (plan: CachePlan, config: string, signal: AbortSignal) => Promise<void>
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

    async engineAsWanted (plan, config) {
      const status = await services.status(plan.services.engine)
      return await runsAsWanted(status, engineService(plan, config), plan.namespace) && await isIn(status.pid, plan.paths.engine)
    },

    async ensureEngine (plan, config, signal) {
      await writeEngineConfig(plan, config, signal)
      const { pid } = await services.status(plan.services.engine)
      // its folder was deleted and made again
      if (pid !== null && !await isIn(pid, plan.paths.engine)) await services.stop(plan.services.engine)
      await ensureService(plan.services.engine, engineService(plan, config), plan.namespace)
    },

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
