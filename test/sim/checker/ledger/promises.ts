import type { ExtensionFacts } from '../../observation.ts'
import type { Invariant } from '../invariant.ts'
import { ENDED, type AnswerGiven, type Arrival, type HostModel, type LeaseModel, type World, field, leaseText, listOf, numberOf, rankOf, textOf, violated } from '../model.ts'

/** How long the protocol keeps what has ended, to answer the same question again. */
const KEEP_MS = 24 * 3_600_000
const MOST_ENDED = 4096

/** What a host has answered is on its disk, and stays there after any crash until a rule of the protocol ends it. */
export function promises (world: World): Invariant {
  const NAME = 'promise-kept'
  const disks = world.description.disks
  /** extensions whose commit was answered, by host, cluster and offer */
  const extended = new Map<string, { endMs: number, leases: string[] }>()
  /** end that a lease had before an extension, by host, cluster, offer and lease */
  const formerEnds = new Map<string, number>()
  /** highest version of a cluster's document that was taken, by host and cluster */
  const documents = new Map<string, number>()
  /** releases that were answered: nothing of it may come back */
  const released = new Set<LeaseModel>()

  function promise (host: HostModel, receipt: unknown, rank: number, what: string): void {
    const id = textOf(receipt, 'leaseId')
    const token = numberOf(receipt, 'token')
    const lease = host.leases.get(id)
    if (lease === undefined) violated(world, NAME, host.name, `${what} of lease ${id} was answered, which the ledger does not have`)
    const kept = disks.lease(host.name, id)
    if (kept === null) violated(world, NAME, host.name, `${what} of ${leaseText(lease.facts)} was answered before it was on the disk`)
    if (rankOf(kept.state) < rank) violated(world, NAME, host.name, `${what} of ${leaseText(lease.facts)} was answered, its disk says ${kept.state}`)
    if (disks.counter(host.name) < token) violated(world, NAME, host.name, `the receipt of lease ${id} has the token ${token}, a loss of power would leave the counter at ${disks.counter(host.name)}`)
    lease.promised = Math.max(lease.promised, rank)
    lease.promisedToken = Math.max(lease.promisedToken, token)
    lease.promisedEndMs = Math.max(lease.promisedEndMs, rank >= 2 ? kept.endMs : 0)
  }

  function answered (host: HostModel, answer: AnswerGiven, arrival: Arrival | undefined): void {
    const { method, reply, request } = answer
    const clusterId = textOf(request, 'clusterId')
    const offerId = textOf(request, 'offerId')
    if (method === 'hold') {
      const receipts = listOf(reply, 'receipts')
      const items = listOf(request, 'items')
      if (receipts.length !== items.length || items.some((item, i) => textOf(item, 'leaseId') !== textOf(receipts[i], 'leaseId'))) violated(world, NAME, host.name, `the receipts of the hold ${textOf(request, 'key')} are not those of its items`)
      for (const receipt of receipts) promise(host, receipt, 1, 'the hold')
      for (const item of items) {
        const lease = host.leases.get(textOf(item, 'leaseId'))
        const given = numberOf(reply, textOf(item, 'name') === 'local' ? 'localSegmentId' : 'segmentId')
        if (textOf(item, 'kind') === 'segment' && (given === 0 || given !== lease?.facts.segmentId)) violated(world, NAME, host.name, `the hold ${textOf(request, 'key')} was answered with the segment id ${given}, its lease has ${lease?.facts.segmentId ?? 0}`)
      }
      if (disks.replay(host.name, textOf(request, 'key')) === null) violated(world, NAME, host.name, `the hold ${textOf(request, 'key')} was answered, and the answer is not kept under its key`)
    } else if (method === 'hostCommit') {
      const extension = host.extensions.get(`${clusterId}/${offerId}`)
      if (extension === undefined) {
        const receipts = listOf(reply, 'receipts')
        if (receipts.length === 0) violated(world, NAME, host.name, `the commit of offer ${offerId} was answered without any receipt`)
        for (const receipt of receipts) {
          promise(host, receipt, 2, 'the commit')
          const lease = host.leases.get(textOf(receipt, 'leaseId'))
          if (lease?.facts.state === 'ended' && arrival !== undefined && lease.endedTrueMs < arrival.atMs) violated(world, NAME, host.name, `the commit of ${leaseText(lease.facts)} was answered, and it had ended before it was asked for`)
        }
        return
      }
      for (const { id } of extension.leases) {
        const lease = host.leases.get(id)
        if (lease !== undefined && lease.facts.state === 'ended' && arrival !== undefined && lease.endedTrueMs < arrival.atMs) violated(world, NAME, host.name, `the commit of the extension ${offerId} was answered, and ${leaseText(lease.facts)} had ended before`)
        if (lease === undefined || rankOf(lease.facts.state) === ENDED) continue
        const kept = disks.lease(host.name, id)
        if (kept === null || (kept.formerEndMs ?? kept.endMs) < extension.endMs) violated(world, NAME, host.name, `the extension ${offerId} was answered, the disk has the end ${kept?.endMs ?? 0} for ${leaseText(lease.facts)}, not ${extension.endMs}`)
        lease.promisedEndMs = Math.max(lease.promisedEndMs, Math.min(kept.endMs, extension.endMs))
      }
      extended.set(`${host.name}/${clusterId}/${offerId}`, { endMs: extension.endMs, leases: extension.leases.map(one => one.id) })
    } else if (method === 'hostActivate') {
      const key = `${host.name}/${clusterId}`
      const version = numberOf(field(request, 'document'), 'version')
      const kept = numberOf(disks.document?.(host.name, clusterId), 'version')
      if (kept !== 0 && kept < (documents.get(key) ?? 0)) violated(world, NAME, host.name, `version ${documents.get(key) ?? 0} of the document of cluster ${clusterId.slice(0, 8)} was taken, and its disk has version ${kept}`)
      documents.set(key, Math.max(documents.get(key) ?? 0, version))
      for (const lease of world.clusters.get(clusterId)?.leases ?? []) {
        if (lease.host !== host || lease.facts.state !== 'active' || !lease.there) continue
        const kept = disks.lease(host.name, lease.id)
        if (kept === null || rankOf(kept.state) < 3) violated(world, NAME, host.name, `the activation was answered, ${leaseText(lease.facts)} is ${kept?.state ?? 'not there'} on its disk`)
        lease.promised = Math.max(lease.promised, 3)
      }
    } else if (method === 'hostRelease') {
      const ids = listOf(request, 'leaseIds')
      const extension = host.extensions.get(`${clusterId}/${offerId}`)
      if (extension !== undefined) takenBack(host, extension)
      for (const lease of world.clusters.get(clusterId)?.leases ?? []) {
        if (lease.host !== host || lease.facts.state !== 'ended' || (offerId !== '' && lease.facts.offerId !== offerId) || (ids.length > 0 && !ids.includes(lease.id))) continue
        const kept = disks.lease(host.name, lease.id)
        if (lease.there && kept !== null && kept.state !== 'ended') violated(world, NAME, host.name, `the release was answered, ${leaseText(lease.facts)} is still ${kept.state} on its disk`)
        released.add(lease)
      }
    }
  }

  /** With an extension that is given up its end goes, unless another one has the same. */
  function takenBack (host: HostModel, { clusterId, offerId, endMs, leases }: ExtensionFacts): void {
    if ([...host.extensions.values()].some(one => one.clusterId === clusterId && one.offerId !== offerId && one.state === 'committed')) return
    for (const { id } of leases) {
      const lease = host.leases.get(id)
      const formerMs = formerEnds.get(`${host.name}/${clusterId}/${offerId}/${id}`) ?? endMs
      if (lease !== undefined && lease.there && lease.facts.state !== 'ended' && lease.facts.endMs === endMs && formerMs < endMs) violated(world, NAME, host.name, `the extension ${offerId} was given up, and ${leaseText(lease.facts)} still has its end`)
    }
  }

  return {
    name: NAME,
    extension (host, before, after) {
      if (before !== null || after === null) return
      for (const { id } of after.leases) {
        const lease = host.leases.get(id)
        if (lease !== undefined && after.state === 'held') formerEnds.set(`${host.name}/${after.clusterId}/${after.offerId}/${id}`, lease.facts.endMs)
      }
    },
    answer (host, answer, arrival) {
      if (answer.error === null) answered(host, answer, arrival)
    },
    lease ({ host, lease, before, after, reread }) {
      if (lease.lost) return
      if (after === null) {
        if (lease.promised === 0 && !released.has(lease)) return
        if (before === null || before.state !== 'ended') violated(world, NAME, host.name, `${leaseText(before ?? lease.facts)} is gone, and it was promised`)
        if (!reread && (host.facts?.clockMs ?? 0) < before.endedMs + KEEP_MS && host.leases.size < MOST_ENDED) violated(world, NAME, host.name, `${leaseText(before)} was forgotten ${Math.round(((host.facts?.clockMs ?? 0) - before.endedMs) / 1000)} s after its end`)
        return
      }
      if (rankOf(after.state) < lease.promised) violated(world, NAME, host.name, `${leaseText(after)} was answered as ${['', 'held', 'committed', 'active'][lease.promised] ?? ''} before`)
      // What was answered while a notice was being written has its end too.
      if (after.formerEndMs !== undefined) lease.promisedEndMs = Math.min(lease.promisedEndMs, after.endMs)
      if (after.state !== 'ended' && after.endMs < lease.promisedEndMs) violated(world, NAME, host.name, `${leaseText(after)} ends at ${after.endMs}, the end ${lease.promisedEndMs} was promised`)
      if (after.state !== 'ended' && released.has(lease)) violated(world, NAME, host.name, `${leaseText(after)} is back, its release was answered`)
    },
    arrive (host, { call }) {
      // By a notice they end earlier; that there was one is judged by `notices.ts`.
      if (call.method === 'hostCurtail') {
        const untilMs = numberOf(call.request, 'endMs')
        for (const lease of world.clusters.get(textOf(call.request, 'clusterId'))?.leases ?? []) if (lease.host === host) lease.promisedEndMs = Math.min(lease.promisedEndMs, untilMs)
      }
      // An extension that is given up takes its later end with it.
      if (call.method !== 'hostRelease') return
      const key = `${host.name}/${textOf(call.request, 'clusterId')}/${textOf(call.request, 'offerId')}`
      const promised = extended.get(key)
      if (promised === undefined) return
      extended.delete(key)
      for (const id of promised.leases) {
        const lease = host.leases.get(id)
        if (lease !== undefined && lease.promisedEndMs <= promised.endMs) lease.promisedEndMs = 0
      }
    },
    diskLost ({ host }) {
      for (const key of [...documents.keys()]) if (key.startsWith(`${host}/`)) documents.delete(key)
      for (const lease of world.hosts.get(host)?.leases.values() ?? []) {
        lease.promised = 0
        lease.promisedEndMs = 0
        released.delete(lease)
      }
    },
    host (host, _before, reread) {
      if (!reread || host.ledgerLostMs > 0 || host.facts === null) return
      for (const lease of host.leases.values()) {
        if (lease.promisedToken > host.facts.counter) violated(world, 'counters', host.name, `the counter is ${host.facts.counter} after a crash, and a receipt with ${lease.promisedToken} has left`)
      }
    }
  }
}
