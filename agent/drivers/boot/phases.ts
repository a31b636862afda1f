/** How far a node's latest boot came; all times in ms since the epoch, by the clock of this host. */
export interface NodePhases {
  /** the node got its address */
  dhcp?: number
  /** kernel and initrd run */
  boot?: number
  /** root image fetched, checked and mounted */
  image?: number
  /** sshd and httpd answer */
  ready?: number
  failed?: number
  /** why it failed, e.g. `root-digest-mismatch` */
  reason?: string
}

export interface PhaseLogs {
  /** dnsmasq's log, written with TZ=UTC */
  dnsmasq: string
  /** nginx's phase log, one JSON object a line */
  nginx: string
}

interface LogEntry { atMs: number, mac: string, phase: string, reason: string }

const NODE_PHASES = ['boot', 'image', 'ready'] as const

/**
 * Phases of each node by name. A boot begins with the fetch of its iPXE script (or, before that,
 * with an address); what earlier boots reported does not count. Lines that fit nothing are skipped:
 * a log may end in half a line.
 *
 * @param nowMs only to find the year, which dnsmasq does not log
 */
export function parsePhases (nodes: ReadonlyArray<{ name: string, mac: string }>, logs: PhaseLogs, nowMs: number): Record<string, NodePhases> {
  const entries = logs.nginx.split('\n').map(parseEntry).filter(entry => entry !== null)
  const leases = logs.dnsmasq.split('\n').map(line => parseLease(line, nowMs)).filter(lease => lease !== null)
  return Object.fromEntries(nodes.map(({ name, mac }) => [
    name,
    nodePhases(entries.filter(entry => entry.mac === mac), leases.filter(lease => lease.mac === mac).map(lease => lease.atMs))
  ]))
}

function nodePhases (entries: readonly LogEntry[], leasesMs: readonly number[]): NodePhases {
  const script = entries.findLast(entry => entry.phase === 'script')
  const phases: NodePhases = {}
  const dhcp = dhcpTime(script?.atMs, leasesMs)
  if (dhcp !== undefined) phases.dhcp = dhcp
  const current = script === undefined ? entries : entries.filter(entry => entry.atMs >= script.atMs)
  for (const phase of NODE_PHASES) {
    const first = current.find(entry => entry.phase === phase)
    if (first !== undefined) phases[phase] = first.atMs
  }
  const failed = current.findLast(entry => entry.phase === 'failed')
  if (failed !== undefined) {
    phases.failed = failed.atMs
    phases.reason = failed.reason
  }
  return phases
}

/** dnsmasq logs whole seconds: within that second, the script's fetch tells the time better. */
function dhcpTime (scriptMs: number | undefined, leasesMs: readonly number[]): number | undefined {
  if (scriptMs === undefined) return leasesMs.at(-1)
  const before = leasesMs.findLast(lease => lease <= scriptMs)
  return before === undefined ? scriptMs : Math.min(before + 999, scriptMs)
}

function parseEntry (line: string): LogEntry | null {
  let value: unknown
  try {
    value = JSON.parse(line)
  } catch {
    return null
  }
  if (typeof value !== 'object' || value === null) return null
  const { at, mac, phase, reason } = value as Partial<Record<'at' | 'mac' | 'phase' | 'reason', unknown>>
  if (typeof at !== 'number' || typeof mac !== 'string' || typeof phase !== 'string') return null
  // tenants write the reason: plain words only, nothing that a terminal would obey
  const words = typeof reason === 'string' ? reason.replaceAll(/[^a-zA-Z0-9-]/g, '').slice(0, 64) : ''
  return { atMs: Math.round(at * 1000), mac: mac.replaceAll('-', ':').toLowerCase(), phase, reason: words === '' ? 'unknown' : words }
}

const MONTHS = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec']
const LEASE = /^([A-Z][a-z]{2}) +(\d{1,2}) (\d{2}):(\d{2}):(\d{2}) dnsmasq-dhcp\[\d+\]: (?:\d+ )?DHCPACK\(\S+\) \S+ ([0-9a-f:]{17})/

function parseLease (line: string, nowMs: number): { atMs: number, mac: string } | null {
  const [, month, day, hour, minute, second, mac] = LEASE.exec(line) ?? []
  const monthIndex = MONTHS.indexOf(month ?? '')
  if (mac === undefined || monthIndex === -1) return null
  const inYear = (year: number): number => Date.UTC(year, monthIndex, Number(day), Number(hour), Number(minute), Number(second))
  const year = new Date(nowMs).getUTCFullYear()
  // a line of December read in January; a day of slack for clocks that were set back
  const atMs = inYear(year) > nowMs + 86_400_000 ? inYear(year - 1) : inYear(year)
  return { atMs, mac }
}
