/** The gateway's state machine under everything at once: what it never does, and that it always comes to rest. */
import t from 'tap'
import { MusubiError } from '../../../protocol/core/errors.ts'
import type { SiteAsk } from '../../../protocol/core/gateway/events.ts'
import { allHeld, amendmentTransitions, gatewayTransitions } from '../../../protocol/core/gateway/record.ts'
import { MAX_WAITING_PER_CLUSTER } from '../../../protocol/core/limits.ts'
import type { Offer, Receipt } from '../../../protocol/core/messages.ts'
import { CLUSTER, Crash, GatewayBench, HOUR, MASTER, OTHER, SECOND } from '../../model/gateway-bench.ts'

/** Numbers that are the same for a seed (mulberry32). */
function chance (seed: number): (below: number) => number {
  let a = seed
  return below => {
    a = (a + 0x6d2b79f5) | 0
    let x = Math.imul(a ^ (a >>> 15), 1 | a)
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x
    return ((x ^ (x >>> 14)) >>> 0) % below
  }
}

interface Known { offers: Offer[], receipts: Receipt[], extensions: string[] }

/** Some question that a master, honest or not, may ask at this moment. */
function someAsk (b: GatewayBench, pick: (below: number) => number, known: Known): SiteAsk {
  const offer = known.offers[pick(Math.max(1, known.offers.length))]
  const endMs = b.record()?.endMs ?? b.request().endMs
  const node = (i: number): { name: string, vcpus: number, memoryMib: number } => ({ name: `demo-tokyo-00${i}`, vcpus: 1, memoryMib: 256 })
  switch (pick(12)) {
    case 0: case 1: return b.asking({ key: `k${pick(3)}`, nodes: [node(1), node(2)] })
    case 2: return b.asking({ key: `g${pick(4)}`, grow: true, endMs, nodes: [node(3 + pick(3))] })
    case 3: case 4: case 5: return b.committing(pick(3) === 0 ? known.extensions.at(-1) ?? 'none' : offer?.offerId ?? 'guess', b.record()?.epoch ?? 1)
    case 6: case 7: return offer === undefined ? b.alive() : b.activating(b.document(pick(2) === 0 ? [offer] : known.offers.slice(-2)), known.receipts, b.record()?.epoch ?? 1)
    case 8: {
      const offerId = `ext-${pick(4)}`
      known.extensions.push(offerId)
      return b.extending({ key: `x${offerId}`, offerId, endMs: endMs + 1_000 * (1 + pick(3)) })
    }
    case 9: return b.alive({ epoch: b.record()?.epoch ?? 1 })
    case 10: return b.releasing({ epoch: b.record()?.epoch ?? 1, ...pick(b.record()?.amendment?.state === 'committed' ? 40 : 4) === 0 ? {} : { offerId: (pick(3) === 0 ? offer?.offerId : b.record()?.amendment?.offerId) ?? 'none' } })
    default: return b.releasing({ epoch: b.record()?.epoch ?? 1, leaseIds: [offer?.held[0]?.leaseId ?? 'none'] })
  }
}

/** One run; throws what must not happen. */
function run (seed: number, walked: Set<string>): void {
  const b = new GatewayBench()
  const pick = chance(seed)
  const known: Known = { offers: [], receipts: [], extensions: [] }
  const faults = pick(4)
  const asked: Array<{ id: number, ask: SiteAsk }> = []
  b.fate = (_, ask) => pick(12) < faults ? new MusubiError(pick(2) === 0 ? 'UNREACHABLE' : 'NO_CAPACITY', ask.method, { retryable: true }) : null
  for (let i = 0; i < 120; i++) {
    const epoch = b.record()?.epoch ?? 0
    const choice = pick(20)
    if (choice < 5) {
      const ask = someAsk(b, pick, known)
      const caller = pick(12) === 0 ? [OTHER, SECOND][pick(2)] ?? OTHER : MASTER
      asked.push({ id: b.ask(ask, caller), ask })
    } else if (choice < 6 && asked.length > 0) {
      const again = asked[pick(asked.length)]?.ask
      if (again !== undefined) b.ask(again) // a duplicate, as late as it likes
    } else if (choice < 17 && b.calls.length > 0) {
      const late = b.calls[pick(b.calls.length)]
      b.deliver(call => call === late)
    } else if (choice < 19) {
      b.submit({ type: 'tick' })
      b.now += pick(5_000)
    } else if (pick(4) === 0) {
      b.crash(pick(2) === 0)
    } else if (pick(8) === 0) {
      // The operator of every host ends it, or its term is over.
      for (const host of b.hosts.values()) for (const lease of host.leases.values()) lease.state = 'ended'
      b.now += HOUR / 4
    }
    for (const { id } of asked) {
      const outcome = b.outcomes.get(id)
      if (outcome === undefined || outcome instanceof MusubiError) continue
      if (outcome.method === 'request' && !known.offers.some(o => o.offerId === outcome.reply.offerId)) known.offers.push(outcome.reply)
      if (outcome.method === 'commit') known.receipts.push(...outcome.reply.receipts.filter(r => !known.receipts.some(k => k.leaseId === r.leaseId)))
    }
    for (const outcome of b.outcomes.values()) if (outcome instanceof MusubiError && outcome.code === 'INTERNAL') throw outcome
    if ((b.record()?.epoch ?? epoch) < epoch) throw new Error('an epoch went back')
    if ((b.machine.waiting.get(CLUSTER)?.length ?? 0) > MAX_WAITING_PER_CLUSTER + 1) throw new Error('a queue without a bound')
    const unknown = [...b.hosts.values()].flatMap(h => [...h.leases.values()]).find(l => l.state === 'active' && b.record() === undefined)
    if (unknown !== undefined) throw new Error(`${unknown.leaseId} is active, and the gateway has forgotten it`)
  }
  // Everything is well again, and the master gives up: nothing may be left.
  b.fate = () => null
  b.deliverAll()
  for (const id of asked.map(one => one.id).slice(-5)) if (b.code(id) === 'open' && b.machine.jobs.size > 0) throw new Error(`ask ${id} is never answered`)
  const record = b.record()
  const mine = new Set(record === undefined ? [] : allHeld(record).map(held => held.leaseId))
  // Whoever asked first when nothing was here has become its master.
  b.settle(b.releasing({ epoch: b.record()?.epoch ?? 1 }), b.record()?.masterPeer === SECOND.peerId ? SECOND : MASTER)
  b.tick(1_000)
  // What an earlier offer left at a host that did not answer is inactive, and ends by itself.
  const left = [...b.hosts.values()].flatMap(h => [...h.leases.values()]).filter(l => l.state === 'active' || (l.state !== 'ended' && mine.has(l.leaseId))).map(l => l.leaseId)
  if (left.length > 0 || b.machine.records.size + b.machine.jobs.size + b.machine.calls.size + b.machine.waiting.size > 0) throw new Error(`left: ${left.join(', ')}, ${b.machine.records.size} records`)
  b.tick(26 * HOUR)
  for (const step of b.walked) walked.add(step)
}

t.test('whatever comes in whatever order, nothing is forgotten that runs, and all comes to rest', t => {
  const walked = new Set<string>()
  for (let seed = 1; seed <= 1_000; seed++) {
    try {
      run(seed, walked)
    } catch (error) {
      if (error instanceof Crash) throw error
      t.fail(`seed ${seed}: ${String(error)}`)
      break
    }
  }
  const rows = (table: ReadonlyArray<{ from: string | null, to: string | null }>, prefix: string): string[] => [...new Set(table.map(row => `${prefix}${row.from ?? 'null'} ${row.to ?? 'null'}`))]
  const all = [...rows(gatewayTransitions, ''), ...rows(amendmentTransitions, 'amendment ')]
  t.same(all.filter(row => !walked.has(row)), [], 'every row of the tables is walked')
  t.same([...walked].filter(row => !all.includes(row)), [], 'and nothing else')
  t.end()
})
