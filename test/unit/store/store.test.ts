import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { Level } from 'level'
import t from 'tap'
import { decodeRecord, encodeRecord } from '../../../store/envelope.ts'
import { createLevelStore, openLevelStore } from '../../../store/level.ts'
import { createMemoryStore } from '../../../store/memory.ts'
import type { Store } from '../../../store/store.ts'
import { storeContract } from '../../contract/store.ts'

storeContract(t, 'memory', () => Promise.resolve(createMemoryStore()))
storeContract(t, 'level', t => openLevelStore(join(t.testdir(), 'db')))

t.test('a level store is there after it was opened again', async t => {
  const folder = join(t.testdir(), 'deep', 'db')
  const first = await openLevelStore(folder)
  t.equal((await stat(folder)).mode & 0o777, 0o700, 'for its owner only: it holds secrets')
  await first.put('k', { a: 1 }, { sync: true, version: 3 })
  await t.rejects(openLevelStore(folder), { code: 'STORE_LOCKED', message: /is in use by another process/ })
  await first.close()
  const second = await openLevelStore(folder)
  t.strictSame(await second.read('k'), { key: 'k', value: { a: 1 }, version: 3 })
  await second.close()
})

t.test('a write that asks for a sync gets one from the database, another does not', async t => {
  const options: unknown[] = []
  const store = createLevelStore({
    get: () => Promise.resolve(undefined),
    batch (_operations, given) { options.push(given); return Promise.resolve() },
    iterator: () => { throw new Error('not used') },
    open: () => Promise.resolve(),
    close: () => Promise.resolve()
  })
  await store.put('a', 1, { sync: true })
  await store.put('a', 1)
  await store.delete('a', { sync: true })
  await store.batch([{ type: 'put', key: 'a', value: 1 }], { sync: true })
  t.strictSame(options, [{ sync: true }, { sync: false }, { sync: true }, { sync: true }])
})

t.test('a folder that cannot be a store', async t => {
  const folder = t.testdir({ file: 'x' })
  await t.rejects(openLevelStore(join(folder, 'file', 'db')), { code: 'STORE_UNUSABLE', message: /cannot be opened/ })
})

t.test('a damaged record is named, the others can be read', async t => {
  const folder = join(t.testdir(), 'db')
  const db = new Level<string, Uint8Array>(folder, { valueEncoding: 'view' })
  const good = encodeRecord('good', { a: 1 }, 1)
  const flipped = Uint8Array.from(good)
  flipped[flipped.length - 1] = (flipped.at(-1) ?? 0) ^ 1
  await db.batch([{ type: 'put', key: 'good', value: good }, { type: 'put', key: 'flipped', value: flipped }, { type: 'put', key: 'foreign', value: Buffer.from('hello') }])
  await db.close()
  const store: Store = await openLevelStore(folder)
  t.teardown(() => store.close())
  t.strictSame(await store.get('good'), { a: 1 })
  await t.rejects(store.get('flipped'), { code: 'CORRUPT_RECORD', key: 'flipped', message: /record "flipped" .*checksum/ })
  await t.rejects(store.get('foreign'), { code: 'CORRUPT_RECORD', message: /record "foreign" .*no header/ })
  await t.rejects((async () => { for await (const entry of store.iterate('f')) t.fail(entry.key) })(), { code: 'CORRUPT_RECORD', key: 'flipped' })
})

t.test('every single flipped bit of a record is noticed', t => {
  const record = encodeRecord('k', { a: 'b' }, 1)
  for (let bit = 0; bit < record.length * 8; bit++) {
    const damaged = Uint8Array.from(record)
    damaged[bit >> 3] = (damaged[bit >> 3] ?? 0) ^ (1 << (bit & 7))
    t.throws(() => decodeRecord('k', damaged), { code: 'CORRUPT_RECORD' }, `bit ${bit}`)
  }
  for (let length = 0; length < record.length; length++) t.throws(() => decodeRecord('k', record.subarray(0, length)), { code: 'CORRUPT_RECORD' })
  t.end()
})
