/**
 * A whole federation in one process: real ledgers, lessors, reconcilers, gateways and masters; only
 * the network, the clock and the machines are pretended, so that each can be made to fail at will.
 */
import { createHash } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { pino } from 'pino'
import { createFakeDriver, createMemoryFakeStore, type FakeStore } from '../../agent/drivers/fake.ts'
import { createCalendar, type Calendar } from '../../agent/calendar/calendar.ts'
import { createTold, type Told } from '../../agent/calendar/told.ts'
import type { ImageFacts } from '../../agent/images/facts.ts'
import { createEventLog, type EventLog } from '../../agent/events.ts'
import { createGateway, type Gateway } from '../../agent/gateway/gateway.ts'
import { createLessor, type Lessor } from '../../agent/lessor/lessor.ts'
import { createQuotaShares } from '../../agent/policy/shares.ts'
import type { Builder } from '../../agent/master/build.ts'
import { createCopies, type Copies, type Copy } from '../../agent/master/copies.ts'
import { createMaster, type Master } from '../../agent/master/master.ts'
import { noProbe } from '../../agent/master/probe.ts'
import type { Caller, CallPeer } from '../../agent/peers.ts'
import { createReconciler, type Reconciler } from '../../agent/reconcile/reconciler.ts'
import { zero, type Resources } from '../../protocol/core/capacity.ts'
import { type ObjectKind, KIND_ORDER } from '../../protocol/core/desired.ts'
import { buildClusterDocument, uuidFrom } from '../../protocol/core/document.ts'
import { InvalidInputError, UnreachableError } from '../../protocol/core/errors.ts'
import type { SiteHost } from '../../protocol/core/gateway/events.ts'
import type { KnownSite } from '../../protocol/core/master/events.ts'
import { nextStartOf } from '../../protocol/core/lease/lease.ts'
import { documentSource } from '../../protocol/core/master/changes/growth.ts'
import type { EpochGrant } from '../../protocol/core/messages.ts'
import { siteCapacityOf } from '../../protocol/core/placement/site-capacity.ts'
import type { GatewayTruth, HostTruth } from '../../protocol/core/verify/document.ts'
import type { PolicyDocument } from '../../protocol/policy-api.ts'
import { lendingOf } from '../../protocol/policy/lending.ts'
import { checkPolicy } from '../../protocol/policy/rules.ts'
import type { MethodName } from '../../protocol/wire/codec.ts'
import { createMemoryStore } from '../../store/memory.ts'
import { openLedger, type Ledger } from '../../store/ledger.ts'
import type { Store, StoreOperation } from '../../store/store.ts'

export const silent = pino({ level: 'silent' })
const keyOf = (text: string): string => createHash('sha256').update(text).digest('base64')
const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex')

export interface HostPlan { site: string, host: string, roles: readonly string[], capacity: Resources }
/** `deliver` it, lose it before it arrives, or carry it out and lose the answer. */
export type Fate = 'deliver' | 'lose request' | 'lose reply'
export interface Message { from: string, to: string, method: MethodName, request: unknown }

/** One start of a host's agent, until it stops or dies. */
export interface Life {
  dead: () => boolean
  /** rejects when the process dies: what it had under way never ends */
  died: Promise<never>
  kill: () => void
  ledger: Ledger
  reconciler: Reconciler
  lessor: Lessor
  events: EventLog
  calendar: Calendar
  told: Told
  gateway: Gateway | null
  master: Master | null
  copies: Copies
}

export interface Machine extends HostPlan {
  peer: string
  underlayAddress: string
  /** the disk: outlives the process */
  disk: Store
  /** what "runs" on the machine: outlives the process too */
  objects: FakeStore
  /** stores of its caches that have outlived their clusters */
  retained: Array<{ owner: string, checked: boolean, untilMs: number, held: string[] }>
  /** what its site lends to whom, where it is a gateway */
  policy: PolicyDocument
  life: Life | null
  /** called before and after each write to the disk, with its keys */
  onWrite: (phase: 'before' | 'after', keys: readonly string[]) => void
  /** throws to make a driver fail */
  onDriver: (kind: ObjectKind, verb: string, name: string) => void
}

export interface FederationModel {
  clockMs: number
  readonly machines: ReadonlyMap<string, Machine>
  readonly calls: Message[]
  /** decides what happens to each message, also of a host to itself; a promise holds it up */
  fate: (message: Message) => Fate | Promise<Fate>
  /** what masters believe of sites and gateways of hosts; by default what the ledgers say */
  belief: Map<string, Resources>
  machine (host: string): Machine
  alive (host: string): Life
  master (host: string): Master
  start (host: string): Promise<Life>
  crash (host: string): void
  /** time passes on all clocks, and all hosts notice */
  pass (ms: number): Promise<void>
  /** live leases everywhere: `host kind name state` */
  leases (): string[]
  /** everything that runs on machines: `host kind name` */
  objects (): Promise<string[]>
  stop (): Promise<void>
}

type Handler = (request: unknown, caller: Caller) => Promise<unknown>
/** What a host is called by its gateway, and the lessor's word for it. */
const HOST_METHODS: Partial<Record<MethodName, string>> = {
  hold: 'hold', hostExtend: 'extend', hostCurtail: 'curtail', hostRestore: 'restore', hostCommit: 'commit', hostActivate: 'activate', hostRelease: 'release', hostKeepAlive: 'keepAlive', hostStatus: 'status', claim: 'claim'
}

const never = <T>(): Promise<T> => new Promise<T>(() => undefined)

/** A disk that a dead process writes to no more, and never hears from. */
function mortalStore (machine: Machine, life: Life): Store {
  const { disk } = machine
  const write = async (keys: readonly string[], work: () => Promise<void>): Promise<void> => {
    if (!life.dead()) machine.onWrite('before', keys)
    if (life.dead()) { await never(); return }
    await work()
    machine.onWrite('after', keys)
    if (life.dead()) await never()
  }
  const read = async <T>(work: () => Promise<T>): Promise<T> => {
    if (life.dead()) return await never<T>()
    const value = await work()
    return life.dead() ? await never<T>() : value
  }
  const keysOf = (operations: readonly StoreOperation[]): string[] => operations.map(o => o.key)
  return {
    get: <T>(key: string) => read(() => disk.get<T>(key)),
    read: <T>(key: string) => read(() => disk.read<T>(key)),
    put: (key, value, options) => write([key], () => disk.put(key, value, options)),
    delete: (key, options) => write([key], () => disk.delete(key, options)),
    batch: (operations, options) => write(keysOf(operations), () => disk.batch(operations, options)),
    iterate: (prefix, onDamaged) => disk.iterate(prefix, onDamaged),
    reopen: () => read(() => disk.reopen()),
    close: () => Promise.resolve()
  }
}

/** What a master adds to offers, without images and key files. */
/** The one that every cluster has. */
export const IMAGE: ImageFacts = { digest: `sha256:${sha256('image')}`, files: [{ sha256: sha256('kernel'), sizeBytes: 50_000_000 }, { sha256: sha256('root'), sizeBytes: 150_000_000 }] }

function memoryBuilder (machine: Machine): Builder {
  return {
    imageFor: () => Promise.resolve(IMAGE.digest),
    vniFor: (clusterId, taken) => {
      let vni = parseInt(sha256(clusterId).slice(0, 6), 16) || 1
      while (taken.has(vni)) vni++
      return vni
    },
    prepare (record) {
      const { spec, offers, version, previous } = documentSource(record)
      const secrets = spec.volumes.map(v => ({ name: v.name, user: `user-${record.id}.${v.name}`, secret: 'secret' }))
      const document = buildClusterDocument({
        id: record.id, name: record.name, spec, offers, masterSite: machine.site, masterPeer: machine.peer, vni: record.vni, nowMs: record.createdMs, startMs: record.startMs,
        endMs: record.endMs, epoch: record.epoch, version, previous, sshPublicKey: 'ssh-ed25519 AAAA', imageDigest: record.imageDigest, hash: sha256
      })
      return Promise.resolve({ document, secrets })
    },
    forget: () => Promise.resolve(),
    keyFile: () => ''
  }
}

/** Builds the machines; every agent is started. */
export async function startFederation (plans: readonly HostPlan[]): Promise<FederationModel> {
  const machines = new Map<string, Machine>(plans.map((plan, i) => [plan.host, {
    ...plan, peer: `peer-${plan.host}`, underlayAddress: `192.0.2.${i + 1}`, disk: createMemoryStore(), objects: createMemoryFakeStore(), policy: {}, retained: [], life: null,
    onWrite: () => undefined, onDriver: () => undefined
  }]))
  let ids = 0
  const begunMs = performance.now()
  const model: FederationModel = {
    clockMs: 1_800_000_000_000,
    machines, calls: [], fate: () => 'deliver', belief: new Map(),
    machine (host) {
      const machine = machines.get(host)
      if (machine === undefined) throw new Error(`no host ${host}`)
      return machine
    },
    alive (host) {
      const { life } = model.machine(host)
      if (life === null) throw new Error(`${host} does not run`)
      return life
    },
    master (host) {
      const { master } = model.alive(host)
      if (master === null) throw new Error(`${host} is no gateway`)
      return master
    },
    start: host => startAgent(model.machine(host)),
    crash (host) { model.machine(host).life?.kill() },
    async pass (ms) {
      model.clockMs += ms
      for (const { life } of machines.values()) {
        if (life === null) continue
        await Promise.race([(async () => { await life.lessor.tick(); await life.lessor.vacate(); await life.gateway?.tick(); await life.gateway?.swept() })(), life.died]).catch(() => undefined)
      }
    },
    leases: () => [...machines.values()].flatMap(({ host, life }) => life === null
      ? [`${host} is down`]
      : [...life.ledger.state().leases.values()].filter(l => l.state !== 'ended').map(l => `${host} ${l.kind} ${l.name} ${l.state}`)),
    async objects () {
      const lists = await Promise.all([...machines.values()].map(async m =>
        (await Promise.all(KIND_ORDER.map(async kind => (await m.objects.list(kind)).map(o => `${m.host} ${kind} ${o.name}`)))).flat()))
      return lists.flat()
    },
    async stop () {
      for (const { life } of machines.values()) {
        await life?.master?.stop()
        await life?.reconciler.stop()
        life?.kill()
      }
    }
  }

  function nextStart ({ life }: Machine): { nextStartMs?: number } {
    const nextStartMs = life === null ? null : nextStartOf(life.ledger.state())
    return nextStartMs === null ? {} : { nextStartMs }
  }
  const siteHosts = (site: string): SiteHost[] => [...machines.values()].filter(m => m.site === site).map(m => ({
    host: m.host, roles: m.roles, peer: m.peer, underlayAddress: m.underlayAddress, free: model.belief.get(m.host) ?? m.life?.ledger.free() ?? zero(), ...nextStart(m)
  }))
  /** One gateway of each site, of the own site oneself, as the directory gives them. */
  function knownSites (self: Machine): KnownSite[] {
    const gateways = [...machines.values()].filter(m => m.roles.includes('gateway'))
    return gateways.filter(m => m === self || (m.site !== self.site && gateways.find(one => one.site === m.site) === m)).map(m => ({ ...siteCapacityOf(m.site, siteHosts(m.site)), peer: m.peer, gatewayHost: m.host }))
  }

  async function deliver (to: Machine, from: Machine, method: MethodName, request: unknown): Promise<unknown> {
    const { life } = to
    if (life === null || life.dead()) throw new UnreachableError(`cannot reach ${to.site}/${to.host}`)
    const caller: Caller = { peerId: from.peer, site: from.site, host: from.host, gateway: from.roles.includes('gateway') }
    // By name, as the mesh finds them: who may call what is not what these tests are about.
    const handlers = (part: object | null): Record<string, Handler | undefined> => ({ ...part })
    const ofHost = HOST_METHODS[method]
    const handler = method === 'hostCalendar' ? ((r: { leases: boolean, quotaOf: string }) => Promise.resolve(life.calendar.own(r.leases, r.quotaOf))) as Handler : method === 'hold' ? ((r, c) => life.lessor.hold(r as never, c.host)) as Handler : method === 'calendar' ? ((r, c) => life.told.answer(r as never, c)) as Handler : method === 'copy' ? ((r, c) => life.copies.keep(r as never, c)) as Handler : ofHost === undefined ? handlers(life.gateway)[method] : handlers(life.lessor)[ofHost]
    if (handler === undefined) throw new Error(`${to.host} does not serve ${method}`)
    return structuredClone(await Promise.race([handler(ofHost === 'status' ? (request as { clusterId: string }).clusterId : request, caller), life.died]))
  }

  function callFrom (from: Machine, life: Life): CallPeer {
    const call = async (peer: string, method: MethodName, request: unknown): Promise<unknown> => {
      if (life.dead()) return await never()
      const to = [...machines.values()].find(m => m.peer === peer)
      if (to === undefined) throw new UnreachableError(`no peer ${peer}`)
      // As on the wire: both sides have a copy of their own.
      const message = { from: from.host, to: to.host, method, request: structuredClone(request) }
      model.calls.push(message)
      const fate = await model.fate(message)
      const lost = new UnreachableError(`${to.site}/${to.host} did not answer ${method}`)
      if (fate === 'lose request') throw lost
      try {
        const reply = await deliver(to, from, method, message.request)
        if (fate === 'lose reply') throw lost
        return life.dead() ? await never() : reply
      } catch (error) {
        if (life.dead()) return await never()
        throw fate === 'lose reply' ? lost : error
      }
    }
    return call as CallPeer
  }

  const gatewayTruth: GatewayTruth = {
    isGatewayOf: (peer, site, host) => [...machines.values()].some(m => m.peer === peer && m.site === site && m.host === host && m.roles.includes('gateway')),
    tunnelAddressFor: peer => `100.64.0.${[...machines.values()].findIndex(m => m.peer === peer) + 1}`
  }
  const truthOf = ({ peer, underlayAddress }: Machine): HostTruth => ({ ...gatewayTruth, peer, underlayAddress, tunnelEndpoint: `${underlayAddress}:51820`, addressOf: host => machines.get(host)?.underlayAddress ?? null })

  async function startAgent (machine: Machine): Promise<Life> {
    const { promise: died, reject } = Promise.withResolvers<never>()
    died.catch(() => undefined)
    let dead = false
    const life = { dead: () => dead, died } as Life
    life.kill = () => {
      if (life.dead()) return
      dead = true
      if (machine.life === life) machine.life = null
      void life.reconciler.stop()
      // Its timers die with it; what it had under way never ends.
      void life.master?.stop()
      reject(new UnreachableError(`lost ${machine.site}/${machine.host}`))
    }
    const store = mortalStore(machine, life)
    const now = (): number => model.clockMs
    life.events = createEventLog(now)
    life.ledger = await openLedger({ store, now, host: machine.host, capacity: machine.capacity, ...(machine.roles.includes('gateway') ? { slice: { from: 1000, to: 9999 } } : {}) })
    const objects: FakeStore = {
      list: kind => life.dead() ? never() : machine.objects.list(kind),
      put: (kind, object) => life.dead() ? never() : machine.objects.put(kind, object),
      delete: (kind, name) => life.dead() ? never() : machine.objects.delete(kind, name)
    }
    const driver = <K extends ObjectKind>(kind: K): ReturnType<typeof createFakeDriver<K>> =>
      createFakeDriver(kind, { store: objects, onCall: (verb, name) => { machine.onDriver(kind, verb, name) } })
    life.reconciler = createReconciler({
      drivers: { volume: driver('volume'), tunnel: driver('tunnel'), segment: driver('segment'), frontend: driver('frontend'), cache: driver('cache'), domain: driver('domain') },
      desired: () => life.lessor.desired(), leaveAlone: () => life.lessor.undecided(), log: silent
    })
    life.lessor = createLessor({ site: machine.site, host: machine.host, isGateway: machine.roles.includes('gateway'), ledger: life.ledger, reconciler: () => life.reconciler, details: { of: () => Promise.resolve({}) }, events: life.events, now, truth: truthOf(machine), monotonic: () => performance.now(), sleep: async ms => { await sleep(ms) }, signGrant: grant => ({ envelope: Uint8Array.from(Buffer.from(JSON.stringify(grant))), chain: [] }) })
    const call = callFrom(machine, life)
    const newId = (): string => uuidFrom(sha256(`${++ids}`))
    const isGateway = machine.roles.includes('gateway')
    life.calendar = createCalendar({ site: machine.site, peer: machine.peer, ledger: life.ledger, call, refusal: () => null, hosts: () => siteHosts(machine.site), lends: isGateway })
    life.told = createTold({ site: machine.site, now, calendar: life.calendar, retained: () => machine.retained, lending: masterSite => lendingOf(machine.policy, machine.site, masterSite, now()) })
    life.gateway = !isGateway ? null : createGateway({
      quota: masterSite => life.ledger.state().quotas.has(masterSite), quotes: { ledger: () => life.ledger.state(), priceMilli: () => 250 },
      shares: createQuotaShares({ ledger: () => life.ledger.state(), now, call, gateways: () => siteHosts(machine.site).filter(one => one.peer !== machine.peer && one.roles.includes('gateway')) }),
      policy: { check: ask => { checkPolicy(machine.policy, machine.site, { ...ask, nowMs: now() }) } },
      site: machine.site, call, calendar: life.calendar, store, events: life.events, log: silent, now, newId, siteHosts: () => siteHosts(machine.site),
      facts: () => Promise.resolve({ host: machine.host, peer: machine.peer, underlayAddress: machine.underlayAddress, tunnelPublicKey: keyOf(machine.host), tunnelEndpoint: `${machine.underlayAddress}:51820`, tunnelAddress: gatewayTruth.tunnelAddressFor(machine.peer), chain: [] }),
      holderOf: (grant, { clusterId, masterSite, anchor }) => {
        const said = JSON.parse(Buffer.from(grant.envelope).toString()) as EpochGrant
        if (said.clusterId !== clusterId || said.site !== masterSite || (anchor !== '' && said.host !== anchor)) throw new InvalidInputError('no grant of the anchor')
        return { epoch: said.epoch, peer: said.holder }
      }
    })
    await life.gateway?.start()
    life.copies = createCopies({
      call, log: silent, table: life.ledger.table<Copy>('copy'), now,
      targets: () => [...machines.values()].filter(m => m.site === machine.site && m !== machine).map(m => ({ host: m.host, peer: m.peer, gateway: m.roles.includes('gateway') }))
    })
    life.master = !isGateway ? null : createMaster({
      // Masters try again as time goes by, also while no test lets time pass.
      site: machine.site, peer: machine.peer, call, sites: () => knownSites(machine), store, events: life.events, log: silent, now: () => now() + Math.floor(performance.now() - begunMs), monotonic: now, newId, builder: memoryBuilder(machine), image: () => Promise.resolve(IMAGE), probe: noProbe, truth: gatewayTruth,
      copies: life.copies, heardMs: id => life.gateway?.heardMs(id) ?? null, jitterMs: () => 0
    })
    machine.life = life
    await life.reconciler.pass()
    await life.master?.resume()
    return life
  }

  for (const host of machines.keys()) await model.start(host)
  return model
}

/** Waits, in real time, until something holds. */
export async function eventually (what: string, holds: () => boolean | Promise<boolean>, timeoutMs = 10_000): Promise<void> {
  for (let waited = 0; !await holds(); waited += 5) {
    if (waited > timeoutMs) throw new Error(`${what}: not within ${timeoutMs} ms`)
    await sleep(5)
  }
}

const GIB = 1024
/** `host('tokyo', 1, 'gateway compute', 2)`: tokyo-1 with 2 vCPU, 1 GiB for each, and 500 MiB of disk if it is storage. */
export const host = (site: string, number: number, roles: string, vcpus: number): HostPlan => ({
  site, host: `${site}-${number}`, roles: roles.split(' '), capacity: { vcpus, memoryMib: vcpus * GIB, diskMib: roles.includes('storage') ? 500 : 0, volumes: roles.includes('storage') ? 8 : 0, bandwidthMbit: 0 }
})

/** A spec as users write it. */
export const wanted = (name: string, count: number, more: { vcpus?: number, memoryMiB?: number, volumes?: object[], term?: string, cache?: object } = {}): object => {
  const { volumes, term, cache, ...nodes } = more
  return {
    apiVersion: 'musubi/v1', kind: 'Cluster', metadata: { name },
    spec: { nodes: { count, vcpus: 1, memoryMiB: 512, ...nodes }, ...(volumes === undefined ? {} : { volumes }), ...(term === undefined ? {} : { term }), ...(cache === undefined ? {} : { cache }) }
  }
}
