/** The tunnel driver's contract with the kernel's WireGuard. */
import { fileURLToPath } from 'node:url'
import { run } from '../../agent/exec.ts'
import { driverContract } from '../contract/driver.ts'
import { TUNNEL, UNDERLAY } from '../host/network-lab.ts'
import { podDrivers } from '../host/network-pod.ts'
import { CALL_TIMEOUT_MS, inside, leftovers, ok } from './inside.ts'
import type { TunnelSpec } from '../../protocol/core/desired.ts'

await inside(fileURLToPath(import.meta.url), 'tunnels by the kernel\'s WireGuard', async (t) => {
  const key = (await run('wg', ['pubkey'], { input: await ok('wg genkey') })).stdout.trim()
  const spec: TunnelSpec = { listenPort: 51_820, address: `${TUNNEL.a1}/32`, peers: [{ site: 'b', publicKey: key, endpoint: `${UNDERLAY.b1}:51820`, address: TUNNEL.b1 }] }
  await driverContract(t, {
    make: () => podDrivers().tunnel,
    specs: { name: 'wg', spec, changed: { ...spec, listenPort: 51_822, peers: [] } },
    identity: async () => await ok('ip -o address show dev mzwg0'),
    breaks: {
      'the peer is gone': async () => { await ok(`wg set mzwg0 peer ${key} remove`) }
    },
    leftovers,
    abortAfterMs: [300],
    callTimeoutMs: CALL_TIMEOUT_MS
  })
  await t.test('and no process was needed', async (t) => {
    const driver = podDrivers().tunnel
    await driver.apply('wg', spec, AbortSignal.timeout(CALL_TIMEOUT_MS))
    t.equal(await driver.mode(), 'kernel')
    t.match(await ok('ip -details link show dev mzwg0'), /^\s*wireguard/m)
    t.notMatch(await ok('ps -A -o comm='), /wireguard-go/)
    await driver.remove('wg', AbortSignal.timeout(CALL_TIMEOUT_MS))
    t.strictSame(await leftovers(), [])
  })
})
