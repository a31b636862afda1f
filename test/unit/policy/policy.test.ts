import t, { type Test } from 'tap'
import { createPolicy, type Policy } from '../../../agent/policy/policy.ts'
import { createCordon } from '../../../agent/cordon.ts'
import { createGateway } from '../../../agent/gateway/gateway.ts'
import { createEventLog } from '../../../agent/events.ts'
import { speaksForItself } from '../../../protocol/mesh/records/signed.ts'
import type { Role } from '../../../protocol/mesh/roles.ts'
import type { PolicyAd } from '../../../protocol/wire/gen/types.ts'
import { MusubiError } from '../../../protocol/core/errors.ts'
import { parsePolicy } from '../../../protocol/policy/document.ts'
import { maxTermOf } from '../../../protocol/policy/rules.ts'
import { createMemoryStore } from '../../../store/memory.ts'
import type { Store } from '../../../store/store.ts'
import { eventually, silent } from '../../model/federation.ts'
import { facts } from '../../model/fixtures.ts'

const HOUR = 3_600_000
const NOW = 1_800_000_000_000
const gateway = (site: string, host: string): Role => ({ kind: 'host', site, host, roles: ['gateway'] })

/** Records as the mesh spreads them, at once and to everybody, with what each peer is. */
function createAir (): { join: (peer: string) => Parameters<typeof createPolicy>[0]['records'], say: (peer: string, body: PolicyAd) => void, roles: Map<string, Role> } {
  const rows = new Map<string, PolicyAd>()
  const listeners = new Set<(kind: string) => void>()
  const say = (peer: string, body: PolicyAd): void => {
    rows.set(peer, body)
    for (const listener of listeners) listener('policy')
  }
  return {
    say,
    roles: new Map(),
    join: peer => ({
      publish: (_kind, body) => { say(peer, body) },
      view: () => [...rows].map(([from, body]) => ({ peer: from, body })),
      onChange: listener => {
        listeners.add(listener)
        return () => { listeners.delete(listener) }
      }
    })
  }
}
type Air = ReturnType<typeof createAir>

async function keeper (t: Test, air: Air, host: string, store: Store = createMemoryStore(), tells = true): Promise<Policy> {
  air.roles.set(host, tells ? gateway('tokyo', host) : { kind: 'host', site: 'tokyo', host, roles: ['compute'] })
  const policy = await createPolicy({ site: 'tokyo', host, store, records: air.join(host), roleOf: peer => air.roles.get(peer) ?? null, tells, now: () => NOW, log: silent })
  t.teardown(() => { policy.stop() })
  return policy
}

const ad = (host: string, version: number, document: unknown, site = 'tokyo'): PolicyAd => ({ site, host, setBy: '', version, document: Uint8Array.from(Buffer.from(JSON.stringify(document))) })
const ask = (masterSite: string, from: number, until: number): { masterSite: string, startMs: number, endMs: number } => ({ masterSite, startMs: NOW + from, endMs: NOW + until })
const codeOf = (work: () => void): string => {
  try {
    work()
    return 'allowed'
  } catch (error) {
    return error instanceof MusubiError ? error.code : 'other'
  }
}

t.test('without a policy everything is lent to everybody; with one, by the rule for the site or else the default', async t => {
  const policy = await keeper(t, createAir(), 'gw1')
  t.match(policy.get(), { site: 'tokyo', version: 0, setBy: '', document: {} })
  t.equal(codeOf(() => { policy.check(ask('osaka', 0, 1000 * HOUR)) }), 'allowed')
  t.equal(maxTermOf(policy.get().document.default ?? {}), 0)
  const set = await policy.set({ default: { longestLease: '8h', reason: 'nights only' }, sites: { osaka: { deny: true, reason: 'no contract' }, kyoto: {}, nara: { longestLease: 'PT30M' } } })
  t.match(set, { version: 1, setBy: 'gw1' })
  t.equal(maxTermOf(policy.get().document.default ?? {}), 8 * HOUR)
  t.throws(() => { policy.check(ask('osaka', 0, HOUR)) }, { code: 'POLICY_DENIED', message: /tokyo lends nothing to osaka: no contract/ })
  t.throws(() => { policy.check(ask('kobe', HOUR, 9 * HOUR + 1)) }, { code: 'POLICY_TERM', message: /at most 8h.*nights only/ })
  t.equal(codeOf(() => { policy.check(ask('kobe', HOUR, 9 * HOUR)) }), 'allowed', 'exactly as long as allowed')
  t.equal(codeOf(() => { policy.check(ask('kyoto', 0, 1000 * HOUR)) }), 'allowed', 'a rule of its own replaces the default as a whole')
  t.equal(codeOf(() => { policy.check(ask('nara', 0, HOUR)) }), 'POLICY_TERM')
  t.equal(codeOf(() => { policy.check(ask('tokyo', 0, 1000 * HOUR)) }), 'allowed', 'the own site is not subject to it')
  t.equal(codeOf(() => { policy.check(ask('constructor', 0, 1000 * HOUR)) }), 'POLICY_TERM', 'a name that objects have is a name like others')
})

t.test('every problem of a policy is told at once', t => {
  const problems = (data: unknown): string => {
    try {
      parsePolicy(data, 'tokyo', 'policy.yaml')
      return ''
    } catch (error) {
      return error instanceof MusubiError && error.code === 'INVALID_INPUT' ? error.message : `not refused as input: ${String(error)}`
    }
  }
  t.match(problems({ defaults: {} }), /policy.yaml is not valid:\n {2}unknown field defaults/)
  const two = problems({ default: { longestLease: 'soon' }, sites: { osaka: { deny: true, longestLease: '8h' }, tokyo: {}, kobe: { longestLease: '10s' }, nara: { longestLease: '400d' } } })
  for (const part of [/default.longestLease: "soon" is no time span/, /sites.osaka.longestLease: has no meaning beside deny/, /sites.tokyo: that is this site/, /sites.kobe.longestLease: 10s is below/, /sites.nara.longestLease: 400d is above/]) t.match(two, part)
  t.match(problems({ sites: { 'Not a name': {} } }), /sites: "Not a name" is no site name/)
  t.match(problems({ default: { deny: 'yes' } }), /default.deny/)
  for (const nothing of [null, undefined, [], 'allow', 5]) t.match(problems(nothing), /a policy has the fields/)
  t.match(problems({ sites: Object.fromEntries(Array.from({ length: 2000 }, (_, i) => [`s${i}`, { deny: true }])) }), /at most/)
  t.equal(problems({}), '')
  t.end()
})

t.test('what is set at one gateway holds at all, and after a restart', async t => {
  const air = createAir()
  const store = createMemoryStore()
  const one = await keeper(t, air, 'gw1', store)
  const two = await keeper(t, air, 'gw2')
  await one.set({ default: { longestLease: '2h' } })
  await eventually('the other gateway follows', () => two.get().version === 1)
  t.same(two.get(), one.get())
  await two.set({ default: { longestLease: '3h' } })
  await eventually('and back', () => one.get().version === 2)
  t.match(one.get(), { setBy: 'gw2', document: { default: { longestLease: '3h' } } })
  t.equal((await one.set({ default: { longestLease: '3h' } })).version, 2, 'the same again is no new version')
  one.stop()
  const again = await keeper(t, createAir(), 'gw1', store)
  t.match(again.get(), { version: 2, document: { default: { longestLease: '3h' } } }, 'from the disk, with nobody to ask')
  const late = await keeper(t, air, 'gw3')
  await eventually('a new gateway takes it up', () => late.get().version === 2)
})

t.test('a host that is no gateway keeps and enforces the policy, and says nothing; a gateway passes on what another has set', async t => {
  const air = createAir()
  const one = await keeper(t, air, 'gw1')
  const store = createMemoryStore()
  const host = await keeper(t, air, 'node1', store, false)
  await one.set({ sites: { osaka: { deny: true } } })
  await eventually('the host follows', () => host.get().version === 1)
  t.equal(codeOf(() => { host.check(ask('osaka', 0, HOUR)) }), 'POLICY_DENIED')
  t.notOk(air.join('any').view('policy').some(({ peer }) => peer === 'node1'), 'only gateways speak for the site')
  host.stop()
  t.match((await keeper(t, createAir(), 'node1', store, false)).get(), { version: 1 }, 'and keeps it over a restart')
  const two = await keeper(t, air, 'gw2')
  await eventually('the other gateway follows', () => two.get().version === 1)
  const [told] = air.join('any').view('policy').filter(({ peer }) => peer === 'gw2')
  t.match(told?.body, { host: 'gw2', setBy: 'gw1', version: 1 }, 'in its own name: records of others are refused')
  t.ok(speaksForItself(gateway('tokyo', 'gw2'), 'policy', told?.body ?? ad('x', 1, {})))
  t.equal(two.get().setBy, 'gw1')
})

t.test('two that were set at once end the same everywhere, whatever is heard first', async t => {
  const [a, b] = [ad('gw1', 1, { default: { longestLease: '1h' } }), ad('gw2', 1, { default: { longestLease: '2h' } })]
  const results = await Promise.all([[a, b], [b, a]].map(async order => {
    const air = createAir()
    const policy = await keeper(t, air, 'gw9')
    air.roles.set('gw1', gateway('tokyo', 'gw1')).set('gw2', gateway('tokyo', 'gw2'))
    for (const body of order) {
      air.say(body.host, body)
      await new Promise(setImmediate)
    }
    await eventually('both are heard', () => policy.get().setBy === 'gw2')
    return policy.get()
  }))
  t.same(results[0], results[1])
})

t.test('nobody but a gateway of the own site sets it, and nothing that is none', async t => {
  const air = createAir()
  const policy = await keeper(t, air, 'gw1')
  await policy.set({ default: { longestLease: '1h' } })
  air.roles.set('worker', { kind: 'host', site: 'tokyo', host: 'worker', roles: ['compute'] }).set('foreign', gateway('osaka', 'foreign')).set('main', { kind: 'coordinator', name: 'main' }).set('gw2', gateway('tokyo', 'gw2'))
  const loose = { default: {} }
  air.say('worker', ad('worker', 9, loose))
  air.say('foreign', ad('foreign', 9, loose))
  air.say('main', ad('main', 9, loose))
  air.say('stranger', ad('stranger', 9, loose))
  air.say('gw2', ad('gw2', 9, loose, 'osaka'))
  for (const bad of [ad('gw2', 2 ** 50, loose), ad('gw2', 9, { default: { longestLease: 'soon' } }), ad('gw2', 9, [1]), { ...ad('gw2', 9, loose), document: Uint8Array.from([0xff, 0xfe]) }, { ...ad('gw2', 9, loose), document: new Uint8Array(100_000) }]) air.say('gw2', bad)
  await new Promise(resolve => setTimeout(resolve, 50))
  t.match(policy.get(), { version: 1, document: { default: { longestLease: '1h' } } })
  air.say('gw2', ad('gw2', 9, loose))
  await eventually('the same from a gateway of the site is taken', () => policy.get().version === 9)
})

t.test('a gateway refuses by policy before any host is asked', async t => {
  const policy = await keeper(t, createAir(), 'tokyo-1')
  const cordon = await createCordon(createMemoryStore(), 'tokyo-1')
  await policy.set({ sites: { osaka: { deny: true, reason: 'no contract' } } })
  const asked: string[] = []
  const answering = createGateway({
    site: 'tokyo', store: createMemoryStore(), events: createEventLog(() => 0), log: silent, policy, cordon, now: () => 0, newId: () => 'c2000000-0000-4000-8000-000000000000',
    call: (_peer, method) => {
      asked.push(method)
      return Promise.reject(new Error('nobody is there'))
    },
    siteHosts: () => [{ host: 'tokyo-1', roles: ['gateway', 'compute'], free: { vcpus: 8, memoryMib: 8192, diskMib: 0, volumes: 0, bandwidthMbit: 0 }, cordoned: false, peer: 'p', underlayAddress: '192.0.2.1' }],
    facts: () => Promise.resolve(facts('tokyo', 0))
  })
  await answering.start()
  const request = (masterSite: string): ReturnType<typeof answering.request> => answering.request({
    key: 'k', clusterId: 'c1000000-0000-4000-8000-000000000000', cluster: 'demo', vni: 7, masterSite, startMs: 0, endMs: HOUR,
    nodes: [{ name: 'demo-tokyo-001', vcpus: 1, memoryMib: 512 }], volumes: [], frontend: false, holdTtlMs: 30_000, bandwidthMbit: 0, epoch: 1, sentMs: 0, grow: false
  }, { peerId: `peer-${masterSite}`, site: masterSite, host: `${masterSite}-1`, gateway: true })
  await t.rejects(request('osaka'), { code: 'POLICY_DENIED', message: /tokyo lends nothing to osaka: no contract/, hint: /ask the administrator of tokyo/ })
  t.same(asked, [])
  await t.rejects(request('kyoto'), { code: 'NO_CAPACITY', message: /nobody is there/ }, 'others come as far as the hosts')
  t.ok(asked.includes('hold'))
  await cordon.set(true, 'moving')
  await t.rejects(request('kyoto'), { code: 'HOST_CORDONED', message: /tokyo-1 takes no new leases: moving/ }, 'and no further where the gateway itself is cordoned')
})
