import t from 'tap'
import { checkDomainSpec, domainName, isObjectName, objectName, secretOf } from '../../../agent/drivers/compute/names.ts'
import { escapeXml, renderDomainXml, renderSecretXml } from '../../../agent/drivers/compute/xml.ts'
import { fingerprint } from '../../../agent/fingerprint.ts'
import type { DomainSpec } from '../../../protocol/core/desired.ts'

const plain: DomainSpec = {
  cluster: 'demo',
  clusterId: '0123abcd4567',
  node: 'c1-tokyo-001',
  uuid: '6d1f1d3a-6a0a-4f0a-9d32-000000000001',
  vcpus: 2,
  memoryMiB: 1024,
  mac: '52:54:00:00:00:01',
  bridge: 'mzb00002a',
  tap: 'mzt00002a00',
  volumes: []
}
const volume = (name: string): DomainSpec['volumes'][number] => ({
  name, iqn: `iqn.2026-11.org.musubi:0123abcd4567.${name}`, portalAddress: '10.98.1.3', portalPort: 3260, chap: { user: 'node', secret: 'hidden' }
})

t.test('a second card comes behind the first, without a ROM, and its mark tells its tap', t => {
  const local = { mac: '52:55:00:00:00:01', bridge: 'mzb80002a', tap: 'mzt80002a00' }
  const render = (spec: DomainSpec): string[] => renderDomainXml('0123abcd.n', spec, { accelerator: 'tcg', consoleLog: '/x.log' }).replaceAll(fingerprint(spec), 'FINGERPRINT').split('\n')
  const [one, two] = [render(plain), render({ ...plain, local })]
  t.strictSame(two.filter(line => !one.includes(line)), [
    one.find(line => line.includes('musubi:object'))?.replace("tap='mzt00002a00'", "tap='mzt00002a00' localBridge='mzb80002a' localTap='mzt80002a00'"),
    "      <mac address='52:55:00:00:00:01'/>", "      <source bridge='mzb80002a'/>", "      <target dev='mzt80002a00'/>", "      <rom enabled='no'/>"
  ])
  t.ok(two.indexOf("      <target dev='mzt00002a00'/>") < two.indexOf("      <target dev='mzt80002a00'/>"))
  for (const [field, value] of [['mac', '52:55:00:00:00:0g'], ['bridge', 'br0'], ['tap', 'eth0'], ['mac', plain.mac], ['tap', plain.tap]] as const) {
    t.throws(() => { checkDomainSpec({ ...plain, local: { ...local, [field]: value } }) }, { code: 'INVALID_INPUT', message: /local|second card/ }, `${field} ${value}`)
  }
  t.end()
})

t.test('a node without volumes is rendered to exactly this', t => {
  t.equal(renderDomainXml('0123abcd.c1-tokyo-001', plain, { accelerator: 'tcg', consoleLog: '/var/lib/musubi/console/x.log' }), `<domain type='qemu'>
  <name>mz-0123abcd.c1-tokyo-001</name>
  <uuid>6d1f1d3a-6a0a-4f0a-9d32-000000000001</uuid>
  <metadata>
    <musubi:object xmlns:musubi='urn:musubi:1' name='0123abcd.c1-tokyo-001' uuid='6d1f1d3a-6a0a-4f0a-9d32-000000000001' cluster='0123abcd4567' clusterName='demo' node='c1-tokyo-001' fingerprint='FINGERPRINT' bridge='mzb00002a' tap='mzt00002a00'/>
  </metadata>
  <memory unit='MiB'>1024</memory>
  <vcpu>2</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <boot dev='network'/>
    <bios useserial='yes' rebootTimeout='1000'/>
  </os>
  <features>
    <acpi/>
    <apic/>
    <tcg><tb-cache unit='MiB'>256</tb-cache></tcg>
  </features>
  <cpu mode='maximum' check='none'>
    <feature policy='disable' name='la57'/>
    <feature policy='disable' name='svm'/>
  </cpu>
  <clock offset='utc'/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>restart</on_crash>
  <devices>
    <interface type='bridge'>
      <mac address='52:54:00:00:00:01'/>
      <source bridge='mzb00002a'/>
      <target dev='mzt00002a00'/>
      <model type='virtio'/>
    </interface>
    <serial type='pty'><log file='/var/lib/musubi/console/x.log' append='on'/><target port='0'/></serial>
    <console type='pty'><log file='/var/lib/musubi/console/x.log' append='on'/><target type='serial' port='0'/></console>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <video><model type='none'/></video>
  </devices>
</domain>
`.replace('FINGERPRINT', fingerprint(plain)))
  t.end()
})

t.test('KVM changes the domain type and passes the host\'s CPU through, nothing else', t => {
  const lines = (accelerator: 'tcg' | 'kvm'): string[] => renderDomainXml('n', plain, { accelerator, consoleLog: '/l' }).split('\n')
  const tcg = lines('tcg')
  const kvm = lines('kvm')
  t.strictSame(kvm.filter(line => !tcg.includes(line)), ["<domain type='kvm'>", "  <cpu mode='host-passthrough' check='none'/>"])
  t.strictSame(tcg.filter(line => !kvm.includes(line)).length, 6)
  t.end()
})

t.test('a volume becomes an iSCSI disk whose password is in a secret, not in the XML', t => {
  const spec = { ...plain, volumes: [volume('data'), volume('scratch')] }
  const xml = renderDomainXml('n1', spec, { accelerator: 'tcg', consoleLog: '/l' })
  t.match(xml, `    <disk type='network' device='disk'>
      <driver name='qemu' type='raw' cache='none' discard='unmap'/>
      <auth username='node'><secret type='iscsi' usage='mz-n1:data'/></auth>
      <source protocol='iscsi' name='iqn.2026-11.org.musubi:0123abcd4567.data/1'>
        <host name='10.98.1.3' port='3260'/>
        <initiator><iqn name='iqn.2026-11.org.musubi:node.6d1f1d3a-6a0a-4f0a-9d32-000000000001'/></initiator>
      </source>
      <target dev='vda' bus='virtio'/>
      <serial>data</serial>
    </disk>
`)
  t.match(xml, "<target dev='vdb' bus='virtio'/>\n      <serial>scratch</serial>")
  t.notMatch(xml, 'hidden')
  t.equal(renderSecretXml('n1', 'data'), `<secret ephemeral='no' private='yes'>
  <uuid>${secretOf('n1', 'data').uuid}</uuid>
  <description>CHAP password of volume data (Musubi)</description>
  <usage type='iscsi'><target>mz-n1:data</target></usage>
</secret>
`)
  t.end()
})

t.test('many volumes get distinct device names beyond vdz', t => {
  const volumes = Array.from({ length: 60 }, (_, i) => volume(`v${i}`))
  const xml = renderDomainXml('n1', { ...plain, volumes }, { accelerator: 'tcg', consoleLog: '/l' })
  const names = [...xml.matchAll(/<target dev='(vd[a-z]+)'/g)].map(match => match[1])
  t.equal(new Set(names).size, 60)
  t.strictSame([names[0], names[25], names[26], names[52]], ['vda', 'vdz', 'vdaa', 'vdba'])
  t.end()
})

t.test('secrets of different volumes and nodes differ, also where names could run together', t => {
  const uuids = [secretOf('a', 'b'), secretOf('a.b', 'b'), secretOf('a', 'c'), secretOf('b', 'a')].map(s => s.uuid)
  t.equal(new Set(uuids).size, 4)
  for (const uuid of uuids) t.match(uuid, /^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-a[0-9a-f]{3}-[0-9a-f]{12}$/)
  t.end()
})

t.test('everything is escaped that a person may have chosen', t => {
  t.equal(escapeXml('a&b<c>d"e\'f\n\tg'), 'a&amp;b&lt;c&gt;d&quot;e&#39;f&#10;&#9;g')
  t.equal(escapeXml('結び 🎏'), '結び 🎏')
  for (const text of ['\0', '\u001b[2J', '\ud800', '\ufffe']) t.throws(() => escapeXml(text), { code: 'INVALID_INPUT' })
  const xml = renderDomainXml('n', { ...plain, cluster: "'/><evil a='", volumes: [{ ...volume('d'), chap: { user: '<u>', secret: 's' } }] },
    { accelerator: 'tcg', consoleLog: "/l'>" })
  t.notMatch(xml, /<evil|<u>|l'>/)
  t.end()
})

t.test('object names and libvirt names are one to one', t => {
  t.equal(domainName('0123abcd.n1'), 'mz-0123abcd.n1')
  t.equal(objectName('mz-0123abcd.n1'), '0123abcd.n1')
  // the longest that cluster spec and federation file allow, and the longest host name
  for (const node of [`${'c'.repeat(20)}-${'s'.repeat(32)}-200`, 'n'.repeat(63)]) t.equal(objectName(domainName(`0123abcd.${node}`)), `0123abcd.${node}`)
  for (const foreign of ['n1', 'mz-', 'mz-a b', 'mz--x', 'xmz-n1', 'MZ-n1', `mz-${'x'.repeat(73)}`]) t.equal(objectName(foreign), null, foreign)
  for (const name of ['', '-x', '.', '..', 'a/b', 'a b', 'a;b', 'a\n', 'ä', 'x'.repeat(73)]) {
    t.equal(isObjectName(name), false, JSON.stringify(name))
    t.throws(() => domainName(name), { code: 'INVALID_INPUT', hint: /letters/ })
  }
  t.end()
})

t.test('a spec that libvirt or the kernel would misread is refused, by the field\'s name', t => {
  checkDomainSpec(plain)
  checkDomainSpec({ ...plain, volumes: [{ ...volume('d'), portalAddress: 'fd00::1' }] })
  const wrong: Array<[string, Partial<DomainSpec>]> = [
    ['uuid', { uuid: 'x' }],
    ['uuid', { uuid: plain.uuid.toUpperCase() }],
    ['mac', { mac: '53:54:00:00:00:01' }],
    ['mac', { mac: '52:54:00:00:00' }],
    ['bridge', { bridge: 'br0' }],
    ['tap', { tap: 'eth0' }],
    ['tap', { tap: 'mz%d' }],
    ['tap', { tap: 'mzt0123456789abc' }],
    ['vcpus', { vcpus: 0 }],
    ['vcpus', { vcpus: 1.5 }],
    ['memoryMiB', { memoryMiB: 1 }],
    ['memoryMiB', { memoryMiB: Number.NaN }],
    ['volume', { volumes: [volume('')] }],
    ['volume', { volumes: [volume('x'.repeat(21))] }],
    ['volume', { volumes: [volume('a'), volume('a')] }],
    ['iqn', { volumes: [{ ...volume('a'), iqn: 'iqn.2026-11.org/musubi' }] }],
    ['portal', { volumes: [{ ...volume('a'), portalAddress: 'host name' }] }],
    ['portal port', { volumes: [{ ...volume('a'), portalPort: 70_000 }] }]
  ]
  for (const [field, change] of wrong) {
    t.throws(() => { checkDomainSpec({ ...plain, ...change }) }, { code: 'INVALID_INPUT', message: new RegExp(`c1-tokyo-001: ${field}`) }, JSON.stringify(change))
  }
  t.end()
})
