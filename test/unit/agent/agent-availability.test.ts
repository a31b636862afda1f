import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { tmpdir } from 'node:os'
import { pino } from 'pino'
import t, { type Test } from 'tap'
import { createAvailability, type Availability } from '../../../agent/availability.ts'
import { createCordon } from '../../../agent/cordon.ts'
import { tunnelAddressFor } from '../../../agent/drivers/network/address.ts'
import { createEventLog } from '../../../agent/events.ts'
import { createHelperClient, type HelperClient } from '../../../agent/helper/client/client.ts'
import { createLessor, type Lessor } from '../../../agent/lessor/lessor.ts'
import type { HoldRequest } from '../../../protocol/core/messages.ts'
import { openLedger, type Ledger } from '../../../store/ledger.ts'
import { createMemoryStore } from '../../../store/memory.ts'
import { helperConfig } from '../../helper.ts'
import { startHelperProcess } from '../../helper-process.ts'
import { holdRequest, item } from '../../model/fixtures.ts'

const T0 = 1_800_000_000_000
const BOUND_MS = 400
const silent = pino({ level: 'silent' })
const idOf = (n: number): string => `0000000${n}-0000-4000-8000-000000000000`
const hold = (key: string, n: number): HoldRequest => holdRequest({ key, clusterId: idOf(n), offerId: idOf(n + 4), items: [item(idOf(n + 2), { name: 'demo-tokyo-001' })], startMs: T0, endMs: T0 + 3_600_000 })

async function eventually (what: string, is: () => boolean | Promise<boolean>): Promise<void> {
  for (let tries = 0; tries < 600; tries++) {
    if (await is()) return
    await sleep(50)
  }
  throw new Error(`never: ${what}`)
}

interface Place { file: string, client: HelperClient, availability: Availability, lessor: Lessor, ledger: Ledger, told: Array<string | null> }

async function makePlace (t: Test): Promise<Place> {
  const dir = await mkdtemp(join(tmpdir(), 'mzv-'))
  const file = join(dir, 'agent.yaml')
  const helper = helperConfig(dir)
  await writeFile(file, JSON.stringify({ name: 'h1', site: 'tokyo', roles: ['compute'], listen: ['/ip4/127.0.0.1/tcp/0'], underlayAddress: '127.0.0.1', stateDir: dir, runDir: dir, drivers: 'fake', helper }))
  const client = createHelperClient({ socketPath: helper.socket, log: silent })
  const told: Array<string | null> = []
  const availability = createAvailability({ host: 'h1', cordon: await createCordon(createMemoryStore(), 'h1'), helper: client, monotonic: () => performance.now(), onChange: why => { told.push(why) }, boundMs: BOUND_MS })
  const ledger = await openLedger({ store: createMemoryStore(), now: () => T0, host: 'h1', capacity: { vcpus: 8, memoryMib: 8192, diskMib: 1000, volumes: 8, bandwidthMbit: 0 } })
  const lessor = createLessor({
    site: 'tokyo', host: 'h1', ledger, reconciler: () => { throw new Error('nothing runs here') }, details: { of: () => Promise.resolve({}) }, events: createEventLog(() => T0), now: () => T0, monotonic: () => 0, sleep: () => Promise.resolve(), signGrant: () => ({ envelope: new Uint8Array(), chain: [] }), cordon: availability,
    truth: { isGatewayOf: () => true, tunnelAddressFor, peer: 'peer-h1', underlayAddress: '192.0.2.2', tunnelEndpoint: '192.0.2.2:51820', addressOf: () => null }
  })
  t.teardown(async () => {
    availability.close()
    client.close()
    await rm(dir, { recursive: true, force: true })
  })
  return { file, client, availability, lessor, ledger, told }
}

t.test('a host whose helper has ended takes nothing new, keeps what it has, and goes on with the next helper', async t => {
  const { file, client, availability, lessor, ledger, told } = await makePlace(t)
  t.match(availability.blind(), /helper/, 'before the first answer')
  await t.rejects(lessor.hold(hold('early', 3)), { code: 'HOST_BLIND', retryable: true })
  const helper = await startHelperProcess(file)
  t.teardown(() => helper[Symbol.asyncDispose]())
  await client.ready(AbortSignal.timeout(30_000))
  await availability.tick()
  t.equal(availability.blind(), null)
  const held = await lessor.hold(hold('before', 1))
  t.strictSame(told, [], 'that it was blind at first is no news')

  await helper.kill()
  await availability.tick()
  await eventually('the host is blind', async () => {
    await availability.tick()
    return availability.blind() !== null
  })
  await t.rejects(lessor.hold(hold('after', 2)), { code: 'HOST_BLIND', retryable: true, message: /host h1 takes no new leases for now: the helper does not answer at \S*sock/, hint: /on h1: systemctl status musubi-helper/ })
  t.match(told, [/does not answer/])
  t.equal(told.length, 1, 'once')
  t.same(await lessor.hold(hold('before', 1)), held, 'what is promised stays promised')
  t.equal(ledger.state().leases.size, 1)

  const next = await startHelperProcess(file)
  t.teardown(() => next[Symbol.asyncDispose]())
  await eventually('it is seen', () => availability.blind() === null)
  t.equal(told.length, 2)
  t.equal(told[1], null)
  await lessor.hold(hold('later', 2))
  t.equal(ledger.state().leases.size, 2)
})

t.test('one that is there and does not answer is no better', async t => {
  const { file, client, availability } = await makePlace(t)
  const helper = await startHelperProcess(file)
  t.teardown(() => helper[Symbol.asyncDispose]())
  await client.ready(AbortSignal.timeout(30_000))
  await availability.tick()
  process.kill(helper.pid, 'SIGSTOP')
  const asked = availability.tick()
  await eventually('the host is blind', () => availability.blind() !== null)
  t.throws(() => { availability.check() }, { code: 'HOST_BLIND', message: /has not answered for \d+ s/ })
  process.kill(helper.pid, 'SIGCONT')
  await asked
  await availability.tick()
  t.equal(availability.blind(), null)
})

t.test('a cordoned host says that, helper or not', async t => {
  const cordon = await createCordon(createMemoryStore(), 'h1')
  await cordon.set(true, 'moving')
  const helper = { call: () => Promise.reject(new Error('away')), onConnect: () => () => undefined, problem: () => 'away' }
  const availability = createAvailability({ host: 'h1', cordon, helper, monotonic: () => 0, onChange: () => undefined })
  await availability.tick()
  t.throws(() => { availability.check() }, { code: 'HOST_CORDONED' })
  await cordon.set(false, '')
  t.throws(() => { availability.check() }, { code: 'HOST_BLIND', message: /away/ })
})
