/** Raw frames in hexadecimal, and how pods send, see and count them. */
import { fileURLToPath } from 'node:url'
import type { Pod } from './network-pod.ts'

const TOOL = fileURLToPath(new URL('./frames.pl', import.meta.url))
export const MARK = 'a-marked-frame--'
export const marked = Buffer.from(MARK).toString('hex')
/** The broadcast address. */
export const ALL = 'ffffffffffff'
/** All nodes of a link, by IPv6. */
export const NODES_ALL = 'ff020000000000000000000000000001'
export const LINK_LOCAL = 'fe80000000000000505400fffe000102'

const hexIp = (ip: string): string => ip.split('.').map((byte) => Number(byte).toString(16).padStart(2, '0')).join('')
/** A number as four digits. */
export const hex4 = (value: number): string => value.toString(16).padStart(4, '0')
/** A MAC without its colons. */
export const bare = (mac: string): string => mac.replaceAll(':', '')

/** The 32 digits of an IPv6 address that is written with at most one `::`. */
function hexIp6 (address: string): string {
  const [head = '', tail = ''] = address.split('::').map((part) => part.split(':').filter((group) => group !== '').map((group) => group.padStart(4, '0')).join(''))
  return head + '0'.repeat(32 - head.length - tail.length) + tail
}

export const ethernet = (to: string, from: string, type: string, body: string): string => to + bare(from) + type + body

/** Operation 1 asks, 2 answers. */
export const arp = (operation: number, mac: string, ip: string, target: string): string => `000108000604${hex4(operation)}${bare(mac)}${hexIp(ip)}000000000000${hexIp(target)}${marked}`

/** Sum of 16-bit words as IP headers and ICMPv6 have it (RFC 1071). */
function checksum (text: string): string {
  const bytes = Buffer.from(text, 'hex')
  let sum = 0
  for (let i = 0; i < bytes.length; i += 2) sum += bytes.readUInt16BE(i)
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16)
  return hex4(~sum & 0xffff)
}

/** An IPv4 packet whose body begins with ports, of UDP unless said. */
export function udp (from: string, to: string, source: number, destination: number, body = marked, protocol = '11'): string {
  const bytes = body.length / 2
  const head = (sum: string): string => `4500${hex4(28 + bytes)}0000000040${protocol}${sum}${hexIp(from)}${hexIp(to)}`
  return head(checksum(head('0000'))) + hex4(source) + hex4(destination) + hex4(8 + bytes) + '0000' + body
}

/** Without a valid sum: for frames that nobody is to take. */
export const icmpv6 = (type: number, to: string): string => `60000000${hex4(8 + MARK.length)}3aff${LINK_LOCAL}${to}${type.toString(16).padStart(2, '0')}00000000000000${marked}`

/** A whole frame by which a station asks for the MAC of an IPv6 address (RFC 4861, section 4.3). */
export function solicitation (mac: string, from: string, target: string): string {
  const [source, wanted] = [hexIp6(from), hexIp6(target)]
  const group = `ff0200000000000000000001ff${wanted.slice(-6)}`
  const body = (sum: string): string => `8700${sum}00000000${wanted}0101${bare(mac)}`
  const bytes = body('0000').length / 2
  const sum = checksum(`${source}${group}${bytes.toString(16).padStart(8, '0')}0000003a${body('0000')}`)
  return ethernet(`3333ff${wanted.slice(-6)}`, mac, '86dd', `60000000${hex4(bytes)}3aff${source}${group}${body(sum)}`)
}

/** Sends raw frames out of a namespace's eth0. @returns how many */
export async function send (pod: Pod, netns: string, frames: readonly string[], count = frames.length, perSecond = 1000): Promise<number> {
  const [link] = JSON.parse(await pod.ok('ip -json link show dev eth0', { netns })) as Array<{ ifindex: number }>
  return Number(await pod.ok(`perl ${TOOL} send eth0 ${link?.ifindex ?? 0} ${count} ${perSecond}`, { netns, input: `${frames.join('\n')}\n`, timeoutMs: 120_000 }))
}

/** How many marked frames come in at a namespace's eth0 within some seconds. */
export async function watch (pod: Pod, netns: string, seconds: number): Promise<number> {
  const [link] = JSON.parse(await pod.ok('ip -json link show dev eth0', { netns })) as Array<{ ifindex: number }>
  return Number((await pod.ok(`perl ${TOOL} count eth0 ${link?.ifindex ?? 0} ${seconds} ${MARK}`, { netns })).trim().split('\n').at(-1))
}

/** Text of a program that broadcasts datagrams on 10.42.0.0/16, paced well below what a node may have copied to everybody. */
export const shout = (port: number, count: number): string =>
  `const s = require('node:dgram').createSocket('udp4'); s.bind(0, () => { s.setBroadcast(true); let left = ${count}; const t = setInterval(() => { for (let i = 0; i < 8 && left > 0; i++, left--) s.send('x', ${port}, '10.42.255.255'); if (left === 0) { clearInterval(t); setTimeout(() => s.close(), 200) } }, 50) })`

/** Options of DHCP, by number: values in hexadecimal. */
export const dhcpOptions = (options: ReadonlyArray<readonly [code: number, value: string]>): string => options.map(([code, value]) => hexByte(code) + hexByte(value.length / 2) + value).join('')
const hexByte = (value: number): string => value.toString(16).padStart(2, '0')

/** What an answer of a DHCP server says; `options` in place of those of an acknowledgement. */
export interface DhcpAnswer { from?: string, mac: string, address: string, seconds?: number, relay?: string, options?: string, file?: string, server?: string }

/** A packet with an answer of a DHCP server (RFC 2131): an acknowledgement, unless its options say otherwise. */
export function dhcpAnswer ({ from = '10.42.0.1', mac, address, seconds = 600, relay = '0.0.0.0', options, file = '', server = '' }: DhcpAnswer): string {
  const head = `02010600123456780000000000000000${hexIp(address)}00000000${hexIp(relay)}${bare(mac)}${'0'.repeat(20)}`
  const said = options ?? dhcpOptions([[53, '05'], [54, hexIp(from)], [51, seconds.toString(16).padStart(8, '0')]])
  return udp(from, '255.255.255.255', 67, 68, `${head}${server.padEnd(128, '0')}${file.padEnd(256, '0')}63825363${said}ff`)
}
