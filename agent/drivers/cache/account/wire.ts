import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { runJson } from '../../../exec.ts'
import { writeAtomically } from '../folder.ts'
import { TABLE, WIRE_COUNTERS } from '../intercept/nft.ts'

/** Bytes of IP packets that came from the frontend's HTTP ports, since the cache was first set up. */
export interface WireBytes {
  /** fetched by the cache */
  static: number
  /** sent to nodes: dynamic requests, and whatever passed while the cache was out */
  dynamic: number
}

interface WireState { sum: WireBytes, last: WireBytes }

const CLASSES = ['static', 'dynamic'] as const
const none = (): WireBytes => ({ static: 0, dynamic: 0 })

/** What the kernel's counters say now; null when they cannot be asked, or are not there. */
async function countersNow (namespace: string): Promise<WireBytes | null> {
  const now = none()
  try {
    const listing = await runJson('nft', ['-j', 'list', 'counters', 'table', 'bridge', TABLE], { netns: namespace }) as { nftables?: Array<{ counter?: { name?: unknown, bytes?: unknown } }> }
    for (const { counter } of listing.nftables ?? []) {
      for (const one of CLASSES) if (counter?.name === WIRE_COUNTERS[one] && typeof counter.bytes === 'number') now[one] = counter.bytes
    }
  } catch {
    return null
  }
  return now
}

/** Adds what a counter says now to what it said before: one that is smaller has begun anew, with its table. Pure. */
export function addWire ({ sum, last }: WireState, now: WireBytes): WireState {
  const next = none()
  for (const one of CLASSES) next[one] = sum[one] + now[one] - (now[one] >= last[one] ? last[one] : 0)
  return { sum: next, last: now }
}

/** Sums over all tables that the cache had; kept in `<folder>/wire.json`. Not for two callers at once. */
export async function readWireBytes (folder: string, namespace: string): Promise<WireBytes> {
  const path = join(folder, 'wire.json')
  let state: WireState = { sum: none(), last: none() }
  try {
    const value = JSON.parse(await readFile(path, 'utf8')) as Partial<WireState>
    state = { sum: { ...none(), ...value.sum }, last: { ...none(), ...value.last } }
  } catch {
    // none yet, or torn: counted from here
  }
  const now = await countersNow(namespace)
  if (now === null) return state.sum
  const after = addWire(state, now)
  await writeAtomically(path, JSON.stringify(after))
  return after.sum
}
