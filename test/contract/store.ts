import type { Test } from 'tap'
import type { Store, StoreEntry } from '../../store/store.ts'

async function entries (store: Store, prefix: string): Promise<Array<StoreEntry<unknown>>> {
  const all: Array<StoreEntry<unknown>> = []
  for await (const entry of store.iterate(prefix)) all.push(entry)
  return all
}
const keys = async (store: Store, prefix: string): Promise<string[]> => (await entries(store, prefix)).map(entry => entry.key)

/**
 * What every Store must do.
 *
 * @param open gives an empty store; the suite closes it
 */
export function storeContract (t: Test, name: string, open: (t: Test) => Promise<Store>): void {
  const test = (title: string, body: (t: Test, store: Store) => Promise<void>): void => {
    void t.test(`${name}: ${title}`, async t => {
      const store = await open(t)
      t.teardown(() => store.close())
      await body(t, store)
    })
  }

  test('gives back what was put', async (t, store) => {
    for (const value of [{ a: [1, null, 'ü'], b: { c: true } }, 'text', 0, null, [], {}]) {
      await store.put('k', value, { sync: true })
      t.strictSame(await store.get('k'), value)
    }
    const bytes = Uint8Array.of(0, 255, 109, 0)
    await store.put('bytes', bytes)
    t.strictSame(await store.get('bytes'), bytes)
    await store.put('empty', new Uint8Array(0))
    t.strictSame(await store.get('empty'), new Uint8Array(0))
    t.equal(await store.get('unknown'), undefined)
    t.equal(await store.read('unknown'), undefined)
  })

  test('keeps the version beside the value', async (t, store) => {
    await store.put('a', 1)
    await store.put('b', 2, { version: 7 })
    await store.batch([{ type: 'put', key: 'c', value: 3, version: 8 }, { type: 'put', key: 'd', value: 4 }])
    t.strictSame((await entries(store, '')).map(entry => [entry.key, entry.value, entry.version]), [['a', 1, 1], ['b', 2, 7], ['c', 3, 8], ['d', 4, 1]])
    t.strictSame(await store.read('b'), { key: 'b', value: 2, version: 7 })
  })

  test('shares no object with its callers', async (t, store) => {
    const value = { list: [1] }
    await store.put('k', value)
    value.list.push(2)
    const got = await store.get<typeof value>('k')
    t.strictSame(got, { list: [1] })
    got?.list.push(3)
    t.strictSame(await store.get('k'), { list: [1] })
    const bytes = Uint8Array.of(1, 2)
    await store.put('b', bytes)
    bytes[0] = 9
    t.strictSame(await store.get('b'), Uint8Array.of(1, 2))
  })

  test('deletes', async (t, store) => {
    await store.put('k', 1)
    await store.delete('k', { sync: true })
    t.equal(await store.get('k'), undefined)
    await store.delete('k')
    t.strictSame(await keys(store, ''), [])
  })

  test('iterates over a prefix in the order of the keys', async (t, store) => {
    for (const key of ['b/2', 'a/1', 'b/10', 'b', 'b/1', 'c/1', 'b0', 'b/é', 'b/\u{10000}', 'b/\uffff']) await store.put(key, key)
    t.strictSame(await keys(store, 'b/'), ['b/1', 'b/10', 'b/2', 'b/é', 'b/\uffff', 'b/\u{10000}'])
    t.strictSame(await keys(store, 'x'), [])
    t.equal((await keys(store, '')).length, 10)
    for await (const entry of store.iterate('b/')) {
      t.equal(entry.key, 'b/1')
      break
    }
  })

  test('an iteration sees the store as of its beginning', async (t, store) => {
    for (let i = 0; i < 5; i++) await store.put(`k${i}`, 'before')
    const seen: unknown[] = []
    for await (const { key, value } of store.iterate('k')) {
      seen.push(value)
      await store.put('k4', 'after')
      await store.put(`k${key}`, 'after')
      await store.delete('k3')
    }
    t.strictSame(seen, Array.from({ length: 5 }, () => 'before'))
  })

  test('writes take effect in the order of the calls', async (t, store) => {
    const writes: Array<Promise<void>> = []
    for (let i = 0; i < 200; i++) {
      writes.push(store.put('k', i, { sync: i % 7 === 0 }))
      if (i % 10 === 0) writes.push(store.delete('k'), store.batch([{ type: 'put', key: 'k', value: i }, { type: 'put', key: `n${i}`, value: i }], { sync: true }))
    }
    await Promise.all(writes)
    t.equal(await store.get('k'), 199)
    t.equal((await keys(store, 'n')).length, 20)
  })

  test('a batch is all or nothing', async (t, store) => {
    await store.put('a', 1)
    await t.rejects(store.batch([{ type: 'put', key: 'a', value: 2 }, { type: 'put', key: 'b', value: undefined }]), { code: 'INVALID_INPUT', message: /record "b".*undefined/ })
    await t.rejects(store.batch([{ type: 'delete', key: 'a' }, { type: 'put', key: '', value: 1 }]), { code: 'INVALID_INPUT' })
    t.equal(await store.get('a'), 1)
    await store.batch([])
    await store.batch([{ type: 'delete', key: 'a' }, { type: 'put', key: 'c', value: 3 }], { sync: true })
    t.strictSame(await keys(store, ''), ['c'])
  })

  test('refuses what it cannot carry', async (t, store) => {
    await t.rejects(store.put('f', () => 1), { code: 'INVALID_INPUT' })
    await t.rejects(store.put('v', 1, { version: -1 }), { code: 'INVALID_INPUT' })
    await t.rejects(store.put('\ud800', 1), { code: 'INVALID_INPUT' })
    t.strictSame(await keys(store, ''), [])
  })

  test('opening it again when no write has failed does nothing', async (t, store) => {
    await store.put('k', 1)
    await Promise.all([store.reopen(), store.reopen()])
    await store.put('l', 2, { sync: true })
    t.strictSame(await keys(store, ''), ['k', 'l'])
  })

  test('finishes what is under way before it closes, and nothing after', async (t, store) => {
    const writes = Array.from({ length: 50 }, (_, i) => store.put(`k${i}`, i, { sync: true }))
    const closed = store.close()
    await Promise.all(writes)
    await closed
    await t.rejects(store.put('k', 1), { code: 'STORE_CLOSED' })
    await t.rejects(store.get('k'), { code: 'STORE_CLOSED' })
    t.throws(() => store.iterate(''), { code: 'STORE_CLOSED' })
    await t.rejects(store.reopen(), { code: 'STORE_CLOSED' })
    await store.close()
  })
}
