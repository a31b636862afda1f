import { fileURLToPath } from 'node:url'
import t from 'tap'
import type { Test } from 'tap'
import { hostBridgeName } from '../../protocol/core/desired.ts'
import { FORWARD_SERVICE } from '../../agent/drivers/network/forward/forwarding.ts'
import { SNOOP_SERVICE } from '../../agent/drivers/network/snoop/snooping.ts'
import { run, runJson } from '../../agent/exec.ts'
import { driverContract } from '../contract/driver.ts'
import { killService } from '../contract/services.ts'
import { learning, macOf, segmentSpecs, TUNNEL, UNDERLAY, withoutKnown } from './network-lab.ts'
import { enterPod, POD_STATE, podDrivers } from './network-pod.ts'
import type { SegmentSpec, TunnelSpec } from '../../protocol/core/desired.ts'

// drivers work in the namespaces of their process: this file runs itself once more inside its own
const INSIDE = 'inside'
const VNI = 0x201

t.setTimeout(240_000)

/** Names of ours in links, namespaces, tables and processes. */
async function leftovers (): Promise<string[]> {
  const links = await runJson('ip', ['-json', 'link', 'show']) as Array<{ ifname: string }>
  const { stdout: namespaces } = await run('ip', ['netns', 'list'])
  const { stdout: tables } = await run('nft', ['list', 'tables'])
  const { stdout: processes } = await run('ps', ['-A', '-o', 'stat=,args='])
  return [
    ...links.map(({ ifname }) => ifname).filter((name) => name.startsWith('mz')),
    ...namespaces.split('\n').filter((name) => name.startsWith('mz')),
    ...tables.split('\n').filter((name) => name.includes(' mz_')),
    ...processes.split('\n').filter((line) => /^[^Z].*(wireguard-go|(forward|snoop)\/keeper\.pl)/.test(line))
  ]
}

const command = (line: string) => async (): Promise<void> => {
  const [file, ...args] = line.split(' ')
  await run(file ?? '', args)
}

const foreign = {
  make: async (): Promise<void> => {
    await command('ip netns add other')()
    await command('ip link add name mzother type bridge')()
    await run('nft', ['-f', '-'], { input: 'table inet mz_other {\n}\ntable bridge other {\n}\n' })
  },
  look: async (): Promise<string> => (await run('nft', ['list', 'ruleset'])).stdout + (await run('ip', ['-o', 'link', 'show', 'type', 'bridge'])).stdout + (await run('ip', ['netns', 'list'])).stdout,
  remove: async (): Promise<void> => {
    await run('nft', ['-f', '-'], { input: 'delete table inet mz_other\ndelete table bridge other\n' })
    await command('ip link delete dev mzother')()
    await command('ip netns delete other')()
  }
}

async function segments (t: Test): Promise<void> {
  const spec = segmentSpecs('c1', VNI, { a: 7, b: 8 })
  const second: SegmentSpec = segmentSpecs('c2', VNI + 1, { a: 8, b: 9 }).a2
  const changed: SegmentSpec = { ...withoutKnown(spec.a1), site: { ...spec.a1.site, segmentId: 99, remoteAddresses: [] }, gateway: { address: '10.42.255.9/16', bridgeMac: '02:00:00:00:00:99', tunnel: null } }
  const ns = 'mz-000201'
  await driverContract(t, {
    make: () => podDrivers().segment,
    specs: { name: 'c1', spec: spec.a1, changed, second: { name: 'c2', spec: second } },
    identity: async () => (await run('ip', ['-n', ns, '-o', 'link', 'show'])).stdout + (await run('nft', ['-a', 'list', 'chain', 'inet', 'mz_guard', 'guard_000201'])).stdout,
    breaks: {
      'the namespace is gone': command(`ip netns delete ${ns}`),
      'the inter-site port is gone': command(`ip -n ${ns} link delete dev wan0`),
      'the veth is gone': command('ip link delete dev mzh000201'),
      'the host bridge is gone': command(`ip link delete dev ${hostBridgeName(VNI)}`),
      'the guard is gone': command(`nft delete element inet mz_guard ways { 4789 . ${VNI}, 4790 . 7 }; delete chain inet mz_guard guard_000201`),
      'nothing leads to the guard': command(`nft delete element inet mz_guard ways { 4789 . ${VNI}, 4790 . 7 }`),
      'what leads to the guard lets frames pass': command(`nft delete element inet mz_guard ways { 4789 . ${VNI} }; add element inet mz_guard ways { 4789 . ${VNI} : accept }`),
      'a known member is gone': command(`bridge -n ${ns} fdb delete ${macOf(2)} dev wan0m master`),
      'the chain of the forwarding lease is gone': command(`ip netns exec ${ns} nft delete chain bridge mz_mss forward_000201`),
      'the keeper of the forwarding lease is gone': async () => { await killService(podDrivers().services, FORWARD_SERVICE) },
      'nobody is answered any more': command(`ip neighbour flush nud permanent dev ${hostBridgeName(VNI)}`),
      'a link is of another kind': async () => {
        await command(`ip -n ${ns} link delete dev wan0`)()
        await command(`ip -n ${ns} link add name wan0 type bridge`)()
      }
    },
    foreign,
    leftovers: async () => (await leftovers()).filter((line) => !line.includes('other')),
    abortAfterMs: [5, 25, 45, 65, 85, 105, 130]
  })
}

/** Where the frontend hands out addresses by itself. */
async function learners (t: Test): Promise<void> {
  const specs = segmentSpecs('c1', VNI, { a: 7, b: 8 })
  const ns = 'mz-000201'
  await driverContract(t, {
    make: () => podDrivers().segment,
    specs: { name: 'c1', spec: learning(specs.a1), changed: specs.a1, second: { name: 'c2', spec: learning(segmentSpecs('c2', VNI + 1, { a: 8, b: 9 }).a2) } },
    identity: async () => (await run('ip', ['-n', ns, '-o', 'link', 'show'])).stdout + (await run('nft', ['-a', 'list', 'chain', 'bridge', 'mz_mss', 'ports_000201'])).stdout,
    breaks: {
      'the namespace is gone': command(`ip netns delete ${ns}`),
      'the host bridge is gone': command(`ip link delete dev ${hostBridgeName(VNI)}`),
      'the table is gone, and with it what was learnt': command(`ip netns exec ${ns} nft delete table bridge mz_mss`),
      'the chain that asks for addresses is gone': command('nft delete chain bridge mz_mss ports_000201'),
      'the keeper that learns is gone': async () => { await killService(podDrivers().services, SNOOP_SERVICE) }
    },
    foreign,
    leftovers: async () => (await leftovers()).filter((line) => !line.includes('other')),
    abortAfterMs: [25, 65, 105]
  })
}

async function tunnel (t: Test): Promise<void> {
  const key = async (): Promise<string> => (await run('wg', ['pubkey'], { input: (await run('wg', ['genkey'])).stdout })).stdout.trim()
  const [first, other] = [await key(), await key()]
  const spec: TunnelSpec = { listenPort: 51_820, address: `${TUNNEL.a1}/32`, peers: [{ site: 'b', publicKey: first, endpoint: `${UNDERLAY.b1}:51820`, address: TUNNEL.b1 }] }
  const changed: TunnelSpec = {
    listenPort: 51_821,
    address: '100.64.0.77',
    peers: [{ site: 'c', publicKey: other, endpoint: '10.77.0.9:51820', address: '100.64.0.9' }, { site: 'b', publicKey: first, endpoint: '10.77.0.8:51820', address: '100.64.0.8' }]
  }
  await driverContract(t, {
    make: () => podDrivers().tunnel,
    specs: { name: 'wg', spec, changed },
    identity: async () => (await run('ip', ['-o', 'address', 'show', 'dev', 'mzwg0'])).stdout + String((await podDrivers().services.status('mz-wireguard')).pid),
    breaks: {
      'the interface is gone': command('ip link delete dev mzwg0'),
      'the peer is gone': command(`wg set mzwg0 peer ${first} remove`),
      'the route is gone': command(`ip route delete ${TUNNEL.b1}/32 dev mzwg0`),
      'the address is gone': command('ip address flush dev mzwg0')
    },
    leftovers,
    abortAfterMs: [5, 40, 80, 120, 160]
  })

  await t.test('an exchange of keys that ends anywhere is finished by the next pass', async (t) => {
    const signal = (): AbortSignal => AbortSignal.timeout(30_000)
    // the peer would take either track
    const tracks = ([0, 1] as const).map((track) => ({ track, publicKey: track === 0 ? first : other, endpoint: `${UNDERLAY.b1}:5182${track}`, draining: false }))
    const peers = spec.peers.map((peer) => ({ ...peer, tracks }))
    let last = ''
    for (const [i, ms] of [5, 30, 60, 90, 120, 160, 200, 260, 320, 400, 500].entries()) {
      const wish: TunnelSpec = { ...spec, peers, keyEpoch: i + 1 }
      await podDrivers().tunnel.apply('wg', wish, AbortSignal.timeout(ms)).catch(() => undefined)
      const driver = podDrivers().tunnel
      await driver.apply('wg', wish, signal())
      const [seen] = await driver.observe(signal())
      t.match(seen, { healthy: true, detail: { tracks: [{ epoch: i + 1, draining: false }] } }, `ended after ${ms} ms`)
      t.equal((seen?.detail.tracks as unknown[]).length, 1)
      const [links, files] = [await run('ip', ['-o', 'link', 'show']), await run('find', [POD_STATE, '-name', 'wireguard*'])]
      t.equal(links.stdout.split('\n').filter((line) => line.includes(': mzwg')).length, 1)
      t.match(files.stdout, /^\S+\/wireguard(-1)?\.key\n$/, 'one key, and nothing half-written')
      const key = (await driver.publicTracks())[0]?.publicKey ?? ''
      t.not(key, last)
      last = key
    }
    await podDrivers().tunnel.remove('wg', signal())
    t.strictSame(await leftovers(), [])
  })
}

if (process.argv[2] === INSIDE) {
  await enterPod()
  await t.test('segment', segments)
  await t.test('segment of which addresses are learnt', learners)
  await t.test('tunnel', tunnel)
} else if (process.getuid?.() !== 0) {
  t.pass('the drivers work as root', { skip: 'needs root' })
} else {
  const unshare = ['--net', '--mount', '--uts', '--pid', '--fork', '--kill-child', '--mount-proc']
  t.spawn('unshare', [...unshare, process.execPath, ...process.execArgv, fileURLToPath(import.meta.url), INSIDE], {}, 'inside namespaces of its own')
}
