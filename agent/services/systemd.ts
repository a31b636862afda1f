import { mkdir, rm, stat, truncate } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { ConflictError, MusubiError, NotFoundError } from '../../protocol/core/errors.ts'
import { CommandError, resolvedArgv, run } from '../exec.ts'
import { fingerprint } from '../fingerprint.ts'
import type { ServiceManager, ServiceSpec, ServiceStatus } from '../services.ts'
import { assertServiceName, LOG_MAX_BYTES, logTail, SETTLE_MS, STOP_GRACE_MS } from './common.ts'
import { createTurns } from '../turns.ts'

/** After SIGKILL only a process stuck in the kernel is left. */
const KILL_WAIT_MS = 5_000
const POLL_MS = 50
/** However often it fails; SIGTERM is no failure. */
const KEEPER = ['--property=Restart=on-failure', '--property=RestartSec=1s', '--property=StartLimitIntervalSec=0'] as const
/**
 * What a keeper that is confined can do nothing with. No mounts of its own: it is to see namespaces that get names later. It
 * starts as root to become somebody else, hence the three capabilities of setpriv.
 */
const confinement = (capabilities: readonly string[]): string[] => [
  `CapabilityBoundingSet=${[...capabilities, 'setuid', 'setgid', 'setpcap'].map(one => `CAP_${one.toUpperCase()}`).join(' ')}`,
  'NoNewPrivileges=yes', 'RestrictAddressFamilies=AF_NETLINK', 'RestrictNamespaces=net', 'RestrictSUIDSGID=yes', 'RestrictRealtime=yes', 'LockPersonality=yes', 'MemoryDenyWriteExecute=yes',
  'SystemCallArchitectures=native', 'SystemCallFilter=@system-service setns', 'SystemCallErrorNumber=EPERM', 'IPAddressDeny=any', 'DevicePolicy=closed', 'UMask=0077', 'KeyringMode=private', 'TasksMax=1'
].map(one => `--property=${one}`)
const SHOWN = 'Id,LoadState,ActiveState,MainPID,Description'

export interface UnitState {
  /** name with its type, e.g. `musubi-svc-tgtd.service` */
  id: string
  loaded: boolean
  activeState: string
  mainPid: number
  description: string
}

/** Parses the blocks of `systemctl show -p Id,LoadState,ActiveState,MainPID,Description UNIT...`. */
export function parseUnits (text: string): UnitState[] {
  const units: UnitState[] = []
  for (const block of text.split(/\n\s*\n/)) {
    const values = new Map<string, string>()
    for (const line of block.split('\n')) {
      const at = line.indexOf('=')
      if (at > 0) values.set(line.slice(0, at), line.slice(at + 1))
    }
    const id = values.get('Id')
    if (id === undefined) continue
    units.push({
      id,
      loaded: values.get('LoadState') === 'loaded',
      activeState: values.get('ActiveState') ?? 'unknown',
      mainPid: Number(values.get('MainPID') ?? 0) || 0,
      description: values.get('Description') ?? ''
    })
  }
  return units
}

/** systemd expands `$NAME` in command lines, transient units included. */
export function escapeArgument (argument: string): string {
  return argument.replaceAll('$', '$$$$')
}

/**
 * Services as transient systemd units `<unitPrefix><name>.service`. systemd itself keeps the state:
 * the fingerprint is the last word of the unit's description, so nothing can be lost. Only the
 * output goes to `<dir>/<name>.log`, as with the pidfile services.
 */
export function createSystemdServices (options: { unitPrefix: string, dir: string }): ServiceManager {
  const dir = resolve(options.dir)
  const { unitPrefix } = options
  const turns = createTurns()
  const unitOf = (name: string): string => `${unitPrefix}${name}.service`
  const logPath = (name: string): string => join(dir, `${name}.log`)

  async function show (pattern: string): Promise<UnitState[]> {
    const { stdout } = await run('systemctl', ['show', `--property=${SHOWN}`, '--', pattern])
    return parseUnits(stdout).filter(unit => unit.loaded)
  }

  function toStatus (name: string, unit: UnitState | undefined): ServiceStatus {
    const running = unit !== undefined && unit.mainPid > 0 && ['active', 'activating', 'reloading'].includes(unit.activeState)
    const print = / spec=([0-9a-f]+)$/.exec(unit?.description ?? '')?.[1]
    return { name, running, pid: running ? unit.mainPid : null, fingerprint: print ?? null }
  }

  async function statusOf (name: string): Promise<ServiceStatus> {
    return toStatus(name, (await show(unitOf(name)))[0])
  }

  async function signal (name: string, who: 'main' | 'all', which: NodeJS.Signals): Promise<void> {
    try {
      await run('systemctl', ['kill', `--kill-who=${who}`, `--signal=${which}`, '--', unitOf(name)])
    } catch (error) {
      // it ended in between: what was asked for has happened
      if (!(error instanceof CommandError) || (await statusOf(name)).running) throw error
    }
  }

  /** True when the unit is neither running nor ending. */
  async function settled (name: string, timeoutMs: number): Promise<boolean> {
    const deadline = Date.now() + timeoutMs
    for (;;) {
      const unit = (await show(unitOf(name)))[0]
      if (unit === undefined || ['inactive', 'failed'].includes(unit.activeState)) return true
      if (Date.now() >= deadline) return false
      await sleep(POLL_MS)
    }
  }

  async function stopUnit (name: string, graceMs: number): Promise<void> {
    const unit = (await show(unitOf(name)))[0]
    if (unit === undefined) return
    // a keeper between two starts has no process to be told, and would come back
    const noMore = async (): Promise<void> => { await run('systemctl', ['stop', '--no-block', '--', unitOf(name)], { okCodes: [1, 5] }) }
    if (unit.mainPid === 0) await noMore()
    else await signal(name, 'main', 'SIGTERM')
    if (!await settled(name, graceMs)) {
      await signal(name, 'all', 'SIGKILL')
      await noMore()
      if (!await settled(name, KILL_WAIT_MS)) {
        throw new ConflictError(`unit ${unitOf(name)} does not end after SIGKILL`, `look at systemctl status ${unitOf(name)}`)
      }
    }
    // a failed transient unit stays loaded until it is reset; one that ended well is gone already
    await run('systemctl', ['reset-failed', '--', unitOf(name)], { okCodes: [1, 5] })
  }

  async function start (name: string, spec: ServiceSpec): Promise<ServiceStatus> {
    const argv = resolvedArgv(spec.argv, spec.netns)
    await mkdir(dir, { recursive: true, mode: 0o700 })
    await rm(logPath(name), { force: true })
    const environment = { HOME: '/root', LC_ALL: 'C', ...spec.env }
    let failure: string | null = null
    try {
      await run('systemd-run', [
        '--quiet', `--unit=${unitOf(name)}`,
        `--description=Musubi service ${name} spec=${fingerprint(spec)}`,
        '--property=Type=exec', '--property=KillMode=mixed', '--property=TimeoutStopSec=2s', ...(spec.keeper === true ? KEEPER : ['--property=Restart=no']), '--property=LimitNOFILE=65536', ...(spec.confined === undefined ? [] : confinement(spec.confined.capabilities)),
        `--property=StandardOutput=append:${logPath(name)}`, `--property=StandardError=append:${logPath(name)}`,
        `--working-directory=${spec.cwd ?? '/'}`,
        ...Object.entries(environment).map(([key, value]) => `--setenv=${key}=${value}`),
        '--', ...argv.map(escapeArgument)
      ])
      await sleep(SETTLE_MS)
    } catch (error) {
      failure = error instanceof Error ? error.message : String(error)
    }
    const status = await statusOf(name)
    if (failure === null && status.running) return status
    const tail = await logTail(logPath(name))
    await stopUnit(name, 0)
    await rm(logPath(name), { force: true })
    throw new MusubiError('SERVICE_FAILED', `service ${name} ended at once${[failure, tail].filter(Boolean).map(text => `: ${text}`).join('')}`, { retryable: true })
  }

  return {
    async ensure (name, spec) {
      assertServiceName(name)
      return await turns(name, async () => {
        const now = await statusOf(name)
        if (now.running && now.fingerprint === fingerprint(spec)) {
          const size = await stat(logPath(name)).then(found => found.size, () => 0)
          if (size > LOG_MAX_BYTES) await truncate(logPath(name), 0)
          return now
        }
        await stopUnit(name, STOP_GRACE_MS)
        return await start(name, spec)
      })
    },
    async stop (name, graceMs = STOP_GRACE_MS) {
      assertServiceName(name)
      await turns(name, async () => {
        await stopUnit(name, graceMs)
        await rm(logPath(name), { force: true })
      })
    },
    async kill (name, which) {
      assertServiceName(name)
      await turns(name, async () => {
        if (!(await statusOf(name)).running) throw new NotFoundError(`service ${name} does not run`)
        await signal(name, 'main', which)
      })
    },
    async status (name) {
      assertServiceName(name)
      return await statusOf(name)
    },
    async list () {
      const units = await show(`${unitPrefix}*.service`)
      return units.map(unit => toStatus(unit.id.slice(unitPrefix.length, -'.service'.length), unit))
        .sort((a, b) => (a.name < b.name ? -1 : 1))
    }
  }
}
