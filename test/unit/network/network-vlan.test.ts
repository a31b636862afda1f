/** Segments by VLAN inside a site: the plan's commands, and everything that keeps a trunk NIC from carrying one. */
import t from 'tap'
import { parseLinks } from '../../../agent/drivers/network/observe/observed.ts'
import { checkSegment, planSegment, withoutVlan } from '../../../agent/drivers/network/plan.ts'
import { describeSteps } from '../../../agent/drivers/network/repairs.ts'
import { segmentSteps } from '../../../agent/drivers/network/steps.ts'
import { bridgeProblem, checkTrunk, nicProblem, parseBridgeVlans, trunkProblem, vlanRefusal } from '../../../agent/drivers/network/vlan/trunk.ts'
import type { SpaceState } from '../../../agent/drivers/network/observe/observed.ts'
import type { Step } from '../../../agent/drivers/network/steps.ts'
import type { SegmentSpec } from '../../../protocol/core/desired.ts'

const VNI = 0xabc
const compute: SegmentSpec = {
  cluster: 'c1', vni: VNI, site: { segmentId: 100, localAddress: '10.0.0.2', remoteAddresses: ['10.0.0.1'], trunk: 'eth1' }, compute: true,
  known: {
    antiSpoof: true,
    members: [{ role: 'gateway', mac: '02:00:00:00:00:aa', address: '10.42.255.1', where: 'site', via: '10.0.0.1' }, { role: 'node', mac: '52:54:00:00:00:01', address: '10.42.1.1', where: 'host', tap: 'mzt000abc01' }]
  }
}
const gateway: SegmentSpec = {
  cluster: 'c1', vni: VNI, site: { segmentId: 100, localAddress: '10.0.0.1', remoteAddresses: ['10.0.0.2'], trunk: 'eth1' }, compute: false,
  gateway: { address: '10.42.255.1/16', bridgeMac: '02:00:00:00:00:aa', tunnel: null },
  known: { antiSpoof: true, members: [{ role: 'node', mac: '52:54:00:00:00:01', address: '10.42.1.1', where: 'site', via: '10.0.0.2' }] }
}

interface Given { ifname: string, kind?: string, flags?: string[], mtu?: number, [key: string]: unknown }
const space = (...links: Given[]): SpaceState => ({
  links: parseLinks(links.map(({ kind, data, ...link }, n) => ({ ifindex: n + 1, mtu: 1500, flags: ['UP', 'LOWER_UP'], addr_info: [], ...link, ...(kind === undefined ? {} : { linkinfo: { info_kind: kind, info_data: data } }) }))),
  floods: new Map(), forwards: new Map(), neighbours: new Map(), chains: [], ways: new Map(), open: new Set()
})
const NIC: Given = { ifname: 'eth1' }

/** What is done, one command a line, without filters and IPv6. */
const show = (steps: readonly Step[]): string[] => steps.flatMap((step) => {
  const where = step.ns ?? 'host'
  if (step.do === 'vlan') return [`${where}: vlan ${step.name} id ${step.id} on ${step.trunk}`]
  return step.do === 'ip' || step.do === 'bridge' ? step.lines.map((line) => `${where}: ${line}`) : []
})

t.test('on a compute host the sub-interface is the port of the bridge, and knows who is behind it', (t) => {
  const plan = planSegment('c1', compute, 1500, false)
  t.strictSame(show(segmentSteps(plan, { host: space(NIC), cluster: null })), [
    'host: vlan mzv000abc id 100 on eth1',
    'host: link add name mzb000abc mtu 1500 address 02:6d:7a:00:0a:bc type bridge stp_state 0 forward_delay 0 mcast_snooping 0',
    'host: link set dev mzb000abc alias mz:c1', 'host: link set dev mzb000abc up',
    'host: link set dev mzv000abc master mzb000abc', 'host: link set dev mzv000abc type bridge_slave neigh_suppress on', 'host: link set dev mzv000abc up',
    'host: fdb replace 02:00:00:00:00:aa dev mzv000abc master static sticky',
    'host: neighbour replace 10.42.255.1 lladdr 02:00:00:00:00:aa nud permanent dev mzb000abc',
    'host: neighbour replace 10.42.1.1 lladdr 52:54:00:00:00:01 nud permanent dev mzb000abc'
  ])
  t.strictSame(plan.host.chains.map(({ name }) => name), ['ports_000abc', 'local_000abc'], 'no datagrams are let in, and TCP needs no clamp')
  t.match(plan.host.chains[0]?.rules.join('\n'), /iifname "mzv000abc" ether saddr \{ 02:00:00:00:00:aa \} accept/)
  t.end()
})

t.test('a pass says that it makes one, and what it takes away with a table', (t) => {
  const words = describeSteps(segmentSteps(planSegment('c1', compute, 1500, false), { host: space(NIC), cluster: null }))
  t.match(words.find((one) => one.startsWith('link mzv000abc')), /^link mzv000abc: made, 802\.1Q id 100 on eth1, master mzb000abc, /)
  const guard = { family: 'inet', table: 'mz_guard', name: 'guard_000abc', marks: [] }
  const left = segmentSteps(planSegment('c1', compute, 1500, false), { host: { ...space(NIC), chains: [guard] }, cluster: null })
  t.ok(describeSteps(left).includes('table mz_guard: removed'), 'what the VXLAN of before has left')
  t.end()
})

t.test('while its sub-interface cannot be made, all else is done', (t) => {
  for (const spec of [compute, gateway]) {
    const plan = planSegment('c1', spec, 1500, false)
    const name = spec === compute ? 'mzv000abc' : 'site0m'
    const whole = segmentSteps(plan, { host: space(NIC), cluster: null })
    const rest = segmentSteps(withoutVlan(plan), { host: space(NIC), cluster: null })
    t.match(show(whole).join('\n'), new RegExp(name))
    const about = new RegExp(`(name|dev) ${name}\\b`)
    t.strictSame(show(rest).filter((line) => about.test(line)), [], 'nothing of it')
    t.strictSame(rest.filter((step) => step.do === 'nft'), whole.filter((step) => step.do === 'nft'), 'every filter')
    t.ok(rest.length >= whole.length - 2, 'and the rest')
  }
  t.end()
})

t.test('at a gateway it is made into the namespace', (t) => {
  const done = show(segmentSteps(planSegment('c1', gateway, 1500, false), { host: space(NIC), cluster: null }))
  t.strictSame(done.filter((line) => line.includes('site0')), [
    'mz-000abc: vlan site0m id 100 on eth1', 'mz-000abc: link set dev site0m master br0', 'mz-000abc: link set dev site0m up', 'mz-000abc: fdb replace 52:54:00:00:00:01 dev site0m master static sticky'
  ], 'the tag ends there')
  t.strictSame(planSegment('c1', gateway, 1500, false).cluster?.links.map(({ name, kind }) => `${name} ${kind}`), ['br0 bridge', 'site0m vlan'])
  t.strictSame(planSegment('c1', gateway, 1500, false).host.chains, [])
  t.end()
})

t.test('one over another NIC, with another id or tag, or left by VXLAN, is made anew', (t) => {
  const port = (given: Partial<Given>): SpaceState => space(NIC, { ifname: 'mzv000abc', kind: 'vlan', link: 'eth1', data: { protocol: '802.1Q', id: 100 }, ...given })
  const makes = (host: SpaceState): boolean => show(segmentSteps(planSegment('c1', compute, 1500, false), { host, cluster: null })).includes('host: vlan mzv000abc id 100 on eth1')
  t.notOk(makes(port({})))
  for (const given of [{ link: 'eth2' }, { data: { protocol: '802.1Q', id: 101 } }, { data: { protocol: '802.1ad', id: 100 } }, { kind: 'dummy' }]) t.ok(makes(port(given)), JSON.stringify(given))
  const before = show(segmentSteps(planSegment('c1', compute, 1500, false), { host: space(NIC, { ifname: 'mzs000abc', kind: 'vxlan' }, { ifname: 'mzm000abc', kind: 'macvlan' }), cluster: null }))
  t.strictSame(before.slice(0, 2), ['host: link delete dev mzs000abc', 'host: link delete dev mzm000abc'])
  // in the namespace the NIC is known by its number only
  const inner = (index: number) => ({ host: space(NIC), cluster: space({ ifname: 'lo' }, { ifname: 'site0m', kind: 'vlan', link_index: index, data: { protocol: '802.1Q', id: 100 } }) })
  const remade = (index: number): boolean => show(segmentSteps(planSegment('c1', gateway, 1500, false), inner(index))).some((line) => line.includes('vlan site0m'))
  t.strictSame([remade(1), remade(7)], [false, true])
  t.end()
})

t.test('what keeps a trunk NIC from carrying a VLAN is said with its name, the id and what to do', (t) => {
  const cases: Array<[string, SpaceState, Record<string, unknown> | null]> = [
    ['all is well', space(NIC), null],
    ['gone', space(), { code: 'TRUNK_MISSING', message: /trunk NIC eth1 is not .*VLAN 100/, hint: /inSite\.trunk/ }],
    ['down', space({ ...NIC, flags: [] }), { code: 'TRUNK_DOWN', message: /eth1 is down: VLAN 100/, hint: /ip link set eth1 up/ }],
    ['too small', space({ ...NIC, mtu: 1496 }), { code: 'TRUNK_MTU', message: /eth1 has MTU 1496.*1500.*VLAN 100/, hint: /ip link set eth1 mtu 1500/ }],
    ['a port of a bond', space({ ...NIC, master: 'bond0' }), { code: 'TRUNK_TAKEN', message: /eth1 is a port of bond0/, hint: /inSite\.trunk: bond0/ }],
    ['the id is somebody else\'s', space(NIC, { ifname: 'eth1.100', kind: 'vlan', link: 'eth1', data: { protocol: '802.1Q', id: 100 } }), { code: 'VLAN_ID_IN_USE', message: /VLAN 100 on the trunk NIC eth1 is in use by eth1\.100/, hint: /segmentIds/ }],
    ['the id on another NIC, another id on this, our own', space(NIC, ...[['eth2.100', 'eth2', 100], ['eth1.101', 'eth1', 101], ['mzv000abc', 'eth1', 100]].map(([ifname, link, id]) => ({ ifname: String(ifname), kind: 'vlan', link, data: { protocol: '802.1Q', id } }))), null]
  ]
  for (const [what, host, wanted] of cases) {
    const found = trunkProblem(compute, host, null)
    if (wanted === null) t.equal(found, null, what)
    else t.match(found, { ...wanted, retryable: true }, what)
  }
  const untagged = { ...compute, site: { segmentId: 100, localAddress: '10.0.0.2', remoteAddresses: [] } }
  t.equal(trunkProblem(untagged, space(), null), null, 'VXLAN needs none')
  t.match(nicProblem('eth1', 5, space()), { message: /VLAN 5/ })
  t.end()
})

t.test('a bridge of the administrator that filters by VLAN must carry the id, itself and at a port', (t) => {
  const host = space({ ifname: 'eth1', kind: 'bridge', data: { vlan_filtering: 1 } }, { ifname: 'eth0', master: 'eth1' })
  const vlans = (json: unknown) => bridgeProblem('eth1', 100, host, parseBridgeVlans(json))
  const range = { vlan: 90, vlanEnd: 199 }
  t.equal(vlans([{ ifname: 'eth1', vlans: [range] }, { ifname: 'eth0', vlans: [{ vlan: 1, flags: ['PVID', 'Egress Untagged'] }, { vlan: 100 }] }]), null)
  t.match(vlans([{ ifname: 'eth1', vlans: [{ vlan: 100, flags: ['Egress Untagged'] }] }, { ifname: 'eth0', vlans: [range] }]), { code: 'VLAN_NOT_ALLOWED', message: /eth1 .*VLAN 100 in itself/, hint: /bridge vlan add dev eth1 vid 100 self/ })
  t.match(vlans([{ ifname: 'eth1', vlans: [range] }, { ifname: 'eth0', vlans: [{ vlan: 101 }] }]), { code: 'VLAN_NOT_ALLOWED', message: /no port .*VLAN 100 .*\(eth0\)/, hint: /bridge vlan add dev eth0 vid 100/ })
  t.match(bridgeProblem('eth1', 100, space({ ifname: 'eth1', kind: 'bridge', data: { vlan_filtering: 1 } }), parseBridgeVlans([{ ifname: 'eth1', vlans: [range] }])), { message: /it has none/ })
  t.equal(bridgeProblem('eth1', 100, space({ ifname: 'eth1', kind: 'bridge', data: { vlan_filtering: 0 } }), parseBridgeVlans([])), null, 'one that does not filter lets tags pass')
  for (const odd of [null, {}, [{}], [{ ifname: 'a', vlans: 7 }], [{ ifname: 'a', vlans: [{ vlan: -1 }, { vlan: 1, vlanEnd: 9e9 }, null] }]]) t.ok(parseBridgeVlans(odd).get('a')?.size !== 1, JSON.stringify(odd))
  t.end()
})

t.test('no other NIC and no other id than the configuration has set aside', (t) => {
  const trunk = { nic: 'eth1', ids: { from: 100, to: 199 } }
  checkTrunk(compute, trunk)
  t.throws(() => { checkTrunk(compute, null) }, { code: 'TRUNK_REFUSED', message: /VLAN 100 on eth1/ })
  t.throws(() => { checkTrunk(compute, { ...trunk, nic: 'eth0' }) }, { code: 'TRUNK_REFUSED', message: /eth0/ })
  t.throws(() => { checkTrunk(compute, { ...trunk, ids: { from: 101, to: 199 } }) }, { code: 'TRUNK_REFUSED', message: /100 is not within 101\.\.199/ })
  t.throws(() => { checkTrunk({ ...compute, site: { segmentId: 100, localAddress: '10.0.0.2', remoteAddresses: [] } }, trunk) }, { code: 'TRUNK_REFUSED', message: /VXLAN/ }, 'nor VXLAN where VLANs are to be used')
  for (const site of [{ ...compute.site, segmentId: 4095 }, { ...compute.site, segmentId: 0 }, { ...compute.site, trunk: 'eth1 type dummy' }, { ...compute.site, trunk: '' }, { ...compute.site, trunk: '-batch' }, { ...compute.site, trunk: 'a'.repeat(16) }]) {
    t.throws(() => { checkSegment('c1', { ...compute, site }) }, { code: 'INVALID_INPUT' }, JSON.stringify(site))
  }
  t.end()
})

t.test('what the kernel says is put in words', (t) => {
  const said = (stderr: string) => vlanRefusal('eth1', 100, stderr)
  t.match(said('RTNETLINK answers: File exists'), { code: 'VLAN_ID_IN_USE', message: /100 .*eth1 .*namespace/ })
  t.match(said('Error: 8021q: VLAN device already exists.'), { code: 'VLAN_ID_IN_USE' })
  t.match(said('Cannot find device "eth1"'), { code: 'TRUNK_MISSING' })
  t.match(said('Error: Unknown device type.'), { code: 'NO_VLAN', message: /eth1/, hint: /modprobe 8021q/ })
  t.match(said('Error: 8021q: VLANs not supported on device.\nRTNETLINK answers: Operation not supported'), { code: 'TRUNK_REFUSED' })
  t.equal(said('RTNETLINK answers: Cannot allocate memory'), null)
  t.end()
})
