import t from 'tap'
import { createKernel } from '../../sim/kernel/kernel.ts'
import { createHostClock } from '../../sim/kernel/clock.ts'
import { createDisk, type Disk, type DiskOptions, type Operation } from '../../sim/kernel/disk.ts'
import { createNetwork, type Endpoint, type Network, type Process } from '../../sim/kernel/network.ts'
import { createPrng } from '../../sim/kernel/prng.ts'
import { ConflictError } from '../../../protocol/core/errors.ts'

const put = (key: string, value: string): Operation => ({ type: 'put', key, value: Buffer.from(value) })

t.test('the same seed gives the same chance, another seed another', t => {
  const draw = (seed: number): unknown[] => {
    const chance = createPrng(seed)
    return [chance.int(1, 1000), chance.uuid(), chance.shuffled([1, 2, 3, 4, 5]), chance.fork('disk').hex(20), chance.unit()]
  }
  t.strictSame(draw(7), draw(7))
  t.notSame(draw(7), draw(8))
  t.notSame(draw(7), draw(7 + 2 ** 32))
  const a = createPrng(1).fork('a')
  t.not(a.bits(), createPrng(1).fork('b').bits())
  t.end()
})

t.test('chance is spread evenly', t => {
  const chance = createPrng(3)
  const seen = [0, 0, 0, 0]
  for (let i = 0; i < 40_000; i++) { const n = chance.int(0, 3); seen[n] = (seen[n] ?? 0) + 1 }
  for (const count of seen) t.ok(Math.abs(count - 10_000) < 500, String(count))
  t.end()
})

t.test('events run in the order of true time, and all promises settle between them', async t => {
  const kernel = createKernel()
  const log: string[] = []
  const deep = async (name: string): Promise<void> => {
    for (let i = 0; i < 50; i++) await Promise.resolve()
    log.push(`${name} settled at ${kernel.now()}`)
  }
  kernel.at(5, () => { log.push('b'); void deep('b') })
  kernel.at(1, () => { log.push('a'); void deep('a'); kernel.after(4, () => { log.push('c') }) })
  kernel.at(5, () => { log.push('never') }).cancelled = true
  await kernel.run(100)
  t.strictSame(log, ['a', 'a settled at 1', 'b', 'b settled at 5', 'c'])
  t.equal(kernel.now(), 100)
})

t.test('clocks run off the true time as told', async t => {
  const kernel = createKernel()
  const clock = createHostClock(kernel, 500, false)
  const right = createHostClock(kernel, 500, true)
  const begin = right.wall()
  await kernel.run(1_000_000)
  t.equal(Math.round(clock.monotonic()), 1_000_500)
  t.equal(clock.wall() - begin, 1_000_500)
  t.equal(right.wall() - begin, 1_000_000)
  clock.jump(-3_600_000)
  t.equal(clock.wall() - begin, 1_000_500 - 3_600_000)
  t.equal(Math.round(clock.wallOffMs()), 500 - 3_600_000)
  clock.reboot()
  t.equal(clock.monotonic(), 0)
  clock.settle()
  t.equal(clock.wall(), right.wall())
})

function diskWith (options: Partial<DiskOptions> = {}): { disk: Disk, kernel: ReturnType<typeof createKernel>, durable: string[] } {
  const kernel = createKernel()
  const durable: string[] = []
  const disk = createDisk({ kernel, chance: createPrng(1), latencyMs: () => 5, crashAt: () => false, onDurable: ops => { durable.push(...ops.map(op => op.key)) }, ...options })
  return { disk, kernel, durable }
}

t.test('a loss of power takes unsynced writes only, the last ones first, whole batches', async t => {
  const kept = new Set<number>()
  for (let seed = 0; seed < 40; seed++) {
    const { disk, kernel, durable } = diskWith({ chance: createPrng(seed) })
    const db = disk.attach(() => true)
    void db.batch([put('a', '1'), put('b', '1')], { sync: true })
    await kernel.run(10)
    void db.batch([put('a', '2'), put('c', '2')], { sync: false })
    void db.batch([put('d', '3'), { type: 'del', key: 'b' }], { sync: false })
    t.strictSame(durable, ['a', 'b'])
    t.equal(Buffer.from(disk.durable('a') ?? []).toString(), '1', 'what is safe is known beside what is written')
    t.equal(Buffer.from(disk.peek('a') ?? []).toString(), '2')
    const lost = disk.lostPower()
    kept.add(2 - lost)
    const text = (key: string): string | undefined => { const value = disk.peek(key); return value === undefined ? undefined : Buffer.from(value).toString() }
    t.strictSame(['a', 'b', 'c', 'd'].map(text), lost === 2 ? ['1', '1', undefined, undefined] : lost === 1 ? ['2', '1', '2', undefined] : ['2', undefined, '2', '3'])
    t.strictSame(['a', 'b', 'c', 'd'].map(key => disk.durable(key)), ['a', 'b', 'c', 'd'].map(key => disk.peek(key)), 'what came through is safe')
  }
  t.strictSame([...kept].sort(), [0, 1, 2], 'any number of them')
})

t.test('a synced write makes everything before it safe, and a killed process loses nothing', async t => {
  const { disk, kernel, durable } = diskWith()
  const life = { dead: false }
  const db = disk.attach(() => !life.dead)
  void db.batch([put('a', '1')], { sync: false })
  let done = false
  void db.batch([put('b', '1')], { sync: true }).then(() => { done = true })
  await kernel.run(4)
  t.notOk(done)
  t.strictSame(durable, [])
  await kernel.run(6)
  t.ok(done)
  t.strictSame(durable, ['a', 'b'])
  void db.batch([put('c', '1')], { sync: false })
  life.dead = true
  disk.killed()
  t.ok(disk.peek('c'), 'the kernel has it')
  let answered = false
  void db.get('a').then(() => { answered = true })
  await kernel.run(20)
  t.notOk(answered, 'a dead process hears nothing')
})

t.test('a process can die before, during and after each batch', async t => {
  for (const point of ['before', 'during', 'after'] as const) {
    const life = { dead: false }
    const { disk, kernel, durable } = diskWith({ crashAt: at => { if (at === point) life.dead = true; return at === point } })
    let done = false
    void disk.attach(() => !life.dead).batch([put('a', '1')], { sync: true }).then(() => { done = true })
    await kernel.run(10)
    t.notOk(done, 'nobody was told')
    t.equal(disk.peek('a') !== undefined, point !== 'before')
    t.equal(durable.length === 1, point === 'after')
  }
})

t.test('a write that fails may be on the disk or not, and nothing follows it before it is opened anew', async t => {
  const outcomes = new Set<boolean>()
  for (let seed = 0; seed < 20; seed++) {
    const { disk, kernel } = diskWith({ chance: createPrng(seed) })
    const db = disk.attach(() => true)
    disk.fail('ENOSPC')
    const failed: unknown[] = []
    db.batch([put('a', '1')], { sync: true }).catch((error: unknown) => { failed.push((error as { code: string }).code) })
    await kernel.run(10)
    outcomes.add(disk.peek('a') !== undefined)
    disk.fail(null)
    db.batch([put('b', '1')], { sync: true }).catch((error: unknown) => { failed.push((error as { code: string }).code) })
    await kernel.run(20)
    t.strictSame(failed, ['ENOSPC', 'EIO'])
    t.notOk(disk.peek('b'))
    await db.close()
    await db.open()
    void db.batch([put('b', '1')], { sync: true })
    await kernel.run(30)
    t.ok(disk.peek('b'))
  }
  t.equal(outcomes.size, 2)
})

function twoHosts (serve: Process['serve'], wire: string[] = []): { kernel: ReturnType<typeof createKernel>, network: Network, a: Endpoint, life: { dead: boolean } } {
  const kernel = createKernel()
  const life = { dead: false }
  const server: Process = { dead: () => life.dead, serve }
  const a: Endpoint = { peer: 'pa', host: 'a', site: 's1', gateway: true, process: () => null }
  const b: Endpoint = { peer: 'pb', host: 'b', site: 's2', gateway: false, process: () => life.dead ? null : server }
  const network = createNetwork({
    kernel, chance: createPrng(5), endpoints: new Map([['pa', a], ['pb', b]]), latencyMs: () => 10,
    wire: { called: call => { wire.push(`call ${call.method}`) }, arrived: () => { wire.push('arrive') }, answered: (_call, _copy, _reply, error) => { wire.push(error === null ? 'reply' : error.code) }, settled: () => undefined, fault: kind => { wire.push(kind) } }
  })
  return { kernel, network, a, life }
}

t.test('a call arrives with its caller proved, and its answer or refusal comes back', async t => {
  const { kernel, network, a } = twoHosts((method, request, caller) => method === 'no' ? Promise.reject(new ConflictError('refused', 'ask again')) : Promise.resolve({ method, request, caller }))
  const request = { list: [1, 2], bytes: new Uint8Array([1]) }
  let reply: unknown
  let refusal: unknown
  void network.call(a, () => false, 'pb', 'yes', request, 1000).then(r => { reply = r })
  request.list.push(3)
  network.call(a, () => false, 'pb', 'no', {}, 1000).catch((error: unknown) => { refusal = error })
  await kernel.run(50)
  t.strictSame(reply, { method: 'yes', request: { list: [1, 2], bytes: new Uint8Array([1]) }, caller: { peerId: 'pa', site: 's1', host: 'a', gateway: true } })
  t.match(refusal, { code: 'CONFLICT', message: 'refused', hint: 'ask again', retryable: false })
})

t.test('every call settles by its deadline, whatever is lost; a link may fail one way', async t => {
  const wire: string[] = []
  const { kernel, network, a } = twoHosts(() => Promise.resolve('done'), wire)
  const results: unknown[] = []
  const call = (): void => { network.call(a, () => false, 'pb', 'm', {}, 100).then(r => { results.push(r) }, (error: unknown) => { results.push((error as { code: string }).code) }) }
  network.block('s2', 's1')
  call()
  await kernel.run(200)
  network.heal()
  network.block('a', 'b')
  call()
  await kernel.run(400)
  network.heal()
  network.weather = { loss: 0, duplicate: 1, holdUp: 0, holdUpMs: 20 }
  call()
  await kernel.run(600)
  t.strictSame(results, ['UNREACHABLE', 'UNREACHABLE', 'done'])
  t.strictSame(wire.filter(what => what === 'arrive').length, 3, 'the answer was lost, the question was lost, the question was doubled')
})

t.test('nobody hears from a process that died, and nobody is told in its name', async t => {
  const { kernel, network, a, life } = twoHosts(() => new Promise(resolve => { kernel.after(20, () => { resolve('late') }) }))
  let heard: unknown = null
  network.call(a, () => false, 'pb', 'm', {}, 500).then(r => { heard = r }, (error: unknown) => { heard = (error as { code: string }).code })
  kernel.at(15, () => { life.dead = true })
  await kernel.run(400)
  t.equal(heard, null)
  await kernel.run(600)
  t.equal(heard, 'UNREACHABLE')
})
