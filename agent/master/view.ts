import type { HostStatus } from '../peers.ts'
import { detailOf, figure, inner } from './details.ts'
import type { ClusterNotes, ClusterRecord } from './record.ts'
import { noPhases } from './record.ts'
import { PHASES, type ClusterResource, type NodeResource, type Phases } from '../../protocol/api.ts'
import type { Contact } from '../../protocol/core/master/machine.ts'
import { acceptUntilMs, type MasterRecord } from '../../protocol/core/master/record.ts'
import { localOf, localVniOf } from '../../protocol/core/network/local.ts'
import type { ClusterNode } from '../../protocol/core/messages.ts'
import { priceOf } from '../../protocol/core/quote/quote.ts'

/** Nodes and other sites write these texts. */
const short = (text: string): string => text.slice(0, 200)
const wanBytesOf = ({ wire }: Record<string, unknown>): number => figure(inner(wire).static) + figure(inner(wire).dynamic)
const pausedOf = ({ budget }: Record<string, unknown>): string => {
  const { paused } = inner(budget)
  return typeof paused === 'string' ? short(paused) : ''
}

/** Why the caches of a cluster fetch nothing before nodes ask, by site. */
export function pausedCaches (statuses: readonly HostStatus[]): Map<string, string> {
  return new Map(statuses.map(host => [host.site, pausedOf(detailOf(host, 'cache'))] as const).filter(([, why]) => why !== ''))
}

/** Phases that the frontend saw in a node's latest boot: epoch ms each, and why it failed. */
interface SeenPhases { dhcp?: unknown, boot?: unknown, image?: unknown, ready?: unknown, failed?: unknown, reason?: unknown }

/**
 * Folds what hosts report into the notes: phases only ever get set, never taken back.
 *
 * @param now epoch ms at the master
 * @returns whether anything changed that must be kept
 */
export function foldStatus (record: Pick<MasterRecord, 'document' | 'createdMs' | 'negotiateMs'>, notes: Pick<ClusterNotes, 'phases' | 'failures'>, statuses: readonly HostStatus[], now: number): boolean {
  const document = record.document
  if (document === null) return false
  const before = JSON.stringify([notes.phases, notes.failures])
  const frontendHost = statuses.find(s => s.host === document.frontend.host && s.site === document.frontend.site)
  const seen = (detailOf(frontendHost, 'frontend').phases ?? {}) as Record<string, SeenPhases | undefined>
  const failures = new Map(Object.entries(notes.failures))
  for (const node of document.nodes) {
    const phases = notes.phases[node.name] ??= { ...noPhases(), leased: record.negotiateMs }
    const domain = objectOfNode(statuses, node)
    if (domain?.state === 'ok' && phases.defined === null) phases.defined = now - record.createdMs
    const of = seen[node.name]
    for (const phase of ['dhcp', 'boot', 'image', 'ready'] as const) {
      const at = figure(of?.[phase])
      if (at > 0 && phases[phase] === null) phases[phase] = Math.max(0, Math.round(at - record.createdMs))
    }
    if (figure(of?.failed) > 0) failures.set(node.name, typeof of?.reason === 'string' ? short(of.reason) : 'no reason given')
    if (phases.ready !== null) failures.delete(node.name)
  }
  notes.failures = Object.fromEntries(failures)
  return JSON.stringify([notes.phases, notes.failures]) !== before
}

function objectOfNode (statuses: readonly HostStatus[], node: ClusterNode): HostStatus['objects'][number] | undefined {
  return statuses.find(s => s.host === node.host && s.site === node.site)?.objects.find(o => o.kind === 'domain' && o.name.endsWith(`.${node.name}`))
}

/** The latest phase in a word, for tables. */
function stateOf (phases: Phases, failure: string | undefined): string {
  if (failure !== undefined) return `failed: ${failure}`
  return [...PHASES].reverse().find(p => phases[p] !== null) ?? 'waiting'
}

/** What the last keep-alives told, by site, and the clock that they are measured on. */
export interface KeepAlives { contacts: ReadonlyMap<string, Contact>, now: number }

/** A lender that has given notice says so, with an end before that of the cluster. */
const endsEarly = (contact: Contact | undefined, record: ClusterRecord): contact is Contact => contact !== undefined && contact.state.startsWith('active, preempted') && contact.endMs > 0 && contact.endMs < record.endMs

function lendersOf (record: ClusterRecord, { contacts, now }: KeepAlives): ClusterResource['lenders'] {
  return record.offers.map(({ site, gateway, priceMilli = 0 }) => {
    const contact = contacts.get(site)
    const heard = contact !== undefined && contact.heardMs > 0
    return { site, gateway: gateway.host, state: contact?.state ?? '', heardAgoMs: heard ? Math.max(0, now - contact.heardMs) : null, skewMs: heard ? contact.skewMs : null, error: short(contact?.error ?? ''), ...endsEarly(contact, record) ? { endsAt: contact.endMs } : {}, ...contact?.notice === undefined ? {} : { notice: contact.notice }, ...priceMilli === 0 ? {} : { priceMilli } }
  })
}

/** What is held for its user, and until when it can be accepted. */
function heldOf ({ state, hold, offers, endMs, startMs, masterSite, spec }: ClusterRecord): Pick<ClusterResource, 'heldUntil' | 'held'> {
  if (state !== 'offered' || hold === undefined) return { heldUntil: null, held: null }
  return {
    heldUntil: acceptUntilMs(hold),
    held: offers.map(({ site, held, priceMilli }) => {
      const nodes = held.filter(one => one.kind === 'node')
      const asks = site === masterSite ? 0 : priceMilli
      const names = (kind: string): string[] => held.filter(one => one.kind === kind).map(one => one.name)
      return {
        site, nodes: nodes.length, volumes: names('volume'), frontend: names('frontend').length > 0, hosts: [...new Set(held.map(one => one.host))].sort(),
        priceMilli: asks ?? null, totalMilli: asks === undefined ? null : priceOf(nodes.map(() => ({ vcpus: spec.nodes.vcpus })), asks, endMs - startMs)
      }
    })
  }
}

/** The resource that API and CLI show: record plus the last status of the member hosts. */
export function clusterView (record: ClusterRecord, statuses: readonly HostStatus[], keepAlives: KeepAlives = { contacts: new Map(), now: 0 }): ClusterResource {
  const document = record.document
  const hostOf = (site: string, host: string): HostStatus | undefined => statuses.find(s => s.site === site && s.host === host)
  const nodes = (document?.nodes ?? []).map((node): NodeResource => {
    const phases = record.phases[node.name] ?? noPhases()
    const local = document === null ? null : localOf(document, node)
    return {
      name: node.name, site: node.site, host: node.host, mac: node.mac, ip: node.ip, ...(local === null ? {} : { local: { mac: local.mac, ip: local.ip } }),
      ready: phases.ready !== null, phases, state: stateOf(phases, record.failures[node.name]),
      rxBytes: figure(detailOf(hostOf(node.site, node.host), 'domain', `.${node.name}`).rxBytes)
    }
  })
  const far = (document?.sites ?? []).filter(s => s.site !== document?.masterSite)
  const caches = far.map(s => {
    const detail = detailOf(hostOf(s.site, s.gateway.host), 'cache')
    return { site: s.site, requests: figure(detail.requests), hits: figure(detail.hits), bytesToNodes: figure(detail.bytesToNodes), bytesFromUpstream: figure(detail.bytesFromUpstream), wanBytes: wanBytesOf(detail), paused: pausedOf(detail) }
  })
  const { localCidr: cidr } = record.spec
  const local = cidr === undefined ? {} : { local: { vni: localVniOf(record.vni), cidr, ids: Object.fromEntries(record.offers.map(o => [o.site, o.localSegmentId ?? 0])) } }
  return {
    id: record.id, name: record.name, state: record.state, error: record.error,
    createdAt: record.createdMs, startsAt: record.startMs, expiresAt: record.endMs, masterSite: record.masterSite, epoch: record.epoch, cidr: record.spec.cidr, domain: document?.domain ?? '',
    frontend: document === null ? null : { name: document.frontend.name, site: document.frontend.site, host: document.frontend.host, ip: document.frontend.ip, mac: document.frontend.mac },
    nodes,
    volumes: (document?.volumes ?? []).map(v => ({ name: v.name, site: v.site, host: v.host, node: v.node, sizeMib: v.sizeMib, iqn: v.iqn })),
    lease: { sites: record.offers.length, holds: record.offers.reduce((n, o) => n + o.held.length, 0), negotiateMs: record.negotiateMs, rttMs: record.rttMs },
    ...heldOf(record),
    lenders: lendersOf(record, keepAlives),
    segment: { vni: record.vni, ids: Object.fromEntries(record.offers.map(o => [o.site, o.segmentId])), mtuInner: record.mtuInner, firstPingMs: record.firstPingMs, ...local },
    wan: {
      bytes: far.reduce((n, s) => n + figure(detailOf(hostOf(s.site, s.gateway.host), 'segment', 'segment').wanRxBytes), 0),
      bytesWithoutCache: nodes.filter(n => n.site !== document?.masterSite).reduce((n, x) => n + x.rxBytes, 0)
    },
    caches, cacheRetainMs: record.spec.cache?.retainMs ?? null,
    timings: {
      createMs: record.readyMs === null ? null : record.readyMs - record.createdMs,
      deleteMs: record.state !== 'deleted' || record.deleteStartedMs === null ? null : Math.max(0, record.endedMs - record.deleteStartedMs)
    },
    problems: statuses.flatMap(s => s.reachable
      ? s.objects.filter(o => o.error !== '').map(o => ({ site: s.site, host: s.host, kind: short(o.kind), name: short(o.name), error: short(o.error) }))
      : [{ site: s.site, host: s.host, kind: 'host', name: s.host, error: 'does not answer' }])
  }
}
