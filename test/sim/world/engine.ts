/**
 * What really runs on a host, and the helper that alone starts and stops it: a process of its own
 * with the product's fence on a disk of its own. Commands of agents take their time, overtake each
 * other and arrive although the agent that sent them has died.
 */
import { openFence, type Fence, type FenceClaim } from '../../../agent/helper/fence/store.ts'
import { errorCode, MusubiError } from '../../../protocol/core/errors.ts'
import type { FenceRecord } from '../../../protocol/core/fence/fence.ts'
import { createLevelStore, type RecordCodec } from '../../../store/level.ts'
import type { HostClock } from '../kernel/clock.ts'
import type { Disk } from '../kernel/disk.ts'
import type { Kernel, Timer } from '../kernel/kernel.ts'
import type { Prng } from '../kernel/prng.ts'
import type { ResourceFacts, RunningFacts } from '../observation.ts'

/** What the agent adds to a claim so that the checker can tell what runs. */
export interface Thing { kind: string, leaseId: string, resources: ResourceFacts, segmentId: number }

export type Command =
  | { op: 'grant', resource: string, claim: FenceClaim, thing: Thing }
  | { op: 'revoke', resource: string, clusterId: string, counter: number }
  | { op: 'gone', resource: string, counter: number }

export interface Seen { running: RunningFacts[], records: FenceRecord[] }

export interface Helper {
  /** Looks at engine and records at this moment. */
  look (): Seen
  /**
   * Works a command in now. Resolves when the engine has done it. @throws MusubiError of the fence
   *
   * @param ledgerMs the agent's ledger clock when it was sent
   */
  work (command: Command, ledgerMs: number): Promise<void>
  running (): RunningFacts[]
  records (): FenceRecord[]
  /** Time passes: what has ended is stopped, what is long gone forgotten. */
  tick (): Promise<void>
  /** the machine lost power: nothing runs */
  powerOff (): void
  powerOn (): Promise<void>
  isUp (): boolean
}

export interface HelperOptions {
  kernel: Kernel
  chance: Prng
  clock: HostClock
  disk: Disk
  /** default: as on a real disk */
  codec?: RecordCodec
  /** engine or fence has changed; `what` for the trace */
  changed: (what: string) => void
  worked: (command: 'grant' | 'revoke' | 'expire', resource: string, clusterId: string, counter: number, why: string) => void
}

/** How often the helper looks for what has ended, ms. */
export const HELPER_TICK_MS = 2_000
const STOP_MS = 1_000

export function createHelper ({ kernel, chance, clock, disk, codec, changed, worked }: HelperOptions): Helper {
  const engine = new Map<string, RunningFacts>()
  let fence: Fence | null = null
  let life = 0
  /** its reading of the ledger clock, and when that was */
  let ledgerMs = 0
  let readAt = 0
  let ticking: Timer | null = null
  const stopping = new Map<string, Promise<void>>()

  const now = (): number => Math.floor(Math.max(ledgerMs + clock.monotonic() - readAt, ledgerMs))

  function stop (resource: string): Promise<void> {
    const under = stopping.get(resource)
    if (under !== undefined) return under
    if (!engine.has(resource)) return Promise.resolve()
    const mine = life
    const done = new Promise<void>(resolve => {
      kernel.after(chance.between(1, STOP_MS), () => {
        if (mine !== life) return
        stopping.delete(resource)
        engine.delete(resource)
        changed(`stopped ${resource}`)
        resolve()
      })
    })
    stopping.set(resource, done)
    return done
  }

  async function tick (): Promise<void> {
    const open = fence
    if (open === null) return
    await open.tick().catch(() => undefined)
    for (const record of open.records()) {
      if (record.state !== 'revoking' || !engine.has(record.resource) || stopping.has(record.resource)) continue
      worked('expire', record.resource, record.clusterId, record.counter, '')
      void stop(record.resource)
    }
  }

  /** Looks again and again, as long as there is anything that could end. */
  function schedule (): void {
    if (ticking !== null || engine.size === 0) return
    const mine = life
    ticking = kernel.after(HELPER_TICK_MS, () => {
      ticking = null
      if (mine !== life) return
      void tick()
      schedule()
    })
  }

  async function work (command: Command, sentMs: number): Promise<void> {
    const open = fence
    if (open === null) {
      await new Promise<never>(() => undefined)
      return
    }
    if (sentMs > now()) { ledgerMs = sentMs; readAt = clock.monotonic() }
    const mine = life
    const refused = (error: unknown): never => {
      if (command.op !== 'gone') worked(command.op, command.resource, command.op === 'grant' ? command.claim.clusterId : command.clusterId, command.op === 'grant' ? command.claim.counter : command.counter, errorCode(error))
      throw error
    }
    switch (command.op) {
      case 'grant': {
        await open.grant(command.resource, command.claim).catch(refused)
        if (mine !== life) return
        // Revoked while the grant was being written: what the fence says now counts.
        const stands = open.get(command.resource)
        if (stands?.state !== 'granted' || stands.counter > command.claim.counter) refused(new MusubiError('STALE_COUNTER', `${command.resource} was revoked meanwhile`, { retryable: true }))
        // Stopping already: it is started again by a later pass, when it is found missing.
        if (!stopping.has(command.resource) && !engine.has(command.resource)) {
          engine.set(command.resource, { resource: command.resource, clusterId: command.claim.clusterId, ...command.thing, counter: command.claim.counter, sinceTrueMs: kernel.now() })
        }
        worked('grant', command.resource, command.claim.clusterId, command.claim.counter, '')
        changed(`started ${command.resource}`)
        schedule()
        return
      }
      case 'revoke':
        await open.revoke(command.resource, command.clusterId, command.counter).catch(refused)
        if (mine !== life) return
        worked('revoke', command.resource, command.clusterId, command.counter, '')
        changed(`revoked ${command.resource}`)
        await stop(command.resource)
        return
      case 'gone':
        if (engine.has(command.resource)) return
        await open.gone(command.resource, command.counter).catch(refused)
        changed(`gone ${command.resource}`)
    }
  }

  return {
    look: () => ({ running: [...engine.values()], records: fence?.records() ?? [] }),
    work,
    tick,
    running: () => [...engine.values()],
    records: () => fence?.records() ?? [],
    isUp: () => fence !== null,
    powerOff () {
      life++
      fence = null
      engine.clear()
      stopping.clear()
      ticking = null
    },
    async powerOn () {
      const mine = ++life
      ledgerMs = clock.wall()
      readAt = clock.monotonic()
      const opened = await openFence({ store: createLevelStore(disk.attach(() => life === mine), 'helper', codec), now })
      if (life === mine) fence = opened
    }
  }
}
