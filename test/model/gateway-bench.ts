/**
 * A gateway's state machine between a master and hosts that are made up here: hosts keep leases as
 * ledgers do, calls wait until they are delivered, and the disk forgets in a crash what was not synced.
 */
import { MusubiError } from '../../protocol/core/errors.ts'
import type { Asker, GatewayEffect, GatewayEvent, HostAnswer, HostAsk, SiteAnswer, SiteAsk, SiteView } from '../../protocol/core/gateway/events.ts'
import type { GatewayRecord } from '../../protocol/core/gateway/record.ts'
import type { GatewayMachine } from '../../protocol/core/gateway/machine.ts'
import { advance, emptyGateway, loadGateway } from '../../protocol/core/gateway/step.ts'
import type { ClusterDocument, HoldRequest, Offer, Receipt, Request } from '../../protocol/core/messages.ts'
import { facts } from './fixtures.ts'

export const CLUSTER = 'c1000000-0000-4000-8000-000000000000'
export const HOUR = 3_600_000
export const MASTER: Asker = { peerId: 'peer-tsukuba-1', site: 'tsukuba', host: 'tsukuba-1', gateway: true }
export const SECOND: Asker = { peerId: 'peer-tsukuba-2', site: 'tsukuba', host: 'tsukuba-2', gateway: true }
export const OTHER: Asker = { peerId: 'peer-osaka-1', site: 'osaka', host: 'osaka-1', gateway: true }

interface FakeLease { leaseId: string, offerId: string, state: 'held' | 'committed' | 'active' | 'ended', kind: string, endMs: number, clusterId: string, formerEndMs?: number, seq?: number }
export interface FakeHost { peer: string, leases: Map<string, FakeLease>, holds: Map<string, Receipt[]>, extensions: Map<string, { endMs: number, formerMs: Map<string, number>, committed: boolean }>, epoch: number, holder: string, tokens: number }
export interface OpenCall { callId: number, peer: string, ask: HostAsk }
type Ask<M extends SiteAsk['method']> = Extract<SiteAsk, { method: M }>

export class Crash extends Error {}

export class GatewayBench {
  now = 1_800_000_000_000
  machine: GatewayMachine = emptyGateway('tokyo')
  /** as of the last sync, and as the process would read it */
  synced = new Map<string, string>()
  disk = new Map<string, string>()
  hosts = new Map<string, FakeHost>(['tokyo-1', 'tokyo-2', 'tokyo-3'].map(host => [`peer-${host}`, { peer: `peer-${host}`, leases: new Map(), holds: new Map(), extensions: new Map(), epoch: 0, holder: '', tokens: 0 }]))
  calls: OpenCall[] = []
  /** everything that was ever asked of hosts */
  asked: Array<{ peer: string, ask: HostAsk, deadlineMs: number }> = []
  outcomes = new Map<number, SiteAnswer | MusubiError>()
  notes: string[] = []
  /** a crash comes after so many effects; infinity: never */
  crashAfter = Number.POSITIVE_INFINITY
  effects = 0
  /** says what a host answers instead; null: as usual */
  fate: (peer: string, ask: HostAsk) => MusubiError | null = () => null
  quota = false
  /** by whose notice there would be room */
  byNotice: SiteView['byNotice']
  /** what the gateway's ledger gives out for a segment that does not leave the site */
  localId = 2000
  refusal: MusubiError | null = null
  private asks = 0
  private ids = 0

  host (name: string): FakeHost {
    const host = this.hosts.get(`peer-${name}`)
    if (host === undefined) throw new Error(`no host ${name}`)
    return host
  }

  record (clusterId = CLUSTER): GatewayRecord | undefined { return this.machine.records.get(clusterId) }
  state (clusterId = CLUSTER): string { return this.record(clusterId)?.state ?? '' }

  view (): SiteView {
    const hosts = [...this.hosts.keys()].map((peer, i) => ({ host: peer.slice(5), peer, underlayAddress: `192.0.2.${i + 1}`, roles: i === 0 ? ['gateway'] : ['compute', 'storage'], free: { vcpus: 4, memoryMib: 4096, diskMib: 500, volumes: 8, bandwidthMbit: 0 } }))
    return { hosts, facts: facts('tokyo', 0), id: `${String(++this.ids).padStart(8, '0')}-0000-4000-8000-000000000000`, refusal: this.refusal, quota: this.quota, ...this.byNotice === undefined ? {} : { byNotice: this.byNotice } }
  }

  private idsOf ({ items }: HoldRequest): { segmentId: number, localSegmentId?: number } {
    const wants = (name: string): boolean => items.some(item => item.kind === 'segment' && item.name === name)
    return { segmentId: wants('segment') ? 1000 : 0, ...(wants('local') ? { localSegmentId: this.localId } : {}) }
  }

  request (part: Partial<Request> = {}): Request {
    const node = (i: number): Request['nodes'][number] => ({ name: `demo-tokyo-00${i}`, vcpus: 2, memoryMib: 2048 })
    return {
      key: 'k1', clusterId: CLUSTER, cluster: 'demo', vni: 7, masterSite: 'tsukuba', startMs: 1_800_000_000_000, endMs: 1_800_000_000_000 + HOUR, nodes: [node(1), node(2), node(3)],
      volumes: [], frontend: false, holdTtlMs: 30_000, bandwidthMbit: 0, epoch: 1, sentMs: this.now, grow: false, ...part
    }
  }

  /** Works an event in and carries out its effects: writes first, as the runner does. */
  submit (event: GatewayEvent): void {
    const effects = advance(this.machine, event, this.now)
    const isWrite = ({ effect }: GatewayEffect): boolean => effect === 'save' || effect === 'forget'
    for (const effect of [...effects.filter(isWrite), ...effects.filter(one => !isWrite(one))]) {
      if (++this.effects > this.crashAfter) throw new Crash()
      this.perform(effect)
    }
  }

  /** steps of both tables that were taken: `from to`, and `amendment from to` */
  readonly walked = new Set<string>()
  private readonly last = new Map<string, GatewayRecord>()

  private walk (clusterId: string, next: GatewayRecord | null): void {
    const before = this.last.get(clusterId)
    if (before?.state !== next?.state) this.walked.add(`${before?.state ?? 'null'} ${next?.state ?? 'null'}`)
    const [from, to] = [before?.amendment?.state ?? 'null', next?.amendment?.state ?? 'null']
    if (next !== null && from !== to) this.walked.add(`amendment ${from} ${to}`)
    if (next === null) this.last.delete(clusterId)
    else this.last.set(clusterId, next)
  }

  private perform (effect: GatewayEffect): void {
    if (effect.effect === 'save') this.walk(effect.record.clusterId, effect.record)
    if (effect.effect === 'forget') this.walk(effect.clusterId, null)
    switch (effect.effect) {
      case 'save':
        this.disk.set(effect.record.clusterId, JSON.stringify(effect.record))
        if (effect.sync) this.synced = new Map(this.disk)
        break
      case 'forget': this.disk.delete(effect.clusterId); break
      case 'call':
        this.calls.push({ callId: effect.callId, peer: effect.peer, ask: structuredClone(effect.ask) })
        this.asked.push({ peer: effect.peer, ask: effect.ask, deadlineMs: effect.deadlineMs })
        break
      case 'answer': this.outcomes.set(effect.askId, effect.answer); break
      case 'refuse': this.outcomes.set(effect.askId, effect.error); break
      case 'note': this.notes.push(effect.type)
    }
  }

  /** The process dies; what it had asked hosts may still arrive, its own asks are never answered. */
  crash (powerLost = false): void {
    this.crashAfter = Number.POSITIVE_INFINITY
    if (powerLost) this.disk = new Map(this.synced)
    this.machine = loadGateway('tokyo', [...this.disk.values()].map(text => JSON.parse(text) as GatewayRecord))
    this.calls = []
    this.last.clear()
    for (const [id, record] of this.machine.records) this.last.set(id, record)
    this.submit({ type: 'start' })
  }

  ask (ask: SiteAsk, caller = MASTER): number {
    const askId = ++this.asks
    this.submit({ type: 'ask', askId, caller, ask })
    return askId
  }

  /** Asks, and lets hosts answer until nothing is open. @throws the refusal */
  settle (ask: SiteAsk, caller = MASTER): SiteAnswer {
    const askId = this.ask(ask, caller)
    this.deliverAll()
    return this.outcome(askId)
  }

  outcome (askId: number): SiteAnswer {
    const outcome = this.outcomes.get(askId)
    if (outcome === undefined) throw new Error(`ask ${askId} has no answer yet`)
    if (outcome instanceof MusubiError) throw outcome
    return outcome
  }

  code (askId: number): string {
    const outcome = this.outcomes.get(askId)
    return outcome === undefined ? 'open' : outcome instanceof MusubiError ? outcome.code : 'ok'
  }

  tick (afterMs = 0): void {
    this.now += afterMs
    this.submit({ type: 'tick' })
    this.deliverAll()
  }

  deliverAll (): void {
    while (this.calls.length > 0) this.deliver()
  }

  /** Delivers one open call, the first that fits. */
  deliver (fits: (call: OpenCall) => boolean = () => true): void {
    const index = this.calls.findIndex(fits)
    const [call] = index < 0 ? [] : this.calls.splice(index, 1)
    if (call === undefined) throw new Error('no such call is open')
    const { callId } = call
    const error = this.fate(call.peer, call.ask)
    let answer: HostAnswer
    try {
      if (error !== null) throw error
      answer = this.answer(call.peer, call.ask)
    } catch (failure) {
      if (!(failure instanceof MusubiError)) throw failure
      this.submit({ type: 'failed', callId, error: failure })
      return
    }
    this.submit({ type: 'reply', callId, answer: structuredClone(answer) })
  }

  /** What a host does and answers; as ledgers do, as far as a gateway can tell. */
  answer (peer: string, ask: HostAsk): HostAnswer {
    const host = this.hosts.get(peer)
    if (host === undefined) throw new MusubiError('UNREACHABLE', `no ${peer}`, { retryable: true })
    const name = peer.slice(5)
    const of = (offerId: string): FakeLease[] => [...host.leases.values()].filter(l => l.offerId === offerId)
    const receipt = (leaseId: string): Receipt => ({ leaseId, host: name, token: ++host.tokens })
    const written = <T>(answer: T): T => {
      // The gateway's own ledger lies in the same store: its sync carries everything before it.
      if (peer === 'peer-tokyo-1') this.synced = new Map(this.disk)
      return answer
    }
    const { epoch } = { epoch: 0, ...ask.request }
    if (epoch !== 0 && epoch < host.epoch) throw new MusubiError('STALE_EPOCH', `${name} knows epoch ${host.epoch}`)
    host.epoch = Math.max(host.epoch, epoch)
    switch (ask.method) {
      case 'hold': {
        const { request } = ask
        const known = host.holds.get(request.key)
        if (known !== undefined) return { method: 'hold', reply: { receipts: known, ...this.idsOf(request) } }
        for (const item of request.items) host.leases.set(item.leaseId, { leaseId: item.leaseId, offerId: request.offerId, state: 'held', kind: item.kind, endMs: request.endMs, clusterId: request.clusterId })
        const receipts = request.items.map(item => receipt(item.leaseId))
        host.holds.set(request.key, receipts)
        return written({ method: 'hold', reply: { receipts, ...this.idsOf(request) } })
      }
      case 'hostCommit': {
        const extension = host.extensions.get(ask.request.offerId)
        if (extension !== undefined) {
          extension.committed = true
          for (const id of extension.formerMs.keys()) { const lease = host.leases.get(id); if (lease !== undefined) lease.endMs = extension.endMs }
          return written({ method: 'hostCommit', reply: { receipts: [...extension.formerMs.keys()].map(receipt) } })
        }
        const leases = of(ask.request.offerId)
        if (leases.length === 0 || leases.some(l => l.state === 'ended')) throw new MusubiError('CONFLICT', `${name}: offer ${ask.request.offerId} has ended`)
        for (const lease of leases) if (lease.state === 'held') lease.state = 'committed'
        return written({ method: 'hostCommit', reply: { receipts: leases.map(l => receipt(l.leaseId)) } })
      }
      case 'hostActivate': {
        const leases = [...host.leases.values()].filter(l => l.clusterId === ask.request.clusterId && l.state === 'committed')
        const proved = new Set(ask.request.receipts.map(r => r.leaseId))
        if (leases.some(l => !proved.has(l.leaseId))) throw new MusubiError('CONFLICT', `${name}: a receipt is missing`)
        if (leases.length === 0 && ![...host.leases.values()].some(l => l.clusterId === ask.request.clusterId && l.state === 'active')) throw new MusubiError('CONFLICT', `${name}: nothing is committed`)
        for (const lease of leases) lease.state = 'active'
        return written({ method: 'hostActivate', reply: { site: 'tokyo' } })
      }
      case 'hostRelease': {
        const { offerId, leaseIds } = ask.request
        const extension = host.extensions.get(offerId)
        if (extension !== undefined) {
          for (const [id, endMs] of extension.formerMs) { const lease = host.leases.get(id); if (lease !== undefined) lease.endMs = endMs }
          host.extensions.delete(offerId)
          return written({ method: 'hostRelease', reply: { ended: 0 } })
        }
        const leases = [...host.leases.values()].filter(l => l.clusterId === ask.request.clusterId && l.state !== 'ended' && (offerId === '' || l.offerId === offerId) && (leaseIds.length === 0 || leaseIds.includes(l.leaseId)))
        for (const lease of leases) lease.state = 'ended'
        return written({ method: 'hostRelease', reply: { ended: leases.length } })
      }
      case 'hostExtend': {
        const { offerId, endMs, leaseIds } = ask.request
        const leases = leaseIds.map(id => host.leases.get(id)).filter(l => l !== undefined)
        if (leases.length !== leaseIds.length || leases.some(l => l.state === 'ended' || l.state === 'held')) throw new MusubiError('CONFLICT', `${name}: nothing to extend`)
        if (leases.some(l => l.formerEndMs !== undefined)) throw new MusubiError('POLICY_PREEMPTED', `${name}: they have notice`)
        host.extensions.set(offerId, { endMs, committed: false, formerMs: new Map(leases.map(l => [l.leaseId, l.endMs])) })
        return written({ method: 'hostExtend', reply: { receipts: leaseIds.map(receipt) } })
      }
      case 'hostCurtail':
      case 'hostRestore': {
        const { clusterId, seq } = ask.request
        const leases = [...host.leases.values()].filter(l => l.clusterId === clusterId && l.state !== 'ended')
        if (leases.some(l => (l.seq ?? 0) > seq || (ask.method === 'hostCurtail' && l.seq === seq && l.formerEndMs === undefined))) throw new MusubiError('STALE_NOTICE', `${name}: ${seq} is over`)
        for (const [offerId, extension] of host.extensions) if (!extension.committed && leases.some(l => extension.formerMs.has(l.leaseId))) host.extensions.delete(offerId)
        for (const lease of leases) {
          if (ask.method === 'hostRestore') {
            const { formerEndMs = lease.endMs } = lease
            lease.endMs = (ask.request.endMs ?? 0) === 0 ? formerEndMs : Math.max(lease.endMs, Math.min(ask.request.endMs ?? 0, formerEndMs))
            if (lease.endMs === formerEndMs) delete lease.formerEndMs
            lease.seq = seq
          } else if (lease.endMs > ask.request.endMs) {
            lease.formerEndMs ??= lease.endMs
            lease.endMs = ask.request.endMs
            lease.seq = seq
          } else if (lease.formerEndMs !== undefined) lease.seq = seq
        }
        return written({ method: ask.method, reply: { endMs: Math.max(0, ...leases.map(l => l.endMs)) } })
      }
      case 'hostKeepAlive':
        host.holder = ask.request.holder
        return written({ method: 'hostKeepAlive', reply: { state: this.furthest(host, ask.request.clusterId), endMs: 0, epoch: host.epoch, nowMs: this.now } })
      case 'hostStatus':
        return { method: 'hostStatus', reply: { leaseState: this.furthest(host, ask.request.clusterId), objects: [] } }
    }
  }

  private furthest (host: FakeHost, clusterId: string): string {
    const states = new Set([...host.leases.values()].filter(l => l.clusterId === clusterId).map(l => l.state))
    return (['active', 'committed', 'held', 'ended'] as const).find(state => states.has(state)) ?? ''
  }

  /** Live leases everywhere: `host kind state`, in order. */
  leases (): string[] {
    return [...this.hosts.values()].flatMap(h => [...h.leases.values()].filter(l => l.state !== 'ended').map(l => `${h.peer.slice(5)} ${l.kind} ${l.state}`)).sort()
  }

  /** Ends of the live leases of a cluster, each once, by host: `host end`, as ms after the beginning. */
  ends (clusterId = CLUSTER): string[] {
    return [...new Set([...this.hosts.values()].flatMap(h => [...h.leases.values()].filter(l => l.clusterId === clusterId && l.state !== 'ended').map(l => `${h.peer.slice(5)} ${l.endMs - 1_800_000_000_000}`)))].sort()
  }

  // --- the usual questions
  offer (part: Partial<Request> = {}, caller = MASTER): Offer {
    const answer = this.settle(this.asking(part), caller)
    if (answer.method !== 'request') throw new Error(answer.method)
    return answer.reply
  }

  asking (part: Partial<Request> = {}): Ask<'request'> { return { method: 'request', request: this.request(part), view: this.view() } }
  committing (offerId: string, epoch = 1): Ask<'commit'> { return { method: 'commit', request: { clusterId: CLUSTER, offerId, key: 'c', epoch } } }
  releasing (part: Partial<Ask<'release'>['request']> = {}): Ask<'release'> { return { method: 'release', request: { clusterId: CLUSTER, reason: 'test', offerId: '', leaseIds: [], epoch: 1, ...part } } }
  extending (part: Partial<Ask<'extend'>['request']> = {}): Ask<'extend'> {
    return { method: 'extend', request: { key: 'x1', clusterId: CLUSTER, offerId: 'ext-1', endMs: 1_800_000_000_000 + 2 * HOUR, ttlMs: 30_000, epoch: 1, sentMs: this.now, ...part }, refusal: null }
  }

  alive (part: { epoch?: number, sentMs?: number, holder?: { epoch: number, peer: string } } = {}): Ask<'keepAlive'> {
    return { method: 'keepAlive', request: { clusterId: CLUSTER, epoch: part.epoch ?? 1, sentMs: part.sentMs ?? this.now, grant: null }, holder: part.holder ?? null }
  }

  commit (offerId: string, epoch = 1, caller = MASTER): Receipt[] {
    const answer = this.settle(this.committing(offerId, epoch), caller)
    if (answer.method !== 'commit') throw new Error(answer.method)
    return answer.reply.receipts
  }

  /** A document of this site's offers and a frontend elsewhere, as its master would write it. */
  document (offers: readonly Offer[], part: Partial<ClusterDocument> = {}): ClusterDocument {
    const [first] = offers
    if (first === undefined) throw new Error('no offer')
    const held = offers.flatMap(offer => offer.held)
    const hosts = [...new Map([{ host: 'tokyo-1', peer: 'peer-tokyo-1', underlayAddress: first.gateway.underlayAddress, gateway: true }, ...held.filter(h => h.host !== 'tokyo-1').map(h => ({ host: h.host, peer: h.peer, underlayAddress: h.underlayAddress, gateway: false }))].map(h => [h.host, h])).values()]
    return {
      id: CLUSTER, name: 'demo', epoch: 1, vni: 7, cidr: '10.42.0.0/16', domain: 'demo.internal', masterSite: 'tsukuba', masterPeer: MASTER.peerId, createdMs: 0, endMs: 0,
      frontend: { name: 'frontend', site: 'tsukuba', host: 'tsukuba-1', mac: '', ip: '', mode: 'builtin', leaseId: 'frontend-1' },
      sites: [{ site: 'tokyo', segmentId: first.segmentId, gateway: first.gateway, hosts, gatewayAddress: '', gatewayMac: '', cache: false, leaseId: first.held.find(h => h.kind === 'segment')?.leaseId ?? '' }],
      nodes: held.filter(h => h.kind === 'node').map((h, i) => ({ name: h.name, site: 'tokyo', host: h.host, mac: '', ip: '', uuid: '', vcpus: 2, memoryMib: 2048, leaseId: h.leaseId, index: i + 1 })),
      volumes: [], imageDigest: '', antiSpoofOff: false, sshPublicKey: '', version: 1, startMs: 0, ...part
    }
  }

  activating (document: ClusterDocument, receipts: readonly Receipt[], epoch = 1): Ask<'activate'> {
    return { method: 'activate', request: { clusterId: CLUSTER, document, receipts: [...receipts, { leaseId: 'frontend-1', host: 'tsukuba-1', token: 1 }], secrets: [], epoch } }
  }

  /** Request, commit and activation. */
  active (): { offer: Offer, receipts: Receipt[] } {
    const offer = this.offer()
    const receipts = this.commit(offer.offerId)
    this.settle(this.activating(this.document([offer]), receipts))
    return { offer, receipts }
  }
}
