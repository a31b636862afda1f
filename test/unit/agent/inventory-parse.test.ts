import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import fc from 'fast-check'
import { parseDisks, parseMemoryMib, parseOs, parseProcessor, parseVersion, parseVolumeGroups } from '../../../agent/inventory/hardware.ts'
import { kernelParts, parseKernelConfig, parseLoadedModules, parseModuleFiles, usableParts, type KernelEvidence } from '../../../agent/inventory/kernel.ts'
import { parseNics } from '../../../agent/inventory/links.ts'
import { countList, plain } from '../../../agent/inventory/text.ts'
import { MAX_INVENTORY_DISKS, MAX_INVENTORY_NICS, MAX_INVENTORY_VOLUME_GROUPS } from '../../../protocol/core/limits.ts'

// What the tools of Debian 12 print: on a guest, in a namespace, and, for the servers, over the dumps of
// such machines in util-linux's own tests (lscpu and lsblk read a dump with --sysroot).
const fixture = (name: string): Promise<string> => readFile(join(import.meta.dirname, '../../fixtures/inventory', name), 'utf8')

t.test('processors: sockets, cores and threads of machines of several shapes', async t => {
  t.strictSame(parseProcessor(await fixture('lscpu-guest.json')), {
    value: { model: 'AMD EPYC', architecture: 'x86_64', sockets: 1, cores: 2, threads: 2, virtualization: '' }
  }, 'a guest whose processor runs no guests of its own')
  t.strictSame(parseProcessor(await fixture('lscpu-epyc-7451.json')), {
    value: { model: 'AMD EPYC 7451 24-Core Processor', architecture: 'x86_64', sockets: 2, cores: 48, threads: 96, virtualization: 'svm' }
  }, 'two sockets with eight NUMA nodes')
  t.strictSame(parseProcessor(await fixture('lscpu-opteron-6328.json')), {
    value: { model: 'AMD Opteron(tm) Processor 6328', architecture: 'x86_64', sockets: 2, cores: 8, threads: 16, virtualization: 'svm' }
  }, 'two sockets with four NUMA nodes')
  t.strictSame(parseProcessor(await fixture('lscpu-xeon-x7550.json')), {
    value: { model: 'Intel(R) Xeon(R) CPU X7550 @ 2.00GHz', architecture: 'x86_64', sockets: 4, cores: 32, threads: 64, virtualization: 'vmx' }
  }, 'four sockets')
})

t.test('processors: releases from 2.39 on nest the fields; those offline cannot be lent', t => {
  const leaf = (field: string, data: string, children?: unknown): object => ({ field, data, ...(children === undefined ? {} : { children }) })
  const nested = JSON.stringify({
    lscpu: [
      leaf('Architecture:', 'x86_64', [leaf('CPU op-mode(s):', '32-bit, 64-bit')]),
      leaf('CPU(s):', '8', [leaf('On-line CPU(s) list:', '0-3,6'), leaf('Off-line CPU(s) list:', '4,5,7')]),
      leaf('Vendor ID:', 'GenuineIntel', [leaf('Model name:', 'Some CPU', [leaf('Thread(s) per core:', '2'), leaf('Core(s) per socket:', '4'), leaf('Socket(s):', '1'), leaf('Flags:', 'fpu vmx sse')])])
    ]
  })
  t.strictSame(parseProcessor(nested), { value: { model: 'Some CPU', architecture: 'x86_64', sockets: 1, cores: 4, threads: 5, virtualization: 'vmx' } })
  t.end()
})

t.test('disks: with a medium, by name; what is no disk of this machine is left out', async t => {
  t.strictSame(parseDisks(await fixture('lsblk-nvme.json')), {
    value: {
      disks: [
        { name: 'nvme0n1', sizeBytes: 240_057_409_536, model: 'KINGSTON SKC1000240G', rotational: false, transport: 'nvme' },
        { name: 'sda', sizeBytes: 240_057_409_536, model: 'KINGSTON SH103S3', rotational: false, transport: '' },
        { name: 'sdb', sizeBytes: 80_026_361_856, model: 'WDC WD800JD-00MS', rotational: true, transport: '' }
      ],
      left: 0
    }
  })
  const names = (text: string): string[] => { const parsed = parseDisks(text); return 'value' in parsed ? parsed.value.disks.map(d => d.name) : [parsed.reason] }
  t.strictSame(names(await fixture('lsblk-lvm.json')), ['nvme0n1', 'sda', 'sdb'], 'loop devices below a volume group are none')
  t.strictSame(names(await fixture('lsblk-guest.json')), ['vda'], 'compressed memory is none')
  const old = { blockdevices: [{ name: 'sdb', type: 'disk', size: '1000', model: null, rota: '1', tran: 'sas' }, { name: 'sr0', type: 'rom', size: '2048' }, { name: 'sdc', type: 'disk', size: '0' }, { name: 'sdd', type: 'disk', size: -1 }, 7] }
  t.strictSame(parseDisks(JSON.stringify(old)), { value: { disks: [{ name: 'sdb', sizeBytes: 1000, model: '', rotational: true, transport: 'sas' }], left: 0 } }, 'numbers as text, an empty card reader, no sense')
  const many = { blockdevices: Array.from({ length: 100 }, (_, n) => ({ name: `sd${n}`, type: 'disk', size: 1 })) }
  const parsed = parseDisks(JSON.stringify(many))
  t.ok('value' in parsed && parsed.value.disks.length === MAX_INVENTORY_DISKS && parsed.value.left === 100 - MAX_INVENTORY_DISKS)
  t.equal(names(JSON.stringify(many))[10], 'sd10', 'numbers in names are compared as numbers')
})

t.test('volume groups, as LVM 2.03.16 prints them', async t => {
  t.strictSame(parseVolumeGroups(await fixture('vgs-two.json')), {
    value: { volumeGroups: [{ name: 'backup', sizeBytes: 2_143_289_344, freeBytes: 2_143_289_344 }, { name: 'musubi', sizeBytes: 3_217_031_168, freeBytes: 3_217_031_168 }], left: 0 }
  })
  t.strictSame(parseVolumeGroups('  {"report": [{"vg": []}]}'), { value: { volumeGroups: [], left: 0 } }, 'none')
  const many = { report: [{ vg: Array.from({ length: 40 }, (_, n) => ({ vg_name: `v${n}`, vg_size: '10', vg_free: n === 3 ? '-1' : '5' })) }] }
  const parsed = parseVolumeGroups(JSON.stringify(many))
  t.ok('value' in parsed && parsed.value.volumeGroups.length === MAX_INVENTORY_VOLUME_GROUPS && parsed.value.left === 39 - MAX_INVENTORY_VOLUME_GROUPS)
  t.ok('value' in parsed && parsed.value.volumeGroups.every(group => group.name !== 'v3'), 'a size that is none')
})

t.test('memory, versions, system', t => {
  t.equal(parseMemoryMib('MemTotal:       24684084 kB\nMemFree:        1 kB\n'), 24105)
  t.equal(parseMemoryMib('Node 3 MemTotal:       16777216 kB\nNode 3 MemFree: 1 kB\n'), 16384)
  t.equal(parseMemoryMib('MemFree: 1 kB\n'), null)
  t.equal(parseVersion('libvirtd (libvirt) 9.0.0\n'), '9.0.0')
  t.equal(parseVersion('QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright (c) 2003-2022'), '7.2.22')
  t.equal(parseVersion('no number'), '')
  t.equal(parseOs('NAME="Debian GNU/Linux"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n'), 'Debian GNU/Linux 12 (bookworm)')
  t.equal(parseOs('PRETTY_NAME=Alpine\\ Linux\n'), 'Alpine Linux')
  t.equal(countList('0-5,48-53\n'), 12)
  t.equal(countList('0'), 1)
  t.equal(countList(''), 0)
  for (const bad of ['5-3', 'a', '1,,2', '-1', '1-2-3']) t.equal(countList(bad), null, bad)
  t.equal(plain('  a\u0000\u001b[31m b\n\nc é ', 64), 'a [31m b c')
  t.end()
})

t.test('NICs: cards and what is built on them, not Musubi\'s links nor those of guests', async t => {
  const parsed = parseNics(await fixture('ip-namespace.json'))
  if (!('value' in parsed)) throw new Error(parsed.reason)
  const { nics } = parsed.value
  // sw2 is a port of br0, as that of a container; ifb, vxlan, taps and all that begins with mz are no cards
  t.strictSame(nics.map(({ nic }) => nic.name), ['br0', 'eno1', 'eno2', 'sw1', 'mv0'])
  const eno1 = nics.find(({ nic }) => nic.name === 'eno1')
  t.match(eno1, { kind: 'veth', nic: { mtu: 1500, up: true, trunk: false, addresses: ['192.0.2.1/24', '2001:db8::1/64'] } })
  t.match(eno1?.nic.mac, /^([0-9a-f]{2}:){5}[0-9a-f]{2}$/)
  t.equal(nics.find(({ nic }) => nic.name === 'eno2')?.nic.up, false)
  const guest = parseNics(await fixture('ip-guest.json'))
  t.match(guest, { value: { nics: [{ kind: undefined, nic: { name: 'eth0', mac: '02:fc:00:00:00:01', mtu: 1400, up: true, addresses: ['192.0.2.2/24', 'fd00::2/64'] } }], left: 0 } })
  t.ok('value' in guest && guest.value.nics.length === 1)
})

const card = (ifname: string, more: object = {}): object => ({ ifname, link_type: 'ether', flags: ['BROADCAST', 'UP', 'LOWER_UP'], mtu: 1500, address: '52:54:00:00:00:01', ...more })
const vlan = (ifname: string, link: string | null): object => card(ifname, { link, linkinfo: { info_kind: 'vlan', info_data: { protocol: '802.1Q', id: 110, flags: ['REORDER_HDR'] } } })
const bridge = (ifname: string, filtering: number): object => card(ifname, { linkinfo: { info_kind: 'bridge', info_data: { vlan_filtering: filtering, vlan_protocol: '802.1Q' } } })
const port = { linkinfo: { info_slave_kind: 'bridge' } }

t.test('NICs: a trunk has VLANs on it or is in a bridge that filters them', t => {
  const parsed = parseNics(JSON.stringify([
    card('lo', { link_type: 'loopback' }), card('eno1'), vlan('eno1.110', 'eno1'), card('eno2', { ...port, master: 'br1' }), card('eno3', { ...port, master: 'br0' }), card('eno4', { flags: ['UP', 'NO-CARRIER'] }),
    card('bond0', { linkinfo: { info_kind: 'bond' } }), vlan('storage', 'bond0'), bridge('br0', 0), bridge('br1', 1), vlan('elsewhere', null), card('ib0', { link_type: 'infiniband' }), card('tun0', { link_type: 'none' }), {}
  ]))
  if (!('value' in parsed)) throw new Error(parsed.reason)
  t.strictSame(parsed.value.nics.map(({ nic }) => nic.name), ['eno1', 'eno2', 'eno3', 'eno4', 'ib0', 'bond0', 'br0', 'br1', 'elsewhere', 'eno1.110', 'storage'])
  t.strictSame(parsed.value.nics.filter(({ nic }) => nic.trunk).map(({ nic }) => nic.name), ['eno1', 'eno2', 'bond0'])
  t.equal(parsed.value.nics.find(({ nic }) => nic.name === 'eno4')?.nic.up, false, 'no carrier')
  t.end()
})

t.test('NICs: cards come before what is made in numbers; addresses that do not last are left out', t => {
  const address = (local: string, more: object = {}): object => ({ family: 'inet6', local, prefixlen: 64, scope: 'global', ...more })
  const crowd = Array.from({ length: 300 }, (_, n) => card(`veth${n}`, { linkinfo: { info_kind: 'veth' } }))
  const parsed = parseNics(JSON.stringify([...crowd, card('enp1s0', {
    addr_info: [address('2001:db8::1'), address('2001:db8::2', { temporary: true }), address('2001:db8::3', { deprecated: true }), address('fe80::1', { scope: 'link' }), address('not an address'), { family: 'inet' }, ...Array.from({ length: 9 }, (_, n) => address(`2001:db8:1::${n}`))]
  }), card('../../etc'), card('..')]))
  if (!('value' in parsed)) throw new Error(parsed.reason)
  t.equal(parsed.value.nics.length, MAX_INVENTORY_NICS)
  t.equal(parsed.value.left, 301 - MAX_INVENTORY_NICS)
  t.equal(parsed.value.nics[0]?.nic.name, 'enp1s0')
  t.strictSame(parsed.value.nics[0]?.nic.addresses, ['2001:db8::1/64', '2001:db8:1::0/64', '2001:db8:1::1/64', '2001:db8:1::2/64'])
  t.notOk(parsed.value.nics.some(({ nic }) => nic.name.includes('.')), 'names lead to no other folder of sysfs')
  t.end()
})

t.test('what is no answer is a reason, whatever was printed', async t => {
  const parsers = { parseProcessor, parseDisks, parseVolumeGroups, parseNics }
  for (const [name, parse] of Object.entries(parsers)) {
    for (const text of ['', 'null', '{}', '[', '"x"', '{"lscpu":1,"blockdevices":{},"report":[1]}', '\u0000\u0001\ufffd', '['.repeat(100_000)]) {
      const parsed = parse(text)
      t.ok('reason' in parsed || (name === 'parseNics' && text === '[]'), `${name} ${text.slice(0, 20)}`)
    }
  }
  t.strictSame(parseProcessor('{"lscpu":[]}'), { reason: 'lscpu names no processor' })
  const fixtures = await Promise.all(['lscpu-epyc-7451.json', 'lsblk-nvme.json', 'vgs-two.json', 'ip-namespace.json'].map(fixture))
  fc.assert(fc.property(fc.constantFrom(...fixtures), fc.nat(), (text, at) => {
    // truncated at any point: never an exception, and only the whole counts
    const cut = text.trimEnd().slice(0, at % (text.trimEnd().length - 1))
    for (const parse of Object.values(parsers)) if (!('reason' in parse(cut))) throw new Error(`took ${cut.length} of ${text.length} characters for an answer`)
  }), { numRuns: 100 })
  fc.assert(fc.property(fc.json(), json => {
    for (const parse of Object.values(parsers)) for (const text of [json, `{"lscpu":[${json}]}`, `{"blockdevices":[${json}]}`, `{"report":[{"vg":[${json}]}]}`, `[{"ifname":"a","linkinfo":${json}}]`]) parse(text)
  }), { numRuns: 200 })
})

const nothing: KernelEvidence = { loaded: new Set(), builtIn: null, loadable: null, mayLoad: true, config: null, filteringBridge: false }

t.test('kernel: every kind of evidence counts, and without any nothing is said', t => {
  t.ok(Object.values(kernelParts(nothing)).every(state => state === 'unknown'))
  t.strictSame(usableParts(kernelParts(nothing)), [])
  const wireguard = (evidence: Partial<KernelEvidence>): string => kernelParts({ ...nothing, ...evidence }).wireguard
  t.equal(wireguard({ loaded: new Set(['wireguard']) }), 'there')
  t.equal(wireguard({ builtIn: new Set(['wireguard']) }), 'there')
  t.equal(wireguard({ config: new Map([['CONFIG_WIREGUARD', 'y']]) }), 'there')
  t.equal(wireguard({ loadable: new Set(['wireguard']) }), 'loadable')
  t.equal(wireguard({ loadable: new Set(['wireguard']), mayLoad: false }), 'no', 'modules are locked')
  t.equal(wireguard({ config: new Map([['CONFIG_NET', 'y']]) }), 'no')
  t.equal(wireguard({ config: new Map([['CONFIG_WIREGUARD', 'm']]) }), 'unknown', 'a module that nobody saw')
  t.equal(wireguard({ config: new Map([['CONFIG_WIREGUARD', 'm']]), builtIn: new Set(), loadable: new Set() }), 'no', 'a module that is not installed')
  t.end()
})

t.test('kernel: VLAN filtering is an option of the bridge; LIO needs two modules', t => {
  const parts = (evidence: Partial<KernelEvidence>): ReturnType<typeof kernelParts> => kernelParts({ ...nothing, ...evidence })
  const bridged = new Map<string, 'y' | 'm'>([['CONFIG_BRIDGE', 'm']])
  const loadable = new Set(['bridge', 'target_core_mod'])
  t.equal(parts({ config: bridged, loadable })['vlan-filtering'], 'no')
  t.equal(parts({ config: new Map([...bridged, ['CONFIG_BRIDGE_VLAN_FILTERING', 'y']]), loadable })['vlan-filtering'], 'loadable')
  t.equal(parts({ loadable })['vlan-filtering'], 'unknown', 'no configuration tells')
  t.equal(parts({ filteringBridge: true })['vlan-filtering'], 'there')
  t.equal(parts({ loadable, builtIn: new Set() }).lio, 'no')
  t.equal(parts({ loadable: new Set([...loadable, 'iscsi_target_mod']) }).lio, 'loadable')
  t.end()
})

t.test('kernel: its lists are read as they are written', t => {
  t.strictSame(parseLoadedModules('dm_thin_pool 94208 0 - Live 0x0000000000000000\n8021q 45056 0 - Live 0x0\ngarbage\n'), ['dm_thin_pool', '8021q'])
  t.strictSame([...parseModuleFiles('kernel/net/8021q/8021q.ko.xz: kernel/net/802/mrp.ko.xz kernel/net/802/garp.ko.xz\nkernel/drivers/md/dm-thin-pool.ko: \n')], ['8021q', 'dm_thin_pool'], 'modules.dep, without what they depend on')
  t.strictSame([...parseModuleFiles('kernel/drivers/net/vxlan/vxlan.ko\nkernel/net/bridge/bridge.ko\n')], ['vxlan', 'bridge'], 'modules.builtin')
  t.strictSame([...parseKernelConfig('# Linux\nCONFIG_NET=y\n# CONFIG_WIREGUARD is not set\nCONFIG_VXLAN=m\nCONFIG_HZ=250\nCONFIG_NAME="CONFIG_X=y"\n') ?? []], [['CONFIG_NET', 'y'], ['CONFIG_VXLAN', 'm']])
  t.equal(parseKernelConfig('CONFIG_NET=y\nCONFIG_VXL'), null, 'a cut one says nothing about what it does not reach')
  t.equal(parseKernelConfig('<html>'), null)
  t.end()
})
