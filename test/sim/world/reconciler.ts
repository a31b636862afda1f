/**
 * The agent's end towards the helper, as the lessor wants it: observe, compare, act, again and again.
 * What may be done is decided by the product's permits; only the pace is the simulator's, as the
 * product's own loop runs on timers.
 */
import { createPermits, resourceOf, type Tenancy } from '../../../agent/helper/fence/permits.ts'
import type { Fence } from '../../../agent/helper/fence/store.ts'
import type { ObjectState, Reconciler } from '../../../agent/reconcile/reconciler.ts'
import { type DesiredObject, KIND_ORDER, type ObjectKind } from '../../../protocol/core/desired.ts'
import { MusubiError } from '../../../protocol/core/errors.ts'
import type { Kernel, Timer } from '../kernel/kernel.ts'
import type { Command, Helper, Seen, Thing } from './engine.ts'

/** What the lessor wants of a reconciler, and the fence as this process reaches it. */
export interface SimReconciler extends Reconciler { fence: Fence }

export interface ReconcilerOptions {
  kernel: Kernel
  helper: Helper
  dead: () => boolean
  desired: () => DesiredObject[]
  tenancy: () => Tenancy
  ledgerMs: () => number
  thingOf: (resource: string, clusterId: string) => Thing
  /** one way, ms */
  delayMs: () => number
  sent: (command: Command) => void
}

/** A command that is not answered for so long has failed for the agent; it may still be worked in. */
const PATIENCE_MS = 5_000
const RETRY_MS = 1_500
const IDLE_MS = 20_000
/** Tunnel and cache belong to all or follow the segment: left out, as they cost events and can show nothing more. */
export const KINDS: ReadonlySet<ObjectKind> = new Set<ObjectKind>(['volume', 'segment', 'frontend', 'domain'])

const kindOf = (resource: string): ObjectKind => resource.slice(0, resource.indexOf(' ')) as ObjectKind
const nameOf = (resource: string): string => resource.slice(resource.indexOf(' ') + 1)

export function createSimReconciler (options: ReconcilerOptions): SimReconciler {
  const { kernel, helper, dead } = options
  let seen: Seen = { running: [], records: [] }
  let known: ObjectState[] = []
  let hasLooked = false
  let running = false
  const asked = { again: false, stopped: false }
  const isOver = (): boolean => asked.stopped || dead()
  const isAskedAgain = (): boolean => asked.again || lookers.length > 0
  let next: Timer | null = null
  const lookers: Array<() => void> = []
  const firstLook: Array<() => void> = []

  const never = (): Promise<never> => new Promise<never>(() => undefined)

  /** There and back. The command travels on when this process dies. */
  function send (command: Command): Promise<void> {
    options.sent(command)
    const ledgerMs = options.ledgerMs()
    return new Promise<void>((resolve, reject) => {
      let settled = false
      const patience = kernel.after(PATIENCE_MS, () => {
        if (settled || dead()) return
        settled = true
        reject(new MusubiError('HELPER_SILENT', `the helper did not answer within ${PATIENCE_MS} ms`, { retryable: true }))
      })
      const back = (work: () => void): void => {
        kernel.after(options.delayMs() / 4, () => {
          if (settled || dead()) return
          settled = true
          patience.cancelled = true
          work()
        })
      }
      kernel.after(options.delayMs(), () => {
        if (!helper.isUp()) return
        helper.work(command, ledgerMs).then(() => { back(resolve) }, (error: unknown) => { back(() => { reject(error instanceof Error ? error : new Error(String(error))) }) })
      })
    })
  }

  const look = (): Promise<void> => new Promise(resolve => {
    kernel.after(0.5, () => {
      if (dead()) return
      seen = helper.look()
      resolve()
    })
  })

  /** The helper's fence as this process knows it: questions go there, records are those of the last look. */
  const fence: Fence = {
    grant: (resource, claim) => send({ op: 'grant', resource, claim, thing: options.thingOf(resource, claim.clusterId) }),
    revoke: (resource, clusterId, counter) => send({ op: 'revoke', resource, clusterId, counter }),
    gone: (resource, counter) => send({ op: 'gone', resource, counter }),
    tick: () => Promise.resolve(),
    get: resource => seen.records.find(record => record.resource === resource),
    records: () => seen.records
  }
  const permits = createPermits(fence)

  /** As a command: the helper asks its fence and acts in one turn. */
  async function ask ({ op, kind, name }: { op: 'apply' | 'remove', kind: ObjectKind, name: string }): Promise<void> {
    const [claim, order] = op === 'apply' ? [permits.claimFor({ kind, name }), null] : [null, permits.orderFor({ kind, name })]
    if (claim !== null) await fence.grant(resourceOf({ kind, name }), claim)
    else if (order !== null) await fence.revoke(resourceOf({ kind, name }), order.clusterId, order.counter)
  }

  /** @returns whether everything is as it should be */
  async function onePass (mine: Array<() => void>): Promise<boolean> {
    const tenancy = options.tenancy()
    const desired = options.desired().filter(object => KINDS.has(object.kind))
    await look()
    hasLooked = true
    const observed = seen.running.map(({ resource }) => ({ kind: kindOf(resource), name: nameOf(resource), fingerprint: '', healthy: true, detail: {} }))
    const wanted = new Map(desired.map(object => [resourceOf(object), object]))
    const found = new Set(observed.map(resourceOf))
    known = [
      ...desired.map((object): ObjectState => ({ kind: object.kind, name: object.name, state: found.has(resourceOf(object)) ? 'ok' : 'pending', error: '', detail: {} })),
      ...observed.filter(object => !wanted.has(resourceOf(object))).map(({ kind, name }): ObjectState => ({ kind, name, state: 'removing', error: '', detail: {} }))
    ]
    for (const resolve of mine) resolve()
    for (const resolve of firstLook.splice(0)) resolve()
    await permits.begin(tenancy, observed, new Map())
    if (dead()) return await never()
    const removes = observed.filter(object => !wanted.has(resourceOf(object))).map(object => ({ op: 'remove' as const, kind: object.kind, name: object.name }))
    const applies = desired.filter(object => !found.has(resourceOf(object)) && permits.mayStand(object)).map(object => ({ op: 'apply' as const, kind: object.kind, name: object.name }))
    const barred = desired.some(object => !found.has(resourceOf(object)) && !permits.mayStand(object))
    // A refusal is no news here: the next pass decides anew.
    await Promise.allSettled([...removes.map(ask), ...applies.map(ask)])
    // A pass more sees what became of it, and says what is gone.
    return removes.length === 0 && applies.length === 0 && !barred && !seen.records.some(record => record.state === 'revoking' && found.has(record.resource))
  }

  async function loop (): Promise<void> {
    if (running || isOver()) return
    running = true
    if (next !== null) next.cancelled = true
    asked.again = false
    const mine = lookers.splice(0)
    const fine = await onePass(mine).catch(() => false)
    for (const resolve of mine) resolve()
    running = false
    if (isOver()) return
    if (isAskedAgain()) { void loop(); return }
    if (!fine) later(RETRY_MS)
    else if (known.length > 0) later(IDLE_MS)
  }

  function later (ms: number): void {
    if (next !== null) next.cancelled = true
    next = kernel.after(ms, () => { if (!dead()) void loop() })
  }

  return {
    fence,
    trigger () {
      if (isOver()) return
      if (running) asked.again = true
      else later(10)
    },
    states: () => known,
    unseen: () => hasLooked ? new Map() : new Map(KIND_ORDER.map(kind => [kind, 'nothing has been looked at yet'])),
    looked: () => hasLooked ? Promise.resolve() : new Promise(resolve => { firstLook.push(resolve) }),
    look: () => new Promise(resolve => {
      lookers.push(resolve)
      if (!running) void loop()
    }),
    async pass () { await loop() },
    stop () {
      asked.stopped = true
      return Promise.resolve()
    }
  }
}
