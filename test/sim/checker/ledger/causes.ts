import type { ResourceFacts } from '../../observation.ts'
import type { Invariant } from '../invariant.ts'
import { type Arrival, type HostModel, type LeaseChange, type World, field, isOwnGateway, leaseText, listOf, numberOf, textOf, violated } from '../model.ts'

interface Cause { arrived: number, refused: number, done: boolean, asked: unknown }

/** Refusals after which nobody knows whether it was written: the disk says it later. */
const IN_DOUBT = new Set(['LEDGER_FAILED', 'STORE_WRITE_FAILED', 'STORE_CLOSED'])
/** A start this near counts as now. */
const NEAR_MS = 60_000

/**
 * Nothing happens to a lease unless a gateway of the site has asked for exactly that, with an epoch
 * that is not older than any the host has taken; and what is refused changes nothing.
 */
export function causes (world: World): Invariant {
  const NAME = 'refused-changes-nothing'
  const FENCED = 'older-epoch'
  const byKey = new Map<string, Cause>()
  const epochAtArrival = new Map<string, number>()
  /** highest epoch of which a host has answered a question, by host and cluster: whatever it has noted */
  const obeyed = new Map<string, number>()

  const keyOf = (host: HostModel, method: string, clusterId: string, offerId: string): string => `${host.name} ${method} ${clusterId} ${method === 'hostActivate' ? '' : offerId}`
  const epochOf = (host: HostModel, clusterId: string): number => host.facts?.epochs.find(one => one.clusterId === clusterId)?.epoch ?? 0

  function caused (change: LeaseChange, method: string): Cause {
    const { host, after, before } = change
    const facts = after ?? before
    if (facts === null) throw new Error('a change of nothing')
    const cause = byKey.get(keyOf(host, method, facts.clusterId, facts.offerId))
    if (cause === undefined) violated(world, 'asked-for', host.name, `${leaseText(facts)} became so, and no gateway of ${host.site} with the right epoch has asked for it by ${method}`)
    if (cause.arrived <= cause.refused && !change.reread) violated(world, NAME, host.name, `${leaseText(facts)} became so, though every ${method} for it was refused`)
    cause.done = true
    return cause
  }

  function asAsked ({ host, after }: LeaseChange, cause: Cause): void {
    if (after === null) return
    const item = listOf(cause.asked, 'items').find(one => textOf(one, 'leaseId') === after.id)
    const fail: (what: string) => never = what => violated(world, 'held-as-asked', host.name, `${leaseText(after)} ${what}`)
    if (item === undefined) fail('was not asked for by the hold that made it')
    const resources = field(item, 'resources') as ResourceFacts
    for (const dimension of Object.keys(after.resources) as Array<keyof ResourceFacts>) {
      if (after.resources[dimension] !== resources[dimension]) fail(`holds ${after.resources[dimension]} ${dimension}, asked for were ${resources[dimension]}`)
    }
    if (textOf(item, 'kind') !== after.kind || textOf(item, 'name') !== after.name) fail('has another kind or name than was asked for')
    const startMs = numberOf(cause.asked, 'startMs')
    if (after.startMs !== startMs && !(startMs <= (host.facts?.clockMs ?? 0) + NEAR_MS && after.startMs <= (host.facts?.clockMs ?? 0))) fail(`starts at ${after.startMs}, asked for was ${startMs}`)
    if (after.endMs !== numberOf(cause.asked, 'endMs')) fail(`ends at ${after.endMs}, asked for was ${numberOf(cause.asked, 'endMs')}`)
    const ttlMs = numberOf(cause.asked, 'ttlMs') === 0 ? world.description.bounds.holdTtlMs : numberOf(cause.asked, 'ttlMs')
    if (after.ttlMs !== ttlMs) fail(`is held ${after.ttlMs} ms, asked for were ${ttlMs}`)
    if (after.endMs <= (host.facts?.clockMs ?? 0)) fail('was over when it was held')
  }

  function refusedNow (host: HostModel, method: string, clusterId: string, offerId: string, code: string): void {
    const cause = byKey.get(keyOf(host, method, clusterId, offerId))
    if (cause === undefined || IN_DOUBT.has(code)) return
    cause.refused++
    if (cause.done && cause.refused >= cause.arrived) violated(world, NAME, host.name, `every ${method} of offer ${offerId} of cluster ${clusterId.slice(0, 8)} was refused (${code}), and it was done`)
  }

  function arrived (host: HostModel, { call, id, copy }: Arrival): void {
    const { method, request, caller } = call
    if (method !== 'hold' && method !== 'hostCommit' && method !== 'hostActivate' && method !== 'hostExtend') return
    const clusterId = textOf(request, 'clusterId')
    epochAtArrival.set(`${id}/${copy}`, Math.max(epochOf(host, clusterId), obeyed.get(`${host.name} ${clusterId}`) ?? 0))
    if (!isOwnGateway(host, caller)) return
    const key = keyOf(host, method, clusterId, textOf(request, 'offerId'))
    const cause = byKey.get(key)
    if (cause === undefined) byKey.set(key, { arrived: 1, refused: 0, done: false, asked: request })
    else {
      cause.arrived++
      if (!cause.done) cause.asked = request
    }
  }

  return {
    name: NAME,
    arrive: arrived,
    lease (change) {
      const { before, after, host } = change
      // What is forgotten is forgotten whole: its master's epoch as well.
      if (after === null) { obeyed.delete(`${host.name} ${before?.clusterId ?? ''}`); return }
      const from = before?.state ?? ''
      const clock = host.facts?.clockMs ?? 0
      if (before === null) asAsked(change, caused(change, 'hold'))
      if (after.state === 'committed' && from !== 'committed') {
        caused(change, 'hostCommit')
        if (before !== null && clock > before.deadlineMs && !change.reread) violated(world, 'commit-in-time', host.name, `${leaseText(after)} was committed ${clock - before.deadlineMs} ms after its hold had run out`)
      }
      if (after.state === 'active' && from !== 'active') {
        caused(change, 'hostActivate')
        if (before?.state === 'committed' && !change.reread) {
          if (clock > before.deadlineMs) violated(world, 'activate-in-time', host.name, `${leaseText(after)} was activated ${clock - before.deadlineMs} ms after it had run out`)
          if (clock < after.startMs) violated(world, 'not-before-start', host.name, `${leaseText(after)} was activated ${after.startMs - clock} ms before its start`)
        }
      }
      // by the notice that is withdrawn; see `notices.ts`
      if (before !== null && after.endMs > before.endMs && !change.reread && before.formerEndMs !== after.endMs && after.formerEndMs === undefined) {
        const offerIds = [...host.extensions.values(), ...host.facts?.extensions ?? []].filter(one => one.clusterId === after.clusterId && one.endMs === after.endMs).map(one => one.offerId)
        const committed = offerIds.flatMap(offerId => byKey.has(keyOf(host, 'hostExtend', after.clusterId, offerId)) ? byKey.get(keyOf(host, 'hostCommit', after.clusterId, offerId)) ?? [] : [])
        if (committed.length === 0) violated(world, 'asked-for', host.name, `${leaseText(after)} got the end ${after.endMs}, and no extension to it was held and committed`)
        if (committed.every(cause => cause.arrived <= cause.refused)) violated(world, NAME, host.name, `${leaseText(after)} was extended, though every commit of it was refused`)
      }
    },
    extension (host, before, after, reread) {
      if (after === null || reread) return
      if (before === null) {
        const cause = byKey.get(keyOf(host, 'hostExtend', after.clusterId, after.offerId))
        if (cause === undefined) violated(world, 'asked-for', host.name, `the extension ${after.offerId} is held, and no gateway of ${host.site} has asked for it`)
        if (cause.arrived <= cause.refused) violated(world, NAME, host.name, `the extension ${after.offerId} is held, though it was refused`)
        cause.done = true
      }
    },
    answer (host, { method, request, error, caller, id, copy }) {
      if (method !== 'hold' && method !== 'hostCommit' && method !== 'hostActivate' && method !== 'hostExtend') return
      const clusterId = textOf(request, 'clusterId')
      const key = `${id}/${copy}`
      const known = epochAtArrival.get(key) ?? 0
      epochAtArrival.delete(key)
      if (error !== null) {
        if (isOwnGateway(host, caller)) refusedNow(host, method, clusterId, textOf(request, 'offerId'), error.code)
        return
      }
      if (!isOwnGateway(host, caller)) violated(world, 'asked-for', host.name, `${method} by ${caller.host} of ${caller.site ?? 'no site'} was answered`)
      const epoch = numberOf(request, 'epoch')
      if (epoch > (obeyed.get(`${host.name} ${clusterId}`) ?? 0)) obeyed.set(`${host.name} ${clusterId}`, epoch)
      if (epoch > 0 && epoch < known) violated(world, FENCED, host.name, `${method} of cluster ${clusterId.slice(0, 8)} with epoch ${epoch} was answered, ${known} was known`)
    },
    crash ({ host }) {
      // What was under way gets no answer any more: it may have been done, or not.
      for (const [key] of byKey) if (key.startsWith(`${host} `)) { const cause = byKey.get(key); if (cause !== undefined) { cause.arrived += 1; cause.done = false } }
    },
    diskLost ({ host }) {
      for (const key of [...byKey.keys()]) if (key.startsWith(`${host} `)) byKey.delete(key)
      for (const key of [...obeyed.keys()]) if (key.startsWith(`${host} `)) obeyed.delete(key)
    }
  }
}
