import type { AgentConfig } from '../config.ts'
import { EMULATOR } from '../drivers/compute/accelerator.ts'
import type { HostInventory } from '../inventory/inventory.ts'
import { helperFindings, type HelperFacts } from './helper.ts'
import { kernelFindings, type KernelFacts } from './kernel.ts'
import { probeFinding, type DriverProblem } from './probes.ts'
import { programFindings } from './programs.ts'
import { makeReport, type DoctorReport, type Finding } from './report.ts'

/** What was found on the host; the rest is a pure function of it. */
export interface Facts {
  inventory: Pick<HostInventory, 'threads' | 'memoryMib' | 'virtualization' | 'absent'>
  /** what the processor has for guests, empty when nothing */
  cpuVirtualization: '' | 'vmx' | 'svm'
  root: boolean
  /** it runs here */
  systemd: boolean
  /** programs of `neededPrograms` that are installed */
  programs: ReadonlySet<string>
  /** folders of programs that the search path lacks although they hold some of them */
  pathLacks: readonly string[]
  /** why no network namespace can be made; null when it can, or was not tried */
  namespaces: string | null
  kernel: KernelFacts
  problems: readonly DriverProblem[]
  /** IPv4 addresses of this host */
  addresses: readonly string[]
  /** Debian's own target server runs and would keep the port */
  foreignTarget: boolean
  helper: HelperFacts
}

/** What this host lacks for its roles. Pure. */
export function judge (config: AgentConfig, configPath: string, facts: Facts): DoctorReport {
  const { roles } = config
  const findings: Finding[] = []
  const add = (role: Finding['role'], severity: Finding['severity'], what: string, mend: string): void => { findings.push({ role, severity, what, mend }) }

  if (!facts.root) add('host', 'warning', 'without root neither the kernel nor the drivers can be tried', `sudo musubi agent doctor -c ${configPath}`)
  if (facts.pathLacks.length > 0) add('host', 'warning', `PATH lacks ${facts.pathLacks.join(' and ')}: an agent that is started from this shell does not find programs that are there`, `export PATH=$PATH:${facts.pathLacks.join(':')}`)
  findings.push(...helperFindings(config, configPath, facts.helper, facts.systemd))
  findings.push(...programFindings(roles, facts.programs))
  if (facts.namespaces !== null) {
    add('host', 'missing', `network namespaces cannot be made (${facts.namespaces}): segments and caches live in them`, 'run on the host itself, or give this container CAP_SYS_ADMIN and CAP_NET_ADMIN')
  }
  findings.push(...kernelFindings(roles, facts.kernel, config.inSite.technique))

  if (!facts.addresses.includes(config.underlayAddress)) {
    const own = facts.addresses.filter(address => !address.startsWith('127.'))
    add('host', 'missing', `underlayAddress ${config.underlayAddress} is on no link of this host: tunnels, in-site segments and volumes end there`,
      `${configPath}: underlayAddress: ${own.length === 0 ? 'an address of this host' : own.slice(0, 4).join(' or ')}`)
  }
  if (roles.includes('compute')) addCompute()
  if (facts.foreignTarget && roles.includes('storage')) {
    add('storage', 'warning', 'Debian\'s tgt.service runs and keeps the iSCSI port on every address', 'systemctl disable --now tgt')
  }
  // what a table above has named with its mend is not said again in the driver's words
  const covered = new Set(findings.filter(({ severity }) => severity === 'missing').map(({ role, mend }) => `${role} ${mend}`))
  const noKernel = findings.some(({ severity, what }) => severity === 'missing' && what.startsWith('this kernel has no')) || facts.namespaces !== null
  const noLibvirt = !facts.programs.has('virsh') || !['libvirtd', 'virtqemud'].some(program => facts.programs.has(program))
  for (const problem of facts.problems) {
    const finding = probeFinding(problem, roles, { stateDir: config.helper.stateDir, systemd: facts.systemd })
    if (covered.has(`${finding.role} ${finding.mend}`)) continue
    if (/cannot (?:make|filter) segments|does not take the rules/.test(finding.what) && (noKernel || !facts.programs.has('nft') || !facts.programs.has('ip'))) continue
    if (finding.what.startsWith('libvirt does not answer') && noLibvirt) continue
    findings.push(finding)
  }
  return makeReport(config.name, roles, findings)

  function addCompute (): void {
    const { inventory } = facts
    const refusal = inventory.absent.find(({ part }) => part === 'kvm')?.reason
    // without an emulator there is nothing to try KVM with
    if (inventory.virtualization !== 'kvm' && config.accelerator !== 'tcg' && refusal !== undefined && facts.programs.has(EMULATOR)) {
      add('compute', 'warning', `nodes run without KVM, many times slower: ${refusal}`, kvmMend(refusal))
    }
    const lends = config.capacity
    if (lends === undefined && inventory.memoryMib > 0 && inventory.memoryMib <= 2048) {
      add('compute', 'warning', `${inventory.memoryMib} MiB of memory less 2048 for the host itself leave nothing to lend`, `${configPath}: capacity: {vcpus: ${inventory.threads}, memoryMiB: ${Math.floor(inventory.memoryMib / 2)}, diskMiB: 10240}`)
    }
    if (lends !== undefined && inventory.memoryMib > 0 && lends.memoryMiB > inventory.memoryMib) {
      add('compute', 'warning', `the configuration lends ${lends.memoryMiB} MiB of memory; this machine has ${inventory.memoryMib}`, `${configPath}: capacity.memoryMiB: at most ${Math.max(0, inventory.memoryMib - 2048)}`)
    }
    if (lends !== undefined && inventory.threads > 0 && lends.vcpus > inventory.threads) {
      add('compute', 'note', `the configuration lends ${lends.vcpus} vCPUs; this machine has ${inventory.threads}`, `${configPath}: capacity.vcpus: ${inventory.threads}, unless nodes are to share processors`)
    }
  }

  function kvmMend (refusal: string): string {
    if (refusal.includes('is missing')) {
      if (facts.cpuVirtualization === 'vmx') return 'modprobe kvm_intel'
      if (facts.cpuVirtualization === 'svm') return 'modprobe kvm_amd'
      return 'turn on virtualization (VT-x, AMD-V) in the firmware, or nested virtualization in the hypervisor above'
    }
    if (refusal.includes('does not open')) return facts.root ? 'give this container the device /dev/kvm' : 'run as root, or: adduser $USER kvm'
    return `turn on nested virtualization in the hypervisor above, or say so in ${configPath}: accelerator: tcg`
  }
}
