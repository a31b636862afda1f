import { randomUUID } from 'node:crypto'
import { mkdir } from 'node:fs/promises'
import type { Socket } from 'node:net'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Logger } from 'pino'
import { createBootClock } from '../system/boot-clock.ts'
import type { AgentConfig } from '../config.ts'
import { createDetails } from '../details.ts'
import { createFakeDrivers, createRealDrivers, helperRunDir, kindsOf, type HostDrivers } from '../drivers/registry.ts'
import { refuseStrangers } from '../system/owners.ts'
import type { ServiceManager } from '../services.ts'
import { bootId } from '../services/proc.ts'
import { createServices } from '../services/select.ts'
import { describeError, errorCode } from '../../protocol/core/errors.ts'
import { HELPER_TICK_MS } from '../../protocol/core/limits.ts'
import { openLevelStore } from '../../store/level.ts'
import { openHelperClock } from './fence/clock.ts'
import { agentAccount, createAdmit, peerCredentials, type PeerCredentials } from './credentials.ts'
import { createExpiry } from './fence/expiry.ts'
import { openFence, type Fence } from './fence/store.ts'
import { termsOf, withForwarding } from './fence/forwarding.ts'
import { createHands } from './hands.ts'
import { createHandlers } from './handlers.ts'
import { createOwned } from './owned/owned.ts'
import { createRepeated, openDeedRecord, type Deed } from './record.ts'
import { listenHelper, type Serve } from './server.ts'
import { VERBS, type VerbName } from './wire/verbs.ts'

export interface Helper {
  /** of this process, as `hello` tells it */
  readonly instance: string
  readonly fence: Fence
  /** Takes no more calls, lets what is under way come to its end, and closes the store. */
  stop (): Promise<void>
}

export interface HelperOverrides {
  /** instead of the drivers that the configuration asks for */
  host?: HostDrivers
  /** instead of asking the kernel */
  credentials?: (socket: Socket) => Promise<PeerCredentials>
  /** wall clock, Unix ms */
  now?: () => number
  times?: { tickMs?: number, idleMs?: number, frameMs?: number }
}

/** What is under way when the helper is stopped: a driver's longest command ends by then. */
const STOP_MS = 12_000

/**
 * Everything of the process that holds the privileges: store and fence first, then drivers and clock,
 * then the socket. It opens no other socket, and what it does without being asked is to end what has
 * outlived its lease.
 *
 * @throws MusubiError STORE_LOCKED when another helper runs with this folder, LISTEN; InvalidInputError without the agent's user, and for folders that others can change
 */
export async function startHelper (config: AgentConfig, log: Logger, overrides: HelperOverrides = {}): Promise<Helper> {
  const { socket: socketPath, stateDir, agentUser } = config.helper
  const wall = overrides.now ?? (() => Date.now())
  const sinceBoot = createBootClock()
  const boot = bootId()
  const instance = randomUUID()
  const agent = await agentAccount(agentUser)
  await mkdir(stateDir, { recursive: true, mode: 0o700 })
  await mkdir(dirname(socketPath), { recursive: true, mode: 0o755 })
  for (const folder of [stateDir, dirname(socketPath)]) await refuseStrangers(folder)
  const store = await openLevelStore(join(stateDir, 'fence'))
  const clock = await openHelperClock(store, { wall, sinceBoot, bootId: boot })
  const kept = await openFence({ store, now: () => clock.now() })
  const record = await openDeedRecord(join(stateDir, 'record.jsonl'))
  const services: ServiceManager | null = config.drivers === 'fake' ? null : createServices({ dir: join(helperRunDir(config), 'services') })
  const host = overrides.host ?? (services === null ? createFakeDrivers(config) : createRealDrivers(config, services, termsOf(kept, () => clock.now(), sinceBoot)))
  const fence = withForwarding(kept, async signal => { await host.syncForwarding?.(signal) }, error => { log.error({ error: describeError(error) }, 'cannot tell the keeper of forwarding leases') })
  const hands = createHands({ drivers: host.drivers, fence })

  /** A line that cannot be written is no reason to leave something running, or half made. */
  const note = async (deed: Omit<Deed, 'time' | 'boot'>, durable: boolean): Promise<void> => {
    await record.write({ time: Math.round(wall()), boot, ...deed }, durable).catch((error: unknown) => { log.error({ error: describeError(error) }, 'the record cannot be written') })
  }
  async function recorded<T> (deed: Omit<Deed, 'time' | 'boot' | 'outcome' | 'ms'>, work: () => Promise<T>): Promise<T> {
    const started = performance.now()
    const end = async (outcome: string): Promise<void> => { await note({ ...deed, outcome, ms: Math.round(performance.now() - started) }, true) }
    await note({ ...deed, outcome: 'begun' }, false)
    try {
      const result = await work()
      await end('done')
      return result
    } catch (error) {
      await end(errorCode(error))
      throw error
    }
  }
  const ended = createRepeated(note)

  const handlers = createHandlers({
    config, host, hands, fence, clock, log,
    details: createDetails(host.details, () => performance.now()),
    owned: createOwned({ host, hands, fence, services: overrides.host === undefined ? services : null }),
    hello: { instance, bootId: boot, kinds: kindsOf(config) }
  })
  const serve: Serve = async (verb, params, call) => {
    const work = () => handlers[verb](params, call)
    return isDeed(verb) ? await recorded({ verb, ...subject(params) }, work) : await work()
  }
  const server = await listenHelper({
    socketPath, gid: process.getuid?.() === 0 ? agent.gid : null, admit: createAdmit(agent.uid), credentials: overrides.credentials ?? peerCredentials, serve, log,
    ...(overrides.times === undefined ? {} : { times: overrides.times })
  })

  const expire = createExpiry({
    fence, hands, drivers: host.drivers, now: () => clock.now(), log, attended: () => server.agents() > 0,
    removed: async ({ resource, clusterId, counter }, work) => {
      await ended({ verb: 'expire', resource, clusterId, counter }, work)
      log.info({ object: resource, clusterId }, 'ended: it had outlived its lease')
    }
  })
  let round: Promise<void> | null = null
  const timer = setInterval(() => {
    round ??= (async () => {
      await clock.tick()
      await expire()
    })().catch((error: unknown) => { log.error({ error: describeError(error) }, 'cannot look for what has ended') }).finally(() => { round = null })
  }, overrides.times?.tickMs ?? HELPER_TICK_MS)

  let stopping: Promise<void> | null = null
  async function stop (): Promise<void> {
    clearInterval(timer)
    await server.close()
    await Promise.race([Promise.all([round, hands.idle()]), sleep(STOP_MS, undefined, { ref: false })])
    await record.close()
    await store.close()
  }

  return {
    instance,
    fence,
    stop: () => stopping ??= stop()
  }
}

/** Verbs that are put on record: all that change something. */
function isDeed (verb: VerbName): boolean {
  return VERBS[verb].access !== 'read' && verb !== 'tunnel-tracks' && verb !== 'segment-ping'
}

/** Of what a deed is, and in whose name; specs hold secrets and are not written down. */
function subject (params: object): Pick<Deed, 'resource' | 'clusterId' | 'counter'> {
  const { kind, name, resource, claim, clusterId, counter } = params as { kind?: string, name?: string, resource?: string, claim?: { clusterId: string, counter: number } | null, clusterId?: string, counter?: number }
  const of = resource ?? (kind === undefined || name === undefined ? undefined : `${kind} ${name}`)
  const who = claim?.clusterId ?? clusterId
  const at = claim?.counter ?? counter
  return { ...(of === undefined ? {} : { resource: of }), ...(who === undefined ? {} : { clusterId: who }), ...(at === undefined ? {} : { counter: at }) }
}
