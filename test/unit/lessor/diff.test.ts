import fc from 'fast-check'
import t from 'tap'
import { type Action, diff } from '../../../agent/reconcile/diff.ts'
import type { ObservedObject } from '../../../agent/drivers/driver.ts'
import { fingerprint } from '../../../agent/fingerprint.ts'
import { type DesiredObject, KIND_ORDER, type ObjectKind } from '../../../protocol/core/desired.ts'

/** diff treats specs as data to compare, so one shape does for all kinds here. */
const desired = (kind: ObjectKind, name: string, version = 1): DesiredObject =>
  ({ kind, name, spec: { listenPort: version, address: name, peers: [] } })
const observed = (object: DesiredObject, part: Partial<ObservedObject> = {}): ObservedObject =>
  ({ kind: object.kind, name: object.name, fingerprint: fingerprint(object.spec), healthy: true, detail: {}, ...part })
const shown = (actions: readonly Action[]): string[] => actions.map(({ op, kind, name, why }) => `${op} ${kind} ${name}: ${why}`)

t.test('nothing to do when everything is as desired', t => {
  const objects = [desired('domain', 'a'), desired('segment', 's')]
  t.strictSame(diff(objects, objects.map(one => observed(one))), [])
  t.strictSame(diff([], []), [])
  t.end()
})

t.test('reasons to apply', t => {
  const object = desired('domain', 'a')
  const why = (part: Partial<ObservedObject>): string[] => shown(diff([object], [observed(object, part)]))
  t.strictSame(shown(diff([object], [])), ['apply domain a: missing'])
  t.strictSame(why({ fingerprint: 'other' }), ['apply domain a: spec changed'])
  t.strictSame(why({ fingerprint: null }), ['apply domain a: made from an unknown spec'])
  t.strictSame(why({ healthy: false }), ['apply domain a: does not work'])
  t.strictSame(why({ healthy: false, detail: { missing: ['link wan0 in mz-000101: made', 'chain x'] } }), ['apply domain a: does not work: link wan0 in mz-000101: made; chain x'], 'what a driver says is wrong is said')
  t.strictSame(diff([object], [])[0], { op: 'apply', kind: 'domain', name: 'a', spec: object.spec, why: 'missing' })
  t.strictSame(shown(diff([object], [observed(object), observed(object, { healthy: false })])), ['apply domain a: does not work'], 'the worse of two reports')
  t.strictSame(shown(diff([object], [observed(object, { healthy: false }), observed(object)])), ['apply domain a: does not work'])
  t.end()
})

t.test('removals first and backwards, then creation in order', t => {
  const old = KIND_ORDER.map(kind => observed(desired(kind, 'old')))
  const fresh = KIND_ORDER.toReversed().flatMap(kind => [desired(kind, 'b'), desired(kind, 'a')])
  t.strictSame(diff(fresh, old).map(({ op, kind, name }) => `${op} ${kind} ${name}`), [
    'remove domain old', 'remove cache old', 'remove frontend old', 'remove segment old', 'remove tunnel old', 'remove volume old',
    ...KIND_ORDER.flatMap(kind => [`apply ${kind} a`, `apply ${kind} b`])
  ])
  t.end()
})

t.test('an object desired twice', t => {
  t.equal(diff([desired('tunnel', 'wg'), desired('tunnel', 'wg')], []).length, 1)
  t.throws(() => diff([desired('tunnel', 'wg', 1), desired('tunnel', 'wg', 2)], []), { code: 'CONFLICT', message: 'tunnel wg is desired twice, differently' })
  t.equal(diff([desired('cache', 'x', 1), desired('segment', 'x', 2)], []).length, 2, 'the same name under two kinds is two objects')
  t.end()
})

const anyObject = fc.record({ kind: fc.constantFrom(...KIND_ORDER), name: fc.constantFrom('a', 'b', 'c'), version: fc.nat(2) })
const key = (one: { kind: string, name: string }): string => `${one.kind}/${one.name}`

t.test('applied to a host it converges, and the second time there is nothing to do', t => {
  fc.assert(fc.property(
    fc.uniqueArray(anyObject, { selector: key }), fc.uniqueArray(fc.tuple(anyObject, fc.boolean(), fc.boolean()), { selector: ([one]) => key(one) }), fc.nat(20),
    (wanted, existing, crashAfter) => {
      const goal = wanted.map(one => desired(one.kind, one.name, one.version))
      const host = new Map(existing.map(([one, healthy, known]) => {
        const object = desired(one.kind, one.name, one.version)
        return [key(one), observed(object, { healthy, ...(known ? {} : { fingerprint: null }) })]
      }))
      const run = (actions: readonly Action[]): void => {
        for (const action of actions) {
          if (action.op === 'remove') {
            t.ok(host.delete(key(action)), 'only what exists is removed')
          } else host.set(key(action), observed({ kind: action.kind, name: action.name, spec: action.spec }))
        }
      }
      run(diff(goal, [...host.values()]).slice(0, crashAfter))
      run(diff(goal, [...host.values()]))
      t.strictSame(diff(goal, [...host.values()]), [])
      t.strictSame([...host.keys()].sort(), goal.map(key).sort())
    }
  ), { numRuns: 300 })
  t.end()
})
