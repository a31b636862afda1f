import type { Invariant } from '../invariant.ts'
import { type CallMade, type ClusterModel, type World, clusterOf, field, leaseText, listOf, numberOf, textOf, violated } from '../model.ts'

/** Own order of a master's states: it never goes back in it, but for a higher epoch. */
const RANKS: Record<string, number> = { negotiating: 0, committing: 1, preparing: 2, activating: 3, active: 4, releasing: 5, failed: 5, ended: 6, superseded: 6 }
const COMMITS = new Set(['committing', 'preparing', 'activating', 'active'])

/** What one decision commits together: every lease of it, or none, may ever start. */
export interface Group { readonly offers: readonly string[], readonly leases: ReadonlyArray<{ id: string, host: string }> }

export interface Offered { sentMs: number, ttlMs: number, heldIds: string, gateway: string }

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

  const fromHonest = (call: CallMade): boolean => !call.forged && world.hosts.get(call.from)?.malicious === false

  function kept (host: string, clusterId: string, record: unknown): void {
    const key = `${host} ${clusterId}`
    const before = known.records.get(key)
    known.records.set(key, record)
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
  }

  function add (clusterId: string, offers: readonly unknown[]): void {
    const group: Group = { offers: offers.map(offer => textOf(offer, 'offerId')), leases: heldOf(offers) }
    for (const offerId of group.offers) known.groups.set(`${clusterId}/${offerId}`, group)
  }

  /** An extension counts for its master when every lender has answered that it has committed it. */
  function mustLast (where: string, clusterId: string, record: unknown): void {
    for (const { id, host } of heldOf(listOf(record, 'offers'))) {
      const lease = world.hosts.get(host)?.leases.get(id)
      if (lease === undefined || lease.host.malicious || lease.lost || lease.releasedMs > 0 || lease.facts.state === 'ended' || lease.facts.endMs >= numberOf(record, 'endMs')) continue
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
    if (state !== 'activating' && state !== 'active') fail(`its disk says ${state}`)
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
    call (call) {
      if (!fromHonest(call)) return
      if (call.method === 'commit') commit(call)
      else if (call.method === 'activate') activate(call)
      else if (call.method === 'request' || call.method === 'extend') {
        const key = `${call.from} ${call.to} ${textOf(call.request, 'key')}`
        if (!firstAsked.has(key)) firstAsked.set(key, world.nowMs)
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
        if (!known.offered.has(key)) known.offered.set(key, { sentMs, ttlMs: numberOf(reply, 'ttlMs'), heldIds: heldOf([reply]).map(one => one.id).join(' '), gateway: host.name })
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
