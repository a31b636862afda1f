/** Two gateways with a router between them, IPv4 and IPv6, and pings through VXLAN in their tunnel. */
import { setTimeout as sleep } from 'node:timers/promises'
import { tunnelAddressFor } from '../../agent/drivers/network/address.ts'
import { run } from '../../agent/exec.ts'
import { startPod } from './network-pod.ts'
import type { Test } from 'tap'
import type { Track, TunnelSpec, TunnelTrack } from '../../protocol/core/desired.ts'
import type { ObservedObject } from '../../agent/drivers/driver.ts'
import type { Pod, TunnelTimes } from './network-pod.ts'

export type Side = 'a' | 'b'
export const otherSide = (side: Side): Side => (side === 'a' ? 'b' : 'a')
export const TUNNELS: Record<Side, string> = { a: tunnelAddressFor('gateway of a'), b: tunnelAddressFor('gateway of b') }
export const V4: Record<Side, string> = { a: '10.77.1.1', b: '10.77.2.1' }
export const V6: Record<Side, string> = { a: 'fd77:1::1', b: 'fd77:2::1' }
/** Inside the VXLAN. */
export const INNER: Record<Side, string> = { a: '10.9.0.1', b: '10.9.0.2' }
const PORTS: Record<Track, number> = { 0: 51_820, 1: 51_821 }

export interface TunnelLab {
  gateways: Record<Side, Pod>
  router: Pod
  /** how the other side finds this one; changed by tests */
  hosts: Record<Side, string>
  /** the wish of each side for newer keys */
  epochs: Record<Side, number>
  /** One pass of a side: it reads what the other says now, applies, and looks. */
  pass (side: Side): Promise<ObservedObject>
  stop (): Promise<void>
}

/** Quick enough for tests; whoever still uses a track sends every 10 ms in them, unless a busy machine stands still for that long. */
export const QUICK: TunnelTimes = { rotation: { quietMs: 1_500, tidyMs: 0 }, pathMtu: { refreshMs: 50, retryMs: 20 } }

/** Gateways at 10.77.1.1 and 10.77.2.1, the router has .254 and ::fe of both. */
export async function startTunnelLab (times: TunnelTimes = QUICK): Promise<TunnelLab> {
  const pods: Pod[] = []
  const stop = async (): Promise<void> => { await Promise.all(pods.map(async (pod) => { await pod.stop() })) }
  try {
    const start = async (): Promise<Pod> => {
      const pod = await startPod(times)
      pods.push(pod)
      return pod
    }
    const [router, a, b] = await Promise.all([start(), start(), start()])
    const gateways = { a, b }
    for (const [side, net] of [['a', 1], ['b', 2]] as const) {
      const pod = gateways[side]
      // only from outside the pods are both namespaces in sight
      await run('nsenter', ['--net', '--target', String(router.pid), 'ip', 'link', 'add', 'name', `to-${side}`, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', String(pod.pid)])
      await router.ok(`ip address add 10.77.${net}.254/24 dev to-${side}`)
      await router.ok(`ip address add fd77:${net}::fe/64 dev to-${side} nodad`)
      await router.ok(`ip link set dev to-${side} up`)
      await pod.ok(`ip address add ${V4[side]}/24 dev eth0`)
      await pod.ok(`ip address add ${V6[side]}/64 dev eth0 nodad`)
      await pod.ok('ip link set dev eth0 up')
      await pod.ok(`ip route add default via 10.77.${net}.254`)
      await pod.ok(`ip -6 route add default via fd77:${net}::fe`)
      // the strict filter, as many distributions have it
      await pod.ok('sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.default.rp_filter=1')
    }
    await router.ok('sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1')
    // a router that looks for a neighbour keeps the first packets: released late, two handshakes cross, and WireGuard drops both for 5 s
    for (const there of [V4, V6]) if (!await answers(a, there.b)) throw new Error(`${there.b} does not answer through the router`)
    const hosts = { ...V4 }
    const epochs = { a: 0, b: 0 }
    const pass = async (side: Side): Promise<ObservedObject> => {
      const far = otherSide(side)
      const tracks = (await gateways[far].publicTracks()).map((one): TunnelTrack => ({ ...one, endpoint: `${hosts[far].includes(':') ? `[${hosts[far]}]` : hosts[far]}:${PORTS[one.track]}` }))
      const first = tracks[0]
      const spec: TunnelSpec = {
        listenPort: PORTS[0], address: TUNNELS[side], keyEpoch: epochs[side],
        peers: first === undefined ? [] : [{ site: far, publicKey: first.publicKey, endpoint: first.endpoint, address: TUNNELS[far], tracks }]
      }
      await gateways[side].apply('tunnel', 'wg', spec)
      const [seen] = await gateways[side].observe('tunnel')
      if (seen === undefined) throw new Error(`no tunnel on ${side}`)
      return seen
    }
    return { gateways, router, hosts, epochs, pass, stop }
  } catch (error) {
    await stop()
    throw error
  }
}

/** VXLAN between the two tunnel addresses, as the segment driver makes it, with an address on it. */
export async function addVxlan (lab: Pick<TunnelLab, 'gateways'>, tunnels: Readonly<Record<Side, string>> = TUNNELS): Promise<void> {
  for (const side of ['a', 'b'] as const) {
    const pod = lab.gateways[side]
    await pod.ok(`ip link add name vx type vxlan id 7 local ${tunnels[side]} dstport 4789 df unset udpcsum learning`)
    await pod.ok(`bridge fdb append 00:00:00:00:00:00 dev vx dst ${tunnels[otherSide(side)]}`)
    await pod.ok('ip link set dev vx mtu 1280 up')
    await pod.ok(`ip address add ${INNER[side]}/24 dev vx`)
  }
}

/** Whether somebody answers; handshakes of both sides that cross are tried again after 5 s, and may cross again where processors are busy. */
export async function answers (pod: Pod, address: string, tries = 60): Promise<boolean> {
  for (let i = 0; i < tries; i++) if ((await pod.run('ping', ['-n', '-c', '1', '-W', '1', address])).exitCode === 0) return true
  return false
}

export interface Pings { sent: number, lost: number[], doubled: number }

/** Pings at least every 10 ms until it is stopped: where the clock ticks every 10 ms, ping comes a tick late. */
export async function startPings (pod: Pod, address: string): Promise<() => Promise<Pings>> {
  const name = `/run/pings-${Math.floor(performance.now() * 1000)}`
  const running = pod.run('sh', ['-c', `echo $$ > ${name}; exec ping -n -i 0.005 ${address}`], { timeoutMs: 3_000_000 })
  await sleep(200)
  return async () => {
    await pod.ok(`kill -INT ${(await pod.ok(`cat ${name}`)).trim()}`)
    const { stdout } = await running
    const seen = [...stdout.matchAll(/icmp_seq=(\d+) ttl/g)].map((match) => Number(match[1]))
    // ping numbers with 16 bits
    let round = 0
    const numbers = seen.map((number, i) => {
      if (i > 0 && number < 1_000 && (seen[i - 1] ?? 0) > 64_000) round++
      return number + round * 65_536
    })
    const there = new Set(numbers)
    const last = Math.max(0, ...numbers)
    return { sent: last, lost: Array.from({ length: last }, (_, i) => i + 1).filter((number) => !there.has(number) && number % 65_536 !== 0), doubled: numbers.length - there.size }
  }
}

const tracksOf = (seen: ObservedObject): Array<{ track: Track, epoch: number, draining: boolean }> => seen.detail.tracks as never

/** Passes of both sides in turn until each has one key, of the epoch that it wishes; the number of passes. */
export async function settle (lab: TunnelLab, first: Side = 'a', mostMs = 60_000): Promise<number> {
  const until = performance.now() + mostMs
  for (let passes = 0; performance.now() < until; passes += 2) {
    const seen = [await lab.pass(first), await lab.pass(otherSide(first))]
    const sides = [first, otherSide(first)]
    const done = seen.every((one, i) => one.healthy && tracksOf(one).length === 1 && tracksOf(one).every(({ epoch, draining }) => !draining && epoch >= lab.epochs[sides[i] ?? 'a']))
    if (done) return passes
    await sleep(50)
  }
  const left = await Promise.all((['a', 'b'] as const).map(async (side) => (await lab.gateways[side].observe('tunnel')).map(({ detail }) => detail)))
  throw new Error(`the keys were not exchanged within ${mostMs} ms: ${JSON.stringify(left, null, 1)}`)
}

/** Ends pings from a to b and from b to a: none may be lost or come twice in so many exchanges. */
export async function noneLost (t: Test, stops: ReadonlyArray<() => Promise<Pings>>, { ms, count, keys }: { ms: number, count: number, keys: number }): Promise<void> {
  for (const [i, stop] of stops.entries()) {
    const { sent, lost, doubled } = await stop()
    t.comment(`${i === 0 ? 'a to b' : 'b to a'}: ${sent} pings, one every ${(ms / sent).toFixed(1)} ms, lost ${lost.length}; ${count} exchanges, ${keys} keys, ${Math.round(ms / 1000)} s`)
    t.ok(sent > count * 20, `${sent} pings`)
    t.strictSame(lost, [], 'none lost')
    t.equal(doubled, 0, 'none doubled')
  }
}

/** Exchanges keys of one side, then of the other, so many times in all, under pings both ways: none may be lost. */
export async function exchanges (t: Test, lab: TunnelLab, count: number): Promise<void> {
  const { a, b } = lab.gateways
  const keys = async (): Promise<string[]> => (await Promise.all([a.publicTracks(), b.publicTracks()])).flat().map(({ publicKey }) => publicKey)
  const stops = [await startPings(a, INNER.b), await startPings(b, INNER.a)]
  const started = performance.now()
  const known = new Set(await keys())
  for (let i = 0; i < count; i++) {
    const side: Side = i % 2 === 0 ? 'a' : 'b'
    lab.epochs[side]++
    await settle(lab, i % 3 === 0 ? side : otherSide(side))
    for (const key of await keys()) known.add(key)
  }
  const ms = performance.now() - started
  await noneLost(t, stops, { ms, count, keys: known.size })
  t.ok(known.size >= count + 2, `${known.size} keys in all`)
}
