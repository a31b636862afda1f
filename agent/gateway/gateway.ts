import type { Logger } from 'pino'
import type { Activate, CallPeer, Caller, HostStatus, Methods } from '../peers.ts'
import type { EventLog } from '../events.ts'
import { hostsFor } from './hosts-for.ts'
import { createRate } from './rate.ts'
import type { Calendar } from '../calendar/calendar.ts'
import type { Cordon } from '../cordon.ts'
import type { Policy } from '../policy/policy.ts'
import { type QuoteFacts, type Quotes, createQuotes } from '../quote/quotes.ts'
import { type QuotaShares, shareFor } from '../policy/shares.ts'
import type { HostCalendar } from '../../protocol/core/calendar/together.ts'
import { ConflictError, describeError, errorCode, MusubiError } from '../../protocol/core/errors.ts'
import { checkForm, checkRequest } from '../../protocol/core/gateway/checks.ts'
import type { GatewayEffect, GatewayEvent, HostAnswer, HostAsk, SiteAnswer, SiteAsk, SiteHost, SiteView } from '../../protocol/core/gateway/events.ts'
import { freedBy } from '../../protocol/core/gateway/place.ts'
import { type GatewayRecord, allHeld, hostsOf } from '../../protocol/core/gateway/record.ts'
import { isLent } from '../../protocol/core/gateway/shares.ts'
import { advance, emptyGateway, loadGateway } from '../../protocol/core/gateway/step.ts'
import { HOST_STATUS_DEADLINE_MS, MAX_LOOKS } from '../../protocol/core/limits.ts'
import type { ExtendRequest, GatewayFacts, Grant, KeepAliveRequest, Offer, Receipt, ReleaseRequest, Request } from '../../protocol/core/messages.ts'
import type { Preempt } from '../../protocol/policy/preempt.ts'
import { createRunner } from '../../store/runner.ts'
import type { Store } from '../../store/store.ts'

export interface GatewayDeps {
  site: string
  call: CallPeer
  /** what this gateway says of itself in offers */
  facts: () => Promise<GatewayFacts>
  siteHosts: () => SiteHost[]
  /** what hosts have free in a time to come; absent: what they have now is taken for it */
  calendar?: Pick<Calendar, 'site'>
  /** a fresh UUID each time */
  newId: () => string
  /** ledger clock, Unix ms */
  now: () => number
  store: Store
  events: EventLog
  log: Logger
  /** what this site lends to whom; absent: everything to everybody */
  policy?: Pick<Policy, 'check'>
  /** a gateway carries the segment of every cluster at its site: cordoned it takes none */
  cordon?: Pick<Cordon, 'check'>
  /** whether the ledger of this gateway counts what a site borrows */
  quota?: (masterSite: string) => boolean
  /** what this gateway and the others of its site still lend of its quotas; absent: the ledger of this one alone decides */
  shares?: QuotaShares
  /** what a site is to pay per vCPU and hour, thousandths */
  priceMilli?: (masterSite: string) => number
  /** what makes room for a site of a higher priority; absent: nothing ever does */
  preempt?: Preempt
  /** what quotes say beside what requests are judged by; absent: no price, no bound */
  quotes?: QuoteFacts
  /**
   * Who a grant names as master, once its signature has been checked against the anchor host;
   * absent: no grant is taken.
   *
   * @throws MusubiError when it is not what it says
   */
  holderOf?: (grant: Grant, of: { clusterId: string, masterSite: string, anchor: string }) => { epoch: number, peer: string }
}

/** The gateway answers for its site. It promises nothing itself: hosts do, and it finds them again. */
export interface Gateway {
  /** Reads what an earlier process kept. Until then questions are refused. */
  start (): Promise<void>
  request (request: Request, caller: Caller): Promise<Offer>
  /** What a request would be answered, and what could be given instead; holds nothing. @throws MusubiError BUSY, and for a request that cannot be */
  quote (ask: { request: Request }, caller: Caller): Promise<Methods['quote']['reply']>
  extend (request: ExtendRequest, caller: Caller): Promise<{ site: string, ttlMs: number, nowMs: number }>
  commit (request: Methods['commit']['request'], caller: Caller): Promise<{ site: string, receipts: Receipt[] }>
  activate (request: Activate, caller: Caller): Promise<{ site: string }>
  release (request: ReleaseRequest, caller: Caller): Promise<{ site: string, ended: number }>
  keepAlive (request: KeepAliveRequest, caller: Caller): Promise<{ site: string, state: string, endMs: number, epoch: number, nowMs: number, notice?: string }>
  /** What hosts say now; those that do not answer are named as unreachable. */
  status (request: { clusterId: string }, caller: Caller): Promise<{ hosts: HostStatus[] }>
  /**
   * Tries again what a crash or an unreachable host left, and looks whether records are still true;
   * after a failure of the disk it goes on. Call it every few seconds; it waits for no host.
   */
  tick (): Promise<void>
  /** Waits for the calls to hosts that ticks have started. */
  swept (): Promise<void>
  /** What a site has free over time as another one may count on it: with what that one could have by notice. Absent: no more than there is. */
  noticed (masterSite: string): ((hosts: readonly HostCalendar[]) => HostCalendar[]) | undefined
  list (): GatewayRecord[]
  /** When the master of a cluster was heard of, ledger clock; null when there is no record, or it has not called yet. */
  heardMs (clusterId: string): number | null
  /** How far its master's clock was behind this one at its last keep-alive, ms; null as with `heardMs`. */
  skewMs (clusterId: string): number | null
  /** Why nothing is answered now; null when all is well. */
  failure (): MusubiError | null
  close (): Promise<void>
}

type SiteReplies = { [A in SiteAnswer as A['method']]: A['reply'] }

const PREFIX = 'offer/'
const RECORD_VERSION = 2

/** Asks one host. */
async function askHost (call: CallPeer, peer: string, ask: HostAsk, deadlineMs: number): Promise<HostAnswer> {
  const options = { deadlineMs }
  switch (ask.method) {
    case 'hold': return { method: ask.method, reply: await call(peer, ask.method, ask.request, options) }
    case 'hostExtend': return { method: ask.method, reply: await call(peer, ask.method, ask.request, options) }
    case 'hostCurtail': return { method: ask.method, reply: await call(peer, ask.method, ask.request, options) }
    case 'hostRestore': return { method: ask.method, reply: await call(peer, ask.method, ask.request, options) }
    case 'hostCommit': return { method: ask.method, reply: await call(peer, ask.method, ask.request, options) }
    case 'hostActivate': return { method: ask.method, reply: await call(peer, ask.method, ask.request, options) }
    case 'hostRelease': return { method: ask.method, reply: await call(peer, ask.method, ask.request, options) }
    case 'hostKeepAlive': return { method: ask.method, reply: await call(peer, ask.method, ask.request, options) }
    case 'hostStatus': return { method: ask.method, reply: await call(peer, ask.method, ask.request, options) }
  }
}

const asMusubiError = (error: unknown): MusubiError => error instanceof MusubiError ? error : new MusubiError(errorCode(error), describeError(error), { cause: error })

/** What refuses, as a value. */
function refusalOf (...checks: ReadonlyArray<() => void>): MusubiError | null {
  try {
    for (const check of checks) check()
    return null
  } catch (error) {
    return asMusubiError(error)
  }
}

/** The records of earlier processes; one that cannot be read is left where it is, and said. */
async function readRecords (store: Store, log: Logger): Promise<GatewayRecord[]> {
  const records: GatewayRecord[] = []
  const left = (damage: MusubiError): void => { log.error({ error: damage.message }, 'a record of the gateway is left out; its leases end by themselves') }
  for await (const { key, value, version } of store.iterate<GatewayRecord>(PREFIX, left)) {
    if (version === RECORD_VERSION && PREFIX + value.clusterId === key) records.push(value)
    else left(new MusubiError('RECORD_VERSION', `record "${key}" is of version ${version}, known is ${RECORD_VERSION}`))
  }
  return records
}

/** Runs the gateway's state machine (`protocol/core/gateway`) on its store, the mesh and the clock. */
export function createGateway (deps: GatewayDeps): Gateway {
  const { store, call, log, events, site } = deps
  let machine = emptyGateway(site)
  let stopped: MusubiError | null = new MusubiError('NOT_READY', `the gateway of site ${site} is starting`, { retryable: true, hint: 'try again in some seconds' })
  let lastAskId = 0
  const pending = new Map<number, { resolve: (answer: SiteAnswer) => void, reject: (error: MusubiError) => void }>()
  /** calls that ticks have started, and who waits for them */
  const ofTicks = new Set<number>()
  let sweeping = Promise.withResolvers<undefined>()
  /** requests that are not in the machine yet, by cluster: a release comes after them */
  const preparing = new Map<string, Set<Promise<unknown>>>()
  /** looks at clusters that are under way */
  const looks = new Map<string, Promise<{ hosts: HostStatus[] }>>()
  let recovering: Promise<void> | null = null
  const rate = createRate(site, deps.now)

  const runner = createRunner<GatewayEvent, GatewayEffect>({
    store,
    advance (event) {
      const effects = advance(machine, event, deps.now())
      if (event.type === 'tick') for (const effect of effects) if (effect.effect === 'call') ofTicks.add(effect.callId)
      return effects
    },
    written: effect =>
      effect.effect === 'save' ? { operation: { type: 'put', key: PREFIX + effect.record.clusterId, value: effect.record, version: RECORD_VERSION }, sync: effect.sync }
      : effect.effect === 'forget' ? { operation: { type: 'delete', key: PREFIX + effect.clusterId }, sync: false }
      : null,
    perform,
    onFailure (cause) {
      const failure = new MusubiError('LEDGER_FAILED', `the gateway of site ${site} could not write its records: ${cause.message}`, { retryable: true, hint: 'look at the disk of its state folder; it goes on by itself', cause })
      stopped = failure
      log.error({ error: cause.message }, 'the records of the gateway could not be written')
      for (const { reject } of pending.values()) reject(failure)
      pending.clear()
      ofTicks.clear()
      swept()
    }
  })

  function swept (): void {
    if (ofTicks.size > 0) return
    sweeping.resolve(undefined)
    sweeping = Promise.withResolvers()
  }

  /** Works an event in whose failure nobody waits for: it is told by `onFailure`. */
  const tell = (event: GatewayEvent): Promise<void> => runner.submit(event).catch(() => undefined)

  function perform (effect: GatewayEffect): void {
    switch (effect.effect) {
      case 'call': {
        const { callId, peer, ask, deadlineMs } = effect
        void askHost(call, peer, ask, deadlineMs)
          .then(answer => tell({ type: 'reply', callId, answer }), (error: unknown) => tell({ type: 'failed', callId, error: asMusubiError(error) }))
          .then(() => { if (ofTicks.delete(callId)) swept() })
        break
      }
      case 'answer':
        pending.get(effect.askId)?.resolve(effect.answer)
        pending.delete(effect.askId)
        break
      case 'refuse':
        pending.get(effect.askId)?.reject(effect.error)
        pending.delete(effect.askId)
        break
      case 'note':
        events.add(effect.type, effect.message, effect.cluster)
        break
      case 'save':
      case 'forget':
        break
    }
  }

  async function ask<M extends SiteAsk['method']> (caller: Caller, question: SiteAsk & { method: M }): Promise<SiteReplies[M]> {
    if (stopped !== null) throw stopped
    const askId = ++lastAskId
    const { promise, resolve, reject } = Promise.withResolvers<SiteAnswer>()
    pending.set(askId, { resolve, reject })
    runner.submit({ type: 'ask', askId, caller, ask: question }).catch((error: unknown) => {
      pending.delete(askId)
      reject(stopped ?? asMusubiError(error))
    })
    const answer = await promise
    if (answer.method !== question.method) throw new MusubiError('INTERNAL', `the gateway answered ${answer.method} to ${question.method}`)
    return answer.reply as SiteReplies[M]
  }

  const refusalFor = (request: Request): MusubiError | null => refusalOf(() => deps.cordon?.check(), () => deps.policy?.check(request))

  async function viewFor (request: Request): Promise<SiteView> {
    const counts = deps.quota?.(request.masterSite) ?? false
    const [facts, { hosts, calendars, closed }, share] = await Promise.all([deps.facts(), hostsFor(request, deps.siteHosts(), freedBy(machine.records.get(request.clusterId)), deps.calendar, deps.now), counts ? shareFor(deps.shares, request, deps.now()) : null])
    // who may not have it in any case must not cost others theirs
    const byNotice = calendars !== null && quotes.lacksOnlyRoom(request, share ?? undefined) ? deps.preempt?.room(request, [...machine.records.values()], hosts, calendars) ?? null : null
    return {
      hosts, facts, closed, ...byNotice === null ? {} : { byNotice }, id: deps.newId(), quota: counts, ...share === null ? {} : { share }, ...deps.priceMilli === undefined ? {} : { priceMilli: deps.priceMilli(request.masterSite) },
      refusal: refusalFor(request)
    }
  }

  /** Has its view made first; releases of the same cluster wait for that. */
  async function prepared (request: Request): Promise<SiteView> {
    const view = viewFor(request)
    const mine = preparing.get(request.clusterId) ?? new Set()
    preparing.set(request.clusterId, mine.add(view))
    try {
      return await view
    } finally {
      mine.delete(view)
      if (mine.size === 0 && preparing.get(request.clusterId) === mine) preparing.delete(request.clusterId)
    }
  }

  /** Goes on after a failure of the disk: what was in doubt is what the disk says. */
  async function recover (): Promise<void> {
    await runner.idle()
    await store.reopen()
    const records = await readRecords(store, log)
    const fresh = loadGateway(site, records)
    // Ids go on, so that an answer to an earlier call is nobody's.
    machine = { ...fresh, lastId: machine.lastId }
    runner.recovered()
    stopped = null
    await runner.submit({ type: 'start' })
    log.info({ clusters: records.length }, 'the gateway goes on with the records on its disk')
  }

  const quotes: Quotes = createQuotes({ site, now: deps.now, view: viewFor, refusal: refusalFor, ...deps.calendar === undefined ? {} : { calendar: deps.calendar }, ...deps.quotes === undefined ? {} : { facts: deps.quotes }, ...deps.shares === undefined ? {} : { shares: deps.shares },
    ...deps.preempt === undefined ? {} : { preempt: { room: (request, hosts, calendars) => deps.preempt?.room(request, [...machine.records.values()], hosts, calendars) ?? null, noticed: masterSite => deps.preempt?.noticed(masterSite, [...machine.records.values()]) } } })

  async function lookAt (record: GatewayRecord): Promise<{ hosts: HostStatus[] }> {
    const hosts = await Promise.all(hostsOf(allHeld(record).filter(held => !isLent(held, record.offer.gateway))).map(async (h): Promise<HostStatus> => {
      try {
        return await call(h.peer, 'hostStatus', { clusterId: record.clusterId }, { deadlineMs: HOST_STATUS_DEADLINE_MS })
      } catch (error) {
        log.debug({ host: h.host, error: describeError(error) }, 'no status from host')
        return { site, host: h.host, leaseState: '', objects: [], reachable: false, nowMs: 0 }
      }
    }))
    return { hosts }
  }

  const holderOf = ({ clusterId, epoch, grant }: KeepAliveRequest, caller: Caller): { epoch: number, peer: string } | null => {
    const record = machine.records.get(clusterId)
    // What has been taken is not proved again: the anchor's certificate may have run out since.
    if (grant === null || record === undefined || epoch <= record.epoch || caller.site !== record.masterSite) return null
    if (deps.holderOf === undefined) throw new MusubiError('FORBIDDEN', `the gateway of site ${site} takes no grants`)
    return deps.holderOf(grant, { clusterId, masterSite: record.masterSite, anchor: record.anchor })
  }

  return {
    async start () {
      machine = loadGateway(site, await readRecords(store, log))
      stopped = null
      await runner.submit({ type: 'start' })
    },

    async request (request, caller) {
      if (stopped !== null) throw stopped
      rate.mustBeRare('request', caller)
      // windows are followed day by day, and hosts are asked: not for times, or by callers, that cannot be
      checkForm({ method: 'request', request }, deps.now())
      checkRequest(request, caller, deps.now())
      const view = await prepared(request)
      try {
        return await ask(caller, { method: 'request', request, view })
      } catch (error) {
        throw await quotes.explained(error, request, view)
      }
    },

    async quote ({ request }, caller) {
      if (stopped !== null) throw stopped
      return await quotes.answer(request, caller)
    },

    async extend (request, caller) {
      rate.mustBeRare('extend', caller)
      checkForm({ method: 'extend', request }, deps.now())
      const record = machine.records.get(request.clusterId)
      const refusal = record === undefined ? null : refusalOf(() => deps.policy?.check({ masterSite: record.masterSite, startMs: record.startMs, fromMs: record.endMs, endMs: request.endMs }))
      return await ask(caller, { method: 'extend', request, refusal })
    },

    commit: (request, caller) => ask(caller, { method: 'commit', request }),
    activate: (request, caller) => ask(caller, { method: 'activate', request }),

    async release (request, caller) {
      await Promise.allSettled(preparing.get(request.clusterId) ?? new Set<Promise<unknown>>())
      return await ask(caller, { method: 'release', request })
    },

    async keepAlive (request, caller) {
      return await ask(caller, { method: 'keepAlive', request, holder: holderOf(request, caller) })
    },

    async status (request, caller) {
      const record = machine.records.get(request.clusterId)
      if (record === undefined) return { hosts: [] }
      // Any gateway of the master's site may look: who adopts a cluster looks first.
      if (record.masterSite !== caller.site) throw new ConflictError(`cluster ${request.clusterId} at site ${site} belongs to another master`)
      // A master that asks and asks must not keep the hosts from everybody's leases.
      const under = looks.get(request.clusterId)
      if (under !== undefined) return await under
      if (looks.size >= MAX_LOOKS) throw new MusubiError('BUSY', `the gateway of site ${site} looks at ${looks.size} clusters`, { retryable: true, hint: 'try again in some seconds' })
      const look = lookAt(record).finally(() => { looks.delete(request.clusterId) })
      looks.set(request.clusterId, look)
      return await look
    },

    async tick () {
      if (runner.failure() === null) {
        await tell({ type: 'tick' })
        return
      }
      recovering ??= recover().catch((error: unknown) => { log.warn({ error: describeError(error) }, 'the records of the gateway still cannot be used') }).finally(() => { recovering = null })
      await recovering
    },

    swept: () => ofTicks.size === 0 ? Promise.resolve() : sweeping.promise,
    noticed: masterSite => deps.preempt?.noticed(masterSite, [...machine.records.values()]),
    list: () => [...machine.records.values()],
    heardMs: clusterId => machine.heard.get(clusterId)?.ms ?? null,
    skewMs: clusterId => machine.heard.get(clusterId)?.skewMs ?? null,
    failure: () => runner.failure() === null ? null : stopped,

    async close () {
      stopped = new MusubiError('STOPPED', `the gateway of site ${site} is stopping`, { retryable: true })
      for (const { reject } of pending.values()) reject(stopped)
      pending.clear()
      await runner.idle()
    }
  }
}
