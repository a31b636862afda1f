/**
 * Addresses of a cluster's segment. Everything is laid out so that a person reads the site off it:
 * in 10.42.0.0/16 the frontend is .0.1, node 7 at the second site .2.7, that site's gateway .255.2;
 * the last two bytes of a MAC are the last two bytes of the address.
 */
import { MAX_NODES_PER_CLUSTER, MAX_SITES_PER_CLUSTER } from '../limits.ts'

/** The layout uses two whole bytes (site, node), so a segment needs at least this many host bits. */
export const MAX_PREFIX_LENGTH = 16
/** The third byte of the gateways' own addresses; above every site number. */
const GATEWAY_BYTE = 255

/** A parsed IPv4 network; `base` is the network address as an unsigned 32-bit number. */
export interface Cidr { base: number, prefixLength: number }

const privateRanges: readonly Cidr[] = [
  { base: 0x0a000000, prefixLength: 8 },
  { base: 0xac100000, prefixLength: 12 },
  { base: 0xc0a80000, prefixLength: 16 }
]

const mask = (prefixLength: number): number => prefixLength === 0 ? 0 : (0xffffffff << (32 - prefixLength)) >>> 0

const contains = (outer: Cidr, inner: Cidr): boolean =>
  inner.prefixLength >= outer.prefixLength && ((inner.base & mask(outer.prefixLength)) >>> 0) === outer.base

/** Dotted quad of an unsigned 32-bit number. */
export const formatIp = (ip: number): string => [24, 16, 8, 0].map(shift => (ip >>> shift) & 0xff).join('.')

/** The unsigned 32-bit number of a dotted quad, or null; leading zeros are refused as ambiguous. */
export function parseIp (text: string): number | null {
  const match = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/.exec(text)
  if (match === null) return null
  let ip = 0
  for (const part of match.slice(1)) {
    const byte = Number(part)
    if (byte > 255 || String(byte) !== part) return null
    ip = ip * 256 + byte
  }
  return ip
}

/** The network that `a.b.c.d/len` names, or null when it is not written as one. */
export function parseCidr (text: string): Cidr | null {
  const match = /^([0-9.]+)\/(\d{1,2})$/.exec(text)
  const base = match === null ? null : parseIp(match[1] ?? '')
  const prefixLength = Number(match?.[2])
  if (base === null || !(prefixLength <= 32)) return null
  return { base, prefixLength }
}

/** Whether two networks have an address in common; each as `address/length`, of the network or of a host in it. False for what is none. */
export function networksOverlap (one: string, other: string): boolean {
  const [a, b] = [parseCidr(one), parseCidr(other)]
  if (a === null || b === null) return false
  const shared = mask(Math.min(a.prefixLength, b.prefixLength))
  return (a.base & shared) === (b.base & shared)
}

/** What is wrong with a segment's network, in words; null when it can be used. */
export function cidrProblem (text: string): string | null {
  const cidr = parseCidr(text)
  if (cidr === null) return `"${text}" is not an IPv4 network such as 10.42.0.0/16`
  const network = (cidr.base & mask(cidr.prefixLength)) >>> 0
  if (network !== cidr.base) return `"${text}" has bits set behind its prefix; did you mean ${formatIp(network)}/${cidr.prefixLength}?`
  if (!privateRanges.some(range => contains(range, cidr))) return `"${text}" is not inside a private range (10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16)`
  if (cidr.prefixLength > MAX_PREFIX_LENGTH) return `"${text}" is too small: a segment needs a /${MAX_PREFIX_LENGTH} or larger, because addresses tell site and node`
  return null
}

export interface Layout {
  prefixLength: number
  frontend: { ip: string, mac: string }
  /** @param site index of the member site, the master is 0  @param node number in the cluster, from 1 */
  node (site: number, node: number): { ip: string, mac: string }
  gateway (site: number): { ip: string, mac: string }
}

const inRange = (value: number, from: number, to: number, what: string): number => {
  if (!Number.isInteger(value) || value < from || value > to) throw new RangeError(`${what} ${value} is outside ${from}..${to}`)
  return value
}

/**
 * Where everything of one segment lives. MACs are locally administered and start with 52:54; their
 * middle bytes come from the VNI, so that frames of two clusters can be told apart in a capture.
 *
 * @param cidr a network without `cidrProblem`
 * @param vni 24 bits
 * @param of `site`: the second segment, which does not leave its site; its MACs start with 52:55
 */
export function layout (cidr: string, vni: number, of: 'cluster' | 'site' = 'cluster'): Layout {
  const network = parseCidr(cidr)
  if (network === null || cidrProblem(cidr) !== null) throw new RangeError(cidrProblem(cidr) ?? 'no network')
  const hex = (byte: number): string => byte.toString(16).padStart(2, '0')
  const place = (high: number, low: number): { ip: string, mac: string } => ({
    ip: formatIp(network.base + high * 256 + low),
    mac: ['52', of === 'site' ? '55' : '54', hex((vni >>> 8) & 0xff), hex(vni & 0xff), hex(high), hex(low)].join(':')
  })
  const siteByte = (site: number): number => 1 + inRange(site, 0, MAX_SITES_PER_CLUSTER - 1, 'site index')
  return {
    prefixLength: network.prefixLength,
    frontend: place(0, 1),
    node: (site, node) => place(siteByte(site), inRange(node, 1, MAX_NODES_PER_CLUSTER, 'node number')),
    gateway: site => place(GATEWAY_BYTE, siteByte(site))
  }
}
