import t from 'tap'
import { createEventLog } from '../../../agent/events.ts'
import { createGateway, type Gateway, type GatewayDeps } from '../../../agent/gateway/gateway.ts'
import type { GatewayRecord } from '../../../protocol/core/gateway/record.ts'
import { errorCode } from '../../../protocol/core/errors.ts'
import { MAX_REQUESTS_PER_MINUTE } from '../../../protocol/core/limits.ts'
import type { Request } from '../../../protocol/core/messages.ts'
import { createMemoryStore } from '../../../store/memory.ts'
import { silent } from '../../model/federation.ts'
import { facts } from '../../model/fixtures.ts'

const T0 = 1_800_000_000_000
const HOUR = 3_600_000
const CLUSTER = 'c1000000-0000-4000-8000-000000000000'
const caller = { peerId: 'peer-osaka', site: 'osaka', host: 'osaka-1', gateway: true }
const request = (part: Partial<Request> = {}): Request => ({
  key: 'k', clusterId: CLUSTER, cluster: 'demo', vni: 7, masterSite: 'osaka', startMs: T0, endMs: T0 + HOUR, nodes: [{ name: 'demo-tokyo-001', vcpus: 1, memoryMib: 512 }],
  volumes: [], frontend: false, holdTtlMs: 30_000, bandwidthMbit: 0, epoch: 1, sentMs: T0, grow: false, ...part
})
const gatewayOf = (part: Partial<GatewayDeps>): Gateway => createGateway({
  site: 'tokyo', store: createMemoryStore(), events: createEventLog(() => T0), log: silent, now: () => T0, newId: () => 'c2000000-0000-4000-8000-000000000000', call: () => Promise.reject(new Error('nobody is there')),
  siteHosts: () => [{ host: 'tokyo-1', roles: ['gateway', 'compute'], cordoned: false, peer: facts('tokyo', 0).peer, underlayAddress: '192.0.2.1', free: { vcpus: 8, memoryMib: 8192, diskMib: 0, volumes: 0, bandwidthMbit: 0 } }],
  facts: () => Promise.resolve(facts('tokyo', 0)), ...part
})

t.test('neither policy nor calendars are asked about times that cannot be, or for who may not ask: a search through centuries of windows stalls the agent', async t => {
  const asked: string[] = []
  const store = createMemoryStore()
  const record: GatewayRecord = {
    clusterId: CLUSTER, cluster: 'demo', key: '', digest: '', masterSite: 'osaka', masterPeer: 'peer-osaka', epoch: 1, vni: 7, startMs: T0, endMs: T0 + HOUR, sentMs: T0, state: 'active', reason: '', amendment: null, shrinking: [], anchor: '',
    offer: { offerId: 'o', site: 'tokyo', segmentId: 1, gateway: facts('tokyo', 0), ttlMs: 1, nowMs: T0, held: [] }
  }
  await store.put(`offer/${CLUSTER}`, record, { sync: true, version: 2 })
  const gateway = gatewayOf({
    store, policy: { check: () => { asked.push('policy') } },
    calendar: { site: () => { asked.push('calendar'); return Promise.resolve({ site: 'tokyo', hosts: [] }) } }
  })
  await gateway.start()
  for (const part of [{ endMs: Number.MAX_SAFE_INTEGER }, { startMs: 8e15, endMs: 8e15 + HOUR }, { startMs: 0, endMs: T0 + HOUR }, { masterSite: 'kyoto' }, { vni: 0 }]) {
    await t.rejects(gateway.request(request(part), caller), { code: /INVALID_INPUT|FORBIDDEN/ })
  }
  await t.rejects(gateway.extend({ key: 'x', clusterId: CLUSTER, offerId: 'x', endMs: Number.MAX_SAFE_INTEGER, ttlMs: 30_000, epoch: 1, sentMs: T0 }, caller), { code: 'INVALID_INPUT' })
  t.same(asked, [])
})

t.test('a site that asks and asks is put off before anything is looked at, and keeps no other from being answered', async t => {
  let now = T0
  let views = 0
  const gateway = gatewayOf({ now: () => now, policy: { check: () => { views++ } } })
  await gateway.start()
  const clusters = Array.from({ length: MAX_REQUESTS_PER_MINUTE + 5 }, (_, i) => `c1000000-0000-4000-8000-${String(i).padStart(12, '0')}`)
  const codes = (who: typeof caller): Promise<string[]> => Promise.all(clusters.map(clusterId => gateway.request(request({ clusterId, masterSite: who.site, sentMs: now }), who).then(() => 'offer', errorCode)))
  t.same((await codes(caller)).map(code => code === 'BUSY'), clusters.map((_, i) => i >= MAX_REQUESTS_PER_MINUTE))
  const before = views
  await t.rejects(gateway.request(request(), caller), { code: 'BUSY', retryable: true, message: /more than 120 times within a minute by osaka/ })
  t.equal(views, before)
  const extend = { key: 'x', clusterId: CLUSTER, offerId: 'x', endMs: T0 + 2 * HOUR, ttlMs: 30_000, epoch: 1, sentMs: T0 }
  const extended: string[] = []
  for (let i = 0; i <= MAX_REQUESTS_PER_MINUTE; i++) extended.push(await gateway.extend(extend, caller).then(() => 'held', errorCode))
  t.same(extended.map(code => code === 'BUSY'), extended.map((_, i) => i === MAX_REQUESTS_PER_MINUTE), 'extensions are counted by themselves')
  await t.rejects(gateway.request(request({ masterSite: 'kyoto', clusterId: 'c4000000-0000-4000-8000-000000000000' }), { peerId: 'peer-kyoto', site: 'kyoto', host: 'kyoto-1', gateway: true }), { code: /^(?!BUSY)/ }, 'others are answered')
  t.notOk((await codes({ peerId: 'peer-tokyo', site: 'tokyo', host: 'tokyo-2', gateway: true })).includes('BUSY'), 'the own site has no bound')
  now += 61_000
  t.not((await codes(caller))[0], 'BUSY')
})
