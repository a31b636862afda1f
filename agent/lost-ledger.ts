import { readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Observers } from './reconcile/reconciler.ts'
import { describeError, MusubiError } from '../protocol/core/errors.ts'
import { END_GUARD_MS, ID_QUARANTINE_MS } from '../protocol/core/lease/lease.ts'
import { MAX_TERM_MS } from '../protocol/core/limits.ts'
import type { Store } from '../store/store.ts'

/** Written by `musubi agent reset`: the operator has declared the ledger lost. */
const markerOf = (stateDir: string): string => join(stateDir, 'ledger-declared-lost')
/** Left beside the store at the first start that was allowed: a ledger that is new where one was in use has been lost. */
const usedBefore = (stateDir: string): string => join(stateDir, 'ledger-in-use')
/** Set at the first start that was allowed: from then on this ledger knows what runs. */
const IN_USE = 'agent/in-use'
const OBSERVE_TIMEOUT_MS = 30_000
/** The latest end that a ledger may have promised: a start in advance, and a term. */
export const LONGEST_MS = 2 * MAX_TERM_MS
/** After the longest lease: what ends late, and the rest of an id. */
export const RESTED_MS = END_GUARD_MS + ID_QUARANTINE_MS

/** The text of a file; null without one. */
async function textOf (path: string): Promise<string | null> {
  return await readFile(path, 'utf8').catch((error: unknown) => {
    if ((error as { code?: unknown }).code === 'ENOENT') return null
    throw error
  })
}

/** For how long leases of the lost ledger may run on; null when nothing was declared. */
async function declaredMs (stateDir: string): Promise<number | null> {
  const text = await textOf(markerOf(stateDir))
  if (text === null) return null
  const [, ms] = /^longest lease (\d{1,15}) ms$/m.exec(text) ?? []
  return ms === undefined ? LONGEST_MS : Number(ms)
}

/**
 * Until when a gateway whose ledger was declared lost gives out no segment ids: other hosts of the site
 * may still carry those that it gave out (lease-protocol.md, Authorities). To be handed to the new
 * ledger, which keeps it, before `refuseLostLedger`.
 *
 * @returns Unix ms; 0 when nothing was declared, or everything is known to be gone
 */
export async function quarantineAfterLoss (store: Store, stateDir: string, nowMs: number): Promise<number> {
  if (await store.get<boolean>(IN_USE) === true) return 0
  const longestMs = await declaredMs(stateDir)
  return longestMs === null || longestMs === 0 ? 0 : nowMs + longestMs + RESTED_MS
}

/**
 * A ledger that starts empty on a host where objects of ours exist, or where one was in use, has been lost. To go on
 * would remove running nodes and volumes with their data, because nothing asks for them any more, and promise anew what leaves no
 * objects here: shares of quotas, reservations. So the agent refuses until the operator has declared the loss (lease-protocol.md, Authorities).
 *
 * @param store the one that holds the ledger; it remembers that the check was passed once
 * @param ready resolves when the drivers can be asked: what cannot be seen must not count as absent
 * @throws MusubiError LEDGER_LOST naming what runs, or saying that a ledger was there
 */
export async function refuseLostLedger (store: Store, stateDir: string, drivers: Observers, ready: () => Promise<unknown> = () => Promise.resolve()): Promise<void> {
  if (await store.get<boolean>(IN_USE) !== true) {
    if (await declaredMs(stateDir) === null) {
      await ready()
      await refuseIfInUse(stateDir, drivers)
    }
    await store.put(IN_USE, true, { sync: true })
  }
  // Also beside one that an earlier release has begun. A disk that is full keeps nobody from starting: it is tried again the next time.
  if (await textOf(usedBefore(stateDir)) === null) await writeFile(usedBefore(stateDir), 'a ledger of this host is in use\n').catch(() => undefined)
  // Also one that was not needed: it must not stand for a loss that is still to come.
  await rm(markerOf(stateDir), { force: true })
}

async function refuseIfInUse (stateDir: string, drivers: Observers): Promise<void> {
  const found: string[] = []
  for (const driver of Object.values(drivers)) {
    try {
      found.push(...(await driver.observe(AbortSignal.timeout(OBSERVE_TIMEOUT_MS))).map(o => `${o.kind} ${o.name}`))
    } catch (error) {
      // What cannot be seen is not removed either: the reconciler leaves a blind kind alone.
      found.push(...(driver.kind === 'volume' ? [`volumes (cannot be seen: ${describeError(error)})`] : []))
    }
  }
  if (found.length === 0) {
    if (await textOf(usedBefore(stateDir)) === null) return
    throw new MusubiError('LEDGER_LOST', `the ledger in ${stateDir} is new, but one was in use there: what it has promised, quotas and reservations, is not known`, {
      hint: 'put the state folder back from a copy, if it has promised nothing since; or declare what it promised lost: musubi agent reset --yes, then start the agent again'
    })
  }
  throw new MusubiError('LEDGER_LOST', `the ledger in ${stateDir} is new, but this host has ${found.slice(0, 5).join(', ')}${found.length > 5 ? ` and ${found.length - 5} more` : ''} of Musubi: going on would remove them`, {
    hint: 'put the state folder back from a copy; or, to give them up with their data: musubi agent reset --yes, then start the agent again'
  })
}

/**
 * Declares the ledger lost: the next start removes what no ledger asks for.
 *
 * @param longestMs how long a lease that it promised may run on; 0: every holder has confirmed that it is gone
 */
export async function declareLost (stateDir: string, longestMs: number = LONGEST_MS): Promise<void> {
  await writeFile(markerOf(stateDir), `declared by the operator\nlongest lease ${longestMs} ms\n`)
}
