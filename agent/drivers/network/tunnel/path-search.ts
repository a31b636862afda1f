/** Which size to try next on a path, and what the answers mean: pure. Sizes are of whole IP packets, in bytes. */
import { isIPv6 } from 'node:net'
import { VXLAN_OVERHEAD_BYTES } from '../filter.ts'
import { INNER_MTU, IPV6_MIN_MTU, TUNNEL_MTU } from '../names.ts'

/** What an underlay must carry. */
export const MIN_PATH_MTU = IPV6_MIN_MTU
/** What every IPv4 host must take in (RFC 1122, section 3.3.2): one that does not answer this does not answer at all. */
const TINY = 576
/** Jumbo frames as cards have them; more than any tunnel packet needs. */
export const MAX_PATH_MTU = 9216
/** UDP 8, WireGuard's header 16 and its tag 16, and the outer IP header. */
export const tunnelOverhead = (remote: string): number => (isIPv6(remote) ? 40 : 20) + 8 + 32
/** What a path of 1280 leaves when the outer header is of IPv6. */
export const MIN_TUNNEL_MTU = MIN_PATH_MTU - 80
/** A whole inner frame in VXLAN: no larger packet enters the tunnel. */
export const MAX_TUNNEL_MTU = INNER_MTU + VXLAN_OVERHEAD_BYTES

/** `too-big`: somebody said so, perhaps with what would pass; `lost`: nobody said anything, also not when asked again. */
export type Answer = { outcome: 'passed' } | { outcome: 'too-big', mtu: number | null } | { outcome: 'lost' }

export interface PathFound {
  /** largest size that passed; null when nobody answers at all */
  pathMtu: number | null
  /** smallest size that vanished without a word, while smaller ones pass; null when there is none */
  blackHole: number | null
}

const largestPassed = (answers: ReadonlyMap<number, Answer>): number => Math.max(0, ...[...answers].filter(([, { outcome }]) => outcome === 'passed').map(([size]) => size))
const smallestFailed = (answers: ReadonlyMap<number, Answer>): number => Math.min(Infinity, ...[...answers].filter(([, { outcome }]) => outcome !== 'passed').map(([size]) => size))

/**
 * Bisection, shortened by what routers say: the size of the own link first, then what was told, then
 * the least that must pass, then halves. At most 16 sizes for a link of 9216.
 *
 * @param ceiling MTU of the own link
 * @returns null when the path is known
 */
export function nextSize (answers: ReadonlyMap<number, Answer>, ceiling: number): number | null {
  const top = Math.min(ceiling, MAX_PATH_MTU)
  if (!answers.has(top)) return top
  const passed = largestPassed(answers)
  const failed = smallestFailed(answers)
  if (failed - passed <= 1 || passed >= top) return null
  const first = answers.get(failed)
  if (passed > 0 && first?.outcome === 'too-big' && first.mtu === passed) return null
  const told = [...answers.values()].map((answer) => (answer.outcome === 'too-big' ? answer.mtu ?? 0 : 0)).filter((mtu) => mtu > passed && mtu < failed && mtu >= TINY)
  if (told.length > 0) return Math.min(...told)
  if (passed === 0) {
    if (failed > MIN_PATH_MTU) return MIN_PATH_MTU
    return failed > TINY ? TINY : null
  }
  return Math.floor((passed + failed) / 2)
}

/** What a finished search has found. */
export function conclude (answers: ReadonlyMap<number, Answer>): PathFound {
  const passed = largestPassed(answers)
  const failed = smallestFailed(answers)
  return { pathMtu: passed === 0 ? null : passed, blackHole: passed > 0 && answers.get(failed)?.outcome === 'lost' ? failed : null }
}

/**
 * MTU of the tunnel's interfaces, bytes: what the narrowest path takes; 1420 without a measurement, as
 * with any path of 1500; room for whole frames only where every path has it.
 *
 * @param paths one per peer; `pathMtu` null when it is not known
 */
export function tunnelMtuFor (paths: ReadonlyArray<{ remote: string, pathMtu: number | null }>): number {
  const inner = paths.map(({ remote, pathMtu }) => (pathMtu === null ? TUNNEL_MTU : pathMtu - tunnelOverhead(remote)))
  if (inner.length > 0 && inner.every((bytes) => bytes >= MAX_TUNNEL_MTU)) return MAX_TUNNEL_MTU
  // WireGuard fills up to multiples of 16, but not beyond the MTU of its own end: the other end's may be larger
  const fitting = inner.map((bytes) => (bytes >= TUNNEL_MTU ? TUNNEL_MTU : bytes - bytes % 16))
  return Math.max(MIN_TUNNEL_MTU, Math.min(TUNNEL_MTU, ...fitting))
}
