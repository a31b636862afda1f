/**
 * `update-last-of-40`, `delivery`: one of 40 hosts says that its capacity has changed; the time until
 * the last of the others knows, and whether all of them ever did. 40 processes on loopback, against 40
 * agents of Serf in the same run, in turns. Both are timed by this process, from giving the order to
 * hearing of the last one.
 */
import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { percentile, round, spread, type BenchOptions, type Figure } from './figures.ts'
import { PATIENCE_MS, planSite, until, type ManyPlan, type ManyResult, type News, type Order } from './mesh-member.ts'
import { startSerf } from './mesh-serf.ts'
import { AS_AGENT } from '../mesh/as-agent.ts'

const COUNT = 40
const WANTED_RATIO = 0.5
/** Members that start at once: all of them would only wait for each other. */
const AT_ONCE = 4
const MEMBER = fileURLToPath(new URL('./mesh-member.ts', import.meta.url))

/** Forks a member; everything it tells goes to `onNews`. @param cacheDir where the members share compiled modules */
export function forkMember (cacheDir: string, onNews: (news: News) => void, execArgv: readonly string[] = AS_AGENT): { child: ChildProcess, order: (order: Order) => void } {
  const child = fork(MEMBER, ['bench-member'], { execArgv: [...execArgv], env: { ...process.env, NODE_OPTIONS: '', NODE_COMPILE_CACHE: cacheDir }, stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
  let ended = false
  child.on('message', onNews)
  child.once('disconnect', () => { ended = true })
  child.once('exit', code => { if (!ended || (code ?? 0) !== 0) onNews({ kind: 'failed', why: `a member ended with ${code ?? 'a signal'}` }) })
  return { child, order: order => { child.send(order) } }
}

export async function endChild (child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const gone = once(child, 'exit')
  // not killed at once: the first of them writes what the others then need not compile
  if (child.connected) child.disconnect()
  await gone
}

/** Many members in one process of their own. @throws Error when that process fails */
export async function runMany (cacheDir: string, plan: ManyPlan, execArgv: readonly string[] = AS_AGENT): Promise<ManyResult> {
  const first = Promise.withResolvers<News>()
  const { child, order } = forkMember(cacheDir, first.resolve, execArgv)
  order({ op: 'many', plan })
  const news = await first.promise
  await endChild(child)
  if (news.kind !== 'many') throw new Error(`${plan.count} members in one process: ${news.kind === 'failed' ? news.why : news.kind}`)
  return news.result
}

/** Who has heard of the update under way. */
class Round {
  #update = 0
  #heard = new Set<number>()
  #lastMs = 0
  delivered = 0
  readonly timesMs: number[] = []

  heard (agent: number, update: number): void {
    if (update !== this.#update) return
    this.#heard.add(agent)
    this.#lastMs = performance.now()
  }

  async run (update: number, expected: number, say: () => void): Promise<void> {
    this.#update = update
    this.#heard = new Set()
    const from = performance.now()
    say()
    const complete = await until('an update', () => this.#heard.size >= expected, PATIENCE_MS).then(() => true, () => false)
    this.timesMs.push(complete ? this.#lastMs - from : PATIENCE_MS)
    this.delivered += this.#heard.size
  }
}

async function * update ({ full = false }: BenchOptions = {}): AsyncGenerator<Figure> {
  const updates = full ? 100 : 20
  const cacheDir = await mkdtemp(join(tmpdir(), 'musubi-bench-'))
  const [own, peer] = [new Round(), new Round()]
  const known = new Map<number, number>()
  const failures: string[] = []
  const members: Array<ReturnType<typeof forkMember>> = []
  const plans = await planSite(COUNT)
  const ready = new Set<number>()
  const check = (): void => { if (failures.length > 0) throw new Error(failures.join('\n')) }
  let serf: Awaited<ReturnType<typeof startSerf>> | null = null
  try {
    await runMany(cacheDir, { count: 2, updates: 0 }) // the members find its compiled modules
    for (const [n, plan] of plans.entries()) {
      await until('members start', () => {
        check()
        return ready.size >= n - AT_ONCE
      })
      const member = forkMember(cacheDir, news => {
        if (news.kind === 'seen') own.heard(n, news.update)
        else if (news.kind === 'hosts') known.set(n, news.count)
        else if (news.kind === 'done') ready.add(n)
        else if (news.kind === 'failed') failures.push(`${plan.name}: ${news.why}`)
      })
      members.push(member)
      member.order({ op: 'start', plan })
    }
    await until(`${COUNT} members know each other`, () => {
      check()
      return known.size === COUNT && [...known.values()].every(count => count === COUNT)
    })
    serf = await startSerf(COUNT, (agent, payload) => { peer.heard(agent, Number(payload.split(' ')[0])) })
    await sleep(5000)
    for (let n = 1; n <= updates; n++) {
      const by = n % COUNT
      await sleep(300 + Math.random() * 700)
      await own.run(n, COUNT - 1, () => { members[by]?.order({ op: 'publish', update: n }) })
      await sleep(300 + Math.random() * 700)
      // about what a record says of capacity; the speaker hears its own event too
      await peer.run(n, COUNT, () => { serf?.say(by, `${n} ${'x'.repeat(200)}`) })
    }
    check()
  } finally {
    await serf?.close()
    await Promise.all(members.map(async ({ child }) => { await endChild(child) }))
    await rm(cacheDir, { recursive: true, force: true })
  }
  const [value, peerValue] = [percentile(own.timesMs, 0.5), percentile(peer.timesMs, 0.5)]
  const of = `Serf, ${COUNT} agents, LAN profile, user event, same run`
  yield {
    bench: 'update-last-of-40', figure: 'change of one host to the last of 40', value, unit: 'ms', better: 'lower', peer: of, peerValue,
    limit: round(peerValue * WANTED_RATIO), ratio: round(value / peerValue), ...spread(own.timesMs)
  }
  yield {
    bench: 'update-last-of-40', figure: 'the same by Serf', value: peerValue, unit: 'ms', better: 'lower', peer: null, peerValue: null, limit: null, ratio: null, ...spread(peer.timesMs)
  }
  const part = own.delivered / (updates * (COUNT - 1))
  yield {
    bench: 'delivery', figure: `part of ${updates} updates x ${COUNT - 1} hosts that arrived`, value: part, unit: '', better: 'higher', peer: of, peerValue: peer.delivered / (updates * COUNT),
    limit: 1, ratio: part, samples: updates * (COUNT - 1), p50: part, p99: part
  }
}

export const benches = { 'update-last-of-40': update }
