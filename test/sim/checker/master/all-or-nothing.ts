import type { Invariant } from '../invariant.ts'
import { type LeaseModel, type World, field, isLive, leaseText, listOf, numberOf, textOf, violated } from '../model.ts'
import { type Decisions, documentLeases } from './decisions.ts'

/** No node of a cluster starts anywhere unless every lender of the decision has committed, as their own answers say. */
export function allOrNothing (world: World, known: Decisions): Invariant {
  const NAME = 'all-or-nothing'

  function mustBeWhole (lease: LeaseModel): void {
    const { facts, host } = lease
    const cluster = world.clusters.get(facts.clusterId)
    // Clusters of strangers may be anything; what their lenders must see is checked with the request.
    if (cluster === undefined || cluster.creator === '' || world.hosts.get(cluster.creator)?.malicious === true) return
    const group = known.groups.get(`${facts.clusterId}/${facts.offerId}`)
    if (group === undefined) violated(world, NAME, host.name, `${leaseText(facts)} starts, and no master has decided on offer ${facts.offerId}`)
    for (const { id, host: at } of group.leases) {
      if (world.hosts.get(at)?.malicious !== false || known.receipts.has(id)) continue
      violated(world, NAME, host.name, `${leaseText(facts)} starts, and ${at} has not committed lease ${id}`)
    }
  }

  return {
    name: NAME,
    lease ({ lease, before, after }) {
      if (after?.state === 'active' && before?.state !== 'active') mustBeWhole(lease)
    },
    answer (host, { method, request, error }) {
      if (method !== 'hostActivate' || error !== null) return
      const receipts = new Map(listOf(request, 'receipts').map(receipt => [textOf(receipt, 'leaseId'), numberOf(receipt, 'token')]))
      const givenBy = new Map(listOf(request, 'receipts').map(receipt => [textOf(receipt, 'leaseId'), textOf(receipt, 'host')]))
      const document = field(request, 'document')
      const fail: (why: string) => never = why => violated(world, NAME, host.name, `an activation of cluster ${textOf(request, 'clusterId').slice(0, 8)} was accepted ${why}`)
      if (textOf(document, 'id') !== textOf(request, 'clusterId')) fail('with the document of another')
      for (const id of documentLeases(document)) {
        if (!receipts.has(id)) fail(`without a receipt of lease ${id}`)
        const mine = host.leases.get(id)
        if (mine !== undefined && isLive(mine) && givenBy.get(id) !== host.name) fail(`with a receipt of lease ${id} by ${givenBy.get(id) ?? ''}`)
        if (mine !== undefined && mine.facts.commitToken !== 0 && mine.facts.commitToken !== receipts.get(id)) fail(`with the receipt ${receipts.get(id) ?? 0} of lease ${id}, whose commit has ${mine.facts.commitToken}`)
      }
    }
  }
}
