import { until as within } from '../../lab/process.ts'
import { MusubiError } from '../../protocol/core/errors.ts'

/** Longer than anything that tests of caches wait for takes on a busy machine. */
const PATIENCE_MS = 60_000

/** Waits for what a cache does by itself. @param seen what there is instead, for the error @throws MusubiError `TIMEOUT` with `what` */
export async function until (what: string, holds: () => Promise<boolean>, seen?: () => Promise<unknown>): Promise<void> {
  try {
    await within(what, PATIENCE_MS, holds, { everyMs: 100 })
  } catch (error) {
    if (seen === undefined || !(error instanceof MusubiError)) throw error
    throw new MusubiError(error.code, `${error.message}; there is ${JSON.stringify(await seen())}`)
  }
}
