/** VLANs inside a site as far as any kernel can be asked: what keeps a trunk NIC from carrying one, and a kernel that has none. */
import t from 'tap'
import { picture, segmentSpecs } from './network-lab.ts'
import { startPod } from './network-pod.ts'
import type { SegmentSpec } from '../../protocol/core/desired.ts'

t.setTimeout(240_000)

t.test('a segment by VLAN is made whole or not at all', { skip: process.getuid?.() === 0 ? false : 'needs root' }, async (t) => {
  const pod = await startPod({ trunk: { nic: 'eth1', ids: { from: 100, to: 199 } } })
  t.teardown(async () => { await pod.stop() })
  const specs = segmentSpecs('c1', 0x101, { a: 100, b: 101 })
  const tagged = (spec: SegmentSpec, id = 100, trunk = 'eth1'): SegmentSpec => ({ ...spec, site: { ...spec.site, segmentId: id, trunk } })
  const refused = async (spec: SegmentSpec, code: string, message: RegExp): Promise<void> => {
    const before = await picture(pod)
    await t.rejects(pod.apply('segment', 'c1', spec), { code, message }, code)
    t.strictSame(await pod.observe('segment'), [], `${code}: nothing stays`)
    t.equal(await picture(pod), before)
  }

  await refused(tagged(specs.a2), 'TRUNK_MISSING', /trunk NIC eth1 .*VLAN 100/)
  await pod.ok('ip link add name eth1 type veth peer name switch')
  await refused(tagged(specs.a2), 'TRUNK_DOWN', /eth1 is down/)
  for (const link of ['eth1', 'switch']) await pod.ok(`ip link set dev ${link} up`)
  await pod.ok('ip link set dev eth1 mtu 1496')
  await refused(tagged(specs.a2), 'TRUNK_MTU', /eth1 has MTU 1496/)
  await pod.ok('ip link set dev eth1 mtu 1500')
  await refused(tagged(specs.a2, 200), 'TRUNK_REFUSED', /VLAN 200 is not within 100\.\.199/)
  await refused(tagged(specs.a2, 100, 'switch'), 'TRUNK_REFUSED', /switch/)
  await refused(specs.a2, 'TRUNK_REFUSED', /VXLAN/)
  await pod.ok('ip link add name lan type bridge')
  await pod.ok('ip link set dev eth1 master lan')
  await refused(tagged(specs.a2), 'TRUNK_TAKEN', /eth1 is a port of lan/)
  await pod.ok('ip link set dev eth1 nomaster')

  const { exitCode } = await pod.run('ip', ['link', 'add', 'link', 'eth1', 'name', 'probe', 'type', 'vlan', 'id', '199'])
  if (exitCode !== 0) {
    // only making one tells
    await refused(tagged(specs.a2), 'NO_VLAN', /kernel has no 802\.1Q: VLAN 100 .*eth1/)
    await refused(tagged(specs.a1), 'NO_VLAN', /VLAN 100/)
    return
  }
  await refused(tagged(specs.a2, 199), 'VLAN_ID_IN_USE', /VLAN 199 .*eth1 .*probe/)
  for (const spec of [specs.a2, specs.a1]) {
    await pod.apply('segment', 'c1', tagged(spec))
    t.match(await pod.observe('segment'), [{ name: 'c1', healthy: true }])
    await pod.remove('segment', 'c1')
  }
})
