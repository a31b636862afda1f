import { isDeepStrictEqual } from 'node:util'
import { missingReceipts } from '../../protocol/core/document.ts'
import { ConflictError, InvalidInputError, MusubiError } from '../../protocol/core/errors.ts'
import { allocateId } from '../../protocol/core/ids.ts'
import { heardOf } from '../../protocol/core/lease/epoch.ts'
import { type Answer, clusterState, freeOf, idUses, isIdle, isLive, isQuota, leasesOf, usageState } from '../../protocol/core/lease/lease.ts'
import { type LedgerState, applyEffect, copyLedger, emptyLedger } from '../../protocol/core/lease/state.ts'
import { type Effect, type LeaseEvent, type Outcome, advance, nextDueMs } from '../../protocol/core/lease/step.ts'
import { CLOCK_MARK_MS, LEDGER_RETRY_MS } from '../../protocol/core/limits.ts'
import type { ClusterDocument } from '../../protocol/core/messages.ts'
import { type LedgerClock, createLedgerClock } from '../clock.ts'
import type { StoreOperation } from '../store.ts'
import { ledgerFailure } from './failure.ts'
import { historyOperations, readHistory } from './history.ts'
import { type Loaded, loadLedger } from './load.ts'
import { BOOT_EPOCH, META, type Meta, TABLES, asOnDisk, operationOf, put } from './records.ts'
import { createTables, tableKey } from './tables.ts'
import type { DocumentRecord, KeepAliveAnswer, Ledger, LedgerOptions } from './types.ts'
import { createLedgerWriter } from './writer.ts'

/** The clock of a ledger, going on from where its records say that it stood. */
function clockFor ({ clock: inputs, now, frozen }: LedgerOptions, { state, meta }: Loaded): Pick<LedgerClock, 'now' | 'frozen'> & { mark: LedgerClock['mark'] | null } {
  if (inputs === undefined) {
    if (now === undefined) throw new InvalidInputError('a ledger is opened with its clock, or with a ledger clock')
    return { now, frozen: frozen ?? (() => null), mark: null }
  }
  const mark = meta === null ? null : meta.mark ?? { atMs: meta.clockMs, sinceBootMs: 0, bootId: '' }
  const clock = createLedgerClock(inputs, mark)
  state.clockMs = Math.max(state.clockMs, clock.now())
  if (mark === null || !isIdle(state)) return clock
  // Nothing depends on it: the wall clock counts, whatever it was before.
  const fresh = createLedgerClock(inputs, mark, true)
  state.clockMs = fresh.now()
  return fresh
}

/** What must not change when a cluster goes on with another document. */
const identityOf = ({ id, name, vni, cidr, domain, masterSite }: ClusterDocument): unknown => ({ id, name, vni, cidr, domain, masterSite })

/**
 * Opens the ledger of a host, after any crash: everything that was ever answered is there.
 *
 * @throws CorruptRecordError naming the record; ConflictError when it is another host's ledger; LEDGER_FAILED
 */
export async function openLedger (options: LedgerOptions): Promise<Ledger> {
  const { store, host } = options
  const bootId = options.clock?.bootId ?? options.bootId ?? ''
  const loaded = await loadLedger(options)
  const clock = clockFor(options, loaded)
  const tables = createTables(TABLES)
  const changeListeners = new Set<(effects: readonly Effect[]) => void>()
  const failureListeners = new Set<(failure: MusubiError) => void>()
  const recoveryListeners = new Set<() => void>()
  /** documents of activations that are being written */
  const pending = new Map<string, ClusterDocument>()

  /** ahead of the disk by what is being written: events are decided on it */
  let state: LedgerState = emptyLedger(host, options.capacity)
  /** what the disk has: everything is answered from it */
  let settled: LedgerState = state
  let bootEpoch = 0
  let historySeq = 0
  let markedMs = 0
  let failure: MusubiError | null = null
  let triedMs = 0
  let recovering: Promise<boolean> | null = null

  function install ({ state: fresh, meta, bootEpoch: epoch, tables: records }: Loaded): void {
    state = fresh
    settled = copyLedger(fresh)
    settled.heard = state.heard
    bootEpoch = epoch
    historySeq = meta?.historySeq ?? 0
    tables.reset(records)
    pending.clear()
  }

  function failed (why: MusubiError): MusubiError {
    failure = why
    triedMs = clock.now()
    for (const listener of failureListeners) listener(why)
    return why
  }

  const writer = createLedgerWriter(store, cause => failed(ledgerFailure(host, 'could not be written', cause)))

  function metaRecord (): StoreOperation {
    markedMs = clock.now()
    return put(META, {
      host, counter: state.counter, clockMs: state.clockMs, bootId, mark: clock.mark?.() ?? null, historySeq, quarantineUntilMs: state.quarantineUntilMs
    } satisfies Meta)
  }

  /** A bug in the middle of an event leaves memory in doubt: as with a failed write, the disk is asked. */
  function work (event: LeaseEvent): Outcome {
    try {
      return advance(state, event, clock.now())
    } catch (cause) {
      throw failed(ledgerFailure(host, `failed at ${event.type}`, cause))
    }
  }

  /**
   * Works one event in, writes what it changed, then answers. An answer without a change waits for
   * the writes before it: a replay must not be answered from a write that may still fail.
   */
  async function submit (event: LeaseEvent, extra: (answer: Answer) => StoreOperation[] = () => []): Promise<Answer> {
    if (failure !== null) throw failure
    writer.mustHaveRoom()
    const { effects, result } = work(event)
    const added = result.ok ? extra(result.answer) : []
    const operations = effects.map(operationOf)
    if (effects.length > 0) {
      const logged = historyOperations(historySeq + 1, state.clockMs, effects)
      if (logged.length > 0) historySeq++
      operations.push(...logged, metaRecord())
    }
    operations.push(...added)
    const { counter, clockMs, quarantineUntilMs } = state
    await writer.write(operations, () => {
      for (const effect of effects) applyEffect(settled, effect)
      Object.assign(settled, { counter, clockMs, quarantineUntilMs })
      tables.written(added)
    })
    if (effects.length > 0) for (const listener of changeListeners) listener(effects)
    if (!result.ok) throw result.error
    return result.answer
  }

  async function writeTable (operation: StoreOperation): Promise<void> {
    if (failure !== null) throw failure
    await writer.write([operation], () => { tables.written([operation]) })
  }
  const documents = tables.table<DocumentRecord>('document', writeTable)
  const documentKey = (clusterId: string): string => tableKey(TABLES, 'document', clusterId)

  /** Reads everything anew: what was in doubt is now as the disk has it. */
  async function readAnew (): Promise<boolean> {
    triedMs = clock.now()
    try {
      await writer.idle()
      await store.reopen()
      const fresh = await loadLedger({ ...options, capacity: state.capacity, quotas: state.quotas })
      fresh.state.heard = state.heard
      fresh.state.openedMs = state.openedMs
      install(fresh)
      // A disk that can be read and not written would fail at the next question.
      await store.batch([metaRecord()], { sync: true })
    } catch (cause) {
      failure = ledgerFailure(host, 'cannot be opened again', cause)
      return false
    }
    failure = null
    for (const listener of recoveryListeners) listener()
    return true
  }

  function recover (): Promise<boolean> {
    if (failure === null) return Promise.resolve(true)
    recovering ??= readAnew().finally(() => { recovering = null })
    return recovering
  }

  /** Refuses what is new while the clock cannot be trusted; what was promised is answered. */
  function mustNotBeFrozen (key: string): void {
    const why = clock.frozen()
    if (why !== null && !state.replays.has(key)) throw new MusubiError('FROZEN', `host ${host} makes no new promises: ${why}`, { retryable: true })
  }

  /** @returns the document that a cluster runs with here, and whether `document` may take its place */
  function mustFollow (document: ClusterDocument): ClusterDocument | undefined {
    const kept = pending.get(document.id) ?? documents.get(document.id)?.document
    if (kept === undefined || usageState(state, document.id) !== 'active' || isDeepStrictEqual(kept, asOnDisk(document))) return kept
    if (document.version <= kept.version) throw new ConflictError(`cluster ${document.name} is active on ${host} with another document (version ${kept.version}, this one ${document.version})`)
    if (!isDeepStrictEqual(identityOf(kept), identityOf(document))) throw new ConflictError(`cluster ${document.name} is active on ${host}: version ${document.version} of its document is of another cluster`)
    return kept
  }

  /** of the live leases of a cluster; 0 without any */
  const latestEnd = (clusterId: string): number => leasesOf(settled, clusterId).filter(isLive).reduce((latest, lease) => Math.max(latest, lease.endMs), 0)

  const ledger: Ledger = {
    async hold (request, requester = request.masterPeer) {
      mustNotBeFrozen(request.key)
      return await submit({ type: 'hold', request, requester })
    },
    commit: (clusterId, offerId, epoch = 0) => submit({ type: 'commit', clusterId, offerId, epoch }),
    async extend (request, requester = host) {
      mustNotBeFrozen(request.key)
      return await submit({ type: 'extend', request, requester })
    },
    async activate (clusterId, receipts, record, epoch = 0) {
      if (record === undefined) return await submit({ type: 'activate', clusterId, receipts, epoch })
      const { document } = record
      if (document.id !== clusterId) throw new InvalidInputError(`activation of cluster ${clusterId} carries the document of ${document.id}`)
      const missing = missingReceipts(document, receipts)
      if (missing.length > 0) throw new ConflictError(`cluster ${document.name} cannot be activated on ${host}: no commit receipt for ${missing.join(', ')}`)
      const kept = mustFollow(document)
      const copy = asOnDisk(document)
      try {
        return await submit({ type: 'activate', clusterId, receipts, epoch }, answer => {
          if (answer.replay && isDeepStrictEqual(kept, copy)) return []
          pending.set(clusterId, copy)
          return [put(documentKey(clusterId), record)]
        })
      } finally {
        // Whoever comes while it is being written is compared with it; then it is in the table.
        if (pending.get(clusterId) === copy) pending.delete(clusterId)
      }
    },
    release: (clusterId, reason, scope = {}) => submit({
      type: 'release', clusterId, reason, epoch: scope.epoch ?? 0,
      ...(scope.offerId === undefined ? {} : { offerId: scope.offerId }), ...(scope.leaseIds === undefined ? {} : { leaseIds: [...scope.leaseIds] })
    }),
    revoke: (clusterId, reason) => submit({ type: 'revoke', clusterId, reason }),
    async keepAlive (request): Promise<KeepAliveAnswer> {
      await submit({ type: 'keepAlive', ...request })
      return {
        state: clusterState(settled, request.clusterId), endMs: latestEnd(request.clusterId),
        epoch: settled.epochs.get(request.clusterId)?.epoch ?? 0, nowMs: clock.now()
      }
    },
    async curtail (request) {
      mustNotBeFrozen('')
      await submit({ type: 'curtail', ...request })
      return { endMs: latestEnd(request.clusterId) }
    },
    async restore (request) {
      mustNotBeFrozen('')
      await submit({ type: 'restore', ...request })
      return { endMs: latestEnd(request.clusterId) }
    },
    async claim (request) {
      await submit({ type: 'claim', ...request })
      return { epoch: request.epoch }
    },
    vacate: (clusterId, seenCounter) => submit(
      { type: 'vacate', clusterId, ...(seenCounter === undefined ? {} : { seenCounter }) },
      () => leasesOf(state, clusterId).every(lease => isQuota(lease) || (!isLive(lease) && lease.vacated)) && documents.get(clusterId) !== undefined ? [{ type: 'delete', key: documentKey(clusterId) }] : []
    ),
    async tick () {
      if (failure !== null && clock.now() - triedMs >= LEDGER_RETRY_MS) await recover()
      await submit({ type: 'tick' }, () => clock.mark !== null && clock.now() - markedMs >= CLOCK_MARK_MS ? [metaRecord()] : [])
    },
    nextDueMs: () => failure === null ? nextDueMs(state) : triedMs + LEDGER_RETRY_MS,
    now: () => clock.now(),
    frozen: () => clock.frozen(),
    state: () => settled,
    free: (fromMs, untilMs) => freeOf(state, fromMs ?? Math.max(state.clockMs, clock.now()), untilMs),
    leases: clusterId => leasesOf(settled, clusterId),
    clusterState: clusterId => clusterState(settled, clusterId),
    usageState: clusterId => usageState(settled, clusterId),
    epochOf (clusterId) {
      const known = settled.epochs.get(clusterId)
      return known === undefined ? null : { epoch: known.epoch, holder: known.holder }
    },
    heardMs: clusterId => heardOf(settled, clusterId),
    nextSegmentId () {
      const nowMs = Math.max(state.clockMs, clock.now())
      return state.slice === null || nowMs < state.quarantineUntilMs ? null : allocateId(state.slice, idUses(state), nowMs)
    },
    setCapacity (capacity) {
      for (const one of [state, settled]) one.capacity = { ...capacity }
    },
    setQuotas (quotas) {
      for (const one of [state, settled]) one.quotas = new Map(quotas)
    },
    history: (filter = {}) => readHistory(store, filter, options.migrations),
    activeDocuments () {
      const since = (clusterId: string): { atMs: number, token: number } => {
        const active = leasesOf(settled, clusterId).filter(lease => lease.state === 'active' && !isQuota(lease))
        return { atMs: Math.min(...active.map(lease => lease.activatedMs)), token: Math.min(...active.map(lease => lease.commitToken)) }
      }
      return documents.list().filter(record => usageState(settled, record.document.id) === 'active').map(record => ({ record, ...since(record.document.id) }))
        .sort((a, b) => a.atMs - b.atMs || a.token - b.token).map(({ record }) => record)
    },
    documents,
    table: name => tables.table(name, writeTable),
    async nextEpoch () {
      if (failure !== null) throw failure
      const next = ++bootEpoch
      await writer.write([put(BOOT_EPOCH, { epoch: next })], () => undefined)
      return next
    },
    onChange (listener) {
      changeListeners.add(listener)
      return () => { changeListeners.delete(listener) }
    },
    onFailure (listener) {
      failureListeners.add(listener)
      if (failure !== null) listener(failure)
      return () => { failureListeners.delete(listener) }
    },
    onRecovered (listener) {
      recoveryListeners.add(listener)
      return () => { recoveryListeners.delete(listener) }
    },
    failure: () => failure,
    recover,
    async close () {
      await recovering
      await writer.idle()
    }
  }

  install(loaded)
  state.openedMs = settled.openedMs = clock.now()
  const { meta } = loaded
  state.quarantineUntilMs = Math.max(state.quarantineUntilMs, options.quarantineUntilMs ?? 0)
  if (meta === null || state.quarantineUntilMs !== meta.quarantineUntilMs) await writer.write([metaRecord()], () => { settled.quarantineUntilMs = state.quarantineUntilMs })
  if (meta !== null && bootId !== '' && meta.bootId !== bootId) await submit({ type: 'restart' }, () => [metaRecord()])
  await ledger.tick()
  return ledger
}
