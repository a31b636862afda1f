import type { HostFacts } from '../../observation.ts'
import type { Invariant } from '../invariant.ts'
import { type HostModel, type World, isLive, numberOf, textOf, violated } from '../model.ts'

const RECOVERED_MS = 30_000
const MOST_FALLS = 3

/** What a change of the counter stands for; what is forgotten needs none. */
function differs (before: HostFacts, after: HostFacts): boolean {
  const tokens = new Map(before.leases.map(lease => [lease.id, lease.token]))
  const epochs = new Map(before.epochs.map(one => [one.clusterId, one]))
  const extensions = new Map(before.extensions.map(one => [`${one.clusterId}/${one.offerId}`, one]))
  return after.leases.some(lease => tokens.get(lease.id) !== lease.token) ||
    after.epochs.some(one => { const old = epochs.get(one.clusterId); return old?.epoch !== one.epoch || old.holder !== one.holder }) ||
    after.extensions.some(one => { const old = extensions.get(`${one.clusterId}/${one.offerId}`); return old?.state !== one.state || old.endMs !== one.endMs || old.deadlineMs !== one.deadlineMs })
}

/** Counters and epochs never go back: not within a life, and after a crash not below what anybody was told. */
export function counters (world: World): Invariant {
  const NAME = 'counters'
  /** highest epoch that answers of a host have spoken of, by host and cluster */
  const told = new Map<string, number>()
  /** how often a ledger has failed since its disk last did */
  const falls = new Map<HostModel, number>()

  /** A write that failed may show when the disk has long worked again, once or twice; a ledger that fails again and again fails by itself. */
  function fallen (host: HostModel): void {
    const isOwn = !host.failing && world.nowMs - host.failingMs > RECOVERED_MS
    const times = isOwn ? (falls.get(host) ?? 0) + 1 : 0
    falls.set(host, times)
    if (times > MOST_FALLS) violated(world, 'never-falls-over', host.name, `the ledger has failed ${times} times, and its disk works`)
  }

  const hasLeases = (host: HostModel, clusterId: string): boolean => {
    for (const lease of world.clusters.get(clusterId)?.leases ?? []) if (lease.host === host && isLive(lease) && !lease.lost) return true
    return false
  }

  return {
    name: NAME,
    host (host, before, reread) {
      const { facts } = host
      if (facts === null || before === null) return
      if (facts.failed && !before.failed && before.up) fallen(host)
      if (!reread && facts.counter < before.counter) violated(world, NAME, host.name, `the ledger's counter went back from ${before.counter} to ${facts.counter}`)
      // Fencing tokens tell states apart: two of them never have the same one.
      if (!reread && facts.counter === before.counter && (facts.leases !== before.leases || facts.extensions !== before.extensions || facts.epochs !== before.epochs) && differs(before, facts)) violated(world, NAME, host.name, `the ledger has changed, and its counter is still ${facts.counter}`)
      if (facts.epochs === before.epochs) return
      const now = new Map(facts.epochs.map(one => [one.clusterId, one]))
      for (const old of before.epochs) {
        const next = now.get(old.clusterId)
        if (next === undefined) {
          if (!reread && hasLeases(host, old.clusterId)) violated(world, NAME, host.name, `the epoch of cluster ${old.clusterId.slice(0, 8)} is forgotten while it has leases here`)
        } else if (!reread && next.epoch < old.epoch) violated(world, NAME, host.name, `the epoch of cluster ${old.clusterId.slice(0, 8)} went back from ${old.epoch} to ${next.epoch}`)
        else if (next.epoch === old.epoch && old.holder !== '' && next.holder !== old.holder) violated(world, NAME, host.name, `epoch ${old.epoch} of cluster ${old.clusterId.slice(0, 8)} had the holder ${old.holder}, and has ${next.holder}`)
      }
      if (!reread) return
      for (const [key, epoch] of told) {
        if (!key.startsWith(`${host.name} `)) continue
        const clusterId = key.slice(host.name.length + 1)
        if (hasLeases(host, clusterId) && (now.get(clusterId)?.epoch ?? 0) < epoch) violated(world, NAME, host.name, `epoch ${epoch} of cluster ${clusterId.slice(0, 8)} was answered, after a crash it is ${now.get(clusterId)?.epoch ?? 0}`)
      }
    },
    answer (host, { method, error, request, reply }) {
      if (error !== null || (method !== 'hostKeepAlive' && method !== 'claim')) return
      const epoch = numberOf(reply, 'epoch')
      if (epoch === 0) return
      if (epoch < numberOf(request, 'epoch')) violated(world, NAME, host.name, `epoch ${numberOf(request, 'epoch')} of cluster ${textOf(request, 'clusterId').slice(0, 8)} was heard of, and ${epoch} was noted`)
      const key = `${host.name} ${textOf(request, 'clusterId')}`
      if ((told.get(key) ?? 0) < epoch) told.set(key, epoch)
      else if ((told.get(key) ?? 0) > epoch && hasLeases(host, textOf(request, 'clusterId'))) violated(world, NAME, host.name, `epoch ${epoch} was answered for cluster ${textOf(request, 'clusterId').slice(0, 8)}, before it was ${told.get(key) ?? 0}`)
    },
    diskLost ({ host }) {
      for (const key of [...told.keys()]) if (key.startsWith(`${host} `)) told.delete(key)
    }
  }
}
