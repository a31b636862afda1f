import { mkdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { readRecord, writeRecord } from '../../../agent/drivers/cache/folder.ts'
import type { KnownWay } from '../../../agent/drivers/cache/folder.ts'
import { linkOfConfig, settleLink } from '../../../agent/drivers/cache/link.ts'
import { renderNginxConf } from '../../../agent/drivers/cache/nginx-conf.ts'
import { DEFAULT_LINK, planCache, sliceBytes } from '../../../agent/drivers/cache/plan.ts'
import type { Link } from '../../../agent/drivers/cache/plan.ts'
import type { CacheSpec } from '../../../protocol/core/desired.ts'

const SPEC: CacheSpec = { cluster: 'c1', vni: 0x101, frontendAddress: '10.42.0.1', ownAddress: '10.42.255.2', bridgeMac: '02:00:00:00:b1:01', ports: [80], maxSizeMiB: 64 }
const FAR: Link = { rttMs: 128, rateMbitPerS: 200 }
const MINUTE = 60_000

/** A frontend that answers, or not, and counts how often it was asked. */
function frontend (says: Link | null): { asked: () => number, measure: () => Promise<Link | null> } {
  let asked = 0
  return { asked: () => asked, measure: async () => { asked++; return await Promise.resolve(says) } }
}

t.test('a frontend that does not answer is asked again, some times, a minute apart, and over restarts', async t => {
  const dir = t.testdir({})
  const { paths } = planCache(SPEC, dir)
  const silent = frontend(null)
  let way: KnownWay | null = null
  const settle = async (nowMs: number): Promise<void> => {
    const next = await settleLink(way, paths, nowMs, silent.measure)
    await writeRecord(dir, 'c1', SPEC, true, next)
    way = await readRecord(dir)
  }
  await settle(5 * MINUTE)
  t.equal(silent.asked(), 1)
  t.match(way, { linkAsked: { tries: 1, lastMs: 5 * MINUTE } })
  for (const at of [5.1, 5.5, 5.9]) await settle(at * MINUTE)
  t.equal(silent.asked(), 1, 'not at each change')
  await settle(1 * MINUTE)
  t.equal(silent.asked(), 2, 'the clock was set back')
  await settle(2 * MINUTE)
  t.equal(silent.asked(), 3)
  t.match(way, { link: DEFAULT_LINK })
  await settle(100 * MINUTE)
  t.equal(silent.asked(), 3, 'and then no more')
})

t.test('it is asked until it answers', async t => {
  const { paths } = planCache(SPEC, t.testdir({}))
  const up = frontend(FAR)
  t.strictSame(await settleLink({ linkAsked: { tries: 1, lastMs: 0 } }, paths, 2 * MINUTE, up.measure), { link: FAR })
  t.strictSame(await settleLink({ link: DEFAULT_LINK }, paths, 9 * MINUTE, up.measure), { link: DEFAULT_LINK })
  t.equal(up.asked(), 1)
})

t.test('the size of parts of a store that has some does not change, whatever its record has lost', async t => {
  for (const link of [DEFAULT_LINK, FAR, { rttMs: 40, rateMbitPerS: 1000 }, { rttMs: 900, rateMbitPerS: 900 }]) {
    const dir = t.testdir({})
    const plan = planCache(SPEC, dir, link)
    await mkdir(join(plan.paths.store, 'a'), { recursive: true })
    await writeFile(join(plan.paths.store, 'a', 'part'), 'bytes')
    await writeFile(plan.paths.config, renderNginxConf(plan))
    const up = frontend({ rttMs: 1, rateMbitPerS: 200 })
    for (const before of [null, undefined, { linkAsked: { tries: 1, lastMs: 0 } }]) {
      const { link: settled } = await settleLink(before, plan.paths, 10 * MINUTE, up.measure)
      t.equal(planCache(SPEC, dir, settled).sliceBytes, plan.sliceBytes, `${link.rttMs} ms`)
    }
    t.equal(up.asked(), 0)
    await rm(plan.paths.store, { recursive: true })
  }
  t.strictSame(linkOfConfig('no such line'), DEFAULT_LINK)
  t.equal(sliceBytes(linkOfConfig('      slice 8388608;\n')), 8_388_608)
})
