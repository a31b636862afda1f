/** Awkward crowds: each installs through an empty cache and gets the image in a way of its own, over a way of 20 ms. */
import { setTimeout as delay } from 'node:timers/promises'
import type { Figure } from '../figures.ts'
import { alone, round } from '../figures.ts'
import { directBytes } from './counters.ts'
import type { Errand } from './node.ts'
import type { InstallSite } from './site.ts'
import { CACHE, installSpec } from './wiring.ts'

const AMPLIFICATION_MAX = 1.02
const RANGES = 4
const STAGGER_MS = 150
/** What the reconciler may need to see that an engine is gone, at the least. */
const OUT_MS = 1_000
const GIVE_UP_S = 0.6
/** Of the slow first client: a tenth of what the link carries. */
const SLOW_BYTES_PER_S = 2.5e6

/** Each crowd as what its nodes do one after the other: all of them get to the end of one before the next begins. */
function crowds (site: InstallSite): Record<string, Errand[][]> {
  const { lab: { nodes }, workload: { image } } = site
  const all = (errand: (index: number) => Partial<Errand>): Errand[] => nodes.map((node, index) => ({ node, downloads: [site.image(), ...site.rest()], ...errand(index) }))
  const piece = image.bytes / RANGES
  return {
    herd: [all(() => ({}))],
    staggered: [all(index => ({ delayMs: index * STAGGER_MS }))],
    '4-ranges': [
      all(() => ({
        downloads: Array.from({ length: RANGES }, (_, i) => site.image({ bytes: piece, args: [`range = "${i * piece}-${(i + 1) * piece - 1}"`, 'parallel'] }))
      })),
      all(() => ({ downloads: site.rest() }))
    ],
    aborts: [all(index => index % 2 === 0 ? { downloads: [site.image()], givesUp: true, args: [`max-time = ${GIVE_UP_S}`] } : {})],
    'slow-first': [all(index => index === 0 ? { downloads: [site.image({ args: [`limit-rate = ${SLOW_BYTES_PER_S}`] }), ...site.rest()] } : { delayMs: 300 })],
    agents: [all(index => ({ args: [`user-agent = "anaconda/${index}"`] }))]
  }
}

/** @param failed hears of every node that did not get all */
export async function * caseFigures (site: InstallSite, failed: (failures: readonly string[]) => void): AsyncGenerator<Figure> {
  const { lab, driver, workload } = site
  const [first] = lab.nodes
  if (first === undefined) return
  await site.off()
  const one = await site.fetchAll([first])
  failed(one.failures)
  for (const [name, rounds] of Object.entries(crowds(site))) {
    await site.cold()
    let [bytes, seconds] = [0, 0]
    for (const errands of rounds) {
      const result = await site.errands(errands)
      failed(result.failures)
      bytes += result.wanBytes
      seconds += result.seconds
    }
    const value = bytes / one.wanBytes
    yield { ...alone({ bench: 'install', figure: `amplification-${name}`, value, unit: 'x', better: 'lower', limit: AMPLIFICATION_MAX }, [value]), note: `${lab.nodes.length} nodes, ${workload.bytes} bytes, ${round(seconds)} s` }
  }
  await site.cold()
  const before = { direct: await directBytes(), wan: await lab.wanBytes() }
  const result = await site.errands(lab.nodes.map(node => ({ node, downloads: [site.image(), ...site.rest()], retries: true })), async () => {
    for (let tries = 0; tries < 1_000 && await lab.wanBytes() - before.wan < one.wanBytes / 2; tries++) await delay(20)
    await site.killEngine()
    await delay(OUT_MS)
    await driver.apply(CACHE, installSpec(workload), AbortSignal.timeout(60_000))
  })
  failed(result.failures)
  const direct = (await directBytes() - before.direct) / one.wanBytes
  yield { ...alone({ bench: 'install', figure: 'amplification-killed', value: result.wanBytes / one.wanBytes, unit: 'x', better: 'lower', limit: round(AMPLIFICATION_MAX + direct) }, [result.wanBytes / one.wanBytes]), note: `the limit is ${AMPLIFICATION_MAX} and the ${round(direct)} that flowed directly; out for ${OUT_MS} ms and the time to start` }
}
