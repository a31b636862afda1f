import { isDeepStrictEqual } from 'node:util'
import type { Resources } from '../protocol/core/capacity.ts'
import { missingReceipts } from '../protocol/core/document.ts'
import { ConflictError, InvalidInputError, MusubiError } from '../protocol/core/errors.ts'
import { type Slice, allocateId } from '../protocol/core/ids.ts'
import { type Effect, type LeaseEvent, type Outcome, advance, nextDueMs } from '../protocol/core/lease-step.ts'
import {
  type Answer, type Lease, type LeaseState, type LedgerState, type ReadonlyLedgerState, type Replay,
  clusterState, emptyLedger, freeOf, idUses, isLive, leasesOf
} from '../protocol/core/lease.ts'
import type { ClusterDocument, HoldRequest, Receipt, Secret } from '../protocol/core/messages.ts'
import { type Migrations, RECORD_VERSION, migrated } from './migrations.ts'
import { CorruptRecordError, type Store, type StoreOperation } from './store.ts'
import { type Tables, type Table, openTables, tableKey } from './tables.ts'

/** Everything of the ledger lies under this prefix; the rest of the store belongs to others. */
const PREFIX = 'ledger/'
const META = `${PREFIX}meta`
const EPOCH = `${PREFIX}epoch`
const LEASES = `${PREFIX}lease/`
const REPLAYS = `${PREFIX}replay/`
const TABLES = `${PREFIX}table/`

interface Meta { host: string, counter: number, clockMs: number, bootId: string }

/** As it is after it was written and read: plain data without what JSON leaves out. */
const asOnDisk = <T>(value: T): T => JSON.parse(JSON.stringify(value)) as T

/** A cluster as this host runs it, with the secrets of its volumes here. */
export interface DocumentRecord { document: ClusterDocument, secrets: Secret[] }

export interface LedgerOptions {
  store: Store
  /** wall clock, Unix ms; the ledger never goes back when this does */
  now: () => number
  /** a ledger belongs to one host, and refuses to be opened by another */
  host: string
  capacity: Resources
  /** segment ids that this gateway may give out */
  slice?: Slice
  /** changes with every boot of the machine: holds then get their full time again */
  bootId?: string
  /** says why no new promises are made now, e.g. after a jump of the clock; null when they are */
  frozen?: () => string | null
  migrations?: Migrations
}

/**
 * The durable record of what one host has promised. A promise that it returns is resolved only when
 * the change is on the disk; while one change is being synced the next ones gather behind it.
 */
export interface Ledger {
  /** @param requester peer on whose behalf it is held, default the master's  @throws NoCapacityError, ConflictError */
  hold (request: HoldRequest, requester?: string): Promise<Answer>
  commit (clusterId: string, offerId: string): Promise<Answer>
  /**
   * Makes committed leases active and keeps the document in the same write.
   *
   * @throws ConflictError when a receipt of any member is missing: nothing starts unless all have committed;
   * or when the cluster is active with another document: what runs is never exchanged
   */
  activate (clusterId: string, receipts: readonly Receipt[], record?: DocumentRecord): Promise<Answer>
  release (clusterId: string, reason: string, offerId?: string): Promise<Answer>
  /**
   * Says that what ended of a cluster is gone from this host: its share is free at once. Forgets the
   * document when no lease of the cluster is left.
   *
   * @param seenCounter `state().counter` from before the host was looked at
   */
  vacate (clusterId: string, seenCounter?: number): Promise<Answer>
  /** Ends what time has ended. Call it at `nextDueMs()`, and now and then. */
  tick (): Promise<void>
  nextDueMs (): number
  /** A view, valid until the next event; may be ahead of the disk by writes under way. */
  state (): ReadonlyLedgerState
  /** The least free in an interval, default now. */
  free (fromMs?: number, untilMs?: number): Resources
  leases (clusterId: string): Lease[]
  clusterState (clusterId: string): LeaseState | ''
  /** Lowest free id of the slice; null without a slice or when all are taken. A hint until it is held. */
  nextSegmentId (): number | null
  setCapacity (capacity: Resources): void
  /** Documents of clusters with an active lease here: what this host must run. The latest activated comes last. */
  activeDocuments (): DocumentRecord[]
  readonly documents: Table<DocumentRecord>
  /** A durable table of records of any kind; writes are synced. */
  table<T>(name: string): Table<T>
  /** Raises the boot epoch, durably: call it once per start. */
  nextEpoch (): Promise<number>
  /** Called after every durable change of leases. @returns stops it */
  onChange (listener: (effects: readonly Effect[]) => void): () => void
  /**
   * Called once when the ledger has failed, also when it has already: it answers no more and ends no
   * lease, so whoever depends on it must start anew.
   */
  onFailure (listener: (failure: MusubiError) => void): void
  /** Waits for writes under way. Does not close the store. */
  close (): Promise<void>
}

async function load (options: LedgerOptions): Promise<{ state: LedgerState, meta: Meta | null, epoch: number, tables: Tables }> {
  const { store, host, capacity } = options
  const read = async <T>(key: string): Promise<T | null> => {
    const entry = await store.read(key)
    return entry === undefined ? null : migrated(entry, key.slice(PREFIX.length), options.migrations) as T
  }
  const state = emptyLedger(host, capacity, options.slice ?? null)
  const meta = await read<Meta>(META)
  if (meta !== null) {
    if (meta.host !== host) throw new ConflictError(`the ledger belongs to host ${meta.host}, not to ${host}`, 'each host needs a state folder of its own')
    state.counter = meta.counter
    state.clockMs = meta.clockMs
  }
  const leases: Lease[] = []
  for await (const entry of store.iterate(LEASES)) {
    const lease = migrated(entry, 'lease', options.migrations) as Lease
    if (LEASES + lease.id !== entry.key || !(lease.token <= state.counter)) throw new CorruptRecordError(entry.key, `lease ${lease.id} with token ${lease.token} does not belong to a ledger at ${state.counter}`)
    leases.push(lease)
  }
  for (const lease of leases.sort((a, b) => a.heldToken - b.heldToken)) state.leases.set(lease.id, lease)
  for await (const entry of store.iterate(REPLAYS)) {
    const replay = migrated(entry, 'replay', options.migrations) as Replay
    state.replays.set(replay.key, replay)
  }
  state.dueMs = 0
  const tables = await openTables(store, TABLES, options.migrations)
  return { state, meta, epoch: (await read<{ epoch: number }>(EPOCH))?.epoch ?? 0, tables }
}

/**
 * Opens the ledger of a host, after any crash: everything that was ever answered is there.
 *
 * @throws CorruptRecordError naming the record; ConflictError when it is another host's ledger
 */
export async function openLedger (options: LedgerOptions): Promise<Ledger> {
  const { store, host } = options
  const bootId = options.bootId ?? ''
  const { state, meta, epoch: lastEpoch, tables } = await load(options)
  const listeners = new Set<(effects: readonly Effect[]) => void>()
  let epoch = lastEpoch
  let failure: MusubiError | null = null
  let lastWrite: Promise<void> = Promise.resolve()
  const failureListeners = new Set<(failure: MusubiError) => void>()

  function failed (why: MusubiError): MusubiError {
    if (failure !== null) return failure
    failure = why
    for (const listener of failureListeners) listener(failure)
    return failure
  }

  const put = (key: string, value: unknown): StoreOperation => ({ type: 'put', key, value, version: RECORD_VERSION })
  const metaRecord = (): StoreOperation => put(META, { host, counter: state.counter, clockMs: state.clockMs, bootId } satisfies Meta)
  const operationOf = (effect: Effect): StoreOperation => {
    switch (effect.effect) {
      case 'lease': return put(LEASES + effect.lease.id, effect.lease)
      case 'forget': return { type: 'delete', key: LEASES + effect.leaseId }
      case 'replay': return put(REPLAYS + effect.replay.key, effect.replay)
      case 'forget-replay': return { type: 'delete', key: REPLAYS + effect.key }
    }
  }

  /** Writes in order. Once a write has failed memory is ahead of the disk for good: nothing is answered any more. */
  function write (operations: StoreOperation[]): Promise<void> {
    if (failure !== null) return Promise.reject(failure)
    if (operations.length === 0) return lastWrite
    const written = store.batch(operations, { sync: true }).catch((cause: unknown) => {
      throw failed(new MusubiError('LEDGER_FAILED', `the ledger of ${host} could not be written and answers no more: ${cause instanceof Error ? cause.message : String(cause)}`, { hint: 'look at the disk of the state folder, then restart the agent', cause }))
    })
    // Every caller gets its own rejection from `written`; this copy only keeps the order.
    lastWrite = written
    lastWrite.catch(() => undefined)
    return written
  }

  /** A bug in the middle of an event leaves memory in doubt: as with a failed write, nothing is answered any more. */
  function work (event: LeaseEvent): Outcome {
    try {
      return advance(state, event, options.now())
    } catch (cause) {
      throw failed(new MusubiError('LEDGER_FAILED', `the ledger of ${host} failed at ${event.type} and answers no more: ${String(cause)}`, { cause }))
    }
  }

  /**
   * Works one event in, writes what it changed, then answers. An answer without a change waits for
   * the writes before it: a replay must not be answered from a write that may still fail.
   */
  async function submit (event: LeaseEvent, extra: (answer: Answer) => StoreOperation[] = () => []): Promise<Answer> {
    if (failure !== null) throw failure
    const { effects, result } = work(event)
    const operations = effects.map(operationOf)
    if (operations.length > 0) operations.push(metaRecord())
    const added = result.ok ? extra(result.answer) : []
    await write([...operations, ...added])
    tables.written(added)
    if (effects.length > 0) for (const listener of listeners) listener(effects)
    if (!result.ok) throw result.error
    return result.answer
  }

  const tableWrite = async (operation: StoreOperation): Promise<void> => {
    await write([operation])
    tables.written([operation])
  }
  const documents = tables.table<DocumentRecord>('document', tableWrite)
  /** documents of activations that are being written */
  const pending = new Map<string, ClusterDocument>()
  const documentKey = (clusterId: string): string => tableKey(TABLES, 'document', clusterId)

  const ledger: Ledger = {
    async hold (request, requester = request.masterPeer) {
      const why = options.frozen?.() ?? null
      if (why !== null && !state.replays.has(request.key)) throw new MusubiError('FROZEN', `host ${host} makes no new promises: ${why}`, { retryable: true })
      return await submit({ type: 'hold', request, requester })
    },
    commit: (clusterId, offerId) => submit({ type: 'commit', clusterId, offerId }),
    async activate (clusterId, receipts, record) {
      if (record !== undefined) {
        if (record.document.id !== clusterId) throw new InvalidInputError(`activation of cluster ${clusterId} carries the document of ${record.document.id}`)
        const missing = missingReceipts(record.document, receipts)
        if (missing.length > 0) throw new ConflictError(`cluster ${record.document.name} cannot be activated on ${host}: no commit receipt for ${missing.join(', ')}`)
      }
      const kept = pending.get(clusterId) ?? documents.get(clusterId)?.document
      if (record !== undefined && kept !== undefined && clusterState(state, clusterId) === 'active' && !isDeepStrictEqual(kept, asOnDisk(record.document))) {
        throw new ConflictError(`cluster ${record.document.name} is active on ${host} with another document`)
      }
      try {
        return await submit({ type: 'activate', clusterId, receipts }, answer => {
          if (record === undefined || answer.replay) return []
          pending.set(clusterId, asOnDisk(record.document))
          return [put(documentKey(clusterId), record)]
        })
      } finally {
        // Whoever comes while it is being written is compared with it; then it is in the table.
        if (documents.get(clusterId) !== undefined) pending.delete(clusterId)
      }
    },
    release: (clusterId, reason, offerId) => submit({ type: 'release', clusterId, reason, ...(offerId === undefined ? {} : { offerId }) }),
    vacate: (clusterId, seenCounter) => submit(
      { type: 'vacate', clusterId, ...(seenCounter === undefined ? {} : { seenCounter }) },
      () => leasesOf(state, clusterId).every(lease => !isLive(lease) && lease.vacated) && documents.get(clusterId) !== undefined ? [{ type: 'delete', key: documentKey(clusterId) }] : []
    ),
    async tick () { await submit({ type: 'tick' }) },
    nextDueMs: () => nextDueMs(state),
    state: () => state,
    free: (fromMs, untilMs) => freeOf(state, fromMs ?? Math.max(state.clockMs, options.now()), untilMs),
    leases: clusterId => leasesOf(state, clusterId),
    clusterState: clusterId => clusterState(state, clusterId),
    nextSegmentId: () => state.slice === null ? null : allocateId(state.slice, idUses(state), Math.max(state.clockMs, options.now())),
    setCapacity (capacity) { state.capacity = { ...capacity } },
    activeDocuments () {
      const since = (clusterId: string): number => Math.max(...leasesOf(state, clusterId).filter(lease => lease.state === 'active').map(lease => lease.token))
      return documents.list().filter(record => clusterState(state, record.document.id) === 'active').map(record => ({ record, at: since(record.document.id) }))
        .sort((a, b) => a.at - b.at).map(({ record }) => record)
    },
    documents,
    table: name => tables.table(name, tableWrite),
    async nextEpoch () {
      const next = ++epoch
      await write([put(EPOCH, { epoch: next })])
      return next
    },
    onChange (listener) {
      listeners.add(listener)
      return () => { listeners.delete(listener) }
    },
    onFailure (listener) {
      failureListeners.add(listener)
      if (failure !== null) listener(failure)
    },
    async close () { await lastWrite.catch(() => undefined) }
  }
  if (meta === null) await write([metaRecord()])
  else if (bootId !== '' && meta.bootId !== bootId) await submit({ type: 'restart' }, () => [metaRecord()])
  await ledger.tick()
  return ledger
}
