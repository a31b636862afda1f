/**
 * `sites-64`: one request to 64 sites of 8 hosts each, in the simulator without any fault: ledgers,
 * gateways and master are the real code, network, disks and clocks are simulated.
 */
import { describeError } from '../../protocol/core/errors.ts'
import { MAX_NODES_PER_CLUSTER } from '../../protocol/core/limits.ts'
import type { CreateChecker, Observation } from '../sim/observation.ts'
import { planOf, type Config, type HostPlan, type SitePlan } from '../sim/world/config.ts'
import { runWorld } from '../sim/world/world.ts'
import { alone, round, type Figure } from './figures.ts'

const SITES = 64
const HOSTS = 8
/** Nodes that fit at a site, as many as the largest cluster needs to go to all of them. */
const NODES_PER_SITE = Math.floor(MAX_NODES_PER_CLUSTER / SITES)
const ROUNDS_GOAL = 2
const WAN_MS = 10

function sites (count: number): SitePlan[] {
  return Array.from({ length: count }, (_, n) => {
    const site = `s${String(n + 1).padStart(2, '0')}`
    return {
      site, malicious: false,
      hosts: Array.from({ length: HOSTS }, (_, h): HostPlan => ({
        site, host: `${site}${'abcdefgh'.charAt(h)}`, peer: `peer-${site}${'abcdefgh'.charAt(h)}`, gateway: h === 0,
        capacity: { vcpus: h === 0 ? (n === 0 ? 1 : 0) : h <= NODES_PER_SITE ? 1 : 0, memoryMib: 4096, diskMib: 0, volumes: 0, bandwidthMbit: 100 },
        slice: h === 0 ? { from: 100 * (n + 1), to: 100 * (n + 1) + 9 } : null, ratePpm: 0, roles: h === 0 ? ['gateway'] : ['compute'],
        underlayAddress: `10.${n + 1}.0.${h + 1}`, disciplined: true
      }))
    }
  })
}

function calm (count: number): Config {
  const none = { loss: 0, duplicate: 0, holdUp: 0, holdUpMs: 500 }
  return {
    ...planOf(1), sites: sites(count), realCodec: true, staleViews: false, quota: null, wanMs: WAN_MS, syncMs: 0.5, weather: none, crashAtWrite: { kill: 0, power: 0 },
    rates: { kill: 0, power: 0, partition: 0, diskError: 0, clockJump: 0, malice: 0 },
    operators: { delete: 0, extend: 0, grow: 0, shrink: 0, revoke: 0, adopt: 0, cordon: 0 },
    creates: [{
      atMs: 2_000, host: 's01a', startInMs: 0, holdMs: 0,
      spec: { name: 'wide', cidr: '10.42.0.0/16', antiSpoof: true, frontend: { mode: 'builtin' }, image: 'default', nodes: { count: count * NODES_PER_SITE, vcpus: 1, memoryMiB: 512 }, volumes: [], termMs: 3_600_000 }
    }],
    faultMs: 60_000, faultEvents: 0, faultMsMax: 60_000
  }
}

/** Ends the run: everything that is measured has been seen. */
class Seen extends Error {}

interface Measured { sites: number, hosts: number, rounds: number, cpuMs: number, trueMs: number }

/** Follows the master's calls and the answers, from the first request to the last receipt. */
async function measure (count: number): Promise<Measured> {
  const calls = new Map<string, number>()
  const committed = new Set<string>()
  const holders = new Set<string>()
  let from: { cpu: NodeJS.CpuUsage, trueMs: number } | null = null
  const results: Measured[] = []
  const observe = (observation: Observation): void => {
    if (observation.type === 'call' && observation.from === 's01a' && ['request', 'commit'].includes(observation.method)) {
      from ??= { cpu: process.cpuUsage(), trueMs: observation.trueMs }
      calls.set(observation.to, (calls.get(observation.to) ?? 0) + 1)
    }
    if (observation.type !== 'answer') return
    if (observation.error !== null && ['request', 'commit'].includes(observation.method)) throw new Error(`${observation.from} refused: ${observation.error.message}`)
    if (observation.method === 'hold') holders.add(observation.from)
    if (observation.method !== 'commit' || from === null) return
    committed.add(observation.from)
    if (committed.size < count) return
    const { user, system } = process.cpuUsage(from.cpu)
    results.push({ sites: committed.size, hosts: holders.size, rounds: Math.max(...calls.values()), cpuMs: (user + system) / 1000, trueMs: observation.trueMs - from.trueMs })
    throw new Seen('all receipts are there')
  }
  const createChecker: CreateChecker = () => ({ observe, end: () => ({ convergedMs: 0 }) })
  const { violation } = await runWorld({ config: calm(count), createChecker })
  const [result] = results
  if (result === undefined) throw new Error(`${committed.size} of ${count} sites have committed: ${violation?.message ?? `${calls.size} were asked`}`)
  return result
}

async function * wide (): AsyncGenerator<Figure> {
  const bench = `sites-${SITES}`
  try {
    const { sites: asked, hosts, rounds, cpuMs, trueMs } = await measure(SITES)
    const note = `${asked} sites of ${HOSTS} hosts, ${asked * NODES_PER_SITE} nodes (a cluster has at most ${MAX_NODES_PER_CLUSTER}), so ${hosts} hosts hold something; in the simulator: CPU is that of all sites and of the simulation itself, in one thread`
    yield { ...alone({ bench, figure: 'calls to the same gateway until the last receipt', value: rounds, unit: '', better: 'lower', limit: ROUNDS_GOAL }, [rounds]), note }
    yield { ...alone({ bench, figure: 'CPU time from the first request to the last receipt', value: round(cpuMs), unit: 'ms', better: 'lower' }, [cpuMs]), note }
    yield { ...alone({ bench, figure: `simulated time of it, ${WAN_MS} ms one way on average`, value: round(trueMs), unit: 'ms', better: 'lower' }, [trueMs]), note }
  } catch (error) {
    process.stderr.write(`${bench} has no figures: ${describeError(error)}\n`)
  }
}

export const benches = { [`sites-${SITES}`]: wide }
