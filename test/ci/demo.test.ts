/** The demo in full, interrupted, killed, and kept: whatever happens, nothing stays behind. Needs root. */
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import type { DemoResult } from '../../lab/demo/result.ts'
import { rmSync } from 'node:fs'
import { directBytes, LABS, labTraces, runDemo, startDemo } from '../demo-process.ts'

t.setTimeout(1_100_000)
t.teardown(() => { rmSync(LABS, { recursive: true, force: true }) })

async function gone (): Promise<string[]> {
  for (let i = 0; i < 100; i++) {
    if ((await labTraces()).length === 0) return []
    await sleep(100)
  }
  return await labTraces()
}

t.test('four nodes: the far site pulls the image once', async t => {
  const { code, out, err } = await runDemo(['--json'])
  if (code !== 0) t.comment(err)
  t.equal(code, 0)
  const result = JSON.parse(out) as DemoResult
  t.equal(result.ok, true, result.error?.message ?? 'ok')
  t.equal(result.nodes.length, 4)
  t.equal(result.nodes.filter(n => n.site === 'tsukuba').length, 2)
  t.ok(result.wan.caches.reduce((sum, cache) => sum + cache.bytesFromUpstream, 0) < result.wan.bytesWithoutCache * 0.55, `the cache fetched one image: ${JSON.stringify(result.wan)}, first ping after ${result.segment.firstPingMs} ms`)
  t.ok(result.wan.bytes - directBytes(result.wan) < result.wan.bytesWithoutCache * 0.6, `two far nodes, one image over the WAN: ${JSON.stringify(result.wan)}`)
  t.ok(result.wan.caches.some(c => c.hits > 0))
  t.same(result.leftovers, [])
  t.same(await gone(), [])
})

t.test('Ctrl-C while nodes boot cleans up', async t => {
  const demo = startDemo(['--nodes', '2'])
  t.equal(await demo.progress(/ dhcp\)/), true, 'nodes are booting')
  demo.child.kill('SIGINT')
  const { code, err } = await demo.ended
  t.equal(code, 130)
  t.match(err, /cleaning up/)
  t.same(await gone(), [])
})

t.test('kill -9 of the demo ends its lab, and the next one sweeps its files', async t => {
  const demo = startDemo(['--nodes', '2'])
  t.equal(await demo.progress(/cluster create/), true)
  demo.child.kill('SIGKILL')
  await demo.ended
  await sleep(2_000)
  t.same((await labTraces()).filter(line => !/^mzlab-[^/]*$/.test(line)), [], 'every process of it has ended')
  const { code } = await runDemo(['--down'])
  t.equal(code, 0)
  const bad = await runDemo(['--json', '--image', `sha256:${'0'.repeat(64)}`])
  t.equal(bad.code, 1)
  t.same(await gone(), [], 'files too, at the latest when the next lab starts')
})

t.test('--keep leaves it running, --down ends it', async t => {
  const kept = await runDemo(['--nodes', '2', '--keep', '--json'])
  if (kept.code !== 0) t.comment(kept.err)
  t.equal(kept.code, 0)
  t.match(kept.err, /Look around/)
  t.ok((await labTraces()).length > 0, 'it runs on')
  const down = await runDemo(['--down'])
  t.equal(down.code, 0)
  t.match(down.out, /ended/)
  t.same(await gone(), [])
})
