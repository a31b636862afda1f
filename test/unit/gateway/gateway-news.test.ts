/** Who is revoked has no part in tunnels and segments any more; what gateways say of their keys counts. */
import t from 'tap'
import { newsOf } from '../../../agent/gateway-news.ts'
import { createHostObjects } from '../../../agent/lessor/objects.ts'
import type { Reconciler } from '../../../agent/reconcile/reconciler.ts'
import type { DesiredObject, SegmentSpec, TunnelSpec, TunnelTrack } from '../../../protocol/core/desired.ts'
import type { ClusterDocument } from '../../../protocol/core/messages.ts'
import { withNews } from '../../../protocol/core/plan.ts'
import { peerIdOf } from '../../../protocol/mesh/identity.ts'
import { chainToText } from '../../../protocol/mesh/trust/base64.ts'
import { revoke } from '../../../protocol/mesh/trust/revocation.ts'
import { createTrust } from '../../../protocol/mesh/trust/trust.ts'
import type { Ledger } from '../../../store/ledger.ts'
import { createKit } from '../../trust-kit.ts'

const NOW = Date.UTC(2026, 10, 22)
const sites = ['tokyo', 'osaka', 'kyoto']
const kit = await createKit({ sites: sites.map(name => ({ name, hosts: [{ name: 'gw', roles: ['gateway', 'compute'] as const }] })) }, NOW)
const self = kit.member('tokyo/gw')
const address = (site: string): string => `100.64.0.${sites.indexOf(site) + 1}`

/** As `tokyo` knows everybody; `shownAt` is when it met the others, null: never. */
function trustAt (nowMs: () => number, shown: boolean) {
  const trust = createTrust({ peerId: self.peerId, federation: kit.federation, chain: self.chain, now: nowMs })
  if (shown) for (const site of ['osaka', 'kyoto']) trust.admit(kit.member(`${site}/gw`).peerId, kit.member(`${site}/gw`).chain)
  return trust
}
const facts = (site: string) => ({ host: 'gw', peer: kit.member(`${site}/gw`).peerId, chain: chainToText(kit.member(`${site}/gw`).chain) })
const osakaKey = kit.siteKeys.get('osaka') ?? self.key
const byCoordinator = (nowMs: number) => revoke(kit.coordinatorKey, [], { federation: kit.federation, kind: 'site', subject: peerIdOf(osakaKey), site: 'osaka', name: '', reason: 'left' }, nowMs)
const bySite = (nowMs: number) => revoke(osakaKey, kit.siteChains.get('osaka') ?? [], { federation: kit.federation, kind: 'host', subject: facts('osaka').peer, site: 'osaka', name: 'gw', reason: 'sold' }, nowMs)

t.test('a site or a gateway that was revoked is news, whether it was ever met or not', t => {
  for (const shown of [true, false]) {
    for (const [what, say] of [['the site', byCoordinator], ['the gateway', bySite]] as const) {
      const trust = trustAt(() => NOW + 2_000, shown)
      t.equal(newsOf(trust, facts('osaka'), 'osaka', null).revoked, false, `${what}: before`)
      trust.takeRevocation(say(NOW + 1_000))
      t.equal(newsOf(trust, facts('osaka'), 'osaka', null).revoked, true, what)
      t.equal(newsOf(trust, facts('kyoto'), 'kyoto', null).revoked, false, 'and nobody else')
      t.equal(newsOf(trust, { ...facts('kyoto'), chain: facts('osaka').chain }, 'kyoto', null).revoked, false, 'certificates of another say nothing')
    }
  }
  t.end()
})

t.test('certificates that have ended shut nobody out, and revocations count all the same', t => {
  let nowMs = NOW
  const trust = trustAt(() => nowMs, true)
  nowMs = NOW + 31 * 24 * 3_600_000
  t.equal(newsOf(trust, facts('osaka'), 'osaka', null).revoked, false)
  t.equal(newsOf(trust, { ...facts('osaka'), chain: ['AAAA'] }, 'osaka', null).revoked, false)
  trust.takeRevocation(byCoordinator(nowMs - 1_000))
  t.equal(newsOf(trust, facts('osaka'), 'osaka', null).revoked, true)
  t.end()
})

/** A cluster over three sites, as far as the gateway of tokyo's objects need it. */
const document = {
  id: '00000001-0000-4000-8000-000000000000', name: 'demo', vni: 7, cidr: '10.42.0.0/16', nodes: [], volumes: [], frontend: { site: 'osaka', host: 'gw', leaseId: 'f', name: 'frontend', ip: '10.42.0.1', mac: '' },
  sites: sites.map((site, i) => ({
    site, leaseId: `s${i}`, segmentId: 7, cache: false, gatewayAddress: `10.42.255.${i + 1}`, gatewayMac: `02:00:00:00:00:0${i}`,
    hosts: [{ host: 'gw', peer: kit.member(`${site}/gw`).peerId, underlayAddress: `192.0.2.${i + 1}`, gateway: true }],
    gateway: { ...facts(site), underlayAddress: `192.0.2.${i + 1}`, tunnelPublicKey: `key ${site}`, tunnelEndpoint: `192.0.2.${i + 1}:51820`, tunnelAddress: `${address(site)}/32` }
  }))
} as unknown as ClusterDocument

const tunnelOf = (objects: readonly DesiredObject[]) => objects.find(one => one.kind === 'tunnel')?.spec as TunnelSpec | undefined
const segmentOf = (objects: readonly DesiredObject[]) => objects.find(one => one.kind === 'segment')?.spec as SegmentSpec | undefined

t.test('a revoked site is gone from the tunnel and from the segment at the next pass', t => {
  const trust = trustAt(() => NOW + 2_000, true)
  const ledger = { activeDocuments: () => [{ document, secrets: [] }], leases: () => [] } as unknown as Ledger
  const objects = createHostObjects({ site: 'tokyo', host: 'gw' }, ledger, () => null as unknown as Reconciler, { news: (gateway, site) => newsOf(trust, gateway, site, null), own: () => ({ secondPort: 60_001, keyEpoch: 3 }) })
  const peers = (): string[] => (tunnelOf(objects.desired())?.peers ?? []).map(({ site }) => site)
  const remotes = (): string[] => segmentOf(objects.desired())?.gateway?.tunnel?.remoteAddresses ?? []
  t.strictSame(peers(), ['osaka', 'kyoto'])
  t.strictSame(remotes(), [address('osaka'), address('kyoto')])
  trust.takeRevocation(byCoordinator(NOW + 1_000))
  t.strictSame(peers(), ['kyoto'])
  t.strictSame(remotes(), [address('kyoto')])
  t.end()
})

t.test('a gateway\'s own word on its keys stands beside what the document says', t => {
  const tracks: TunnelTrack[] = [{ track: 1, publicKey: 'new', endpoint: '192.0.2.2:51821', draining: false }]
  const tunnel: DesiredObject = { kind: 'tunnel', name: 'wg', spec: { listenPort: 1, address: '100.64.0.1', peers: [{ site: 'osaka', publicKey: 'old', endpoint: 'x:1', address: '100.64.0.2/32' }, { site: 'kyoto', publicKey: 'k', endpoint: 'x:1', address: '100.64.0.3' }] } }
  const other: DesiredObject = { kind: 'cache', name: 'c', spec: {} as never }
  const [with_, same] = withNews([tunnel, other], at => (at === '100.64.0.2' ? { revoked: false, tracks } : null))
  t.strictSame((with_?.spec as TunnelSpec).peers.map(peer => peer.tracks), [tracks, undefined])
  t.equal(same, other)
  t.strictSame(withNews([tunnel], () => null), [tunnel])
  t.end()
})

t.test('a key that a gateway had once takes its tunnel from nobody when another writes it into a document of its own', t => {
  const gatewayOf = (site: string) => document.sites.find(one => one.site === site)?.gateway
  const thief = {
    ...document, id: '00000002-0000-4000-8000-000000000000', vni: 8,
    sites: document.sites.filter(({ site }) => site !== 'osaka').map(one => one.site === 'kyoto' ? { ...one, gateway: { ...one.gateway, tunnelPublicKey: gatewayOf('osaka')?.tunnelPublicKey ?? '' } } : one)
  }
  const tracks = (site: string): TunnelTrack[] => [{ track: 0, publicKey: `newest of ${site}`, endpoint: '192.0.2.9:51820', draining: false }]
  const peersOf = (documents: readonly ClusterDocument[], heard: readonly string[]): string[] => {
    const ledger = { activeDocuments: () => documents.map(one => ({ document: one, secrets: [] })), leases: () => [] } as unknown as Ledger
    const news = (_gateway: unknown, site: string) => ({ revoked: false, tracks: heard.includes(site) ? tracks(site) : null })
    return (tunnelOf(createHostObjects({ site: 'tokyo', host: 'gw' }, ledger, () => null as unknown as Reconciler, { news, own: () => ({}) }).desired())?.peers ?? []).map(({ site }) => site)
  }
  for (const documents of [[document, thief], [thief, document]]) {
    for (const heard of [['osaka'], ['kyoto'], ['osaka', 'kyoto']]) t.strictSame(peersOf(documents, heard), ['osaka', 'kyoto'], `${heard.join(' and ')} heard`)
  }
  t.strictSame(peersOf([document, thief], []), ['kyoto'], 'of two that nothing was heard of one has it')
  t.end()
})
