/** A coordinator among many gateways, all in this process, over the loopback: its index is a view that can be lost. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { pino } from 'pino'
import t, { type Test } from 'tap'
import type { CoordinatorConfig } from '../../../coordinator/config.ts'
import { startCoordinator, type Coordinator } from '../../../coordinator/coordinator.ts'
import { identityFiles, openIdentity } from '../../../coordinator/identity.ts'
import { storeFolder } from '../../../coordinator/transfer.ts'
import { privateKeyToProtobuf } from '@libp2p/crypto/keys'
import { createMesh, type Mesh } from '../../../protocol/mesh/mesh.ts'
import { SYNC_INTERVAL_MS } from '../../../protocol/mesh/constants.ts'
import { createRecords } from '../../../protocol/mesh/records.ts'
import { writeCredentials, writePrivateFile, type KnownPeer } from '../../../protocol/mesh/trust/credentials.ts'
import { createTrust } from '../../../protocol/mesh/trust/trust.ts'
import { createKit, type Kit } from '../../trust-kit.ts'
import { freePort } from '../../free-port.ts'

t.setTimeout(240_000)
const GATEWAYS = 8
const ADDRESS = `127.${process.pid % 200 + 10}.${Math.floor(process.pid / 200) % 250}.4`
const log = pino({ level: 'silent' })

async function until (what: string, withinMs: number, check: () => boolean): Promise<number> {
  const started = performance.now()
  while (!check()) {
    if (performance.now() - started > withinMs) throw new Error(`${what}: not within ${withinMs} ms`)
    await delay(20)
  }
  return performance.now() - started
}

/** The state folder of a coordinator of the kit, as `init` would have made it. */
async function folderFor (t: Test, kit: Kit, name: string): Promise<CoordinatorConfig> {
  const dir = await mkdtemp(join(tmpdir(), 'mzi-'))
  t.teardown(() => rm(dir, { recursive: true, force: true }))
  const config: CoordinatorConfig = { name, stateDir: dir, runDir: dir, listen: [`/ip4/${ADDRESS}/tcp/${await freePort(ADDRESS)}`], joinListen: [`/ip4/${ADDRESS}/tcp/0`], relay: true, http: { host: ADDRESS, port: 0 }, logLevel: 'error' }
  const files = identityFiles(dir)
  const { key, chain } = kit.member(name)
  await writePrivateFile(files.coordinatorKey, privateKeyToProtobuf(kit.coordinatorKey))
  await writePrivateFile(files.nodeKey, privateKeyToProtobuf(key))
  await writeCredentials(files.credentials, { federation: kit.federation, chain, peers: [] })
  return config
}

const start = async (config: CoordinatorConfig): Promise<Coordinator> => await startCoordinator(config, (await openIdentity(config, Date.now())).identity, log)

async function gateway (t: Test, kit: Kit, name: string, peers: readonly KnownPeer[], vcpus: number): Promise<Mesh> {
  const { key, peerId, chain, site } = kit.member(name)
  const trust = createTrust({ peerId, federation: kit.federation, chain, now: () => Date.now() })
  const mesh = await createMesh({ key, trust, listen: [`/ip4/${ADDRESS}/tcp/0`], peers })
  const records = createRecords({ mesh, epoch: 1 })
  t.teardown(async () => {
    records.stop()
    await mesh.close()
  })
  await mesh.start()
  const free = { vcpus, memoryMib: 1024, diskMib: 0, volumes: 0, bandwidthMbit: 0 }
  records.publish('site', { site, gateway: 'gw', addresses: mesh.addresses(), hosts: 1, total: free, free, freeByHost: [free], volumeFreeMib: 0, version: '1', features: [], roles: ['gateway'], priceMilli: 0, maxTermMs: 0, relay: false, tunnel: [] })
  return mesh
}

t.test('an empty store is filled again, and the loss of a coordinator is not noticed', async t => {
  const sites = Array.from({ length: GATEWAYS }, (_, i) => ({ name: `s${i}`, hosts: [{ name: 'gw', roles: ['gateway'] as const, segmentIds: { from: 1, to: 9 } }] }))
  const kit = await createKit({ coordinators: ['main', 'second'], sites })
  const configs = { main: await folderFor(t, kit, 'main'), second: await folderFor(t, kit, 'second') }
  let main = await start(configs.main)
  const second = await start(configs.second)
  t.teardown(async () => { await Promise.all([main.stop(), second.stop()]) })
  const peers = (['main', 'second'] as const).map((name): KnownPeer => ({ peerId: kit.member(name).peerId, addresses: configs[name].listen, chain: kit.member(name).chain }))
  const meshes: Mesh[] = []
  for (const [i, { name }] of sites.entries()) meshes.push(await gateway(t, kit, `${name}/gw`, peers, i + 1))
  const whole = (coordinator: Coordinator): boolean => {
    const seen = coordinator.sites()
    // not `alive`: on a machine that starves, whoever is slow is suspected for a while
    return seen.length === GATEWAYS && seen.every(({ site, free, state }) => state !== 'dead' && free.vcpus === Number(site.slice(1)) + 1)
  }
  await until('both indexes are whole', 60_000, () => whole(main) && whole(second))

  await main.stop()
  await rm(storeFolder(configs.main), { recursive: true })
  t.ok(whole(second), 'the other one has all')
  main = await start(configs.main)
  const tookMs = await until('the index is whole again', (Math.log2(GATEWAYS + 2) + 3) * SYNC_INTERVAL_MS, () => whole(main))
  t.comment(`index whole after ${Math.round(tookMs)} ms; one anti-entropy interval is ${SYNC_INTERVAL_MS} ms`)
  t.equal(main.status().epoch, 1, 'the store was empty')

  const revoked = await main.revoke({ site: 's3', reason: 'test' })
  t.match(revoked, { site: 's3', already: false })
  await until('the other coordinator knows, and everybody has hung up', (Math.log2(GATEWAYS + 2) + 3) * SYNC_INTERVAL_MS, () => second.status().revocations === 1 && meshes.every(mesh => mesh.peerId === kit.member('s3/gw').peerId ? mesh.connected().length === 0 : !mesh.connected().includes(kit.member('s3/gw').peerId)))
  t.match((await second.admissions()).find(({ site }) => site === 's3'), { state: 'revoked', revoked: { reason: 'test' } })
  t.notOk(second.sites().some(({ site }) => site === 's3'))
})
