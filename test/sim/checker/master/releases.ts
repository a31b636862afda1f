import type { Invariant } from '../invariant.ts'
import { type CallMade, type HostModel, type LeaseModel, type World, isLive, leaseText, listOf, numberOf, textOf, unixMs, violated } from '../model.ts'
import type { Decisions } from './decisions.ts'

/** How far a ledger's clock is off is told now and then, and changes a little in between. */
const NOTICE_GRAIN_MS = 1_000

interface Word { atMs: number, offerId: string, leaseIds: readonly unknown[] }

/** A gateway gives up what it has offered only when the cluster's master says so, or asks anew, or time has ended it. */
export function releases (world: World, known: Decisions): Invariant {
  const NAME = 'released-by-its-master'
  const { activateTtlMs, clockRate } = world.description.bounds
  /** what entitled masters have told gateways, by gateway and cluster */
  const words = new Map<string, Word[]>()
  /** latest request of a master, by when it was sent: by gateway and cluster */
  const asked = new Map<string, number[]>()
  const revoked = new Set<string>()
  /** until when a gateway's policy leaves a cluster its leases, ledger clock */
  const noticed = new Map<string, number>()
  /** offers whose commit was answered to their master, by gateway */
  const committed = new Set<string>()

  function isMaster (host: HostModel, { caller, request }: CallMade): boolean {
    const clusterId = textOf(request, 'clusterId')
    const cluster = world.clusters.get(clusterId)
    if (cluster === undefined) return false
    if (cluster.creator === '') return true
    const epoch = numberOf(request, 'epoch')
    return cluster.holders.get(epoch) === caller.peerId && epoch >= (known.taken.get(`${host.name} ${clusterId}`) ?? 0)
  }

  function siteOfLease (id: string, clusterId: string): string {
    for (const lease of world.clusters.get(clusterId)?.leases ?? []) if (lease.id === id) return lease.host.site
    return ''
  }

  const isSaid = (list: readonly Word[], offerId: string, leaseId: string): boolean =>
    list.some(word => (word.offerId === '' || word.offerId === offerId) && (word.leaseIds.length === 0 || word.leaseIds.includes(leaseId)))

  /** All else that a gateway has given for the cluster was released on its master's word. */
  function isLastWord (gateway: string, { facts: { clusterId, offerId: own } }: LeaseModel): boolean {
    const list = words.get(`${gateway} ${clusterId}`) ?? []
    let said = 0
    for (const { id, facts } of world.clusters.get(clusterId)?.leases ?? []) {
      if (facts.offerId === own || facts.kind === 'quota' || known.offered.get(`${clusterId}/${facts.offerId}`)?.gateway !== gateway) continue
      if (!isSaid(list, facts.offerId, id)) return false
      said++
    }
    return said > 0
  }

  function mayGo (gateway: string, lease: LeaseModel): boolean {
    const { facts } = lease
    const given = known.offered.get(`${facts.clusterId}/${facts.offerId}`)
    if (given === undefined || given.gateway !== gateway || lease.lost) return true
    const key = `${gateway} ${facts.clusterId}`
    // Strangers may do with their own what they like, also under an id that somebody else has had.
    if (world.byPeer.get(facts.masterPeer)?.malicious === true) return true
    if (revoked.has(facts.clusterId) || isSaid(words.get(key) ?? [], facts.offerId, lease.id)) return true
    // What counts a site's borrowing goes with the last of what was borrowed.
    if (facts.kind === 'quota' && (words.get(key) ?? []).some(word => word.leaseIds.some(id => typeof id === 'string' && lease.host.site === siteOfLease(id, facts.clusterId)))) return true
    // What is only offered does not live on without the rest.
    if (facts.state === 'held' && isLastWord(gateway, lease)) return true
    if ((noticed.get(key) ?? Infinity) <= world.nowMs + (world.hosts.get(gateway)?.facts?.ledgerOffMs ?? 0) + NOTICE_GRAIN_MS) return true
    const passed = world.nowMs - lease.countsFromMs
    if (facts.endMs <= world.nowMs + (lease.host.facts?.clockErrorMs ?? 0)) return true
    const isStale = world.nowMs - given.sentMs >= given.ttlMs * (1 - clockRate)
    if (facts.state === 'held') return isStale || (asked.get(key) ?? []).some(sentMs => sentMs > given.sentMs)
    // Some hosts have committed, others cannot any more: nobody was told that all have.
    if (isStale && !committed.has(`${gateway} ${facts.clusterId}/${facts.offerId}`)) return true
    return facts.state === 'committed' && passed >= activateTtlMs * (1 - clockRate)
  }

  return {
    name: NAME,
    arrive (host, { call }) {
      if (!host.description.gateway || (call.method !== 'release' && call.method !== 'request' && call.method !== 'extend')) return
      if (!isMaster(host, call)) return
      const key = `${host.name} ${textOf(call.request, 'clusterId')}`
      if (call.method !== 'release') {
        const list = asked.get(key)
        if (list === undefined) asked.set(key, [unixMs(call.trueMs)])
        else list.push(unixMs(call.trueMs))
        return
      }
      const word: Word = { atMs: world.nowMs, offerId: textOf(call.request, 'offerId'), leaseIds: listOf(call.request, 'leaseIds') }
      const list = words.get(key)
      if (list === undefined) words.set(key, [word])
      else list.push(word)
    },
    answer (host, { method, error, request }) {
      if (method === 'commit' && error === null) committed.add(`${host.name} ${textOf(request, 'clusterId')}/${textOf(request, 'offerId')}`)
    },
    call (call) {
      if (call.method !== 'hostRelease' || call.forged) return
      const from = world.hosts.get(call.from)
      const to = world.hosts.get(call.to)
      if (from === undefined || to === undefined || from.malicious) return
      const clusterId = textOf(call.request, 'clusterId')
      const offerId = textOf(call.request, 'offerId')
      const leaseIds = listOf(call.request, 'leaseIds')
      for (const lease of world.clusters.get(clusterId)?.leases ?? []) {
        if (lease.host !== to || !isLive(lease) || (offerId !== '' && lease.facts.offerId !== offerId) || (leaseIds.length > 0 && !leaseIds.includes(lease.id))) continue
        if (!mayGo(from.name, lease)) violated(world, NAME, from.name, `it tells ${to.name} to release ${leaseText(lease.facts)}, and no master has said so`)
      }
      // Before its commit was answered the master may ask for something else instead.
      const extension = to.extensions.get(`${clusterId}/${offerId}`)
      if (extension?.state === 'committed' && committed.has(`${from.name} ${clusterId}/${offerId}`) && !revoked.has(clusterId) && !isSaid(words.get(`${from.name} ${clusterId}`) ?? [], offerId, '')) violated(world, NAME, from.name, `it tells ${to.name} to give up the extension ${offerId}, and no master has said so`)
    },
    operator ({ action, clusterId, host, detail }) {
      if (action === 'notice') noticed.set(`${host} ${clusterId}`, Number(detail.split(' ')[0]))
      if (action === 'withdraw') noticed.delete(`${host} ${clusterId}`)
      if (action === 'revoke') revoked.add(clusterId)
    },
    diskLost () {
      // Whoever lost its records cleans up what it finds.
      for (const cluster of world.clusters.keys()) revoked.add(cluster)
    }
  }
}
