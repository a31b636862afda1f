/** Releases: of a whole cluster, of one offer, of some leases; each until every host has confirmed it. */
import { ConflictError, describeError, InvalidInputError, UnreachableError } from '../errors.ts'
import { HOST_DEADLINE_MS } from '../limits.ts'
import type { ReleaseRequest } from '../messages.ts'
import { sharesGoing } from '../quota-share.ts'
import { MAX_ITEMS } from '../verify/request.ts'
import { brief, mustOwn } from './checks.ts'
import { type HostCall, type Job, type Scope, type Turn, type WaitingFor, failuresOf } from './machine.ts'
import { type GatewayRecord, allHeld, heldUnder, hostsOf } from './record.ts'
import { onlyLenders } from './shares.ts'

/** What was never activated may be asked for anew: released by its name, as a release that comes late must not end what follows. */
const onlyOffered = ({ anchor, offer }: GatewayRecord): string => anchor === '' ? offer.offerId : ''

/**
 * Calls that release a whole cluster. The gateway's own host comes last: its ledger gives out the
 * segment id, which is not free before every other host has confirmed that it uses it no more. So do
 * gateways that only count what is borrowed: it is given back when nothing of it runs.
 *
 * @param binding whether other hosts may have it plugged in
 */
export function releaseAllCalls (record: GatewayRecord, reason: string, epoch: number, binding: boolean): { first: HostCall[], last: HostCall[] } {
  const calls = releaseCalls(record, { kind: 'all' }, reason, epoch, onlyOffered(record))
  const lenders = onlyLenders(allHeld(record), record.offer.gateway)
  const isLast = ({ peer }: HostCall): boolean => (binding && peer === record.offer.gateway.peer) || (binding && lenders.has(peer))
  return { first: calls.filter(call => !isLast(call)), last: calls.filter(isLast) }
}

function startReleaseAll (turn: Turn, record: GatewayRecord, reason: string, epoch: number, askers: readonly number[], binding: boolean): void {
  const { first, last } = releaseAllCalls(record, reason, epoch, binding)
  turn.start(record.clusterId, { kind: 'release', scope: { kind: 'all' }, reason }, askers, first, last)
}

/** The calls that release a part of what hosts have. @param epoch 0: the gateway's own clean-up  @param offerId of scope `all`: see `onlyOffered` */
export function releaseCalls (record: GatewayRecord, scope: Scope, reason: string, epoch: number, offerId = ''): HostCall[] {
  const { clusterId, amendment } = record
  const held = allHeld(record)
  const parts = scope.kind === 'leases' ? held.filter(part => scope.leaseIds.includes(part.leaseId))
    // An extension lies on the leases that are there, growth beside them.
    : scope.kind === 'amendment' && amendment?.kind === 'grow' ? amendment.held
    : held
  // Named, where nothing else says what is meant: one that comes late must not end what is leased anew.
  const isNamed = scope.kind === 'leases' || (scope.kind === 'all' && offerId === '')
  return hostsOf(parts).map(({ host, peer }): HostCall => {
    const leaseIds = isNamed ? parts.filter(part => part.peer === peer).map(part => part.leaseId) : []
    return {
      host,
      peer,
      ask: {
        method: 'hostRelease',
        request: {
          clusterId, reason, epoch, offerId: scope.kind === 'amendment' ? amendment?.offerId ?? '' : scope.kind === 'all' ? offerId : '',
          // Of a whole cluster there may be more than fit, by many growths; hosts then end all that they have.
          leaseIds: scope.kind === 'all' && leaseIds.length > MAX_ITEMS ? [] : leaseIds
        }
      },
      // With a later end nothing that runs is to be stopped: whatever else is to be said of the cluster waits for this.
      ...scope.kind === 'amendment' && amendment?.kind === 'extend' ? { deadlineMs: HOST_DEADLINE_MS } : {}
    }
  })
}

/** Leases, with the quota of offers of which nothing else would be left. */
function withQuota (record: GatewayRecord, leaseIds: readonly string[]): string[] {
  return [...leaseIds, ...sharesGoing(allHeld(record), new Set(leaseIds)).map(held => held.leaseId)]
}

/** What a release is about; null when nothing of it is here any more. @throws InvalidInputError */
export function scopeOf (site: string, record: GatewayRecord, { offerId, leaseIds }: Pick<ReleaseRequest, 'offerId' | 'leaseIds'>): Scope | null {
  const { amendment } = record
  const named = (ids: readonly string[]): Scope | null => {
    // What is borrowed counts as long as anything of its offer is here: alone it cannot be given back (`withQuota`).
    const known = allHeld(record).filter(held => held.kind !== 'quota' && ids.includes(held.leaseId) && (offerId === '' || heldUnder(record, offerId).includes(held)))
    if (known.length === 0) return null
    // What is only offered does not live on without the rest.
    const offered = amendment?.state === 'asking' || amendment?.state === 'offered' ? amendment.held : []
    if (allHeld(record).every(held => held.kind === 'quota' || known.includes(held) || offered.includes(held))) return { kind: 'all' }
    const fixed = known.find(held => held.kind === 'segment' || held.kind === 'frontend')
    if (fixed !== undefined) throw new InvalidInputError(`cluster ${record.cluster} at site ${site} cannot lose its ${fixed.kind} alone`, 'release all of it')
    return { kind: 'leases', leaseIds: withQuota(record, known.map(held => held.leaseId)) }
  }
  if (leaseIds.length > 0) return named(leaseIds)
  if (offerId === '' || offerId === record.offer.offerId) return { kind: 'all' }
  if (offerId === amendment?.offerId) return { kind: 'amendment' }
  return named(heldUnder(record, offerId).map(held => held.leaseId))
}

/**
 * A release does not wait: what is under way for the cluster ends, as hosts refuse whatever of it
 * comes later (a lease that was released is never committed or activated, and a hold that arrives
 * after it ends by itself). Releases of parts wait for questions about other parts.
 *
 * @throws MusubiError for the asker; then nothing has changed
 */
export function beginRelease (turn: Turn, entry: WaitingFor<'release'>): void {
  const { askId, caller, ask: { request } } = entry
  const record = turn.record(request.clusterId)
  const nothing = (): void => { turn.answer([askId], { method: 'release', reply: { site: turn.site, ended: 0 } }) }
  if (record === undefined) {
    const asking = turn.machine.jobs.get(request.clusterId)
    // Given up while others get notice for it: nothing is held yet, and nothing will be.
    if (asking?.phase.kind === 'curtail' && asking.phase.placing?.entry.caller.peerId === caller.peerId) {
      turn.machine.jobs.delete(request.clusterId)
      turn.refuse(asking.askers, new ConflictError(`cluster ${brief(request.clusterId)} was released at site ${turn.site} meanwhile: ${brief(request.reason)}`, 'ask for it again'))
      turn.touched.add(request.clusterId)
    }
    nothing()
    return
  }
  mustOwn(turn.site, record, caller, request.epoch)
  const part = scopeOf(turn.site, record, request)
  if (part === null) { nothing(); return }
  const scope: Scope = record.state === 'releasing' ? { kind: 'all' } : part
  const job = turn.machine.jobs.get(record.clusterId)
  const reason = request.reason.slice(0, 200)
  if (scope.kind === 'all') { releaseAll(turn, record, job, reason, entry); return }
  if (job !== undefined && !concerns(record, job, scope)) { turn.enqueue(record.clusterId, entry); return }
  const askers = [askId]
  if (job !== undefined) askers.push(...overtake(turn, record, job, reason))
  if (scope.kind === 'amendment') {
    const next = record.amendment?.state === 'releasing' ? record : turn.amend(record, 'release')
    turn.start(record.clusterId, { kind: 'release', scope, reason }, askers, releaseCalls(next, scope, reason, record.epoch))
    return
  }
  if (record.amendment?.state === 'committed' && scope.leaseIds.some(id => record.amendment?.held.some(held => held.leaseId === id))) throw new ConflictError(`cluster ${record.cluster} at site ${turn.site}: growth ends as a whole before it is activated`, 'release its offer')
  const shrinking = [...new Set([...record.shrinking, ...scope.leaseIds])]
  const next = turn.save({ ...record, shrinking, reason }, false)
  turn.start(record.clusterId, { kind: 'release', scope: { kind: 'leases', leaseIds: shrinking }, reason }, askers, releaseCalls(next, { kind: 'leases', leaseIds: shrinking }, reason, record.epoch))
}

/** Whether a job is about the part that is released, and may be ended for it. */
function concerns (record: GatewayRecord, { phase }: Job, scope: Scope): boolean {
  if (scope.kind !== 'amendment') return phase.kind === 'probe'
  return phase.kind === 'probe' || phase.kind === 'extend' || (phase.kind === 'hold' && record.state === 'active') || (phase.kind === 'undo' && record.state === 'active') ||
    (phase.kind === 'commit' && phase.offerId === record.amendment?.offerId)
}

/** Ends a job. @returns who waits for a release of less, and gets the answer of the greater one */
function overtake (turn: Turn, record: GatewayRecord, job: Job, reason: string): readonly number[] {
  turn.machine.jobs.delete(record.clusterId)
  if (job.phase.kind === 'release') return job.askers
  turn.refuse(job.askers, new ConflictError(`cluster ${record.cluster} was released at site ${turn.site} meanwhile: ${brief(reason)}`, 'ask for it again'))
  return []
}

function releaseAll (turn: Turn, record: GatewayRecord, job: Job | undefined, reason: string, entry: WaitingFor<'release'>): void {
  const { clusterId } = record
  const askers = [entry.askId]
  for (let waiting = turn.dequeue(clusterId); waiting !== undefined; waiting = turn.dequeue(clusterId)) {
    if (waiting.ask.method === 'release') askers.push(waiting.askId)
    else turn.refuse([waiting.askId], new ConflictError(`cluster ${record.cluster} was released at site ${turn.site} meanwhile: ${brief(reason)}`, 'ask for it again'))
  }
  const { phase } = job ?? {}
  if (job !== undefined && phase?.kind === 'release' && phase.scope.kind === 'all') {
    turn.machine.jobs.set(clusterId, { ...job, askers: [...job.askers, ...askers] })
    return
  }
  if (job !== undefined && phase?.kind === 'clear' && phase.scope.kind === 'all') {
    // The hosts are being told already; who asked anew is not answered from it.
    turn.refuse(job.askers, new ConflictError(`cluster ${record.cluster} was released at site ${turn.site} meanwhile: ${brief(reason)}`, 'ask for it again'))
    turn.machine.jobs.set(clusterId, { ...job, phase: { kind: 'release', scope: { kind: 'all' }, reason }, askers })
    return
  }
  const others = job === undefined ? [] : overtake(turn, record, job, reason)
  const next = record.state === 'releasing' ? record : turn.move(record, 'release', { reason })
  // What was only held is plugged in nowhere; but a crash may have hidden how far it was, unless hosts were told to start.
  startReleaseAll(turn, next, reason, record.epoch, [...askers, ...others], record.anchor !== '' || (record.state !== 'asking' && record.state !== 'offered'))
}

/** A release that the master asked for before, and that not every host has confirmed. */
export function releaseAgain (turn: Turn, record: GatewayRecord): boolean {
  if (record.state === 'releasing') {
    startReleaseAll(turn, record, record.reason, 0, [], true)
    return true
  }
  const scope: Scope | null = record.amendment?.state === 'releasing' ? { kind: 'amendment' }
    : record.shrinking.length > 0 ? { kind: 'leases', leaseIds: record.shrinking }
    : null
  if (scope === null) return false
  turn.start(record.clusterId, { kind: 'release', scope, reason: record.reason }, [], releaseCalls(record, scope, record.reason, 0))
  return true
}

export function finishRelease (turn: Turn, clusterId: string, job: Job & { phase: { kind: 'release' } }): void {
  const record = turn.record(clusterId)
  if (record === undefined) return
  const { scope, reason } = job.phase
  const failed = failuresOf(job)
  if (failed.length > 0) {
    turn.refuse(job.askers, new UnreachableError(`site ${turn.site} could not confirm the release at ${failed.map(f => `${f.host}: ${describeError(f.error)}`).join('; ')}`, 'it is tried again; inactive leases end by themselves'))
    return
  }
  const ended = job.results.reduce((sum, { answer }) => sum + (answer?.method === 'hostRelease' ? answer.reply.ended : 0), 0)
  released(turn, record, scope)
  if (job.askers.length > 0) turn.note('lease.released', `${ended} leases of cluster ${record.cluster} ended: ${reason}`, record.cluster)
  turn.answer(job.askers, { method: 'release', reply: { site: turn.site, ended } })
}

/** Every host has confirmed. */
export function released (turn: Turn, record: GatewayRecord, scope: Scope): void {
  const without = (leaseIds: ReadonlySet<string>): GatewayRecord['offer'] => ({ ...record.offer, held: record.offer.held.filter(held => !leaseIds.has(held.leaseId)) })
  if (scope.kind === 'all') {
    turn.gone(record)
  } else if (scope.kind === 'leases') {
    const gone = new Set(scope.leaseIds)
    turn.save({ ...record, offer: without(gone), shrinking: record.shrinking.filter(id => !gone.has(id)) }, false)
  } else if (record.amendment !== null) {
    const { kind, formerEndMs, held } = record.amendment
    turn.amend(record, 'gone', null, kind === 'extend' ? { endMs: formerEndMs } : { offer: without(new Set(held.map(one => one.leaseId))) })
  }
}
