import t from 'tap'
import { tunnelAddressFor } from '../../../agent/drivers/network/address.ts'
import { chainMarks, clampedMss, renderChains, renderRemoval } from '../../../agent/drivers/network/filter.ts'
import { parseChains, parseCounters, parseFloods, parseLinks, parseRoutes } from '../../../agent/drivers/network/observe/observed.ts'
import { checkSegment, planSegment } from '../../../agent/drivers/network/plan.ts'
import { describeSteps } from '../../../agent/drivers/network/repairs.ts'
import { removalSteps, segmentSteps } from '../../../agent/drivers/network/steps.ts'
import { hostBridgeName } from '../../../protocol/core/desired.ts'
import { MAX_VNI } from '../../../protocol/core/limits.ts'
import type { SegmentSpec } from '../../../protocol/core/desired.ts'
import type { SpaceState } from '../../../agent/drivers/network/observe/observed.ts'
import type { Step } from '../../../agent/drivers/network/steps.ts'

const VNI = 0xabc
const compute: SegmentSpec = { cluster: 'c1', vni: VNI, site: { segmentId: 7, localAddress: '10.0.0.2', remoteAddresses: ['10.0.0.1'] }, compute: true }
const gateway: SegmentSpec = {
  cluster: 'c1',
  vni: VNI,
  site: { segmentId: 7, localAddress: '10.0.0.1', remoteAddresses: ['10.0.0.3', '10.0.0.2'] },
  compute: true,
  gateway: { address: '10.42.255.1/16', bridgeMac: '02:00:00:00:00:AA', tunnel: { localAddress: '100.64.0.1', remoteAddresses: ['100.64.0.3', '100.64.0.2'] } }
}

const nothing = (): SpaceState => ({ links: [], floods: new Map(), forwards: new Map(), neighbours: new Map(), chains: [], ways: new Map(), open: new Set() })

/** Steps as text, one command a line; filters by their size only. */
function show (steps: readonly Step[]): string[] {
  return steps.flatMap((step) => {
    const where = step.ns ?? 'host'
    switch (step.do) {
      case 'ip': case 'bridge': return step.lines.map((line) => `${where}: ${step.do} ${line}`)
      case 'nft': return [`${where}: nft ${step.text.split('\n').filter((line) => line.startsWith('add rule')).length} rules`]
      case 'silent-ipv6': return [`${where}: silent-ipv6 ${step.link}`]
      case 'no-ipv6': return [`${where}: no-ipv6 ${step.links?.join(' ') ?? 'all'}`]
      default: return [`${where}: ${step.do}`]
    }
  })
}

t.test('a compute host gets a bridge and a port over the in-site VXLAN', (t) => {
  t.strictSame(show(segmentSteps(planSegment('c1', compute, 1500), { host: nothing(), cluster: null })), [
    'host: nft 16 rules',
    'host: ip link add name mzb000abc mtu 1500 address 02:6d:7a:00:0a:bc type bridge stp_state 0 forward_delay 0 mcast_snooping 0',
    'host: ip link add name mzs000abc mtu 1500 arp off type vxlan id 7 local 10.0.0.2 dstport 4790 df unset udpcsum learning',
    'host: ip link add name mzm000abc mtu 1500 link mzs000abc type macvlan mode passthru',
    'host: no-ipv6 mzb000abc mzs000abc mzm000abc',
    'host: bridge fdb append 00:00:00:00:00:00 dev mzs000abc dst 10.0.0.1',
    'host: ip link set dev mzb000abc alias mz:c1',
    'host: ip link set dev mzb000abc up',
    'host: ip link set dev mzs000abc up',
    'host: ip link set dev mzm000abc master mzb000abc',
    'host: ip link set dev mzm000abc up'
  ])
  t.end()
})

t.test('a gateway gets a namespace, with VXLANs whose sockets stay outside', (t) => {
  t.strictSame(show(segmentSteps(planSegment('c1', gateway, 1500), { host: nothing(), cluster: null })), [
    'mz-000abc: netns-add',
    'mz-000abc: no-ipv6 all',
    'host: nft 9 rules',
    'mz-000abc: nft 17 rules',
    'host: ip link add name mzb000abc mtu 1500 address 02:6d:7a:00:0a:bc type bridge stp_state 0 forward_delay 0 mcast_snooping 0',
    'host: ip link add name site0 mtu 1500 netns mz-000abc arp off type vxlan id 7 local 10.0.0.1 dstport 4790 df unset udpcsum learning',
    'host: ip link add name wan0 mtu 1500 netns mz-000abc arp off type vxlan id 2748 local 100.64.0.1 dstport 4789 df unset udpcsum learning',
    'host: ip link add name mzh000abc type veth peer name host0 netns mz-000abc',
    'host: no-ipv6 mzb000abc mzh000abc',
    'mz-000abc: bridge fdb append 00:00:00:00:00:00 dev site0 dst 10.0.0.2',
    'mz-000abc: bridge fdb append 00:00:00:00:00:00 dev site0 dst 10.0.0.3',
    'mz-000abc: bridge fdb append 00:00:00:00:00:00 dev wan0 dst 100.64.0.2',
    'mz-000abc: bridge fdb append 00:00:00:00:00:00 dev wan0 dst 100.64.0.3',
    'mz-000abc: ip link set dev lo up',
    'mz-000abc: ip link add name br0 mtu 1500 address 02:00:00:00:00:aa type bridge stp_state 0 forward_delay 0 mcast_snooping 0',
    'mz-000abc: ip link add name site0m mtu 1500 link site0 type macvlan mode passthru',
    'mz-000abc: ip link add name wan0m mtu 1500 link wan0 type macvlan mode passthru',
    'mz-000abc: ip link set dev br0 alias mz:c1',
    'mz-000abc: ip link set dev br0 up',
    'mz-000abc: ip address replace 10.42.255.1/16 dev br0',
    'mz-000abc: ip link set dev site0 up',
    'mz-000abc: ip link set dev site0m master br0',
    'mz-000abc: ip link set dev site0m up',
    'mz-000abc: ip link set dev wan0 up',
    'mz-000abc: ip link set dev wan0m master br0',
    'mz-000abc: ip link set dev wan0m up',
    'mz-000abc: ip link set dev host0 master br0',
    'mz-000abc: ip link set dev host0 up',
    'host: ip link set dev mzb000abc alias mz:c1',
    'host: ip link set dev mzb000abc up',
    'host: ip link set dev mzh000abc master mzb000abc',
    'host: ip link set dev mzh000abc up'
  ])
  t.end()
})

t.test('a gateway without machines and without other sites has no host bridge, no veth, no inter-site port', (t) => {
  const alone: SegmentSpec = { ...gateway, compute: false, site: { ...gateway.site, remoteAddresses: [] }, gateway: { address: '10.42.255.1/16', bridgeMac: '02:00:00:00:00:aa', tunnel: null } }
  const plan = planSegment('c1', alone, 1500)
  t.strictSame(plan.host.links, [])
  t.strictSame(plan.cluster?.links.map(({ name }) => name), ['br0', 'site0', 'site0m'])
  t.strictSame(plan.host.chains.map(({ rules }) => rules), [['udp dport 4789-4790 udp dport . @th,96,24 vmap @ways'], ['drop']])
  t.end()
})

/** A compute host as `ip -json` shows it when all is well. */
function built (): SpaceState {
  const plan = planSegment('c1', compute, 1500)
  const links = parseLinks([
    { ifname: 'eth0', mtu: 1500, flags: ['UP'], addr_info: [{ family: 'inet', local: '10.0.0.2', prefixlen: 24 }] },
    { ifname: 'mzb000abc', address: '02:6d:7a:00:0a:bc', mtu: 1500, flags: ['UP'], ifalias: 'mz:c1', linkinfo: { info_kind: 'bridge', info_data: { stp_state: 0, mcast_snooping: 0 } } },
    { ifname: 'mzs000abc', mtu: 1500, flags: ['UP'], linkinfo: { info_kind: 'vxlan', info_data: { id: 7, local: '10.0.0.2', port: 4790, learning: true } } },
    { ifname: 'mzm000abc', mtu: 1500, flags: ['UP'], link: 'mzs000abc', master: 'mzb000abc', linkinfo: { info_kind: 'macvlan', info_data: { mode: 'passthru' }, info_slave_data: { hairpin: false } } }
  ])
  const chains = plan.host.chains.map((chain) => ({ family: chain.family, table: chain.table, name: chain.name, marks: chainMarks(chain) }))
  return { links, floods: parseFloods([{ mac: '00:00:00:00:00:00', ifname: 'mzs000abc', dst: '10.0.0.1' }]), forwards: new Map(), neighbours: new Map(), chains, ways: new Map([['4790 . 7', 'guard_000abc']]), open: new Set() }
}

t.test('what is done is said in words', (t) => {
  const words = (change: (host: SpaceState) => void): string[] => {
    const host = built()
    change(host)
    return describeSteps(segmentSteps(planSegment('c1', compute, 1500), { host, cluster: null }))
  }
  t.strictSame(words(() => undefined), [])
  t.strictSame(words((host) => { host.links = host.links.map((one) => one.name === 'mzm000abc' ? { ...one, mtu: 1400, master: 'other' } : one) }), ['link mzm000abc: mtu 1500, master mzb000abc'])
  t.strictSame(words((host) => { host.links = host.links.filter(({ name }) => name !== 'mzm000abc') }), ['link mzm000abc: made, master mzb000abc, up', 'links mzm000abc: IPv6 off'])
  t.strictSame(words((host) => { host.floods = new Map() }), ['forwarding entries of mzs000abc: 00:00:00:00:00:00'])
  t.strictSame(words((host) => { host.chains.shift() }), ['chain mz_guard vxlan'])
  t.strictSame(words((host) => { host.chains.splice(1, 1) }), ['chain mz_guard guard_000abc'])
  t.strictSame(words((host) => { host.ways.clear() }), ['chain mz_guard guard_000abc'], 'nothing leads to it')
  t.strictSame(words((host) => { host.ways.set('4790 . 8', 'guard_000abc') }), ['chain mz_guard guard_000abc'], 'too much leads to it')
  t.strictSame(words((host) => { host.ways.set('4790 . 7', '') }), ['chain mz_guard guard_000abc'], 'frames are let pass by it')
  t.strictSame(describeSteps([
    { do: 'netns-delete', ns: 'mz-1' }, { do: 'netns-add', ns: 'mz-1' }, { do: 'ip', ns: 'mz-1', lines: ['address delete 10.0.0.1/8 dev br0', 'neighbour replace 10.0.0.2 lladdr 02:00:00:00:00:01 nud permanent dev br0', 'neighbour delete 10.0.0.3 dev br0', 'link delete dev x', 'nonsense'] },
    { do: 'bridge', ns: 'mz-1', lines: [1, 2, 3, 4, 5].map((n) => `fdb replace 02:00:00:00:00:0${n} dev wan0m master static sticky`) }, { do: 'silent-ipv6', ns: 'mz-1', link: 'br0' }, { do: 'no-ipv6', ns: 'mz-1', links: null }
  ]), [
    'namespace mz-1: removed, made', 'link br0 in mz-1: address 10.0.0.1/8, IPv6 without address', 'neighbours of br0 in mz-1: 10.0.0.2, 10.0.0.3', 'link x in mz-1: removed',
    'forwarding entries of wan0m in mz-1: 02:00:00:00:00:01, 02:00:00:00:00:02, 02:00:00:00:00:03, 2 more', 'links in mz-1: IPv6 off'
  ])
  const many = describeSteps([{ do: 'ip', ns: null, lines: Array.from({ length: 30 }, (_, n) => `link set dev l${n} up`) }])
  t.strictSame([many.length, many.at(-1)], [12, 'and 19 more'])
  t.end()
})

t.test('only what is missing is done', (t) => {
  const steps = (change: (host: SpaceState) => void, spec = compute): string[] => {
    const host = built()
    change(host)
    return show(segmentSteps(planSegment('c1', spec, 1500), { host, cluster: null }))
  }
  const link = (host: SpaceState, name: string) => host.links.find((l) => l.name === name) ?? host.links[0]!
  t.strictSame(steps(() => undefined), [])
  t.strictSame(steps((host) => { host.floods = parseFloods([{ mac: '00:00:00:00:00:00', ifname: 'mzs000abc', dst: '10.9.9.9' }]) }), [
    'host: bridge fdb append 00:00:00:00:00:00 dev mzs000abc dst 10.0.0.1', 'host: bridge fdb delete 00:00:00:00:00:00 dev mzs000abc dst 10.9.9.9'
  ])
  t.strictSame(steps((host) => { link(host, 'mzm000abc').hairpin = true }), ['host: ip link set dev mzm000abc type bridge_slave hairpin off'])
  t.strictSame(steps((host) => { link(host, 'mzb000abc').ipv6 = true }), ['host: no-ipv6 mzb000abc'])
  t.strictSame(steps((host) => { host.chains[0]!.marks = [] }), ['host: nft 1 rules'])
  t.strictSame(steps((host) => { host.chains[1]!.marks = [] }), ['host: nft 2 rules'])
  t.strictSame(steps(() => undefined, { ...compute, site: { ...compute.site, segmentId: 8 } }), [
    'host: ip link delete dev mzs000abc',
    'host: nft 2 rules',
    'host: ip link add name mzs000abc mtu 1500 arp off type vxlan id 8 local 10.0.0.2 dstport 4790 df unset udpcsum learning',
    'host: ip link add name mzm000abc mtu 1500 link mzs000abc type macvlan mode passthru',
    'host: no-ipv6 mzs000abc mzm000abc',
    'host: bridge fdb append 00:00:00:00:00:00 dev mzs000abc dst 10.0.0.1',
    'host: ip link set dev mzs000abc up',
    'host: ip link set dev mzm000abc master mzb000abc',
    'host: ip link set dev mzm000abc up'
  ], 'a macvlan goes with its VXLAN')
  t.match(steps((host) => {
    host.links = host.links.filter(({ name }) => name !== 'mzb000abc').concat({ ...link(host, 'eth0'), name: 'mzt000abc03' }, { ...link(host, 'eth0'), name: 'mzt000abd03' })
    link(host, 'mzm000abc').master = undefined
  }).slice(-1), ['host: ip link set dev mzt000abc03 master mzb000abc'], 'a machine gets its new bridge, others are left alone')
  t.end()
})

t.test('a namespace that was left half-made is never brought up with IPv6', (t) => {
  const plan = planSegment('c1', gateway, 1500)
  const started = { ...nothing(), links: parseLinks([{ ifname: 'lo', flags: [] }]) }
  t.strictSame(show(segmentSteps(plan, { host: nothing(), cluster: started }))[0], 'mz-000abc: no-ipv6 all')
  t.strictSame(show(segmentSteps(plan, { host: nothing(), cluster: 'broken' })).slice(0, 3), ['mz-000abc: netns-delete', 'mz-000abc: netns-add', 'mz-000abc: no-ipv6 all'])
  t.end()
})

t.test('a host that stops being compute or gateway loses what that needed', (t) => {
  const cluster = { ...nothing(), links: parseLinks([{ ifname: 'lo' }, { ifname: 'br0' }, { ifname: 'fe0' }]) }
  const steps = show(segmentSteps(planSegment('c1', compute, 1500), { host: built(), cluster }))
  t.strictSame(steps, ['mz-000abc: ip link delete dev br0', 'mz-000abc: ip link delete dev fe0', 'mz-000abc: netns-delete'])
  const plan = planSegment('c1', { ...gateway, compute: false }, 1500)
  t.match(show(segmentSteps(plan, { host: built(), cluster: null })).slice(0, 3), ['mzb', 'mzs', 'mzm'].map((p) => `host: ip link delete dev ${p}000abc`))
  t.end()
})

t.test('removal takes every part of that segment and no other', (t) => {
  const host = built()
  host.links.push({ ...host.links[1]!, name: hostBridgeName(VNI + 1) })
  host.chains.push({ family: 'inet', table: 'mz_guard', name: 'guard_000abd', marks: [] })
  const steps = removalSteps(VNI, { host, cluster: 'broken' })
  t.strictSame(show(steps), ['mz-000abc: netns-delete', 'host: ip link delete dev mzb000abc', 'host: ip link delete dev mzs000abc', 'host: ip link delete dev mzm000abc', 'host: nft 0 rules'])
  t.equal(steps.find((step) => step.do === 'nft')?.text, 'delete element inet mz_guard ways { 4790 . 7 }\nflush chain inet mz_guard guard_000abc\ndelete chain inet mz_guard guard_000abc\ndelete table bridge mz_mss\n')
  t.strictSame(removalSteps(VNI + 9, { host, cluster: null }), [])
  const left = { ...nothing(), chains: [{ family: 'inet', table: 'mz_guard', name: 'vxlan', marks: [] }] }
  t.strictSame(removalSteps(VNI, { host: left, cluster: null }), [{ do: 'nft', ns: null, text: 'delete table inet mz_guard\n' }], 'what somebody else has left of the last one')
  t.end()
})

t.test('the guard lets in the members of this cluster only', (t) => {
  const [way, guard] = planSegment('c1', gateway, 1500).host.chains
  const render = (chain: typeof guard, have: Pick<SpaceState, 'chains' | 'ways'>): string => renderChains(chain === undefined ? [] : [chain], have)
  const there = { ...nothing(), chains: [{ family: 'inet', table: 'mz_guard', name: 'guard_000abc', marks: [] }] }
  t.equal(render(guard, there).replaceAll(/comment "[0-9a-f]+\./g, 'comment "*.'), [
    'add table inet mz_guard',
    'add map inet mz_guard ways { typeof udp dport . @th,96,24 : verdict; }',
    'flush chain inet mz_guard guard_000abc',
    'delete chain inet mz_guard guard_000abc',
    'add chain inet mz_guard guard_000abc',
    'add rule inet mz_guard guard_000abc udp dport 4790 iifname != "mzwg*" ip saddr { 10.0.0.2, 10.0.0.3 } accept comment "*.0"',
    'add rule inet mz_guard guard_000abc udp dport 4789 iifname "mzwg*" ip saddr { 100.64.0.2, 100.64.0.3 } accept comment "*.1"',
    'add rule inet mz_guard guard_000abc drop comment "*.2"',
    'add element inet mz_guard ways { 4790 . 7 : jump guard_000abc, 4789 . 2748 : jump guard_000abc }',
    ''
  ].join('\n'))
  t.match(render(guard, { chains: [], ways: new Map([['4790 . 7', 'guard_000001'], ['4790 . 9', 'guard_000abc'], ['4789 . 1', 'guard_000001']]) }), /^delete element inet mz_guard ways \{ 4790 \. 9, 4790 \. 7 \}$/m, 'what stands in the way, and no other one\'s')
  t.notMatch(render(guard, nothing()), /flush|delete/, 'what is not there needs no deletion')
  t.match(render(way, nothing()), /^add chain inet mz_guard vxlan \{ type filter hook input priority -10; policy accept; \}\nadd rule inet mz_guard vxlan udp dport 4789-4790 udp dport \. @th,96,24 vmap @ways comment "[0-9a-f]+\.0"\n$/m)
  t.equal(renderRemoval([{ family: 'inet', table: 'x', name: 'a' }], { chains: [{ family: 'inet', table: 'x', name: 'a', marks: [] }], ways: new Map() }), 'delete table inet x\n')
  t.end()
})

t.test('segment sizes fit the outer packet, and are never larger than inner frames', (t) => {
  t.strictSame(clampedMss(1420), { ipv4: 1330, ipv6: 1310 })
  t.strictSame(clampedMss(1500), { ipv4: 1410, ipv6: 1390 })
  t.strictSame(clampedMss(9000), { ipv4: 1460, ipv6: 1440 })
  t.end()
})

t.test('bad values are refused before they reach a command', (t) => {
  const bad = (what: RegExp, change: Partial<SegmentSpec>, name = 'c1'): void => {
    t.throws(() => checkSegment(name, { ...gateway, ...change }), { code: 'INVALID_INPUT', message: what })
  }
  const gw = gateway.gateway!
  bad(/name/, {}, 'c1 up')
  bad(/name/, {}, '../c1')
  bad(/VNI/, { vni: MAX_VNI + 1 })
  bad(/segment id 0/, { site: { ...gateway.site, segmentId: 0 } })
  bad(/10\.0\.0\.1 is its own remote host/, { site: { ...gateway.site, remoteAddresses: ['10.0.0.1'] } })
  bad(/::1 is no IPv4 address/, { site: { ...gateway.site, remoteAddresses: ['::1'] } })
  bad(/with prefix length/, { gateway: { ...gw, address: '10.42.255.1' } })
  bad(/with prefix length/, { gateway: { ...gw, address: '10.42.255.1/16 dev lo' } })
  bad(/MAC/, { gateway: { ...gw, bridgeMac: '02:00' } })
  bad(/tunnel/, { gateway: { ...gw, tunnel: { localAddress: '100.64.0.1', remoteAddresses: ['x'] } } })
  bad(/own remote gateway/, { gateway: { ...gw, tunnel: { localAddress: '100.64.0.1', remoteAddresses: ['100.64.0.1'] } } })
  t.end()
})

t.test('what the tools print is read, and nonsense reads as nothing', (t) => {
  t.strictSame(parseLinks(null), [])
  t.strictSame(parseFloods([{ mac: '02:00:00:00:00:01', ifname: 'x', dst: '10.0.0.1' }, {}]), new Map())
  t.strictSame(parseRoutes([{ dst: '100.64.0.2', dev: 'mzwg0' }, { dst: 'default', dev: 'eth0' }], 'mzwg0'), ['100.64.0.2'])
  t.strictSame(parseChains({ nftables: [{ metainfo: {} }, { chain: { family: 'inet', table: 't', name: 'c' } }, { rule: { chain: 'c', comment: 'a' } }, { rule: { chain: 'c' } }] }), [{ family: 'inet', table: 't', name: 'c', marks: ['a', ''] }])
  t.strictSame(parseCounters([{}, { ifname: 'wan0', flags: ['UP', 'LOWER_UP'], stats64: { rx: { bytes: 3 }, tx: { bytes: 4 } } }]), { rxBytes: 3, txBytes: 4, up: true })
  t.equal(parseCounters([]), null)
  t.end()
})

t.test('tunnel addresses are fixed, inside 100.64.0.0/10, and spread', (t) => {
  const addresses = Array.from({ length: 500 }, (_, i) => tunnelAddressFor(`peer ${i}`))
  t.equal(tunnelAddressFor('peer 1'), addresses[1])
  t.ok(addresses.every((address) => /^100\.(6[4-9]|[7-9]\d|1[01]\d|12[0-7])\.\d+\.\d+$/.test(address)))
  t.equal(new Set(addresses).size, 500)
  t.end()
})
