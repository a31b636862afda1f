import { readFileSync, writeFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import { nftComment, renderNft, renderNftRemoval, renderPause } from '../../../agent/drivers/cache/intercept/nft.ts'
import { renderNginxConf } from '../../../agent/drivers/cache/nginx-conf.ts'
import { renderOrder, renderOwnOrder } from '../../../agent/drivers/cache/fetcher/orders.ts'
import { planCache, serviceNames, sliceBytes, vniOfService } from '../../../agent/drivers/cache/plan.ts'
import type { CacheSpec } from '../../../protocol/core/desired.ts'

// What is rendered is fixed letter by letter in test/fixtures/cache (UPDATE=1 writes it anew): a change of it is a decision, not a side effect.

const SPEC: CacheSpec = {
  cluster: 'demo',
  vni: 0x2a,
  frontendAddress: '10.42.0.1',
  ownAddress: '10.42.255.2',
  bridgeMac: '02:00:00:00:b1:01',
  ports: [8080, 80],
  maxSizeMiB: 2048
}

function isGolden (t: Test, name: string, text: string): void {
  const fixture = new URL(`../../fixtures/cache/${name}`, import.meta.url)
  if (process.env['UPDATE'] === '1') writeFileSync(fixture, text)
  t.equal(text, readFileSync(fixture, 'utf8'))
}

t.test('the nginx configuration of one port', t => {
  isGolden(t, 'nginx.conf', renderNginxConf(planCache({ ...SPEC, ports: [80], clusterId: 'c-1', hosts: ['fe.demo'], profile: { immutable: ['/fixed/'], dynamic: ['/ks/'] } }, '/var/lib/x', { rttMs: 100, rateMbitPerS: 200 })))
  t.end()
})

t.test('a cache whose parts may be of two frontends says no ETag of theirs, where a name or a digest says what they are', t => {
  const plain = renderNginxConf(planCache({ ...SPEC, ports: [80] }, '/var/lib/x'))
  const retained = renderNginxConf(planCache({ ...SPEC, ports: [80], retain: { owner: 'tokyo', ms: 60_000 } }, '/var/lib/x'))
  const placesOf = (conf: string): string[] => conf.split(/\n {4}location /).filter(text => text.includes('proxy_hide_header ETag;')).map(text => text.split(' ')[0] ?? '')
  t.same(placesOf(plain), [])
  t.same(placesOf(retained), ['@listed', '@named'])
  t.equal(retained.replaceAll('      proxy_hide_header ETag;\n', ''), plain, 'and nothing else is different')
  t.end()
})

t.test('the interception of two ports', t => {
  isGolden(t, 'interception.nft', renderNft(planCache(SPEC, '/var/lib/x')))
  t.end()
})

t.test('the interception with TFTP, which has no way out', t => {
  isGolden(t, 'interception-tftp.nft', renderNft(planCache({ ...SPEC, ports: [80], tftp: {} }, '/var/lib/x')))
  const plan = planCache({ ...SPEC, tftp: { relay: '10.42.255.1' } }, '/var/lib/x')
  t.match(renderPause(plan), /oifname "wan0m" udp dport 69 counter name tftp_stopped drop/, 'nor while the rules change')
  t.notMatch(renderPause(plan), /lift|divert|tproxy/)
  t.equal(renderPause(planCache(SPEC, '/var/lib/x')), renderNftRemoval())
  t.throws(() => planCache({ ...SPEC, tftp: { relay: SPEC.ownAddress } }, '/var/lib/x'), { message: /TFTP relay/ })
  t.throws(() => planCache({ ...SPEC, tftp: { relay: '10.0.0.1 x' } }, '/var/lib/x'), { message: /TFTP relay/ })
  t.end()
})

t.test('each port has its own socket, pool and server; the order in the spec means nothing', t => {
  const plan = planCache(SPEC, '/var/lib/x')
  t.same(plan.listeners, [{ port: 80, listenPort: 3130 }, { port: 8080, listenPort: 3131 }])
  const text = renderNginxConf(plan)
  for (const { port, listenPort } of plan.listeners) {
    t.match(text, `listen 127.0.0.1:${listenPort} `)
    t.match(text, `upstream mz_static_${port} {`)
  }
  const swapped = planCache({ ...SPEC, ports: [80, 8080] }, '/var/lib/x')
  t.equal(renderNginxConf(swapped), text)
  t.equal(renderNft(swapped), renderNft(plan))
  t.end()
})

t.test('a pool of connections never bears the address of a node', t => {
  const locations = renderNginxConf(planCache(SPEC, '/var/lib/x')).match(/location [^{]+\{(?:[^{}]|\{[^{}]*\})*\}/g) ?? []
  const pooled = (block: string): boolean => block.includes('mz_static_') || block.includes('mz_check_') || block.includes('mz_${mz_v_pool}')
  t.equal(locations.filter(pooled).length, 8, 'three classes and the question for a validator, for each port')
  t.equal(locations.filter(block => block.includes('$mz_from transparent')).length, 4)
  t.same(locations.filter(block => pooled(block) && block.includes('transparent')), [])
  t.end()
})

t.test('parts are as large as the way is long', t => {
  const mib = (rttMs: number, rateMbitPerS: number): number => sliceBytes({ rttMs, rateMbitPerS }) / 1024 / 1024
  t.same([mib(0, 200), mib(0.25, 10_000), mib(20, 200), mib(100, 200), mib(100, 1000), mib(1000, 10_000)], [4, 4, 4, 16, 64, 64])
  t.end()
})

t.test('orders are lines, and nothing of them is another line', t => {
  const plan = planCache({ ...SPEC, profile: { indexes: [{ kind: 'debian', path: '/debian/dists/stable/Release' }] }, preheat: { manifest: '/m.json', rateMbitPerS: 50 } }, '/var/lib/x')
  t.equal(renderOwnOrder(plan), 'follow\tdebian\t80\t/debian/dists/stable/Release\nrate\t50\npreheat\tmanifest\t80\t/m.json\n')
  t.equal(renderOwnOrder(planCache(SPEC, '/var/lib/x')), '')
  t.equal(renderOrder(plan, { objects: [{ path: '/a' }, { path: '/b%20c', port: 8080, sizeBytes: 5, sha256: 'a'.repeat(64) }], rateMbitPerS: 1 }), `rate\t1\nobject\t80\t/a\t-\t-\nobject\t8080\t/b%20c\t5\t${'a'.repeat(64)}\n`)
  for (const object of [{ path: 'a' }, { path: '/a b' }, { path: '/a\n' }, { path: '/a', port: 81 }, { path: '/a', sizeBytes: -1 }, { path: '/a', sha256: 'A'.repeat(64) }]) {
    t.throws(() => renderOrder(plan, { objects: [object] }), { code: 'INVALID_INPUT' }, JSON.stringify(object))
  }
  t.throws(() => renderOrder(plan, { objects: [], rateMbitPerS: Number.NaN }), { code: 'INVALID_INPUT' })
  t.end()
})

t.test('the comment of the tables tells plans apart', t => {
  const plan = planCache(SPEC, '/var/lib/x')
  t.match(nftComment(plan), /^[0-9a-f]{16}$/)
  t.equal(nftComment(plan), nftComment(planCache(SPEC, '/elsewhere')))
  t.not(nftComment(plan), nftComment(planCache({ ...SPEC, ports: [80] }, '/var/lib/x')))
  t.not(nftComment(plan), nftComment(planCache({ ...SPEC, bridgeMac: '02:00:00:00:b1:02' }, '/var/lib/x')))
  t.end()
})

t.test('removal names both tables', t => {
  t.equal(renderNftRemoval(), 'table bridge mz_cache\ndelete table bridge mz_cache\ntable ip mz_cache\ndelete table ip mz_cache\n')
  t.same(serviceNames(0x2a), { engine: 'mz-cache-00002a', prober: 'mz-cacheprobe-00002a', fetcher: 'mz-cachefetch-00002a', tftp: 'mz-cachetftp-00002a' })
  t.same(Object.values(serviceNames(0x2a)).map(vniOfService), [0x2a, 0x2a, 0x2a, 0x2a])
  t.same(['mz-dnsmasq-00002a', 'mz-cache-2a', 'xmz-cache-00002a'].map(vniOfService), [null, null, null])
  t.end()
})

t.test('nothing that could end up as a directive or a rule is rendered', t => {
  const bad: Array<[string, Partial<CacheSpec>]> = [
    ['an address with more in it', { frontendAddress: '10.42.0.1; }' }],
    ['a name for an address', { frontendAddress: 'frontend' }],
    ['octets out of range', { ownAddress: '10.42.0.256' }],
    ['octal-looking octets', { ownAddress: '10.042.0.1' }],
    ['five octets', { ownAddress: '10.42.0.1.1' }],
    ['own address that is the frontend\'s', { ownAddress: '10.42.0.1' }],
    ['a MAC in capitals', { bridgeMac: '02:00:00:00:B1:01' }],
    ['a MAC with a rule behind it', { bridgeMac: '02:00:00:00:b1:01 drop' }],
    ['no port', { ports: [] }],
    ['a port twice', { ports: [80, 80] }],
    ['port 0', { ports: [0] }],
    ['port 65536', { ports: [65_536] }],
    ['half a port', { ports: [80.5] }],
    ['too many ports', { ports: Array.from({ length: 17 }, (_, i) => i + 1) }],
    ['no room', { maxSizeMiB: 0 }],
    ['a cluster id with a rule in it', { clusterId: 'a; b' }],
    ['a host name with a directive behind it', { hosts: ['fe; include x'] }],
    ['a prefix with a pattern in it', { profile: { immutable: ['/a(b'] } }],
    ['a prefix that is no path', { profile: { validated: ['a/b'] } }],
    ['a prefix with a line break', { profile: { dynamic: ['/a\nb'] } }],
    ['too many prefixes', { profile: { immutable: Array.from({ length: 65 }, (_, i) => `/${i}/`) } }],
    ['an index with a tab', { profile: { indexes: [{ kind: 'rpm', path: '/a\tb' }] } }],
    ['an index of a kind that nobody knows', { profile: { indexes: [{ kind: 'npm' as never, path: '/a' }] } }],
    ['a manifest elsewhere', { preheat: { manifest: 'http://10.0.0.1/x' } }],
    ['a rate of nothing', { preheat: { manifest: '/x', rateMbitPerS: 0 } }],
    ['a link into the past', { link: { rttMs: -1, rateMbitPerS: 1 } }],
    ['VNI 0', { vni: 0 }],
    ['a VNI of more than 24 bits', { vni: 0x100_0000 }]
  ]
  for (const [what, change] of bad) t.throws(() => planCache({ ...SPEC, ...change }, '/var/lib/x'), { code: 'INVALID_INPUT' }, what)
  for (const dir of ['relative', '/with blank', '/with;semicolon', '/with$variable', '/with\nline']) {
    t.throws(() => planCache(SPEC, dir), { code: 'INVALID_INPUT' }, JSON.stringify(dir))
  }
  t.notMatch(renderNginxConf(planCache({ ...SPEC, cluster: 'a\nuser nobody;' }, '/var/lib/x')), /^user nobody/m, 'a cluster\'s name stays in its comment')
  t.end()
})
