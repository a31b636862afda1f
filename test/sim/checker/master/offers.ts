import type { ResourceFacts } from '../../observation.ts'
import type { Invariant } from '../invariant.ts'
import { type AnswerGiven, type Arrival, type HostModel, type World, field, leaseText, listOf, numberOf, textOf, unixMs, violated } from '../model.ts'
import { DIMENSIONS } from '../ledger/calendar.ts'
import type { Decisions } from './decisions.ts'

const MAX_SKEW_MS = 30_000

/**
 * What a gateway answers is so at its hosts: an offer leaves when every host holds its part on its
 * disk, commits and activations when all have done them, a release when nothing is left.
 */
export function offers (world: World, known: Decisions): Invariant {
  const NAME = 'offer-is-held'
  const { clockGrainMs } = world.description.bounds
  const answered = new Set<string>()
  /** leases that gateways were told to release, by gateway: an extension leaves them out */
  const givenUp = new Set<string>()

  function request (host: HostModel, { request, reply, caller }: AnswerGiven, arrival: Arrival | undefined): void {
    const clusterId = textOf(request, 'clusterId')
    const offerId = textOf(reply, 'offerId')
    const held = listOf(reply, 'held')
    const fail: (why: string) => never = why => violated(world, NAME, host.name, `offer ${offerId} for cluster ${clusterId.slice(0, 8)} leaves: ${why}`)
    const lent: ResourceFacts = { vcpus: 0, memoryMib: 0, diskMib: 0, volumes: 0, bandwidthMbit: 0 }
    let segments = 0
    let locals = 0
    for (const one of held) {
      const at = world.hosts.get(textOf(one, 'host'))
      const lease = at?.leases.get(textOf(one, 'leaseId'))
      if (at === undefined || lease === undefined || lease.promised < 1) fail(`${textOf(one, 'host')} has not answered that it holds ${textOf(one, 'kind')} ${textOf(one, 'name')}`)
      if (at.site !== host.site) fail(`${at.name} is of another site`)
      if (lease.facts.clusterId !== clusterId || lease.facts.kind !== textOf(one, 'kind') || lease.facts.name !== textOf(one, 'name') || lease.facts.offerId !== offerId) fail(`${leaseText(lease.facts)} on ${at.name} is something else`)
      const resources = field(one, 'resources') as ResourceFacts
      for (const dimension of DIMENSIONS) if (lease.facts.resources[dimension] !== resources[dimension]) fail(`${at.name} holds ${lease.facts.resources[dimension]} ${dimension} for ${lease.facts.name}, the offer says ${resources[dimension]}`)
      if (numberOf(one, 'token') !== lease.facts.heldToken) fail(`it has the token ${numberOf(one, 'token')} of lease ${lease.id}, which was held with ${lease.facts.heldToken}`)
      if (lease.facts.endMs !== numberOf(request, 'endMs') && lease.facts.state !== 'ended' && lease.promisedEndMs === 0) fail(`lease ${lease.id} ends at ${lease.facts.endMs}, asked for was ${numberOf(request, 'endMs')}`)
      if (numberOf(reply, 'ttlMs') > lease.facts.ttlMs) fail(`it is said to be held ${numberOf(reply, 'ttlMs')} ms, ${at.name} holds ${lease.facts.ttlMs}`)
      if (lease.facts.kind === 'segment') {
        const local = lease.facts.name === 'local'
        if (local) locals++
        else segments++
        const given = numberOf(reply, local ? 'localSegmentId' : 'segmentId')
        if (lease.facts.segmentId !== given || lease.facts.segmentId === 0) fail(`it has the segment id ${given}, the ledger ${lease.facts.segmentId}`)
      } else if (lease.facts.kind !== 'quota' && lease.facts.kind !== 'segment') for (const dimension of DIMENSIONS) lent[dimension] += resources[dimension]
    }
    if (segments === 0 && field(request, 'grow') !== true) fail('the gateway itself holds no segment')
    if (field(request, 'grow') !== true && locals !== Number(field(request, 'local') === true)) fail(`the gateway holds ${locals} site-local segments`)
    // Asked again, it is what is left of what was offered.
    if (!answered.has(`${host.name} ${offerId}`)) {
      answered.add(`${host.name} ${offerId}`)
      wanted(request, held, fail)
      borrowed(host, request, offerId, held, lent, fail)
    }
    if (!JSON.stringify(world.description.disks.gatewayRecord(host.name, clusterId) ?? '').includes(offerId)) fail('a loss of power would leave the gateway without a record of it')
    // What was held before, and is only answered again, was judged then.
    if (arrival !== undefined && held.every(one => (world.hosts.get(textOf(one, 'host'))?.leases.get(textOf(one, 'leaseId'))?.heldTrueMs ?? 0) >= arrival.atMs)) skew(host, caller.host, request, arrival)
  }

  function wanted (asked: unknown, held: readonly unknown[], fail: (why: string) => never): void {
    const got = new Map(held.map(one => [`${textOf(one, 'kind')} ${textOf(one, 'name')}`, field(one, 'resources') as ResourceFacts]))
    for (const node of listOf(asked, 'nodes')) {
      const resources = got.get(`node ${textOf(node, 'name')}`)
      if (resources === undefined) fail(`node ${textOf(node, 'name')} is not in it`)
      if (resources.vcpus !== numberOf(node, 'vcpus') || resources.memoryMib !== numberOf(node, 'memoryMib')) fail(`node ${textOf(node, 'name')} has another size`)
    }
    for (const volume of listOf(asked, 'volumes')) {
      const resources = got.get(`volume ${textOf(volume, 'name')}`)
      if (resources === undefined) fail(`volume ${textOf(volume, 'name')} is not in it`)
      if (resources.diskMib !== numberOf(volume, 'sizeMib') || resources.volumes !== 1) fail(`volume ${textOf(volume, 'name')} takes ${resources.diskMib} MiB and ${resources.volumes} volumes`)
    }
    if (field(asked, 'frontend') === true && !held.some(one => textOf(one, 'kind') === 'frontend')) fail('the frontend is not in it')
  }

  /** Where a site's share is bounded, ledgers of the site's gateways count all that is lent: the own one, and others for what it borrows of them. */
  function borrowed (host: HostModel, asked: unknown, offerId: string, held: readonly unknown[], lent: ResourceFacts, fail: (why: string) => never): void {
    if (host.facts?.quotas.some(one => one.masterSite === textOf(asked, 'masterSite')) !== true) return
    const counted: ResourceFacts = { vcpus: 0, memoryMib: 0, diskMib: 0, volumes: 0, bandwidthMbit: 0 }
    for (const one of held) {
      if (textOf(one, 'kind') !== 'quota') continue
      const lease = host.leases.get(textOf(one, 'leaseId'))
      if (lease === undefined || lease.facts.masterSite !== textOf(asked, 'masterSite')) fail('the share of the site is counted elsewhere')
      for (const dimension of DIMENSIONS) counted[dimension] += lease.facts.resources[dimension]
    }
    for (const { host: at, facts } of world.clusters.get(textOf(asked, 'clusterId'))?.leases ?? []) {
      if (facts.kind !== 'quota' || facts.offerId !== offerId || at === host || at.site !== host.site || !at.description.gateway || facts.state === 'ended') continue
      if (facts.masterSite !== textOf(asked, 'masterSite') || facts.name !== host.name) fail(`the share on ${at.name} is counted for ${facts.masterSite} in the name of ${facts.name}`)
      for (const dimension of DIMENSIONS) counted[dimension] += facts.resources[dimension]
    }
    for (const dimension of DIMENSIONS) if (counted[dimension] < lent[dimension]) violated(world, 'quota-exceeded', host.name, `${lent[dimension]} ${dimension} are lent to ${textOf(asked, 'masterSite')}, ${counted[dimension]} are counted`)
  }

  function skew (host: HostModel, from: string, asked: unknown, arrival: Arrival): void {
    const off = host.facts?.ledgerOffMs
    if (off == null || world.hosts.get(from)?.malicious !== false || arrival.call.forged) return
    const transit = arrival.atMs - unixMs(arrival.call.trueMs)
    const between = off - (numberOf(asked, 'sentMs') - unixMs(arrival.call.trueMs))
    if (Math.abs(between) > MAX_SKEW_MS + transit + 1_000 + clockGrainMs) violated(world, 'skew-refused', host.name, `a request of ${from}, whose clock is ${Math.round(between / 1000)} s apart, was answered with an offer`)
  }

  function everyLease (host: HostModel, clusterId: string, offerId: string, what: string, is: (id: string) => boolean): void {
    const given = known.offered.get(`${clusterId}/${offerId}`)
    if (given === undefined || given.gateway !== host.name) return
    for (const id of given.heldIds.split(' ')) if (id !== '' && !is(id) && !isGivenBack(clusterId, id)) violated(world, NAME, host.name, `${what} of offer ${offerId} of cluster ${clusterId.slice(0, 8)} was answered, and lease ${id} has not`)
  }

  /** A commit that comes again late finds what is still there. */
  const isGivenBack = (clusterId: string, id: string): boolean => leaseById(clusterId, id)?.givenBack === true

  const leaseById = (clusterId: string, id: string) => [...world.clusters.get(clusterId)?.leases ?? []].find(lease => lease.id === id)

  return {
    name: NAME,
    arrive (host, { call }) {
      if (call.method === 'release') for (const id of listOf(call.request, 'leaseIds')) if (typeof id === 'string') givenUp.add(`${host.name} ${id}`)
    },
    answer (host, answer, arrival) {
      if (answer.error !== null || host.malicious) return
      const { method, request: asked, reply } = answer
      const clusterId = textOf(asked, 'clusterId')
      if (method === 'request') request(host, answer, arrival)
      else if (method === 'extend') longer(host, clusterId, textOf(asked, 'offerId'), numberOf(asked, 'endMs'))
      else if (method === 'commit') {
        const receipts = new Map(listOf(reply, 'receipts').map(receipt => [textOf(receipt, 'leaseId'), numberOf(receipt, 'token')]))
        extended(host, clusterId, textOf(asked, 'offerId'))
        everyLease(host, clusterId, textOf(asked, 'offerId'), 'the commit', id => known.receipts.has(id) && receipts.get(id) === known.receipts.get(id))
      } else if (method === 'activate') {
        for (const [key, given] of known.offered) {
          if (!key.startsWith(`${clusterId}/`) || given.gateway !== host.name || given.heldIds === '') continue
          for (const id of given.heldIds.split(' ')) {
            const lease = leaseById(clusterId, id)
            if (lease !== undefined && lease.there && !lease.lost && lease.facts.state === 'committed' && listOf(field(asked, 'document'), 'nodes').some(node => textOf(node, 'leaseId') === id)) violated(world, NAME, host.name, `the activation of cluster ${clusterId.slice(0, 8)} was answered, and ${leaseText(lease.facts)} on ${lease.host.name} is not active`)
          }
        }
      } else if (method === 'release' && textOf(asked, 'offerId') === '' && listOf(asked, 'leaseIds').length === 0) released(host, clusterId, answer)
    }
  }

  /** A later end is offered when every host that has a part of the cluster here holds it. */
  function longer (host: HostModel, clusterId: string, offerId: string, endMs: number): void {
    for (const lease of world.clusters.get(clusterId)?.leases ?? []) {
      if (known.offered.get(`${clusterId}/${lease.facts.offerId}`)?.gateway !== host.name || !lease.there || lease.lost || lease.releasedMs > 0 || givenUp.has(`${host.name} ${lease.id}`)) continue
      if ((lease.facts.state !== 'active' && lease.facts.state !== 'committed') || lease.facts.endMs >= endMs) continue
      const extension = lease.host.extensions.get(`${clusterId}/${offerId}`)
      if (extension?.leases.some(one => one.id === lease.id) !== true) violated(world, NAME, host.name, `the later end ${offerId} was offered, and ${lease.host.name} does not hold it for ${leaseText(lease.facts)}`)
    }
  }

  /** The commit of an extension is answered when every lease at the site has the later end, or had it before a notice: it may be answered again. */
  function extended (host: HostModel, clusterId: string, offerId: string): void {
    if (!known.offered.has(`${clusterId}/${offerId} ${host.name}`)) return
    const endMs = Math.max(0, ...[...host.extensions.values()].filter(one => one.clusterId === clusterId && one.offerId === offerId).map(one => one.endMs))
    for (const lease of world.clusters.get(clusterId)?.leases ?? []) {
      if (known.offered.get(`${clusterId}/${lease.facts.offerId}`)?.gateway !== host.name || !lease.there || lease.lost || lease.releasedMs > 0 || givenUp.has(`${host.name} ${lease.id}`)) continue
      if ((lease.facts.state === 'active' || lease.facts.state === 'committed') && (lease.facts.formerEndMs ?? lease.facts.endMs) < endMs) violated(world, 'extended-everywhere', host.name, `the extension ${offerId} was answered as committed, and ${leaseText(lease.facts)} on ${lease.host.name} ends at ${lease.facts.endMs}, not ${endMs}`)
    }
  }

  function released (host: HostModel, clusterId: string, { caller, request: asked }: AnswerGiven): void {
    const cluster = world.clusters.get(clusterId)
    if (cluster === undefined || cluster.holders.get(numberOf(asked, 'epoch')) !== caller.peerId || numberOf(asked, 'epoch') < Math.max(...cluster.holders.keys())) return
    for (const lease of cluster.leases) {
      if (!lease.there || lease.lost || lease.host.site !== host.site || (lease.facts.state !== 'active' && lease.facts.state !== 'committed')) continue
      if (known.offered.get(`${clusterId}/${lease.facts.offerId}`)?.gateway !== host.name) continue
      violated(world, 'release-confirmed-when-gone', host.name, `the release of cluster ${clusterId.slice(0, 8)} was confirmed to its master, and ${leaseText(lease.facts)} on ${lease.host.name} lives`)
    }
  }
}
