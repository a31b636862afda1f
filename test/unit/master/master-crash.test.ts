/**
 * Kills the process of one host before and after each of its writes to the disk while a cluster is
 * made, starts it again, and demands all or nothing.
 */
import t, { type Test } from 'tap'
import { eventually, host, startFederation, wanted, type FederationModel } from '../../model/federation.ts'

t.setTimeout(110_000)
const PLANS = [host('tokyo', 1, 'gateway compute storage', 2), host('tsukuba', 1, 'gateway', 1), host('tsukuba', 2, 'compute', 2)]
const SPEC = wanted('demo', 3, { volumes: [{ name: 'data', sizeMiB: 64, node: 1 }] })
const LEASES = 7
const OBJECTS = 11
const RESTED = ['building', 'failed', 'deleted']

const stateOf = (model: FederationModel): string => {
  const found = model.machine('tokyo-1').life?.master?.list().find(c => c.name === 'demo')
  return found?.state ?? (model.machine('tokyo-1').life === null ? 'down' : 'none')
}

/** Dies at the n-th write from now, and comes back at once. @returns how many writes there were */
function dieAt (model: FederationModel, victim: string, n: number, phase: 'before' | 'after'): { writes: () => number, died: () => boolean, back: () => boolean } {
  let writes = 0
  let died = false
  let back = false
  const machine = model.machine(victim)
  machine.onWrite = at => {
    if (at !== phase || died) return
    if (++writes !== n) return
    died = true
    machine.onWrite = () => undefined
    model.crash(victim)
    setImmediate(() => { void model.start(victim).then(() => { back = true }) })
  }
  return { writes: () => writes, died: () => died, back: () => back }
}

async function crashOnce (t: Test, victim: string, n: number, phase: 'before' | 'after'): Promise<boolean> {
  const what = `${victim} killed ${phase} write ${n}`
  const model = await startFederation(PLANS)
  try {
    const crash = dieAt(model, victim, n, phase)
    // The request may die with the process: then nobody gets an answer.
    model.master('tokyo-1').create(SPEC).catch(() => undefined)
    await eventually(`${what}: the end of the negotiation (${stateOf(model)})`, () => crash.died() ? crash.back() && [...RESTED, 'none'].includes(stateOf(model)) : RESTED.includes(stateOf(model)), 15_000)
    const rested = stateOf(model)
    if (rested === 'building') {
      await eventually(`${what}: everything runs`, async () => (await model.objects()).length === OBJECTS)
      t.equal(model.leases().filter(l => l.endsWith(' active')).length, LEASES, `${what}: all leases, ${rested}`)
      model.machine(victim).onWrite = () => undefined // how deletions survive is told below
      await model.master('tokyo-1').remove('demo')
      await eventually(`${what}: the deletion`, () => stateOf(model) === 'none', 15_000)
    } else {
      t.match(rested, /^(failed|none)$/, `${what}: nothing, ${rested}`)
      await model.pass(31_000)
      await model.pass(121_000)
    }
    t.same(model.leases(), [], `${what}: no lease is left`)
    t.same(await model.objects(), [], `${what}: nothing runs`)
    t.equal((await Array.fromAsync(model.machine('tsukuba-1').disk.iterate('offer/'))).length, 0, `${what}: no offer is kept`)
    return crash.died()
  } finally {
    await model.stop()
  }
}

for (const victim of ['tokyo-1', 'tsukuba-1', 'tsukuba-2']) {
  t.test(`all or nothing, wherever ${victim} is killed`, async t => {
    for (const phase of ['before', 'after'] as const) {
      for (let n = 1, more = true; more; n += 6) {
        const died = await Promise.all(Array.from({ length: 6 }, (_, i) => crashOnce(t, victim, n + i, phase)))
        more = died.every(Boolean)
        if (!more) t.comment(`${victim}: ${n + died.indexOf(false) - 1} writes`)
      }
    }
  })
}

t.test('a deletion goes on where a killed master left it', async t => {
  for (let n = 1, more = true; more; n++) {
    const model = await startFederation(PLANS)
    await model.master('tokyo-1').create(SPEC)
    await eventually('the cluster', async () => stateOf(model) === 'building' && (await model.objects()).length === OBJECTS)
    const crash = dieAt(model, 'tokyo-1', n, 'after')
    model.master('tokyo-1').remove('demo').catch(() => undefined)
    await eventually(`write ${n}: the end of the deletion`, () => crash.died() ? crash.back() && stateOf(model) === 'none' : stateOf(model) === 'none', 15_000)
    t.same(model.leases(), [], `killed after write ${n}: no lease is left`)
    t.same(await model.objects(), [], `killed after write ${n}: nothing runs`)
    more = crash.died()
    await model.stop()
  }
})
