/**
 * Two gateways whose tunnels hear of each other's keys as in production: real drivers in namespaces, and beside each
 * what an agent has for tunnels, over a real mesh: signed records, gossip, a document that both were given.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { foldSite } from '../../agent/advertise.ts'
import { tunnelEndpointOf } from '../../agent/config.ts'
import { tunnelAddressFor } from '../../agent/drivers/network/address.ts'
import { createHostObjects } from '../../agent/lessor/objects.ts'
import type { Reconciler } from '../../agent/reconcile/reconciler.ts'
import { createTunnels, type Tunnels } from '../../agent/tunnel/tunnels.ts'
import type { TunnelSpec } from '../../protocol/core/desired.ts'
import type { ClusterDocument } from '../../protocol/core/messages.ts'
import { createRecords, type Records } from '../../protocol/mesh/records.ts'
import { chainToText } from '../../protocol/mesh/trust/base64.ts'
import type { Ledger } from '../../store/ledger.ts'
import { createMemoryStore } from '../../store/memory.ts'
import type { Store } from '../../store/store.ts'
import { makeLab } from '../mesh/federation.ts'
import { otherSide, startTunnelLab, V4, V6, type Side, type TunnelLab } from './tunnel-lab.ts'
import type { Test } from 'tap'
import type { ObservedObject } from '../../agent/drivers/driver.ts'

const SIDES: readonly Side[] = ['a', 'b']

export interface AgentsLab extends Pick<TunnelLab, 'gateways' | 'router'> {
  /** inside tunnels */
  addresses: Record<Side, string>
  tunnels: Record<Side, Tunnels>
  records: Record<Side, Records>
  document: ClusterDocument
  spec (side: Side): TunnelSpec
  /** One turn of a side: what its agent does every few seconds. */
  pass (side: Side): Promise<ObservedObject>
  /** As a restarted agent, with the store that it had. */
  restart (side: Side): Promise<void>
  /** Passes until both have one key of their epoch, and each of the other's keys from its own word. */
  settle (mostMs?: number): Promise<void>
}

/** @param ends where each tunnel ends, instead of at the IPv4 address */
export async function startAgentsLab (t: Test, ends: Partial<Record<Side, string[]>> = {}): Promise<AgentsLab> {
  const kernel = await startTunnelLab()
  t.teardown(async () => { await kernel.stop() })
  const { gateways } = kernel
  const federation = await makeLab(t, { 'a/gw': 'gateway compute', 'b/gw': 'gateway compute' })
  const meshes = { a: await federation.mesh('a/gw'), b: await federation.mesh('b/gw') }
  const peers = { a: meshes.a.peerId, b: meshes.b.peerId }
  const addresses = { a: tunnelAddressFor(peers.a), b: tunnelAddressFor(peers.b) }
  const configOf = (side: Side) => ({ name: 'gw', site: side, underlayAddress: V4[side], tunnelPort: 51_820, tunnelKeyMaxAgeHours: 168, ...(ends[side] === undefined ? {} : { tunnelAddresses: ends[side] }) })
  const keys = { a: await gateways.a.publicKey(), b: await gateways.b.publicKey() }
  const document = {
    id: '00000001-0000-4000-8000-000000000000', name: 'demo', vni: 7, cidr: '10.42.0.0/16', nodes: [], volumes: [], frontend: { site: 'a', host: 'gw', leaseId: 'f', name: 'frontend', ip: '10.42.0.1', mac: '' },
    sites: SIDES.map((site, i) => ({
      site, leaseId: `s${i}`, segmentId: 7, cache: false, gatewayAddress: `10.42.255.${i + 1}`, gatewayMac: `02:00:00:00:00:0${i}`, hosts: [{ host: 'gw', peer: peers[site], underlayAddress: V4[site], gateway: true }],
      gateway: { host: 'gw', peer: peers[site], chain: chainToText(federation.kit.member(`${site}/gw`).chain), underlayAddress: V4[site], tunnelPublicKey: keys[site], tunnelEndpoint: tunnelEndpointOf(configOf(site)), tunnelAddress: `${addresses[site]}/32` }
    }))
  } as unknown as ClusterDocument
  const ledger = { activeDocuments: () => [{ document, secrets: [] }], leases: () => [] } as unknown as Ledger

  const records = { a: createRecords({ mesh: meshes.a, epoch: 1 }), b: createRecords({ mesh: meshes.b, epoch: 1 }) }
  t.teardown(() => { for (const side of SIDES) records[side].stop() })
  const stores: Record<Side, Store> = { a: createMemoryStore(), b: createMemoryStore() }
  const tunnels = {} as Record<Side, Tunnels>
  const advertise = (side: Side): void => {
    records[side].publish('site', foldSite(side, { host: 'gw', addresses: [] }, [], '1', { priceMilli: 0, maxTermMs: 0, relay: false, tunnel: tunnels[side].tracks() }))
  }
  const open = async (side: Side): Promise<Tunnels> => await createTunnels({
    config: configOf(side), store: stores[side], records: records[side], trust: meshes[side].trust, events: { add: () => undefined }, log: { info: () => undefined, warn: () => undefined }, now: Date.now, documents: () => [document],
    helperTracks: () => gateways[side].publicTracks(), observe: () => gateways[side].observe('tunnel'), advertise: () => { advertise(side) }, trigger: () => undefined
  })
  for (const side of SIDES) tunnels[side] = await open(side)
  t.teardown(() => { for (const side of SIDES) tunnels[side].stop() })
  const objects = (side: Side) => createHostObjects({ site: side, host: 'gw' }, ledger, () => null as unknown as Reconciler, tunnels[side].truth)
  for (const side of SIDES) await meshes[side].start()

  const lab: AgentsLab = {
    gateways, router: kernel.router, addresses, tunnels, records, document,
    spec (side) {
      const tunnel = objects(side).desired().find((one) => one.kind === 'tunnel')
      if (tunnel === undefined) throw new Error(`${side} is to have no tunnel`)
      return tunnel.spec as TunnelSpec
    },
    async pass (side) {
      await tunnels[side].tick()
      await gateways[side].apply('tunnel', 'wg', lab.spec(side))
      const [seen] = await gateways[side].observe('tunnel')
      if (seen === undefined) throw new Error(`no tunnel on ${side}`)
      return seen
    },
    async restart (side) {
      tunnels[side].stop()
      await gateways[side].restart()
      tunnels[side] = await open(side)
    },
    async settle (mostMs = 60_000) {
      const until = performance.now() + mostMs
      while (performance.now() < until) {
        let done = true
        for (const side of SIDES) {
          const { healthy, detail } = await lab.pass(side)
          const own = detail.tracks as Array<{ epoch: number, draining: boolean, publicKey: string }>
          const known = lab.spec(otherSide(side)).peers[0]?.tracks?.map(({ publicKey }) => publicKey) ?? []
          done &&= healthy && own.length === 1 && own.every((one) => !one.draining && one.epoch >= (lab.spec(side).keyEpoch ?? 0)) && known.join() === own.map(({ publicKey }) => publicKey).join()
        }
        if (done) return
        await sleep(50)
      }
      throw new Error(`the keys were not exchanged within ${mostMs} ms: ${JSON.stringify(await Promise.all(SIDES.map((side) => tunnels[side].show())), null, 1)}`)
    }
  }
  return lab
}

export { V4, V6 }
