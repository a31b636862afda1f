import { mkdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Test } from 'tap'
import { createCacheDriver } from '../../agent/drivers/cache/driver.ts'
import { run } from '../../agent/exec.ts'
import { createPidfileServices } from '../../agent/services/pidfile.ts'
import { LAB_SPEC, createCacheLab } from '../bench/cache-lab.ts'
import { inPod, runInPod } from '../bench/cache-pod.ts'
import { DIFFERENTIAL_SPEC } from '../cache/wiring.ts'
import type { Report } from '../cache/both-ways.ts'

// A node asks for the same things with and without the cache and must not be able to tell which was which: a pod of its own.
// MUSUBI_DIFFERENTIAL_SEED and MUSUBI_DIFFERENTIAL_COUNT ask for other requests, and for more.
const isRoot = process.getuid?.() === 0
if (isRoot && !inPod()) process.exit(await runInPod(import.meta.filename))
const { default: t } = await import('tap')

const SEED = process.env.MUSUBI_DIFFERENTIAL_SEED ?? '20261123'
const EXCHANGES = process.env.MUSUBI_DIFFERENTIAL_COUNT ?? '1000'
/** The frontend's program answers here as well; no cache takes this port. */
const DIRECT_PORT = '8081'
const NAME = 'lab.cache'
const signal = (): AbortSignal => AbortSignal.timeout(60_000)

async function main (t: Test): Promise<void> {
  const dir = '/run/mz-cache-differential'
  await mkdir(dir)
  const tools = join(import.meta.dirname, '..', 'cache')
  const lab = await createCacheLab(dir, 1, { program: [join(tools, 'frontend.ts'), SEED, LAB_SPEC.frontendAddress, '8080', DIRECT_PORT] })
  t.teardown(async () => { await lab.close() })
  const driver = createCacheDriver({ stateDir: join(dir, 'cache'), services: createPidfileServices({ dir: join(dir, 'services') }) })
  await driver.apply(NAME, DIFFERENTIAL_SPEC, signal())

  t.comment(`seed ${SEED}, ${EXCHANGES} exchanges`)
  const { stdout } = await run(process.execPath, [join(tools, 'client.ts'), SEED, EXCHANGES, LAB_SPEC.frontendAddress, DIRECT_PORT, '8080'], { netns: lab.nodes[0]?.namespace ?? '', timeoutMs: 280_000 })
  const lines = stdout.trim().split('\n').map(line => JSON.parse(line) as Report | { requests: number })
  const last = lines.at(-1)
  const requests = last !== undefined && 'requests' in last ? last.requests : 0
  t.ok(requests >= Number(EXCHANGES), `${requests} requests were sent both ways`)
  for (const report of lines) if ('line' in report) t.fail(`${report.times} x ${report.line}`)
  const stats = await driver.stats(NAME)
  t.ok((stats?.requests ?? 0) >= requests, 'the cache took them')
  const errors = await readFile(join(dir, 'cache', 'lab%2Ecache', 'engine', 'error.log'), 'utf8').catch(() => '')
  t.same(errors.split('\n').filter(line => /\[(?:alert|crit|emerg)\]|exited on signal/.test(line)).slice(0, 5), [], 'nothing broke in the engine')
  t.ok((stats?.hits ?? 0) > 0, `${stats?.hits ?? 0} answers came out of the store`)
}

t.setTimeout(300_000)
t.test('a node cannot tell the cache from the frontend', isRoot ? {} : { skip: 'needs root' }, main)
