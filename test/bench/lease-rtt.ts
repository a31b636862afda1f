/**
 * `two-site-warm-rtt-*`, `two-site-cold-rtt-*`: from the master's first request to the last receipt of
 * a commit, before anything is activated, in round trips. A lab of two sites of one real agent each,
 * stores on the disk, every frame between the sites delayed by half the round trip each way and by
 * nothing else. Cold: all connections between the two agents were cut just before, so dialling,
 * handshakes, admission and the stream of calls are part of it.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { rm } from 'node:fs/promises'
import { call, events } from '../../cli/client.ts'
import { startLab, type Lab } from '../../lab/lab.ts'
import { until } from '../../lab/process.ts'
import type { AgentStatus, ClusterResource, EventResource, LeaseResource, SiteResource } from '../../protocol/api.ts'
import { diskFolder } from '../agents/federation.ts'
import { LEASED, spec } from '../agents/load.ts'
import { percentile, round, spread, type BenchOptions, type Figure } from './figures.ts'

const LIMITS = { warm: 2.2, cold: 5.5 }
const PATIENCE_MS = 60_000
/** Clusters before those that count. */
const WARM_UP = 5
const [MASTER, LENDER] = ['tokyo-1', 'osaka-1']
/** After this the master has the receipts of all. */
const COMMITTED = /: (preparing|activating|building)\b/
const NOTE = {
  warm: 'the gateways are connected and have called each other before; nothing is started or activated yet at the end',
  cold: 'from no connection between the two gateways: TCP, Noise, multiplexer, admission by certificates and the stream of calls are part of it; that each knows the other\'s address and record is not'
}

const at = (lab: Lab, host: string): { socketPath: string, what: string } => ({ socketPath: lab.api(host), what: 'agent' })

/** The frontend and one node fit at the master's, so one of two nodes goes to the other site. */
async function twoSites (dir: string, rttMs: number): Promise<Lab> {
  const lab = await startLab({
    dir, rttMs, drivers: 'fake',
    sites: [
      { name: 'tokyo', hosts: [{ name: MASTER, roles: ['gateway', 'compute'], vcpus: 2, memoryMiB: 4096, diskMiB: 0 }] },
      { name: 'osaka', hosts: [{ name: LENDER, roles: ['gateway', 'compute'], vcpus: 16, memoryMiB: 65_536, diskMiB: 0 }] }
    ]
  })
  await free(lab)
  // The way through the lab takes some itself: with it the round trip is what is said. By the quickest
  // answer: on a busy machine the mean would leave less to inject, and a negotiation shorter than it is.
  const excessMs = (await ping(lab)).minMs - rttMs
  await lab.wan.setRtt(Math.max(0, rttMs - Math.max(0, excessMs)))
  return lab
}

/** Waits until nothing is leased and the master sees everything free. */
async function free (lab: Lab): Promise<void> {
  await until('everything is free', PATIENCE_MS, async () => {
    const [sites, ...leases] = await Promise.all([call<SiteResource[]>(at(lab, MASTER), 'GET', '/v1/sites'), ...[MASTER, LENDER].map(async host => await call<LeaseResource[]>(at(lab, host), 'GET', '/v1/leases'))])
    return leases.flat().length === 0 && sites.length === 2 && sites.every(s => s.state === 'alive' && s.hosts > 0 && s.free.vcpus === s.total.vcpus)
  }, { everyMs: 50 })
}

/** What the network takes, by ICMP. */
async function ping (lab: Lab): Promise<{ minMs: number, meanMs: number }> {
  const { stdout } = await lab.host(MASTER).pod.exec(['ping', '-q', '-c', '20', '-i', '0.1', lab.host(LENDER).address])
  const [, min, mean] = /= ([\d.]+)\/([\d.]+)\//.exec(stdout) ?? []
  return { minMs: Number(min ?? NaN), meanMs: Number(mean ?? NaN) }
}

const connected = async (lab: Lab): Promise<boolean> => {
  const lists = await Promise.all([MASTER, LENDER].map(async host => (await call<AgentStatus>(at(lab, host), 'GET', '/v1/status')).peers))
  return lists.some((peers, n) => peers.some(p => p.peerId === lab.host(n === 0 ? LENDER : MASTER).peerId))
}

/** Ends every connection between the two. They dial again after a quarter of a second: what is asked for comes before. */
async function cut (lab: Lab): Promise<void> {
  for (let tries = 0; tries < 20; tries++) {
    await Promise.all([[MASTER, LENDER], [LENDER, MASTER]].map(async ([here = '', there = '']) => {
      await lab.host(here).pod.exec(['ss', '-K', 'dst', lab.host(there).address])
    }))
    for (let n = 0; n < 5; n++) {
      if (!await connected(lab)) return
      await sleep(2)
    }
    await sleep(300)
  }
  throw new Error('the connections between the gateways cannot be cut')
}

interface Sample { negotiateMs: number, outsideMs: number, rttMs: number }

/** One cluster: asked for, leased, deleted. */
async function one (lab: Lab, name: string, cold: boolean): Promise<Sample> {
  const end = new AbortController()
  const receipts = Promise.withResolvers<number>()
  const listening = (async () => {
    for await (const event of events<EventResource>(at(lab, MASTER), '/v1/events/stream', end.signal)) {
      if (event.cluster === name && COMMITTED.test(event.message)) receipts.resolve(performance.now())
    }
  })()
  await sleep(20)
  if (cold) await cut(lab)
  const from = performance.now()
  await call(at(lab, MASTER), 'POST', '/v1/clusters', spec(name, 2))
  const cluster = await until(`${name} is leased`, PATIENCE_MS, async () => {
    const view = await call<ClusterResource>(at(lab, MASTER), 'GET', `/v1/clusters/${name}`)
    if (view.state === 'failed') throw new Error(`${name} failed: ${view.error?.message ?? ''}`)
    // the round trip of a call is measured once all is committed
    return LEASED.has(view.state) && view.lease.rttMs > 0 ? view : null
  }, { everyMs: 40 })
  if (cluster.lease.sites !== 2) throw new Error(`${name} has ${cluster.lease.sites} sites instead of two`)
  const outsideMs = await receipts.promise - from
  end.abort()
  await listening
  await call(at(lab, MASTER), 'DELETE', `/v1/clusters/${name}`)
  await free(lab)
  return { negotiateMs: cluster.lease.negotiateMs, outsideMs, rttMs: cluster.lease.rttMs }
}

async function * twoSite (kind: 'warm' | 'cold', rttMs: number, { full = false }: BenchOptions): AsyncGenerator<Figure> {
  const dir = await diskFolder('mzr-')
  const lab = await twoSites(dir, rttMs)
  try {
    const samples: Sample[] = []
    for (let n = -WARM_UP; n < (full ? 60 : 20); n++) {
      const sample = await one(lab, `b${n + WARM_UP}`, kind === 'cold')
      // the first ones have code to compile
      if (n >= 0) samples.push(sample)
    }
    const times = samples.map(s => s.negotiateMs)
    const outside = samples.map(s => s.outsideMs)
    const bench = `two-site-${kind}-rtt-${rttMs}`
    const now = await ping(lab)
    const limit = LIMITS[kind]
    yield {
      bench, figure: `first request to last commit receipt, durable at both sites; RTT now by ICMP ${round(now.minMs)} ms at least, ${round(now.meanMs)} on average, by a call ${percentile(samples.map(s => s.rttMs), 0.5)} ms`, value: percentile(times, 0.5), unit: 'ms', better: 'lower',
      peer: 'the round trip injected', peerValue: rttMs, limit, ratio: round(percentile(times, 0.5) / rttMs), ...spread(times), note: NOTE[kind]
    }
    yield { bench, figure: 'the same seen by the user: from asking the master\'s API to its event of the last receipt', value: percentile(outside, 0.5), unit: 'ms', better: 'lower', peer: 'the round trip injected', peerValue: rttMs, limit: null, ratio: round(percentile(outside, 0.5) / rttMs), ...spread(outside) }
  } finally {
    await lab.stop()
    await rm(dir, { recursive: true, force: true })
  }
}

export const benches = Object.fromEntries((['warm', 'cold'] as const).flatMap(kind => [20, 50, 100].map(rttMs => [
  `two-site-${kind}-rtt-${rttMs}`, (options: BenchOptions = {}) => twoSite(kind, rttMs, options)
] as const)))
