/** Quotes against what really happens: real gateways and ledgers, the same request asked for in earnest afterwards. */
import fc from 'fast-check'
import t from 'tap'
import type { Gateway } from '../../../agent/gateway/gateway.ts'
import { type Resources, zero } from '../../../protocol/core/capacity.ts'
import { describeError, errorCode, MusubiError } from '../../../protocol/core/errors.ts'
import { MAX_QUOTES_PER_MINUTE } from '../../../protocol/core/limits.ts'
import type { Request } from '../../../protocol/core/messages.ts'
import { quoteOf } from '../../../protocol/core/quote/check.ts'
import { firstNodes, type Quote } from '../../../protocol/core/quote/quote.ts'
import { counterText } from '../../../protocol/core/quote/text.ts'
import { host, startFederation, type FederationModel, type HostPlan } from '../../model/federation.ts'

const HOUR = 3_600_000
const GIB = 1024
const CALLER = { peerId: 'peer-tokyo-1', site: 'tokyo', host: 'tokyo-1', gateway: true }

let ids = 0
const uuid = (): string => `${(++ids).toString(16).padStart(8, '0')}-0000-4000-8000-000000000000`

interface Wish { count: number, vcpus: number, memoryGib: number, startH: number, hours: number, volumes: readonly number[], frontend: boolean, local: boolean }

function requestOf (model: FederationModel, { count, vcpus, memoryGib, startH, hours, volumes, frontend, local }: Wish): Request {
  const startMs = model.clockMs + startH * HOUR
  return {
    key: uuid(), clusterId: uuid(), cluster: 'demo', vni: 7, masterSite: 'tokyo', startMs, endMs: startMs + hours * HOUR, frontend, holdTtlMs: 30_000, bandwidthMbit: 0, epoch: 1, sentMs: model.clockMs, grow: false,
    nodes: Array.from({ length: count }, (_, i) => ({ name: `demo-osaka-00${i + 1}`, vcpus, memoryMib: memoryGib * GIB })),
    volumes: volumes.slice(0, count).map((sizeMib, i) => ({ name: `v${i}`, sizeMib, node: `demo-osaka-00${i + 1}` })), ...local ? { local: true } : {}
  }
}

const gatewayOf = (model: FederationModel): Gateway => {
  const { gateway } = model.alive('osaka-1')
  if (gateway === null) throw new Error('osaka-1 is no gateway')
  return gateway
}

/** Asks in earnest, under an id of its own. @returns how it was refused; null: it was held, and is given back unless kept */
async function refusalOf (model: FederationModel, request: Request, keep = false): Promise<MusubiError | null> {
  const gateway = gatewayOf(model)
  const asked = { ...request, clusterId: uuid(), key: uuid(), sentMs: model.clockMs }
  try {
    await gateway.request(asked, CALLER)
  } catch (error) {
    if (error instanceof MusubiError) return error
    throw error
  }
  if (!keep) await gateway.release({ clusterId: asked.clusterId, reason: 'tried', offerId: '', leaseIds: [], epoch: 1 }, CALLER)
  return null
}

async function quote (model: FederationModel, request: Request): Promise<Quote> {
  const before = model.leases()
  const reply = await gatewayOf(model).quote({ request }, CALLER)
  if (JSON.stringify(model.leases()) !== JSON.stringify(before)) throw new Error('a quote holds something')
  return quoteOf(reply, { site: 'osaka', nodes: request.nodes.length, startMs: request.startMs })
}

const wish: fc.Arbitrary<Wish> = fc.record({
  count: fc.integer({ min: 1, max: 8 }), vcpus: fc.integer({ min: 1, max: 4 }), memoryGib: fc.integer({ min: 1, max: 4 }), startH: fc.constantFrom(0, 0, 0, 1, 3), hours: fc.integer({ min: 1, max: 4 }),
  volumes: fc.array(fc.integer({ min: 1, max: 400 }), { maxLength: 3 }), frontend: fc.boolean(), local: fc.boolean()
})
const site = fc.record({ vcpus: fc.array(fc.integer({ min: 1, max: 10 }), { minLength: 1, maxLength: 3 }), storage: fc.boolean(), gatewayVcpus: fc.integer({ min: 0, max: 4 }), quota: fc.option(fc.integer({ min: 2, max: 16 }), { freq: 2 }), lends: fc.option(fc.integer({ min: 0, max: 10 })) })

t.test('a quote says taken exactly when the request is, and what it offers instead is true', async t => {
  const seen = { taken: 0, refused: 0, nodes: 0, earliest: 0, shape: 0, quota: 0, lent: 0 }
  await fc.assert(fc.asyncProperty(site, fc.array(wish, { maxLength: 5 }), wish, async ({ vcpus, storage, gatewayVcpus, quota, lends }, others, asked) => {
    const plans: HostPlan[] = [host('osaka', 1, 'gateway compute', gatewayVcpus), ...vcpus.map((n, i) => host('osaka', i + 2, storage && i === 0 ? 'compute storage' : 'compute', n)), ...lends === null ? [] : [host('osaka', 9, 'gateway', 1)]]
    const model = await startFederation(plans)
    try {
      const share = (of: number): Map<string, Resources> => new Map([['tokyo', { ...zero(), vcpus: of, memoryMib: of * GIB, diskMib: 500, volumes: 8 }]])
      if (quota !== null) model.alive('osaka-1').ledger.setQuotas(share(quota))
      if (lends !== null) model.alive('osaka-9').ledger.setQuotas(share(lends))
      for (const other of others) await refusalOf(model, requestOf(model, other), true)
      const request = requestOf(model, asked)
      const said = await quote(model, request)
      const refusal = await refusalOf(model, request)
      if (refusal === null && model.calls.some(({ to, method }) => to === 'osaka-9' && method === 'hold')) seen.lent++
      const context = (): string => JSON.stringify({ said, refusal: refusal === null ? null : describeError(refusal) })
      if (said.taken !== (refusal === null)) throw new Error(`the quote is not what happens: ${context()}`)
      if (said.taken) { seen.taken++; return }
      seen.refused++
      if (said.reasons.some(({ code }) => code === 'QUOTA_EXCEEDED')) seen.quota++
      // a gateway that its own ledger refuses the share tries another placement before it gives up
      const overQuota = refusal?.message.includes('lends no more to site tokyo') === true
      if (!said.reasons.some(({ code }) => code === errorCode(refusal) || (overQuota && code === 'QUOTA_EXCEEDED'))) throw new Error(`another code: ${context()}`)
      const must = async (what: string, better: Request): Promise<void> => {
        const why = await refusalOf(model, better)
        if (why !== null) throw new Error(`${what} is refused: ${describeError(why)}; ${context()}`)
      }
      if (said.nodes > 0) { seen.nodes++; await must('the offered number of nodes', firstNodes(request, said.nodes)) }
      // with volumes a placement in order of size may fail where a larger one does not
      if (request.volumes.length === 0 && await refusalOf(model, firstNodes(request, said.nodes + 1)) === null) throw new Error(`one node more would be taken: ${context()}`)
      if (said.shape !== null) {
        const { shape } = said
        seen.shape++
        if (shape.vcpus > asked.vcpus || shape.memoryMib > asked.memoryGib * GIB) throw new Error(`the shape is larger: ${context()}`)
        await must('the offered shape', { ...request, nodes: request.nodes.map(node => ({ ...node, ...shape })) })
      }
      if (said.earliestMs !== null) {
        seen.earliest++
        if (said.earliestMs <= request.startMs) throw new Error(`the later start is none: ${context()}`)
        await must('the offered start', { ...request, startMs: said.earliestMs, endMs: said.earliestMs + request.endMs - request.startMs })
      }
      // what others have begins and ends at full hours, and all of it has ended by then
      for (let startMs = request.startMs + HOUR; startMs < (said.earliestMs ?? model.clockMs + 9 * HOUR); startMs += HOUR) {
        if (await refusalOf(model, { ...request, startMs, endMs: startMs + request.endMs - request.startMs }) === null) throw new Error(`it would be taken sooner, ${(startMs - model.clockMs) / HOUR} h from now: ${context()}`)
      }
    } finally {
      await model.stop()
    }
  }), { numRuns: 300, seed: 32, interruptAfterTimeLimit: 60_000 })
  t.comment(JSON.stringify(seen))
  for (const [what, times] of Object.entries(seen)) t.ok(times > 5, `${what} was seen: ${times}`)
})

t.test('a refusal tells what could be had instead', async t => {
  const model = await startFederation([host('osaka', 1, 'gateway', 1), host('osaka', 2, 'compute', 3)])
  t.teardown(() => model.stop())
  const first = { count: 2, vcpus: 1, memoryGib: 1, startH: 0, hours: 2, volumes: [], frontend: false, local: false }
  t.equal(await refusalOf(model, requestOf(model, first), true), null)
  const request = requestOf(model, { ...first, count: 3, hours: 1 })
  const refused = await refusalOf(model, request)
  const at = new Date(model.clockMs + 2 * HOUR).toISOString().replace('.000Z', 'Z')
  t.match(refused, { code: 'NO_CAPACITY', hint: `1 of 3 nodes fit now; all 3 from ${at}` })
  const said = await quote(model, request)
  t.match(said, { taken: false, nodes: 1, earliestMs: model.clockMs + 2 * HOUR, shape: null, priceMilli: 250, totalMilli: 750 })
  t.same(said.reasons, [{ code: 'NO_CAPACITY', message: '2 nodes: needs 1 vCPU, 0 free; needs 1024 MiB memory, 0 free on osaka-2, the nearest of 1 compute host' }])
  t.match(counterText(await quote(model, requestOf(model, { ...first, count: 1, vcpus: 2, memoryGib: 2 })), 1), /^all 1 from \S+; all 1 now with 1 vCPU and 1 GiB each$/)
})

t.test('too many questions of one site are put off', async t => {
  const model = await startFederation([host('osaka', 1, 'gateway compute', 3)])
  t.teardown(() => model.stop())
  const request = requestOf(model, { count: 1, vcpus: 1, memoryGib: 1, startH: 0, hours: 1, volumes: [], frontend: false, local: false })
  const codes: string[] = []
  for (let i = 0; i < MAX_QUOTES_PER_MINUTE + 2; i++) codes.push(await gatewayOf(model).quote({ request }, CALLER).then(() => 'quote', errorCode))
  t.equal(codes.filter(code => code === 'quote').length, MAX_QUOTES_PER_MINUTE)
  t.equal(codes.at(-1), 'BUSY')
  t.equal(await gatewayOf(model).quote({ request: { ...request, masterSite: 'kyoto' } }, { ...CALLER, peerId: 'peer-kyoto-1', site: 'kyoto', host: 'kyoto-1' }).then(() => 'quote', errorCode), 'quote', 'others are answered')
  await model.pass(61_000)
  t.equal(await gatewayOf(model).quote({ request: { ...request, sentMs: model.clockMs } }, CALLER).then(() => 'quote', errorCode), 'quote')
  const bad: Array<[Request, string]> = [[{ ...request, masterSite: 'kyoto' }, 'FORBIDDEN'], [{ ...request, grow: true }, 'INVALID_INPUT'], [{ ...request, nodes: [] }, 'INVALID_INPUT'], [{ ...request, endMs: 1 }, 'INVALID_INPUT'], [{ ...request, sentMs: 1 }, 'CLOCK_SKEW']]
  for (const [one, code] of bad) {
    t.equal(await gatewayOf(model).quote({ request: one }, CALLER).then(() => 'quote', errorCode), code)
  }
})
