import type { Invariant } from '../invariant.ts'
import { type HostModel, type World, isLive, numberOf, textOf, violated } from '../model.ts'

/** Counters and epochs never go back: not within a life, and after a crash not below what anybody was told. */
export function counters (world: World): Invariant {
  const NAME = 'counters'
  /** highest epoch that answers of a host have spoken of, by host and cluster */
  const told = new Map<string, number>()

  const hasLeases = (host: HostModel, clusterId: string): boolean => {
    for (const lease of world.clusters.get(clusterId)?.leases ?? []) if (lease.host === host && isLive(lease) && !lease.lost) return true
    return false
  }

  return {
    name: NAME,
    host (host, before, reread) {
      const { facts } = host
      if (facts === null || before === null) return
      if (!reread && facts.counter < before.counter) violated(world, NAME, host.name, `the ledger's counter went back from ${before.counter} to ${facts.counter}`)
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
      const key = `${host.name} ${textOf(request, 'clusterId')}`
      if ((told.get(key) ?? 0) < epoch) told.set(key, epoch)
      else if ((told.get(key) ?? 0) > epoch && hasLeases(host, textOf(request, 'clusterId'))) violated(world, NAME, host.name, `epoch ${epoch} was answered for cluster ${textOf(request, 'clusterId').slice(0, 8)}, before it was ${told.get(key) ?? 0}`)
    },
    diskLost ({ host }) {
      for (const key of [...told.keys()]) if (key.startsWith(`${host} `)) told.delete(key)
    }
  }
}
