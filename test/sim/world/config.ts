/**
 * What one schedule is about, decided from its seed before anything happens: sites and hosts, which
 * kinds of faults are on and how strong, what operators want. Swarm: most kinds are off in most runs,
 * so that what a fault would hide is seen as well (Groce et al., "Swarm Testing", ISSTA 2012).
 */
import type { ClusterSpec } from '../../../protocol/core/spec.ts'
import { createPrng, type Prng } from '../kernel/prng.ts'
import type { Weather } from '../kernel/network.ts'
import { REAL_CODEC_EVERY } from './plain.ts'
import type { HostDescription, ResourceFacts } from '../observation.ts'

export interface HostPlan extends HostDescription {
  roles: readonly string[]
  underlayAddress: string
  /** whether its wall clock follows true time, or its crystal */
  disciplined: boolean
}

export interface SitePlan { site: string, malicious: boolean, hosts: HostPlan[] }

/** How often each comes, per 100 s of true time and over all hosts; 0: never. */
export interface FaultRates {
  kill: number
  power: number
  partition: number
  diskError: number
  clockJump: number
  malice: number
}

export interface OperatorRates { delete: number, extend: number, grow: number, shrink: number, revoke: number, adopt: number, cordon: number }

/** `holdMs`: sites hold it so long for a user who has to accept it; 0: it is decided by itself */
export interface CreatePlan { atMs: number, host: string, spec: ClusterSpec, startInMs: number, holdMs: number }

export interface Config {
  seed: number
  sites: SitePlan[]
  rates: FaultRates
  operators: OperatorRates
  weather: Weather
  /** chance of a crash at each point of each write, by kind */
  crashAtWrite: { kill: number, power: number }
  creates: CreatePlan[]
  /** records lie on the disk as bytes */
  realCodec: boolean
  /** one way between sites, ms */
  wanMs: number
  /** of a synced write, ms */
  syncMs: number
  /** agent to helper, usual and longest, ms */
  helperMs: number
  helperHoldUpMs: number
  /** how often agents look what time has ended, ms: every second, or less often on a busy machine; 0: in that moment */
  tickMs: number
  /** whether what masters see of sites is old */
  staleViews: boolean
  /** a site lends each other site at most this much, its gateways together; null: no quotas */
  quota: Required<ResourceFacts> | null
  /** how often somebody reserves what follows on a cluster while that gets a later end: share of the extensions */
  rivals: number
  /** whether hosts are asked for their calendars, so that there are notices; only with quotas, as policies have both */
  notices: boolean
  /** faults end when so much time has passed and so much has happened, and at `faultMsMax` at the latest */
  faultMs: number
  faultEvents: number
  faultMsMax: number
  /** when a gateway that leads a cluster goes for long, so that another one of its site takes it over; 0: never */
  loseMasterMs: number
  /** how long the world is left alone when all has converged */
  afterMs: number
}

const resources = (vcpus: number, memoryMib: number, diskMib: number, volumes: number): ResourceFacts => ({ vcpus, memoryMib, diskMib, volumes, bandwidthMbit: 100 })

/** Enough for something of it to be left to each of two gateways. */
const quotaOfSite = (scale: number): Required<ResourceFacts> => ({ ...resources(3 * scale, 4096 * 2, 2048 * 2, 4), nodes: 2 * scale })

/** What each gateway of a site may lend of its quotas, per cent: together not all of it where there are three. */
export function percentOf ({ hosts }: SitePlan, host: string): number {
  const gateways = hosts.filter(one => one.gateway)
  const at = gateways.findIndex(one => one.host === host)
  return at === -1 ? 0 : gateways.length === 2 ? [60, 40][at] ?? 0 : Math.floor(100 / gateways.length)
}

/** 0 in half of the runs, else up to `most`. */
const swarm = (chance: Prng, most: number, on = 0.5): number => chance.chance(on) ? chance.between(0.1, 1) * most : 0

function planSites (chance: Prng): SitePlan[] {
  const count = chance.pick([3, 3, 3, 3, 3, 3, 4, 4, 4, 5])
  const sites: SitePlan[] = []
  for (let s = 1; s <= count; s++) {
    const site = `s${s}`
    const malicious = s > 3 && chance.chance(0.6)
    const hostCount = malicious ? 1 : chance.pick([1, 1, 1, 1, 1, 1, 2, 2, 2, 3])
    const many = hostCount > 1 && chance.chance(0.5)
    // A third one: then two others may want to take a cluster over.
    const gateways = !many ? 1 : hostCount > 2 && chance.fork(`third ${s}`).chance(0.7) ? 3 : 2
    const hosts = Array.from({ length: hostCount }, (_, h): HostPlan => {
      const gateway = h < gateways
      const host = `${site}${'abcd'.charAt(h)}`
      return {
        site, host, peer: `peer-${host}`, gateway,
        capacity: resources(chance.int(2, 3), 8192, chance.pick([0, 2048, 4096]), chance.int(1, 3)),
        // Few ids, so that they are handed on within a run.
        slice: gateway ? { from: 100 * s + 10 * h, to: 100 * s + 10 * h + chance.int(1, 4) } : null,
        ratePpm: 0, roles: gateway ? ['gateway', 'compute', 'storage'] : ['compute', 'storage'],
        underlayAddress: `10.${s}.0.${h + 1}`, disciplined: true
      }
    })
    sites.push({ site, malicious, hosts })
  }
  return sites
}

/** Some users look at what they would get first. */
const holdMs = (chance: Prng): number => chance.chance(0.15) ? Math.round(chance.between(30_000, 120_000)) : 0

/** Clusters for as long as somebody wants them: the first two at about the same time, more when those are over. */
function planCreates (chance: Prng, sites: readonly SitePlan[]): CreatePlan[] {
  const masters = sites.filter(site => !site.malicious).flatMap(site => site.hosts.filter(host => host.gateway))
  let atMs = chance.between(0, 300)
  // Two of them are more than there is, so that they compete; or there is room for them to grow.
  const isRoomy = chance.chance(0.3)
  const vcpus = sites.filter(site => !site.malicious).flatMap(site => site.hosts).reduce((sum, host) => sum + host.capacity.vcpus, 0)
  const ends: number[] = []
  /** Now and then a reservation begins in the moment in which another cluster ends. */
  const laterMs = (): number => {
    const near = ends.filter(endMs => endMs - atMs > 61_000)
    return near.length > 0 && chance.chance(0.6) ? chance.pick(near) - atMs + chance.between(0, 1_500) : chance.between(61_000, 120_000)
  }
  return Array.from({ length: 30 }, (_, i) => {
    const nodes = Math.max(2, Math.round(vcpus * chance.between(0.3, 0.6) * (isRoomy ? 0.5 : 1)))
    const volumes = chance.chance(0.3) ? 1 : 0
    const plan: CreatePlan = {
      atMs, host: chance.pick(masters).host, startInMs: chance.chance(0.1) ? laterMs() : 0, holdMs: holdMs(chance.fork(`hold ${i}`)),
      spec: {
        name: `c${i + 1}`, cidr: '10.42.0.0/16', ...(chance.fork(`local ${i}`).chance(0.3) ? { localCidr: '10.43.0.0/16' } : {}), antiSpoof: true, frontend: { mode: 'builtin' }, image: 'default',
        nodes: { count: nodes, vcpus: 1, memoryMiB: 512 },
        volumes: Array.from({ length: volumes }, (_, v) => ({ name: `v${v + 1}`, sizeMiB: 1024, node: chance.int(1, nodes) })),
        termMs: chance.pick([60, 60, 61, 75, 90, 120, 180]) * 1000
      }
    }
    ends.push(plan.atMs + plan.startInMs + plan.spec.termMs)
    atMs += i === 0 && chance.chance(0.7) ? chance.between(0, 200) : chance.between(4_000, 25_000)
    return plan
  })
}

/** Where faults last that long agents may be away for long as well. */
export const LONG_FAULTS_MS = 90_000
/** A day, after which what has ended is forgotten, and some. */
const FORGOTTEN_MS = 26 * 3_600_000

/** Most schedules are short, as breadth finds more than length; some last until leases end, a few until ids have rested. */
function faultsUntil (chance: Prng): Pick<Config, 'faultMs' | 'faultEvents'> {
  const kind = chance.unit()
  if (kind < 0.06) return { faultMs: chance.between(120_000, 200_000), faultEvents: 260 }
  if (kind < 0.25) return { faultMs: chance.between(30_000, 90_000), faultEvents: 200 }
  return { faultMs: chance.between(1_000, 10_000), faultEvents: 200 }
}

/** Before its start an advance reservation has to be confirmed for ten minutes. */
const FAR_AHEAD_MS = [605_000, 640_000] as const
/** What is said of a cluster's end: where faults last, clusters outlive a master that is away for long; now and then one begins much later. */
function lasting (creates: CreatePlan[], chance: Prng, sites: readonly SitePlan[], isLong: boolean): CreatePlan[] {
  const far = chance.chance(0.01) ? chance.int(0, 1) : -1
  // Led by the one that has not the frontend: should it go, the other can decide who takes over.
  const seconds = isLong ? sites.flatMap(site => site.hosts.filter(host => host.gateway).slice(1)) : []
  return creates.map((plan, i) => ({
    ...plan, host: seconds.length > 0 && chance.chance(0.6) ? chance.pick(seconds).host : plan.host, startInMs: i === far ? chance.between(...FAR_AHEAD_MS) : plan.startInMs,
    spec: { ...plan.spec, termMs: plan.spec.termMs * (isLong ? chance.pick([1, 3, 4]) : 1) }
  }))
}

/** Clusters that run for long, and others that want their room some time later: who has the higher priority gets it by notice. */
function withNotices (config: Config, chance: Prng): Config {
  const [first = [], ...others] = config.sites.filter(site => !site.malicious).map(({ hosts }) => hosts.filter(host => host.gateway).map(({ host }) => host))
  const high = others.length === 0 ? first : others.flat()
  const termMs = (i: number): number => i % 2 === 0 ? chance.between(200_000, 300_000) : chance.between(61_000, 120_000)
  return {
    ...config, notices: true, staleViews: true, quota: quotaOfSite(8), faultMs: chance.between(60_000, 200_000), faultEvents: 260, loseMasterMs: 0,
    // what is reserved is given up as often as not
    operators: { ...config.operators, delete: chance.between(2, 8) },
    creates: config.creates.map((plan, i) => ({ ...plan, atMs: i * 10_000, host: chance.pick(i % 2 === 0 ? first : high), startInMs: i % 2 === 0 ? 0 : chance.between(92_000, 130_000), spec: { ...plan.spec, termMs: Math.round(termMs(i)) } }))
  }
}

/** Clusters that are extended while others reserve what comes after them. */
function withRivals (config: Config, chance: Prng): Config {
  return {
    ...config, rivals: 0.8, staleViews: true, operators: { ...config.operators, extend: chance.between(20, 50) },
    creates: config.creates.map(plan => ({ ...plan, startInMs: 0, holdMs: 0, spec: { ...plan.spec, termMs: Math.round(chance.between(75_000, 150_000)) } }))
  }
}

/** Two clusters of one site at the same moment, which borrows few nodes of each other one: both may be counted, or one. */
function withTwins (config: Config, chance: Prng): Config {
  const [first, second, ...others] = config.creates
  if (config.quota === null || first === undefined || second === undefined) return config
  const atMs = first.atMs + (chance.chance(0.5) ? 0 : chance.between(0, 2 * config.syncMs))
  // What the own site has not, beside the frontend, is borrowed.
  const borrowed = chance.chance(0.7) ? 1 : 2
  const own = config.sites.find(({ hosts }) => hosts.some(({ host }) => host === first.host))?.hosts ?? []
  const count = Math.max(2, own.reduce((sum, { capacity }) => sum + capacity.vcpus, 0) - 1 + borrowed)
  const twin = ({ spec, ...plan }: CreatePlan): CreatePlan => ({ ...plan, host: first.host, startInMs: 0, spec: { ...spec, volumes: [], nodes: { ...spec.nodes, count } } })
  return { ...config, staleViews: true, quota: { ...quotaOfSite(3), nodes: chance.int(borrowed, 2 * borrowed - 1) }, creates: [twin(first), { ...twin(second), atMs }, ...others] }
}

export function planOf (seed: number): Config {
  const config = plainPlanOf(seed)
  const chance = createPrng(seed).fork('notices')
  if (chance.chance(0.08)) return withNotices(config, chance)
  const contest = createPrng(seed).fork('contest')
  const twins = contest.chance(0.35) ? withTwins(config, contest) : config
  return contest.chance(0.08) ? withRivals(twins, contest) : twins
}

function plainPlanOf (seed: number): Config {
  const chance = createPrng(seed)
  const until = faultsUntil(chance.fork('until'))
  const isLong = until.faultMs > LONG_FAULTS_MS
  const sites = planSites(chance)
  const rate = chance.pick([0, 50, 500])
  for (const site of sites) {
    for (const host of site.hosts) {
      host.ratePpm = rate === 0 ? 0 : Math.round(chance.between(-rate, rate))
      host.disciplined = chance.chance(0.7)
    }
  }
  const calm = chance.chance(0.05)
  const on = calm ? 0 : 0.5
  const malicious = sites.some(site => site.malicious)
  return {
    seed,
    sites,
    rates: {
      kill: Math.max(swarm(chance, 8, on), isLong && !calm ? 2 : 0), power: swarm(chance, 5, on), partition: swarm(chance, 6, on), diskError: swarm(chance, 5, on * 0.6),
      clockJump: swarm(chance, 3, on * 0.6), malice: malicious ? swarm(chance, 40, 0.8) : 0
    },
    operators: {
      delete: swarm(chance, 3), extend: swarm(chance, 8), grow: swarm(chance, 8), shrink: swarm(chance, 2), revoke: swarm(chance, 1.5, 0.3),
      // where two others may take a cluster over they are asked to more often
      adopt: Math.max(swarm(chance, 4, 0.6), sites.some(({ hosts }) => hosts.filter(host => host.gateway).length > 2) ? 8 : 0), cordon: swarm(chance, 1.5, 0.3)
    },
    weather: {
      loss: swarm(chance, 0.2, on * 0.8), duplicate: swarm(chance, 0.15, on * 0.8), holdUp: swarm(chance, 0.1, on * 0.8),
      holdUpMs: chance.pick([500, 5_000, 40_000])
    },
    crashAtWrite: { kill: swarm(chance, 0.02, on * 0.8), power: swarm(chance, 0.02, on * 0.8) },
    creates: lasting(planCreates(chance.fork('creates'), sites), chance.fork('lasting'), sites, isLong),
    realCodec: seed % REAL_CODEC_EVERY === 0,
    wanMs: chance.pick([2, 20, 80]),
    syncMs: chance.pick([0.5, 5, 30]),
    helperMs: chance.pick([1, 20, 200]),
    helperHoldUpMs: swarm(chance, isLong ? 150_000 : 60_000, on * 0.6),
    tickMs: chance.fork('tick').pick([0, 1_000, 1_000, 2_000]),
    staleViews: chance.chance(0.5),
    quota: chance.chance(0.25) ? quotaOfSite(chance.int(1, 3)) : null,
    notices: false,
    rivals: 0,
    ...until,
    faultMsMax: 400_000,
    loseMasterMs: isLong && chance.fork('lost').chance(0.6) ? chance.fork('lost at').between(8_000, 25_000) : 0,
    afterMs: chance.chance(0.02) ? FORGOTTEN_MS : 0
  }
}
