import type { Logger } from 'pino'
import type { Sight } from '../calendar/sight.ts'
import type { EventLog } from '../events.ts'
import type { CallPeer } from '../peers.ts'
import { type StoredRecord, fromStored, toStored } from './stored.ts'
import type { BudgetChange } from '../../protocol/core/cache/budget.ts'
import { describeError, MusubiError, NotFoundError } from '../../protocol/core/errors.ts'
import type { SiteAnswer } from '../../protocol/core/gateway/events.ts'
import type { KnownSite, LenderAsk, Looked, MasterEffect, MasterEvent, NewCluster } from '../../protocol/core/master/events.ts'
import type { Contact, MasterMachine } from '../../protocol/core/master/machine.ts'
import type { MasterRecord, MasterState } from '../../protocol/core/master/record.ts'
import { advance, emptyMaster, loadMaster } from '../../protocol/core/master/step.ts'
import type { ClusterDocument, Secret } from '../../protocol/core/messages.ts'
import { type GatewayTruth, offerProblem } from '../../protocol/core/verify/document.ts'
import { createRunner } from '../../store/runner.ts'
import type { Store, StoreOperation } from '../../store/store.ts'

export interface NegotiatorDeps {
  site: string
  call: CallPeer
  sites: () => readonly KnownSite[]
  /** round trip to a gateway that nobody has measured, ms, in bounded time; null when it does not answer. Absent: what is not known stays so */
  rttMs?: (peer: string, clusterId: string) => Promise<number | null>
  /** sees what sites have free in a time to come; absent: what they have now is taken for it */
  sight?: Sight
  store: Store
  /** ledger clock, Unix ms */
  now: () => number
  newId: () => string
  /** document and secrets of a record, the same again after a crash; of a growth under way, the next document */
  prepare: (record: MasterRecord) => Promise<{ document: ClusterDocument, secrets: readonly Secret[] }>
  /** has other agents of the site keep the record, for a bounded time. @returns how many do */
  copies: (record: MasterRecord) => Promise<number>
  /** what is known of gateways whatever offers say */
  truth: GatewayTruth
  log: Logger
  events: Pick<EventLog, 'add'>
}

/** The master's side of the lease protocol, around the pure machine; see protocol/core/master. */
export interface Negotiator {
  /** Takes up what an earlier process left, in any state. */
  start (): Promise<void>
  /** Resolves when the record is on the disk; what becomes of it is told by `settled`. */
  create (cluster: NewCluster): Promise<MasterRecord>
  /** May be ahead of the disk by writes under way. */
  records (): MasterRecord[]
  get (id: string): MasterRecord | undefined
  /** Resolves when the deletion is on the disk. */
  remove (id: string, reason: string): Promise<void>
  /** Takes what is held for its user; resolves when the decision is on the disk. @throws MusubiError HOLD_LAPSED; ConflictError when nothing is held for its user */
  accept (id: string): Promise<void>
  /** Resolves when every lender has committed. @throws MusubiError with every refusal and its site */
  extend (id: string, endMs: number): Promise<void>
  /** To so many nodes in all; resolves when every site has activated. @throws MusubiError */
  grow (id: string, count: number): Promise<void>
  /** Resolves when it is on the disk. @throws MusubiError when there are no such nodes */
  shrink (id: string, nodes: readonly string[]): Promise<void>
  /** Resolves when it is on the disk. @throws MusubiError when the cluster, or the site, has no such thing */
  budget (id: string, change: BudgetChange): Promise<void>
  /** Becomes the master of a cluster whose epoch was granted to this host. */
  adopt (record: MasterRecord): Promise<void>
  /** Time passes: call it every half second or so. */
  tick (): Promise<void>
  /** Waits until it is held for its user, or leaves `negotiating`, `committing`, `preparing` and `activating`. @throws NotFoundError */
  settled (id: string): Promise<MasterRecord>
  /** What the last keep-alives told, by site. */
  contacts (id: string): ReadonlyMap<string, Contact>
  /** Told after every change of a record that is on the disk; `undefined`: it is forgotten. @returns stops it */
  onChange (listener: (id: string, record: MasterRecord | undefined) => void): () => void
  /** The failed write that it waits for to pass; null when it works. */
  failure (): MusubiError | null
  close (): Promise<void>
}

const PREFIX = 'cluster/'
/** Gateways that are asked at once how far they are, before a cluster that limits it is placed. */
const MAX_SITES_MEASURED = 64
/** Between attempts to go on after a failed write. */
const RECOVER_MS = 2_000
const UNSETTLED: ReadonlySet<MasterState> = new Set<MasterState>(['negotiating', 'committing', 'preparing', 'activating'])

const asMusubi = (cause: unknown): MusubiError => cause instanceof MusubiError ? cause : new MusubiError('INTERNAL', describeError(cause), { cause })

export function createNegotiator (deps: NegotiatorDeps): Negotiator {
  const { store, log, events } = deps
  let machine: MasterMachine = emptyMaster(deps.site)
  let closed = false
  let recovering: Promise<void> | null = null
  let recoverAtMs = 0
  /** changes that wait for their outcome, by cluster and id */
  const amending = new Map<string, (error: MusubiError | null) => void>()
  const listeners = new Set<(id: string, record: MasterRecord | undefined) => void>()
  /** records of the events worked in whose writes are under way */
  const changed = new Map<MasterEvent, Set<string>>()

  const runner = createRunner<MasterEvent, MasterEffect>({
    store,
    advance (event) {
      const effects = advance(machine, event, deps.now())
      changed.set(event, new Set(effects.flatMap(e => e.effect === 'save' ? [e.record.id] : e.effect === 'forget' ? [e.clusterId] : [])))
      return effects
    },
    written: effect => {
      const operation: StoreOperation | null = effect.effect === 'save'
        ? { type: 'put', key: PREFIX + effect.record.id, value: toStored(effect.record) }
        : effect.effect === 'forget' ? { type: 'delete', key: PREFIX + effect.clusterId } : null
      return operation === null ? null : { operation, sync: true }
    },
    perform,
    onFailure (error) {
      log.error({ error: describeError(error) }, 'the records of clusters could not be written')
      events.add('master.failed', `the records of clusters could not be written: ${error.message}`)
    }
  })

  async function submit (event: MasterEvent): Promise<void> {
    if (closed) throw new MusubiError('STOPPED', 'this master is being stopped')
    try {
      await runner.submit(event)
      for (const id of changed.get(event) ?? []) for (const listener of listeners) listener(id, machine.records.get(id))
    } finally {
      changed.delete(event)
    }
  }

  /** For what nobody waits for: a failed write is told once, and mended by `tick`. */
  function post (event: MasterEvent): void {
    if (!closed && runner.failure() === null) submit(event).catch(() => undefined)
  }

  /** For what somebody waits for: after a failed write it is tried whether the disk works again. */
  async function submitNow (event: MasterEvent): Promise<void> {
    if (runner.failure() !== null) await recover()
    try {
      await submit(event)
    } catch (error) {
      // What is not on the disk has not happened: it shows as it was.
      if (runner.failure() !== null) await recover().catch(() => undefined)
      throw error
    }
  }

  async function load (): Promise<MasterRecord[]> {
    const records: MasterRecord[] = []
    for await (const { value } of store.iterate<StoredRecord>(PREFIX)) records.push(fromStored(value))
    return records
  }

  /** Memory is ahead of the disk: what the disk says is so, and it begins as after a start. */
  function recover (): Promise<void> {
    recovering ??= (async () => {
      await runner.idle()
      await store.reopen()
      const { nextCall, clockMs } = machine
      machine = Object.assign(loadMaster(deps.site, await load()), { nextCall, clockMs })
      const failure = runner.failure() ?? new MusubiError('STORE_WRITE_FAILED', 'the store could not be written', { retryable: true })
      for (const end of amending.values()) end(failure)
      amending.clear()
      runner.recovered()
      await submit({ type: 'start' })
      events.add('master.recovered', 'the records of clusters can be written again')
    })().finally(() => {
      recovering = null
      recoverAtMs = deps.now() + RECOVER_MS
    })
    return recovering
  }

  function perform (effect: MasterEffect): void {
    switch (effect.effect) {
      case 'call': void performCall(effect.callId, effect.peer, effect.ask, effect.deadlineMs); break
      case 'look': void look(effect); break
      case 'prepare': void prepare(effect.record); break
      case 'copy': void copy(effect.record); break
      case 'note': events.add(effect.type, effect.message, effect.cluster); break
      case 'amended': amending.get(`${effect.clusterId}/${effect.id}`)?.(effect.error); break
      case 'save':
      case 'forget': break // written
    }
  }

  /** Only a cluster that limits the RTT waits for what is not known of it. */
  async function measured (sites: readonly KnownSite[], clusterId: string): Promise<readonly KnownSite[]> {
    const { rttMs } = deps
    if (rttMs === undefined || machine.records.get(clusterId)?.spec.placement?.maxRttMs === undefined) return sites
    const unknown = sites.filter(site => site.rttMs === undefined).slice(0, MAX_SITES_MEASURED)
    const found = new Map(await Promise.all(unknown.map(async ({ peer }) => [peer, await rttMs(peer, clusterId)] as const)))
    return sites.map(site => {
      const ms = found.get(site.peer) ?? null
      return ms === null ? site : { ...site, rttMs: ms }
    })
  }

  async function look ({ clusterId, calendars, growth, without }: Extract<MasterEffect, { effect: 'look' }>): Promise<void> {
    const record = machine.records.get(clusterId)
    const sites = await measured(deps.sites().filter(({ site }) => !without.includes(site)), clusterId)
    let found: Looked = { sites }
    if (deps.sight !== undefined && record !== undefined) {
      try {
        if (growth === true) found = { sites: await deps.sight.freeIn(deps.now(), record.endMs, sites, record) }
        else found = calendars ? await deps.sight.look(record, sites) : { sites: await deps.sight.warm(record, sites) }
      } catch (error) {
        log.warn({ cluster: record.name, error: describeError(error) }, 'calendars could not be asked')
      }
    }
    post({ type: 'looked', clusterId, id: deps.newId(), ...found })
  }

  async function performCall (callId: number, peer: string, ask: LenderAsk, deadlineMs: number): Promise<void> {
    try {
      const answer = await callLender(deps.call, peer, ask, deadlineMs)
      const problem = answer.method === 'request' ? offerProblem(answer.reply, { site: siteOf(callId), peer }, deps.truth) : null
      if (problem !== null) throw new MusubiError('BAD_OFFER', `the offer of site ${siteOf(callId)} is refused: ${problem}`)
      post({ type: 'reply', callId, answer })
    } catch (cause) {
      post({ type: 'failed', callId, error: asMusubi(cause) })
    }
  }

  const siteOf = (callId: number): string => machine.calls.get(callId)?.site ?? ''

  async function prepare (record: MasterRecord): Promise<void> {
    try {
      const { document, secrets } = await deps.prepare(record)
      post({ type: 'prepared', clusterId: record.id, document, secrets })
    } catch (cause) {
      log.error({ cluster: record.name, error: describeError(cause) }, 'no document could be made')
      post({ type: 'unprepared', clusterId: record.id, error: asMusubi(cause) })
    }
  }

  async function copy (record: MasterRecord): Promise<void> {
    let copies = 0
    try {
      copies = await deps.copies(record)
    } catch (cause) {
      log.warn({ cluster: record.name, error: describeError(cause) }, 'no other host of the site keeps a copy')
    }
    post({ type: 'copied', clusterId: record.id, record, copies })
  }

  async function amend (clusterId: string, event: (id: string) => MasterEvent): Promise<void> {
    const id = deps.newId()
    const key = `${clusterId}/${id}`
    const { promise, resolve, reject } = Promise.withResolvers<undefined>()
    promise.catch(() => undefined)
    amending.set(key, error => {
      amending.delete(key)
      if (error === null) resolve(undefined)
      else reject(error)
    })
    try {
      await submitNow(event(id))
    } catch (error) {
      amending.delete(key)
      throw error
    }
    await promise
  }

  const negotiator: Negotiator = {
    async start () {
      machine = loadMaster(deps.site, await load())
      try {
        await submit({ type: 'start' })
      } catch (error) {
        // A full disk at the start is told, and waited for by `tick`.
        if (runner.failure() === null) throw error
      }
    },
    async create (cluster) {
      await submitNow({ type: 'create', cluster })
      return mustHave(cluster.id)
    },
    records: () => [...machine.records.values()],
    get: id => machine.records.get(id),
    remove: (id, reason) => submitNow({ type: 'delete', clusterId: id, reason }),
    accept: clusterId => amend(clusterId, id => ({ type: 'accept', clusterId, id })),
    extend: (clusterId, endMs) => amend(clusterId, id => ({ type: 'extend', clusterId, endMs, id })),
    grow: (clusterId, count) => amend(clusterId, id => ({ type: 'grow', clusterId, count, id })),
    shrink: (clusterId, nodes) => amend(clusterId, id => ({ type: 'shrink', clusterId, nodes, id })),
    budget: (clusterId, change) => amend(clusterId, id => ({ type: 'budget', clusterId, change, id })),
    adopt: record => submitNow({ type: 'adopt', record }),
    async tick () {
      if (closed) return
      if (runner.failure() === null) await submit({ type: 'tick' })
      else if (recovering === null && deps.now() >= recoverAtMs) await recover()
    },
    settled (id) {
      const now = mustHave(id)
      if (!UNSETTLED.has(now.state)) return Promise.resolve(now)
      const { promise, resolve, reject } = Promise.withResolvers<MasterRecord>()
      const stop = negotiator.onChange((of, record) => {
        if (of !== id || (record !== undefined && UNSETTLED.has(record.state))) return
        stop()
        if (record === undefined) reject(new NotFoundError(`cluster ${id} is forgotten`))
        else resolve(record)
      })
      return promise
    },
    contacts: id => machine.works.get(id)?.contacts ?? new Map<string, Contact>(),
    onChange (listener) {
      listeners.add(listener)
      return () => { listeners.delete(listener) }
    },
    failure: () => runner.failure(),
    async close () {
      closed = true
      await recovering?.catch(() => undefined)
      await runner.idle()
    }
  }

  function mustHave (id: string): MasterRecord {
    const record = machine.records.get(id)
    if (record === undefined) throw new NotFoundError(`there is no cluster ${id} here`)
    return record
  }
  return negotiator
}

/** One question to a gateway, by its method. */
async function callLender (call: CallPeer, peer: string, ask: LenderAsk, deadlineMs: number): Promise<SiteAnswer> {
  const options = { deadlineMs }
  switch (ask.method) {
    case 'request': return { method: ask.method, reply: await call(peer, ask.method, ask.request, options) }
    case 'extend': return { method: ask.method, reply: await call(peer, ask.method, ask.request, options) }
    case 'commit': return { method: ask.method, reply: await call(peer, ask.method, ask.request, options) }
    case 'activate': return { method: ask.method, reply: await call(peer, ask.method, ask.request, options) }
    case 'release': return { method: ask.method, reply: await call(peer, ask.method, ask.request, options) }
    case 'keepAlive': return { method: ask.method, reply: await call(peer, ask.method, ask.request, options) }
  }
}
