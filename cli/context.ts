import type { Command } from 'commander'
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
