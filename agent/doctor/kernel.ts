import { KERNEL_PARTS, type KernelPart, type PartState } from '../inventory/kernel.ts'
import type { Tried } from './attempts.ts'
import { install, type Finding, type HostRole, type Severity } from './report.ts'

interface PartNeed { part: KernelPart, roles: readonly HostRole[], severity: Severity, purpose: string }

const BOTH: readonly HostRole[] = ['compute', 'gateway']

/** What of the kernel the roles use. WireGuard has a substitute, and a rule of its own. */
const NEEDS: readonly PartNeed[] = [
  { part: 'bridge', roles: BOTH, severity: 'missing', purpose: 'segments cannot be made' },
  { part: 'veth', roles: BOTH, severity: 'missing', purpose: 'segments cannot be made' },
  { part: 'vxlan', roles: BOTH, severity: 'missing', purpose: 'segments cannot leave this host' },
  { part: 'macvlan', roles: BOTH, severity: 'missing', purpose: 'segments cannot leave this host' },
  { part: 'nftables', roles: BOTH, severity: 'missing', purpose: 'segments cannot be filtered' },
  { part: 'tun', roles: ['compute'], severity: 'missing', purpose: 'nodes get no network card' },
  { part: 'tproxy', roles: ['gateway'], severity: 'missing', purpose: 'no cache' },
  { part: '8021q', roles: BOTH, severity: 'note', purpose: 'segments inside the site go by VXLAN, not by VLAN' },
  { part: 'vlan-filtering', roles: BOTH, severity: 'note', purpose: 'bridges of this host cannot keep VLANs apart' },
  { part: 'dm-thin', roles: ['storage'], severity: 'note', purpose: 'volumes are sparse files, not thin volumes of LVM' },
  { part: 'lio', roles: ['storage'], severity: 'note', purpose: 'volumes are exported by tgt in user space, not by the kernel' }
]

const NAMES: Partial<Record<KernelPart, string>> = {
  '8021q': '802.1Q (8021q)', 'vlan-filtering': 'VLAN filtering of bridges', 'dm-thin': 'thin volumes (dm_thin_pool)', lio: 'LIO (target_core_mod, iscsi_target_mod)',
  tproxy: 'nftables\' TPROXY (nft_tproxy)', wireguard: 'WireGuard', tun: 'TUN/TAP devices', nftables: 'nftables with bridge tables'
}
const MODULES: Partial<Record<KernelPart, string>> = { lio: 'iscsi_target_mod', 'vlan-filtering': 'bridge' }
const moduleOf = (part: KernelPart): string => MODULES[part] ?? (part in KERNEL_PARTS ? KERNEL_PARTS[part as keyof typeof KERNEL_PARTS].module : part)
const OTHER_KERNEL = `${install('linux-image-amd64')} && reboot`

export interface KernelFacts {
  parts: Readonly<Record<KernelPart, PartState>>
  tried: ReadonlyMap<KernelPart, Tried>
  /** `wireguard-go` is installed */
  userspaceWireguard: boolean
}

/** How the hosts of a site reach each other within a segment. */
export type Technique = 'vxlan' | 'vlan'

/** Where VLANs carry segments inside the site, VXLAN and what lies over it are for gateways alone. */
function needsOf (technique: Technique): PartNeed[] {
  return NEEDS.map((need): PartNeed => {
    if (technique === 'vxlan') return need
    if (need.part === '8021q') return { ...need, severity: 'missing', purpose: 'segments cannot leave this host (inSite.technique is vlan)' }
    return need.part === 'vxlan' || need.part === 'macvlan' ? { ...need, roles: ['gateway'], purpose: 'segments cannot go to other sites' } : need
  })
}

/** What the kernel lacks for these roles. A try outweighs what the kernel says about itself. */
export function kernelFindings (roles: readonly HostRole[], facts: KernelFacts, technique: Technique = 'vxlan'): Finding[] {
  const findings = needsOf(technique).flatMap(({ part, roles: users, severity, purpose }) => {
    const fault = faultOf(part, facts)
    return fault === null ? [] : users.filter(role => roles.includes(role)).map((role): Finding => finding(role, severity, part, fault, purpose))
  })
  return roles.includes('gateway') ? [...findings, ...tunnelFindings(facts)] : findings
}

type Fault = { mend: string, why: string } | null

function faultOf (part: KernelPart, { parts, tried }: KernelFacts): Fault {
  const attempt = tried.get(part)
  const state = parts[part]
  if (attempt === 'works') return null
  if (attempt === undefined) return state === 'no' ? { mend: OTHER_KERNEL, why: '' } : null
  if (state === 'loadable') return { mend: `modprobe ${moduleOf(part)}`, why: ` (${attempt.error})` }
  if (state === 'there') return { mend: `dmesg | tail; in a container: give it CAP_NET_ADMIN and the device ${part === 'tun' ? '/dev/net/tun' : 'namespaces it asks for'}`, why: `: it is there, but ${attempt.error}` }
  return { mend: OTHER_KERNEL, why: ` (${attempt.error})` }
}

function finding (role: HostRole, severity: Severity, part: KernelPart, { mend, why }: NonNullable<Fault>, purpose: string): Finding {
  const name = NAMES[part] ?? part
  return { role, severity, what: why.startsWith(':') ? `${name}${why}: ${purpose}` : `this kernel has no ${name}${why}: ${purpose}`, mend }
}

function tunnelFindings (facts: KernelFacts): Finding[] {
  const fault = faultOf('wireguard', facts)
  if (fault === null) return []
  if (!facts.userspaceWireguard) {
    return [{ role: 'gateway', severity: 'missing', what: `this kernel has no WireGuard${fault.why}, and wireguard-go is not installed: no tunnel to other sites`, mend: fault.mend.startsWith('modprobe') ? fault.mend : install('wireguard-go') }]
  }
  const tun = faultOf('tun', facts)
  if (tun !== null) return [finding('gateway', 'missing', 'tun', tun, 'wireguard-go cannot make the tunnel to other sites')]
  return [finding('gateway', 'note', 'wireguard', fault, 'tunnels run in user space (wireguard-go), several times slower')]
}
