import { advance, emptyFence, type FenceOutcome } from '../../../protocol/core/fence/step.ts'
import type { FenceEffect, FenceEvent, FenceRecord } from '../../../protocol/core/fence/fence.ts'
import { MusubiError } from '../../../protocol/core/errors.ts'
import { FENCE_COUNTER_STEP, FENCE_MAX_RECORDS } from '../../../protocol/core/limits.ts'
import { RECORD_VERSION, migrated } from '../../../store/ledger/migrations.ts'
import { createRunner } from '../../../store/runner.ts'
import type { Store, StoreOperation } from '../../../store/store.ts'

const PREFIX = 'fence/'
const RECORDS = `${PREFIX}record/`
const FLOOR = `${PREFIX}floor`

/** In whose name a resource is used, at which state of the ledger that was decided, and until when. */
export interface FenceClaim { clusterId: string, counter: number, endMs: number }

/**
 * The last word on what may be done to a resource of this host. It asks nobody: it knows the counters
 * it has seen and the ends it was told, so it refuses what comes late whoever sends it.
 */
export interface Fence {
  /** Resolves when the grant is on the disk: now it may be made. @throws MusubiError STALE_COUNTER, RESOURCE_HELD, LEASE_ENDED, COUNTER_TOO_HIGH, FENCE_FULL, STORE_WRITE_FAILED */
  grant (resource: string, claim: FenceClaim): Promise<void>
  /** Resolves when nothing that was decided before can be made any more: now it may be removed. @throws as `grant` */
  revoke (resource: string, clusterId: string, counter: number): Promise<void>
  /** The engine was looked at, at `counter` or after, and does not have it. What was revoked since stays so. */
  gone (resource: string, counter: number): Promise<void>
  /** Time passes: what has ended is revoked, whether or not anybody says so. */
  tick (): Promise<void>
  get (resource: string): FenceRecord | undefined
  records (): FenceRecord[]
}

export interface FenceOptions {
  store: Store
  /** ledger clock, Unix ms */
  now: () => number
}

type Asked = Extract<FenceEvent, { type: 'grant' | 'revoke' }>

/** @throws MusubiError COUNTER_TOO_HIGH for what would shut out all that is decided later, FENCE_FULL for one resource too many */
function checkBounds ({ resource, counter }: Asked, { records, floor }: ReturnType<typeof emptyFence>): void {
  const highest = records.values().reduce((high, record) => Math.max(high, record.counter), floor)
  if (counter > highest + FENCE_COUNTER_STEP) {
    throw new MusubiError('COUNTER_TOO_HIGH', `${resource}: counter ${counter} is too far above ${highest}, the highest that was seen`, { hint: 'no ledger gets on so fast: was the agent, or its store, tampered with?' })
  }
  if (!records.has(resource) && records.size >= FENCE_MAX_RECORDS) {
    throw new MusubiError('FENCE_FULL', `${resource}: the fence knows ${records.size} resources already`, { retryable: true, hint: 'what went is forgotten after an hour; what is there: musubi host owned' })
  }
}

async function load (store: Store): Promise<ReturnType<typeof emptyFence>> {
  const state = emptyFence()
  for await (const entry of store.iterate(RECORDS)) {
    const record = migrated(entry, 'fence') as FenceRecord
    state.records.set(record.resource, record)
  }
  const floor = await store.read(FLOOR)
  if (floor !== undefined) state.floor = (migrated(floor, 'fence-floor') as { counter: number }).counter
  return state
}

function written (effect: FenceEffect): { operation: StoreOperation, sync: boolean } | null {
  switch (effect.effect) {
    // What is gone need not be on the disk at once: after a crash it is looked for again.
    case 'save': return { operation: { type: 'put', key: RECORDS + effect.record.resource, value: effect.record, version: RECORD_VERSION }, sync: effect.record.state !== 'gone' }
    case 'floor': return { operation: { type: 'put', key: FLOOR, value: { counter: effect.counter }, version: RECORD_VERSION }, sync: false }
    case 'forget': return { operation: { type: 'delete', key: RECORDS + effect.resource }, sync: false }
    default: return null
  }
}

/**
 * Opens the fence of a host: everything it was ever told is on the disk before anything was done.
 * After a failed write it knows only what the disk says, and reads it again before it answers.
 *
 * @throws CorruptRecordError
 */
export async function openFence ({ store, now }: FenceOptions): Promise<Fence> {
  let state = await load(store)
  let outcome: FenceOutcome = { effects: [], refusal: null }
  const runner = createRunner<FenceEvent, FenceEffect>({
    store,
    advance: event => {
      outcome = advance(state, event, now())
      return outcome.effects
    },
    written,
    // Whoever asked acts when its promise is kept; the engines have no process of their own yet.
    perform: () => undefined,
    onFailure: () => undefined
  })

  async function recover (): Promise<void> {
    if (runner.failure() === null) return
    await runner.idle()
    await store.reopen()
    state = await load(store)
    runner.recovered()
  }

  /** Worked in at once, in the order of the calls, unless a failure has to be got over first. */
  async function submit (event: FenceEvent): Promise<MusubiError | null> {
    if (runner.failure() !== null) await recover()
    const done = runner.submit(event)
    const { refusal } = outcome
    await done
    return refusal
  }

  async function must (event: Asked): Promise<void> {
    checkBounds(event, state)
    const refusal = await submit(event)
    if (refusal !== null) throw refusal
  }

  return {
    grant: (resource, { clusterId, counter, endMs }) => must({ type: 'grant', resource, clusterId, counter, endMs }),
    revoke: (resource, clusterId, counter) => must({ type: 'revoke', resource, clusterId, counter }),
    async gone (resource, counter) { await submit({ type: 'gone', resource, counter }) },
    async tick () { await submit({ type: 'tick' }) },
    get: resource => state.records.get(resource),
    records: () => [...state.records.values()]
  }
}
