import type { Invariant } from '../invariant.ts'
import { type ClusterModel, type HostModel, type World, clusterOf, field, isLive, leaseText, numberOf, textOf, violated } from '../model.ts'
import type { Decisions } from './decisions.ts'

const OF_MASTERS = new Set(['commit', 'activate', 'extend', 'keepAlive', 'release', 'request'])

/** Within so long a word that a gateway has for its own host has been taken in. */
const CALLED_MS = 10_000
interface Called { atMs: number, peer: string }

/**
 * One master at a time: the anchor host grants an epoch once, to one gateway of its own site, and only
 * when the one before was not heard of; whoever has taken an epoch obeys nobody older, and nobody else.
 */
export function epochs (world: World, { taken }: Pick<Decisions, 'taken'>): Invariant {
  const NAME = 'one-master'
  const { masterlessMs, clockRate, clockGrainMs } = world.description.bounds
  /** when a host last heard of a cluster's master, true time */
  const heard = new Map<string, number>()
  /** who has a cluster at a gateway: the first whose request was answered */
  const owners = new Map<string, string>()
  /** claims that insisted: one whose answer was lost is asked again, and counts */
  const forced = new Set<string>()
  /** keep-alives that gateways have answered, by host and cluster */
  const calls = new Map<string, Called>()
  /** operators who have insisted, by host and cluster */
  const insisted = new Set<string>()
  const takenAtArrival = new Map<string, number>()
  const holderNow = (cluster: ClusterModel): { epoch: number, peer: string } => {
    const epoch = Math.max(0, ...cluster.holders.keys())
    return { epoch, peer: cluster.holders.get(epoch) ?? '' }
  }

  function claimed (host: HostModel, clusterId: string, reply: unknown, request: unknown, peerId: string, site: string | null, gateway: boolean): void {
    const cluster = clusterOf(world, clusterId)
    const epoch = numberOf(reply, 'epoch')
    const fail: (why: string) => never = why => violated(world, NAME, host.name, `epoch ${epoch} of cluster ${clusterId.slice(0, 8)} was granted to ${peerId}: ${why}`)
    if (!gateway || site !== host.site) fail('it is no gateway of this site')
    const holder = cluster.holders.get(epoch)
    if (holder !== undefined && holder !== peerId) fail(`${holder} has it`)
    const now = holderNow(cluster)
    if (holder === undefined && epoch <= now.epoch) fail(`epoch ${now.epoch} has been granted`)
    if (!isAnchor(host, cluster)) fail('this host has no lease of the frontend')
    const since = world.nowMs - (heard.get(`${host.name} ${clusterId}`) ?? Number.NEGATIVE_INFINITY)
    if (holder === undefined && now.peer !== peerId && !forced.has(`${host.name} ${clusterId} ${epoch} ${peerId}`) && since < masterlessMs * (1 - clockRate) - clockGrainMs) fail(`its master ${now.peer} was heard of ${Math.round(since / 1000)} s ago`)
    // A gateway that has the frontend itself tells it at once; to other hosts words may get lost.
    const called = lastCall(host, clusterId)
    if (holder === undefined && now.peer !== peerId && called?.peer === now.peer && !forced.has(`${host.name} ${clusterId} ${epoch} ${peerId}`) && world.nowMs - called.atMs < masterlessMs * (1 - clockRate) - CALLED_MS) fail(`its master ${now.peer} called this very gateway ${Math.round((world.nowMs - called.atMs) / 1000)} s ago`)
    cluster.holders.set(epoch, peerId)
  }

  /** The last keep-alive that was answered here, unless anything was wrong with the host since. */
  function lastCall (host: HostModel, clusterId: string): Called | null {
    const last = calls.get(`${host.name} ${clusterId}`)
    return last === undefined || host.readySinceMs > last.atMs - CALLED_MS || host.jumpedMs > last.atMs - CALLED_MS ? null : last
  }

  const isAnchor = (host: HostModel, cluster: ClusterModel): boolean => {
    for (const lease of cluster.leases) if (lease.host === host && lease.facts.kind === 'frontend' && (isLive(lease) || lease.endedTrueMs === world.nowMs)) return true
    return false
  }

  return {
    name: NAME,
    operator ({ host, action, clusterId }) {
      if (action === 'force-adopt') insisted.add(`${host} ${clusterId}`)
    },
    arrive (host, { id, copy, call }) {
      // An operator alone may insist.
      if (call.method === 'claim' && field(call.request, 'force') === true && insisted.has(`${call.from} ${textOf(call.request, 'clusterId')}`)) forced.add(`${host.name} ${textOf(call.request, 'clusterId')} ${numberOf(call.request, 'epoch')} ${call.caller.peerId}`)
      if (OF_MASTERS.has(call.method)) takenAtArrival.set(`${id}/${copy}`, taken.get(`${host.name} ${textOf(call.request, 'clusterId')}`) ?? 0)
    },
    answer (host, { id, copy, method, request, reply, error, caller }, arrival) {
      const key = `${id}/${copy}`
      const before = takenAtArrival.get(key) ?? 0
      takenAtArrival.delete(key)
      if (error !== null || host.malicious) return
      const clusterId = textOf(request, 'clusterId')
      if (method === 'claim') { claimed(host, clusterId, reply, request, caller.peerId, caller.site, caller.gateway); return }
      if (method === 'hostKeepAlive') {
        const cluster = clusterOf(world, clusterId)
        const epoch = numberOf(request, 'epoch')
        if (textOf(reply, 'state') !== '' && epoch >= holderNow(cluster).epoch) heard.set(`${host.name} ${clusterId}`, arrival?.atMs ?? world.nowMs)
        const holder = cluster.holders.get(epoch)
        // A stranger that has got a free id at that gateway first is its master there, and grants itself what it likes.
        const isStrangers = world.byPeer.get(owners.get(`${caller.host} ${clusterId}`) ?? '')?.malicious === true
        if (epoch > 1 && world.hosts.get(caller.host)?.malicious === false && numberOf(reply, 'epoch') === epoch && cluster.creator !== '' && holder === undefined && !isStrangers) violated(world, NAME, host.name, `epoch ${epoch} of cluster ${clusterId.slice(0, 8)} was taken, which no anchor has granted`)
        return
      }
      if (method === 'keepAlive' && (textOf(reply, 'state') === 'active' || textOf(reply, 'state') === 'committed')) calls.set(`${host.name} ${clusterId}`, { atMs: world.nowMs, peer: caller.peerId })
      if (!OF_MASTERS.has(method)) return
      const at = `${host.name} ${clusterId}`
      const epoch = numberOf(request, 'epoch')
      const owner = owners.get(at)
      const isEmpty = (method === 'release' && numberOf(reply, 'ended') === 0) || (method === 'keepAlive' && (textOf(reply, 'state') === '' || (owner !== caller.peerId && ['asking', 'releasing'].includes(textOf(reply, 'state')))))
      if (isEmpty) return
      if (method === 'request' && textOf(request, 'masterSite') !== caller.site) violated(world, NAME, host.name, `a request in the name of ${textOf(request, 'masterSite')} by ${caller.host} was answered`)
      if (method === 'request' && owner === undefined) owners.set(at, caller.peerId)
      const cluster = clusterOf(world, clusterId)
      // Of an id that is free again a stranger may make what it likes, and so may whoever took the cluster over on an operator's word alone.
      const isStranger = world.hosts.get(caller.host)?.malicious === true
      if (method === 'request' && owner !== undefined && owner !== caller.peerId && (isStranger || insisted.has(`${caller.host} ${clusterId}`))) {
        const left = [...cluster.leases].find(lease => lease.host.site === host.site && lease.facts.masterPeer === owner && isLive(lease) && !lease.lost)
        if (left !== undefined && isStranger) violated(world, NAME, host.name, `a request of cluster ${clusterId.slice(0, 8)} by ${caller.host} was answered, and ${leaseText(left.facts)} of ${owner} lives`)
        if (left === undefined) owners.set(at, caller.peerId)
      }
      const fail: (why: string) => never = why => violated(world, NAME, host.name, `${method} of cluster ${clusterId.slice(0, 8)} with epoch ${epoch} by ${caller.host} was answered: ${why}`)
      if (epoch > 0 && epoch < before) violated(world, 'older-epoch', host.name, `${method} of cluster ${clusterId.slice(0, 8)} with epoch ${epoch} by ${caller.host} was answered, ${before} was taken before`)
      if (caller.peerId !== owners.get(at) && method !== 'request') {
        const holder = cluster.holders.get(epoch)
        if (holder !== caller.peerId) fail(holder === undefined ? 'nobody was granted that epoch' : `its master is ${holder}`)
      }
      const holder = cluster.holders.get(epoch)
      if (epoch > 1 && holder !== undefined && holder !== caller.peerId) fail(`its master is ${holder}`)
      const isStrangers = owners.get(at) === caller.peerId && world.hosts.get(caller.host)?.malicious === true
      if (epoch > 1 && holder === undefined && cluster.creator !== '' && !isStrangers && method === 'keepAlive' && numberOf(reply, 'epoch') === epoch) fail('no anchor has granted that epoch')
      if ((taken.get(at) ?? 0) < epoch && holder === caller.peerId) taken.set(at, epoch)
    },
    diskLost ({ host }) {
      for (const map of [taken, owners, heard, calls] as Array<Map<string, unknown>>) for (const key of [...map.keys()]) if (key.startsWith(`${host} `)) map.delete(key)
    }
  }
}
