import t from 'tap'
import { budgetState, withBudget } from '../../../agent/drivers/cache/account/budget.ts'
import { OWN_ORDER, coveringOrders, oddOrders, orderNames, putOrder } from '../../../agent/drivers/cache/fetcher/orders.ts'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'

t.test('a budget is used by all that comes from the frontend', t => {
  t.equal(budgetState({}, { static: 5, dynamic: 5 }), null)
  t.strictSame(budgetState({ budget: { rateMbitPerS: 8 } }, { static: 5e12, dynamic: 5 }), { rateMbitPerS: 8, totalBytes: null, usedBytes: 5e12 + 5, paused: '' })
  t.strictSame(budgetState({ budget: { totalBytes: 100 } }, { static: 60, dynamic: 39 }), { rateMbitPerS: null, totalBytes: 100, usedBytes: 99, paused: '' })
  t.match(budgetState({ budget: { totalBytes: 100 } }, { static: 60, dynamic: 40 }), { paused: 'the WAN budget of 100 bytes is used up' })
  t.end()
})

t.test('orders say what the budget allows, and nothing of it when there is none any more', async t => {
  const order = 'rate\t3\nobject\t80\t/a\t-\t-\n'
  t.equal(withBudget(order, null), order)
  t.equal(withBudget('', { rateMbitPerS: 8, paused: 'x' }), '', 'an order that is taken away stays away')
  const both = withBudget(order, { rateMbitPerS: 8, paused: 'used up' })
  t.equal(both, `cap\t8\npause\tused up\n${order}`)
  t.equal(withBudget(both, { rateMbitPerS: 8, paused: 'used up' }), both)
  t.equal(withBudget(both, null), order)
  const dir = join(t.testdir({}), 'orders')
  for (const name of ['a', 'b']) await putOrder(dir, name, order)
  t.same(await orderNames(dir), ['a', 'b'])
  const wanted = { own: '', fit: (text: string) => withBudget(text, { rateMbitPerS: null, paused: 'used up' }) }
  const odd = await oddOrders(dir, wanted)
  t.strictSame(odd, ['a', 'b'].map(name => ({ name, text: `pause\tused up\n${order}` })))
  for (const name of ['a', 'b']) t.equal(await readFile(join(dir, `${name}.tsv`), 'utf8'), order, 'looking changes nothing')
  for (const { name, text } of odd) await putOrder(dir, name, text)
  t.strictSame(await oddOrders(dir, wanted), [])
})

t.test('the order of the specification is compared as a whole', async t => {
  const dir = join(t.testdir({}), 'orders')
  const fit = (text: string): string => text
  t.strictSame(await oddOrders(dir, { own: '', fit }), [])
  t.strictSame(await oddOrders(dir, { own: 'rate\t3\n', fit }), [{ name: OWN_ORDER, text: 'rate\t3\n' }], 'it is gone')
  await putOrder(dir, OWN_ORDER, 'rate\t')
  t.strictSame(await oddOrders(dir, { own: 'rate\t3\n', fit }), [{ name: OWN_ORDER, text: 'rate\t3\n' }], 'it is torn')
  t.strictSame(await oddOrders(dir, { own: '', fit }), [{ name: OWN_ORDER, text: '' }], 'there should be none')
  await putOrder(dir, OWN_ORDER, 'rate\t3\n')
  t.strictSame(await oddOrders(dir, { own: 'rate\t3\n', fit }), [])
})

t.test('a purge has orders fetch again what it took from them, and nothing else of them changes', async t => {
  const dir = join(t.testdir({}), 'orders')
  const budget = { rateMbitPerS: 8, paused: '' }
  const wanted = { own: 'preheat\tmanifest\t80\t/m.json\n', fit: (text: string) => withBudget(text, budget) }
  await putOrder(dir, 'a', withBudget('rate\t3\nobject\t80\t/a/1\t-\t-\n', budget))
  await putOrder(dir, 'b', withBudget('object\t80\t/b/1\t-\t-\n', budget))
  await putOrder(dir, OWN_ORDER, withBudget(wanted.own, budget))
  t.strictSame(await coveringOrders(dir, '/a/', null), ['a', OWN_ORDER], 'what an index names is not known here')
  t.strictSame(await oddOrders(dir, wanted), [], 'asking changes nothing')
  for (const stamp of ['s1', 's2']) t.strictSame(await coveringOrders(dir, '/a/', stamp), ['a', OWN_ORDER])
  t.equal(await readFile(join(dir, 'a.tsv'), 'utf8'), 'cap\t8\nagain\ts2\t/a/\nrate\t3\nobject\t80\t/a/1\t-\t-\n')
  t.equal(await readFile(join(dir, 'b.tsv'), 'utf8'), 'cap\t8\nobject\t80\t/b/1\t-\t-\n')
  t.equal(await readFile(join(dir, `${OWN_ORDER}.tsv`), 'utf8'), 'cap\t8\nagain\ts2\t/a/\npreheat\tmanifest\t80\t/m.json\n')
  t.strictSame(await oddOrders(dir, wanted), [], 'there is nothing to mend in that')
  t.strictSame(await oddOrders(dir, { ...wanted, own: '' }), [{ name: OWN_ORDER, text: '' }])
})
