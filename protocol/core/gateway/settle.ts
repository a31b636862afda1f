/** Commit, activation and extension: what has been held becomes binding, at all hosts of the site. */
import { ConflictError } from '../errors.ts'
import type { ActivateRequest, Held, Receipt } from '../messages.ts'
import { checkExtension, holdTtlMs, mustBeAsOffered, mustBeInTime, mustHave, mustOwn, brief } from './checks.ts'
import { type HostCall, type Job, type Turn, type WaitingFor, answersOf, failuresOf } from './machine.ts'
import { mustHaveNoNotice } from './notice.ts'
import { type GatewayRecord, allHeld, digestOf, heldUnder, hostsOf } from './record.ts'
import { isLent, onlyLenders } from './shares.ts'
import { rehold } from './place.ts'
import { releaseCalls } from './release.ts'

const beingReleased = (turn: Turn, record: GatewayRecord): ConflictError =>
  new ConflictError(`cluster ${record.cluster} (${record.clusterId}) is being released at site ${turn.site}`)

export function beginCommit (turn: Turn, entry: WaitingFor<'commit'>): void {
  const { caller, ask: { request } } = entry
  const { clusterId, offerId } = request
  const record = mustHave(turn.site, clusterId, turn.record(clusterId))
  mustOwn(turn.site, record, caller, request.epoch)
  if (record.state === 'releasing') throw beingReleased(turn, record)
  const { amendment } = record
  const extension = amendment?.kind === 'extend' && amendment.offerId === offerId
  const parts = extension ? allHeld(record) : heldUnder(record, offerId)
  if (parts.length === 0 || (amendment?.offerId === offerId && amendment.state === 'releasing')) throw new ConflictError(`site ${turn.site} has another offer for cluster ${clusterId}, or none`, 'ask for it again')
  turn.mustHaveRoom()
  // Only a restart leaves it so: the offer may have left, and its holds are promises.
  if (record.state === 'asking') { rehold(turn, record, entry); return }
  turn.start(clusterId, { kind: 'commit', offerId }, [entry.askId], hostsOf(parts).map(({ host, peer }): HostCall => ({
    host, peer, ask: { method: 'hostCommit', request: { clusterId, offerId, epoch: record.epoch } }
  })))
}

export function finishCommit (turn: Turn, clusterId: string, job: Job & { phase: { kind: 'commit' } }): void {
  const record = turn.record(clusterId)
  if (record === undefined) return
  const { offerId } = job.phase
  const receipts: Receipt[] = answersOf(job, 'hostCommit').flatMap(one => one.reply.receipts)
  const { amendment } = record
  const extension = amendment?.kind === 'extend' && amendment.offerId === offerId
  const committed = new Set(receipts.map(receipt => receipt.leaseId))
  const without = extension ? undefined : heldUnder(record, offerId).find(held => !committed.has(held.leaseId))
  const error = failuresOf(job)[0]?.error ?? (without === undefined ? null : new ConflictError(`host ${without.host} gave no commit receipt for ${without.kind} ${without.name}`))
  if (error !== null) {
    turn.refuse(job.askers, error)
    return
  }
  if (amendment?.offerId === offerId && amendment.state === 'offered') {
    const next = turn.amend(record, 'commit')
    // What runs already has nothing to be activated: the later end holds from now on.
    if (extension) {
      turn.amend(next, 'activate', null, { endMs: amendment.endMs })
      turn.note('lease.extended', `the leases of cluster ${record.cluster} end later`, record.cluster)
    }
  } else if (amendment?.offerId !== offerId && record.state === 'offered') {
    turn.move(record, 'commit')
  }
  turn.note('lease.committed', `${receipts.length} leases committed for cluster ${record.cluster}`, record.cluster)
  const lent = new Set(allHeld(record).filter(held => isLent(held, record.offer.gateway)).map(held => held.leaseId))
  turn.answer(job.askers, { method: 'commit', reply: { site: turn.site, receipts: receipts.filter(({ leaseId }) => !lent.has(leaseId)) } })
}

/** Each host gets the secrets of volumes that it exports or uses, and no others. */
function activateCall (request: ActivateRequest, epoch: number, { host, peer }: { host: string, peer: string }): HostCall {
  const { document } = request
  const names = new Set(document.volumes.filter(v => v.host === host || document.nodes.some(n => n.name === v.node && n.host === host)).map(v => v.name))
  return { host, peer, ask: { method: 'hostActivate', request: { ...request, epoch, secrets: request.secrets.filter(s => names.has(s.name)) } } }
}

export function beginActivate (turn: Turn, entry: WaitingFor<'activate'>): void {
  const { caller, ask: { request } } = entry
  const { clusterId, document } = request
  const record = mustHave(turn.site, clusterId, turn.record(clusterId))
  mustOwn(turn.site, record, caller, request.epoch)
  if (record.state === 'releasing') throw beingReleased(turn, record)
  if (record.state === 'asking') throw new ConflictError(`cluster ${brief(document.name)} has not been committed at site ${turn.site}`)
  if (record.anchor !== '' && record.anchor !== document.frontend.host) throw new ConflictError(`the document for cluster ${record.cluster} is refused by site ${turn.site}: its frontend is on ${brief(document.frontend.host)}, that of the cluster on ${record.anchor}`)
  const growth = mustBeAsOffered(turn.site, request, record, caller)
  turn.mustHaveRoom()
  // Kept before a host may start anything: from now on what ran must be confirmed gone.
  if (record.anchor === '') turn.save({ ...record, anchor: document.frontend.host }, false)
  const shares = sharesToActivate(record, growth)
  if (shares.length === 0) { activate(turn, record, entry, growth, []); return }
  // The master has no receipts of these, and a crash forgets what was answered: a commit that is there is answered again.
  turn.start(clusterId, { kind: 'lenders', entry, growth }, [entry.askId], hostsOf(shares).map(({ host, peer }): HostCall => ({
    host, peer, ask: { method: 'hostCommit', request: { clusterId, offerId: (growth ? record.amendment?.offerId : undefined) ?? record.offer.offerId, epoch: record.epoch } }
  })))
}

/** Shares of other gateways that are not active: what runs goes on without a gateway that lends to it. */
const sharesToActivate = (record: GatewayRecord, growth: boolean): readonly Held[] =>
  (record.state !== 'active' ? record.offer.held : growth ? record.amendment?.held ?? [] : []).filter(held => isLent(held, record.offer.gateway))

/** Other gateways have said again that they have committed what they lend. */
export function finishLenders (turn: Turn, clusterId: string, job: Job & { phase: { kind: 'lenders' } }): void {
  const record = turn.record(clusterId)
  if (record === undefined) return
  const { entry, growth } = job.phase
  const shares = sharesToActivate(record, growth)
  const receipts = answersOf(job, 'hostCommit').flatMap(one => one.reply.receipts).filter(receipt => shares.some(held => held.leaseId === receipt.leaseId && held.host === receipt.host))
  const without = shares.find(held => !receipts.some(receipt => receipt.leaseId === held.leaseId))
  const unproved = without === undefined ? null : new ConflictError(`gateway ${without.host} gave no commit receipt for the share that it lends`)
  const error = failuresOf(job)[0]?.error ?? unproved
  if (error === null) activate(turn, record, entry, growth, receipts)
  else turn.refuse(job.askers, error)
}

/** @param lent receipts of shares that other gateways lend */
function activate (turn: Turn, record: GatewayRecord, { askId, ask: { request } }: WaitingFor<'activate'>, growth: boolean, lent: readonly Receipt[]): void {
  const { clusterId, offer: { gateway } } = record
  const parts = growth ? allHeld(record) : record.offer.held
  const lenders = onlyLenders(parts, gateway)
  const fresh = new Set(lent.map(receipt => receipt.leaseId))
  // Who only lends has nothing to do with the document, once its share is active.
  const concerned = parts.filter(held => !lenders.has(held.peer) || fresh.has(held.leaseId))
  const calls = hostsOf([...concerned, gateway]).map(host => activateCall({ ...request, receipts: [...request.receipts, ...lent] }, record.epoch, host))
  // The segment id is the gateway's: no host plugs it unless the gateway's own lease of it is active. A
  // committed one may have ended at the gateway alone, and the id may be another cluster's by now.
  // So do gateways that lend to it: what they count is counted before anything of it runs.
  const isFirst = ({ peer }: HostCall): boolean => peer === gateway.peer || lenders.has(peer)
  turn.start(clusterId, { kind: 'activate', growth, then: calls.filter(call => !isFirst(call)) }, [askId], calls.filter(isFirst))
}

export function finishActivate (turn: Turn, clusterId: string, job: Job & { phase: { kind: 'activate' } }): void {
  const record = turn.record(clusterId)
  if (record === undefined) return
  const error = failuresOf(job)[0]?.error
  if (error !== undefined) {
    turn.refuse(job.askers, error)
    return
  }
  const { growth, then } = job.phase
  if (then.length > 0) {
    turn.start(clusterId, { kind: 'activate', growth, then: [] }, job.askers, then)
    return
  }
  if (growth && record.amendment !== null) {
    turn.amend(record, 'activate', null, { offer: { ...record.offer, held: allHeld(record) } })
  } else if (record.state !== 'active') {
    // Hosts have checked the commit receipts: a crash may have lost that this was committed.
    const committed = record.state === 'offered' ? turn.move(record, 'commit') : record
    turn.move(committed, 'activate', {}, true)
  }
  turn.note('lease.activated', `cluster ${record.cluster} of ${record.masterSite} is active here`, record.cluster)
  turn.answer(job.askers, { method: 'activate', reply: { site: turn.site } })
}

export function beginExtend (turn: Turn, entry: WaitingFor<'extend'>): void {
  const { askId, caller, arrivedMs, ask: { request, refusal } } = entry
  const { clusterId, offerId } = request
  const record = mustHave(turn.site, clusterId, turn.record(clusterId))
  mustOwn(turn.site, record, caller, request.epoch)
  if (record.state === 'releasing') throw beingReleased(turn, record)
  if (record.state !== 'active' && record.state !== 'committed') throw new ConflictError(`cluster ${record.cluster} has no committed leases at site ${turn.site} that could be extended`)
  const { amendment } = record
  const digest = digestOf([offerId, request.endMs])
  if (amendment?.kind === 'extend' && amendment.key === request.key && amendment.state !== 'releasing') {
    if (amendment.digest !== digest) throw new ConflictError(`site ${turn.site}: the idempotency key ${brief(request.key)} was used for another extension of cluster ${record.cluster}`, 'a new question needs a new key')
    turn.answer([askId], { method: 'extend', reply: { site: turn.site, ttlMs: amendment.ttlMs, nowMs: amendment.nowMs } })
    return
  }
  mustHaveNoNotice(turn.site, record)
  checkExtension(turn.site, record, request, turn.now)
  mustBeInTime(turn.site, `extension of cluster ${record.cluster}`, request.sentMs, arrivedMs)
  if (refusal !== null) throw refusal
  turn.mustHaveRoom()
  if (amendment?.state === 'committed') throw new ConflictError(`cluster ${record.cluster} at site ${turn.site} has a change that is committed and not yet activated`)
  if (amendment !== null && amendment.state !== 'done') {
    const reason = 'asked again'
    const next = amendment.state === 'offered' ? turn.amend(record, 'supersede') : record
    turn.start(clusterId, { kind: 'clear', scope: { kind: 'amendment' }, reason, entry }, [askId], releaseCalls(next, { kind: 'amendment' }, reason, 0))
    return
  }
  const ttlMs = holdTtlMs(request.ttlMs)
  turn.amend(record, 'ask', { kind: 'extend', key: request.key, digest, offerId, held: [], endMs: request.endMs, formerEndMs: record.endMs, ttlMs, nowMs: turn.now })
  const parts = record.offer.held.filter(held => !record.shrinking.includes(held.leaseId))
  turn.start(clusterId, { kind: 'extend' }, [askId], hostsOf(parts).map(({ host, peer }): HostCall => ({
    host,
    peer,
    ask: {
      method: 'hostExtend',
      request: { key: `${request.key}/${offerId}`, clusterId, offerId, endMs: request.endMs, ttlMs, epoch: record.epoch, leaseIds: parts.filter(part => part.peer === peer).map(part => part.leaseId) }
    }
  })))
}

export function finishExtend (turn: Turn, clusterId: string, job: Job): void {
  const record = turn.record(clusterId)
  if (record === undefined || record.amendment === null) return
  const error = failuresOf(job)[0]?.error
  if (error !== undefined) {
    const next = turn.amend(record, 'refuse')
    const reason = 'another host refused the extension'
    turn.refuse(job.askers, error)
    turn.start(clusterId, { kind: 'release', scope: { kind: 'amendment' }, reason }, [], releaseCalls(next, { kind: 'amendment' }, reason, 0))
    return
  }
  const next = turn.amend(record, 'hold', { ...record.amendment, nowMs: turn.now })
  turn.answer(job.askers, { method: 'extend', reply: { site: turn.site, ttlMs: record.amendment.ttlMs, nowMs: next.amendment?.nowMs ?? turn.now } })
}
