/**
 * kill -9 of the helper between any two of its commands that change something, over what the two hosts of
 * a cluster of two nodes run, with the real drivers on hosts of the lab: a new helper and one reconcile
 * bring the host to what is wanted, nothing is left over, and what ran goes on. The same for the agent
 * between any two of its calls, with pretended drivers.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { pino } from 'pino'
import t, { type Test } from 'tap'
import type { HelperClient } from '../../agent/helper/client/client.ts'
import { createRemoteHost } from '../../agent/helper/client/remote.ts'
import { createReconciler } from '../../agent/reconcile/reconciler.ts'
import { processesOfPod } from '../../lab/process.ts'
import { KIND_ORDER, type DesiredObject } from '../../protocol/core/desired.ts'
import { connectRaw, startBench, type Bench } from '../helper-bench.ts'
import { plansOf, startHelperHost, type HelperHost } from '../helper-pod.ts'
import { SAMPLES } from '../helper-samples.ts'

const TIMEOUT_MS = 400_000
const READY_MS = 60_000
/** No helper comes that far. */
const NEVER = 1_000_000
const DATA_PLANE = /^(tgtd|wireguard-go|dnsmasq|nginx|qemu-system-x86_64)$/

t.setTimeout(TIMEOUT_MS)
const root = process.getuid?.() === 0

async function dataPlane (host: HelperHost): Promise<string[]> {
  const name = (argv: readonly string[]): string => (argv[0] ?? '').replace(/^.*\//, '').replace(/^nginx:.*/, 'nginx')
  return (await processesOfPod(host.pod.pid)).filter(one => DATA_PLANE.test(name(one.argv))).map(one => `${name(one.argv)} ${one.innerPid}`).sort()
}

/** One pass of an agent that wants this, then what the host has; processes of ended services need a moment. */
async function reconcile (host: HelperHost, desired: readonly DesiredObject[]): Promise<string[]> {
  const brain = host.brain(desired)
  await brain.client.ready(AbortSignal.timeout(READY_MS))
  await brain.reconciler.pass()
  let wrong: string[] = []
  for (let i = 0; i < 20; i++) {
    const { objects, orphans, unseen } = await brain.client.call('owned', {})
    wrong = [
      ...unseen.map(({ kind, why }) => `${kind}s cannot be seen: ${why}`), ...orphans.map(({ what, name }) => `left over: ${what} ${name}`),
      ...objects.filter(one => !one.healthy).map(one => `${one.kind} ${one.name} does not work`),
      ...objects.filter(one => !desired.some(({ kind, name }) => kind === one.kind && name === one.name)).map(one => `${one.kind} ${one.name} is there`),
      ...desired.filter(({ kind, name }) => !objects.some(one => one.kind === kind && one.name === name)).map(one => `${one.kind} ${one.name} is missing`)
    ]
    if (wrong.length === 0) break
    await sleep(100)
  }
  wrong.push(...brain.reconciler.states().filter(one => one.state !== 'ok').map(one => `${one.kind} ${one.name} is ${one.state}: ${one.error}`))
  await brain.close()
  return wrong
}

interface Counts { points: number, missed: number }

/** The helper dies at a command of the way from what stands to what is wanted; then one reconcile. */
async function dieOnTheWay (t: Test, host: HelperHost, { what, desired, stays, at, when }: { what: string, desired: readonly DesiredObject[], stays: readonly string[], at: number, when: 'before' | 'during' }, counts: Counts): Promise<void> {
  await host.dieAt(at, when)
  const first = host.brain(desired)
  await first.client.ready(AbortSignal.timeout(READY_MS))
  await first.reconciler.pass().catch(() => undefined)
  const commands = await host.started()
  const line = commands.at(-1) ?? ''
  // pauses and repairs differ: it may have been done with one command less
  const died = commands.length >= at
  if (!died) counts.missed++
  await first.close()
  await (died ? host.ended() : host.kill())
  await host.dieAt(null)
  await host.start()
  const wrong = await reconcile(host, desired)
  const now = await dataPlane(host)
  const problems = [...wrong, ...stays.filter(one => !now.includes(one)).map(one => `ended: ${one}`)]
  if (problems.length > 0) t.fail(`${what}, killed ${when} command ${at} (${line.slice(0, 120)})`, { problems })
  counts.points++
}

/** Makes and removes every object of a plan, on top of those before it, once for every place to die. */
async function overPlan (t: Test, plan: 'near' | 'far'): Promise<void> {
  await using host = await startHelperHost({ libvirt: true })
  const objects = plansOf(host.imageDigest, true)[plan]
  await host.start()
  const counts: Counts = { points: 0, missed: 0 }
  const began = performance.now()
  let told = ''
  for (const [i, object] of objects.entries()) {
    const without = objects.slice(0, i)
    const withIt = objects.slice(0, i + 1)
    const stays = await dataPlane(host)
    const commandsTo = async (desired: readonly DesiredObject[]): Promise<number> => {
      await host.dieAt(NEVER)
      t.strictSame(await reconcile(host, desired), [], `${object.kind} ${desired === withIt ? 'made' : 'removed'} undisturbed`)
      return (await host.started()).length
    }
    const [up, down] = [await commandsTo(withIt), await commandsTo(without)]
    const places = (count: number): Array<{ at: number, when: 'before' | 'during' }> => count === 0 ? [] : [...Array.from({ length: count }, (_, n) => ({ at: n + 1, when: 'before' as const })), { at: count, when: 'during' }]
    const [making, removing] = [places(up), places(down)]
    // in turns: where one ends the next begins
    for (let n = 0; n < Math.max(making.length, removing.length); n++) {
      const [make, remove] = [making[n], removing[n]]
      if (make !== undefined) await dieOnTheWay(t, host, { what: `${object.kind} is made`, desired: withIt, stays, ...make }, counts)
      else await commandsTo(withIt)
      if (remove !== undefined) await dieOnTheWay(t, host, { what: `${object.kind} is removed`, desired: without, stays, ...remove }, counts)
      else await commandsTo(without)
    }
    await commandsTo(withIt)
    told += `${object.kind} ${up}+${down} `
  }
  await noSocketOfRoot(t, host)
  await host.dieAt(null)
  t.strictSame(await reconcile(host, []), [], 'in the end nothing of ours is left')
  t.strictSame(await dataPlane(host), [])
  t.comment(`${plan}: ${Math.round((performance.now() - began) / 1000)} s, ${counts.points} places (commands to make and to remove: ${told.trim()}), ${counts.missed} not reached`)
  t.ok(counts.missed <= counts.points / 10)
}

/** Programs of the system that need root and the network, each in a service of its own. */
const FOREIGN = /^(tgtd|wireguard-go|libvirtd|qemu-system-x86|dnsmasq|nginx)$/
/** With everything running: whose sockets are those of the network, in every namespace of the host? */
async function noSocketOfRoot (t: Test, host: HelperHost): Promise<void> {
  const sockets = async (netns?: string): Promise<string> => (await host.pod.exec(['ss', '-Htuwnap'], netns === undefined ? {} : { netns })).stdout
  const spaces = (await host.pod.exec(['ip', 'netns', 'list'])).stdout.split('\n').map(line => line.split(' ')[0] ?? '').filter(name => name !== '')
  const all = [await sockets(), ...await Promise.all(spaces.map(async space => await sockets(space)))].join('\n')
  const owners = [...all.matchAll(/\("([^"]+)",pid=(\d+)/g)].map(([, name = '', pid = '']) => ({ name, pid: Number(pid) }))
  t.ok(owners.some(({ name }) => name === 'wireguard-go'), 'sockets are seen')
  const processes = await processesOfPod(host.pod.pid)
  t.strictSame(owners.filter(({ name }) => !FOREIGN.test(name)), [], 'none is of a program of ours')
  const helper = processes.find(({ argv }) => argv[0]?.startsWith('musubi helper') === true)
  t.ok(helper !== undefined, 'the helper is among the processes')
  t.notOk(owners.some(({ pid }) => pid === helper?.innerPid), 'and has no socket of the network')
}

t.test('kill -9 of the helper between any two of its commands', { skip: root ? false : 'needs root for hosts of the lab', jobs: 2 }, async t => {
  await Promise.all([
    t.test('on the host of the frontend', async t => { await overPlan(t, 'near') }),
    t.test('on the far host', async t => { await overPlan(t, 'far') })
  ])
})

// --- the agent ------------------------------------------------------------------------------------

const silent = pino({ level: 'silent' })
const CLUSTER = { clusterId: '01234567-0000-4000-8000-000000000000', endMs: Date.now() + 3_600_000 }

/** An agent that is dead after so many calls: the last is sent, or not; what is answered nobody hears. */
function mortal (client: HelperClient, lives: number, sent: boolean): { client: HelperClient, died: Promise<void>, calls: () => number } {
  const { promise: died, resolve: die } = Promise.withResolvers<undefined>()
  let calls = 0
  const dead = new Promise<never>(() => undefined)
  return {
    died, calls: () => calls,
    client: {
      ...client,
      async call (verb, params, options) {
        if (++calls > lives) return await dead
        if (calls < lives) return await client.call(verb, params, options)
        if (sent) client.call(verb, params, options).catch(() => undefined)
        // the frame is on its way before the connection ends
        setImmediate(() => { client.close(); die(undefined) })
        return await dead
      }
    }
  }
}

function agentOf (client: HelperClient, desired: readonly DesiredObject[], counter: number): ReturnType<typeof createReconciler> {
  const host = createRemoteHost(client, KIND_ORDER)
  return createReconciler({
    drivers: host.observers, hands: host.hands, desired: () => [...desired], log: silent,
    fence: { fence: host.fence, tenancy: () => ({ counter, clusters: desired.length === 0 ? new Map() : new Map([['01234567', CLUSTER]]) }) }
  })
}

t.test('kill -9 of the agent between any two of its calls', async t => {
  const bench: Bench = await startBench(t)
  const wanted = SAMPLES.map(({ kind, name }) => `${kind} ${name}`).sort()
  let counter = 0
  /** @returns how many calls it took; fewer lives than that end it early */
  async function live (desired: readonly DesiredObject[], lives: number, sent: boolean): Promise<number> {
    const own = bench.client({ ledgerMs: () => Date.now() })
    await own.ready(AbortSignal.timeout(READY_MS))
    const { client, died, calls } = mortal(own, lives, sent)
    const reconciler = agentOf(client, desired, ++counter)
    // what the dead one waits for never comes
    const lived = await Promise.race([reconciler.pass().then(() => true), died.then(() => false)])
    if (lived) await reconciler.stop()
    own.close()
    return calls()
  }
  let points = 0
  for (const sent of [false, true]) {
    for (let lives = 1, done = false; !done; lives++) {
      done = true
      for (const desired of [SAMPLES, []]) {
        if (await live(desired, lives, sent) >= lives) done = false
        // what it had begun comes to its end, then the next agent looks
        await live(desired, NEVER, false)
        points++
        const standing = (await bench.standing()).sort()
        if (JSON.stringify(standing) !== JSON.stringify(desired.length === 0 ? [] : wanted)) t.fail(`after call ${lives}${sent ? ', sent' : ''}`, { standing })
        const records = bench.helper.fence.records().map(({ state }) => state)
        if (desired.length === 0 ? records.some(state => state !== 'gone') : records.some(state => state !== 'granted')) t.fail(`the fence after call ${lives}${sent ? ', sent' : ''}`, { records: bench.helper.fence.records() })
      }
    }
  }
  t.comment(`${points} places`)
  t.ok(points > 40)
  const raw = await connectRaw(t, bench.socket)
  raw.send({ id: 1, verb: 'noop', params: {}, deadlineMs: 1_000 })
  t.strictSame(await raw.next(), { id: 1, result: null })
})
