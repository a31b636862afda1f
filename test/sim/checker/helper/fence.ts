import type { Invariant } from '../invariant.ts'
import { type World, violated } from '../model.ts'

/**
 * The helper obeys nothing that is older than what it has seen, hands a resource on only when the one
 * before is gone, and is only ever told what the ledger's disk already knows.
 */
export function fence (world: World): Invariant {
  const NAME = 'fenced'
  const disks = world.description.disks
  interface Seen { counter: number, revoked: number, clusterId: string }
  const seen = new Map<string, Seen>()
  /** end that came with a grant, by host, resource and counter */
  const ends = new Map<string, number>()
  /** latest end that leases of a cluster have had on a host: one that was taken back may still be on its way */
  const latestMs = new Map<string, number>()
  const { endGuardMs, clockGrainMs } = world.description.bounds

  /** The helper ends what runs by itself, should the agent be away: so it is told no later end than was promised. */
  function mustEnd (host: string, resource: string, clusterId: string, endMs: number): void {
    if ([...world.clusters.get(clusterId)?.leases ?? []].some(lease => lease.host.name === host && lease.lost)) return
    const latest = latestMs.get(`${host} ${clusterId}`) ?? 0
    if (endMs > latest) violated(world, NAME, host, `${resource} is granted until ${endMs}, and its cluster ends here at ${latest}`)
  }

  return {
    name: NAME,
    lease ({ host, after }) {
      if (after === null) return
      const key = `${host.name} ${after.clusterId}`
      if ((latestMs.get(key) ?? 0) < after.endMs) latestMs.set(key, after.endMs)
    },
    command ({ host, command, resource, clusterId, counter, endMs }) {
      if (disks.counter(host) < counter) violated(world, NAME, host, `${command} of ${resource} leaves with the counter ${counter}, a loss of power would leave the ledger at ${disks.counter(host)}`)
      if (command !== 'grant' || clusterId === '') return
      mustEnd(host, resource, clusterId, endMs)
      ends.set(`${host} ${resource} ${counter}`, endMs)
      for (const lease of world.clusters.get(clusterId)?.leases ?? []) {
        if (lease.host.name !== host) continue
        if (lease.lost) return
        const kept = disks.lease(host, lease.id)
        if (kept !== null && (kept.state === 'active' || (kept.state === 'ended' && kept.activatedMs > 0))) return
      }
      violated(world, NAME, host, `${resource} is granted to cluster ${clusterId.slice(0, 8)}, which has nothing active on the disk of its ledger`)
    },
    helper ({ host: name, command, resource, clusterId, counter, accepted }) {
      if (!accepted) return
      const key = `${name} ${resource}`
      const before = seen.get(key)
      if (before !== undefined && counter < before.counter) violated(world, NAME, name, `${command} of ${resource} with the counter ${counter} had an effect, ${before.counter} was seen before`)
      if (command === 'grant') {
        // It was told the end: nothing is begun when that and the guard have passed, whenever the command comes.
        const endMs = ends.get(`${name} ${resource} ${counter}`) ?? Number.POSITIVE_INFINITY
        if (world.nowMs > endMs + endGuardMs + (world.hosts.get(name)?.facts?.clockErrorMs ?? 0) + clockGrainMs) violated(world, NAME, name, `${resource} was granted ${Math.round((world.nowMs - endMs) / 1000)} s after the end of its lease`)
        if (before !== undefined && counter <= before.revoked) violated(world, NAME, name, `${resource} was granted with the counter ${counter}, it was revoked with ${before.revoked}`)
        const runs = world.hosts.get(name)?.running.get(resource)
        if (runs !== undefined && runs.facts.clusterId !== clusterId) violated(world, NAME, name, `${resource} was granted to cluster ${clusterId.slice(0, 8)} while it runs for ${runs.facts.clusterId.slice(0, 8)}`)
      }
      // Of what is gone nothing need be kept over a loss of power: no command survives that either.
      const gone = command === 'revoke' && world.hosts.get(name)?.facts?.fence.some(record => record.resource === resource && record.state === 'gone') === true
      seen.set(key, { counter: gone ? before?.counter ?? 0 : Math.max(counter, before?.counter ?? 0), revoked: command === 'revoke' ? counter : before?.revoked ?? -1, clusterId })
    },
    running (host, resource, after, before) {
      if (after !== null && before !== null && after.facts.clusterId !== before.facts.clusterId) violated(world, NAME, host.name, `${resource} was handed from cluster ${before.facts.clusterId.slice(0, 8)} to ${after.facts.clusterId.slice(0, 8)} without being gone`)
    },
    host (host, before) {
      if (host.facts === null || host.facts.fence === before?.fence) return
      for (const record of host.facts.fence) {
        const known = seen.get(`${host.name} ${record.resource}`)
        if (known !== undefined && record.counter < known.counter) violated(world, 'counters', host.name, `the fence has the counter ${record.counter} for ${record.resource}, ${known.counter} was accepted before`)
      }
    },
    diskLost ({ host }) {
      for (const key of [...seen.keys()]) if (key.startsWith(`${host} `)) seen.delete(key)
    }
  }
}
