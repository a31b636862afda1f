/** A helper with real drivers as a process of the namespaces that a test is in, and connections to it as its agent. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { pino } from 'pino'
import type { Test } from 'tap'
import { createHelperClient, type HelperClient } from '../../agent/helper/client/client.ts'

const TREE = join(import.meta.dirname, '..', '..')
const SOCKET = '/run/musubi-helper/helper.sock'
/** As a helper has at most 8 connections: older ones are closed. */
const CLIENTS_MAX = 6

/** Records and logs of the services that such a helper starts. */
export const HELPER_SERVICES = '/run/musubi-helper/services'

/**
 * Starts a helper that takes root for its agent, and waits until it answers; it ends with the test.
 *
 * @param file where to write its configuration
 * @param config what is not as for every one of these hosts
 * @returns makes a connection, as an agent that starts
 */
export async function startHelperHost (t: Test, file: string, config: { roles: string[], underlayAddress: string, stateDir: string, imageStore?: string, accelerator?: 'tcg' }): Promise<() => HelperClient> {
  const { stateDir, ...rest } = config
  const segments = config.roles.includes('gateway') ? { segmentIds: { from: 1, to: 9 } } : {}
  await writeFile(file, JSON.stringify({ name: 'h1', site: 'tokyo', listen: ['/ip4/127.0.0.1/tcp/0'], ...rest, ...segments, stateDir: '/run/agent', runDir: '/run/musubi', helper: { socket: SOCKET, stateDir, agentUser: 0 } }))
  // nothing of this process's search path: a helper knows where programs lie
  const child = spawn(process.execPath, [join(TREE, 'cli', 'main.ts'), 'helper', 'run', '-c', file], { env: { NODE_OPTIONS: '', PATH: '/nonesuch', CACHE_DIRECTORY: '/run/cache' }, stdio: ['ignore', 'ignore', 'inherit'] })
  const clients: HelperClient[] = []
  t.teardown(async () => {
    for (const client of clients) client.close()
    child.kill('SIGTERM')
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
  })
  const make = (): HelperClient => {
    const client = createHelperClient({ socketPath: SOCKET, log: pino({ level: 'silent' }) })
    clients.push(client)
    while (clients.length > CLIENTS_MAX) clients.shift()?.close()
    return client
  }
  await make().ready(AbortSignal.timeout(60_000))
  return make
}
