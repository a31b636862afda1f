import { until as within } from '../../lab/process.ts'

/** Longer than anything that tests of caches wait for takes on a busy machine. */
const PATIENCE_MS = 60_000

/** Waits for what a cache does by itself. @throws MusubiError `TIMEOUT` with `what` */
export async function until (what: string, holds: () => Promise<boolean>): Promise<void> {
  await within(what, PATIENCE_MS, holds, { everyMs: 100 })
}
