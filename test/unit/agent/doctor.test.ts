import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import type { AgentConfig } from '../../../agent/config.ts'
import type { Tried } from '../../../agent/doctor/attempts.ts'
import { doctor, doctorText, type DoctorReport } from '../../../agent/doctor/doctor.ts'
import { judge, type Facts } from '../../../agent/doctor/judge.ts'
import { examineHelper, mayUse } from '../../../agent/doctor/helper.ts'
import { probeFinding } from '../../../agent/doctor/probes.ts'
import { neededPrograms } from '../../../agent/doctor/programs.ts'
import { kernelParts, type KernelPart } from '../../../agent/inventory/kernel.ts'
import { KIND_ORDER } from '../../../protocol/core/desired.ts'
import { VERSION } from '../../../protocol/version.ts'
import { startBench } from '../../helper-bench.ts'

const config: AgentConfig = {
  name: 'h1', site: 'kyoto', roles: ['gateway', 'compute', 'storage'], stateDir: '/var/lib/musubi', helper: { socket: '/run/musubi-helper/helper.sock', stateDir: '/var/lib/musubi-helper', agentUser: 'musubi' }, runDir: '/run/musubi', listen: ['/ip4/192.0.2.2/tcp/4100'],
  reachable: true, relay: false, priceMilli: 0, wanMbit: 0, underlayAddress: '192.0.2.2', tunnelPort: 51820, tunnelKeyMaxAgeHours: 168, imageStore: '/var/lib/musubi/images', drivers: 'real', logLevel: 'info', inSite: { technique: 'vxlan' }, retain: { diskMiB: 0, maxDays: 0 }
}
const PATH = '/etc/musubi/agent.yaml'
/** A kernel that loads everything. */
const parts = kernelParts({
  loaded: new Set(), builtIn: new Set(), mayLoad: true, filteringBridge: true, config: null,
  loadable: new Set(['bridge', 'vxlan', 'macvlan', 'veth', '8021q', 'wireguard', 'tun', 'nf_tables', 'nft_tproxy', 'dm_mod', 'dm_thin_pool', 'target_core_mod', 'iscsi_target_mod'])
})
const allWork: ReadonlyMap<KernelPart, Tried> = new Map((['bridge', 'vxlan', 'macvlan', 'veth', '8021q', 'vlan-filtering', 'wireguard', 'tun', 'nftables', 'tproxy'] as const).map(part => [part, 'works']))

const HELLO = { version: VERSION, roles: ['gateway', 'compute', 'storage'], kinds: [...KIND_ORDER] }
const whole: Facts = {
  inventory: { threads: 16, memoryMib: 65536, virtualization: 'kvm', absent: [] }, cpuVirtualization: 'vmx', root: true, systemd: true,
  programs: new Set(neededPrograms()), pathLacks: [], namespaces: null, kernel: { parts, tried: allWork, userspaceWireguard: false }, problems: [],
  addresses: ['127.0.0.1', '192.0.2.2'], foreignTarget: false,
  helper: { uid: 990, barrier: null, answer: HELLO }
}
const report = (facts: Partial<Facts>, changes: Partial<AgentConfig> = {}): DoctorReport => {
  const { roles } = { ...config, ...changes }
  return judge({ ...config, ...changes }, PATH, { ...whole, helper: { ...whole.helper, answer: { ...HELLO, roles: [...roles] } }, ...facts })
}
const lines = (r: DoctorReport): string[] => r.findings.map(({ role, severity, mend }) => `${severity} ${role}: ${mend}`)
const without = (...programs: string[]): Partial<Facts> => ({ programs: new Set(neededPrograms().filter(one => !programs.includes(one))) })
const tried = (part: KernelPart, error: string): ReadonlyMap<KernelPart, Tried> => new Map([...allWork, [part, { error }]])
const KERNEL = 'apt-get install linux-image-amd64 && reboot'

t.test('a host that has everything', t => {
  t.strictSame(report({}), { host: 'h1', roles: config.roles, ok: true, findings: [] })
  t.equal(doctorText(report({})), 'h1: gateway, compute, storage\nAs a gateway it caches HTTP. HTTPS passes untouched and is not counted as saved; musubi cache status says how much it was.\n\nNothing is missing.')
  t.equal(doctorText({ ...report({}), roles: ['compute'] }), 'h1: compute\n\nNothing is missing.')
  t.end()
})

t.test('missing programs: the package of each role that runs them, each once', t => {
  const found = report(without('nft', 'tgtd', 'tgtadm', 'zstd'))
  t.equal(found.ok, false)
  t.strictSame(lines(found), ['missing compute: apt-get install nftables', 'missing storage: apt-get install tgt', 'missing gateway: apt-get install nftables', 'warning gateway: apt-get install zstd'])
  t.equal(found.findings[1]?.what, 'tgtd, tgtadm: not installed; volumes cannot be exported')
  t.strictSame(lines(report(without('nft', 'tgtd', 'tgtadm', 'zstd'), { roles: ['storage'] })), ['missing storage: apt-get install tgt'], 'other roles do not matter')
  t.strictSame(lines(report(without('libvirtd'))), [], 'a modular libvirt will do')
  t.strictSame(lines(report(without('libvirtd', 'virtqemud'))), ['missing compute: apt-get install libvirt-daemon-system'])
  t.equal(report(without('zstd')).ok, true, 'a gateway that builds no images works')
  t.end()
})

t.test('every program of every role names one package', t => {
  const found = report({ programs: new Set() })
  for (const { mend, severity } of found.findings) t.match(mend, /^apt-get install [a-z0-9-]+$/, `${severity} ${mend}`)
  t.match(doctorText(found), /\nAll packages at once: apt-get install coreutils dnsmasq-base iproute2 iputils-ping libvirt-clients libvirt-daemon-system nftables nginx openssh-client perl procps qemu-system-x86 qemu-utils tgt util-linux wireguard-tools$/)
  t.end()
})

t.test('where VLANs carry segments inside the site, 802.1Q is needed, and VXLAN at gateways only', t => {
  const lacks = (part: KernelPart): Partial<Facts> => ({ kernel: { ...whole.kernel, parts: { ...parts, [part]: 'loadable' }, tried: tried(part, 'Unknown device type') } })
  const inSite = { technique: 'vlan', trunk: 'eth1', ids: { from: 1, to: 2 } } as const
  t.strictSame(lines(report(lacks('8021q'), { roles: ['compute'], inSite })), ['missing compute: modprobe 8021q'])
  t.strictSame(lines(report(lacks('8021q'), { roles: ['compute'] })), ['note compute: modprobe 8021q'])
  t.strictSame(lines(report(lacks('vxlan'), { roles: ['compute'], inSite })), [])
  t.strictSame(lines(report(lacks('vxlan'), { roles: ['gateway'], inSite })), ['missing gateway: modprobe vxlan'])
  t.match(report({ problems: [{ kind: 'segment', problem: 'the trunk NIC eth1 is down: VLAN 1 carries nothing (ip link set eth1 up)' }] }, { inSite }).findings, [{ severity: 'missing', what: /eth1 is down.*ip link set eth1 up/ }])
  t.end()
})

t.test('the kernel: load the module, or take one that has it', t => {
  const kernel = (part: KernelPart, error: string, state: 'there' | 'loadable' | 'no' | 'unknown'): Partial<Facts> => ({ kernel: { ...whole.kernel, parts: { ...parts, [part]: state }, tried: tried(part, error) } })
  t.strictSame(lines(report(kernel('vxlan', 'Unknown device type', 'loadable'))), ['missing compute: modprobe vxlan', 'missing gateway: modprobe vxlan'])
  t.strictSame(lines(report(kernel('vxlan', 'Unknown device type', 'no'))), [`missing compute: ${KERNEL}`, `missing gateway: ${KERNEL}`])
  t.strictSame(lines(report(kernel('vxlan', 'Unknown device type', 'unknown'), { roles: ['storage'] })), [], 'storage makes no segments')
  t.match(report(kernel('tun', 'Operation not permitted', 'there'), { roles: ['compute'] }).findings, [{ severity: 'missing', what: /it is there, but Operation not permitted/, mend: /container/ }])
  t.strictSame(lines(report({ kernel: { ...whole.kernel, parts: { ...parts, lio: 'no', 'dm-thin': 'no' } } })), [`note storage: ${KERNEL}`, `note storage: ${KERNEL}`], 'what Musubi can do without')
  const { kernel: said } = kernel('bridge', '', 'no')
  t.strictSame(lines(report({ kernel: { ...whole.kernel, parts: said?.parts ?? parts } })), [], 'a try outweighs what the kernel says')
  t.end()
})

t.test('WireGuard may run in user space', t => {
  const tunnel = (more: Partial<Facts['kernel']>, tun = false): DoctorReport => report({ kernel: { parts: { ...parts, wireguard: 'no', ...(tun ? { tun: 'no' } : {}) }, tried: tun ? new Map([...tried('wireguard', 'no such type'), ['tun', { error: 'no such device' }]]) : tried('wireguard', 'no such type'), userspaceWireguard: false, ...more } }, { roles: ['gateway'] })
  t.strictSame(lines(tunnel({})), ['missing gateway: apt-get install wireguard-go'])
  t.strictSame(lines(tunnel({ userspaceWireguard: true })), [`note gateway: ${KERNEL}`])
  t.strictSame(lines(tunnel({ userspaceWireguard: true }, true)), [`missing gateway: ${KERNEL}`])
  t.strictSame(lines(tunnel({ parts: { ...parts, wireguard: 'loadable' } })), ['missing gateway: modprobe wireguard'])
  t.end()
})

t.test('KVM: what mends it depends on what is wrong', t => {
  const kvm = (reason: string, more: Partial<Facts> = {}, changes: Partial<AgentConfig> = {}): string[] =>
    lines(report({ inventory: { ...whole.inventory, virtualization: 'tcg', absent: [{ part: 'kvm', reason }] }, ...more }, changes))
  t.strictSame(kvm('/dev/kvm is missing'), ['warning compute: modprobe kvm_intel'])
  t.strictSame(kvm('/dev/kvm is missing', { cpuVirtualization: 'svm' }), ['warning compute: modprobe kvm_amd'])
  t.match(kvm('/dev/kvm is missing', { cpuVirtualization: '' }), [/firmware/])
  t.match(kvm('/dev/kvm does not open for reading and writing: EACCES'), [/container the device \/dev\/kvm/])
  t.match(kvm('no guest ran to its end on /dev/kvm'), [/accelerator: tcg/])
  t.strictSame(kvm('the configuration says tcg', {}, { accelerator: 'tcg' }), [])
  t.strictSame(kvm('/dev/kvm is missing', {}, { roles: ['storage'] }), [])
  t.end()
})

t.test('the configuration against the host', t => {
  t.match(report({ addresses: ['127.0.0.1', '198.51.100.7'] }), { ok: false, findings: [{ role: 'host', severity: 'missing', what: /192\.0\.2\.2 is on no link/, mend: `${PATH}: underlayAddress: 198.51.100.7` }] })
  t.match(report({}, { capacity: { vcpus: 64, memoryMiB: 131072, diskMiB: 1 } }), { ok: true, findings: [{ severity: 'warning', mend: /at most 63488/ }, { severity: 'note', mend: /capacity.vcpus: 16/ }] })
  t.match(report({ inventory: { ...whole.inventory, memoryMib: 2048 } }).findings, [{ severity: 'warning', mend: /capacity: \{vcpus: 16, memoryMiB: 1024, diskMiB: 10240\}/ }])
  t.strictSame(lines(report({ foreignTarget: true })), ['warning storage: systemctl disable --now tgt'])
  t.match(doctorText(report({ root: false, pathLacks: ['/usr/sbin'] })), /sudo musubi agent doctor -c \/etc[^]*export PATH=\$PATH:\/usr\/sbin\n\nNothing is missing; see the warnings\.$/)
  t.end()
})

t.test('what drivers say is a finding of their role, unless it was found before them', t => {
  const said = (kind: Parameters<typeof probeFinding>[0]['kind'], problem: string, systemd = true): string => {
    const { role, mend } = probeFinding({ kind, problem }, config.roles, { stateDir: '/s', systemd })
    return `${role}: ${mend}`
  }
  // in the words of the drivers
  t.equal(said('domain', 'the iPXE option ROM efi-virtio.rom is in none of /usr/share/qemu: install ipxe-qemu'), 'compute: apt-get install ipxe-qemu')
  t.equal(said('domain', 'QEMU cannot open iSCSI volumes: install qemu-block-extra'), 'compute: apt-get install qemu-block-extra')
  t.equal(said('domain', 'libvirt does not answer at qemu:///system: start libvirtd (systemctl start libvirtd), or correct the URI: virsh: exit code 1'), 'compute: systemctl enable --now libvirtd')
  t.equal(said('domain', 'libvirt does not answer at qemu:///system', false), 'compute: libvirtd --daemon')
  t.equal(said('domain', '/dev/net/tun cannot be opened (ENOENT): run modprobe tun, or give the container this device'), 'compute: modprobe tun')
  t.equal(said('frontend', '/usr/lib/ipxe/undionly.kpxe is missing'), 'gateway: apt-get install ipxe')
  t.equal(said('frontend', '/usr/sbin/dnsmasq is missing'), 'gateway: apt-get install dnsmasq-base')
  t.equal(said('cache', 'cache: nginx -V: is not installed; install the package nginx-light'), 'gateway: apt-get install nginx')
  t.equal(said('cache', 'cache: nft --version: is not installed'), 'gateway: apt-get install nftables')
  t.equal(said('tunnel', 'no tunnel to other sites: the program wg is missing (package wireguard-tools)'), 'gateway: apt-get install wireguard-tools')
  t.equal(said('volume', 'tgtd does not run (package tgt): tgtd --version: is not installed'), 'storage: apt-get install tgt')
  t.equal(said('volume', '/s/storage cannot be written: EROFS'), 'storage: make /s writable for this user: ls -ld /s; findmnt -T /s')
  t.match(said('cache', 'something new'), /then: musubi agent doctor/)
  t.equal(probeFinding({ kind: 'segment', problem: 'x' }, ['compute'], { stateDir: '/s', systemd: true }).role, 'compute')

  const nft = { kind: 'cache' as const, problem: 'cache: nft --version: is not installed' }
  const segment = { kind: 'segment' as const, problem: 'cannot filter segments: unshare --net nft -f -: exit code 127: failed to execute nft' }
  t.equal(report({ ...without('nft'), problems: [nft, segment] }).findings.length, 2, 'one for each role')
  t.match(report({ problems: [segment] }), { ok: false, findings: [{ role: 'gateway', what: /cannot filter segments/ }] })
  t.strictSame(lines(report({ ...without('virsh'), problems: [{ kind: 'domain', problem: 'libvirt does not answer at qemu:///system' }] })), ['missing compute: apt-get install libvirt-clients'])
  t.match(report({ namespaces: 'Operation not permitted', problems: [segment] }).findings, [{ role: 'host', mend: /CAP_SYS_ADMIN/ }])
  t.end()
})

t.test('an agent that only pretends is not examined, and says so; a bad configuration is named', async t => {
  const file = join(t.testdir(), 'agent.yaml')
  await writeFile(file, 'name: h1\nsite: kyoto\nroles: [compute]\nlisten: [/ip4/127.0.0.1/tcp/4100]\nunderlayAddress: 127.0.0.1\ndrivers: fake\n')
  const found = await doctor(file)
  t.match(found, { host: 'h1', roles: ['compute'], ok: true, findings: [{ severity: 'note', what: /pretends/ }] })
  t.match(doctorText(found), /Nothing is missing\.$/)
  await writeFile(file, 'name: h1\n')
  await t.rejects(doctor(file), { code: 'INVALID_INPUT' })
})

t.test('the helper: that it answers, as what, and to whom', t => {
  const said = (helper: Partial<Facts['helper']>, facts: Partial<Facts> = {}, changes: Partial<AgentConfig> = {}): string[] =>
    report({ ...facts, helper: { ...whole.helper, ...helper } }, changes).findings.map(({ role, severity, what, mend }) => `${severity} ${role}: ${what} -> ${mend}`)
  const socket = '/run/musubi-helper/helper.sock'
  const restart = 'systemctl restart musubi-helper; journalctl -u musubi-helper'
  t.strictSame(said({ answer: { code: 'ENOENT', why: 'x' } }), [`missing host: no helper (unit musubi-helper) listens at ${socket}: the agent can make and remove nothing -> systemctl enable --now musubi-helper; systemctl status musubi-helper`])
  t.strictSame(said({ answer: { code: 'ECONNREFUSED', why: 'x' } }, { systemd: false }), [`missing host: no helper (unit musubi-helper) listens at ${socket}: the agent can make and remove nothing -> start it as root: musubi helper run -c ${PATH}`])
  t.strictSame(said({ answer: { code: 'DEADLINE', why: 'silence' } }), [`missing host: the helper (unit musubi-helper) does not answer at ${socket}: silence -> ${restart}`])
  t.strictSame(said({ answer: { ...HELLO, version: '0.0.1' } }), [`warning host: the helper at ${socket} is of version 0.0.1, this is ${VERSION} -> ${restart}`])
  t.strictSame(said({ answer: { ...HELLO, roles: ['storage'], kinds: ['volume'] } }), [`missing host: the helper at ${socket} runs as storage; ${PATH} says gateway, compute, storage -> ${restart}`])
  t.strictSame(said({ answer: { ...HELLO, kinds: ['volume', 'tunnel', 'segment', 'frontend', 'cache'] } }), [`missing host: the helper at ${socket} has no driver for domain -> ${restart}`])
  t.match(said({ uid: null }), [/^missing host: there is no user musubi, .* -> systemd-sysusers, or correct helper\.agentUser/])
  t.match(said({ uid: null }, { systemd: false }), [/ -> useradd --system musubi, or correct/])
  t.strictSame(said({ barrier: '/run/musubi-helper' }), [`missing host: user musubi may not open the helper's socket ${socket}: it is kept out at /run/musubi-helper -> ls -ld /run/musubi-helper; ${restart}`])
  t.strictSame(said({ answer: null }), [], 'who may not ask is told so once, about everything')
  t.end()
})

t.test('who may connect: by owner, then group, then the rest', t => {
  const file = { uid: 0, gid: 7, mode: 0o140660 }
  t.equal(mayUse(file, { uid: 0, gids: [0] }, 2), true)
  t.equal(mayUse(file, { uid: 5, gids: [5, 7] }, 2), true)
  t.equal(mayUse(file, { uid: 5, gids: [5] }, 2), false)
  t.equal(mayUse({ ...file, uid: 5, mode: 0o140066 }, { uid: 5, gids: [7] }, 2), false, 'an owner has what owners have')
  t.equal(mayUse({ ...file, mode: 0o040701 }, { uid: 5, gids: [5] }, 1), true)
  t.equal(mayUse({ ...file, mode: 0o040766 }, { uid: 5, gids: [5] }, 1), false)
  t.end()
})

t.test('a helper that runs is asked, and one that has ended is missed', async t => {
  const bench = await startBench(t)
  const seen = await examineHelper(bench.config, AbortSignal.timeout(20_000))
  t.match(seen, { uid: process.getuid?.(), barrier: null, answer: { version: VERSION, roles: ['compute'] } })
  await bench.helper.stop()
  t.match(await examineHelper(bench.config, AbortSignal.timeout(20_000)), { barrier: null, answer: { code: /^(ENOENT|ECONNREFUSED)$/, why: bench.socket } })
  const nobody = { ...bench.config, helper: { ...bench.config.helper, agentUser: 'no-such-user' } }
  t.match(await examineHelper(nobody, AbortSignal.timeout(20_000)), { uid: null, barrier: null })
  t.match(await examineHelper({ ...bench.config, helper: { ...bench.config.helper, agentUser: 64_009 } }, AbortSignal.timeout(20_000)), { uid: 64_009, barrier: bench.dir }, 'a folder of another user')
  await bench.restart()
})
