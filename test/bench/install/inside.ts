import { parseArgs } from 'node:util'
import { setTimeout as delay } from 'node:timers/promises'
import type { Figure } from '../figures.ts'
import { alone } from '../figures.ts'
import { memoryBytes, siteCommands } from '../cache-memory.ts'
import { caseFigures } from './cases.ts'
import { delayFigures } from './delays.ts'
import type { Reporter } from './delays.ts'
import { WAN_MBIT_PER_S, createInstallSite } from './site.ts'
import type { InstallSite } from './site.ts'
import { warmFigures } from './warm.ts'
import { SIZES } from './workload.ts'

/** The script that runs in the pod: prints the figures of one part, one a line; `--full` for the original's numbers, `--alone` without peers. */

const { values: { full = false, alone: withoutPeers = false }, positionals: [part = ''] } = parseArgs({ allowPositionals: true, options: { full: { type: 'boolean' }, alone: { type: 'boolean' } } })
const PART = full ? 1 : 0.1
const NODES = full ? 134 : 16
const CASES_RTT_MS = 20
/** What a cache does when it starts is not idling; nginx looks through its store a minute after that, by a process of its own that ends. */
const IDLE_AFTER_MS = 3_000
const LOADER_MS_MAX = 120_000

const say = (line: string): void => { process.stderr.write(`install: ${line}\n`) }
const failures = { none: 0, squid: 0, ours: 0 }
const report: Reporter = {
  say,
  failed (column, lines) {
    failures[column === 'none' || column === 'squid' ? column : 'ours'] += lines.length
    for (const line of lines) say(`a node failed (${column}): ${line}`)
  }
}

async function * idleFigures (site: InstallSite): AsyncGenerator<Figure> {
  await site.cold()
  await delay(IDLE_AFTER_MS)
  const early = await memoryBytes()
  for (const deadline = performance.now() + LOADER_MS_MAX; (await siteCommands()).some(command => command.startsWith('nginx: cache loader'));) {
    if (performance.now() > deadline) throw new Error('the loader of nginx does not end')
    await delay(1_000)
  }
  const bytes = await memoryBytes()
  yield { ...alone({ bench: 'install', figure: 'memory-idle-cache', value: bytes, unit: 'bytes', better: 'lower', limit: 15e6 }, [bytes]), note: `by the proportional count; ${early} while the loader of nginx is there, a minute` }
}

const PARTS: Readonly<Record<string, (site: InstallSite) => AsyncGenerator<Figure>>> = {
  idle: idleFigures,
  warm: site => warmFigures(site, report),
  delays: site => delayFigures(site, report, withoutPeers),
  async * crowds (site) {
    await site.lab.limitWan(WAN_MBIT_PER_S)
    await site.lab.setRtt(CASES_RTT_MS)
    yield * caseFigures(site, lines => { report.failed('cold', lines) })
  }
}

const print = (one: Figure): void => { process.stdout.write(`${JSON.stringify(one)}\n`) }
const figures = PARTS[part]
if (figures === undefined) throw new Error(`no part ${part}`)
const site = await createInstallSite('/run/mz-install-bench', NODES, PART)
try {
  say(`${part}: ${NODES} nodes, each ${site.workload.objects.length} objects of ${site.workload.bytes} bytes, WAN ${WAN_MBIT_PER_S} Mbit/s, sizes log-normal with mu ${SIZES.mu}, sigma ${SIZES.sigma} (${SIZES.source})`)
  for await (const one of figures(site)) print(one)
  for (const [whose, count] of Object.entries(failures)) {
    print({ ...alone({ bench: 'install', figure: `failed-nodes${whose === 'ours' ? '' : `-${whose}`}-${part}`, value: count, unit: 'nodes', better: 'lower' }, [count]), ...(whose === 'ours' ? { limit: 0 } : {}) })
  }
} finally {
  await site.close()
}
