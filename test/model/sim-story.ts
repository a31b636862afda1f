/** A small world told by hand, event by event, to a checker of the simulator: for tests of what it sees. */
import { createChecker } from '../sim/checker/checker.ts'
import { EPOCH_MS } from '../sim/checker/model.ts'
import type { Caller, Checker, ExtensionFacts, FenceFacts, HostFacts, LeaseFacts, Observation, ResourceFacts, RunningFacts } from '../sim/observation.ts'

export const MINUTE = 60_000
export const CLUSTER = 'c1000000-0000-4000-8000-000000000001'
export const OTHER = 'c2000000-0000-4000-8000-000000000002'
export const resources = (part: Partial<ResourceFacts> = {}): ResourceFacts => ({ vcpus: 0, memoryMib: 0, diskMib: 0, volumes: 0, bandwidthMbit: 0, ...part })

interface Item { kind: string, name: string, host: string, resources: ResourceFacts }
interface Told { id: number, from: string, to: string, method: string, request: unknown, caller: Caller }

/** One host as the story has it: memory of its ledger, and what of it is synced. */
class StoryHost {
  readonly name: string
  leases = new Map<string, LeaseFacts>()
  extensions: ExtensionFacts[] = []
  epochs: Array<{ clusterId: string, epoch: number, holder: string }> = []
  running: RunningFacts[] = []
  fence: FenceFacts[] = []
  counter = 0
  up = true
  failed = false
  /** ledger clock minus true time */
  offMs = 0
  wallOffMs = 0
  replays = new Set<string>()
  records = new Map<string, unknown>()
  quotas: HostFacts['quotas'] = []
  /** documents of clusters, only as the disk has them */
  documents = new Map<string, unknown>()
  disk: { documents: Map<string, unknown>, leases: Map<string, LeaseFacts>, counter: number, replays: Set<string>, records: Map<string, unknown> } = { documents: new Map(), leases: new Map(), counter: 0, replays: new Set(), records: new Map() }
  constructor (name: string) { this.name = name }

  sync (): void {
    this.disk = { documents: new Map(this.documents), leases: new Map(this.leases), counter: this.counter, replays: new Set(this.replays), records: new Map(this.records) }
  }
}

export class Story {
  now = EPOCH_MS
  readonly hosts = new Map<string, StoryHost>(['s1a', 's1b', 's2a', 's3a'].map(name => [name, new StoryHost(name)]))
  readonly checker: Checker
  lastId = 0
  /** who lets a cluster go was told to by its user */
  isDeleted = true
  /** what hosts write is safe at once */
  syncs = true
  /** leases of each offer, in the order of the items */
  readonly offers = new Map<string, { site: string, gateway: string, held: Array<Item & { leaseId: string, token: number }>, segmentId: number, sentMs: number }>()
  record: Record<string, unknown> = {}
  endMs = EPOCH_MS + 10 * MINUTE

  constructor () {
    const host = (name: string): { site: string, host: string, peer: string, gateway: boolean, capacity: ResourceFacts, slice: { from: number, to: number } | null, ratePpm: number } => ({
      site: name.slice(0, 2), host: name, peer: `peer-${name}`, gateway: name.endsWith('a'), capacity: this.capacity, slice: name.endsWith('a') ? { from: 100 * Number(name[1]), to: 100 * Number(name[1]) + 9 } : null, ratePpm: 0
    })
    this.checker = createChecker({
      seed: 1, sites: [
        { site: 's1', malicious: false, hosts: [host('s1a'), host('s1b')] }, { site: 's2', malicious: false, hosts: [host('s2a')] }, { site: 's3', malicious: false, hosts: [host('s3a')] }
      ],
      bounds: {
        holdTtlMs: 30_000, activateTtlMs: 120_000, endGuardMs: 60_000, idQuarantineMs: 120_000, keepAliveMs: 20_000, masterlessMs: 90_000, clockRate: 0.001, clockGrainMs: 5,
        helperDelayMs: 1_000, tickMs: 5_000, convergeMs: 600_000
      },
      disks: {
        lease: (name, id) => this.host(name).disk.leases.get(id) ?? null,
        replay: (name, key) => this.host(name).disk.replays.has(key) ? key : null,
        document: (name, id) => this.host(name).disk.documents.get(id) ?? null,
        gatewayRecord: (name, id) => this.host(name).disk.records.get(id) ?? null,
        counter: name => this.host(name).disk.counter
      }
    })
    for (const name of this.hosts.keys()) {
      this.tell({ type: 'boot', trueMs: this.now, host: name, bootId: `boot-${name}`, newBoot: true })
      this.tell({ type: 'boot', trueMs: this.now, host: name, bootId: `boot-${name}`, newBoot: false })
      this.show(name)
    }
  }

  readonly capacity = resources({ vcpus: 4, memoryMib: 8192, diskMib: 4096, volumes: 1, bandwidthMbit: 100 })

  host (name: string): StoryHost {
    const host = this.hosts.get(name)
    if (host === undefined) throw new Error(`no host ${name}`)
    return host
  }

  tell (observation: Observation): void { this.checker.observe(observation) }
  pass (ms: number): this {
    this.now += ms
    for (const name of this.hosts.keys()) this.show(name)
    return this
  }

  /** Tells what a host has, as it is. */
  show (name: string): void {
    const host = this.host(name)
    if (this.syncs) host.sync()
    this.tell({
      type: 'host', trueMs: this.now, facts: {
        site: name.slice(0, 2), host: name, up: host.up, failed: host.failed, capacity: this.capacity, slice: null, quotas: host.quotas, counter: host.counter, clockMs: this.clock(name),
        leases: [...host.leases.values()], extensions: [...host.extensions], epochs: [...host.epochs], fence: [...host.fence], running: [...host.running], bootId: `boot-${name}`,
        ledgerOffMs: host.up ? host.offMs : null, wallOffMs: host.wallOffMs, clockErrorMs: 1_000
      }
    })
  }

  /** Begins anew as far as a host's clock is concerned: after a boot it may show anything. */
  checkFresh (name: string): void {
    this.tell({ type: 'disk-lost', trueMs: this.now, host: name })
    this.show(name)
  }

  clock (name: string): number { return this.now + this.host(name).offMs }

  call (from: string, to: string, method: string, request: object, forged = false): Told {
    const caller: Caller = { peerId: `peer-${from}`, site: from.slice(0, 2), host: from, gateway: from.endsWith('a') }
    const told: Told = { id: ++this.lastId, from, to, method, request, caller }
    this.tell({ type: 'call', trueMs: this.now, forged, ...told })
    return told
  }

  arrive (told: Told, copy = 1): void {
    this.tell({ type: 'arrive', trueMs: this.now, id: told.id, copy, from: told.from, to: told.to, method: told.method })
  }

  answer (told: Told, reply: unknown, error: { code: string, message: string } | null = null, copy = 1): void {
    this.tell({ type: 'answer', trueMs: this.now, id: told.id, copy, from: told.from, to: told.to, method: told.method, request: told.request, caller: told.caller, reply, error })
  }

  /** A call that is answered at once; `work` is what the callee does in between. */
  ask (from: string, to: string, method: string, request: object, reply: unknown, work: () => void = () => undefined): Told {
    const told = this.call(from, to, method, request)
    this.arrive(told)
    work()
    this.answer(told, reply)
    return told
  }

  /** Changes a lease with a new token, and tells. */
  change (name: string, id: string, part: Partial<LeaseFacts>): void {
    const host = this.host(name)
    const lease = host.leases.get(id)
    if (lease === undefined) throw new Error(`no lease ${id}`)
    host.leases.set(id, { ...lease, ...part, token: ++host.counter })
    this.show(name)
  }

  holdRequest (offerId: string, clusterId: string, items: Array<Item & { leaseId: string }>, part: object = {}): object {
    return {
      key: `key/${offerId}`, clusterId, cluster: 'c', masterSite: 's1', masterPeer: 'peer-s1a', startMs: this.now, endMs: this.endMs, ttlMs: 30_000, offerId, epoch: 1,
      items: items.map(({ leaseId, kind, name, resources }) => ({ leaseId, kind, name, resources, segmentId: 0 })), ...part
    }
  }

  /** A host holds items of an offer, and its ledger says so. */
  keep (name: string, offerId: string, clusterId: string, items: ReadonlyArray<Item & { leaseId: string, token: number }>, segmentId: number, part: Partial<LeaseFacts> = {}): void {
    const host = this.host(name)
    for (const item of items) {
      item.token = ++host.counter
      host.leases.set(item.leaseId, {
        id: item.leaseId, offerId, clusterId, cluster: 'c', kind: item.kind, name: item.name, resources: item.resources, segmentId: item.kind === 'segment' ? segmentId : 0,
        masterSite: 's1', masterPeer: 'peer-s1a', requester: 'peer-s1a', state: 'held', startMs: this.now, endMs: this.endMs, ttlMs: 30_000, deadlineMs: this.clock(name) + 30_000, confirmByMs: 0,
        token: item.token, heldToken: item.token, commitToken: 0, activatedMs: 0, endedMs: 0, endReason: '', vacated: true, ...part
      })
    }
    host.replays.add(`key/${offerId}`)
    if (!host.epochs.some(one => one.clusterId === clusterId)) host.epochs.push({ clusterId, epoch: 1, holder: 'peer-s1a' })
    this.show(name)
  }

  /** Its gateway has a site hold something; the answer leaves unless `answered` is false. */
  offer (offerId: string, gateway: string, items: Item[], { clusterId = CLUSTER, segmentId = Number(gateway[1]) * 100, master = 's1a', answered = true } = {}): Told {
    const site = gateway.slice(0, 2)
    const held = [...items, { kind: 'segment', name: 'segment', host: gateway, resources: resources() }].map((item, i) => ({ ...item, leaseId: `${offerId}-${i + 1}`, token: 0 }))
    this.offers.set(offerId, { site, gateway, held, segmentId, sentMs: this.now })
    this.host(gateway).records.set(clusterId, { clusterId, offer: { offerId } })
    const request = this.call(master, gateway, 'request', {
      key: `key-${offerId}`, clusterId, cluster: 'c', masterSite: 's1', startMs: this.now, endMs: this.endMs, sentMs: this.clock(master), epoch: 1, grow: false, frontend: items.some(item => item.kind === 'frontend'),
      nodes: items.filter(item => item.kind === 'node').map(({ name, resources: r }) => ({ name, vcpus: r.vcpus, memoryMib: r.memoryMib })),
      volumes: items.filter(item => item.kind === 'volume').map(({ name, resources: r }) => ({ name, sizeMib: r.diskMib, node: '' }))
    })
    this.arrive(request)
    for (const host of new Set(held.map(one => one.host))) {
      const mine = held.filter(one => one.host === host)
      this.ask(gateway, host, 'hold', this.holdRequest(offerId, clusterId, mine), { receipts: mine.map(one => ({ leaseId: one.leaseId, host, get token () { return one.token } })), segmentId: mine.some(one => one.kind === 'segment') ? segmentId : 0 },
        () => this.keep(host, offerId, clusterId, mine, segmentId))
    }
    if (answered) this.answer(request, this.offerOf(offerId))
    return request
  }

  offerOf (offerId: string): { offerId: string, site: string, segmentId: number, gateway: object, held: object[], ttlMs: number } {
    const offer = this.offers.get(offerId)
    if (offer === undefined) throw new Error(`no offer ${offerId}`)
    return { offerId, site: offer.site, segmentId: offer.segmentId, gateway: { host: offer.gateway, peer: `peer-${offer.gateway}` }, held: offer.held.map(one => ({ ...one })), ttlMs: 30_000 }
  }

  /** What the master's disk says of the cluster from now on. */
  decide (state: string, part: object = {}, { host = 's1a', clusterId = CLUSTER, epoch = 1 } = {}): void {
    if (state === 'releasing' && this.isDeleted) this.tell({ type: 'operator', trueMs: this.now, host, action: 'delete', clusterId, detail: 'begins', refused: 'UNDER_WAY' })
    this.record = { id: clusterId, state, epoch, endMs: this.endMs, offers: [], amendment: null, dropped: [], ...part }
    this.tell({ type: 'decision', trueMs: this.now, site: host.slice(0, 2), host, clusterId, record: this.record })
  }

  hostCommit (offerId: string, host: string, clusterId = CLUSTER): void {
    const offer = this.offers.get(offerId)
    const mine = offer?.held.filter(one => one.host === host) ?? []
    const call = this.call(offer?.gateway ?? '', host, 'hostCommit', { clusterId, offerId, epoch: 1 })
    this.arrive(call)
    for (const { leaseId } of mine) {
      const token = this.host(host).counter + 1
      this.change(host, leaseId, { state: 'committed', commitToken: token, deadlineMs: this.clock(host) + 120_000 })
    }
    this.answer(call, { receipts: this.receipts(offerId, host) })
  }

  receipts (offerId: string, host?: string): Array<{ leaseId: string, host: string, token: number }> {
    return (this.offers.get(offerId)?.held ?? []).filter(one => host === undefined || one.host === host)
      .map(one => ({ leaseId: one.leaseId, host: one.host, token: this.host(one.host).leases.get(one.leaseId)?.commitToken ?? 0 }))
  }

  commit (offerId: string, { hosts, from = 's1a', clusterId = CLUSTER }: { hosts?: string[], from?: string, clusterId?: string } = {}): void {
    const offer = this.offers.get(offerId)
    const gateway = offer?.gateway ?? ''
    const call = this.call(from, gateway, 'commit', { clusterId, offerId, key: '', epoch: 1 })
    this.arrive(call)
    for (const host of hosts ?? new Set(offer?.held.map(one => one.host))) this.hostCommit(offerId, host, clusterId)
    this.answer(call, { site: offer?.site, receipts: this.receipts(offerId) })
  }

  document (offerIds: readonly string[], clusterId = CLUSTER): object {
    const held = offerIds.flatMap(id => (this.offers.get(id)?.held ?? []).map(one => ({ ...one, site: this.offers.get(id)?.site ?? '' })))
    const of = (kind: string): object[] => held.filter(one => one.kind === kind).map(({ leaseId, name, host, site }) => ({ leaseId, name, host, site }))
    return { id: clusterId, frontend: of('frontend')[0] ?? { leaseId: '' }, nodes: of('node'), volumes: of('volume'), sites: of('segment') }
  }

  hostActivate (gateway: string, host: string, offerIds: readonly string[], receipts: object[], clusterId = CLUSTER): void {
    const call = this.call(gateway, host, 'hostActivate', { clusterId, document: this.document(offerIds, clusterId), receipts, secrets: [], epoch: 1 })
    this.arrive(call)
    for (const lease of [...this.host(host).leases.values()]) if (lease.clusterId === clusterId && lease.state === 'committed') this.change(host, lease.id, { state: 'active', activatedMs: this.clock(host) })
    this.answer(call, { site: host.slice(0, 2) })
  }

  activate (offerId: string, offerIds: readonly string[], receipts: object[] = offerIds.flatMap(id => this.receipts(id)), clusterId = CLUSTER): void {
    const offer = this.offers.get(offerId)
    const call = this.call('s1a', offer?.gateway ?? '', 'activate', { clusterId, document: this.document(offerIds, clusterId), receipts, secrets: [], epoch: 1 })
    this.arrive(call)
    for (const host of new Set(offer?.held.map(one => one.host))) this.hostActivate(offer?.gateway ?? '', host, offerIds, receipts, clusterId)
    this.answer(call, { site: offer?.site })
  }

  /** The agent has the helper start what a lease is about. */
  run (host: string, leaseId: string, part: Partial<RunningFacts> = {}, endMs = this.endMs): void {
    const lease = this.host(host).leases.get(leaseId)
    const clusterId = part.clusterId ?? lease?.clusterId ?? CLUSTER
    const resource = part.resource ?? `domain ${clusterId.slice(0, 8)}.${lease?.name ?? 'x'}`
    const counter = part.counter ?? this.host(host).counter
    this.tell({ type: 'command', trueMs: this.now, host, command: 'grant', resource, clusterId, counter, endMs })
    this.tell({ type: 'helper', trueMs: this.now, host, command: 'grant', resource, clusterId, counter, accepted: true, why: '' })
    this.host(host).running = [...this.host(host).running.filter(one => one.resource !== resource), { resource, kind: 'domain', clusterId, leaseId, resources: lease?.resources ?? resources(), segmentId: 0, counter, sinceTrueMs: this.now, ...part }]
    this.show(host)
  }

  stop (host: string, resource?: string): void {
    this.host(host).running = this.host(host).running.filter(one => resource !== undefined && one.resource !== resource)
    this.show(host)
  }

  /** A cluster of two sites, as far as `until`. */
  cluster (until: 'offered' | 'decided' | 'committed' | 'active' = 'active'): this {
    this.decide('negotiating')
    this.offer('o1', 's1a', [{ kind: 'frontend', name: 'frontend', host: 's1a', resources: resources({ vcpus: 1, memoryMib: 256 }) }, { kind: 'node', name: 'n1', host: 's1b', resources: resources({ vcpus: 2, memoryMib: 512 }) }])
    this.offer('o2', 's2a', [{ kind: 'node', name: 'n2', host: 's2a', resources: resources({ vcpus: 2, memoryMib: 512 }) }])
    if (until === 'offered') return this
    const offers = [this.offerOf('o1'), this.offerOf('o2')]
    this.decide('committing', { offers })
    if (until === 'decided') return this
    this.commit('o1')
    this.commit('o2')
    if (until === 'committed') return this
    this.decide('activating', { offers })
    this.activate('o1', ['o1', 'o2'])
    this.activate('o2', ['o1', 'o2'])
    this.decide('active', { offers })
    return this
  }

  keepAlive (gateway: string, { from = 's1a', epoch = 1, clusterId = CLUSTER } = {}): void {
    const call = this.call(from, gateway, 'keepAlive', { clusterId, epoch, sentMs: this.clock(from), grant: null })
    this.arrive(call)
    this.answer(call, { site: gateway.slice(0, 2), state: 'active', endMs: this.endMs, epoch, nowMs: this.clock(gateway) })
    for (const host of this.hosts.keys()) {
      if (host.slice(0, 2) !== gateway.slice(0, 2) || ![...this.host(host).leases.values()].some(lease => lease.clusterId === clusterId)) continue
      this.ask(gateway, host, 'hostKeepAlive', { clusterId, epoch, holder: `peer-${from}` }, { state: 'active', endMs: this.endMs, epoch, nowMs: this.clock(host) })
    }
  }

  /** Every host of a site ends what it has of a cluster. */
  release (gateway: string, { from = 's1a', epoch = 1, offerId = '', leaseIds = [] as string[], clusterId = CLUSTER, told = true } = {}): void {
    const call = told ? this.call(from, gateway, 'release', { clusterId, reason: 'deleted', offerId, leaseIds, epoch }) : null
    if (call !== null) this.arrive(call)
    // The gateway lets go of the segment last.
    for (const name of [...this.hosts.keys()].sort((a, b) => Number(a === gateway) - Number(b === gateway))) {
      const mine = [...this.host(name).leases.values()].filter(lease => lease.clusterId === clusterId && lease.state !== 'ended' && (leaseIds.length === 0 || leaseIds.includes(lease.id)))
      if (name.slice(0, 2) !== gateway.slice(0, 2) || mine.length === 0) continue
      this.ask(gateway, name, 'hostRelease', { clusterId, reason: 'deleted', offerId, leaseIds, epoch }, { ended: mine.length }, () => {
        for (const lease of mine) this.end(name, lease.id)
        this.host(name).running = this.host(name).running.filter(one => !mine.some(lease => lease.id === one.leaseId))
        this.show(name)
        for (const lease of mine) if (lease.state === 'active') this.change(name, lease.id, { vacated: true })
      })
    }
    if (call !== null) this.answer(call, { site: gateway.slice(0, 2), ended: 1 })
  }

  end (name: string, id: string, reason = 'released'): void {
    const lease = this.host(name).leases.get(id)
    this.change(name, id, { state: 'ended', endedMs: this.clock(name), endReason: reason, vacated: lease?.state !== 'active' })
  }

  /** The machine loses power and boots; its disk is as it was last synced. */
  reboot (name: string, downMs = 10_000): void {
    const host = this.host(name)
    host.up = false
    host.running = []
    host.leases = new Map(host.disk.leases)
    host.counter = host.disk.counter
    this.tell({ type: 'crash', trueMs: this.now, host: name, how: 'power', at: 'any moment', lostBatches: 0 })
    this.show(name)
    this.now += downMs
    this.tell({ type: 'boot', trueMs: this.now, host: name, bootId: `boot-${name}-${this.now}`, newBoot: true })
    host.up = true
    this.tell({ type: 'boot', trueMs: this.now, host: name, bootId: `boot-${name}-${this.now}`, newBoot: false })
    this.show(name)
  }
}
