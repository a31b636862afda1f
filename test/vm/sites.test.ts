/** Two sites with 802.1Q inside, under different ids, and the kernel's WireGuard between them. */
import t from 'tap'
import { run } from '../../agent/exec.ts'
import { addNode, counted, macOf, picture, PLACES, segmentSpecs, startLab, tunnelSpecs } from '../host/network-lab.ts'
import { ELSEWHERE, FILE_TIMEOUT_MS, isAble } from './inside.ts'
import type { HostName, Lab } from '../host/network-lab.ts'
import type { Pod } from '../host/network-pod.ts'
import type { SegmentSpec } from '../../protocol/core/desired.ts'

t.setTimeout(FILE_TIMEOUT_MS)

const NAMES: readonly HostName[] = ['a1', 'a2', 'b1', 'b2']
const VNI = 0x101
const IDS = { a: 100, b: 200 }
/** At b2 the NIC is a port of a bridge of the administrator's, that filters by VLAN. */
const NIC: Partial<Record<HostName, string>> = { a1: 'eth1', a2: 'eth1', b1: 'eth1', b2: 'lan' }
const RANGE = { from: 100, to: 299 }

/** A switch for each site that lets only the site's ids pass, with their tags, and knows no untagged frames. */
async function addSwitches ({ underlay, hosts }: Lab): Promise<void> {
  for (const site of Object.keys(IDS)) await underlay.ok(`ip link add name sw-${site} up type bridge vlan_filtering 1 vlan_default_pvid 0 mcast_snooping 0`)
  for (const name of NAMES) {
    const site = name.startsWith('a') ? 'a' : 'b'
    await run('nsenter', ['--net', '--target', String(underlay.pid), 'ip', 'link', 'add', 'name', `tr-${name}`, 'type', 'veth', 'peer', 'name', 'eth1', 'netns', String(hosts[name].pid)])
    await underlay.ok(`ip link set dev tr-${name} master sw-${site} up`)
    await underlay.ok(`bridge vlan add dev tr-${name} vid ${IDS[site]}`)
    await hosts[name].ok('ip link set dev eth1 up')
  }
  const { b2 } = hosts
  await b2.ok('ip link add name lan up type bridge vlan_filtering 1 vlan_default_pvid 0')
  await b2.ok('ip link set dev eth1 master lan')
  const rules = NAMES.flatMap((name) => Object.entries(IDS).map(([site, id]) => `iifname "tr-${name}" vlan id ${id} counter comment "${name} ${site}"`)).concat('iifname "tr-*" ether type != 8021q counter comment "untagged"')
  await underlay.ok('nft -f -', { input: `table bridge count {\n  chain c {\n    type filter hook prerouting priority -500;\n${rules.map((rule) => `    ${rule}\n`).join('')}  }\n}\n` })
}

async function reaches (from: Pod, netns: string, address: string): Promise<boolean> {
  for (let i = 0; i < 20; i++) if ((await from.run('ping', ['-M', 'do', '-s', '1472', '-c', '1', '-W', '2', address], { netns })).exitCode === 0) return true
  return false
}

const nodeOf = (host: HostName): string => `node-${VNI}-${PLACES[host].index}`

t.test('VLANs inside the sites, WireGuard between them', { skip: await isAble() ? false : ELSEWHERE }, async (t) => {
  const lab = await startLab(NAMES, Object.fromEntries(NAMES.map((name) => [name, { nic: NIC[name] ?? '', ids: RANGE }])))
  t.teardown(async () => { await lab.stop() })
  await addSwitches(lab)
  const { a1, a2, b1, b2 } = lab.hosts
  const specs = segmentSpecs('c1', VNI, IDS, NAMES)
  for (const name of NAMES) specs[name] = { ...specs[name], site: { ...specs[name].site, trunk: NIC[name] ?? '' } }
  const apply = async (name: HostName, spec: SegmentSpec = specs[name]): Promise<void> => { await lab.hosts[name].apply('segment', 'c1', spec) }
  const before = await picture(a2)

  await t.test('what keeps a trunk NIC from carrying a segment is told, and nothing half-done stays', async (t) => {
    const other = (id: number): SegmentSpec => ({ ...specs.a2, site: { ...specs.a2.site, segmentId: id } })
    const undone = async (code: string, message: RegExp, spec = specs.a2): Promise<void> => {
      await t.rejects(apply('a2', spec), { code, message }, code)
      t.strictSame(await a2.observe('segment'), [])
    }
    await a2.ok('ip link set dev eth1 down')
    await undone('TRUNK_DOWN', /eth1 is down: VLAN 100/)
    await a2.ok('ip link set dev eth1 mtu 1400 up')
    await undone('TRUNK_MTU', /eth1 has MTU 1400/)
    await a2.ok('ip link set dev eth1 mtu 1500')
    await undone('TRUNK_REFUSED', /VLAN 300/, other(300))
    await a2.ok('ip link set dev eth1 down')
    await a2.ok('ip link set dev eth1 name away')
    await undone('TRUNK_MISSING', /trunk NIC eth1 /)
    await a2.ok('ip link set dev away name eth1')
    await a2.ok('ip link set dev eth1 up')
    await a2.ok('ip link add link eth1 name guests type vlan id 150')
    await undone('VLAN_ID_IN_USE', /VLAN 150 .*eth1 .*guests/, other(150))
    await a2.ok('ip netns add elsewhere')
    await a2.ok('ip link set dev guests netns elsewhere')
    await undone('VLAN_ID_IN_USE', /VLAN 150 .*eth1 .*another network namespace/, other(150))
    await a2.ok('ip netns delete elsewhere')
    await t.rejects(apply('b2'), { code: 'VLAN_NOT_ALLOWED', message: /bridge lan .*VLAN 200/ })
    await b2.ok('bridge vlan add dev lan vid 200 self')
    await t.rejects(apply('b2'), { code: 'VLAN_NOT_ALLOWED', message: /no port of the bridge lan/ })
    await b2.ok('bridge vlan add dev eth1 vid 200')
    // the kernel gives a namespace's links up a moment after its name
    for (let i = 0; i < 40 && await picture(a2) !== before; i++) await new Promise((resolve) => { setTimeout(resolve, 250) })
    t.equal(await picture(a2), before)
  })

  await t.test('full frames pass between nodes of both sites', async (t) => {
    const tunnels = await tunnelSpecs(lab, NAMES)
    await Promise.all([a1.apply('tunnel', 'wg', tunnels.a1), b1.apply('tunnel', 'wg', tunnels.b1)])
    await Promise.all(NAMES.map(async (name) => { await apply(name) }))
    t.equal((await a1.observe('tunnel'))[0]?.detail.mode, 'kernel')
    for (const name of NAMES) await addNode(lab.hosts[name], VNI, PLACES[name].index, PLACES[name].address)
    // `neigh_suppress` and sticky entries are on: who is asked for is known
    t.ok(await reaches(a2, nodeOf('a2'), PLACES.b2.address), 'from a host of the one to a host of the other')
    t.ok(await reaches(b2, nodeOf('b2'), PLACES.a1.address), 'to a node of the gateway itself')
    t.ok(await reaches(a1, nodeOf('a1'), PLACES.a2.address), 'inside a site')
    for (const pod of [a1, b1, a2, b2]) t.strictSame((await pod.observe('segment')).map(({ healthy, detail }) => [healthy, detail.problem]), [[true, undefined]])
  })

  await t.test('the switches saw tags, each those of its site and no others', async (t) => {
    const seen = async (comment: string): Promise<number> => await counted(lab.underlay, comment)
    for (const name of NAMES) {
      const [own, foreign] = name.startsWith('a') ? ['a', 'b'] : ['b', 'a']
      t.ok(await seen(`${name} ${own}`) > 0, `${name}: own id`)
      t.equal(await seen(`${name} ${foreign}`), 0, `${name}: no other`)
    }
  })

  await t.test('who is where is not learnt anew: a known MAC that comes by another port does not move, and tags of nodes go nowhere', async (t) => {
    const entries = await a2.ok('bridge fdb show dev mzv000101')
    t.match(entries, new RegExp(`${macOf(PLACES.b2.index)} .*sticky`))
    const tagged = async (id: number): Promise<number> => await counted(lab.underlay, `a2 ${id === IDS.a ? 'a' : 'b'}`)
    const was = await tagged(IDS.b)
    await a2.ok(`ip -n ${nodeOf('a2')} link add link eth0 name hop type vlan id ${IDS.b}`)
    await a2.ok(`ip -n ${nodeOf('a2')} address add 10.99.0.1/24 dev hop`)
    await a2.ok(`ip -n ${nodeOf('a2')} link set dev hop up`)
    await a2.run('ping', ['-c', '3', '-i', '0.2', '-W', '1', '10.99.0.2'], { netns: nodeOf('a2') })
    t.equal(await tagged(IDS.b), was)
    t.notOk((await b2.ok('bridge fdb show dev lan')).includes('vlan 100'))
  })

  await t.test('a trunk that goes down makes the segment ill by name, and comes back', async (t) => {
    await a2.ok('ip link set dev eth1 down')
    t.match(await a2.observe('segment'), [{ healthy: false, detail: { problem: /eth1 is down/ } }])
    await a2.ok('ip link set dev eth1 up')
    await apply('a2')
    t.ok(await reaches(a2, nodeOf('a2'), PLACES.b2.address))
  })

  await t.test('a second pass does nothing, and nothing is left', async (t) => {
    const whole = await picture(a1)
    await apply('a1')
    t.equal(await picture(a1), whole)
    await a2.ok('ip link delete dev mzt00010101')
    await a2.ok(`ip netns delete ${nodeOf('a2')}`)
    await Promise.all(NAMES.map(async (name) => { await lab.hosts[name].remove('segment', 'c1') }))
    t.equal(await picture(a2), before)
    t.match(await b2.ok('bridge vlan show'), /lan\s+200/, 'the bridge of the administrator is as it was')
  })
})
