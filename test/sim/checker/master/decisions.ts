import type { Invariant } from '../invariant.ts'
import { type CallMade, type ClusterModel, type World, clusterOf, field, leaseText, listOf, numberOf, textOf, violated } from '../model.ts'

/** Own order of a master's states: it never goes back in it, but for a higher epoch. */
const RANKS: Record<string, number> = { negotiating: 0, offered: 0.5, committing: 1, preparing: 2, activating: 3, active: 4, releasing: 5, failed: 5, ended: 6, superseded: 6 }
const COMMITS = new Set(['committing', 'preparing', 'activating', 'active'])

/** What one decision commits together: every lease of it, or none, may ever start. */
export interface Group { readonly offers: readonly string[], readonly leases: ReadonlyArray<{ id: string, host: string }> }

/** `sentMs`: true time; `askedMs`: on the clock of who asked, as its request says */
export interface Offered { sentMs: number, askedMs: number, ttlMs: number, heldIds: string, gateway: string }

/** What masters have decided and gateways have offered, as other invariants need it. */
export interface Decisions {
  /** by cluster and offer */
  groups: Map<string, Group>
  offered: Map<string, Offered>
  /** token that the answer to a commit gave for a lease */
  receipts: Map<string, number>
  /** last durable record, by host and cluster */
  records: Map<string, unknown>
  /** highest epoch that a gateway has answered its master with, by gateway and cluster */
  taken: Map<string, number>
}

export const createDecisions = (): Decisions => ({ groups: new Map(), offered: new Map(), receipts: new Map(), records: new Map(), taken: new Map() })

const heldOf = (offers: readonly unknown[]): Array<{ id: string, host: string }> =>
  offers.flatMap(offer => listOf(offer, 'held').map(held => ({ id: textOf(held, 'leaseId'), host: textOf(held, 'host') })))

/**
 * A commit leaves a master only when its disk has the decision that lists exactly what was offered,
 * and only while every hold of it counts; an activation leaves with the receipts of all.
 */
export function decisions (world: World, known: Decisions): Invariant {
  const NAME = 'decision-first'
  const firstAsked = new Map<string, number>()
  const askedAt = new Map<string, number>()
  /** when a record was last seen to be safe: by host and cluster */
  const writtenMs = new Map<string, number>()
  const deleted = new Set<string>()
  const insisted = new Set<string>()
  const accepted = new Set<string>()

  const fromHonest = (call: CallMade): boolean => !call.forged && world.hosts.get(call.from)?.malicious === false

  function kept (host: string, clusterId: string, record: unknown): void {
    const key = `${host} ${clusterId}`
    const before = known.records.get(key)
    known.records.set(key, record)
    writtenMs.set(key, world.nowMs)
    const state = textOf(record, 'state')
    const where = host
    if (before !== undefined) {
      if (numberOf(record, 'epoch') < numberOf(before, 'epoch')) violated(world, 'master-goes-forward', where, `its record of cluster ${clusterId.slice(0, 8)} went back from epoch ${numberOf(before, 'epoch')} to ${numberOf(record, 'epoch')}`)
      if (numberOf(record, 'epoch') === numberOf(before, 'epoch') && (RANKS[state] ?? -1) < (RANKS[textOf(before, 'state')] ?? -1)) violated(world, 'master-goes-forward', where, `its record of cluster ${clusterId.slice(0, 8)} went from ${textOf(before, 'state')} to ${state}`)
    }
    if ((RANKS[state] ?? 0) >= 1 && state !== 'failed') {
      const offers = listOf(record, 'offers')
      const first = textOf(offers[0], 'offerId')
      if (offers.length > 0 && !known.groups.has(`${clusterId}/${first}`)) add(clusterId, offers)
    }
    const amendment = field(record, 'amendment')
    const amended = textOf(amendment, 'state')
    if (textOf(amendment, 'kind') === 'grow' && (amended === 'committing' || amended === 'activating')) {
      const offers = listOf(amendment, 'offers')
      if (offers.length > 0 && !known.groups.has(`${clusterId}/${textOf(offers[0], 'offerId')}`)) add(clusterId, offers)
    }
    if (state === 'active' && textOf(before, 'state') === 'activating') mustBeActive(where, clusterId, heldOf(listOf(record, 'offers')))
    if (state === 'active' && textOf(before, 'state') === 'active') {
      const had = new Set(heldOf(listOf(before, 'offers')).map(one => one.id))
      const grown = heldOf(listOf(record, 'offers')).filter(one => !had.has(one.id))
      if (grown.length > 0) mustBeActive(where, clusterId, grown)
      if (textOf(field(before, 'amendment'), 'kind') === 'extend' && numberOf(record, 'endMs') > numberOf(before, 'endMs')) mustLast(where, clusterId, record)
    }
    if (state === 'ended' && textOf(before, 'state') !== 'ended') mustBeOver(where, clusterId, record)
    if (state === 'releasing' && textOf(before, 'state') === 'active' && numberOf(before, 'epoch') === numberOf(record, 'epoch')) mayLetGo(where, clusterId, numberOf(before, 'endMs'))
    if ((before === undefined || before === null || textOf(before, 'state') === 'superseded') && ['active', 'activating', 'releasing'].includes(state)) mustBeMine(where, clusterId, numberOf(record, 'epoch'))
    if (state === 'superseded' && before !== undefined && before !== null && textOf(before, 'state') !== 'superseded') mustBeSucceeded(where, clusterId, record)
    if (state === 'committing' && textOf(before, 'state') !== 'committing') mustBeAll(where, clusterId, listOf(record, 'offers'), numberOf(field(field(record, 'spec'), 'nodes'), 'count'))
    if (state === 'committing' && field(record, 'hold') !== undefined && !accepted.has(clusterId)) violated(world, 'decided-by-its-user', where, `it decides on cluster ${clusterId.slice(0, 8)}, which is held for its user, who has not accepted it`)
    if (textOf(amendment, 'kind') === 'grow' && amended === 'committing' && textOf(field(before, 'amendment'), 'state') !== 'committing') mustBeAll(where, clusterId, [...listOf(record, 'offers'), ...listOf(amendment, 'offers')], numberOf(amendment, 'count'))
    if (state === 'committing' && textOf(before, 'state') !== 'committing') mustCount(where, clusterId, numberOf(record, 'commitByMs'), listOf(record, 'offers').map(offer => textOf(offer, 'offerId')))
    if (amended === 'committing' && textOf(field(before, 'amendment'), 'state') !== 'committing') mustCount(where, clusterId, numberOf(amendment, 'commitByMs'), amendmentOffers(record, amendment))
  }

  /** Offers of a growth, or of an extension the one at each gateway. */
  const amendmentOffers = (record: unknown, amendment: unknown): string[] => textOf(amendment, 'kind') === 'grow'
    ? listOf(amendment, 'offers').map(offer => textOf(offer, 'offerId'))
    : listOf(record, 'offers').map(offer => `${textOf(amendment, 'id')} ${textOf(field(offer, 'gateway'), 'host')}`)

  /** Whoever takes a cluster over works in the epoch that it was granted, unless an operator insists. */
  function mustBeMine (where: string, clusterId: string, epoch: number): void {
    const holder = clusterOf(world, clusterId).holders.get(epoch)
    if (holder === undefined || holder === world.hosts.get(where)?.peer || insisted.has(`${where} ${clusterId}`)) return
    violated(world, 'one-master', where, `it leads cluster ${clusterId.slice(0, 8)} in epoch ${epoch}, which is that of ${holder}`)
  }

  /** What runs is let go of when its user says so, or its term is over by the master's clock. */
  function mayLetGo (where: string, clusterId: string, endMs: number): void {
    const facts = world.hosts.get(where)?.facts
    if (deleted.has(clusterId) || facts == null || world.nowMs + (facts.ledgerOffMs ?? facts.clockErrorMs) >= endMs - 1_000) return // its clock was seen a while ago
    violated(world, 'master-goes-forward', where, `it lets go of cluster ${clusterId.slice(0, 8)} before its end, and nobody has deleted it`)
  }

  /** What is decided on is all that was asked for. */
  function mustBeAll (where: string, clusterId: string, offers: readonly unknown[], nodes: number): void {
    const held = offers.flatMap(offer => listOf(offer, 'held')).map(one => textOf(one, 'kind'))
    const found = held.filter(kind => kind === 'node').length
    if (nodes > 0 && (found !== nodes || !held.includes('frontend'))) violated(world, NAME, where, `it decides on ${found} nodes of cluster ${clusterId.slice(0, 8)}, which is to have ${nodes}${held.includes('frontend') ? '' : ', and no frontend'}`)
  }

  /** Nobody gives a cluster up but for a successor whom the anchor has made one. */
  function mustBeSucceeded (where: string, clusterId: string, record: unknown): void {
    const peer = world.hosts.get(where)?.peer ?? ''
    for (const [epoch, holder] of clusterOf(world, clusterId).holders) if (epoch >= numberOf(record, 'epoch') && holder !== peer) return
    // Granted, and the answer was lost with the anchor: its ledger says so since.
    for (const { facts, malicious } of world.hosts.values()) if (!malicious && facts?.epochs.some(one => one.clusterId === clusterId && one.epoch >= numberOf(record, 'epoch') && one.holder !== '' && one.holder !== peer) === true) return
    violated(world, 'master-goes-forward', where, `it gives cluster ${clusterId.slice(0, 8)} up to another master, and no anchor has granted an epoch to one`)
  }

  /** By the master's own clock: a hold counts from when it was asked for, less what both clocks may be off. */
  function mustCount (where: string, clusterId: string, commitByMs: number, offers: readonly string[]): void {
    for (const offer of offers) {
      const hold = known.offered.get(`${clusterId}/${offer}`)
      if (hold === undefined || hold.askedMs === 0) continue
      const untilMs = hold.askedMs + hold.ttlMs * (1 - world.description.bounds.clockRate)
      if (commitByMs > untilMs + 1) violated(world, NAME, where, `it counts on the hold ${offer} of cluster ${clusterId.slice(0, 8)} for ${Math.round(commitByMs - untilMs)} ms too long`)
    }
  }

  function add (clusterId: string, offers: readonly unknown[]): void {
    const group: Group = { offers: offers.map(offer => textOf(offer, 'offerId')), leases: heldOf(offers) }
    for (const offerId of group.offers) known.groups.set(`${clusterId}/${offerId}`, group)
  }

  /** An extension counts for its master when every lender has answered that it has committed it. */
  function mustLast (where: string, clusterId: string, record: unknown): void {
    for (const { id, host } of heldOf(listOf(record, 'offers'))) {
      const lease = world.hosts.get(host)?.leases.get(id)
      if (lease === undefined || lease.host.malicious || lease.lost || lease.releasedMs > 0 || lease.facts.state === 'ended' || (lease.facts.formerEndMs ?? lease.facts.endMs) >= numberOf(record, 'endMs')) continue
      violated(world, 'extended-everywhere', where, `cluster ${clusterId.slice(0, 8)} counts as extended to ${numberOf(record, 'endMs')}, and ${leaseText(lease.facts)} on ${host} ends at ${lease.facts.endMs}`)
    }
  }

  function mustBeActive (where: string, clusterId: string, held: ReadonlyArray<{ id: string, host: string }>): void {
    for (const { id, host } of held) {
      const lease = world.hosts.get(host)?.leases.get(id)
      if (world.hosts.get(host)?.malicious !== false) continue
      if (lease === undefined || (lease.facts.activatedMs === 0 && lease.facts.kind !== 'quota' && !lease.lost)) violated(world, 'active-everywhere', where, `cluster ${clusterId.slice(0, 8)} counts as active, and lease ${id} on ${host} is ${lease?.facts.state ?? 'not there'}`)
    }
  }

  function mustBeOver (where: string, clusterId: string, record: unknown): void {
    for (const lease of world.clusters.get(clusterId)?.leases ?? []) {
      if (!lease.there || lease.lost || lease.host.malicious || lease.facts.state !== 'active') continue
      if (numberOf(record, 'epoch') < highestEpoch(clusterOf(world, clusterId))) continue
      // By the master's clock its end has come: a host whose clock is behind ends it later.
      const master = world.hosts.get(where)?.facts
      const masterOffMs = master?.ledgerOffMs ?? master?.clockErrorMs ?? 0
      if (lease.facts.endMs <= world.nowMs + masterOffMs + 1_000) continue
      violated(world, 'ended-everywhere', where, `cluster ${clusterId.slice(0, 8)} counts as ended, and ${leaseText(lease.facts)} on ${lease.host.name} lives`)
    }
  }

  const highestEpoch = (cluster: ClusterModel): number => Math.max(0, ...cluster.holders.keys())

  function commit (call: CallMade): void {
    const clusterId = textOf(call.request, 'clusterId')
    const offerId = textOf(call.request, 'offerId')
    const record = known.records.get(`${call.from} ${clusterId}`)
    const fail: (why: string) => never = why => violated(world, NAME, call.from, `a commit of offer ${offerId} of cluster ${clusterId.slice(0, 8)} leaves for ${call.to}: ${why}`)
    if (record === undefined || record === null) fail('its disk has no record of the cluster')
    const state = textOf(record, 'state')
    if (!COMMITS.has(state)) fail(`its disk says ${state}`)
    const amendment = field(record, 'amendment')
    const offers = listOf(record, 'offers')
    const amended = textOf(amendment, 'state') !== 'asking' ? listOf(amendment, 'offers') : []
    const offer = [...offers, ...amended].find(one => textOf(one, 'offerId') === offerId)
    const isExtension = textOf(amendment, 'id') === offerId && textOf(amendment, 'kind') === 'extend' && textOf(amendment, 'state') !== 'asking'
    if (offer === undefined && !isExtension) fail('the decision on its disk does not list it')
    const given = known.offered.get(`${clusterId}/${offerId}${isExtension ? ` ${call.to}` : ''}`)
    if (given === undefined) { if (world.hosts.get(call.to)?.malicious === false) fail('nobody has offered it'); return }
    if (offer !== undefined && heldOf([offer]).map(one => one.id).join(' ') !== given.heldIds) fail('the decision lists other leases than were offered')
    if (given.gateway !== call.to) fail(`${given.gateway} has offered it`)
    // The first commit of a decision; all holds that it commits must count for certain.
    const together = isExtension ? [given] : (known.groups.get(`${clusterId}/${offerId}`)?.offers ?? [offerId]).flatMap(one => known.offered.get(`${clusterId}/${one}`) ?? [])
    const rebootedMs = world.hosts.get(call.from)?.bootTrueMs ?? 0
    for (const hold of together) {
      if (hold.sentMs < rebootedMs) continue // nobody knows how long it was off; its lenders do
      const passed = world.nowMs - hold.sentMs
      if (passed > hold.ttlMs * (1 - world.description.bounds.clockRate / 2) + 1) fail(`the hold at ${hold.gateway} counts ${hold.ttlMs} ms from its request, ${Math.round(passed)} have passed`)
    }
  }

  function activate (call: CallMade): void {
    const clusterId = textOf(call.request, 'clusterId')
    const record = known.records.get(`${call.from} ${clusterId}`)
    const fail: (why: string) => never = why => violated(world, 'receipts-of-all', call.from, `an activation of cluster ${clusterId.slice(0, 8)} leaves for ${call.to}: ${why}`)
    if (record === undefined || record === null) fail('its disk has no record of the cluster')
    const state = textOf(record, 'state')
    // Two decisions may become safe in one write: what the first one wanted leaves, and the second is said after it.
    const isSuperseded = state === 'releasing' && writtenMs.get(`${call.from} ${clusterId}`) === world.nowMs
    if (state !== 'activating' && state !== 'active' && !isSuperseded) fail(`its disk says ${state}`)
    const receipts = new Map(listOf(call.request, 'receipts').map(receipt => [textOf(receipt, 'leaseId'), numberOf(receipt, 'token')]))
    for (const id of documentLeases(field(call.request, 'document'))) {
      const token = receipts.get(id)
      if (token === undefined) fail(`without a receipt of lease ${id}`)
      else if (known.receipts.has(id) && known.receipts.get(id) !== token) fail(`with the receipt ${token} of lease ${id}, which was answered ${known.receipts.get(id) ?? 0}`)
      else if (!known.receipts.has(id) && isHonestLease(clusterId, id)) fail(`with a receipt of lease ${id} that no host has given`)
    }
  }

  const isHonestLease = (clusterId: string, id: string): boolean => {
    for (const lease of world.clusters.get(clusterId)?.leases ?? []) if (lease.id === id) return !lease.host.malicious
    return false
  }

  return {
    name: NAME,
    decision ({ host, clusterId, record }) {
      if (record === null) { known.records.set(`${host} ${clusterId}`, null); return }
      const cluster = clusterOf(world, clusterId)
      const peer = world.hosts.get(host)?.peer ?? ''
      if (cluster.creator === '' && numberOf(record, 'epoch') <= 1) {
        cluster.creator = host
        cluster.holders.set(1, peer)
      }
      if (world.hosts.get(host)?.malicious === true) return
      kept(host, clusterId, record)
    },
    operator ({ host, action, clusterId }) {
      if (action === 'delete') deleted.add(clusterId)
      if (action === 'accept') accepted.add(clusterId)
      if (action === 'force-adopt') insisted.add(`${host} ${clusterId}`)
    },
    call (call) {
      if (!fromHonest(call)) return
      if (call.method === 'commit') commit(call)
      else if (call.method === 'activate') activate(call)
      else if (call.method === 'request' || call.method === 'extend') {
        const key = `${call.from} ${call.to} ${textOf(call.request, 'key')}`
        if (!firstAsked.has(key)) firstAsked.set(key, world.nowMs)
        if (!askedAt.has(key)) askedAt.set(key, numberOf(call.request, 'sentMs'))
      }
    },
    answer (host, { method, caller, request, reply, error }) {
      if (error !== null) return
      const clusterId = textOf(request, 'clusterId')
      if (method === 'hostCommit') {
        // The commit of an extension has receipts of its own for leases that are committed already.
        for (const receipt of listOf(reply, 'receipts')) {
          const id = textOf(receipt, 'leaseId')
          if (host.leases.get(id)?.facts.offerId === textOf(request, 'offerId')) known.receipts.set(id, numberOf(receipt, 'token'))
        }
      } else if (method === 'request' || method === 'extend') {
        const offerId = method === 'request' ? textOf(reply, 'offerId') : textOf(request, 'offerId')
        const key = `${clusterId}/${offerId}${method === 'extend' ? ` ${host.name}` : ''}`
        const sentMs = firstAsked.get(`${caller.host} ${host.name} ${textOf(request, 'key')}`) ?? world.nowMs
        if (!known.offered.has(key)) known.offered.set(key, { sentMs, askedMs: Math.min(numberOf(request, 'sentMs'), askedAt.get(`${caller.host} ${host.name} ${textOf(request, 'key')}`) ?? Number.POSITIVE_INFINITY), ttlMs: numberOf(reply, 'ttlMs'), heldIds: heldOf([reply]).map(one => one.id).join(' '), gateway: host.name })
      }
    }
  }
}

/** The leases of all parts of a cluster document. */
export function documentLeases (document: unknown): string[] {
  const ids = [textOf(field(document, 'frontend'), 'leaseId')]
  for (const list of ['nodes', 'volumes', 'sites']) for (const part of listOf(document, list)) ids.push(textOf(part, 'leaseId'))
  return ids.filter(id => id !== '')
}
