import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { runJson } from '../../../exec.ts'
import { writeAtomically } from '../folder.ts'
import { TABLE, TFTP_ASKED, WIRE_COUNTERS } from '../intercept/nft.ts'

/** What the kernel's counters tell of a cache since it was first set up: bytes of IP packets, but where it says otherwise. */
export interface WireBytes {
  /** from the frontend's HTTP ports, fetched by the cache */
  static: number
  /** from the frontend's HTTP ports, sent to nodes: dynamic requests, and whatever passed while the cache was out */
  dynamic: number
  /** from the frontend's port 443: it passes untouched */
  https: number
  /** from the relay for TFTP at the site of the frontend */
  tftpIn: number
  /** sent to nodes by TFTP */
  tftpOut: number
  /** requests of nodes for a file by TFTP, in number */
  tftpAsked: number
}

interface WireState { sum: WireBytes, last: WireBytes }

const FIELDS = ['static', 'dynamic', 'https', 'tftpIn', 'tftpOut', 'tftpAsked'] as const
export const noWireBytes = (): WireBytes => ({ static: 0, dynamic: 0, https: 0, tftpIn: 0, tftpOut: 0, tftpAsked: 0 })

/** What the kernel's counters say now; null when they cannot be asked, or are not there. */
async function countersNow (namespace: string): Promise<WireBytes | null> {
  const now = noWireBytes()
  try {
    const listing = await runJson('nft', ['-j', 'list', 'counters', 'table', 'bridge', TABLE], { netns: namespace }) as { nftables?: Array<{ counter?: { name?: unknown, bytes?: unknown, packets?: unknown } }> }
    for (const { counter } of listing.nftables ?? []) {
      if (counter?.name === TFTP_ASKED && typeof counter.packets === 'number') now.tftpAsked = counter.packets
      const field = FIELDS.find(one => one !== 'tftpAsked' && counter?.name === WIRE_COUNTERS[one])
      if (field !== undefined && typeof counter?.bytes === 'number') now[field] = counter.bytes
    }
  } catch {
    return null
  }
  return now
}

/** Adds what a counter says now to what it said before: one that is smaller has begun anew, with its table. Pure. */
export function addWire ({ sum, last }: WireState, now: WireBytes): WireState {
  const next = noWireBytes()
  for (const one of FIELDS) next[one] = sum[one] + now[one] - (now[one] >= last[one] ? last[one] : 0)
  return { sum: next, last: now }
}

/** Sums over all tables that the cache had; kept in `<folder>/wire.json`. Not for two callers at once. */
export async function readWireBytes (folder: string, namespace: string): Promise<WireBytes> {
  const path = join(folder, 'wire.json')
  let state: WireState = { sum: noWireBytes(), last: noWireBytes() }
  try {
    const value = JSON.parse(await readFile(path, 'utf8')) as Partial<WireState>
    state = { sum: { ...noWireBytes(), ...value.sum }, last: { ...noWireBytes(), ...value.last } }
  } catch {
    // none yet, or torn: counted from here
  }
  const now = await countersNow(namespace)
  if (now === null) return state.sum
  const after = addWire(state, now)
  await writeAtomically(path, JSON.stringify(after))
  return after.sum
}
