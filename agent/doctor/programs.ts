import { install, type Finding, type HostRole } from './report.ts'

interface ProgramNeed {
  /** any of these will do */
  programs: readonly string[]
  debianPackage: string
  roles: readonly HostRole[] | 'host'
  /** what does not work without it */
  purpose: string
  severity?: 'warning'
}

const BOTH: readonly HostRole[] = ['compute', 'gateway']
const GATEWAY: readonly HostRole[] = ['gateway']
const COMPUTE: readonly HostRole[] = ['compute']
const BUILD = 'node images cannot be built here (musubi image build)'

/** Every program that a role runs, and the package of Debian 12 that has it. */
const NEEDS: readonly ProgramNeed[] = [
  { programs: ['ip'], debianPackage: 'iproute2', roles: 'host', purpose: 'no link can be made or read' },
  { programs: ['bridge'], debianPackage: 'iproute2', roles: BOTH, purpose: 'segments cannot be made' },
  { programs: ['unshare'], debianPackage: 'util-linux', roles: 'host', purpose: 'namespaces cannot be made' },
  { programs: ['lscpu'], debianPackage: 'util-linux', roles: 'host', purpose: 'the inventory lacks processors' },
  { programs: ['lsblk'], debianPackage: 'util-linux', roles: 'host', purpose: 'the inventory lacks disks' },
  { programs: ['nft'], debianPackage: 'nftables', roles: BOTH, purpose: 'segments cannot be filtered' },
  { programs: ['sysctl'], debianPackage: 'procps', roles: BOTH, purpose: 'segments cannot be set up' },
  { programs: ['virsh'], debianPackage: 'libvirt-clients', roles: COMPUTE, purpose: 'nodes cannot be started' },
  { programs: ['libvirtd', 'virtqemud'], debianPackage: 'libvirt-daemon-system', roles: COMPUTE, purpose: 'nodes cannot be started' },
  { programs: ['qemu-system-x86_64'], debianPackage: 'qemu-system-x86', roles: COMPUTE, purpose: 'nodes cannot be started' },
  { programs: ['qemu-img'], debianPackage: 'qemu-utils', roles: COMPUTE, purpose: 'disks of nodes cannot be made' },
  { programs: ['timeout'], debianPackage: 'coreutils', roles: COMPUTE, purpose: 'KVM cannot be tried' },
  { programs: ['tgtd'], debianPackage: 'tgt', roles: ['storage'], purpose: 'volumes cannot be exported' },
  { programs: ['tgtadm'], debianPackage: 'tgt', roles: ['storage'], purpose: 'volumes cannot be exported' },
  { programs: ['wg'], debianPackage: 'wireguard-tools', roles: GATEWAY, purpose: 'no tunnel to other sites' },
  { programs: ['nginx'], debianPackage: 'nginx', roles: GATEWAY, purpose: 'no cache, and no frontend' },
  { programs: ['dnsmasq'], debianPackage: 'dnsmasq-base', roles: GATEWAY, purpose: 'frontends cannot serve DHCP and TFTP' },
  { programs: ['perl'], debianPackage: 'perl', roles: GATEWAY, purpose: 'the cache cannot be watched over' },
  { programs: ['ping'], debianPackage: 'iputils-ping', roles: GATEWAY, purpose: 'nodes cannot be seen to answer' },
  { programs: ['ping'], debianPackage: 'iputils-ping', roles: COMPUTE, purpose: 'segments cannot be looked into (musubi segment doctor)', severity: 'warning' },
  { programs: ['tcpdump'], debianPackage: 'tcpdump', roles: BOTH, purpose: 'frames of segments cannot be taken (musubi segment capture)', severity: 'warning' },
  { programs: ['ssh-keygen'], debianPackage: 'openssh-client', roles: GATEWAY, purpose: 'clusters get no key to log in with' },
  { programs: ['mmdebstrap'], debianPackage: 'mmdebstrap', roles: GATEWAY, purpose: BUILD, severity: 'warning' },
  { programs: ['mksquashfs'], debianPackage: 'squashfs-tools', roles: GATEWAY, purpose: BUILD, severity: 'warning' },
  { programs: ['cpio'], debianPackage: 'cpio', roles: GATEWAY, purpose: BUILD, severity: 'warning' },
  { programs: ['zstd'], debianPackage: 'zstd', roles: GATEWAY, purpose: BUILD, severity: 'warning' },
  { programs: ['depmod'], debianPackage: 'kmod', roles: GATEWAY, purpose: BUILD, severity: 'warning' }
]

/** Names of all programs that these roles may run. */
export function neededPrograms (): string[] {
  return [...new Set(NEEDS.flatMap(({ programs }) => programs))]
}

/** One finding a role and package. @param installed of `neededPrograms`, those that are there */
export function programFindings (roles: readonly HostRole[], installed: ReadonlySet<string>): Finding[] {
  const lacking = new Map<string, { finding: Omit<Finding, 'what'>, programs: string[], purposes: Set<string> }>()
  for (const { programs, debianPackage, roles: users, purpose, severity = 'missing' } of NEEDS) {
    if (programs.some(program => installed.has(program))) continue
    const concerned: ReadonlyArray<Finding['role']> = users === 'host' ? ['host'] : users.filter(role => roles.includes(role))
    for (const role of concerned) {
      const key = `${role} ${debianPackage}`
      const entry = lacking.get(key) ?? { finding: { role, severity, mend: install(debianPackage) }, programs: [], purposes: new Set<string>() }
      entry.programs.push(programs.join(' or '))
      entry.purposes.add(purpose)
      lacking.set(key, entry)
    }
  }
  return [...lacking.values()].map(({ finding, programs, purposes }) => ({ ...finding, what: `${programs.join(', ')}: not installed; ${[...purposes].join('; ')}` }))
}
