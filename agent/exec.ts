import { spawn } from 'node:child_process'
import { once } from 'node:events'
import type { Socket } from 'node:net'
import { execa } from 'execa'
import { programPath } from './system/programs.ts'
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
  /** of standard output, in place of COMMAND_MAX_OUTPUT_BYTES */
  maxOutputBytes?: number
  /** standard output is no text: one character for each byte (latin1) */
  binary?: boolean
}

export interface RunResult { stdout: string, stderr: string, exitCode: number }

/**
 * What is really started: programs by the path that `system/programs.ts` gives for their names, in a named
 * network namespace where one is wanted.
 *
 * @throws MusubiError PROGRAM_REFUSED; CommandError when the program is not installed
 */
export function resolvedArgv (argv: readonly string[], netns?: string): string[] {
  const [file = '', ...args] = argv
  const path = (name: string): string => {
    const found = programPath(name)
    if (found === null) throw new CommandError(argv, undefined, '', 'is not installed')
    return found
  }
  return netns === undefined ? [path(file), ...args] : [path('ip'), 'netns', 'exec', netns, path(file), ...args]
}

/**
 * The only door to child processes: argv arrays, never a shell; `LC_ALL=C`; time-out (default 30 s)
 * and output cap (8 MiB) always on; in the helper only programs of its list.
 *
 * @throws CommandError when the program is missing, exits with another code, or runs out of time;
 * MusubiError PROGRAM_REFUSED
 */
export async function run (file: string, args: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  const argv = options.netns === undefined ? [file, ...args] : ['ip', 'netns', 'exec', options.netns, file, ...args]
  const [program = file, ...rest] = resolvedArgv([file, ...args], options.netns)
  const result = await execa(program, rest, {
    reject: false,
    timeout: options.timeoutMs ?? COMMAND_TIMEOUT_MS,
    maxBuffer: options.maxOutputBytes ?? COMMAND_MAX_OUTPUT_BYTES,
    stripFinalNewline: false,
    ...(options.binary === true ? { encoding: 'latin1' as const } : {}),
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

/**
 * Runs a short program that has a connected socket as its descriptor 3, and nothing else. Not as its
 * standard input: those of children are set to blocking, for this process as well.
 *
 * @returns its standard output
 * @throws CommandError
 */
export async function runWithSocket (file: string, args: readonly string[], socket: Socket, timeoutMs: number): Promise<string> {
  const argv = [file, ...args]
  const [program = file, ...rest] = resolvedArgv(argv)
  const child = spawn(program, rest, { stdio: ['ignore', 'pipe', 'ignore', socket], env: { LC_ALL: 'C' }, cwd: '/', timeout: timeoutMs, killSignal: 'SIGKILL' })
  let stdout = ''
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    stdout += text
    if (stdout.length > COMMAND_MAX_OUTPUT_BYTES) child.kill('SIGKILL')
  })
  try {
    const [code, signal] = await once(child, 'close') as [number | null, string | null]
    if (code === 0) return stdout
    throw new CommandError(argv, code ?? undefined, '', code === null ? `ended by ${signal ?? 'an unknown cause'}` : `exit code ${code}`)
  } catch (error) {
    if (error instanceof CommandError) throw error
    throw new CommandError(argv, undefined, '', error instanceof Error ? error.message : String(error))
  }
}
