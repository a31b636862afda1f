/** Builders of plain test data; every field can be overridden. */
import { zero } from '../../protocol/core/capacity.ts'
import type { ReadonlyLedgerState } from '../../protocol/core/lease/lease.ts'
import type { GatewayFacts, HoldItem, HoldRequest, Offer } from '../../protocol/core/messages.ts'
import { type HostCapacity, placeAtSite } from '../../protocol/core/placement/at-site.ts'
import type { ClusterSpec } from '../../protocol/core/spec.ts'
import type { SitePart } from '../../protocol/core/placement/among-sites.ts'

export const HOUR = 3_600_000

export const item = (leaseId: string, part: Partial<HoldItem> = {}): HoldItem =>
  ({ leaseId, kind: 'node', name: leaseId, resources: { ...zero(), vcpus: 1, memoryMib: 512 }, segmentId: 0, ...part })

export const holdRequest = (part: Partial<HoldRequest> = {}): HoldRequest => ({
  key: 'k1', clusterId: 'c1', cluster: 'demo', masterSite: 'tokyo', masterPeer: 'peer1', startMs: 0, endMs: HOUR, ttlMs: 30_000,
  items: [item('l1')], offerId: 'o1', epoch: 1, ...part
})

export const spec = (part: Partial<ClusterSpec> = {}): ClusterSpec => ({
  name: 'demo', cidr: '10.42.0.0/16', antiSpoof: true, frontend: { mode: 'builtin' }, image: 'default', nodes: { count: 4, vcpus: 1, memoryMiB: 768 }, volumes: [], termMs: 2 * HOUR, ...part
})

export const facts = (site: string, index: number): GatewayFacts => ({
  host: `${site}-1`, peer: `peer-${site}-1`, underlayAddress: `192.0.2.${index * 10 + 1}`, tunnelPublicKey: `key-${site}`,
  tunnelEndpoint: `192.0.2.${index * 10 + 1}:51820`, tunnelAddress: `100.64.0.${index + 1}`, chain: []
})

/** An offer with the segment that does not leave the site. */
export const withLocal = (offer: Offer): Offer => ({
  ...offer, localSegmentId: offer.segmentId + 1000,
  held: [...offer.held, { leaseId: `lease-${offer.site}-local`, kind: 'segment', name: 'local', host: offer.gateway.host, peer: offer.gateway.peer, underlayAddress: offer.gateway.underlayAddress, resources: zero(), token: 1 }]
})

/** The offer that a site's gateway would make for its part, on hosts that have room. */
export function offerFor (site: string, index: number, part: SitePart, hosts: readonly HostCapacity[]): Offer {
  const placed = placeAtSite(part, hosts)
  if ('refusal' in placed) throw new Error(placed.refusal)
  const gateway = facts(site, index)
  const address = (host: string): string => `192.0.2.${index * 10 + 1 + hosts.findIndex(one => one.host === host)}`
  return {
    offerId: `offer-${site}`, site, segmentId: 1000 + index, gateway, ttlMs: 30_000, nowMs: 0,
    held: [
      ...placed.assignments.map(one => ({ leaseId: `lease-${site}-${one.kind}-${one.name}`, kind: one.kind, name: one.name, host: one.host, peer: `peer-${one.host}`, underlayAddress: address(one.host), resources: one.resources, token: 1 })),
      { leaseId: `lease-${site}-segment`, kind: 'segment', name: 'segment', host: gateway.host, peer: gateway.peer, underlayAddress: gateway.underlayAddress, resources: zero(), token: 1 }
    ]
  }
}

/** Everything of a ledger that must survive, comparable; leases in their order, because answers follow it. */
export const essence = (state: ReadonlyLedgerState): unknown => JSON.parse(JSON.stringify({
  counter: state.counter, leases: [...state.leases], replays: [...state.replays].sort(), extensions: [...state.extensions].sort(), epochs: [...state.epochs].sort()
}))
