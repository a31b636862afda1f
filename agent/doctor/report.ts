import type { AgentConfig } from '../config.ts'

export type HostRole = AgentConfig['roles'][number]

/**
 * - `missing`: the role does not work without it; `warning`: it works, but worse or not for long;
 * - `note`: nothing to do now, good to know.
 */
export type Severity = 'missing' | 'warning' | 'note'

export interface Finding {
  /** `host`: concerns every role */
  role: HostRole | 'host'
  severity: Severity
  /** what is the matter, in words */
  what: string
  /** the exact command, or the field of the configuration, that mends it */
  mend: string
}

export interface DoctorReport {
  host: string
  roles: HostRole[]
  /** nothing is missing; there may be warnings and notes */
  ok: boolean
  findings: Finding[]
}

const SEVERITIES: ReadonlyArray<[Severity, string]> = [['missing', 'Missing'], ['warning', 'Warnings'], ['note', 'Notes']]
const ROLES: ReadonlyArray<Finding['role']> = ['host', 'compute', 'storage', 'gateway']
const INSTALL = 'apt-get install '

/** Puts findings in order, worst first; what two sources say alike is said once. */
export function makeReport (host: string, roles: readonly HostRole[], findings: readonly Finding[]): DoctorReport {
  const rank = (f: Finding): number => SEVERITIES.findIndex(([severity]) => severity === f.severity) * ROLES.length + ROLES.indexOf(f.role)
  const sorted = findings.map((finding, index) => ({ finding, index })).sort((a, b) => rank(a.finding) - rank(b.finding) || a.index - b.index).map(({ finding }) => finding)
  const seen = new Set<string>()
  const once = sorted.filter(({ role, what, mend }) => {
    const key = `${role}\n${what}\n${mend}`
    return seen.has(key) ? false : seen.add(key)
  })
  return { host, roles: [...roles], ok: once.every(({ severity }) => severity !== 'missing'), findings: once }
}

/** No finding, as nothing mends it; who reads figures of caches without it is misled. */
const HTTPS_NOTE = 'As a gateway it caches HTTP. HTTPS passes untouched and is not counted as saved; musubi cache status says how much it was.'

/** The report for people; its last line is the one command for all packages, where packages are missing. */
export function doctorText (report: DoctorReport): string {
  const lines = [`${report.host}: ${report.roles.join(', ')}`, ...report.roles.includes('gateway') ? [HTTPS_NOTE] : []]
  for (const [severity, title] of SEVERITIES) {
    // what several roles lack is one thing to mend
    const rolesOf = new Map<string, string[]>()
    for (const { severity: its, role, what, mend } of report.findings) {
      if (its !== severity) continue
      const text = `    ${what}\n    -> ${mend}`
      rolesOf.set(text, [...rolesOf.get(text) ?? [], role])
    }
    if (rolesOf.size > 0) lines.push('', `${title}:`, ...[...rolesOf].map(([text, roles]) => `  ${roles.join(', ')}\n${text}`))
  }
  const mends = new Set(report.findings.filter(({ severity }) => severity === 'missing').map(({ mend }) => mend))
  lines.push('', mends.size === 0 ? `Nothing is missing${report.findings.some(({ severity }) => severity === 'warning') ? '; see the warnings' : ''}.` : `${mends.size} ${mends.size === 1 ? 'thing' : 'things'} to mend before every role works.`)
  const packages = new Set([...mends].flatMap(mend => mend.startsWith(INSTALL) ? mend.slice(INSTALL.length).split(' && ')[0]?.split(' ') ?? [] : []))
  if (packages.size > 1) lines.push(`All packages at once: ${INSTALL}${[...packages].sort().join(' ')}`)
  return lines.join('\n')
}

/** The command that installs Debian packages. */
export function install (packages: string): string {
  return `${INSTALL}${packages}`
}
