/** What speaks against a request, by itself and at a later time. */
import t from 'tap'
import { zero } from '../../../protocol/core/capacity.ts'
import { MusubiError } from '../../../protocol/core/errors.ts'
import type { SiteHost } from '../../../protocol/core/gateway/events.ts'
import type { Request } from '../../../protocol/core/messages.ts'
import { quoteFor, type QuoteView } from '../../../protocol/core/quote/quote.ts'

const NOW = 1_800_000_000_000
const HOUR = 3_600_000
const free = (vcpus: number): SiteHost['free'] => ({ vcpus, memoryMib: vcpus * 1024, diskMib: 100, volumes: 1, bandwidthMbit: 200 })
const host = (name: string, vcpus: number, roles = ['compute', 'gateway', 'storage']): SiteHost => ({ host: name, roles, free: free(vcpus), peer: `peer-${name}`, underlayAddress: '192.0.2.1' })
const request = (count: number, part: Partial<Request> = {}): Request => ({
  key: 'k', clusterId: 'c', cluster: 'demo', vni: 7, masterSite: 'tokyo', startMs: NOW, endMs: NOW + HOUR, volumes: [], frontend: false, holdTtlMs: 0, bandwidthMbit: 0, epoch: 1, sentMs: NOW, grow: false,
  nodes: Array.from({ length: count }, (_, i) => ({ name: `n${i}`, vcpus: 1, memoryMib: 1024 })), ...part
})
const view = (hosts: SiteHost[], part: Partial<QuoteView> = {}): QuoteView => ({
  hosts, gateway: 'a', counted: true, quota: null, ids: 8, refusal: () => null, priceMilli: 100, nowMs: NOW,
  calendars: hosts.map(({ host: name, roles, free: now }) => ({ host: name, roles, steps: [{ atMs: 0, free: now }] })), ...part
})

t.test('a site that refuses says why, and offers nothing instead', t => {
  const denied = new MusubiError('POLICY_DENIED', 'site osaka lends nothing to tokyo', { hint: 'ask' })
  t.match(quoteFor(request(2), view([host('a', 4)], { refusal: () => denied })), { taken: false, reasons: [{ code: 'POLICY_DENIED', message: 'site osaka lends nothing to tokyo' }], nodes: 0, earliestMs: null, shape: null, totalMilli: 200 })
  t.end()
})

t.test('a start is offered only where policy allows it then', t => {
  const full = [host('a', 0)]
  const steps = [{ atMs: 0, free: free(0) }, { atMs: NOW + HOUR, free: free(4) }, { atMs: NOW + 2 * HOUR, free: free(1) }, { atMs: NOW + 3 * HOUR, free: free(4) }]
  const calendars = [{ host: 'a', roles: ['compute', 'gateway'], steps }]
  t.equal(quoteFor(request(2), view(full, { calendars })).earliestMs, NOW + HOUR)
  const notYet = (startMs: number): MusubiError | null => startMs > NOW && startMs < NOW + 90 * 60_000 ? new MusubiError('POLICY_WINDOW', 'not before noon') : null
  t.equal(quoteFor(request(2), view(full, { calendars, refusal: notYet })).earliestMs, NOW + 3 * HOUR)
  t.equal(quoteFor(request(2), view(full, { calendars: null })).earliestMs, null, 'it is not looked for')
  t.end()
})

t.test('what the gateway itself has to give: bandwidth, segment ids, what a site may borrow', t => {
  t.match(quoteFor(request(1, { bandwidthMbit: 300 }), view([host('a', 4)])), { taken: false, reasons: [{ code: 'NO_CAPACITY', message: 'gateway a: needs 300 Mbit/s, 200 free' }], nodes: 0, wanMbit: 200 })
  t.equal(quoteFor(request(1, { bandwidthMbit: 200 }), view([host('a', 4)])).taken, true)
  t.equal(quoteFor(request(1, { local: true }), view([host('a', 4)], { ids: 2 })).taken, true)
  t.match(quoteFor(request(1, { local: true }), view([host('a', 4)], { ids: 1 })).reasons, [{ code: 'NO_CAPACITY', message: 'gateway a has 1 free segment ids, 2 are needed' }])
  const quota = [[{ atMs: 0, free: { ...zero(), vcpus: 3, memoryMib: 9000, nodes: Infinity } }, { atMs: NOW + 2 * HOUR, free: { ...zero(), vcpus: 8, memoryMib: 9000, nodes: Infinity } }]]
  t.match(quoteFor(request(4), view([host('a', 8)], { quota })), { taken: false, reasons: [{ code: 'QUOTA_EXCEEDED', message: 'site tokyo may not borrow so much: needs 4 vCPU, 3 free' }], nodes: 3, earliestMs: NOW + 2 * HOUR, shape: null })
  t.equal(quoteFor(request(4), view([host('a', 8)], { quota, counted: false })).taken, true, 'of the own site nothing is counted')
  const heads = [[{ atMs: 0, free: { ...zero(), nodes: 2, vcpus: 9, memoryMib: 9000 } }, { atMs: NOW + 3 * HOUR, free: { ...zero(), nodes: 4, vcpus: 9, memoryMib: 9000 } }]]
  t.match(quoteFor(request(4), view([host('a', 8)], { quota: heads })), { taken: false, reasons: [{ code: 'QUOTA_EXCEEDED' }], nodes: 2, earliestMs: NOW + 3 * HOUR, shape: null }, 'a number of nodes, whatever their size')
  const another = [{ atMs: 0, free: { ...zero(), vcpus: 0, memoryMib: 100, nodes: 1 } }, { atMs: NOW + HOUR, free: { ...zero(), vcpus: 1, memoryMib: 100, nodes: 2 } }]
  t.match(quoteFor(request(4), view([host('a', 8)], { quota: [...heads, another] })), { taken: false, reasons: [{ code: 'QUOTA_EXCEEDED', message: 'site tokyo may not borrow so much: needs 4 nodes, 3 free' }], nodes: 3, earliestMs: NOW + HOUR }, 'shares of other gateways of the site count too')
  t.end()
})

t.test('a later start, and a smaller shape, are looked for by the terms of the cluster and in all that a quota bounds', t => {
  const hosts = [host('a', 8), host('b', 0)]
  const waves = Array.from({ length: 60 }, (_, i) => ({ atMs: NOW + i * 2 * HOUR, free: free(i % 2 === 0 ? 0 : 8) }))
  const calendars = [{ host: 'a', roles: ['compute', 'gateway'], steps: waves }, { host: 'b', roles: ['compute'], steps: [{ atMs: 0, free: free(0) }, { atMs: NOW + 101 * HOUR, free: free(4) }] }]
  t.equal(quoteFor(request(2, { maxNodesPerHost: 1 }), view(hosts, { calendars })).earliestMs, NOW + 102 * HOUR)
  const big = request(2, { maxNodesPerHost: 1, nodes: request(2).nodes.map(node => ({ ...node, vcpus: 3, memoryMib: 3072 })) })
  t.match(quoteFor(big, view([host('a', 8), host('b', 2)])), { taken: false, shape: { vcpus: 2, memoryMib: 2048 } })
  const unbounded = { vcpus: Infinity, memoryMib: Infinity, diskMib: Infinity, volumes: Infinity, bandwidthMbit: Infinity, nodes: Infinity }
  for (const field of ['volumes', 'bandwidthMbit', 'nodes'] as const) {
    const quota = [[{ atMs: 0, free: { ...unbounded, [field]: 0 } }, { atMs: NOW + 2 * HOUR, free: { ...unbounded, [field]: 1 } }]]
    const one = request(1, { bandwidthMbit: 1, volumes: [{ name: 'v', sizeMib: 1, node: 'n0' }] })
    t.match(quoteFor(one, view([host('a', 8)], { quota })), { taken: false, reasons: [{ code: 'QUOTA_EXCEEDED' }], earliestMs: NOW + 2 * HOUR }, field)
  }
  t.end()
})

t.test('nodes that lack the same are told once, and all of it stays short', t => {
  const mixed = request(2, { nodes: [...Array.from({ length: 30 }, (_, i) => ({ name: `n${i}`, vcpus: 1, memoryMib: 2048 })), ...Array.from({ length: 40 }, (_, i) => ({ name: `m${i}`, vcpus: i + 2, memoryMib: 1024 }))] })
  const { reasons, shape } = quoteFor(mixed, view([host('a', 0)]))
  t.ok(reasons.length <= 12)
  t.ok(reasons.some(({ message }) => message.startsWith('30 nodes: needs 1 vCPU, 0 free; needs 2048 MiB memory')))
  t.equal(shape, null, 'nodes that differ have no shape')
  t.end()
})

t.test('a host that is cordoned, or of a release without the second segment, is not counted for a smaller shape', t => {
  const big = request(2, { nodes: request(2).nodes.map(node => ({ ...node, vcpus: 3, memoryMib: 3072 })) })
  t.match(quoteFor(big, view([host('a', 2), host('b', 2)])), { taken: false, shape: { vcpus: 2, memoryMib: 2048 } })
  t.match(quoteFor(big, view([host('a', 2), { ...host('b', 8), cordoned: true }])), { shape: { vcpus: 1, memoryMib: 1024 } })
  t.match(quoteFor({ ...big, local: true }, view([host('a', 2), { ...host('b', 8), lacksLocal: true }])), { shape: { vcpus: 1, memoryMib: 1024 } })
  t.end()
})
