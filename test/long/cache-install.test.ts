/** As long as an hour. MUSUBI_INSTALLS. */
import type { Test } from 'tap'
import { inPod, runInPod } from '../bench/cache-pod.ts'
import { createInstallSite, WAN_MBIT_PER_S } from '../bench/install/site.ts'

// The reference workload at its small scale, again and again with an empty cache: no node may fail.
const isRoot = process.getuid?.() === 0
if (isRoot && !inPod()) process.exit(await runInPod(import.meta.filename))
const { default: t } = await import('tap')

const RUNS = Number(process.env.MUSUBI_INSTALLS ?? '100')
const NODES = 16
const PART = 0.1
const RTT_MS = 20
async function main (t: Test): Promise<void> {
  const site = await createInstallSite('/run/mz-install-long', NODES, PART)
  t.teardown(async () => { await site.close() })
  await site.lab.limitWan(WAN_MBIT_PER_S)
  await site.lab.setRtt(RTT_MS)
  for (let run = 0; run < RUNS; run++) {
    await site.cold()
    const { failures, seconds } = await site.install(site.lab.nodes)
    t.same(failures, [], `run ${run}: ${seconds.toFixed(1)} s`)
  }
}

t.setTimeout(3_600_000)
t.test('no node fails to install', isRoot ? {} : { skip: 'needs root' }, main)
