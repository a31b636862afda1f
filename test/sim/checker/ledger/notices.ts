import type { Invariant } from '../invariant.ts'
import { type World, isLive, isOwnGateway, leaseText, listOf, numberOf, textOf, violated } from '../model.ts'

/** Nobody loses a lease within so little time of being told. */
const SHORTEST_MS = 60_000

/** Once there are no faults any more: by then a gateway has seen that nobody needs what would come free. */
const SEEN_WITHIN_MS = 45_000

interface Pending { gateway: string, clusterId: string, beneficiary: string, neededMs: number }
interface Word { method: string, seq: number, endMs: number }

/**
 * A lease ends earlier only by a notice of its gateway that is on that one's disk, all leases of the cluster on the host do, and each gets
 * back exactly the end from before; meanwhile nothing is extended. That what came free is not promised twice is judged by the calendar.
 */
export function notices (world: World): Invariant {
  const NAME = 'notice-kept'
  /** what own gateways have asked of a host, by host and cluster */
  const words = new Map<string, Word[]>()
  /** notices on disks of gateways: gateway, cluster, end and number */
  const onDisk = new Set<string>()
  /** ends of notices by cluster */
  const onEnds = new Set<string>()

  /** notices that stand, for somebody */
  const pending = new Map<string, Pending>()
  let next = Number.POSITIVE_INFINITY

  const isAsked = (host: string, clusterId: string, word: Word): boolean =>
    (words.get(`${host} ${clusterId}`) ?? []).some(one => one.method === word.method && one.seq === word.seq && one.endMs === word.endMs)

  return {
    name: NAME,
    arrive (host, { call: { method, request, caller, forged } }) {
      // What its master gives up has no end to go back to, however long a host takes to confirm it.
      if (method === 'release' && !forged && textOf(request, 'offerId') === '' && listOf(request, 'leaseIds').length === 0) pending.delete(`${host.name} ${textOf(request, 'clusterId')}`)
      if ((method !== 'hostCurtail' && method !== 'hostRestore') || !isOwnGateway(host, caller)) return
      const clusterId = textOf(request, 'clusterId')
      const word = { method, seq: numberOf(request, 'seq'), endMs: numberOf(request, 'endMs') }
      const gateway = world.hosts.get(caller.host)
      if (method === 'hostCurtail' && !forged && gateway?.malicious === false && !onDisk.has(`${caller.host} ${clusterId} ${word.endMs} ${word.seq}`)) violated(world, NAME, caller.host, `it tells ${host.name} of the notice ${word.seq} of cluster ${clusterId.slice(0, 8)} until ${word.endMs}, which is not on its disk`)
      const key = `${host.name} ${clusterId}`
      words.set(key, [...words.get(key) ?? [], word])
    },
    operator ({ action, host, clusterId, detail }) {
      if (action !== 'notice' && action !== 'withdraw') return
      const key = `${host} ${clusterId}`
      const [endMs = '', seq = '', state = '', beneficiary = ''] = detail.split(' ')
      if (action === 'notice') {
        onDisk.add(`${key} ${endMs} ${seq}`)
        onEnds.add(`${clusterId} ${endMs}`)
      }
      if (action === 'withdraw' || state === 'withdrawing' || beneficiary === '') pending.delete(key)
      else pending.set(key, { gateway: host, clusterId, beneficiary, neededMs: world.nowMs })
      next = pending.size === 0 ? Number.POSITIVE_INFINITY : world.nowMs + SEEN_WITHIN_MS / 3
    },
    nextDueMs: () => next,
    due () {
      for (const [key, one] of pending) {
        const gateway = world.hosts.get(one.gateway)
        const isLiveAt = (clusterId: string): boolean => [...world.clusters.get(clusterId)?.leases ?? []].some(lease => lease.host.site === gateway?.site && lease.there && isLive(lease))
        if (gateway === undefined || !isLiveAt(one.clusterId)) pending.delete(key)
        else if (isLiveAt(one.beneficiary)) one.neededMs = world.nowMs
        else {
          const sinceMs = Math.max(one.neededMs, world.healedMs, gateway.readySinceMs)
          if (world.nowMs - sinceMs > SEEN_WITHIN_MS) violated(world, NAME, one.gateway, `cluster ${one.clusterId.slice(0, 8)} has notice for cluster ${one.beneficiary.slice(0, 8)}, of which the site has had nothing for ${Math.round((world.nowMs - one.neededMs) / 1000)} s`)
        }
      }
      next = pending.size === 0 ? Number.POSITIVE_INFINITY : world.nowMs + SEEN_WITHIN_MS / 3
    },
    lease ({ host, before, after, reread }) {
      if (before === null || after === null || before.state === 'ended' || after.state === 'ended' || reread) return
      if ((after.noticeSeq ?? 0) < (before.noticeSeq ?? 0)) violated(world, NAME, host.name, `${leaseText(after)} follows notice ${after.noticeSeq ?? 0}, it had notice ${before.noticeSeq ?? 0}`)
      const seq = after.noticeSeq ?? 0
      if (after.formerEndMs !== undefined && after.endMs < before.endMs) {
        if (!isAsked(host.name, after.clusterId, { method: 'hostCurtail', seq, endMs: after.endMs })) violated(world, NAME, host.name, `${leaseText(after)} ends at ${after.endMs}, and no gateway of ${host.site} has given such a notice`)
        if (after.endMs < (host.facts?.clockMs ?? 0) + SHORTEST_MS) violated(world, NAME, host.name, `${leaseText(after)} ends ${after.endMs - (host.facts?.clockMs ?? 0)} ms after its notice`)
        if (after.formerEndMs !== (before.formerEndMs ?? before.endMs)) violated(world, NAME, host.name, `${leaseText(after)} would go back to the end ${after.formerEndMs}, it had ${before.formerEndMs ?? before.endMs}`)
      }
      // Where a notice from before holds again, its end and no other.
      if (after.formerEndMs !== undefined && after.endMs > before.endMs && (after.formerEndMs !== before.formerEndMs || !isAsked(host.name, after.clusterId, { method: 'hostRestore', seq, endMs: after.endMs }) || !onEnds.has(`${after.clusterId} ${after.endMs}`))) {
        violated(world, NAME, host.name, `${leaseText(after)} has the end ${after.endMs}, before it was ${before.endMs}, and there was no such notice`)
      }
      if (after.formerEndMs === undefined && before.formerEndMs !== undefined && after.endMs > before.endMs && (after.endMs !== before.formerEndMs || !isAsked(host.name, after.clusterId, { method: 'hostRestore', seq, endMs: 0 }) && !isAsked(host.name, after.clusterId, { method: 'hostRestore', seq, endMs: after.endMs }))) {
        violated(world, NAME, host.name, `${leaseText(after)} has the end ${after.endMs} again, before its notice it was ${before.formerEndMs}, and nobody has withdrawn notice ${seq}`)
      }
    },
    extension (host, before, after, reread) {
      if (before !== null || after?.state !== 'held' || reread) return
      for (const { id } of after.leases) {
        const lease = host.leases.get(id)
        if (lease !== undefined && isLive(lease) && lease.facts.formerEndMs !== undefined) violated(world, NAME, host.name, `the extension ${after.offerId} is held of ${leaseText(lease.facts)}, which has notice`)
      }
    },
    answer (host, { method, request, error }) {
      if (method !== 'hostCurtail' || error !== null) return
      const clusterId = textOf(request, 'clusterId')
      const seq = numberOf(request, 'seq')
      const superseded = (words.get(`${host.name} ${clusterId}`) ?? []).some(word => word.seq > seq || (word.seq === seq && word.method === 'hostRestore'))
      if (superseded) return
      for (const lease of world.clusters.get(clusterId)?.leases ?? []) {
        if (lease.host === host && lease.there && isLive(lease) && lease.facts.endMs > numberOf(request, 'endMs')) violated(world, NAME, host.name, `the notice ${seq} was answered, and ${leaseText(lease.facts)} still ends at ${lease.facts.endMs}`)
      }
    }
  }
}
