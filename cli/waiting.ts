import { setTimeout as sleep } from 'node:timers/promises'
import type { Command } from 'commander'
import { call, type Endpoint } from './client.ts'
import { agentEndpoint, untilInterrupted, wantsJson } from './context.ts'
import { duration } from './output.ts'
import type { ClusterResource } from '../protocol/api.ts'
import { InvalidInputError, MusubiError, UnreachableError } from '../protocol/core/errors.ts'

const POLL_MS = 500
/** An agent that restarts answers again by then; what it was asked to do goes on meanwhile. */
const RESTART_PATIENCE_MS = 30_000
/** Where a cluster is in the API, by name or id. */
export const clusterPath = (name: string): string => `/v1/clusters/${encodeURIComponent(name)}`

function progressLine (c: ClusterResource): string {
  const phases = c.nodes.map(n => n.state)
  const counts = [...new Set(phases)].map(p => `${phases.filter(x => x === p).length} ${p}`).join(', ')
  const problems = c.state === 'degraded' ? `: ${c.problems.map(p => `${p.host} ${p.kind}: ${p.error}`).join('; ')}` : ''
  return `${c.name}: ${c.state}${counts === '' ? '' : `  (${counts})`}${problems}`
}

/**
 * Follows a cluster until it is in one of the wanted states; prints each change once.
 *
 * @param also what must hold besides the state
 * @throws MusubiError when it fails or the time is over
 */
export async function waitForCluster (endpoint: Endpoint, name: string, wanted: readonly string[], timeoutMs: number, signal: AbortSignal, onProgress: (line: string) => void, also: (cluster: ClusterResource) => boolean = () => true): Promise<ClusterResource> {
  const deadline = Date.now() + timeoutMs
  let last = ''
  let answeredAt = Date.now()
  for (;;) {
    const cluster = await call<ClusterResource>(endpoint, 'GET', clusterPath(name)).catch((error: unknown) => {
      if (!(error instanceof UnreachableError) || signal.aborted || Date.now() > Math.min(deadline, answeredAt + RESTART_PATIENCE_MS)) throw error
      return null
    })
    if (cluster === null) {
      const away = `the ${endpoint.what} does not answer, still waiting`
      if (away !== last) onProgress(away)
      last = away
      await sleep(POLL_MS)
      continue
    }
    answeredAt = Date.now()
    const line = progressLine(cluster)
    if (line !== last) onProgress(line)
    last = line
    if (wanted.includes(cluster.state) && also(cluster)) return cluster
    if (cluster.state === 'failed') throw new MusubiError(cluster.error?.code ?? 'FAILED', cluster.error?.message ?? `cluster ${name} failed`, cluster.error?.hint === undefined ? {} : { hint: cluster.error.hint })
    if (cluster.state === 'deleted') throw new MusubiError('DELETED', `cluster ${cluster.name} was deleted while it was waited for`)
    if (Date.now() > deadline) throw new MusubiError('TIMEOUT', `${name} is still ${cluster.state} after ${duration(timeoutMs)}: ${line}`, { hint: `look at: musubi cluster show ${name}` })
    if (signal.aborted) throw new MusubiError('INTERRUPTED', `stopped waiting; ${name} goes on being ${cluster.state}`, { hint: `look at: musubi cluster show ${name}; end it with: musubi cluster delete ${name}` })
    await sleep(POLL_MS)
  }
}

/** Waits as `waitForCluster`, and says what changes, unless JSON was asked for. */
export const follow = async (command: Command, cluster: ClusterResource, wanted: readonly string[], timeoutMs: number, also?: (cluster: ClusterResource) => boolean): Promise<ClusterResource> =>
  await waitForCluster(agentEndpoint(command), cluster.id, wanted, timeoutMs, untilInterrupted(), line => { if (!wantsJson(command)) process.stderr.write(`${line}\n`) }, also)

/** Milliseconds of --timeout. @throws InvalidInputError */
export const timeoutOf = (value: string): number => {
  const n = Number(value)
  if (!Number.isFinite(n) || n <= 0) throw new InvalidInputError(`--timeout must be a number of seconds above 0, not "${value}"`)
  return n * 1000
}
