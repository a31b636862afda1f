/**
 * Agent and drivers in one process, as it was before there was a helper, with a fence of their own:
 * runs inside a host of the lab, and prints how long it took to make and to remove a plan.
 */
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { pino } from 'pino'
import { loadAgentConfig } from '../../agent/config.ts'
import { createRealDrivers } from '../../agent/drivers/registry.ts'
import { openFence } from '../../agent/helper/fence/store.ts'
import { createReconciler } from '../../agent/reconcile/reconciler.ts'
import { createServices } from '../../agent/services/select.ts'
import type { DesiredObject } from '../../protocol/core/desired.ts'
import { openLevelStore } from '../../store/level.ts'

export interface Round { makeMs: number, removeMs: number }
export interface Task { desired: DesiredObject[], rounds: number, cluster: string, clusterId: string }

async function work (configFile: string, { desired, rounds, cluster, clusterId }: Task): Promise<Round[]> {
  const given = await loadAgentConfig(configFile)
  const stateDir = join(given.helper.stateDir, 'in-process')
  await mkdir(stateDir, { recursive: true })
  const config = { ...given, helper: { ...given.helper, stateDir, socket: '/run/in-process/sock' } }
  const { drivers } = createRealDrivers(config, createServices({ dir: '/run/in-process/services' }))
  const store = await openLevelStore(join(stateDir, 'fence'))
  const fence = await openFence({ store, now: () => Date.now() })
  let counter = fence.records().reduce((most, one) => Math.max(most, one.counter), 0)
  const endMs = Date.now() + 3_600_000
  const timed = async (wanted: readonly DesiredObject[]): Promise<number> => {
    const mine = ++counter
    const clusters = wanted.length === 0 ? new Map<string, { clusterId: string, endMs: number }>() : new Map([[cluster, { clusterId, endMs }]])
    const reconciler = createReconciler({ drivers, desired: () => [...wanted], log: pino({ level: 'silent' }), fence: { fence, tenancy: () => ({ counter: mine, clusters }) } })
    const started = performance.now()
    await reconciler.pass()
    const ms = performance.now() - started
    const wrong = reconciler.states().find(({ state }) => state !== 'ok')
    await reconciler.stop()
    if (wrong !== undefined) throw new Error(`${wrong.kind} ${wrong.name}: ${wrong.error}`)
    return ms
  }
  const results: Round[] = []
  for (let i = 0; i < rounds; i++) results.push({ makeMs: await timed(desired), removeMs: await timed([]) })
  await store.close()
  return results
}

const [, self, configFile = '', task = ''] = process.argv
if (self === fileURLToPath(import.meta.url)) {
  process.stdout.write(`${JSON.stringify(await work(configFile, JSON.parse(task) as Task))}\n`)
  process.exit(0)
}
