import type { Logger } from 'pino'

/** What a daemon tells its service manager (sd_notify); does nothing where there is none. */
export interface Notifier {
  ready (status: string): Promise<void>
  stopping (): Promise<void>
}

const STOP_TIMEOUT_MS = 15_000

/** Waits for SIGTERM or SIGINT, stops in order, and ends the process; a stop that hangs becomes a kill, which the next start repairs. */
export async function untilStopped (log: Logger, stop: () => Promise<void>): Promise<void> {
  const signal = await new Promise<string>(resolve => {
    for (const name of ['SIGTERM', 'SIGINT'] as const) process.once(name, () => { resolve(name) })
  })
  log.info({ signal }, 'stopping')
  setTimeout(() => process.exit(1), STOP_TIMEOUT_MS).unref()
  await stop()
  process.exit(0)
}
