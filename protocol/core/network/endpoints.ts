/** Where hosts are reached on the underlay: IPv4 and IPv6 addresses, and `address:port`. One parser for all of it. */
import { parseIp } from './addresses.ts'

export type IpVersion = 4 | 6

/** An address and UDP port on the underlay; an IPv6 address stands in its one short form, without brackets. */
export interface Endpoint { address: string, version: IpVersion, port: number }

const GROUP = /^[0-9a-fA-F]{1,4}$/
const GROUPS = 8

/** The eight 16-bit numbers of an IPv6 address, or null. An IPv4 address within it, and a zone, are not taken: nobody needs them on an underlay. */
export function parseIp6 (text: string): number[] | null {
  const halves = text.split('::')
  if (halves.length > 2) return null
  const [head = [], tail = []] = halves.map(half => half === '' ? [] : half.split(':'))
  const zeros = GROUPS - head.length - tail.length
  if (halves.length === 1 ? zeros !== 0 : zeros < 1) return null
  const groups = [...head, ...Array.from({ length: zeros }, () => '0'), ...tail]
  return groups.every(group => GROUP.test(group)) ? groups.map(group => Number.parseInt(group, 16)) : null
}

/** The one short form (RFC 5952, section 4): lower case, no leading zeros, the longest run of zeros left out, of equal ones the first. */
export function formatIp6 (groups: readonly number[]): string {
  let run = { from: 0, length: 1 }
  for (let from = 0; from < groups.length; from++) {
    const end = groups.findIndex((group, i) => i >= from && group !== 0)
    const length = (end === -1 ? groups.length : end) - from
    if (length > run.length) run = { from, length }
  }
  const text = (part: readonly number[]): string => part.map(group => group.toString(16)).join(':')
  return run.length < 2 ? text(groups) : `${text(groups.slice(0, run.from))}::${text(groups.slice(run.from + run.length))}`
}

/** An IPv4 address as it is, an IPv6 address in its short form; null when it is neither. */
export function normalAddress (text: string): { address: string, version: IpVersion } | null {
  if (parseIp(text) !== null) return { address: text, version: 4 }
  const groups = parseIp6(text)
  return groups === null ? null : { address: formatIp6(groups), version: 6 }
}

/**
 * Whether a host can be reached there: no loopback, no multicast, no broadcast, no link-local address, no
 * range without hosts. Public and private ranges are both fine, sites use what they have. An IPv6 address
 * must be written in its short form: addresses are compared as text.
 */
export function isUnderlayAddress (text: string): boolean {
  const ip = parseIp(text)
  if (ip !== null) {
    const first = ip >>> 24
    return first !== 0 && first !== 127 && first < 224 && ip >>> 16 !== 0xa9fe
  }
  const groups = parseIp6(text)
  if (groups === null || formatIp6(groups) !== text) return false
  const [first = 0] = groups
  // 0000::/8 has no hosts: unspecified, loopback, and IPv4 in disguise
  return first >>> 8 !== 0 && first >>> 8 !== 0xff && (first & 0xffc0) !== 0xfe80 && (first & 0xffc0) !== 0xfec0
}

/** `192.0.2.1:51820`, `[2001:db8::1]:51820` */
export const formatEndpoint = (address: string, port: number): string => address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`

/** What `address:port` names, or null: a host's address, no name, and a port. */
export function parseEndpoint (text: string): Endpoint | null {
  const [, v4, v6, digits = ''] = /^(?:([0-9.]{7,15})|\[([0-9a-f:]{2,39})\]):([1-9][0-9]{0,4})$/.exec(text) ?? []
  const address = v4 ?? v6 ?? ''
  const port = Number(digits)
  if (!isUnderlayAddress(address) || port < 1 || port > 65_535) return null
  return { address, version: v4 === undefined ? 6 : 4, port }
}

/** At most one endpoint of each IP version, with a comma between them, and one port for both; null when it is anything else. */
export function parseEndpoints (text: string): Endpoint[] | null {
  if (text.length > 96) return null
  const found = text.split(',').map(parseEndpoint)
  const [first, second] = found
  if (first == null || second === null || found.length > 2) return null
  if (second === undefined) return [first]
  return first.version !== second.version && first.port === second.port ? [first, second] : null
}

/** As documents and records carry it. @param addresses in the order in which they were configured */
export const formatEndpoints = (addresses: readonly string[], port: number): string => addresses.map(address => formatEndpoint(address, port)).join(',')

/**
 * The endpoint of another gateway for packets of an IP version that both have: IPv4 where both have both,
 * as its header is 20 bytes shorter.
 *
 * @param own endpoints as documents carry them; what cannot be read shares nothing
 * @returns `address:port`, or null when they share no IP version
 */
export function sharedEndpoint (own: string, theirs: string): string | null {
  const mine = parseEndpoints(own) ?? []
  const common = (parseEndpoints(theirs) ?? []).filter(one => mine.some(({ version }) => version === one.version)).sort((a, b) => a.version - b.version)
  const [chosen] = common
  return chosen === undefined ? null : formatEndpoint(chosen.address, chosen.port)
}

const versionsOf = (endpoint: string): string => (parseEndpoints(endpoint) ?? []).map(({ version }) => version).sort().join()

/** Which two gateways could not reach each other, as one has IPv4 alone and the other IPv6 alone, in words; null when there are none. */
export function endpointClash (gateways: ReadonlyArray<{ site: string, host: string, tunnelEndpoint: string }>): string | null {
  const [four, six] = ['4', '6'].map(only => gateways.find(({ tunnelEndpoint }) => versionsOf(tunnelEndpoint) === only))
  if (four === undefined || six === undefined) return null
  return `gateway ${four.host} of site ${four.site} has its tunnel at ${four.tunnelEndpoint}, gateway ${six.host} of site ${six.site} at ${six.tunnelEndpoint}: they have no IP version in common`
}
