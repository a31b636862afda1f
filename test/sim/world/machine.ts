/**
 * One host of the world: clocks, disks, helper and engine, which outlive its agent, and the lives of
 * the agent, which is the product's own code from the ledger to the master.
 */
import { createPreempt } from '../../../protocol/policy/preempt.ts'
import { createCalendar, type Calendar } from '../../../agent/calendar/calendar.ts'
import { createGateway, type Gateway } from '../../../agent/gateway/gateway.ts'
import { createQuotaShares } from '../../../agent/policy/shares.ts'
import { createLessor, type Lessor } from '../../../agent/lessor/lessor.ts'
import { createAdoption, type Adoption } from '../../../agent/master/adopt.ts'
import { createCopies, type Copies, type Copy } from '../../../agent/master/copies.ts'
import { createNegotiator, type Negotiator } from '../../../agent/master/negotiator.ts'
import type { Activate, CallPeer } from '../../../agent/peers.ts'
import { MusubiError } from '../../../protocol/core/errors.ts'
import { MASTERLESS_MS } from '../../../protocol/core/limits.ts'
import { LOCAL } from '../../../protocol/core/network/local.ts'
import type { MasterRecord } from '../../../protocol/core/master/record.ts'
import { createLevelStore } from '../../../store/level.ts'
import { openLedger, type Ledger } from '../../../store/ledger.ts'
import type { Store } from '../../../store/store.ts'
import { createHostClock, type HostClock } from '../kernel/clock.ts'
import { createDisk, type Disk, type Operation, type WritePoint } from '../kernel/disk.ts'
import type { Kernel, Timer } from '../kernel/kernel.ts'
import type { Endpoint, Process } from '../kernel/network.ts'
import type { Prng } from '../kernel/prng.ts'
import type { Caller } from '../observation.ts'
import type { HostPlan } from './config.ts'
import { createHelper, type Command, type Helper, type Thing } from './engine.ts'
import { createSimReconciler, type SimReconciler } from './reconciler.ts'
import { plainCodec } from './plain.ts'
import { type Surroundings, gatewayFacts, holderOf, signGrant, truthFor } from './surroundings.ts'

/** One start of a host's agent, until it stops or dies. */
export interface Life extends Process {
  ledger: Ledger
  lessor: Lessor
  reconciler: SimReconciler
  gateway: Gateway | null
  negotiator: Negotiator | null
  adoption: Adoption | null
  copies: Copies
  calendar: Calendar
  store: Store
  /** everything is loaded: it answers */
  ready: boolean
}

export interface Machine extends Endpoint {
  readonly plan: HostPlan
  readonly clock: HostClock
  readonly disk: Disk
  readonly helper: Helper
  life: Life | null
  powered: boolean
  bootId: string
  cordoned: boolean
  /** something of it has changed since it was last told */
  dirty: boolean
  /** of that, something else than engine and fence */
  ledgerDirty: boolean
  powerOn (): void
  /** the agent's process dies; the rest goes on */
  kill (): void
  /** the machine is without power @returns batches lost */
  powerOff (): number
  /** begins a new life of the agent */
  start (): void
  /** looks whether its loops have something to do, and when */
  wake (): void
  /** the first commands that its agents have given */
  readonly granted: Array<Extract<Command, { op: 'grant' }>>
  /** One of them, for a lease that lasts, comes when everything is long over, to a helper that was started anew. */
  late (): Promise<void>
  /** A command that nobody has seen yet comes when its lease is over. @returns whether there was any */
  overdue (): boolean
}

const GATEWAY_TICK_MS = 5_000
const MASTER_TICK_MS = 1_000
/** Nothing but keep-alives is due. */
const LEADING_TICK_MS = 2_500
const VACATE_MS = 1_000
const FAILED_TICK_MS = 1_000
const LATE_COMMANDS = 1
const LATE_MS = 3_600_000
/** Well beyond the guard. */
const OVERDUE_MS = 300_000
const forbidden = (caller: Caller, what: string): MusubiError => new MusubiError('FORBIDDEN', `${caller.host} of ${caller.site ?? 'the coordinators'} may not ${what} here`)

export interface MachineOptions {
  kernel: Kernel
  chance: Prng
  plan: HostPlan
  around: Surroundings
  /** asked at each point of each write of the agent's disk: 'kill' or 'power' when it dies there */
  crashAtWrite: (machine: Machine, point: WritePoint) => 'kill' | 'power' | null
}

export function createMachine ({ kernel, chance, plan, around, crashAtWrite }: MachineOptions): Machine {
  const { config } = around
  const clock = createHostClock(kernel, plan.ratePpm, plan.disciplined)
  const diskChance = chance.fork('disk')
  const latency = (sync: boolean): number => sync ? diskChance.between(0.3, 1.7) * config.syncMs : 0.05
  const touch = (): void => { machine.dirty = machine.ledgerDirty = true }

  const disk = createDisk({
    kernel, chance: diskChance, latencyMs: latency,
    crashAt (point) {
      const how = crashAtWrite(machine, point)
      if (how === null) return false
      around.crash(machine, how, `${point} a write`)
      return true
    },
    onDurable: operations => { around.durable(machine, operations) }
  })
  const helperDisk = createDisk({ kernel, chance: diskChance.fork('helper'), latencyMs: sync => latency(sync) / 2, crashAt: () => false, onDurable: () => undefined })
  const helper = createHelper({
    kernel, chance: chance.fork('helper'), clock, disk: helperDisk, ...(config.realCodec ? {} : { codec: plainCodec }),
    changed: what => { machine.dirty = true; around.activity(); around.note(plan.host, what) },
    worked: (command, resource, clusterId, counter, why) => {
      around.observe({ type: 'helper', trueMs: kernel.now(), host: plan.host, command, resource, clusterId, counter, accepted: why === '', why })
    }
  })
  const helperChance = chance.fork('command')

  const machine: Machine = {
    plan, clock, disk, helper, peer: plan.peer, host: plan.host, site: plan.site, gateway: plan.gateway,
    life: null, powered: false, bootId: '', cordoned: false, dirty: true, ledgerDirty: true,
    process: () => machine.life?.ready === true ? machine.life : null,
    powerOn () {
      machine.powered = true
      machine.bootId = `boot-${plan.host}-${chance.hex(6)}`
      clock.reboot()
      touch()
      void helper.powerOn()
      around.observe({ type: 'boot', trueMs: kernel.now(), host: plan.host, bootId: machine.bootId, newBoot: true })
      machine.start()
    },
    kill () {
      endLife()
      disk.killed()
    },
    powerOff () {
      endLife()
      machine.powered = false
      helper.powerOff()
      helperDisk.lostPower()
      return disk.lostPower()
    },
    start () {
      if (machine.powered && machine.life === null) void startLife()
    },
    wake,
    granted: [],
    overdue () {
      const { life } = machine
      if (life?.ready !== true) return false
      const untilMs = life.ledger.now() - OVERDUE_MS
      const lease = [...life.ledger.state().leases.values()].find(one => one.kind === 'node' && one.activatedMs > 0 && one.endMs < untilMs)
      if (lease === undefined) return false
      const resource = `domain ${lease.clusterId.slice(0, 8)}.overdue`
      const command = { op: 'grant' as const, resource, claim: { clusterId: lease.clusterId, counter: life.ledger.state().counter, endMs: lease.endMs }, thing: { kind: 'domain', leaseId: lease.id, resources: { ...lease.resources }, segmentId: 0 } }
      told(command)
      helper.work(command, life.ledger.now()).catch(() => undefined)
      return true
    },
    async late () {
      const [command] = machine.granted
      if (command === undefined || helper.running().length > 0) return
      await helper.tick()
      helper.powerOff()
      await helper.powerOn()
      await helper.work({ ...command, claim: { ...command.claim, endMs: clock.wall() + LATE_MS } }, clock.wall()).catch(() => undefined)
    }
  }

  function endLife (): void {
    touch()
    const { life } = machine
    if (life !== null) life.dead = () => true
    machine.life = null
  }

  async function startLife (): Promise<void> {
    const life = { dead: () => false, ready: false, gateway: null, negotiator: null, adoption: null } as unknown as Life
    // Replaced when it dies, so closures ask through the object.
    const isDead = (): boolean => life.dead()
    machine.life = life
    touch()
    const { host, site } = plan
    const now = (): number => life.ledger.now()
    try {
      life.store = createLevelStore(disk.attach(() => !isDead()), host, config.realCodec ? undefined : plainCodec)
      life.ledger = await openLedger({
        store: life.store, clock: { wall: () => clock.wall(), sinceBoot: () => clock.monotonic(), bootId: machine.bootId }, host, capacity: { ...plan.capacity },
        ...(plan.slice === null ? {} : { slice: plan.slice }), quotas: around.quotasOf(plan)
      })
      if (isDead()) return
      const { events, log } = around
      const truth = truthFor(around, machine)
      const cordon = { check: () => { if (machine.cordoned) throw new MusubiError('CORDONED', `host ${host} takes no new leases`, { retryable: true }) } }
      life.reconciler = createSimReconciler({
        kernel, helper, dead: isDead, desired: () => life.lessor.desired(), tenancy: () => life.lessor.tenancy(), ledgerMs: now,
        thingOf: (resource, clusterId) => thingOf(life, resource, clusterId),
        delayMs: () => delayOfCommand(), sent: command => { told(command) }
      })
      life.lessor = createLessor({
        site, host, ledger: life.ledger, reconciler: () => life.reconciler, details: { of: () => Promise.resolve({}) }, events, now, monotonic: () => clock.monotonic(),
        sleep: ms => new Promise(resolve => { kernel.after(ms, () => { if (!isDead()) resolve() }) }),
        truth, signGrant: grant => signGrant(plan, grant), cordon, fence: life.reconciler.fence
      })
      const call: CallPeer = ((peer: string, method: string, request: unknown, options?: { deadlineMs?: number }) =>
        around.network.call(machine, isDead, peer, method, request, options?.deadlineMs ?? 10_000)) as CallPeer
      life.calendar = createCalendar({ site, peer: plan.peer, ledger: life.ledger, call, refusal: () => machine.cordoned ? 'cordoned' : null, hosts: () => [], lends: plan.gateway })
      life.copies = createCopies({ call, table: life.ledger.table<Copy>('copy'), targets: () => around.targets(machine), now, log })
      if (plan.gateway) {
        const newId = (): string => around.uuid()
        life.gateway = createGateway({
          site, call, facts: () => Promise.resolve(gatewayFacts(plan)), siteHosts: () => around.siteHosts(site), newId, now, store: life.store, events, log, cordon,
          quota: masterSite => config.quota !== null && masterSite !== site,
          shares: createQuotaShares({ ledger: () => life.ledger.state(), now, call, gateways: () => [...around.plans.values()].filter(one => one.site === site && one.gateway && one !== plan) }),
          ...around.policy === null || !config.notices ? {} : { preempt: createPreempt(() => around.policy ?? {}, site, now), calendar: { site: () => Promise.resolve(around.calendarOf(site)) } }, holderOf: (grant, about) => holderOf(around, grant, about)
        })
        life.negotiator = createNegotiator({
          site, call, sites: () => around.knownSites(plan), store: life.store, now, newId,
          prepare: record => around.prepare(plan, record), copies: record => life.copies.send(record), truth, log, events
        })
        const { negotiator, gateway } = life
        life.adoption = createAdoption({
          site, peer: plan.peer, call, copies: life.copies, known: id => negotiator.get(id), own: () => negotiator.records(), adopt: record => negotiator.adopt(record),
          heardMs: id => gateway.heardMs(id) ?? life.ledger.heardMs(id), now, jitterMs: () => chance.between(0, MASTERLESS_MS / 4), events, log
        })
        await life.gateway.start()
        await life.negotiator.start()
      }
    } catch (error) {
      if (isDead()) return
      around.note(host, `cannot start: ${error instanceof Error ? error.message : String(error)}`)
      if (machine.life === life) machine.life = null
      life.dead = () => true
      kernel.after(2_000, () => { machine.start() })
      return
    }
    if (isDead()) return
    life.serve = (method, request, caller) => serve(life, method, request, caller)
    life.ledger.onChange(touch)
    life.ledger.onFailure(error => { around.note(host, `ledger failed: ${error.message}`); touch() })
    life.ledger.onRecovered(() => { around.note(host, 'ledger recovered'); touch() })
    life.ready = true
    touch()
    around.activity()
    around.observe({ type: 'boot', trueMs: kernel.now(), host, bootId: machine.bootId, newBoot: false })
    life.reconciler.trigger()
    wake()
    beat(life)
  }

  function told (command: Command): void {
    if (command.op === 'gone') return
    if (command.op === 'grant' && machine.granted.length < LATE_COMMANDS) machine.granted.push(command)
    const claim = command.op === 'grant' ? command.claim : { clusterId: command.clusterId, counter: command.counter, endMs: 0 }
    around.observe({ type: 'command', trueMs: kernel.now(), host: plan.host, command: command.op, resource: command.resource, ...claim })
  }

  function delayOfCommand (): number {
    const usual = helperChance.between(0.1, 1) * config.helperMs
    if (around.healed() || config.helperHoldUpMs === 0 || !helperChance.chance(0.1)) return usual
    around.fault('command held up')
    return usual + helperChance.between(0, config.helperHoldUpMs)
  }

  /** What a resource takes, by the lease behind it as this process knows it now. */
  function thingOf (life: Life, resource: string, clusterId: string): Thing {
    const space = resource.indexOf(' ')
    const kind = resource.slice(0, space)
    const short = resource.slice(resource.indexOf('.') + 1)
    const leaseKind = kind === 'domain' ? 'node' : kind
    const lease = life.ledger.leases(clusterId).find(one => one.kind === leaseKind && (one.name === short || leaseKind === 'frontend') && one.state !== 'ended')
    const document = life.ledger.documents.get(clusterId)?.document
    const member = kind === 'segment' ? document?.sites.find(one => one.site === plan.site) : undefined
    const segmentId = (short === LOCAL ? member?.localSegmentId : member?.segmentId) ?? 0
    return {
      kind, leaseId: lease?.id ?? '', segmentId,
      resources: lease === undefined ? { vcpus: 0, memoryMib: 0, diskMib: 0, volumes: 0, bandwidthMbit: 0 } : { ...lease.resources }
    }
  }

  /** Which peer may ask what, as agent/serve.ts has it. */
  function serve (life: Life, method: string, request: unknown, caller: Caller): Promise<unknown> {
    const { lessor, gateway } = life
    const ofHost = hostMethods[method]
    if (ofHost !== undefined) {
      if (!caller.gateway || caller.site !== plan.site) return Promise.reject(forbidden(caller, 'change leases of a host'))
      return ofHost(lessor, request, caller)
    }
    if (method === 'copy') {
      if (!caller.gateway || caller.site !== plan.site) return Promise.reject(forbidden(caller, 'leave copies'))
      return life.copies.keep(request as Parameters<Copies['keep']>[0], caller)
    }
    if (method === 'hostCalendar') {
      if (!caller.gateway || caller.site !== plan.site) return Promise.reject(forbidden(caller, 'read the calendar of a host'))
      const { leases, quotaOf } = request as { leases: boolean, quotaOf: string }
      return Promise.resolve(life.calendar.own(leases, quotaOf))
    }
    const ofGateway = gatewayMethods[method]
    if (gateway === null || ofGateway === undefined) return Promise.reject(new MusubiError('NOT_SERVED', `${plan.host} does not serve ${method}`))
    if (!caller.gateway) return Promise.reject(forbidden(caller, 'negotiate'))
    return ofGateway(gateway, request, caller)
  }

  let due: Timer | null = null
  let dueAt = Number.POSITIVE_INFINITY
  let vacating = false

  const tickMs = config.tickMs
  const phaseMs = chance.fork('tick').unit() * tickMs
  const nextTick = (dueMs: number): number => tickMs === 0 ? dueMs : Math.ceil((dueMs - phaseMs) / tickMs) * tickMs + phaseMs

  /** The loops of agent/agent.ts, woken when something is due instead of every second. */
  function wake (): void {
    const { life } = machine
    if (life?.ready !== true) return
    const { ledger } = life
    if (beating !== life) beat(life)
    const failed = ledger.failure() !== null
    const at = failed ? kernel.now() + FAILED_TICK_MS : ledger.nextDueMs() === Number.POSITIVE_INFINITY ? Number.POSITIVE_INFINITY : nextTick(kernel.now() + Math.max(1, ledger.nextDueMs() - ledger.now()))
    if (at < dueAt || due === null) {
      if (due !== null) due.cancelled = true
      due = null
      dueAt = at
      if (at !== Number.POSITIVE_INFINITY) {
        due = kernel.at(at, () => {
          due = null
          dueAt = Number.POSITIVE_INFINITY
          if (machine.life !== life) { wake(); return }
          void life.lessor.tick().catch(() => undefined).then(() => { if (!life.dead()) wake() })
        })
      }
    }
    if (!vacating && needsVacating(life)) {
      vacating = true
      kernel.after(VACATE_MS, () => {
        if (machine.life !== life) { vacating = false; wake(); return }
        void life.lessor.vacate().catch(() => undefined).then(() => {
          vacating = false
          if (!life.dead()) wake()
        })
        // A pass that dies with its process never comes back.
        if (life.dead()) vacating = false
      })
    }
  }

  function needsVacating ({ ledger }: Life): boolean {
    for (const lease of ledger.state().leases.values()) if (lease.state === 'ended' && !lease.vacated) return true
    return ledger.documents.list().some(({ document }) => ['ended', ''].includes(ledger.usageState(document.id)))
  }

  /** Loops of gateway and master; where nothing is there to be looked after they rest until something is. */
  let beating: Life | null = null
  function beat (life: Life): void {
    const { gateway, negotiator, adoption, copies } = life
    if (gateway === null || negotiator === null || adoption === null) return
    const leads = negotiator.failure() !== null || negotiator.records().some(record => record.state === 'active')
    const busy = negotiator.failure() !== null || negotiator.records().some(isBusy)
    const lends = gateway.failure() !== null || gateway.list().length > 0
    const keeps = copies.list().length > 0
    if (!leads && !busy && !lends && !keeps) {
      beating = null
      return
    }
    beating = life
    kernel.after(busy ? MASTER_TICK_MS : leads ? LEADING_TICK_MS : GATEWAY_TICK_MS, () => {
      if (life.dead()) return
      if (leads || busy) void negotiator.tick().catch(() => undefined)
      if (lends && kernel.now() >= gatewayDueMs) {
        gatewayDueMs = kernel.now() + GATEWAY_TICK_MS
        void gateway.tick().catch(() => undefined)
      }
      if (keeps) {
        void adoption.tick().catch(() => undefined)
        void copies.tick().catch(() => undefined)
      }
      beat(life)
    })
  }
  let gatewayDueMs = 0
  return machine
}

/** Something is to be done soon, not only told now and then. */
const isBusy = ({ state, asked }: MasterRecord): boolean =>
  !['active', 'ended', 'superseded'].includes(state) && (state !== 'failed' || asked.length > 0)

type HostMethod = (lessor: Lessor, request: never, caller: Caller) => Promise<unknown>
const hostMethods = Object.assign(Object.create(null) as Record<string, HostMethod | undefined>, {
  hold: (lessor: Lessor, request: never, caller: Caller) => lessor.hold(request, caller.host),
  hostExtend: (lessor: Lessor, request: never) => lessor.extend(request),
  hostCurtail: (lessor: Lessor, request: never) => lessor.curtail(request),
  hostRestore: (lessor: Lessor, request: never) => lessor.restore(request),
  hostCommit: (lessor: Lessor, request: never) => lessor.commit(request),
  hostActivate: (lessor: Lessor, request: Activate) => lessor.activate(request),
  hostRelease: (lessor: Lessor, request: never) => lessor.release(request),
  hostKeepAlive: (lessor: Lessor, request: never) => lessor.keepAlive(request),
  hostStatus: (lessor: Lessor, request: { clusterId: string }) => lessor.status(request.clusterId),
  claim: (lessor: Lessor, request: never, caller: Caller) => lessor.claim(request, caller)
}) as Record<string, ((lessor: Lessor, request: unknown, caller: Caller) => Promise<unknown>) | undefined>

const gatewayMethods = Object.assign(Object.create(null) as object, {
  request: (gateway: Gateway, request: never, caller: Caller) => gateway.request(request, caller),
  extend: (gateway: Gateway, request: never, caller: Caller) => gateway.extend(request, caller),
  commit: (gateway: Gateway, request: never, caller: Caller) => gateway.commit(request, caller),
  activate: (gateway: Gateway, request: never, caller: Caller) => gateway.activate(request, caller),
  release: (gateway: Gateway, request: never, caller: Caller) => gateway.release(request, caller),
  keepAlive: (gateway: Gateway, request: never, caller: Caller) => gateway.keepAlive(request, caller),
  status: (gateway: Gateway, request: never, caller: Caller) => gateway.status(request, caller)
}) as Record<string, ((gateway: Gateway, request: unknown, caller: Caller) => Promise<unknown>) | undefined>

export type { Operation }
