import { run } from '../../exec.ts'
import { METADATA_NAMESPACE, objectName } from './names.ts'
import type { DomainStats } from './driver.ts'

/** virsh takes several commands as one argument, which the kernel bounds at 128 KiB. */
const NAMES_PER_CALL = 400
const MARK = '@@musubi@@'

/** What our metadata element says. */
export interface DomainMark {
  name: string
  uuid: string
  cluster: string
  fingerprint: string
  bridge: string
  tap: string
  /** of the second card; empty: there is none */
  localBridge: string
  localTap: string
}

/** One domain of ours as libvirt knows it. */
export interface KnownDomain extends DomainStats {
  /** libvirt's name */
  domain: string
  mark: DomainMark
}

/** libvirt through its own command line client; every call is one process of some 25 ms. */
export interface Virsh {
  /** Runs one command. @throws CommandError as `run` does */
  call (args: readonly string[], signal?: AbortSignal): Promise<string>
  /**
   * One command that changes something. It is not begun on an aborted signal, but once begun it is
   * not cut off: libvirtd would finish it anyway, behind the back of whatever is done next.
   */
  change (args: readonly string[], signal: AbortSignal): Promise<string>
  /** All domains, by libvirt's name, ours or not. */
  stats (signal?: AbortSignal): Promise<Map<string, DomainStats>>
  /** The domains that carry our mark; in steady state this is one process, whatever their number. */
  domains (signal?: AbortSignal): Promise<KnownDomain[]>
}

/** @param uri libvirt's connection URI, e.g. `qemu:///system` */
export function createVirsh (uri: string): Virsh {
  /** names seen by the last look, asked for along with the next: a hint that saves a process */
  let hint: string[] = []
  const call = async (args: readonly string[], signal?: AbortSignal): Promise<string> => {
    const { stdout } = await run('virsh', ['--quiet', '--connect', uri, ...args], signal === undefined ? {} : { signal })
    return stdout
  }
  const batch = async (commands: readonly string[], signal?: AbortSignal): Promise<string> => {
    // the exit code is the last command's: a domain that vanished meanwhile is an answer, so end with one that succeeds
    return await call([[...commands, `echo ${MARK}`].join('; ')], signal)
  }
  // objectName() let only names through that need no quoting
  const marksOf = (domains: readonly string[]): string[] =>
    domains.flatMap(domain => [`echo ${MARK}${domain}@`, `metadata --domain ${domain} --uri ${METADATA_NAMESPACE}`])

  return {
    call,
    async change (args, signal) {
      signal.throwIfAborted()
      const out = await call(args)
      signal.throwIfAborted()
      return out
    },
    async stats (signal) {
      return parseDomstats(await call(['domstats', '--state', '--interface', '--nowait'], signal))
    },
    async domains (signal) {
      const asked = hint
      const [first = '', ...answers] = (await batch(['domstats --state --interface --nowait', ...marksOf(asked)], signal)).split(MARK)
      const stats = parseDomstats(first)
      const ours = [...stats.keys()].filter(domain => objectName(domain) !== null)
      const marks = parseMarks(answers)
      const unknown = ours.filter(domain => !asked.includes(domain))
      for (let i = 0; i < unknown.length; i += NAMES_PER_CALL) {
        const [, ...more] = (await batch(marksOf(unknown.slice(i, i + NAMES_PER_CALL)), signal)).split(MARK)
        for (const [domain, mark] of parseMarks(more)) marks.set(domain, mark)
      }
      hint = ours.slice(0, NAMES_PER_CALL)
      return ours.flatMap(domain => {
        const mark = marks.get(domain)
        const figures = stats.get(domain)
        return mark === undefined || figures === undefined || mark.name !== objectName(domain) ? [] : [{ domain, mark, ...figures }]
      })
    }
  }
}

const STATES: Readonly<Record<string, string>> = {
  0: 'no state', 1: 'running', 2: 'blocked', 3: 'paused', 4: 'in shutdown', 5: 'shut off', 6: 'crashed', 7: 'suspended'
}

/** Reads `virsh domstats --state --interface`; bytes are from the guest's point of view, of its card on the cluster's segment, the first one. */
export function parseDomstats (text: string): Map<string, DomainStats> {
  const all = new Map<string, DomainStats>()
  let current: DomainStats | undefined
  for (const line of text.split('\n')) {
    const title = /^Domain: '(.*)'$/.exec(line)
    if (title?.[1] !== undefined) {
      current = { state: 'no state', rxBytes: 0, txBytes: 0 }
      all.set(title[1], current)
      continue
    }
    const pair = /^\s+([a-z0-9.]+)=(.*)$/.exec(line)
    if (pair?.[1] === undefined || pair[2] === undefined || current === undefined) continue
    if (pair[1] === 'state.state') current.state = STATES[pair[2]] ?? `state ${pair[2]}`
    else if (pair[1] === 'net.0.rx.bytes') current.rxBytes = Number(pair[2])
    else if (pair[1] === 'net.0.tx.bytes') current.txBytes = Number(pair[2])
  }
  return all
}

/** Answers of the form `<domain>@<object .../>`; domains without our element have no entry. */
function parseMarks (answers: readonly string[]): Map<string, DomainMark> {
  const marks = new Map<string, DomainMark>()
  for (const answer of answers) {
    const at = answer.indexOf('@')
    const mark = at < 0 ? null : parseMark(answer.slice(at + 1))
    if (mark !== null) marks.set(answer.slice(0, at), mark)
  }
  return marks
}

/** Reads our metadata element as `virsh metadata` prints it; null when it is not ours or not whole. */
export function parseMark (text: string): DomainMark | null {
  const element = /<(?:[\w-]+:)?object\s([^<>]*?)\/?>/.exec(text)?.[1]
  if (element === undefined) return null
  const attributes = new Map<string, string>()
  for (const [, key, , value] of element.matchAll(/([\w:]+)=(["'])(.*?)\2/g)) {
    if (key !== undefined && value !== undefined) attributes.set(key, unescapeXml(value))
  }
  const get = (key: string): string => attributes.get(key) ?? ''
  const mark = { name: get('name'), uuid: get('uuid'), cluster: get('cluster'), fingerprint: get('fingerprint'), bridge: get('bridge'), tap: get('tap'), localBridge: get('localBridge'), localTap: get('localTap') }
  return mark.name === '' || mark.fingerprint === '' ? null : mark
}

function unescapeXml (text: string): string {
  const named: Readonly<Record<string, string>> = { lt: '<', gt: '>', quot: '"', apos: "'", amp: '&' }
  return text.replace(/&(?:#(\d+)|#x([0-9a-fA-F]+)|([a-z]+));/g, (whole, decimal?: string, hex?: string, name?: string) => {
    if (decimal !== undefined) return String.fromCodePoint(Number(decimal))
    if (hex !== undefined) return String.fromCodePoint(Number.parseInt(hex, 16))
    return name === undefined ? whole : named[name] ?? whole
  })
}
