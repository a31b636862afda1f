/**
 * Two sites through what we build, against the same recipe typed by hand, bare WireGuard of the same engine, and
 * other programs of the kind. All ways are up at once on switches of their own and take turns, so that what else
 * the machine does hits all of them; two ends share its cores. `--full` measures longer.
 */
import { access } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { type BenchOptions, type Figure, percentile, round, spread } from './figures.ts'
import { BY_HAND_TUNNEL, startPeer } from './network-peers.ts'
import type { Ends } from './network-peers.ts'
import { addNode, nodeAddressOf, nodeSpace, segmentsOf, startSites, tunnelOf, tunnelsOf } from './network-sites.ts'
import { benches as setup } from './network-setup.ts'
import { benches as broadcast } from './network-broadcast.ts'

const VNI = 0x101
const OTHERS = ['openvpn-tap', 'tinc', 'n2n'] as const
const PINGS = 200
const BY_HAND = 'by-hand'

/** Mbit/s that arrived in one TCP stream. */
async function throughput ({ client, server }: Ends, seconds: number): Promise<number> {
  const inside = (netns?: string): { netns?: string, timeoutMs: number } => ({ ...(netns === undefined ? {} : { netns }), timeoutMs: 60_000 })
  const listening = server.pod.run('iperf3', ['-s', '-1'], inside(server.netns))
  try {
    for (let tries = 0; tries < 20; tries++) {
      await sleep(100)
      const { exitCode, stdout } = await client.pod.run('iperf3', ['-J', '-c', server.address, '-t', String(seconds), '-O', '1'], inside(client.netns))
      if (exitCode !== 0) continue
      const report = JSON.parse(stdout) as { end?: { sum_received?: { bits_per_second?: number } } }
      return (report.end?.sum_received?.bits_per_second ?? Number.NaN) / 1e6
    }
    throw new Error('iperf3 did not get through')
  } finally {
    await server.pod.run('pkill', ['-x', 'iperf3'])
    await listening
  }
}

/** Milliseconds of each answer. */
async function roundTrips ({ client, server }: Ends): Promise<number[]> {
  const { stdout } = await client.pod.run('ping', ['-n', '-c', String(PINGS), '-i', '0.005', server.address], client.netns === undefined ? {} : { netns: client.netns })
  const times = [...stdout.matchAll(/time=([\d.]+) ms/g)].map(match => Number(match[1]))
  if (times.length < PINGS / 2) throw new Error(`${times.length} of ${PINGS} pings were answered`)
  return times
}

async function reach ({ name, client, server }: Ends): Promise<void> {
  for (let i = 0; i < 100; i++) {
    if ((await client.pod.run('ping', ['-n', '-c', '1', '-W', '1', server.address], client.netns === undefined ? {} : { netns: client.netns })).exitCode === 0) return
    await sleep(100)
  }
  throw new Error(`${name}: no ping came through`)
}

interface Samples { mbits: number[], rttMs: number[] }

/** Turns over all ways, each begun by the next one in the row. */
async function compare (ways: readonly Ends[], rounds: number, seconds: number): Promise<Map<string, Samples>> {
  const found = new Map<string, Samples>(ways.map(({ name }) => [name, { mbits: [], rttMs: [] }]))
  for (const one of ways) await reach(one)
  for (let turn = 0; turn < rounds; turn++) {
    for (let i = 0; i < ways.length; i++) {
      const way = ways[(turn + i) % ways.length]
      const samples = way === undefined ? undefined : found.get(way.name)
      if (way === undefined || samples === undefined) continue
      samples.rttMs.push(percentile(await roundTrips(way), 0.5))
      samples.mbits.push(await throughput(way, seconds))
    }
  }
  return found
}

const engine = async (): Promise<string> => await access('/sys/module/wireguard').then(() => 'WireGuard of the kernel', () => 'wireguard-go')

function * figures (found: Map<string, Samples>, own: string, peer: string, figure: string, limit: number | null, note: string): Generator<Figure> {
  const [ours, theirs] = [found.get(own), found.get(peer)]
  if (ours === undefined || theirs === undefined) return
  const [mbits, peerMbits] = [percentile(ours.mbits, 0.5), percentile(theirs.mbits, 0.5)]
  yield { bench: 'network', figure, value: mbits, unit: 'Mbit/s', better: 'higher', peer, peerValue: peerMbits, limit, ratio: round(mbits / peerMbits), ...spread(ours.mbits), note }
  const [rtt, peerRtt] = [percentile(ours.rttMs, 0.5), percentile(theirs.rttMs, 0.5)]
  yield { bench: 'network', figure: `${figure}-rtt`, value: rtt, unit: 'ms', better: 'lower', peer, peerValue: peerRtt, limit: limit === null ? null : round(1 / limit), ratio: round(rtt / peerRtt), ...spread(ours.rttMs), note }
}

/** What the measured ways are: ours and its tunnel, and the peers by name with their tunnels. */
async function measure (peers: readonly string[], full: boolean): Promise<Map<string, Samples>> {
  const stops: Array<() => Promise<void>> = []
  try {
    const sites = await startSites(2)
    stops.push(sites.stop)
    const [tunnels, segments] = [await tunnelsOf(sites), segmentsOf(2, VNI)]
    for (const [site, pod] of sites.pods.entries()) {
      await pod.apply('tunnel', 'wg', tunnels[site])
      await pod.apply('segment', `c${VNI}`, segments[site])
      await addNode(pod, VNI, site)
    }
    const [a, b] = sites.pods
    if (a === undefined || b === undefined) throw new Error('no pods')
    const ways: Ends[] = [
      { name: 'musubi', client: { pod: a, netns: nodeSpace(VNI) }, server: { pod: b, netns: nodeSpace(VNI), address: nodeAddressOf(1) } },
      { name: 'wg', client: { pod: a }, server: { pod: b, address: tunnelOf(1) } }
    ]
    for (const name of peers) {
      const peer = await startPeer(name)
      stops.push(peer.stop)
      ways.push(peer)
      if (name === BY_HAND) ways.push({ name: 'wg-by-hand', client: { pod: peer.client.pod }, server: { pod: peer.server.pod, address: BY_HAND_TUNNEL } })
    }
    return await compare(ways, full ? 9 : 5, full ? 5 : 3)
  } finally {
    await Promise.all(stops.map(async stop => { await stop() }))
  }
}

async function * vsByHand ({ full = false }: BenchOptions = {}): AsyncGenerator<Figure> {
  const [found, by] = [await measure([BY_HAND], full), await engine()]
  yield * figures(found, 'musubi', BY_HAND, 'vs-by-hand', 0.98, `both by ${by}`)
  yield * figures(found, 'musubi', 'wg', 'vxlan-over-wg-vs-wg', 0.85, `both through the same tunnel of ${by}`)
  yield * figures(found, BY_HAND, 'wg-by-hand', 'by-hand-vs-wg', null, `what the recipe costs when typed by hand, both by ${by}`)
}

async function * vsOthers ({ full = false }: BenchOptions = {}): AsyncGenerator<Figure> {
  const [found, by] = [await measure(OTHERS, full), await engine()]
  for (const name of OTHERS) yield * figures(found, 'musubi', name, `vs-${name}`, null, `ours by ${by}`)
}

export const benches: Record<string, (options?: BenchOptions) => AsyncIterable<Figure>> = { 'vs-by-hand': vsByHand, 'vs-others': vsOthers, ...broadcast, ...setup }
