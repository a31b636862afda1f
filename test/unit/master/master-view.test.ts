import { createHash } from 'node:crypto'
import t from 'tap'
import { clusterRecord, newNotes, noPhases, shownState, type ClusterRecord } from '../../../agent/master/record.ts'
import { clusterView, foldStatus } from '../../../agent/master/view.ts'
import type { HostStatus } from '../../../agent/peers.ts'
import { buildClusterDocument } from '../../../protocol/core/document.ts'
import type { HostCapacity } from '../../../protocol/core/placement/at-site.ts'
import { siteCapacityOf } from '../../../protocol/core/placement/site-capacity.ts'
import { placeAmongSites } from '../../../protocol/core/placement/among-sites.ts'
import { offerFor, spec } from '../../model/fixtures.ts'

const CREATED = 1_000_000
const ID = '0123456789abcdef0123456789abcdef'
const roomy = (site: string): HostCapacity[] => [{ host: `${site}-1`, roles: ['gateway', 'compute', 'storage'], free: { vcpus: 3, memoryMib: 4096, diskMib: 500, volumes: 9, bandwidthMbit: 0 } }]

/** Two nodes at tokyo beside the frontend, two at tsukuba. */
function record (): ClusterRecord {
  const cluster = spec()
  const placed = placeAmongSites(cluster, ['tokyo', 'tsukuba'].map(site => siteCapacityOf(site, roomy(site))), 'tokyo')
  if ('refusal' in placed) throw new Error(placed.refusal)
  const offers = placed.parts.map((part, i) => offerFor(part.site, i, part, roomy(part.site)))
  const document = buildClusterDocument({
    id: ID, name: 'demo', spec: cluster, offers, masterSite: 'tokyo', masterPeer: 'p', vni: 7, nowMs: CREATED, sshPublicKey: 'k', imageDigest: 'd',
    hash: text => createHash('sha256').update(text).digest('hex')
  })
  return clusterRecord({
    id: ID, name: 'demo', state: 'active', spec: cluster, vni: 7, createdMs: CREATED, startMs: CREATED, endMs: CREATED + cluster.termMs, epoch: 1, grant: null, masterSite: 'tokyo',
    error: null, asked: [], offers, receipts: [], document, secrets: [], imageDigest: 'd', amendment: null, dropped: [], behind: [], decidedMs: CREATED, commitByMs: CREATED, negotiateMs: 50, endedMs: 0
  }, { ...newNotes(ID), rttMs: 20 }, CREATED)
}

const status = (site: string, objects: Array<{ kind: string, name: string, state?: string, error?: string, detail?: unknown }>, part: Partial<HostStatus> = {}): HostStatus => ({
  site, host: `${site}-1`, leaseState: 'active', reachable: true, nowMs: 0, ...part,
  objects: objects.map(({ kind, name, state = 'ok', error = '', detail = {} }) => ({ kind, name: `01234567.${name}`, state, error, detail: typeof detail === 'string' ? detail : JSON.stringify(detail) }))
})

t.test('phases come from domains and from what the frontend saw, in time since the request', t => {
  const r = record()
  t.equal(foldStatus(r, r, [status('tokyo', [{ kind: 'domain', name: 'demo-tokyo-001' }, { kind: 'domain', name: 'demo-tokyo-002', state: 'pending' }])], CREATED + 900), true)
  t.match(r.phases, { 'demo-tokyo-001': { leased: 50, defined: 900, dhcp: null }, 'demo-tokyo-002': { leased: 50, defined: null } })
  t.equal(foldStatus(r, r, [status('tokyo', [{ kind: 'domain', name: 'demo-tokyo-001' }])], CREATED + 5_000), false, 'what is set stays')
  const seen = { 'demo-tokyo-001': { dhcp: CREATED + 1_500.4, boot: CREATED + 2_000, image: CREATED + 3_000, ready: CREATED + 4_000 }, 'demo-tokyo-002': { dhcp: CREATED - 10 } }
  t.equal(foldStatus(r, r, [status('tokyo', [{ kind: 'frontend', name: 'frontend', detail: { phases: seen } }])], CREATED + 6_000), true)
  t.same(r.phases['demo-tokyo-001'], { leased: 50, defined: 900, dhcp: 1500, boot: 2000, image: 3000, ready: 4000 })
  t.equal(r.phases['demo-tokyo-002']?.dhcp, 0, 'never below zero')
  t.equal(foldStatus(r, r, [], CREATED + 7_000), false, 'silence takes nothing back')
  t.end()
})

t.test('a failure is shown until the node is ready after all', t => {
  const r = record()
  const saw = (seen: object): HostStatus[] => [status('tokyo', [{ kind: 'frontend', name: 'frontend', detail: { phases: { 'demo-tokyo-001': seen } } }])]
  foldStatus(r, r, saw({ dhcp: CREATED + 1, failed: CREATED + 2, reason: 'no root image' }), CREATED + 3)
  t.equal(clusterView(r, []).nodes[0]?.state, 'failed: no root image')
  foldStatus(r, r, saw({ failed: CREATED + 2 }), CREATED + 3)
  t.equal(r.failures['demo-tokyo-001'], 'no reason given')
  foldStatus(r, r, saw({ ready: CREATED + 9 }), CREATED + 9)
  t.same(r.failures, {})
  t.match(clusterView(r, []).nodes[0], { state: 'ready', ready: true })
  t.end()
})

t.test('odd reports are figures of zero, never a crash', t => {
  for (const detail of ['', 'no json', 'null', '[]', '7', '{"phases":7}', '{"phases":{"demo-tokyo-001":null}}', '{"phases":{"demo-tokyo-001":{"dhcp":"soon","ready":-5}}}', '{"rxBytes":"many"}']) {
    const r = record()
    const hosts = [status('tokyo', [{ kind: 'frontend', name: 'frontend', detail }, { kind: 'domain', name: 'demo-tokyo-001', state: 'failed', detail }]), status('tsukuba', [{ kind: 'segment', name: 'segment', detail }, { kind: 'cache', name: 'cache', detail }])]
    t.doesNotThrow(() => foldStatus(r, r, hosts, CREATED + 1), detail)
    t.match(clusterView(r, hosts), { wan: { bytes: 0, bytesWithoutCache: 0 }, caches: [{ site: 'tsukuba', hits: 0 }] }, detail)
  }
  t.end()
})

t.test('bytes count at the far sites, caches are theirs', t => {
  const r = record()
  const hosts = [
    status('tokyo', [{ kind: 'domain', name: 'demo-tokyo-001', detail: { rxBytes: 5 } }, { kind: 'segment', name: 'segment', detail: { wanRxBytes: 99 } }]),
    status('tsukuba', [
      { kind: 'domain', name: 'demo-tsukuba-003', detail: { rxBytes: 700 } }, { kind: 'domain', name: 'demo-tsukuba-004', detail: { rxBytes: 300 } },
      { kind: 'segment', name: 'segment', detail: { wanRxBytes: 400 } }, { kind: 'cache', name: 'cache', detail: { requests: 9, hits: 6, bytesToNodes: 1000, bytesFromUpstream: 350, wire: { static: 300, dynamic: 80 }, budget: { paused: 'used up' } } }
    ])
  ]
  const view = clusterView(r, hosts)
  t.same(view.wan, { bytes: 400, bytesWithoutCache: 1000 })
  t.same(view.caches, [{ site: 'tsukuba', requests: 9, hits: 6, bytesToNodes: 1000, bytesFromUpstream: 350, wanBytes: 380, paused: 'used up' }])
  t.same(view.nodes.map(n => n.rxBytes), [5, 0, 700, 300])
  t.end()
})

t.test('what is wrong is named with its host, who is silent too', t => {
  const r = record()
  t.same(clusterView(r, [
    status('tokyo', [{ kind: 'domain', name: 'demo-tokyo-001', state: 'failed', error: 'no libvirt' }, { kind: 'segment', name: 'segment' }]),
    status('tsukuba', [], { reachable: false })
  ]).problems, [
    { site: 'tokyo', host: 'tokyo-1', kind: 'domain', name: '01234567.demo-tokyo-001', error: 'no libvirt' },
    { site: 'tsukuba', host: 'tsukuba-1', kind: 'host', name: 'tsukuba-1', error: 'does not answer' }
  ])
  t.end()
})

t.test('before there is a document the view is whole, only empty', t => {
  const r = { ...record(), document: null, offers: [], state: 'negotiating' as const }
  t.equal(foldStatus(r, r, [status('tokyo', [])], CREATED), false)
  t.match(clusterView(r, []), { nodes: [], volumes: [], frontend: null, caches: [], lease: { sites: 0, holds: 0 }, timings: { createMs: null, deleteMs: null } })
  t.same(noPhases(), { leased: null, defined: null, dhcp: null, boot: null, image: null, ready: null })
  t.match(clusterView({ ...record(), readyMs: CREATED + 9_000, deleteStartedMs: CREATED + 10_000, state: 'deleted', endedMs: CREATED + 12_500 }, []).timings, { createMs: 9_000, deleteMs: 2_500 })
  t.end()
})

t.test('what is held for its user is shown by site, with its price and until when it can be accepted', t => {
  const r = record()
  const held = { ...r, document: null, state: 'offered' as const, hold: { ttlMs: 120_000, endsMs: CREATED + 119_760 }, offers: r.offers.map(offer => offer.site === 'tokyo' ? offer : { ...offer, priceMilli: 250 }) }
  t.match(clusterView(held, []), {
    state: 'offered', heldUntil: CREATED + 109_760, nodes: [],
    held: [
      { site: 'tokyo', nodes: 2, volumes: [], frontend: true, hosts: ['tokyo-1'], priceMilli: 0, totalMilli: 0 },
      { site: 'tsukuba', nodes: 2, volumes: [], frontend: false, hosts: ['tsukuba-1'], priceMilli: 250, totalMilli: 1000 }
    ]
  })
  t.match(clusterView({ ...held, offers: r.offers }, []).held?.[1], { priceMilli: null, totalMilli: null }, 'a site of an older release says no price')
  for (const state of ['committing', 'building', 'failed'] as const) t.match(clusterView({ ...held, state }, []), { heldUntil: null, held: null })
  t.match(clusterView(r, []), { heldUntil: null, held: null })
  t.end()
})

t.test('the states of the protocol are told in people\'s words', t => {
  t.same((['negotiating', 'offered', 'committing', 'preparing', 'activating', 'active', 'releasing', 'failed', 'ended', 'superseded'] as const).map(state => shownState({ state, startMs: 0 }, 'ready', 1)),
    ['negotiating', 'offered', 'committing', 'preparing', 'activating', 'ready', 'deleting', 'failed', 'deleted', 'superseded'])
  t.end()
})

t.test('lenders are shown with what their last keep-alive told', t => {
  const contact = { heardMs: CREATED + 1_000, state: 'active', endMs: 0, skewMs: -12, error: '' }
  const contacts = new Map([['tokyo', contact], ['tsukuba', { ...contact, heardMs: 0, state: '', error: 'x'.repeat(500) }], ['nowhere', contact]])
  const told = clusterView({ ...record(), endMs: CREATED + 9_000 }, [], { contacts: new Map([['tokyo', { ...contact, state: 'active, preempted', endMs: CREATED + 5_000 }]]), now: CREATED })
  t.equal(told.lenders.find(({ site }) => site === 'tokyo')?.endsAt, CREATED + 5_000, 'a lender that has given notice')
  const withdrawn = clusterView(record(), [], { contacts: new Map([['tokyo', { ...contact, notice: 'the notice was withdrawn' }]]), now: CREATED })
  t.match(withdrawn.lenders.find(({ site }) => site === 'tokyo'), { endsAt: undefined, notice: 'the notice was withdrawn' })
  const { lenders } = clusterView(record(), [], { contacts, now: CREATED + 4_000 })
  t.match(lenders, [{ site: 'tokyo', state: 'active', heardAgoMs: 3_000, skewMs: -12, error: '' }, { site: 'tsukuba', state: '', heardAgoMs: null, skewMs: null }])
  t.equal(lenders[1]?.error.length, 200, 'what others write is cut')
  t.match(clusterView(record(), []), { epoch: 1, startsAt: CREATED, lenders: [{ site: 'tokyo', heardAgoMs: null }, { site: 'tsukuba', heardAgoMs: null }] })
  t.end()
})
