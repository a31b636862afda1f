import { chmod, mkdir, readFile, rm, symlink, utimes, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { gzipSync } from 'node:zlib'
import t from 'tap'
import { CommandError, type run as realRun } from '../../../agent/exec.ts'
import { createInventory, type HostInventory } from '../../../agent/inventory/inventory.ts'
import { createSource } from '../../../agent/inventory/source.ts'
import { decode, encode } from '../../../protocol/wire/codec.ts'
import { MAX_RECORD_BYTES, MAX_SYSTEM_FILE_BYTES } from '../../../protocol/core/limits.ts'

const fixture = (name: string): Promise<string> => readFile(join(import.meta.dirname, '../../fixtures/inventory', name), 'utf8')
const signal = (): AbortSignal => AbortSignal.timeout(20_000)

/** A machine: files below a root, and what its programs print. */
async function machine (root: string, files: Record<string, string | Buffer>): Promise<void> {
  for (const [path, content] of Object.entries(files)) {
    await mkdir(dirname(join(root, path)), { recursive: true })
    await writeFile(join(root, path), content)
  }
}

type Output = string | (() => string)
function programs (output: Record<string, Output>): { run: typeof realRun, asked: string[] } {
  const asked: string[] = []
  return {
    asked,
    async run (file, args) {
      asked.push(file)
      await Promise.resolve()
      const answer = output[file]
      if (answer === undefined) throw new CommandError([file, ...args], undefined, '', 'is not installed')
      return { stdout: typeof answer === 'string' ? answer : answer(), stderr: '', exitCode: 0 }
    }
  }
}

const RELEASE = '6.1.0-30-amd64'
const server: Record<string, string | Buffer> = {
  'proc/meminfo': 'MemTotal:       131903532 kB\nMemFree:        1 kB\n',
  'proc/sys/kernel/osrelease': `${RELEASE}\n`,
  'proc/sys/kernel/modules_disabled': '0\n',
  'proc/modules': 'bridge 311296 0 - Live 0x0000000000000000\nllc 16384 2 bridge,stp, Live 0x0\n',
  'etc/os-release': 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
  [`boot/config-${RELEASE}`]: 'CONFIG_NET=y\nCONFIG_BRIDGE=m\nCONFIG_BRIDGE_VLAN_FILTERING=y\nCONFIG_VLAN_8021Q=m\nCONFIG_TUN=m\n# CONFIG_TARGET_CORE is not set\nCONFIG_VXLAN=m\n',
  [`lib/modules/${RELEASE}/modules.builtin`]: 'kernel/drivers/md/dm-mod.ko\n',
  [`lib/modules/${RELEASE}/modules.dep`]: 'kernel/net/8021q/8021q.ko.xz: kernel/net/802/mrp.ko.xz\nkernel/drivers/net/vxlan/vxlan.ko.xz:\nkernel/drivers/md/dm-thin-pool.ko.xz: kernel/drivers/md/persistent-data.ko.xz\n',
  'sys/module/wireguard/version': '1.0.0\n',
  'sys/devices/system/cpu/online': '0-15\n',
  'sys/class/net/eno1/speed': '10000\n',
  'sys/class/net/eno2/speed': '-1\n',
  'dev/kvm': ''
}
for (const [node, cpus] of ['0-3', '4-7', '8-11', '12-15'].entries()) {
  server[`sys/devices/system/node/node${node}/cpulist`] = `${cpus}\n`
  server[`sys/devices/system/node/node${node}/meminfo`] = `Node ${node} MemTotal:       ${32 * 1024 * 1024 - node * 1024} kB\nNode ${node} MemFree: 5 kB\n`
}
const links = JSON.stringify([
  { ifname: 'eno1', link_type: 'ether', flags: ['UP', 'LOWER_UP'], mtu: 9000, address: '52:54:00:00:00:01' },
  { ifname: 'eno2', link_type: 'ether', flags: [], mtu: 1500, address: '52:54:00:00:00:02' },
  { ifname: 'eno1.7', link: 'eno1', link_type: 'ether', flags: ['UP', 'LOWER_UP'], mtu: 1500, address: '52:54:00:00:00:01', linkinfo: { info_kind: 'vlan' } }
])

const outputs = async (): Promise<Record<string, Output>> => ({
  lscpu: await fixture('lscpu-opteron-6328.json'), lsblk: await fixture('lsblk-nvme.json'), vgs: await fixture('vgs-two.json'), ip: links,
  libvirtd: 'libvirtd (libvirt) 9.0.0\n', 'qemu-system-x86_64': 'QEMU emulator version 7.2.22 (Debian)\n'
})

t.test('a server of two sockets and four NUMA nodes with a trunk, LVM and NVMe', async t => {
  const root = t.testdir()
  await machine(root, server)
  await mkdir(join(root, 'sys/class/net/eno1/device'), { recursive: true })
  await symlink('../../../../bus/pci/drivers/ixgbe', join(root, 'sys/class/net/eno1/device/driver'))
  const inventory = await createInventory({ root, run: programs(await outputs()).run, runsGuests: () => Promise.resolve(true) }).read(signal())
  t.strictSame(inventory, {
    cpuModel: 'AMD Opteron(tm) Processor 6328', sockets: 2, cores: 8, threads: 16, architecture: 'x86_64', memoryMib: 128812,
    numa: [{ node: 0, cpus: 4, memoryMib: 32768 }, { node: 1, cpus: 4, memoryMib: 32767 }, { node: 2, cpus: 4, memoryMib: 32766 }, { node: 3, cpus: 4, memoryMib: 32765 }],
    disks: [
      { name: 'nvme0n1', sizeBytes: 240_057_409_536, model: 'KINGSTON SKC1000240G', rotational: false, transport: 'nvme' },
      { name: 'sda', sizeBytes: 240_057_409_536, model: 'KINGSTON SH103S3', rotational: false, transport: '' },
      { name: 'sdb', sizeBytes: 80_026_361_856, model: 'WDC WD800JD-00MS', rotational: true, transport: '' }
    ],
    volumeGroups: [{ name: 'backup', sizeBytes: 2_143_289_344, freeBytes: 2_143_289_344 }, { name: 'musubi', sizeBytes: 3_217_031_168, freeBytes: 3_217_031_168 }],
    nics: [
      { name: 'eno1', mac: '52:54:00:00:00:01', mtu: 9000, speedMbit: 10000, up: true, trunk: true, driver: 'ixgbe', addresses: [] },
      { name: 'eno2', mac: '52:54:00:00:00:02', mtu: 1500, speedMbit: 0, up: false, trunk: false, driver: '', addresses: [] },
      { name: 'eno1.7', mac: '52:54:00:00:00:01', mtu: 1500, speedMbit: 0, up: true, trunk: false, driver: 'vlan', addresses: [] }
    ],
    virtualization: 'kvm', kernel: RELEASE, libvirtVersion: '9.0.0', qemuVersion: '7.2.22', os: 'Debian GNU/Linux 12 (bookworm)',
    features: ['8021q', 'bridge', 'dm', 'dm-thin', 'kvm', 'vlan-filtering', 'vxlan', 'wireguard'],
    absent: []
  })
  const { features, absent, ...message } = inventory
  t.strictSame(decode('Inventory', encode('Inventory', inventory)), message, 'it goes over the wire as it is')
  t.ok(features.length > 0 && absent.length === 0)
})

t.test('a bare system: everything is absent with its reason, nothing is guessed', async t => {
  const inventory = await createInventory({ root: t.testdir(), run: programs({}).run }).read(signal())
  t.match(inventory, { sockets: 0, threads: 0, memoryMib: 0, numa: [], disks: [], volumeGroups: [], nics: [], virtualization: 'tcg', kernel: '', libvirtVersion: '', os: '', features: [] })
  t.strictSame(inventory.absent.map(({ part }) => part), ['cpu', 'memory', 'disks', 'volume groups', 'nics', 'libvirt', 'qemu', 'kvm', 'features'])
  t.match(inventory.absent.find(({ part }) => part === 'libvirt')?.reason, /^libvirtd --version: is not installed$/)
  t.match(inventory.absent.find(({ part }) => part === 'kvm')?.reason, /\/dev\/kvm is missing/)
  t.match(inventory.absent.find(({ part }) => part === 'features')?.reason, /does not tell whether it has .*wireguard/)
})

t.test('KVM counts when a guest really ran, and as the configuration says', async t => {
  const root = t.testdir()
  await machine(root, server)
  const { run } = programs(await outputs())
  const look = async (options: Parameters<typeof createInventory>[0]): Promise<[string, boolean, string | undefined]> => {
    const { virtualization, features, absent } = await createInventory({ root, run, ...options }).read(signal())
    return [virtualization, features.includes('kvm'), absent.find(({ part }) => part === 'kvm')?.reason]
  }
  t.strictSame(await look({ runsGuests: () => Promise.resolve(false) }), ['tcg', false, 'no guest ran to its end on /dev/kvm'])
  t.match(await look({ runsGuests: () => Promise.reject(new Error('disk full')) }), ['tcg', false, /disk full/])
  t.strictSame(await look({ accelerator: 'tcg', runsGuests: () => Promise.resolve(true) }), ['tcg', false, 'the configuration says tcg'])
  t.strictSame(await look({ accelerator: 'kvm', runsGuests: () => Promise.resolve(false) }), ['kvm', true, undefined])
  const without = Object.entries(await outputs()).filter(([program]) => program !== 'qemu-system-x86_64')
  t.match(await look({ run: programs(Object.fromEntries(without)).run, runsGuests: () => Promise.resolve(true) }), ['tcg', false, /qemu-system-x86_64 is not installed/])
  await rm(join(root, 'dev/kvm'))
  await mkdir(join(root, 'dev/kvm'))
  t.match(await look({ accelerator: 'kvm' }), ['tcg', false, /does not open for reading and writing: EISDIR/])
})

t.test('programs that answer the same are asked once, until they change', async t => {
  const root = t.testdir()
  await machine(root, { ...server, 'usr/bin/qemu-system-x86_64': '', 'usr/sbin/libvirtd': '' })
  await chmod(join(root, 'usr/bin/qemu-system-x86_64'), 0o755)
  const { run, asked } = programs(await outputs())
  const reader = createInventory({ root, run, runsGuests: () => Promise.resolve(true) })
  const first = await reader.read(signal())
  asked.length = 0
  t.strictSame(await reader.read(signal()), first)
  t.strictSame(asked.sort(), ['ip', 'libvirtd', 'lsblk', 'vgs'], 'one that cannot be found by us is asked again')
  await writeFile(join(root, 'sys/devices/system/cpu/online'), '0-7\n')
  await utimes(join(root, 'usr/bin/qemu-system-x86_64'), 1, 1)
  asked.length = 0
  await reader.read(signal())
  t.strictSame(asked.sort(), ['ip', 'libvirtd', 'lsblk', 'lscpu', 'qemu-system-x86_64', 'vgs'], 'upgraded, and processors taken away')
})

t.test('watch tells of changes only, and ends', async t => {
  const root = t.testdir()
  await machine(root, server)
  let free = 100
  let rounds = 0
  const { run } = programs({ ...await outputs(), vgs: () => { rounds++; return JSON.stringify({ report: [{ vg: [{ vg_name: 'v', vg_size: '1000', vg_free: String(free) }] }] }) } })
  const reader = createInventory({ root, run, runsGuests: () => Promise.resolve(true) })
  await reader.read(signal())
  const told: HostInventory[] = []
  const stop = reader.watch(5, inventory => { told.push(inventory) })
  const keepAlive = setInterval(() => { /* watching keeps no process alive */ }, 1000)
  const until = async (enough: () => boolean): Promise<void> => {
    for (const end = Date.now() + 20_000; !enough() && Date.now() < end;) await new Promise(resolve => setTimeout(resolve, 5))
  }
  await until(() => rounds > 4)
  t.strictSame(told, [], 'nothing changed')
  free = 50
  await until(() => told.length > 0)
  t.strictSame(told.map(({ volumeGroups }) => volumeGroups[0]?.freeBytes), [50])
  const seen = rounds
  await until(() => rounds > seen + 2)
  t.equal(told.length, 1, 'told once')
  stop()
  await new Promise(resolve => setTimeout(resolve, 50))
  const ended = rounds
  await new Promise(resolve => setTimeout(resolve, 100))
  t.equal(rounds, ended)
  clearInterval(keepAlive)
})

t.test('an aborted reading is no reading', async t => {
  const root = t.testdir()
  await machine(root, server)
  const stopped = new AbortController()
  const { run } = programs({ ...await outputs(), ip: () => { stopped.abort(); return '[]' } })
  await t.rejects(createInventory({ root, run, runsGuests: () => Promise.resolve(true) }).read(stopped.signal), { name: 'AbortError' })
})

t.test('the largest inventory fits a record twice', async t => {
  const root = t.testdir()
  const long = 'x'.repeat(10_000)
  const files: Record<string, string | Buffer> = { ...server, 'etc/os-release': `PRETTY_NAME="${long}"\n` }
  for (let n = 0; n < 64; n++) files[`sys/devices/system/node/node${n}/meminfo`] = `Node ${n} MemTotal: 999999999999 kB\n`
  await machine(root, files)
  const address = (n: number): object => ({ family: 'inet6', local: `2001:0db8:ffff:ffff:ffff:ffff:ffff:${String(1000 + n)}`, prefixlen: 128, scope: 'global' })
  const { run } = programs({
    lscpu: JSON.stringify({ lscpu: [{ field: 'CPU(s):', data: '4294967295' }, { field: 'Model name:', data: long }, { field: 'Architecture:', data: long }, { field: 'Socket(s):', data: '9007199254740991' }] }),
    lsblk: JSON.stringify({ blockdevices: Array.from({ length: 500 }, (_, n) => ({ name: `${n}${long}`, type: 'disk', size: Number.MAX_SAFE_INTEGER, model: long, rota: true, tran: long })) }),
    vgs: JSON.stringify({ report: [{ vg: Array.from({ length: 500 }, (_, n) => ({ vg_name: `${n}${long}`, vg_size: '9007199254740991', vg_free: '9007199254740991' })) }] }),
    ip: JSON.stringify(Array.from({ length: 500 }, (_, n) => ({ ifname: `interfacename${n}`.slice(-15), link_type: 'infiniband', flags: ['UP', 'LOWER_UP'], mtu: 4294967295, address: long, addr_info: Array.from({ length: 99 }, (_, k) => address(k)) }))),
    libvirtd: 'libvirtd (libvirt) 9999.999999.999999.999999\n', 'qemu-system-x86_64': `9.0 ${long}`
  })
  const inventory = await createInventory({ root, run, runsGuests: () => Promise.resolve(true) }).read(signal())
  const bytes = encode('Inventory', inventory).length
  t.ok(bytes > 8_000 && bytes < MAX_RECORD_BYTES / 2, `${bytes} bytes`)
  t.equal(inventory.numa.length, 16)
  t.strictSame(inventory.absent.filter(({ reason }) => reason.endsWith('left out')).map(({ part, reason }) => `${part}: ${reason}`), ['disks: 468 more are left out', 'volume groups: 484 more are left out', 'nics: 468 more are left out'])
})

t.test('files are read whole or not at all; the configuration may be packed', async t => {
  const root = t.testdir()
  await machine(root, { 'proc/sys/kernel/osrelease': '6.18.1\n', 'proc/config.gz': gzipSync('CONFIG_NET=y\nCONFIG_VXLAN=y\n'), large: Buffer.alloc(MAX_SYSTEM_FILE_BYTES + 1), fits: Buffer.alloc(MAX_SYSTEM_FILE_BYTES, 'a'), bin: '' })
  const source = createSource(root)
  t.strictSame((await source.kernelEvidence()).config, new Map([['CONFIG_NET', 'y'], ['CONFIG_VXLAN', 'y']]))
  t.equal(await source.text('/large'), null)
  t.equal((await source.text('/fits'))?.length, MAX_SYSTEM_FILE_BYTES)
  t.equal(await source.text('/'), null)
  // a bomb: 64 MiB packed to 64 KiB; then sense no more
  await machine(root, { 'proc/config.gz': gzipSync(Buffer.alloc(64 * 1024 * 1024)) })
  t.equal((await source.kernelEvidence()).config, null)
  await machine(root, { 'proc/config.gz': 'not packed', 'proc/sys/kernel/osrelease': '../../../etc\n' })
  t.strictSame(await source.kernelEvidence(), { loaded: new Set(), builtIn: null, loadable: null, mayLoad: true, config: null, filteringBridge: false })
})
