/**
 * A master's pure machine among pretended lenders: effects are carried out one by one, what is saved
 * goes to a "disk", and everything can stop between any two effects.
 */
import { createHash } from 'node:crypto'
import { buildClusterDocument } from '../../protocol/core/document.ts'
import { MusubiError, UnreachableError } from '../../protocol/core/errors.ts'
import type { SiteAnswer } from '../../protocol/core/gateway/events.ts'
import { ACTIVATE_TTL_MS } from '../../protocol/core/limits.ts'
import type { KnownSite, LenderAsk, MasterEffect, MasterEvent } from '../../protocol/core/master/events.ts'
import { documentSource } from '../../protocol/core/master/changes/growth.ts'
import type { MasterMachine } from '../../protocol/core/master/machine.ts'
import type { MasterRecord } from '../../protocol/core/master/record.ts'
import { advance, emptyMaster, loadMaster } from '../../protocol/core/master/step.ts'
import type { ActivateRequest, Held, Offer, Receipt, Request } from '../../protocol/core/messages.ts'
import { nodeResources, volumeResources } from '../../protocol/core/placement/at-site.ts'
import { siteCapacityOf } from '../../protocol/core/placement/site-capacity.ts'
import type { ClusterSpec } from '../../protocol/core/spec.ts'
import { facts, spec } from './fixtures.ts'

export const T0 = 1_800_000_000_000
export const ID = '01234567-89ab-4cde-8f01-23456789abcd'

interface Lent { offer: Offer, state: 'held' | 'committed' | 'active' | 'ended', deadlineMs: number, startMs: number, endMs: number, formerEndMs: number, leases: Set<string> }
export interface Sent { callId: number, peer: string, ask: LenderAsk }
/** What a test makes of a question before the lender sees it: an answer of its own, an error, or nothing. */
export type Twist = (site: string, ask: LenderAsk) => SiteAnswer | MusubiError | 'lose reply' | null

export class Lender {
  readonly site: string
  readonly index: number
  readonly world: World
  readonly lent = new Map<string, Lent>()
  readonly extensions = new Map<string, { endMs: number, state: 'held' | 'committed' }>()
  endMs = 0
  version = 0
  nodes: string[] = []

  constructor (world: World, site: string, index: number) {
    this.world = world
    this.site = site
    this.index = index
  }

  sweep (): void {
    const { now } = this.world
    for (const one of this.lent.values()) {
      if ((one.state === 'held' || one.state === 'committed') && now >= one.deadlineMs) one.state = 'ended'
      if (one.state !== 'ended' && now >= this.endMs) one.state = 'ended'
    }
  }

  live (): Lent[] {
    this.sweep()
    return [...this.lent.values()].filter(one => one.state !== 'ended')
  }

  /** Names of what runs. */
  running (): string[] {
    return this.live().filter(one => one.state === 'active').flatMap(one => one.offer.held.filter(h => one.leases.has(h.leaseId)).map(h => h.name))
  }

  answer (ask: LenderAsk): SiteAnswer {
    const { now } = this.world
    this.sweep()
    switch (ask.method) {
      case 'request': return { method: 'request', reply: this.hold(ask.request) }
      case 'extend':
        if (this.live().length === 0) throw new MusubiError('NOT_FOUND', 'nothing to extend')
        this.extensions.set(ask.request.offerId, { endMs: ask.request.endMs, state: 'held' })
        return { method: 'extend', reply: { site: this.site, ttlMs: ask.request.ttlMs, nowMs: now } }
      case 'commit': return { method: 'commit', reply: { site: this.site, receipts: this.commit(ask.request.offerId) } }
      case 'activate': this.activate(ask.request); return { method: 'activate', reply: { site: this.site } }
      case 'release': return { method: 'release', reply: { site: this.site, ended: this.release(ask.request.offerId, ask.request.leaseIds) } }
      case 'keepAlive': return { method: 'keepAlive', reply: { site: this.site, state: this.running().length > 0 ? 'active' : '', endMs: this.endMs, epoch: ask.request.epoch, nowMs: now } }
    }
  }

  private hold (request: Request): Offer {
    const gateway = facts(this.site, this.index)
    const offerId = `${request.key}-${this.site}`
    const held = (kind: string, name: string, resources: Held['resources']): Held =>
      ({ leaseId: `${offerId}/${kind}/${name}`, kind, name, host: gateway.host, peer: gateway.peer, underlayAddress: gateway.underlayAddress, resources, token: 1 })
    const none = nodeResources({ vcpus: 0, memoryMib: 0 })
    const offer: Offer = {
      offerId, site: this.site, segmentId: 1000 + this.index, gateway, ttlMs: request.holdTtlMs, nowMs: this.world.now,
      held: [
        ...request.nodes.map(n => held('node', n.name, nodeResources(n))), ...request.volumes.map(v => held('volume', v.name, volumeResources(v))),
        ...(request.frontend ? [held('frontend', 'frontend', nodeResources({ vcpus: 1, memoryMib: 256 }))] : []), ...(request.grow ? [] : [held('segment', 'segment', none)])
      ]
    }
    this.lent.set(offerId, { offer, state: 'held', deadlineMs: this.world.now + request.holdTtlMs, startMs: request.startMs, endMs: request.endMs, formerEndMs: 0, leases: new Set(offer.held.map(h => h.leaseId)) })
    this.endMs = Math.max(this.endMs, request.endMs)
    return offer
  }

  private commit (offerId: string): Receipt[] {
    this.world.onCommit(offerId)
    const extension = this.extensions.get(offerId)
    if (extension !== undefined) {
      extension.state = 'committed'
      this.endMs = extension.endMs
      return []
    }
    const lent = this.lent.get(offerId)
    if (lent === undefined || lent.state === 'ended') throw new MusubiError('CONFLICT', `offer ${offerId} has ended`)
    if (lent.state === 'held') {
      lent.state = 'committed'
      lent.deadlineMs = Math.max(this.world.now, lent.startMs) + ACTIVATE_TTL_MS
    }
    return lent.offer.held.map(h => ({ leaseId: h.leaseId, host: h.host, token: 7 }))
  }

  private activate ({ document, receipts }: ActivateRequest): void {
    this.world.onActivate(document.sites.map(s => s.site), receipts)
    const live = this.live()
    if (live.length === 0) throw new MusubiError('CONFLICT', `the leases at ${this.site} have ended`)
    if (document.version < this.version) throw new MusubiError('CONFLICT', 'an older document')
    this.version = document.version
    this.nodes = document.nodes.map(n => n.name)
    for (const one of live) if (one.state === 'committed') one.state = 'active'
  }

  private release (offerId: string, leaseIds: readonly string[]): number {
    const extension = this.extensions.get(offerId)
    if (extension !== undefined) {
      this.extensions.delete(offerId)
      if (extension.state === 'committed') this.endMs = this.world.formerEndMs
      return 0
    }
    let ended = 0
    for (const one of this.lent.values()) {
      if (offerId !== '' && one.offer.offerId !== offerId) continue
      for (const id of [...one.leases]) {
        if (leaseIds.length > 0 && !leaseIds.includes(id)) continue
        one.leases.delete(id)
        ended++
      }
      if (one.leases.size === 0) one.state = 'ended'
    }
    return ended
  }
}

export class World {
  now = T0
  machine: MasterMachine = emptyMaster('tokyo')
  readonly disk = new Map<string, MasterRecord>()
  readonly lenders = new Map<string, Lender>()
  /** calls that were sent and have no answer yet */
  pending: Sent[] = []
  readonly sent: LenderAsk[] = []
  readonly notes: string[] = []
  readonly amended: Array<MusubiError | null> = []
  twist: Twist = () => null
  formerEndMs = 0
  copies = 0
  /** effects left until everything stops */
  fuel = Number.POSITIVE_INFINITY
  problems: string[] = []
  private ids = 0
  private readonly rooms: Record<string, number>

  /** @param rooms nodes that fit, by site */
  constructor (rooms: Record<string, number>) {
    this.rooms = rooms
    Object.keys(rooms).forEach((site, i) => this.lenders.set(site, new Lender(this, site, i)))
  }

  lender (site: string): Lender {
    const lender = this.lenders.get(site)
    if (lender === undefined) throw new Error(`no site ${site}`)
    return lender
  }

  newId (): string {
    return `00000000-0000-4000-8000-${String(++this.ids).padStart(12, '0')}`
  }

  record (id = ID): MasterRecord {
    const record = this.machine.records.get(id)
    if (record === undefined) throw new Error(`no record ${id}`)
    return record
  }

  known (): KnownSite[] {
    return Object.entries(this.rooms).map(([site, nodes]) => ({
      ...siteCapacityOf(site, [
        { host: `${site}-1`, roles: ['gateway', 'storage'], free: { vcpus: 4, memoryMib: 4096, diskMib: 1000, volumes: 9, bandwidthMbit: 0 } },
        { host: `${site}-2`, roles: ['compute'], free: { vcpus: nodes, memoryMib: nodes * 768, diskMib: 0, volumes: 0, bandwidthMbit: 0 } }
      ]),
      peer: `peer-${site}-1`, gatewayHost: `${site}-1`
    }))
  }

  /** No commit before the decision is on the disk. */
  onCommit (offerId: string): void {
    const record = this.disk.get(ID)
    const decided = record !== undefined && [...record.offers, ...record.amendment?.offers ?? []].some(o => o.offerId === offerId)
    const extended = record?.amendment?.id === offerId && record.amendment.state === 'committing'
    if (!decided && !extended) this.problems.push(`commit of ${offerId} without a decision on the disk`)
  }

  /** No activation unless everybody whose leases the document names has committed. */
  onActivate (sites: readonly string[], receipts: readonly Receipt[]): void {
    for (const site of sites) {
      for (const one of this.lender(site).live()) {
        const wanted = [...one.leases].filter(id => receipts.some(r => r.leaseId === id))
        if (one.state === 'held' && wanted.length > 0) this.problems.push(`activation while ${site} only holds`)
      }
    }
  }

  submit (event: MasterEvent): void {
    if (this.fuel <= 0) return
    const effects = advance(this.machine, event, this.now)
    if (effects.some(e => e.effect === 'save' || e.effect === 'forget') && this.burn()) {
      // As JSON, so that nothing but data survives; one batch, all or nothing.
      for (const e of effects) if (e.effect === 'save') this.disk.set(e.record.id, JSON.parse(JSON.stringify(e.record)) as MasterRecord)
      for (const e of effects) if (e.effect === 'forget') this.disk.delete(e.clusterId)
    }
    for (const effect of effects) if (effect.effect !== 'save' && effect.effect !== 'forget' && this.burn()) this.perform(effect)
  }

  private burn (): boolean {
    return --this.fuel >= 0
  }

  private perform (effect: MasterEffect): void {
    switch (effect.effect) {
      case 'call': this.pending.push(effect); this.sent.push(effect.ask); break
      case 'look': this.submit({ type: 'looked', clusterId: effect.clusterId, sites: this.known(), id: this.newId() }); break
      case 'prepare': this.prepare(effect.record); break
      case 'copy': this.copies++; this.submit({ type: 'copied', clusterId: effect.record.id, record: effect.record, copies: 1 }); break
      case 'note': this.notes.push(effect.message); break
      case 'amended': this.amended.push(effect.error); break
      case 'save':
      case 'forget': break
    }
  }

  prepare (record: MasterRecord): void {
    const { spec: wanted, offers, version, previous } = documentSource(record)
    const document = buildClusterDocument({
      id: record.id, name: record.name, spec: wanted, offers, masterSite: record.masterSite, masterPeer: 'peer-tokyo-1', vni: record.vni, nowMs: record.createdMs,
      endMs: record.endMs, startMs: record.startMs, epoch: record.epoch, version, previous, sshPublicKey: 'k', imageDigest: record.imageDigest, hash: text => createHash('sha256').update(text).digest('hex')
    })
    this.submit({ type: 'prepared', clusterId: record.id, document, secrets: record.spec.volumes.map(v => ({ name: v.name, user: 'u', secret: 's' })) })
  }

  siteOf = (peer: string): string => peer.replace(/^peer-(.*)-1$/, '$1')

  /** Carries out one call that is under way, and brings its answer back. */
  deliver (sent: Sent): void {
    this.pending = this.pending.filter(one => one !== sent)
    const site = this.siteOf(sent.peer)
    const twisted = this.twist(site, sent.ask)
    if (twisted instanceof MusubiError) { this.submit({ type: 'failed', callId: sent.callId, error: twisted }); return }
    if (twisted !== null && twisted !== 'lose reply') { this.submit({ type: 'reply', callId: sent.callId, answer: twisted }); return }
    try {
      const answer = this.lender(site).answer(structuredClone(sent.ask))
      this.submit(twisted === 'lose reply' ? { type: 'failed', callId: sent.callId, error: lost(site) } : { type: 'reply', callId: sent.callId, answer })
    } catch (error) {
      this.submit({ type: 'failed', callId: sent.callId, error: error instanceof MusubiError ? error : new MusubiError('INTERNAL', String(error)) })
    }
  }

  /** Until nobody waits for an answer. */
  settle (): void {
    for (let next = this.pending[0]; next !== undefined && this.fuel > 0; next = this.pending[0]) this.deliver(next)
  }

  /** Time passes in steps, as the shell's ticks. */
  pass (ms: number, stepMs = 250): void {
    for (let left = ms; left > 0; left -= stepMs) {
      this.now += Math.min(stepMs, left)
      this.submit({ type: 'tick' })
      this.settle()
    }
  }

  /** @param holdMs absent: it is decided by itself */
  create (part: Partial<ClusterSpec> = {}, startMs = this.now, holdMs?: number): void {
    const wanted = spec({ ...part })
    this.formerEndMs = startMs + wanted.termMs
    this.submit({ type: 'create', cluster: { id: ID, spec: wanted, vni: 7, imageDigest: 'd', startMs, endMs: startMs + wanted.termMs, ...holdMs === undefined ? {} : { holdMs } } })
  }

  /** The process dies: what was sent may arrive all the same; then it starts again from its disk. */
  crash (arrive: boolean): void {
    this.fuel = Number.POSITIVE_INFINITY
    const { pending } = this
    this.pending = []
    if (arrive) for (const sent of pending) { try { this.lender(this.siteOf(sent.peer)).answer(structuredClone(sent.ask)) } catch { /* nobody hears it */ } }
    this.machine = loadMaster('tokyo', [...this.disk.values()].map(r => structuredClone(r)))
    this.submit({ type: 'start' })
    this.settle()
  }

  /** What runs everywhere. */
  running (): string[] {
    return [...this.lenders.values()].flatMap(lender => lender.running()).sort()
  }

  live (): number {
    return [...this.lenders.values()].reduce((n, lender) => n + lender.live().length, 0)
  }
}

export const lost = (site: string): UnreachableError => new UnreachableError(`${site} did not answer`)
