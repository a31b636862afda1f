import { MusubiError } from '../protocol/core/errors.ts'

const EXIT_CODES = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 } as const
const REPEAT_MS = 500
type Stop = keyof typeof EXIT_CODES
const STOPS = Object.keys(EXIT_CODES) as Stop[]

/**
 * Runs a task whose signal is aborted by Ctrl-C, SIGTERM and SIGHUP, so that it ends through its
 * own clean-up; further signals while it does are only told. The process then ends with 128 + the
 * signal's number.
 *
 * @param notice takes one line for people, by default to stderr
 */
export async function withSignals<T> (task: (signal: AbortSignal) => Promise<T>, notice: (line: string) => void = line => { process.stderr.write(`${line}\n`) }): Promise<T> {
  const controller = new AbortController()
  let firstMs = 0
  const onSignal = (name: Stop): void => {
    if (controller.signal.aborted) {
      // One Ctrl-C arrives several times: from the terminal, and from npm and the preflight which forward it.
      if (performance.now() - firstMs > REPEAT_MS) notice('still cleaning up')
      return
    }
    firstMs = performance.now()
    process.exitCode = EXIT_CODES[name]
    notice(`${name}: cleaning up`)
    controller.abort(new MusubiError('INTERRUPTED', `interrupted by ${name}`))
  }
  for (const name of STOPS) process.on(name, onSignal)
  try {
    return await task(controller.signal)
  } finally {
    for (const name of STOPS) process.off(name, onSignal)
  }
}
