import t from 'tap'
import { createDirectoryFakeStore, createFakeComputeDriver, createFakeDriver, createMemoryFakeStore } from '../../agent/drivers/fake.ts'
import type { FakeStore } from '../../agent/drivers/fake.ts'
import type { DomainSpec, SegmentSpec } from '../../protocol/core/desired.ts'
import { driverContract } from './driver.ts'

const segment = (vni: number): SegmentSpec => ({
  cluster: `c${vni}`,
  vni,
  site: { segmentId: 100, localAddress: '192.0.2.1', remoteAddresses: ['192.0.2.2'] },
  compute: true
})
const domain = (memoryMiB: number): DomainSpec => ({
  cluster: 'c1',
  clusterId: '0123456789abcdef',
  node: 'n1',
  uuid: '6d1f1d3a-6a0a-4f0a-9d32-0c1a2b3c4d5e',
  vcpus: 1,
  memoryMiB,
  mac: '52:54:00:00:00:01',
  bridge: 'mzb000001',
  tap: 'mzt00000100',
  volumes: []
})

const breaks = (store: FakeStore, kind: 'segment' | 'domain') => ({
  'it stops working': async (name: string) => {
    const object = (await store.list(kind)).find(o => o.name === name)
    if (object !== undefined) await store.put(kind, { ...object, healthy: false })
  },
  'it vanishes': async (name: string) => { await store.delete(kind, name) }
})

t.test('the fake driver in memory keeps the contract', async t => {
  const store = createMemoryFakeStore()
  await store.put('volume', { name: 'other', fingerprint: 'f', healthy: true, spec: null })
  await driverContract(t, {
    make: () => createFakeDriver('segment', { store, latencyMs: 2 }),
    specs: { name: 's/1', spec: segment(1), changed: { ...segment(1), compute: false }, second: { name: 's 2', spec: segment(2) } },
    breaks: breaks(store, 'segment'),
    foreign: {
      async make () { await store.put('volume', { name: 'theirs', fingerprint: 'f', healthy: true, spec: null }) },
      async look () { return JSON.stringify(await store.list('volume')) },
      async remove () { await store.delete('volume', 'theirs') }
    },
    leftovers: async () => (await store.list('segment')).map(o => o.name)
  })
})

t.test('the fake compute driver in a directory keeps the contract across restarts', async t => {
  const dir = t.testdir()
  const store = createDirectoryFakeStore(dir)
  await driverContract(t, {
    make: () => createFakeComputeDriver({ dir }),
    specs: { name: '../n1', spec: domain(512), changed: domain(1024), second: { name: 'n2', spec: domain(256) } },
    breaks: breaks(store, 'domain'),
    leftovers: async () => (await store.list('domain')).map(o => o.name)
  })
})

t.test('the fake compute driver tells stats of what it holds', async t => {
  const driver = createFakeComputeDriver()
  await driver.apply('n1', domain(512), AbortSignal.timeout(1000))
  t.strictSame(await driver.stats(), { n1: { rxBytes: 0, txBytes: 0, state: 'running' } })
  t.equal(await driver.consoleLog('n1'), '')
})

t.test('the fake fails and reports problems when told to', async t => {
  const driver = createFakeDriver('segment', {
    problems: ['no bridge here'],
    onCall: (verb) => { if (verb === 'apply') throw new Error('disk full') }
  })
  t.strictSame(await driver.probe(AbortSignal.timeout(1000)), ['no bridge here'])
  await t.rejects(driver.apply('s1', segment(1), AbortSignal.timeout(1000)), { message: 'disk full' })
  t.strictSame(await driver.observe(AbortSignal.timeout(1000)), [])
})
