import t from 'tap'
import { type GroupCommit, createGroupCommit } from '../../../store/group-commit.ts'

interface Flush { operations: string[], sync: boolean, done: ReturnType<typeof gate> }

const gate = () => Promise.withResolvers<undefined>()

/** A disk whose writes the test finishes by hand. */
function onSlowDisk (): { disk: GroupCommit<string>, flushes: Flush[] } {
  const flushes: Flush[] = []
  const disk = createGroupCommit<string>((operations, sync) => {
    const done = gate()
    flushes.push({ operations, sync, done })
    return done.promise
  })
  return { disk, flushes }
}
const turn = (): Promise<void> => new Promise(resolve => { setImmediate(resolve) })

t.test('while one sync is under way the next writes gather behind it', async t => {
  const { disk, flushes } = onSlowDisk()
  const answered: string[] = []
  const put = (key: string, sync: boolean): void => { void disk.write([key], sync).then(() => { answered.push(key) }) }
  put('a', true)
  for (const key of ['b', 'c', 'd']) put(key, key === 'c')
  await turn()
  t.strictSame(flushes.map(one => [one.operations, one.sync]), [[['a'], true]])
  t.strictSame(answered, [], 'no answer before the disk')
  flushes[0]?.done.resolve(undefined)
  await turn()
  t.strictSame(answered, ['a'])
  t.strictSame(flushes.slice(1).map(one => [one.operations, one.sync]), [[['b', 'c', 'd'], true]], 'one sync for three writes')
  put('e', false)
  flushes[1]?.done.resolve(undefined)
  await turn()
  t.strictSame(answered, ['a', 'b', 'c', 'd'])
  t.equal(flushes[2]?.sync, false, 'no sync that nobody asked for')
  flushes[2]?.done.resolve(undefined)
  await disk.idle()
  t.strictSame(answered.at(-1), 'e')
})

t.test('a write that fails is told to everybody in it and behind it, until somebody goes on', async t => {
  const { disk, flushes } = onSlowDisk()
  const first = disk.write(['a'], true)
  const second = [disk.write(['b'], true), disk.write(['c'], false)]
  flushes[0]?.done.resolve(undefined)
  await first
  await turn()
  second.push(disk.write(['d'], true))
  flushes[1]?.done.reject(new Error('disk full'))
  for (const write of second) await t.rejects(write, { code: 'STORE_WRITE_FAILED', retryable: true, message: /disk full/ })
  await t.rejects(disk.write(['e'], true), { code: 'STORE_WRITE_FAILED' }, 'nothing is appended behind what may be torn')
  t.match(disk.failure(), { code: 'STORE_WRITE_FAILED' })
  t.equal(flushes.length, 2)
  disk.resume()
  const third = disk.write(['f'], true)
  await turn()
  flushes[2]?.done.resolve(undefined)
  await third
  t.strictSame(flushes[2]?.operations, ['f'])
})

t.test('a disk that does not keep up', async t => {
  const { disk, flushes } = onSlowDisk()
  const writes = Array.from({ length: 1 + 16_384 }, (_, i) => disk.write([String(i)], true))
  await t.rejects(disk.write(['more'], true), { code: 'BUSY', retryable: true })
  for (let i = 0; i <= 16; i++) {
    t.ok((flushes[i]?.operations.length ?? 0) <= 1024)
    flushes[i]?.done.resolve(undefined)
    await turn()
  }
  await Promise.all(writes)
  t.strictSame(flushes.flatMap(one => one.operations), Array.from({ length: 1 + 16_384 }, (_, i) => String(i)), 'in the order of the calls')
})
