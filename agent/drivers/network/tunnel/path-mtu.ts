import { isIP, isIPv6 } from 'node:net'
import { CommandError, runJson } from '../../../exec.ts'
import { runOutside } from '../../../services/outside.ts'
import { TUNNEL_MTU } from '../names.ts'
import { conclude, MAX_PATH_MTU, MAX_TUNNEL_MTU, MIN_PATH_MTU, MIN_TUNNEL_MTU, nextSize, tunnelMtuFor, tunnelOverhead } from './path-search.ts'
import type { Answer } from './path-search.ts'

export interface PathMtuOptions {
  /** longer than the 600 s for which the kernel remembers what a path once took, and answers for it */
  refreshMs: number
  /** of a path on which nobody answered, and the least between two measurements of one peer */
  retryMs: number
}

/** Where a peer is now. */
export interface Destination {
  site: string
  /** inside the tunnel */
  address: string
  /** on the underlay */
  remote: string
}

interface Measured extends Destination {
  pathMtu: number | null
  /** `underlay`: between the two addresses; `tunnel`: through the tunnel, as nobody answers outside of it */
  by: 'underlay' | 'tunnel'
  blackHole: number | null
  local: string
  atMs: number
}

export interface PathMtu {
  /** These are to be measured when it is time, one after the other, beside everything else; all others are forgotten. */
  want (destinations: readonly Destination[]): void
  /** For `detail`: `pathMtu`, `pathMtuBy`, `pathMtuAt` (ISO 8601); empty when nothing was measured. */
  of (address: string): Record<string, unknown>
  /** MTU for the interfaces, bytes. @param current keeps its value until something was measured, so that a restart moves nothing */
  tunnelMtu (addresses: readonly string[], current: number | null): number
  /** Paths on which something is wrong, in words. */
  problems (): string[]
}

const DEFAULTS: PathMtuOptions = { refreshMs: 900_000, retryMs: 60_000 }
/** A round trip on the longest path is below this; lost twice is lost. */
const WAIT_SECONDS = 1
const TRIES = 2
const PING_TIMEOUT_MS = 5_000
const KERNEL_TIMEOUT_MS = 5_000
/** IP and ICMP headers around what `ping -s` counts. */
const pingHeaders = (address: string): number => (isIPv6(address) ? 48 : 28)

/** Reads what `ping -M do` says of one packet. */
export function readPing (output: string, exitCode: number): Answer {
  if (exitCode === 0) return { outcome: 'passed' }
  const told = /\bmtu ?[=:] ?(\d+)/.exec(output)?.[1]
  if (told !== undefined) return { outcome: 'too-big', mtu: Number(told) }
  return /Frag needed|Packet too big|message too long/i.test(output) ? { outcome: 'too-big', mtu: null } : { outcome: 'lost' }
}

async function pingOnce (address: string, size: number, signal: AbortSignal): Promise<Answer> {
  const { stdout, stderr, exitCode } = await runOutside('ping', ['-n', '-M', 'do', '-c', '1', '-W', String(WAIT_SECONDS), '-s', String(size - pingHeaders(address)), address], { signal, timeoutMs: PING_TIMEOUT_MS, okCodes: [1, 2] })
  return readPing(stdout + stderr, exitCode)
}

async function ping (address: string, size: number, signal: AbortSignal): Promise<Answer> {
  let answer = await pingOnce(address, size, signal)
  for (let tries = 1; tries < TRIES && answer.outcome === 'lost'; tries++) answer = await pingOnce(address, size, signal)
  return answer
}

async function search (address: string, ceiling: number, signal: AbortSignal): Promise<ReturnType<typeof conclude>> {
  const answers = new Map<number, Answer>()
  for (let size = nextSize(answers, ceiling); size !== null; size = nextSize(answers, ceiling)) answers.set(size, await ping(address, size, signal))
  return conclude(answers)
}

/** Own address and MTU of the link towards somebody; null when there is no way. */
async function wayTo (address: string, signal: AbortSignal): Promise<{ local: string, mtu: number } | null> {
  const options = { signal, timeoutMs: KERNEL_TIMEOUT_MS }
  try {
    const [route] = await runJson('ip', ['-json', 'route', 'get', address], options) as Array<{ dev?: string, prefsrc?: string }>
    const [link] = await runJson('ip', ['-json', 'link', 'show', 'dev', route?.dev ?? ''], options) as Array<{ mtu?: number }>
    return { local: route?.prefsrc ?? '', mtu: link?.mtu ?? MAX_PATH_MTU }
  } catch (error) {
    if (error instanceof CommandError && !signal.aborted) return null
    throw error
  }
}

async function measure (to: Destination, nowMs: number, signal: AbortSignal): Promise<Measured> {
  const unknown = { ...to, pathMtu: null, by: 'underlay', blackHole: null, local: '', atMs: nowMs } as const
  const way = isIP(to.remote) === 0 ? null : await wayTo(to.remote, signal)
  if (way === null) return unknown
  const outside = await search(to.remote, way.mtu, signal)
  if (outside.pathMtu !== null) return { ...to, ...outside, by: 'underlay', local: way.local, atMs: nowMs }
  // many answer no ping: then what passes through the tunnel must do
  const inside = await search(to.address, TUNNEL_MTU, signal)
  const more = tunnelOverhead(to.remote)
  return inside.pathMtu === null ? { ...unknown, local: way.local } : { ...to, pathMtu: inside.pathMtu + more, by: 'tunnel', blackHole: inside.blackHole === null ? null : inside.blackHole + more, local: way.local, atMs: nowMs }
}

function problemOf ({ site, local, remote, pathMtu, blackHole }: Measured): string[] {
  if (pathMtu === null) return []
  const found: string[] = []
  if (blackHole !== null) found.push(`packets of ${blackHole} bytes from ${local} to ${remote} (site ${site}) vanish without a word, ${pathMtu} bytes pass: let ICMP "fragmentation needed" and "packet too big" through on the way; until then the tunnel keeps below that`)
  if (pathMtu < MIN_PATH_MTU) found.push(`the path from ${local} to ${remote} (site ${site}) takes ${pathMtu} bytes, a tunnel needs ${MIN_PATH_MTU}: larger packets are lost or broken up`)
  return found
}

/** Measures the largest packets that pass to peers, at a bounded rate. */
export function createPathMtu (given: Partial<PathMtuOptions> = {}): PathMtu {
  const options = { ...DEFAULTS, ...given }
  let wanted = new Map<string, Destination>()
  let measured = new Map<string, Measured>()
  /** by address: also of measurements that failed */
  const tried = new Map<string, { remote: string, atMs: number }>()
  let running: AbortController | null = null

  const isDue = ({ address, remote }: Destination, nowMs: number): boolean => {
    const last = tried.get(address)
    if (last === undefined) return true
    const age = Math.abs(nowMs - last.atMs)
    if (age < options.retryMs) return false
    // somewhere else, or nobody answered
    return last.remote !== remote || measured.get(address)?.pathMtu == null || age >= options.refreshMs
  }

  async function work (control: AbortController): Promise<void> {
    const next = (): Destination | undefined => [...wanted.values()].find((one) => isDue(one, Date.now()))
    for (let to = next(); to !== undefined && !control.signal.aborted; to = next()) {
      tried.set(to.address, { remote: to.remote, atMs: Date.now() })
      const found = await measure(to, Date.now(), control.signal).catch(() => null)
      // meanwhile it may not be wanted any more; what could not be measured now keeps its last figure
      if (found !== null && wanted.has(to.address) && (found.pathMtu !== null || measured.get(to.address)?.remote !== to.remote)) measured.set(to.address, found)
    }
  }

  return {
    want (destinations) {
      wanted = new Map(destinations.filter(({ remote }) => isIP(remote) !== 0).map((one) => [one.address, one]))
      measured = new Map([...measured].filter(([address]) => wanted.has(address)))
      for (const address of tried.keys()) if (!wanted.has(address)) tried.delete(address)
      if (wanted.size === 0) running?.abort()
      if (running !== null || wanted.size === 0) return
      const control = new AbortController()
      running = control
      void work(control).finally(() => { running = null })
    },

    of (address) {
      const found = measured.get(address)
      return found === undefined ? {} : { pathMtu: found.pathMtu, pathMtuBy: found.by, pathMtuAt: new Date(found.atMs).toISOString() }
    },

    tunnelMtu (addresses, current) {
      if (measured.size === 0 && current !== null && current >= MIN_TUNNEL_MTU && current <= MAX_TUNNEL_MTU) return current
      return tunnelMtuFor(addresses.map((address) => ({ remote: measured.get(address)?.remote ?? '', pathMtu: measured.get(address)?.pathMtu ?? null })))
    },

    problems: () => [...measured.values()].flatMap(problemOf)
  }
}
