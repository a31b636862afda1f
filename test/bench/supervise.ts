import { fork } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { constants, tmpdir } from 'node:os'
import { join } from 'node:path'

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

/**
 * Runs a file of benches in a child, and removes its temporary files however that ends: interrupted,
 * killed or failed. What the child had running ends with it; only its files would be left.
 *
 * @returns the exit code
 */
export async function supervise (file: string, args: readonly string[]): Promise<number> {
  // short, sockets live below; agents with users of their own pass through it
  const dir = await mkdtemp(join(tmpdir(), 'mzn-'))
  await chmod(dir, 0o711)
  const child = fork(file, args, { env: { ...process.env, TMPDIR: dir } })
  const pass = (signal: NodeJS.Signals): void => { child.kill(signal) }
  for (const signal of SIGNALS) process.on(signal, pass)
  try {
    const [code, signal] = await once(child, 'exit') as [number | null, NodeJS.Signals | null]
    return code ?? 128 + (signal === null ? 0 : constants.signals[signal])
  } finally {
    // hosts of the lab are killed with the child and may need a moment to be gone
    await rm(dir, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 })
    for (const signal of SIGNALS) process.off(signal, pass)
  }
}

/** For the child: it ends with its supervisor, and on a signal by way of the listeners of 'exit', so that nothing is left running. */
export function endWithSupervisor (): void {
  for (const signal of SIGNALS) process.once(signal, () => { process.exit(128 + constants.signals[signal]) })
  process.once('disconnect', () => { process.exit(1) })
}
