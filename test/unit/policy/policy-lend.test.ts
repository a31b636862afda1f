/** Gateways of one site that lend shares of quotas to each other: real gateways, real ledgers, whatever is asked of them in whatever order. */
import assert from 'node:assert/strict'
import fc from 'fast-check'
import t from 'tap'
import { usageOf } from '../../../agent/policy/usage.ts'
import { MusubiError } from '../../../protocol/core/errors.ts'
import { isQuota } from '../../../protocol/core/lease/lease.ts'
import type { Request } from '../../../protocol/core/messages.ts'
import { quotasOf } from '../../../protocol/policy/rules.ts'
import type { PolicyDocument } from '../../../protocol/policy-api.ts'
import { host, startFederation, type FederationModel } from '../../model/federation.ts'

const HOUR = 3_600_000
const CALLER = { peerId: 'peer-tokyo-1', site: 'tokyo', host: 'tokyo-1', gateway: true }
const QUOTA = { nodes: 7, vcpus: 10, memory: 10_240 }
const DOCUMENT: PolicyDocument = { sites: { tokyo: { quota: QUOTA } } }
const SHARES = [[50, 50], [60, 40], [34, 33, 33], [0, 100], [20, 20, 60]] as const

let ids = 0
const uuid = (): string => `${(++ids).toString(16).padStart(8, '0')}-0000-4000-8000-000000000000`
const requestOf = (model: FederationModel, clusterId: string, nodes: number, vcpus: number, startH: number, hours: number): Request => ({
  key: uuid(), clusterId, cluster: 'demo', vni: 7, masterSite: 'tokyo', startMs: model.clockMs + startH * HOUR, endMs: model.clockMs + (startH + hours) * HOUR, frontend: false, holdTtlMs: 30_000, bandwidthMbit: 0, epoch: 1,
  sentMs: model.clockMs, grow: false, volumes: [], nodes: Array.from({ length: nodes }, (_, i) => ({ name: `demo-osaka-00${i + 1}`, vcpus, memoryMib: 1024 }))
})

async function site (percents: readonly number[]): Promise<FederationModel> {
  const model = await startFederation([...percents.map((_, i) => host('osaka', i + 1, 'gateway', 2)), host('osaka', 9, 'compute', 64)])
  for (const [i, percent] of percents.entries()) model.alive(`osaka-${i + 1}`).ledger.setQuotas(quotasOf(DOCUMENT, 'osaka', percent))
  return model
}

const ask = async (model: FederationModel, gateway: number, request: Request): Promise<MusubiError | null> => {
  try {
    await model.alive(`osaka-${gateway}`).gateway?.request(request, CALLER)
    return null
  } catch (error) {
    if (error instanceof MusubiError) return error
    throw error
  }
}

/** Live shares at each gateway, and what stands for them on hosts. */
function judge (model: FederationModel, percents: readonly number[]): void {
  const live = [...model.machines.values()].flatMap(({ host: name, life }) => [...life?.ledger.state().leases.values() ?? []].filter(lease => lease.state !== 'ended').map(lease => ({ name, lease })))
  for (const { lease: { startMs: atMs } } of live) {
    const at = live.filter(({ lease }) => lease.startMs <= atMs && lease.endMs > atMs)
    const total = (of: typeof at, what: 'nodes' | 'vcpus'): number => of.reduce((sum, { lease }) => sum + (lease.resources[what] ?? 0), 0)
    const shares = at.filter(({ lease }) => isQuota(lease))
    for (const what of ['nodes', 'vcpus'] as const) {
      assert.ok(total(shares, what) <= QUOTA[what], `${total(shares, what)} ${what} in all`)
      for (const [i, percent] of percents.entries()) assert.ok(total(shares.filter(({ name }) => name === `osaka-${i + 1}`), what) <= Math.floor(QUOTA[what] * percent / 100), `${what} of osaka-${i + 1}`)
    }
    const nodes = at.filter(({ lease }) => lease.kind === 'node')
    assert.equal(total(shares, 'nodes'), nodes.length, 'what is lent is counted, and nothing else')
    assert.equal(total(shares, 'vcpus'), total(nodes, 'vcpus'))
  }
}

type Move = { do: 'ask', gateway: number, nodes: number, vcpus: number, startH: number, hours: number } | { do: 'release', which: number } | { do: 'wait', minutes: number } | { do: 'lose', gateway: number } | { do: 'crash', gateway: number }
const gateway = fc.nat(2)
const move: fc.Arbitrary<Move> = fc.oneof(
  { weight: 8, arbitrary: fc.record({ do: fc.constant('ask' as const), gateway, nodes: fc.integer({ min: 1, max: 6 }), vcpus: fc.integer({ min: 1, max: 3 }), startH: fc.constantFrom(0, 0, 1, 2), hours: fc.integer({ min: 1, max: 3 }) }) },
  { weight: 4, arbitrary: fc.record({ do: fc.constant('release' as const), which: fc.nat(5) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('wait' as const), minutes: fc.constantFrom(0.2, 0.6) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('lose' as const), gateway }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('crash' as const), gateway }) }
)

t.test('whatever is asked of gateways of a site, no ledger lends more than its share, and all together no more than the quota', async t => {
  const seen = { taken: 0, lent: 0, refused: 0 }
  await fc.assert(fc.asyncProperty(fc.constantFrom(...SHARES), fc.array(move, { minLength: 5, maxLength: 25, size: 'max' }), async (percents, moves) => {
    const model = await site(percents)
    const clusters: Array<{ clusterId: string, at: number }> = []
    try {
      for (const one of moves) {
        const at = ('gateway' in one ? one.gateway % percents.length : 0) + 1
        if (one.do === 'wait') await model.pass(one.minutes * 60_000)
        else if (one.do === 'lose') model.fate = ({ to, method }) => to === `osaka-${at}` && method === 'hold' ? 'lose reply' : 'deliver'
        else if (one.do === 'crash') {
          model.crash(`osaka-${at}`)
          const { ledger } = await model.start(`osaka-${at}`)
          ledger.setQuotas(quotasOf(DOCUMENT, 'osaka', percents[at - 1] ?? 0))
        } else if (one.do === 'ask') {
          const clusterId = uuid()
          const refusal = await ask(model, at, requestOf(model, clusterId, one.nodes, one.vcpus, one.startH, one.hours))
          model.fate = () => 'deliver'
          if (refusal === null) {
            seen.taken++
            clusters.push({ clusterId, at })
            judge(model, percents)
            if ([...model.machines.values()].some(({ life }) => life?.ledger.leases(clusterId).some(lease => isQuota(lease) && lease.name === `osaka-${at}`) === true)) seen.lent++
          } else if (refusal.code === 'QUOTA_EXCEEDED') seen.refused++
        } else {
          const [gone] = clusters.splice(one.which % Math.max(1, clusters.length), 1)
          if (gone !== undefined) await model.alive(`osaka-${gone.at}`).gateway?.release({ clusterId: gone.clusterId, reason: 'test', offerId: '', leaseIds: [], epoch: 1 }, CALLER).catch((error: unknown) => { if (!(error instanceof MusubiError)) throw error })
        }
      }
      await model.pass(60_000)
      assert.deepEqual(model.leases(), [], 'what nobody commits ends everywhere')
    } finally {
      await model.stop()
    }
  }), { numRuns: 60, seed: 30, interruptAfterTimeLimit: 40_000 })
  t.comment(JSON.stringify(seen))
  for (const [what, times] of Object.entries(seen)) t.ok(times > 10, `${what}: ${times}`)
})

t.test('a request above the own share is taken through one gateway as long as the quota has it, and is refused beyond', async t => {
  const model = await site([50, 50])
  t.teardown(() => model.stop())
  const first = uuid()
  t.equal(await ask(model, 1, requestOf(model, first, 5, 1, 0, 1)), null)
  t.same(model.leases().filter(line => line.includes(' quota ')).sort(), ['osaka-1 quota quota held', 'osaka-2 quota osaka-1 held'])
  const usage = ['osaka-1', 'osaka-2'].map(name => {
    const { ledger, gateway: own } = model.alive(name)
    return usageOf(ledger.state(), DOCUMENT, 'osaka', 50, own?.list() ?? [])
  })
  t.match(usage, [[{ site: 'tokyo', lent: { nodes: 3 }, share: { nodes: 3 }, fromOthers: { nodes: 2 }, toOthers: undefined }], [{ site: 'tokyo', lent: { nodes: 2 }, toOthers: { nodes: 2 }, fromOthers: undefined }]])
  t.match(await ask(model, 2, requestOf(model, uuid(), 2, 1, 0, 1)), { code: 'QUOTA_EXCEEDED', message: 'site osaka lends no more to site tokyo with osaka-1: needs 2 nodes, 1 free' }, '3 % and 1 % that are nobody\'s are lent by nobody')
  const calls = model.calls.length
  t.equal(await ask(model, 2, requestOf(model, uuid(), 1, 1, 0, 1)), null)
  t.notOk(model.calls.slice(calls).some(({ method }) => method === 'hostCalendar'), 'who has enough asks nobody')
})

t.test('a host that is no gateway counts no quota, and a gateway not in the name of another', async t => {
  const model = await site([100])
  t.teardown(() => model.stop())
  const { lessor } = model.alive('osaka-1')
  const hold = { ...requestOf(model, uuid(), 1, 1, 0, 1), masterPeer: 'peer-tokyo-1', ttlMs: 30_000, offerId: uuid(), items: [{ leaseId: uuid(), kind: 'quota', name: 'quota', resources: { vcpus: 1, memoryMib: 0, diskMib: 0, volumes: 0, bandwidthMbit: 0 }, segmentId: 0 }] }
  await t.rejects(lessor.hold(hold, 'osaka-2'), { code: 'FORBIDDEN', message: 'gateway osaka-2 asks osaka-1 for a share of the quota as "quota"' })
  await t.rejects(model.alive('osaka-9').lessor.hold(hold), { code: 'FORBIDDEN', message: /osaka-9 is no gateway/ })
})
