/** The segment driver's contract with real VLANs. */
import { fileURLToPath } from 'node:url'
import { driverContract } from '../contract/driver.ts'
import { segmentSpecs } from '../host/network-lab.ts'
import { podDrivers } from '../host/network-pod.ts'
import { CALL_TIMEOUT_MS, inside, leftovers, ok } from './inside.ts'
import type { SegmentSpec } from '../../protocol/core/desired.ts'

const VNI = 0x201
const TRUNK = { nic: 'eth1', ids: { from: 100, to: 199 } }

await inside(fileURLToPath(import.meta.url), 'segments by 802.1Q', async (t) => {
  await ok('ip link add name eth1 type veth peer name switch')
  for (const link of ['eth1', 'switch']) await ok(`ip link set dev ${link} up`)
  const tagged = (spec: SegmentSpec): SegmentSpec => ({ ...spec, site: { ...spec.site, trunk: 'eth1' } })
  const all = segmentSpecs('c1', VNI, { a: 100, b: 101 })
  await driverContract(t, {
    make: () => podDrivers({ trunk: TRUNK }).segment,
    specs: {
      name: 'c1', spec: tagged(all.a1),
      changed: tagged({ ...all.a1, site: { ...all.a1.site, segmentId: 199 } }),
      second: { name: 'c2', spec: tagged(segmentSpecs('c2', VNI + 1, { a: 102, b: 103 }).a2) }
    },
    identity: async () => await ok('ip -n mz-000201 -o link show') + await ok('nft -a list chain inet mz_guard guard_000201'),
    breaks: {
      'the sub-interface was deleted, and made with another id': async () => {
        await ok('ip -n mz-000201 link delete dev site0m')
        await ok('ip link add link eth1 name site0m netns mz-000201 type vlan id 177')
      }
    },
    foreign: {
      make: async () => { await ok('ip link add link eth1 name eth1.105 type vlan id 105') },
      look: async () => await ok('ip -o link show dev eth1') + await ok('ip -o link show type vlan'),
      remove: async () => { await ok('ip link delete dev eth1.105') }
    },
    leftovers,
    abortAfterMs: [300],
    callTimeoutMs: CALL_TIMEOUT_MS
  })
})
