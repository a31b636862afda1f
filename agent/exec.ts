import { execa } from 'execa'
import { COMMAND_MAX_OUTPUT_BYTES, COMMAND_TIMEOUT_MS } from '../protocol/core/limits.ts'
import { MusubiError } from '../protocol/core/errors.ts'

/** A child process that failed: carries its argv, exit code and the end of its stderr. */
export class CommandError extends MusubiError {
  override readonly name = 'CommandError'
  readonly argv: readonly string[]
  readonly exitCode: number | undefined
  readonly stderr: string
  constructor (argv: readonly string[], exitCode: number | undefined, stderr: string, why: string) {
    const tail = stderr.trim().split('\n').slice(-3).join(' / ')
    super('COMMAND_FAILED', `${argv.join(' ')}: ${why}${tail === '' ? '' : `: ${tail}`}`, { retryable: true })
    this.argv = argv
    this.exitCode = exitCode
    this.stderr = stderr
  }
}

export interface RunOptions {
  signal?: AbortSignal
  timeoutMs?: number
  /** text for standard input; without it stdin is empty */
  input?: string
  /** run inside this named network namespace (`ip netns exec`) */
  netns?: string
  env?: Record<string, string>
  cwd?: string
  /** exit codes other than 0 that are an answer, not a failure */
  okCodes?: readonly number[]
}

export interface RunResult { stdout: string, stderr: string, exitCode: number }

/**
 * The only door to child processes: argv arrays, never a shell; `LC_ALL=C`; time-out (default 30 s)
 * and output cap (8 MiB) always on.
 *
 * @throws CommandError when the program is missing, exits with another code, or runs out of time
 */
export async function run (file: string, args: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  const argv = options.netns === undefined ? [file, ...args] : ['ip', 'netns', 'exec', options.netns, file, ...args]
  const result = await execa(argv[0] ?? file, argv.slice(1), {
    reject: false,
    timeout: options.timeoutMs ?? COMMAND_TIMEOUT_MS,
    maxBuffer: COMMAND_MAX_OUTPUT_BYTES,
    stripFinalNewline: false,
    env: { LC_ALL: 'C', ...options.env },
    ...(options.input === undefined ? { stdin: 'ignore' as const } : { input: options.input }),
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    ...(options.signal === undefined ? {} : { cancelSignal: options.signal })
  })
  const stdout = typeof result.stdout === 'string' ? result.stdout : ''
  const stderr = typeof result.stderr === 'string' ? result.stderr : ''
  const ok = result.exitCode === 0 || (result.exitCode !== undefined && (options.okCodes ?? []).includes(result.exitCode))
  if (!ok || result.timedOut || result.isMaxBuffer || result.isCanceled) {
    const why = result.timedOut ? `timed out after ${options.timeoutMs ?? COMMAND_TIMEOUT_MS} ms`
      : result.isMaxBuffer ? 'printed too much'
      : result.isCanceled ? 'was cancelled'
      : result.code === 'ENOENT' ? 'is not installed'
      : result.exitCode === undefined ? `ended by ${result.signal ?? 'an unknown cause'}` : `exit code ${result.exitCode}`
    throw new CommandError(argv, result.exitCode, stderr === '' ? stdout : stderr, why)
  }
  return { stdout, stderr, exitCode: result.exitCode ?? 0 }
}

/** `run` whose stdout must be JSON. @throws CommandError also when it is not. */
export async function runJson (file: string, args: readonly string[], options: RunOptions = {}): Promise<unknown> {
  const { stdout } = await run(file, args, options)
  if (stdout.trim() === '') return null
  try {
    return JSON.parse(stdout) as unknown
  } catch {
    throw new CommandError([file, ...args], 0, stdout.slice(0, 200), 'printed no JSON')
  }
}
