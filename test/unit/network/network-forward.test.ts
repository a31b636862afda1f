import { readFileSync } from 'node:fs'
import t from 'tap'
import { termsOf, withForwarding } from '../../../agent/helper/fence/forwarding.ts'
import { fingerprint } from '../../../agent/fingerprint.ts'
import { createForwarding, FORWARD_SERVICE } from '../../../agent/drivers/network/forward/forwarding.ts'
import { openText } from '../../../agent/drivers/network/forward/gate.ts'
import { admitForwarder, nextTerms, parseTerms, renderTerms, type ForwardTerm } from '../../../agent/drivers/network/forward/terms.ts'
import { FORWARD_GUARD_MS, FORWARD_LIFETIME_MS, FORWARD_LOOK_MS, FORWARD_RENEW_MS, FORWARD_TERM_MAX_MS } from '../../../protocol/core/limits.ts'
import type { ServiceManager, ServiceSpec } from '../../../agent/services.ts'
import type { SegmentSpec } from '../../../protocol/core/desired.ts'
import type { Fence } from '../../../agent/helper/fence/store.ts'
import type { FenceRecord } from '../../../protocol/core/fence/fence.ts'

const BOOT = '01234567-89ab-cdef-0123-456789abcdef'
const NOW = 100_000
const NS = 'mz-000101'
const term = (untilMs: number, holder = 'a', namespace = NS): ForwardTerm => ({ namespace, holder, untilMs })

t.test('a second gateway forwards only when the first one\'s term has run out, and the guard', (t) => {
  const cases: Array<[what: string, held: Pick<ForwardTerm, 'holder' | 'untilMs'> | null, holder: string, admitted: boolean]> = [
    ['nobody ever had it', null, 'b', true],
    ['the other one has it', term(NOW + 5_000), 'b', false],
    ['it ends in this moment', term(NOW), 'b', false],
    ['it has ended, and clocks may differ', term(NOW - FORWARD_GUARD_MS + 1), 'b', false],
    ['it has ended, the guard too', term(NOW - FORWARD_GUARD_MS), 'b', true],
    ['its own goes on', term(NOW + 5_000), 'a', true],
    ['its own has ended, nobody came between', term(NOW - 5_000), 'a', true]
  ]
  for (const [what, held, holder, admitted] of cases) {
    const answer = admitForwarder(held, { holder, untilMs: NOW + 60_000 }, NOW)
    t.equal(answer.admitted, admitted, what)
    if (answer.admitted) t.equal(answer.untilMs, NOW + 60_000)
    else t.strictSame(answer, { admitted: false, by: 'a', freeAtMs: (held?.untilMs ?? 0) + FORWARD_GUARD_MS }, 'it is told who has it, and until when')
  }
  t.match(admitForwarder(null, { holder: 'a', untilMs: Infinity }, NOW), { admitted: true, untilMs: NOW + FORWARD_TERM_MAX_MS }, 'no term is without end')
  t.end()
})

t.test('what stands follows from what is wished for', (t) => {
  const cases: Array<[what: string, held: ForwardTerm[], wished: ForwardTerm[], next: ForwardTerm[]]> = [
    ['a first one', [], [term(NOW + 60_000)], [term(NOW + 60_000)]],
    ['one that is over before it begins', [], [term(NOW)], []],
    ['clocks drift', [term(NOW + 60_000)], [term(NOW + 60_900)], [term(NOW + 60_000)]],
    ['extended', [term(NOW + 60_000)], [term(NOW + 120_000)], [term(NOW + 120_000)]],
    ['shortened', [term(NOW + 60_000)], [term(NOW + 30_000)], [term(NOW + 30_000)]],
    ['ended by a clock that was put right', [term(NOW + 60_000)], [term(NOW - 3_600_000)], []],
    ['given up', [term(NOW + 60_000)], [], []],
    ['given up, and another one wants it', [term(NOW + 60_000)], [term(NOW + 60_000, 'b')], [term(NOW + 60_000, 'b')]],
    ['another one wants it as well', [term(NOW + 60_000, 'b')], [term(NOW + 90_000, 'a'), term(NOW + 60_000, 'b')], [term(NOW + 60_000, 'b')]],
    ['two at once', [], [term(NOW + 60_000, 'b'), term(NOW + 60_000, 'a')], [term(NOW + 60_000, 'a')]],
    ['others are none of its business', [term(NOW + 1_000, 'x', 'mz-000102')], [term(NOW + 60_000), term(NOW + 1_000, 'x', 'mz-000102')], [term(NOW + 60_000), term(NOW + 1_000, 'x', 'mz-000102')]]
  ]
  for (const [what, held, wished, next] of cases) t.strictSame(nextTerms(held, wished, NOW), next, what)
  const [endless] = nextTerms([], [term(2 * FORWARD_TERM_MAX_MS + NOW)], NOW)
  t.strictSame(nextTerms(endless === undefined ? [] : [endless], [term(2 * FORWARD_TERM_MAX_MS + NOW + 5_000)], NOW + 5_000), [endless], 'a term without end is not written anew all the time')
  t.end()
})

t.test('the file counts for one boot, and whole', (t) => {
  const terms = [term(NOW + 60_000.0), term(5, '01234567.segment', 'mz-000102')]
  const text = renderTerms(BOOT, terms)
  t.equal(text, `musubi-forward 1\nboot ${BOOT}\nmz-000101 160000 a\nmz-000102 5 01234567.segment\n`)
  t.strictSame(parseTerms(text, BOOT), terms)
  t.strictSame(parseTerms(text, BOOT.replace('0', '1')), [], 'a host that has been started anew has promised nothing')
  for (const [what, bad] of [
    ['cut off', text.slice(0, -1)], ['another form', text.replace('forward 1', 'forward 2')], ['no end', text.replace('160000', 'never')], ['a negative one', text.replace('160000', '-1')],
    ['not ours', text.replace('mz-000101', 'mz-00010g')], ['a path', text.replace('mz-000101', 'mz-000101/../x')], ['twice', text.replace('mz-000102', 'mz-000101')], ['blank line', `${text}\n`], ['nothing', '']
  ] as const) t.strictSame(parseTerms(bad, BOOT), [], what)
  t.equal(openText(9_990.5, false), 'add element bridge mz_mss forward { "wan0m" timeout 9990ms }\n')
  t.equal(openText(9_990.5, true), 'add element bridge mz_mss forward { "wan0m" }\ndelete element bridge mz_mss forward { "wan0m" }\nadd element bridge mz_mss forward { "wan0m" timeout 9990ms }\n')
  t.ok(FORWARD_LIFETIME_MS >= 3 * FORWARD_RENEW_MS && FORWARD_RENEW_MS >= 2 * FORWARD_LOOK_MS, 'several renewals may fail')
  t.end()
})

t.test('a term is that of the grant, by the clock of the boot', (t) => {
  const record = (of: Partial<FenceRecord>): FenceRecord => ({ resource: 'segment a', state: 'granted', clusterId: 'c', counter: 1, endMs: 1_000_000, ...of })
  let records: FenceRecord[] = [record({})]
  const clock = { ledger: 400_000, boot: 7_000 }
  const of = termsOf({ get: (resource) => records.find((one) => one.resource === resource) }, () => clock.ledger, () => clock.boot)
  t.equal(of('a'), 607_000)
  clock.ledger += 60_000
  clock.boot += 60_000
  t.equal(of('a'), 607_000, 'time passes')
  t.equal(of('b'), null, 'nobody has heard of it')
  for (const state of ['revoking', 'gone'] as const) {
    records = [record({ state })]
    t.equal(of('a'), null, state)
  }
  t.end()
})

t.test('what the fence decides of segments is known to the keeper before anybody acts on it', async (t) => {
  const said: string[] = []
  let resources: string[] = []
  let fails = false
  const fence = {
    grant: (resource: string) => { said.push(`grant ${resource}`); return Promise.resolve() },
    revoke: (resource: string) => { said.push(`revoke ${resource}`); return resource === 'segment bad' ? Promise.reject(new Error('refused')) : Promise.resolve() },
    gone: () => Promise.resolve(), tick: () => { said.push('tick'); return fails ? Promise.reject(new Error('disk')) : Promise.resolve() },
    get: () => undefined, records: () => resources.map((resource) => ({ resource, state: 'granted', clusterId: 'c', counter: 1, endMs: 1 }))
  } as unknown as Fence
  const errors: unknown[] = []
  const heeding = withForwarding(fence, () => { said.push('sync'); return fails ? Promise.reject(new Error('full')) : Promise.resolve() }, (error) => { errors.push(error) })
  const claim = { clusterId: 'c', counter: 1, endMs: 1 }
  await heeding.grant('segment a', claim)
  await heeding.grant('domain a', claim)
  await heeding.revoke('segment a', 'c', 2)
  await t.rejects(heeding.revoke('segment bad', 'c', 2), 'and a refusal is told')
  await heeding.tick()
  resources = ['segment a']
  await heeding.tick()
  t.strictSame(said, ['grant segment a', 'sync', 'grant domain a', 'revoke segment a', 'sync', 'revoke segment bad', 'tick', 'tick', 'sync'])
  fails = true
  await heeding.revoke('segment a', 'c', 2)
  t.match(errors, [{ message: 'full' }], 'what cannot be written down keeps nobody from removing')
  await t.rejects(heeding.tick(), { message: 'disk' })
  t.equal(errors.length, 2, 'with a fence that cannot be written the keeper hears of what the clock has ended')
})

t.test('the keeper runs while there is a term, and an upgrade that brings another program starts that', async (t) => {
  const deeds: Array<[what: string, name: string, spec?: ServiceSpec]> = []
  const services = {
    ensure: (name: string, spec: ServiceSpec) => { deeds.push(['ensure', name, spec]); return Promise.resolve() },
    stop: (name: string) => { deeds.push(['stop', name]); return Promise.resolve() },
    status: (name: string) => Promise.resolve({ name, running: true, pid: 1, fingerprint: fingerprint(deeds.findLast(([what]) => what === 'ensure')?.[2]) })
  } as unknown as ServiceManager
  const stateDir = t.testdir({ one: {}, two: {} })
  const forwarding = createForwarding({ stateDir: `${stateDir}/one`, services, term: () => 200_000, now: () => NOW })
  const spec = { vni: 0x101, gateway: { tunnel: {} } } as unknown as SegmentSpec
  forwarding.know(new Map([['a', spec], ['alone', { ...spec, vni: 0x102, gateway: { ...spec.gateway, tunnel: null } } as SegmentSpec]]))
  await forwarding.settle(AbortSignal.timeout(5_000))
  const [[what, name, service] = []] = deeds
  t.strictSame([what, name, service?.keeper], ['ensure', FORWARD_SERVICE, true])
  t.equal(service?.env?.MZ_KEEPER, fingerprint(readFileSync(new URL('../../../agent/drivers/network/forward/keeper.pl', import.meta.url), 'utf8')))
  t.ok(await forwarding.keeperRuns())
  t.match(readFileSync(`${stateDir}/one/forwarding`, 'utf8'), /\nmz-000101 200000 a\n$/, 'and of a cluster at one site nothing')

  const idle = createForwarding({ stateDir: `${stateDir}/two`, services, term: () => NOW, now: () => NOW })
  idle.know(new Map([['a', spec]]))
  await idle.settle(AbortSignal.timeout(5_000))
  t.strictSame(deeds.at(-1), ['stop', FORWARD_SERVICE], 'a term that is over is none')
})
