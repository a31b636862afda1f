import { rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Observers } from './reconciler.ts'
import { describeError, MusubiError } from '../protocol/core/errors.ts'
import type { Store } from '../store/store.ts'

/** Written by `musubi agent reset`: the operator has declared the ledger lost. */
const markerOf = (stateDir: string): string => join(stateDir, 'ledger-declared-lost')
/** Set at the first start that was allowed: from then on this ledger knows what runs. */
const IN_USE = 'agent/in-use'
const OBSERVE_TIMEOUT_MS = 30_000

/**
 * A ledger that starts empty on a host where objects of ours exist has been lost. To go on would
 * remove running nodes and volumes with their data, because nothing asks for them any more; so the
 * agent refuses until the operator has declared the loss (lease-protocol.md, Authorities).
 *
 * @param store the one that holds the ledger; it remembers that the check was passed once
 * @param ready resolves when the drivers can be asked: what cannot be seen must not count as absent
 * @throws MusubiError LEDGER_LOST naming what runs
 */
export async function refuseLostLedger (store: Store, stateDir: string, drivers: Observers, ready: () => Promise<unknown> = () => Promise.resolve()): Promise<void> {
  if (await store.get<boolean>(IN_USE) === true) return
  const declared = await stat(markerOf(stateDir)).then(() => true, () => false)
  if (!declared) {
    await ready()
    await refuseIfInUse(stateDir, drivers)
  }
  await store.put(IN_USE, true, { sync: true })
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
  if (found.length === 0) return
  throw new MusubiError('LEDGER_LOST', `the ledger in ${stateDir} is new, but this host has ${found.slice(0, 5).join(', ')}${found.length > 5 ? ` and ${found.length - 5} more` : ''} of Musubi: going on would remove them`, {
    hint: 'put the state folder back from a copy; or, to give them up with their data: musubi agent reset --yes, then start the agent again'
  })
}

/** Declares the ledger lost: the next start removes what no ledger asks for. */
export async function declareLost (stateDir: string): Promise<void> {
  await writeFile(markerOf(stateDir), 'declared by the operator\n')
}
