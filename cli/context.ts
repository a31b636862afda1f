import { createInterface } from 'node:readline/promises'
import type { Command } from 'commander'
import { InvalidInputError } from '../protocol/core/errors.ts'
import { parseDuration } from '../protocol/core/notation/duration.ts'
import type { Endpoint } from './client.ts'

export interface GlobalOptions { socket?: string, url?: string, json?: boolean }

export const DEFAULT_AGENT_SOCKET = '/run/musubi/agent.sock'
export const DEFAULT_COORDINATOR_SOCKET = '/run/musubi-coordinator/coordinator.sock'

function endpointOf (command: Command, what: string, socketPath: string): Endpoint {
  const { socket, url } = command.optsWithGlobals<GlobalOptions>()
  if (url !== undefined) return { url, what }
  return { socketPath: socket ?? socketPath, what }
}

/** The local agent's API, or the one named by --socket, --url, MUSUBI_SOCKET. */
export const agentEndpoint = (command: Command): Endpoint => endpointOf(command, 'agent', process.env.MUSUBI_SOCKET ?? DEFAULT_AGENT_SOCKET)
/** The local coordinator's API, or the one named by --socket, --url, MUSUBI_COORDINATOR_SOCKET. */
export const coordinatorEndpoint = (command: Command): Endpoint => endpointOf(command, 'coordinator', process.env.MUSUBI_COORDINATOR_SOCKET ?? DEFAULT_COORDINATOR_SOCKET)

export const wantsJson = (command: Command): boolean => command.optsWithGlobals<GlobalOptions>().json === true

/** Ends on Ctrl-C or SIGTERM; for commands that wait. */
export function untilInterrupted (): AbortSignal {
  const controller = new AbortController()
  const stop = (): void => { controller.abort() }
  process.once('SIGINT', stop)
  process.once('SIGTERM', stop)
  return controller.signal
}

/** A time span of the command line, ms. @throws InvalidInputError naming the option */
export function spanMs (text: string, option: string): number {
  const ms = parseDuration(text)
  if (ms === null || ms === 0) throw new InvalidInputError(`${option} must be a time span such as 30m, 1h or 2d, not "${text}"`)
  return ms
}

const MAX_TOKEN_INPUT = 64 * 1024

/** A token of the command line; `-`: from standard input, so that it is in no list of processes. @throws InvalidInputError */
export async function readToken (given: string): Promise<string> {
  if (given !== '-') return given
  let text = ''
  process.stdin.setEncoding('utf8')
  for await (const chunk of process.stdin as AsyncIterable<string>) {
    text += chunk
    if (text.length > MAX_TOKEN_INPUT) throw new InvalidInputError('standard input is longer than any token')
  }
  if (text.trim() === '') throw new InvalidInputError('there is no token on standard input', 'musubi agent join - < FILE')
  return text
}

/**
 * Asks before something that cannot be taken back. Nobody is asked where nobody sits: there `--yes` is needed.
 *
 * @param what a sentence that says what will happen
 * @throws InvalidInputError when it is not wanted, or cannot be asked
 */
export async function confirm (what: string, yes: boolean | undefined): Promise<void> {
  if (yes === true) return
  if (!process.stdin.isTTY) throw new InvalidInputError(what, 'say that you mean it: --yes')
  const terminal = createInterface({ input: process.stdin, output: process.stderr })
  try {
    const answer = await terminal.question(`${what}. Go on? [y/N] `)
    if (!/^y(es)?$/i.test(answer.trim())) throw new InvalidInputError('nothing was changed')
  } finally {
    terminal.close()
  }
}
