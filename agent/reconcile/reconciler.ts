import type { Logger } from 'pino'
import type { Driver, ObservedObject } from '../drivers/driver.ts'
import type { DesiredObject, ObjectKind } from '../../protocol/core/desired.ts'
import { KIND_ORDER } from '../../protocol/core/desired.ts'
import { createBackoff } from './backoff.ts'
import { createHands, type Hands } from '../helper/hands.ts'
import { createPermits, isRefusal, type Permits, type Tenancy } from '../helper/fence/permits.ts'
import type { Fence } from '../helper/fence/store.ts'
import { clusterOf, conflicts, diff, whyUnhealthy, type Action } from './diff.ts'
import { describeError, MusubiError } from '../../protocol/core/errors.ts'
import { RECONCILE_INTERVAL_MS, RECONCILE_RETRY_MS } from '../../protocol/core/limits.ts'

/** Drivers by kind; a host has only those of its roles. */
export type DriverSet = { [K in ObjectKind]?: Driver<K> }
/** Who can tell what is there; acting is another's. */
export type Observers = { [K in ObjectKind]?: Pick<Driver<K>, 'kind' | 'observe'> }

export interface ObjectState {
  kind: ObjectKind
  name: string
  state: 'ok' | 'pending' | 'failed' | 'removing'
  error: string
  detail: Record<string, unknown>
}

interface Wishes {
  /** what this host must run now; asked at every pass */
  desired: () => DesiredObject[] | Promise<DesiredObject[]>
  log: Logger
  onChange?: (object: ObjectState) => void
  /** what nobody can tell the wishes of, by the first part of object names (`clusterOf`), with the reason: left as it is */
  leaveAlone?: () => ReadonlyMap<string, string>
  /** monotonic milliseconds, for the pauses between tries */
  monotonic?: () => number
  /** has the last word on every action, and what the ledger says at the moment of `desired`; absent: nothing is fenced */
  fence?: { fence: Fence, tenancy: () => Tenancy }
}

/** With the drivers of this process, or with those of another one, which acts for it. */
export type ReconcilerOptions = Wishes & ({ drivers: DriverSet, hands?: undefined } | { drivers: Observers, hands: Pick<Hands, 'apply' | 'remove'> })

export interface Reconciler {
  /** Asks for a pass soon; many calls make one pass. */
  trigger (): void
  /** Desired and left-over objects as of the last pass. */
  states (): ObjectState[]
  /** Kinds that the last pass could not see, with the reason: nothing is known of what runs there. */
  unseen (): ReadonlyMap<ObjectKind, string>
  /** Resolves when what runs here has been looked at once since the start. */
  looked (): Promise<void>
  /**
   * Waits until what runs here has been looked at by a pass that begins now; one under way leaves
   * what it has not begun to that pass, in which removals come first.
   *
   * @throws MusubiError `STOPPING`
   */
  look (): Promise<void>
  /** Runs passes now until there is nothing to do, or something has failed, and waits for that. */
  pass (): Promise<void>
  stop (): Promise<void>
}

/** `ok`: nothing is left to be tried again; `changed`: something was made or removed. */
interface PassOutcome { ok: boolean, changed: boolean }

const APPLY_TIMEOUT_MS = 90_000
const OBSERVE_TIMEOUT_MS = 30_000
/** Applies of one kind that run at once: two cores, and most of an apply is waiting. */
const PARALLEL = 4
/** Passes in a row without anybody asking: an object that never becomes healthy must not turn the loop into a busy one. */
const MAX_PASSES = 3

const allKinds = (why: string): Map<ObjectKind, string> => new Map(KIND_ORDER.map(kind => [kind, why]))

/**
 * Drives the host to its desired objects, level-triggered: observe all, `diff`, act; again on every
 * trigger, after failures, and every few seconds. Nothing is remembered between passes but errors,
 * and when to try again what failed: one cluster's trouble must not take the time of the others.
 */
export function createReconciler (options: ReconcilerOptions): Reconciler {
  const { drivers, log } = options
  const known = new Map<string, ObjectState>()
  let unseen: ReadonlyMap<ObjectKind, string> = allKinds('nothing has been looked at yet')
  let timer: NodeJS.Timeout | undefined
  let running: Promise<void> | undefined
  /** `again`: somebody asked for a pass during one */
  const asked = { again: false, stopped: false }
  const isAsked = (): boolean => asked.again
  const lookers: Array<() => void> = []
  const backoff = createBackoff(options.monotonic ?? (() => performance.now()))
  const permits: Permits | null = options.fence === undefined ? null : createPermits(options.fence.fence)
  const hands = options.hands ?? createHands({ drivers: options.drivers, fence: options.fence?.fence ?? null })
  const { promise: looked, resolve: resolveLooked } = Promise.withResolvers<undefined>()

  const key = (kind: string, name: string): string => `${kind}/${name}`

  function note (kind: ObjectKind, name: string, state: ObjectState['state'], error: string, detail: Record<string, unknown>): void {
    const before = known.get(key(kind, name))
    const next: ObjectState = { kind, name, state, error, detail }
    known.set(key(kind, name), next)
    if (before?.state !== state || before.error !== error) options.onChange?.(next)
  }

  async function observeAll (): Promise<{ observed: ObservedObject[], blind: Map<ObjectKind, string> }> {
    const observed: ObservedObject[] = []
    const blind = new Map<ObjectKind, string>()
    await Promise.all(KIND_ORDER.map(async kind => {
      const driver = drivers[kind]
      if (driver === undefined) return
      try {
        observed.push(...await driver.observe(AbortSignal.timeout(OBSERVE_TIMEOUT_MS)))
      } catch (error) {
        // A kind that cannot be seen is left alone: acting blindly could remove what still runs.
        blind.set(kind, describeError(error))
        log.warn({ kind, error: describeError(error) }, 'cannot observe')
      }
    }))
    return { observed, blind }
  }

  async function act (action: Action): Promise<boolean> {
    const started = backoff.start()
    const ok = await attempt(action)
    if (ok) backoff.succeeded(action)
    else backoff.failed(action, started)
    return ok
  }

  async function attempt (action: Action): Promise<boolean> {
    if (drivers[action.kind] === undefined) {
      note(action.kind, action.name, 'failed', `this host has no driver for a ${action.kind}`, {})
      return false
    }
    const started = performance.now()
    try {
      const signal = AbortSignal.timeout(APPLY_TIMEOUT_MS)
      const before = known.get(key(action.kind, action.name))
      // What fails again and again is news once, not at every try.
      if (before?.state !== 'failed') note(action.kind, action.name, action.op === 'apply' ? 'pending' : 'removing', before?.error ?? '', {})
      if (action.op === 'apply') await hands.apply(action, permits?.claimFor(action) ?? null, signal)
      else await hands.remove(action, permits?.orderFor(action) ?? null, signal)
      log.info({ op: action.op, kind: action.kind, object: action.name, why: action.why, ms: Math.round(performance.now() - started) }, 'reconciled')
      return true
    } catch (error) {
      if (isRefusal(error)) {
        // Decided before something that has changed since: the next pass decides anew.
        note(action.kind, action.name, action.op === 'apply' ? 'pending' : 'removing', describeError(error), {})
        log.info({ op: action.op, kind: action.kind, object: action.name, error: describeError(error) }, 'refused by the fence')
        return false
      }
      note(action.kind, action.name, 'failed', describeError(error), {})
      log.error({ op: action.op, kind: action.kind, object: action.name, error: describeError(error) }, 'cannot reconcile')
      return false
    }
  }

  /**
   * Runs actions kind by kind in the order that diff gave; those of one kind side by side. Leaves
   * early, after what has begun, when somebody asks for a new pass: what they wait for may come first then.
   */
  async function actAll (actions: readonly Action[]): Promise<PassOutcome> {
    const outcome: PassOutcome & { tried: boolean } = { ok: true, changed: false, tried: false }
    const failedClusters = new Set<string>()
    for (let i = 0; i < actions.length && !(asked.again && outcome.tried) && !asked.stopped;) {
      const first = actions[i]
      if (first === undefined) break
      let end = i
      while (actions[end]?.kind === first.kind && actions[end]?.op === first.op) end++
      const group = actions.slice(i, end)
      i = end
      // What stands on something that failed waits for the next pass; its own kind does not stand on it.
      const blocked = new Set(failedClusters)
      const todo = group.filter(action => {
        if (action.op === 'apply' && blocked.has(clusterOf(action.name))) { outcome.ok = false; return false }
        if (backoff.isDue(action)) return true
        outcome.ok = false
        failedClusters.add(clusterOf(action.name))
        return false
      })
      const worker = async (): Promise<void> => {
        for (let action = todo.shift(); action !== undefined; action = asked.again || asked.stopped ? undefined : todo.shift()) {
          outcome.tried = true
          if (await act(action)) outcome.changed = true
          else { outcome.ok = false; failedClusters.add(clusterOf(action.name)) }
        }
      }
      await Promise.all(Array.from({ length: Math.min(PARALLEL, todo.length) }, worker))
    }
    return outcome
  }

  /** Clusters whose wishes cannot be told, with the reason: neither made nor removed, and shown as failed. */
  function undecided (desired: readonly DesiredObject[]): ReadonlyMap<string, string> {
    const held = new Map(options.leaveAlone?.())
    for (const { name, why } of conflicts(desired)) held.set(clusterOf(name), why)
    return held
  }

  /** @param seen called when what runs here has been looked at, before anything is done */
  async function onePass (seen: () => void): Promise<PassOutcome> {
    // Before the wishes: what is decided on them is never newer than this.
    const tenancy = options.fence?.tenancy() ?? null
    const desired = await options.desired()
    const held = undecided(desired)
    const { observed, blind } = await observeAll()
    unseen = blind
    if (tenancy !== null) await permits?.begin(tenancy, observed, blind)
    const allowed = desired.filter(d => permits?.mayStand(d) ?? true)
    const actions = diff(allowed.filter(d => !blind.has(d.kind) && !held.has(clusterOf(d.name))), observed.filter(o => !held.has(clusterOf(o.name))))
    backoff.keep(actions)
    for (const d of [...desired, ...observed]) {
      const reason = blind.get(d.kind) ?? held.get(clusterOf(d.name))
      if (reason !== undefined) note(d.kind, d.name, 'failed', reason, {})
    }
    const toDo = new Set(actions.map(a => key(a.kind, a.name)))
    for (const o of observed) {
      if (!toDo.has(key(o.kind, o.name)) && !held.has(clusterOf(o.name))) note(o.kind, o.name, o.healthy ? 'ok' : 'pending', o.healthy ? '' : whyUnhealthy(o), o.detail)
    }
    // What waits for its turn is shown from the first look on: it is not gone.
    for (const { kind, name, op } of actions) if (!known.has(key(kind, name))) note(kind, name, op === 'apply' ? 'pending' : 'removing', '', {})
    const wanted = new Set(desired.map(d => key(d.kind, d.name)))
    const present = new Set(observed.map(o => key(o.kind, o.name)))
    for (const [k, { kind, name, detail }] of known) {
      if (wanted.has(k) || present.has(k)) continue
      const reason = blind.get(kind)
      if (reason === undefined) known.delete(k)
      else note(kind, name, 'failed', reason, detail) // it may still be there
    }
    resolveLooked(undefined)
    seen()
    const { ok, changed } = await actAll(actions)
    return { ok: ok && blind.size === 0 && held.size === 0, changed }
  }

  async function loop (): Promise<void> {
    for (let passes = 0; !asked.stopped;) {
      asked.again = false
      const mine = lookers.splice(0)
      const outcome = await onePass(() => { for (const resolve of mine) resolve() }).catch((error: unknown) => {
        unseen = allKinds(describeError(error))
        resolveLooked(undefined)
        log.error({ error: describeError(error) }, 'reconcile pass failed')
        return { ok: false, changed: false }
      })
      for (const resolve of mine) resolve()
      if (isAsked()) continue
      // When it has changed something the next pass sees what it became, and shows it.
      if (outcome.changed && ++passes < MAX_PASSES) continue
      if (outcome.ok && !outcome.changed) schedule(RECONCILE_INTERVAL_MS)
      else schedule(Math.min(RECONCILE_INTERVAL_MS, Math.max(RECONCILE_RETRY_MS, backoff.nextDueMs())))
      return
    }
  }

  function start (): Promise<void> {
    clearTimeout(timer)
    running ??= loop().finally(() => {
      running = undefined
      // Asked for just as the loop ended, or stopped: nobody is left waiting.
      if (asked.stopped) for (const resolve of lookers.splice(0)) resolve()
      else if (asked.again) void start()
    })
    return running
  }

  function schedule (delayMs: number): void {
    if (asked.stopped) return
    clearTimeout(timer)
    timer = setTimeout(() => { void start() }, delayMs)
  }

  return {
    trigger () {
      if (asked.stopped) return
      if (running !== undefined) asked.again = true
      else schedule(10)
    },
    states: () => [...known.values()],
    unseen: () => unseen,
    looked: () => looked,
    async look () {
      await new Promise<void>(resolve => {
        if (asked.stopped) { resolve(); return }
        lookers.push(resolve)
        if (running !== undefined) asked.again = true
        else void start()
      })
      // What was seen before may be old: nobody must conclude from it that something is gone.
      if (asked.stopped) throw new MusubiError('STOPPING', 'this agent is stopping', { retryable: true })
    },
    async pass () {
      if (running !== undefined) await running
      await start()
    },
    async stop () {
      asked.stopped = true
      resolveLooked(undefined)
      clearTimeout(timer)
      await running
    }
  }
}
