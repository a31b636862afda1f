/**
 * What may come to WireGuard's ports, and what may leave only through the tunnel: docs/adr/0020-tunnel.md.
 */
import { fingerprint } from '../../../fingerprint.ts'
import { CommandError, run, runJson } from '../../../exec.ts'
import { parseChains } from '../observe/observed.ts'
import { TRACKS, TUNNEL_TABLE, wgInterface } from './names.ts'

/** Datagrams per second from one address that is not known: a peer that has moved needs one to become known. */
const STRANGER_PER_SECOND = 50
/** And from all of them: a handshake costs some 0.1 ms of a core, so they take less than a fifth of one. */
const STRANGERS_PER_SECOND = 2_000
/** Addresses that are remembered at once. */
const MAX_ADDRESSES = 4_096
const KERNEL_TIMEOUT_MS = 10_000

/**
 * nft text of the whole table, in one transaction. An address to which WireGuard has sent something
 * from one of its ports is a peer's: it answers nobody who has not shown a key, and the cookies that
 * it sends under load only prove that somebody can receive there. From all others come, at a bounded
 * rate, only what may begin a conversation (first four bytes of the payload, `@th,64,32`): handshakes
 * (type 1), and data (type 4) of a peer that has changed its address, which WireGuard checks.
 * What WireGuard itself sends never goes into a tunnel: peers say where they are, and one that says an
 * address inside tunnels would have every packet wrapped again and again.
 *
 * @param address own one inside the tunnel: nothing of it leaves by another link, whatever the routes say
 */
export function renderTable (address: string, ports: readonly number[]): string {
  const list = [...ports].sort((a, b) => a - b).join(', ')
  const own = TRACKS.map((track) => `"${wgInterface(track)}"`).join(', ')
  const seen = (family: string): string => `type ipv${family}_addr; flags dynamic,timeout; timeout 5m; size ${MAX_ADDRESSES};`
  const rate = (set: string, source: string): string => `add @${set} { ${source} limit rate over ${STRANGER_PER_SECOND}/second burst ${STRANGER_PER_SECOND} packets } counter drop`
  const body = `  set peers4 { ${seen('4')} }
  set peers6 { ${seen('6')} }
  set strangers4 { ${seen('4')} }
  set strangers6 { ${seen('6')} }
  chain out {
    type filter hook output priority -10; policy accept;
    ip saddr ${address} oifname != { "lo", ${own} } counter drop MARK
    udp sport { ${list} } jump told MARK
  }
  chain told {
    oifname { ${own} } counter drop MARK
    update @peers4 { ip daddr }
    update @peers6 { ip6 daddr }
  }
  chain in {
    type filter hook input priority -10; policy accept;
    udp dport { ${list} } jump wireguard MARK
  }
  chain wireguard {
    ip saddr @peers4 accept MARK
    ip6 saddr @peers6 accept
    @th,64,32 != { 0x01000000, 0x04000000 } counter drop
    ${rate('strangers4', 'ip saddr')}
    ${rate('strangers6', 'ip6 saddr')}
    limit rate over ${STRANGERS_PER_SECOND}/second burst ${STRANGERS_PER_SECOND} packets counter drop
  }
`
  const mark = `comment "${fingerprint([body])}"`
  return `table inet ${TUNNEL_TABLE}\ndelete table inet ${TUNNEL_TABLE}\ntable inet ${TUNNEL_TABLE} {\n${body.replaceAll('MARK', mark)}}\n`
}

/** The mark and the number of rules of each chain: they tell whether a table is as rendered. */
const shapeOf = (chains: ReadonlyArray<{ name: string, marks: string[] }>): string => chains.map(({ name, marks }) => `${name} ${marks.length} ${marks.find((mark) => mark !== '') ?? ''}`).sort().join('; ')

/** What `tableShape` must be for that text. */
export function wantedShape (text: string): string {
  const mark = /comment "([^"]*)"/.exec(text)?.[1] ?? ''
  return shapeOf([['out', 2], ['told', 3], ['in', 1], ['wireguard', 6]].map(([name, rules]) => ({ name: String(name), marks: [mark, ...Array.from({ length: Number(rules) - 1 }, () => '')] })))
}

/** '' without a table. */
export async function tableShape (signal: AbortSignal): Promise<string> {
  try {
    return shapeOf(parseChains(await runJson('nft', ['-j', 'list', 'table', 'inet', TUNNEL_TABLE], { signal, timeoutMs: KERNEL_TIMEOUT_MS })))
  } catch (error) {
    if (error instanceof CommandError && error.stderr.includes('No such file or directory')) return ''
    throw error
  }
}

export async function setTable (text: string, signal: AbortSignal): Promise<void> {
  await run('nft', ['-f', '-'], { input: text, signal, timeoutMs: KERNEL_TIMEOUT_MS })
}

export async function dropTable (signal: AbortSignal): Promise<void> {
  await setTable(`table inet ${TUNNEL_TABLE}\ndelete table inet ${TUNNEL_TABLE}\n`, signal)
}
