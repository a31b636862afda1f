import { connect } from 'node:net'
import { join } from 'node:path'

const PATIENCE_MS = 1_000

/** Whether an agent answers on its socket in this folder. */
async function isRunning (runDir: string): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>()
  const socket = connect(join(runDir, 'agent.sock'))
  socket.setTimeout(PATIENCE_MS, () => { resolve(false) })
  socket.once('connect', () => { resolve(true) }).once('error', () => { resolve(false) })
  try {
    return await promise
  } finally {
    socket.destroy()
  }
}

/**
 * What is left to do after certificates were looked at, for people.
 *
 * @param keys whether what only a start reads has changed: the key of the site, or what it signs with
 */
export async function daemonHint (runDir: string, changed: boolean, keys: boolean): Promise<string> {
  if (!await isRunning(runDir)) return 'systemctl start musubi-agent'
  if (!changed) return 'nothing: the agent runs'
  return keys ? 'the agent runs with what it had before: systemctl restart musubi-agent (nodes run on)' : 'nothing: the agent runs, and takes it over within seconds'
}
