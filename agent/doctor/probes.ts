import type { ObjectKind } from '../../protocol/core/desired.ts'
import { install, type Finding, type HostRole } from './report.ts'

/** Something that a driver says it lacks. */
export interface DriverProblem { kind: ObjectKind, problem: string }

const KERNEL = `${install('linux-image-amd64')} && reboot`

/** Mends of what drivers are known to say, first match first. */
const MENDS: ReadonlyArray<[RegExp, string]> = [
  [/efi-virtio\.rom/, install('ipxe-qemu')],
  [/cannot open iSCSI volumes/, install('qemu-block-extra')],
  [/undionly\.kpxe/, install('ipxe')],
  [/virsh is not installed/, install('libvirt-clients')],
  [/qemu-system-x86_64 is not installed/, install('qemu-system-x86')],
  [/qemu-img is not installed/, install('qemu-utils')],
  [/\bwg is missing/, install('wireguard-tools')],
  [/wireguard-go is missing/, install('wireguard-go')],
  [/\/dev\/net\/tun/, 'modprobe tun'],
  [/dnsmasq is missing/, install('dnsmasq-base')],
  [/nginx (?:is missing|-V: is not installed)|no slice module/, install('nginx')],
  [/perl -e .*is not installed/, install('perl')],
  [/sysctl --version: is not installed/, install('procps')],
  [/\bnft(?: --version)?: (?:is not installed|No such file)/, install('nftables')],
  [/\bip(?: -V)?: (?:is not installed|No such file)/, install('iproute2')],
  [/tgtd|tgtadm/, install('tgt')],
  [/trunk NIC|by VLAN|carries VLAN/, 'what the brackets say, then: musubi agent doctor'],
  [/cannot make VLANs/, `modprobe 8021q; else ${KERNEL}`],
  [/cannot (?:make|filter) segments|kernel does not take the rules/, KERNEL]
]

/** A problem of a driver as a finding of the role that runs it. @param systemd it runs here */
export function probeFinding ({ kind, problem }: DriverProblem, roles: readonly HostRole[], host: { stateDir: string, systemd: boolean }): Finding {
  // the advice is in the mend
  const what = problem.replaceAll(/\s+/g, ' ').replace(/: start libvirtd .*?URI: /, ': ').slice(0, 400)
  return { role: roleOf(kind, roles), severity: 'missing', what, mend: mendOf(problem, host) }
}

function mendOf (problem: string, { stateDir, systemd }: { stateDir: string, systemd: boolean }): string {
  if (problem.includes('libvirt does not answer')) return systemd ? 'systemctl enable --now libvirtd' : 'libvirtd --daemon'
  if (problem.includes('cannot be written')) return `make ${stateDir} writable for this user: ls -ld ${stateDir}; findmnt -T ${stateDir}`
  return MENDS.find(([pattern]) => pattern.test(problem))?.[1] ?? 'mend what the message names, then: musubi agent doctor'
}

function roleOf (kind: ObjectKind, roles: readonly HostRole[]): HostRole {
  if (kind === 'domain') return 'compute'
  if (kind === 'volume') return 'storage'
  return kind === 'segment' && !roles.includes('gateway') ? 'compute' : 'gateway'
}
