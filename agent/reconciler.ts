import type { Logger } from 'pino'
import type { Driver, ObservedObject } from './drivers/driver.ts'
import type { DesiredObject, ObjectKind, SpecByKind } from '../protocol/core/desired.ts'
import { KIND_ORDER } from '../protocol/core/desired.ts'
import { diff, type Action } from './diff.ts'
import { describeError } from '../protocol/core/errors.ts'
import { RECONCILE_INTERVAL_MS, RECONCILE_RETRY_MS } from '../protocol/core/limits.ts'

/** Drivers by kind; a host has only those of its roles. */
export type DriverSet = { [K in ObjectKind]?: Driver<K> }

export interface ObjectState {
  kind: ObjectKind
  name: string
  state: 'ok' | 'pending' | 'failed' | 'removing'
  error: string
  detail: Record<string, unknown>
}

export interface ReconcilerOptions {
  drivers: DriverSet
  /** what this host must run now; asked at every pass */
  desired: () => DesiredObject[] | Promise<DesiredObject[]>
  log: Logger
  onChange?: (object: ObjectState) => void
}

export interface Reconciler {
  /** Asks for a pass soon; many calls make one pass. */
  trigger (): void
  /** Desired and left-over objects as of the last pass. */
  states (): ObjectState[]
  /** Kinds that the last pass could not see, with the reason: nothing is known of what runs there. */
  unseen (): ReadonlyMap<ObjectKind, string>
  /** Runs one pass now and waits for it. */
  pass (): Promise<void>
  stop (): Promise<void>
}

const APPLY_TIMEOUT_MS = 90_000
const OBSERVE_TIMEOUT_MS = 30_000
/** Applies of one kind that run at once: two cores, and most of an apply is waiting. */
const PARALLEL = 4

/** Drivers put what they found wrong into `detail`; without that it is still said that something is. */
function whyUnhealthy ({ detail }: ObservedObject): string {
  const reason = detail.problem ?? detail.faults ?? detail.missing ?? detail.state
  const text = Array.isArray(reason) ? reason.map(String).join('; ') : typeof reason === 'string' ? reason : ''
  return text === '' ? 'does not work yet' : text
}

const allKinds = (why: string): Map<ObjectKind, string> => new Map(KIND_ORDER.map(kind => [kind, why]))

/**
 * Drives the host to its desired objects, level-triggered: observe all, `diff`, act; again on every
 * trigger, after failures, and every few seconds. Nothing is remembered between passes but errors.
 */
export function createReconciler (options: ReconcilerOptions): Reconciler {
  const { drivers, log } = options
  const known = new Map<string, ObjectState>()
  let unseen: ReadonlyMap<ObjectKind, string> = allKinds('nothing has been looked at yet')
  let timer: NodeJS.Timeout | undefined
  let running: Promise<void> | undefined
  /** `again`: somebody asked during a pass, or a pass has acted and must look at what became of it */
  const asked = { again: false }
  let stopped = false

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
    const driver = drivers[action.kind] as Driver | undefined
    if (driver === undefined) {
      note(action.kind, action.name, 'failed', `this host has no driver for a ${action.kind}`, {})
      return false
    }
    const started = performance.now()
    try {
      const signal = AbortSignal.timeout(APPLY_TIMEOUT_MS)
      const before = known.get(key(action.kind, action.name))
      // What fails again and again is news once, not at every try.
      if (before?.state !== 'failed') note(action.kind, action.name, action.op === 'apply' ? 'pending' : 'removing', before?.error ?? '', {})
      if (action.op === 'apply') await driver.apply(action.name, action.spec, signal)
      else await driver.remove(action.name, signal)
      log.info({ op: action.op, kind: action.kind, object: action.name, why: action.why, ms: Math.round(performance.now() - started) }, 'reconciled')
      return true
    } catch (error) {
      note(action.kind, action.name, 'failed', describeError(error), {})
      log.error({ op: action.op, kind: action.kind, object: action.name, error: describeError(error) }, 'cannot reconcile')
      return false
    }
  }

  /** Runs actions kind by kind in the order that diff gave; those of one kind side by side. */
  async function actAll (actions: Action[]): Promise<boolean> {
    let allOk = true
    const failedClusters = new Set<string>()
    const clusterOf = (name: string): string => name.split('.')[0] ?? name
    for (let i = 0; i < actions.length;) {
      const first = actions[i]
      if (first === undefined) break
      let end = i
      while (actions[end]?.kind === first.kind && actions[end]?.op === first.op) end++
      const group = actions.slice(i, end)
      i = end
      // What stands on something that failed waits for the next pass; its own kind does not stand on it.
      const blocked = new Set(failedClusters)
      for (let j = 0; j < group.length; j += PARALLEL) {
        await Promise.all(group.slice(j, j + PARALLEL).map(async action => {
          if (action.op === 'apply' && blocked.has(clusterOf(action.name))) { allOk = false; return }
          if (!await act(action)) { allOk = false; failedClusters.add(clusterOf(action.name)) }
        }))
      }
    }
    return allOk
  }

  async function onePass (): Promise<boolean> {
    const desired = await options.desired()
    const { observed, blind } = await observeAll()
    unseen = blind
    const visible = desired.filter(d => !blind.has(d.kind))
    const actions = diff(visible, observed)
    let ok = blind.size === 0
    const wanted = new Set(desired.map(d => key(d.kind, d.name)))
    for (const d of desired) {
      const reason = blind.get(d.kind)
      if (reason !== undefined) note(d.kind, d.name, 'failed', reason, {})
    }
    if (actions.length > 0) {
      ok = await actAll(actions) && ok
      asked.again = true // see what it became, and show it
    }
    const acted = new Set(actions.map(a => key(a.kind, a.name)))
    for (const o of observed) {
      if (!acted.has(key(o.kind, o.name))) note(o.kind, o.name, o.healthy ? 'ok' : 'pending', o.healthy ? '' : whyUnhealthy(o), o.detail)
    }
    const present = new Set(observed.map(o => key(o.kind, o.name)))
    for (const [k, { kind, name, detail }] of known) {
      if (wanted.has(k) || present.has(k)) continue
      const reason = blind.get(kind)
      if (reason === undefined) known.delete(k)
      else note(kind, name, 'failed', reason, detail) // it may still be there
    }
    return ok
  }

  async function loop (): Promise<void> {
    // Bounded: an object that never becomes healthy must not turn the loop into a busy one.
    for (let passes = 0; passes < 3 && !stopped; passes++) {
      asked.again = false
      let ok = false
      try {
        ok = await onePass()
      } catch (error) {
        unseen = allKinds(describeError(error))
        log.error({ error: describeError(error) }, 'reconcile pass failed')
      }
      if (!ok) { schedule(RECONCILE_RETRY_MS); return }
      if (!asked.again) { schedule(RECONCILE_INTERVAL_MS); return }
    }
    schedule(RECONCILE_RETRY_MS)
  }

  function start (): Promise<void> {
    clearTimeout(timer)
    running ??= loop().finally(() => { running = undefined })
    return running
  }

  function schedule (delayMs: number): void {
    if (stopped) return
    clearTimeout(timer)
    timer = setTimeout(() => { void start() }, delayMs)
  }

  return {
    trigger () {
      if (stopped) return
      if (running !== undefined) asked.again = true
      else schedule(10)
    },
    states: () => [...known.values()],
    unseen: () => unseen,
    async pass () {
      if (running !== undefined) await running
      await start()
    },
    async stop () {
      stopped = true
      clearTimeout(timer)
      await running
    }
  }
}
