/** One world: built from a plan, run through faults, healed, and watched at every event by the checker. */
import type { KnownSite } from '../../../protocol/core/master/events.ts'
import { allHeld, type GatewayRecord } from '../../../protocol/core/gateway/record.ts'
import { isLent } from '../../../protocol/core/gateway/shares.ts'
import type { SiteHost } from '../../../protocol/core/gateway/events.ts'
import { Timeline } from '../../../protocol/core/calendar/timeline.ts'
import { clampToZero } from '../../../protocol/core/capacity.ts'
import { hostBookings } from '../../../protocol/core/lease/lease.ts'
import { resourceOf } from '../../../agent/helper/fence/permits.ts'
import { siteCapacityOf } from '../../../protocol/core/placement/site-capacity.ts'
import { fromStored, type StoredRecord } from '../../../agent/master/stored.ts'
import { quotasOf } from '../../../protocol/policy/rules.ts'
import type { PolicyDocument } from '../../../protocol/policy-api.ts'
import { createKernel } from '../kernel/kernel.ts'
import { createNetwork, type Endpoint } from '../kernel/network.ts'
import { createPrng } from '../kernel/prng.ts'
import type { Checker, CreateChecker, HostFacts, Observation, ResourceFacts, WorldBounds, WorldDescription } from '../observation.ts'
import { createHistory } from '../history.ts'
import { type Config, type HostPlan, LONG_FAULTS_MS, percentOf } from './config.ts'
import { diskViewOf, hostFacts } from './facts.ts'
import { valueOf } from './plain.ts'
import { startFaults } from './faults.ts'
import { createMachine, type Machine } from './machine.ts'
import { createMalice } from './malice.ts'
import { startOperators } from './operators.ts'
import { KINDS } from './reconciler.ts'
import { documentOf, type Surroundings } from './surroundings.ts'

export interface Outcome {
  seed: number
  /** events that changed something */
  events: number
  sites: number
  /** clusters that asked for something of a host that another asked as well, while both lived */
  competing: number
  faults: Record<string, number>
  convergedMs: number
  /** steps of the kernel, and true time at the end */
  steps: number
  endMs: number
  violation: { invariant: string, message: string } | null
}

/** The policy of every site: later ones have the higher priority, and all have agreed to the shortest notice. */
function policyOf ({ nodes, vcpus, memoryMib, diskMib, volumes, bandwidthMbit }: Required<ResourceFacts>, sites: readonly string[]): PolicyDocument {
  const quota = { nodes, vcpus, memory: memoryMib, disk: diskMib, volumes, bandwidth: bandwidthMbit }
  return { default: { quota }, sites: Object.fromEntries(sites.map((site, i) => [site, { quota, priority: Math.min(99, 10 * i), preempt: { notice: '1m' } }])) }
}

export interface WorldOptions {
  config: Config
  createChecker: CreateChecker
  /** gets a line for everything that happens; absent: nothing is written */
  trace?: (trueMs: number, host: string, text: string) => void
}

/** As the protocol states them, not as the product has them: whoever changes one there is noticed. */
const STATED = {
  holdTtlMs: 30_000, activateTtlMs: 120_000, endGuardMs: 60_000, idQuarantineMs: 120_000, keepAliveMs: 20_000, masterlessMs: 90_000,
  /** crystal and slew, 500 ppm each */
  clockRate: 0.001
} as const
/** Everything is over by then after the faults: the longest term, T_activate, guards, and tries in between. */
export const CONVERGE_MS = 600_000
/** For what comes when everything is long over. */
const AFTERWARDS_MS = 30_000
const NO_LOG = { trace () {}, debug () {}, info () {}, warn () {}, error () {}, fatal () {}, child: () => NO_LOG, level: 'silent' }
const AWAY_MS = [60_000, 240_000] as const
/** Longer than a master may be silent. */
const FOR_LONG_MS = [125_000, 240_000] as const
const RESTART_MS: Record<'kill' | 'power', readonly [number, number]> = { kill: [100, 15_000], power: [3_000, 60_000] }

export async function runWorld ({ config, createChecker, trace }: WorldOptions): Promise<Outcome> {
  const root = createPrng(config.seed)
  const kernel = createKernel()
  const ids = root.fork('ids')
  const faultChance = root.fork('faults')
  const restartChance = root.fork('restarts')
  const writeChance = root.fork('writes')
  const viewChance = root.fork('views')
  const plans = new Map<string, HostPlan>(config.sites.flatMap(site => site.hosts.map(host => [host.host, host])))
  const malicious = new Set(config.sites.filter(site => site.malicious).map(site => site.site))
  const machines = new Map<string, Machine>()
  const endpoints = new Map<string, Endpoint>()
  const faults: Record<string, number> = {}
  const jumped = new Map<string, number>()
  const holders = new Map<string, Set<string>>()
  const competing = new Set<string>()
  let activity = 0
  let events = 0
  let healed = false
  let healedMs = 0
  const found: { violation: Outcome['violation'] } = { violation: null }
  const isBroken = (): boolean => found.violation !== null
  const wan = new Map<string, number>()

  const fault = (kind: string): void => { faults[kind] = (faults[kind] ?? 0) + 1 }
  const history = createHistory()
  const note = (host: string, text: string): void => { trace?.(kernel.now(), host, text) }

  function broken (error: unknown): void {
    if (isBroken()) return
    const named = error as { invariant?: string }
    found.violation = { invariant: named.invariant ?? 'the simulator or the product fell over', message: error instanceof Error ? named.invariant === undefined ? error.stack ?? error.message : error.message : String(error) }
    kernel.stop()
  }

  function observe (observation: Observation): void {
    if (isBroken()) return
    if (trace !== undefined) for (const { host, text } of history.lines(observation)) note(host, text)
    try {
      checker.observe(observation)
    } catch (error) {
      broken(error)
    }
  }

  const network = createNetwork({
    kernel, chance: root.fork('network'), endpoints,
    latencyMs (from, to) {
      if (from.site === to.site) return netChance.between(0.2, 1)
      const key = from.site < to.site ? `${from.site}${to.site}` : `${to.site}${from.site}`
      let base = wan.get(key)
      if (base === undefined) wan.set(key, base = viewChance.between(0.3, 1.7) * config.wanMs)
      return base * netChance.between(0.95, 1.2)
    },
    wire: {
      called: call => { malice.overheard(call); observe({ type: 'call', trueMs: kernel.now(), id: call.id, from: call.from.host, to: call.to.host, caller: call.caller, method: call.method, request: call.request, forged: call.forged }) },
      arrived (call, copy) {
        activity++
        observe({ type: 'arrive', trueMs: kernel.now(), id: call.id, copy, from: call.from.host, to: call.to.host, method: call.method })
        if (call.method !== 'hold') return
        const clusters = holders.get(call.to.host) ?? new Set<string>()
        holders.set(call.to.host, clusters.add((call.request as { clusterId: string }).clusterId))
        if (clusters.size > 1) for (const id of clusters) competing.add(id)
      },
      answered (call, copy, reply, error) {
        activity++
        const asker = machines.get(call.from.host)
        if (call.method === 'request' && error === null && asker !== undefined) inject.diskFails(asker)
        if ((call.method === 'claim' || call.method === 'request') && error === null) malice.overtaken(call)
        if (call.method === 'claim' && error === null) malice.late((call.request as { clusterId: string }).clusterId)
        if (call.method === 'hostActivate' && error === null && !call.forged && (call.request as { document: { version: number } }).document.version > 1) malice.outdated((call.request as { clusterId: string }).clusterId, call.to.peer)
        // What it says follows from what it has: that is told first.
        const machine = machines.get(call.to.host)
        if (machine !== undefined) tellHost(machine)
        observe({
          type: 'answer', trueMs: kernel.now(), id: call.id, copy, from: call.to.host, to: call.from.host, method: call.method, request: call.request, caller: call.caller,
          reply, error: error === null ? null : { code: error.code, message: error.message }
        })
      },
      settled () { activity++ },
      fault
    }
  })
  const netChance = root.fork('latency')
  const noticed = new Map<string, string>()
  /** A notice is on the disk: from then on the checker knows why a gateway will release what nobody has given up. */
  function tellNotice (machine: Machine, { clusterId, notice }: GatewayRecord): void {
    const key = `${machine.host} ${clusterId}`
    const known = noticed.get(key)
    if (notice === undefined) {
      if (known === undefined) return
      noticed.delete(key)
      fault('notice withdrawn')
      observe({ type: 'operator', trueMs: kernel.now(), host: machine.host, action: 'withdraw', clusterId, detail: '', refused: '' })
      return
    }
    const now = `${notice.endMs} ${notice.seq ?? 0} ${notice.state ?? 'given'} ${notice.beneficiary ?? ''}`
    if (known === now) return
    noticed.set(key, now)
    if (known === undefined) fault('notice')
    else if ((notice.beneficiary ?? '') === '' && !known.endsWith(' ')) fault('notice that stays')
    observe({ type: 'operator', trueMs: kernel.now(), host: machine.host, action: 'notice', clusterId, detail: now, refused: '' })
  }
  const lending = new Set<string>()
  /** No fault, but counted with them: whether schedules come to it is seen. */
  function countLent ({ clusterId, state, offer, amendment }: GatewayRecord): void {
    if (state !== 'active') return
    for (const held of allHeld({ offer, amendment })) {
      if (!isLent(held, offer.gateway) || lending.has(`${clusterId} ${held.leaseId}`)) continue
      lending.add(`${clusterId} ${held.leaseId}`)
      fault('share lent to another gateway')
    }
  }
  const policy = config.quota === null ? null : policyOf(config.quota, config.sites.map(({ site }) => site))
  const percentOfPlan = ({ site, host }: HostPlan): number => config.sites.filter(one => one.site === site).map(one => percentOf(one, host))[0] ?? 0

  const siteHosts = (site: string): SiteHost[] => [...machines.values()].filter(machine => machine.site === site).map(({ plan, life, cordoned }) => ({
    host: plan.host, roles: plan.roles, peer: plan.peer, underlayAddress: plan.underlayAddress, cordoned: cordoned && !config.staleViews,
    free: config.staleViews || life?.ready !== true ? plan.capacity : life.ledger.free()
  }))

  const around: Surroundings = {
    config, network, machines, plans,
    events: { add (_type, message) { if (trace !== undefined) note('', message) }, list: () => [], subscribe: () => () => undefined },
    log: NO_LOG as never,
    uuid: () => ids.uuid(),
    siteHosts,
    calendarOf: site => ({
      site, hosts: [...machines.values()].filter(machine => machine.site === site).flatMap(({ plan, life, cordoned }) => life?.ready !== true || cordoned ? []
        : [{ host: plan.host, roles: plan.roles, steps: new Timeline(plan.capacity, hostBookings(life.ledger.state())).steps(life.ledger.now()).map(({ atMs, free }) => ({ atMs, free: clampToZero(free) })) }])
    }),
    knownSites (viewer) {
      return config.sites.flatMap(({ site, hosts }): KnownSite[] => {
        const gateways = hosts.filter(host => host.gateway)
        // Each viewer goes to one of a site's gateways; to its own site's it may go to another's than its own.
        const gateway = gateways[(viewer.host.charCodeAt(2) + site.charCodeAt(1) + config.seed) % gateways.length]
        if (gateway === undefined) return []
        const seen: SiteHost[] = malicious.has(site)
          ? hosts.map(host => ({ ...host, free: host.capacity, cordoned: false }))
          : siteHosts(site)
        return [{ ...siteCapacityOf(site, seen), peer: gateway.peer, gatewayHost: gateway.host }]
      })
    },
    policy,
    quotasOf: plan => policy === null || !plan.gateway ? new Map() : quotasOf(policy, plan.site, percentOfPlan(plan)),
    prepare: (plan, record) => Promise.resolve().then(() => documentOf(plan, record)),
    targets: machine => [...machines.values()].filter(other => other.site === machine.site && other !== machine && other.process() !== null).map(({ host, peer, gateway }) => ({ host, peer, gateway })),
    observe, note, fault,
    activity () { activity++ },
    operated (action, refused) { if (refused === '') fault(`operator: ${action}`) },
    healed: () => healed,
    crash (machine, how, at) {
      fault(at.endsWith('a write') ? `${how === 'kill' ? 'kill' : 'power loss'} ${at}` : how === 'kill' ? 'kill' : 'power loss')
      activity++
      let lost = 0
      if (how === 'kill') machine.kill()
      else lost = machine.powerOff()
      if (lost > 0) fault('batches lost')
      observe({ type: 'crash', trueMs: kernel.now(), host: machine.host, how, at, lostBatches: lost })
      // Now and then nobody starts it again before what runs has ended.
      const [least, most] = at === 'for long' ? FOR_LONG_MS : how === 'kill' && config.faultMs > LONG_FAULTS_MS && restartChance.chance(0.4) ? AWAY_MS : RESTART_MS[how]
      kernel.after(restartChance.between(least, most), () => { if (how === 'kill') machine.start(); else if (!machine.powered) machine.powerOn() })
    },
    durable (machine, operations) {
      activity++
      // Records of gateway and master: their loops may have to begin.
      machine.wake()
      for (const operation of operations) {
        if (operation.type === 'put' && operation.key.startsWith('offer/')) {
          const record = valueOf<GatewayRecord>(operation.key, operation.value) as GatewayRecord
          tellNotice(machine, record)
          countLent(record)
        }
        if (!operation.key.startsWith('cluster/')) continue
        const record = operation.type === 'put' ? fromStored(valueOf<StoredRecord>(operation.key, operation.value) as StoredRecord) : null
        observe({ type: 'decision', trueMs: kernel.now(), site: machine.site, host: machine.host, clusterId: operation.key.slice('cluster/'.length), record })
      }
    }
  }

  for (const site of config.sites) {
    if (site.malicious) continue
    for (const plan of site.hosts) {
      const machine = createMachine({
        kernel, chance: root.fork(`machine ${plan.host}`), plan, around,
        crashAtWrite () {
          if (healed) return null
          const { kill, power } = config.crashAtWrite
          if (kill === 0 && power === 0) return null
          return writeChance.chance(kill) ? 'kill' : writeChance.chance(power) ? 'power' : null
        }
      })
      machines.set(plan.host, machine)
      endpoints.set(plan.peer, machine)
    }
  }

  const bounds: WorldBounds = { ...STATED, clockGrainMs: 5, helperDelayMs: config.helperMs + config.helperHoldUpMs, tickMs: 5_000, convergeMs: CONVERGE_MS }
  const description: WorldDescription = {
    seed: config.seed, bounds, disks: diskViewOf(machines),
    sites: config.sites.map(({ site, malicious: bad, hosts }) => ({ site, malicious: bad, hosts: hosts.map(({ host, peer, gateway, capacity, slice, ratePpm }) => ({ site, host, peer, gateway, capacity, slice, ratePpm })) }))
  }
  const checker: Checker = createChecker(description)
  // Worked out by themselves, not by what is under test.
  const sharesOf = (plan: HostPlan, whole: Required<ResourceFacts>): HostFacts['quotas'] => {
    const share = (of: number): number => Math.floor(of * percentOfPlan(plan) / 100)
    const resources: ResourceFacts = { vcpus: share(whole.vcpus), memoryMib: share(whole.memoryMib), diskMib: share(whole.diskMib), volumes: share(whole.volumes), bandwidthMbit: share(whole.bandwidthMbit), nodes: share(whole.nodes) }
    return config.sites.filter(({ site }) => site !== plan.site).map(({ site }) => ({ masterSite: site, resources, whole }))
  }
  const quotaFacts = new Map<string, HostFacts['quotas']>([...plans.values()].map(plan => [plan.host, config.quota === null || !plan.gateway ? [] : sharesOf(plan, config.quota)]))

  const toldFacts = new Map<Machine, HostFacts>()

  function tellHost (machine: Machine): void {
    if (!machine.dirty) return
    const before = machine.ledgerDirty ? null : toldFacts.get(machine) ?? null
    machine.dirty = machine.ledgerDirty = false
    const facts = hostFacts(machine, kernel, quotaFacts.get(machine.host) ?? [], jumped.get(machine.host) ?? 0, before)
    toldFacts.set(machine, facts)
    observe({ type: 'host', trueMs: kernel.now(), facts })
    machine.wake()
  }
  function tellHosts (): void {
    for (const machine of machines.values()) tellHost(machine)
  }

  let counted = 0
  kernel.afterEach(() => {
    if (activity !== counted) { events++; counted = activity }
    tellHosts()
    if (!healed && events >= config.faultEvents && kernel.now() >= config.faultMs) kernel.stop()
  })

  const malice = createMalice({ kernel, chance: root.fork('malice'), config, around, endpoints })
  for (const machine of machines.values()) machine.powerOn()
  network.weather = { ...config.weather }
  startOperators(kernel, root.fork('operators'), config, around, [...machines.values()])
  const inject = startFaults({
    kernel, chance: faultChance, config, around, machines: [...machines.values()], malice: () => { malice.act() },
    jumped (host, byMs) { jumped.set(host, (jumped.get(host) ?? 0) + Math.abs(byMs)) }
  })

  function heal (): void {
    healed = true
    healedMs = kernel.now()
    network.heal()
    for (const machine of machines.values()) {
      machine.disk.fail(null)
      machine.clock.settle()
      machine.cordoned = false
      machine.dirty = machine.ledgerDirty = true
      if (!machine.powered) machine.powerOn()
      machine.start()
    }
    observe({ type: 'heal', trueMs: kernel.now() })
  }

  /** Nothing is on its way any more; what the checker makes of it is its own. */
  function settled (): boolean {
    for (const { life, helper } of machines.values()) {
      if (life?.ready !== true || life.ledger.failure() !== null) return false
      for (const lease of life.ledger.state().leases.values()) if (lease.state === 'held' || lease.state === 'committed' || (lease.state === 'ended' && !lease.vacated)) return false
      if (helper.records().some(record => record.state === 'revoking')) return false
      const runs = new Set(helper.running().map(one => one.resource))
      const wanted = life.lessor.desired().filter(object => KINDS.has(object.kind))
      if (wanted.length !== runs.size || wanted.some(object => !runs.has(resourceOf(object)))) return false
      // A question that a restart has interrupted is asked again for a while.
      if (life.gateway?.list().some(record => record.state === 'asking') === true) return false
      for (const record of life.negotiator?.records() ?? []) {
        if (!['active', 'ended', 'failed', 'superseded'].includes(record.state) || (record.state !== 'superseded' && record.state !== 'active' && record.asked.length > 0) || record.amendment !== null || record.dropped.length > 0) return false
      }
    }
    return true
  }

  const outcome = (convergedMs: number): Outcome =>
    ({ seed: config.seed, events, sites: config.sites.length, competing: competing.size, faults, convergedMs, steps: kernel.steps(), endMs: kernel.now(), violation: found.violation })
  try {
    await kernel.run(config.faultMsMax)
    if (!isBroken()) {
      heal()
      tellHosts()
      for (let wait = 0; wait < CONVERGE_MS && !isBroken(); wait += 5_000) {
        await kernel.run(healedMs + wait)
        if (wait >= 5_000 && settled()) break
      }
    }
    if (!isBroken() && [...machines.values()].some(machine => machine.overdue())) await kernel.run(kernel.now() + 1_000)
    if (!isBroken()) {
      try {
        const { convergedMs } = checker.end(kernel.now())
        if (config.afterMs > 0) {
          await kernel.run(kernel.now() + config.afterMs)
          for (const machine of machines.values()) kernel.after(0, () => { void machine.late() })
          await kernel.run(kernel.now() + AFTERWARDS_MS)
        }
        return outcome(convergedMs)
      } catch (error) {
        broken(error)
      }
    }
  } catch (error) {
    broken(error)
  }
  return outcome(0)
}
