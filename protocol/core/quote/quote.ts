/**
 * What a site would answer to a request, and what it could give instead. Nothing is held, so nothing is promised: it
 * is true of the moment at which it was worked out. The same placement and the same shares as those of a request decide.
 */
import { type Resources, clampToZero, describeShortfall, fits, subtract, sum, timesFitting, zero } from '../capacity.ts'
import { type HostCalendar, type SiteCalendar, earliestTogether, leastIn } from '../calendar/together.ts'
import type { MusubiError } from '../errors.ts'
import type { RoomByNotice, SiteHost } from '../gateway/events.ts'
import { lacksLocal, ownParts, wantedOf } from '../gateway/place.ts'
import { MAX_QUOTE_REASONS, MAX_QUOTE_TEXT, MAX_QUOTE_TRIES, MAX_TERM_MS } from '../limits.ts'
import type { Request } from '../messages.ts'
import { FRONTEND_RESOURCES, nodeResources, placeAtSite } from '../placement/at-site.ts'
import { MIN_MEMORY_MIB_PER_NODE } from '../spec.ts'

/** `code`: as the request would be refused with. */
export interface QuoteReason { code: string, message: string }

export interface Shape { vcpus: number, memoryMib: number }

export interface Quote {
  taken: boolean
  /** why it would not be taken; empty when it would */
  reasons: QuoteReason[]
  /** for the site that asks, per vCPU and hour, thousandths of the federation's unit */
  priceMilli: number
  /** for all that is asked for, over its term */
  totalMilli: number
  /** the first so many of its nodes, with their volumes, would be taken */
  nodes: number
  /** all of it would be taken from then on, Unix ms; null: no such start is known */
  earliestMs: number | null
  /** sites of which clusters would get notice for that start; absent: there is room then without */
  noticeSites?: readonly string[]
  /** all of its nodes would be taken in this shape, which is smaller; null: in none that would do */
  shape: Shape | null
  /** what the gateway's WAN has free, Mbit/s; 0: not known */
  wanMbit: number
}

/** A site at one time: what is free, and what speaks against lending. */
interface Moment {
  /** with what each has free in the whole of the term */
  hosts: readonly SiteHost[]
  /** policy or cordon refuses; null when neither does */
  refusal: MusubiError | null
  /** what the asking site may still borrow; null: without a bound */
  quota: Resources | null
}

export interface QuoteView {
  /** with what each has free in the whole term that is asked for */
  hosts: readonly SiteHost[]
  /** host that carries the segment */
  gateway: string
  /** whether the gateway counts what the asking site borrows */
  counted: boolean
  /** what it may still borrow over time, of each gateway of the site that lends to it; null: without a bound */
  quota: ReadonlyArray<HostCalendar['steps']> | null
  /** segment ids that could be given out now */
  ids: number
  /** what policy or cordon say to a term */
  refusal: (startMs: number, endMs: number) => MusubiError | null
  /** of hosts that take leases, for a later start; null: it is not looked for */
  calendars: readonly HostCalendar[] | null
  /** what the asking site could have by notice to others; absent: nothing */
  byNotice?: {
    /** `calendars` with it */
    calendars: readonly HostCalendar[]
    /** for a request, at its start: as a request would be placed */
    room: (request: Request) => RoomByNotice | null
  }
  priceMilli: number
  nowMs: number
}

const HOUR_MS = 3_600_000
/** Steps of vCPUs in which a smaller shape is looked for. */
const SHAPE_STEPS = 32

const brief = (text: string): string => text.length > MAX_QUOTE_TEXT ? `${text.slice(0, MAX_QUOTE_TEXT - 3)}...` : text

/** `node a: x` and `node b: x` as `2 nodes: x`: many nodes lack the same, which is said once. */
function folded (missing: readonly string[]): string[] {
  const groups = Map.groupBy(missing, line => /^node [^:]+: (.*)$/s.exec(line)?.[1] ?? '')
  const alike = [...groups].filter(([what]) => what !== '').map(([what, lines]) => lines.length === 1 ? lines[0] ?? '' : `${lines.length} nodes: ${what}`)
  return [...groups.get('') ?? [], ...alike]
}

/** Everything that speaks against a request at a time; empty: it would be taken. */
function judge (request: Request, { hosts, refusal, quota }: Moment, view: Pick<QuoteView, 'gateway' | 'counted' | 'ids'>): QuoteReason[] {
  if (refusal !== null) return [{ code: refusal.code, message: brief(refusal.message) }]
  const placed = placeAtSite(request, hosts.map(host => lacksLocal(request, host) ? { ...host, free: { ...host.free, vcpus: 0, memoryMib: 0 } } : host))
  const reasons: QuoteReason[] = []
  const lack = (message: string): void => { reasons.push({ code: 'NO_CAPACITY', message: brief(message) }) }
  if ('refusal' in placed) folded(placed.missing).slice(0, MAX_QUOTE_REASONS - 3).forEach(lack)
  const borrowed = 'refusal' in placed ? wantedOf(request) : sum(placed.assignments.map(part => part.resources))
  const own = ownParts({ quota: view.counted }, request, false, borrowed)
  const carries = clampToZero(hosts.find(host => host.host === view.gateway)?.free ?? zero())
  const segments = own.filter(part => part.kind === 'segment')
  for (const { resources } of segments) if (resources.bandwidthMbit > carries.bandwidthMbit) lack(`gateway ${view.gateway}: ${describeShortfall(resources, carries)}`)
  if (segments.length > view.ids) lack(`gateway ${view.gateway} has ${view.ids} free segment ids, ${segments.length} are needed`)
  const share = own.find(part => part.kind === 'quota')
  const left = quota === null ? null : clampToZero(quota)
  if (share !== undefined && left !== null && !fits(share.resources, left)) reasons.push({ code: 'QUOTA_EXCEEDED', message: brief(`site ${request.masterSite} may not borrow so much: ${describeShortfall(share.resources, left)}`) })
  return reasons
}

/** The shares of all gateways together: each of them counts by itself, and what one has overdrawn the others do not make good. */
const quotaIn = ({ quota }: QuoteView, fromMs: number, untilMs: number): Resources | null =>
  quota === null ? null : sum(quota.map(steps => clampToZero(leastIn(steps, fromMs, untilMs))))

const atTime = (request: Request, view: QuoteView, calendars: readonly HostCalendar[], startMs: number): Moment => {
  const endMs = startMs + request.endMs - request.startMs
  const steps = new Map(calendars.map(calendar => [calendar.host, calendar.steps]))
  return {
    // who says nothing of its calendar could not be asked to hold anything either
    hosts: view.hosts.flatMap(host => {
      const own = steps.get(host.host)
      return own === undefined ? [] : [{ ...host, free: leastIn(own, startMs, endMs) }]
    }),
    refusal: view.refusal(startMs, endMs),
    quota: quotaIn(view, startMs, endMs)
  }
}

/** By whose notice a request would be taken that would not be otherwise; null: not even so. */
function roomBeside (request: Request, moment: Moment, view: QuoteView): RoomByNotice | null {
  const room = moment.refusal === null ? view.byNotice?.room(request) ?? null : null
  return room !== null && judge(request, { ...moment, hosts: room.hosts }, view).length === 0 ? room : null
}

/** The first so many nodes, with the volumes of those. */
export function firstNodes (request: Request, count: number): Request {
  const nodes = request.nodes.slice(0, count)
  const names = new Set(nodes.map(node => node.name))
  return { ...request, nodes, volumes: request.volumes.filter(volume => names.has(volume.node)) }
}

/** Whether only its nodes keep a request from being taken is found by halves: what is returned was tried. */
function mostNodes (request: Request, fitting: (request: Request) => boolean): number {
  let least = 0
  let most = request.nodes.length - 1
  while (least < most) {
    const middle = Math.ceil((least + most) / 2)
    if (fitting(firstNodes(request, middle))) least = middle
    else most = middle - 1
  }
  return least
}

/** The shape that all nodes have; null when there is none, or they differ. */
function shapeOf ({ nodes }: Request): Shape | null {
  const [first] = nodes
  return first !== undefined && nodes.every(node => node.vcpus === first.vcpus && node.memoryMib === first.memoryMib) ? { vcpus: first.vcpus, memoryMib: first.memoryMib } : null
}

/** Nodes of a request that a host takes by its terms. */
const mostOnHost = ({ maxNodesPerHost }: Request): number => maxNodesPerHost === undefined || maxNodesPerHost === 0 ? Infinity : maxNodesPerHost

/** The shape in which all nodes would be taken that comes nearest to what is asked for in the dimension that suffers most. */
function largestShape (request: Request, { hosts, quota }: Moment, fitting: (request: Request) => boolean): Shape | null {
  const asked = shapeOf(request)
  if (asked === null) return null
  const beside = placeAtSite({ ...request, nodes: [] }, hosts)
  if ('refusal' in beside) return null
  const left = hosts.filter(host => host.cordoned !== true && host.roles.includes('compute') && !lacksLocal(request, host)).map(host =>
    clampToZero(beside.assignments.filter(part => part.host === host.host).reduce((free, part) => subtract(free, part.resources), host.free)))
  const count = request.nodes.length
  const bound = quota === null ? null : clampToZero(subtract(quota, sum(beside.assignments.map(part => part.resources))))
  const hasRoom = (shape: Shape): boolean =>
    left.reduce((total, free) => total + Math.min(mostOnHost(request), timesFitting(nodeResources(shape), free)), 0) >= count && (bound === null || (count * shape.vcpus <= bound.vcpus && count * shape.memoryMib <= bound.memoryMib))
  const mostMemory = (vcpus: number): number => {
    let least = MIN_MEMORY_MIB_PER_NODE - 1
    let most = asked.memoryMib
    while (least < most) {
      const middle = Math.ceil((least + most) / 2)
      if (hasRoom({ vcpus, memoryMib: middle })) least = middle
      else most = middle - 1
    }
    return least
  }
  const step = Math.max(1, Math.ceil(asked.vcpus / SHAPE_STEPS))
  let best: Shape | null = null
  const share = (shape: Shape): number => Math.min(shape.vcpus / asked.vcpus, shape.memoryMib / asked.memoryMib)
  for (let vcpus = asked.vcpus; vcpus >= 1; vcpus -= step) {
    const shape = { vcpus, memoryMib: mostMemory(vcpus) }
    if (shape.memoryMib >= MIN_MEMORY_MIB_PER_NODE && (best === null || share(shape) > share(best))) best = shape
  }
  return best !== null && fitting({ ...request, nodes: request.nodes.map(node => ({ ...node, ...best })) }) ? best : null
}

type Earliest = Pick<Quote, 'earliestMs' | 'noticeSites'>

/** The first moment at which all of it would be taken, looked for where something that is missing comes free. */
function earliest (request: Request, view: QuoteView, calendars: readonly HostCalendar[]): Earliest {
  const durationMs = request.endMs - request.startMs
  const fromMs = Math.max(request.startMs, view.nowMs)
  const smallest: Shape = { vcpus: Math.min(...request.nodes.map(node => node.vcpus)), memoryMib: Math.min(...request.nodes.map(node => node.memoryMib)) }
  const need = nodeResources(request.nodes.length === 0 ? { vcpus: 0, memoryMib: 0 } : smallest)
  const cost = sum(request.nodes.map(nodeResources))
  const shares: SiteCalendar[] = view.counted && view.quota !== null ? [{ site: 'quota', hosts: view.quota.map((steps, i) => ({ host: `quota ${i}`, roles: ['quota'], steps })) }] : []
  const from = (startMs: number): Request => ({ ...request, startMs, endMs: startMs + durationMs })
  let noticeSites: string[] = []
  const earliestMs = earliestTogether([{ site: 'site', hosts: view.byNotice?.calendars ?? calendars }, ...shares], {
    fromMs, latestMs: view.nowMs + MAX_TERM_MS, durationMs, nodes: request.nodes.length, nodesIn: free => Math.min(request.nodes.length, mostOnHost(request), timesFitting(need, free)), tries: MAX_QUOTE_TRIES,
    watch: [
      { role: 'gateway', figure: free => Number(fits(FRONTEND_RESOURCES, free)) },
      { role: 'gateway', figure: free => free.bandwidthMbit },
      { role: 'storage', figure: free => free.volumes > 0 ? free.diskMib : 0 },
      { role: 'quota', figure: free => Math.min(free.vcpus - cost.vcpus, 0) },
      { role: 'quota', figure: free => Math.min(free.memoryMib - cost.memoryMib, 0) },
      { role: 'quota', figure: free => free.diskMib },
      { role: 'quota', figure: free => free.volumes },
      { role: 'quota', figure: free => Math.min(free.bandwidthMbit - request.bandwidthMbit, 0) },
      { role: 'quota', figure: free => Math.min((free.nodes ?? 0) - request.nodes.length, 0) }
    ],
    fits (startMs) {
      const then = atTime(request, view, calendars, startMs)
      noticeSites = []
      if (judge(request, then, view).length === 0) return true
      const room = roomBeside(from(startMs), then, view)
      noticeSites = [...new Set(room?.clusters.map(({ site }) => site))].sort()
      return room !== null
    }
  })
  return { earliestMs, ...earliestMs === null || noticeSites.length === 0 ? {} : { noticeSites } }
}

/** Of some nodes for a term, thousandths, rounded up; never more than a number can hold. */
export const priceOf = (nodes: ReadonlyArray<{ vcpus: number }>, priceMilli: number, termMs: number): number =>
  Math.min(Number.MAX_SAFE_INTEGER, Math.ceil(nodes.reduce((total, node) => total + node.vcpus, 0) * priceMilli * termMs / HOUR_MS))

const asAsked = (request: Request, view: QuoteView): Moment =>
  ({ hosts: view.hosts, refusal: view.refusal(request.startMs, request.endMs), quota: quotaIn(view, Math.max(request.startMs, view.nowMs), request.endMs) })

/** Whether a request would be taken, without what could be given instead. */
export const isTaken = (request: Request, view: QuoteView): boolean => judge(request, asAsked(request, view), view).length === 0

/**
 * What the site would answer to a request now.
 *
 * How many leases and holds each host has for the asker, and whether a host answers, is not known here: for those, and for what
 * others get meanwhile, a request that would be taken can still be refused.
 */
export function quoteFor (request: Request, view: QuoteView): Quote {
  const now = asAsked(request, view)
  const lacking = judge(request, now, view)
  const reasons = lacking.length > 0 && roomBeside(request, now, view) !== null ? [] : lacking
  const taken = reasons.length === 0
  const fitting = (asked: Request): boolean => judge(asked, now, view).length === 0
  const instead = !taken && now.refusal === null && request.nodes.length > 0
  return {
    taken, reasons,
    priceMilli: view.priceMilli, totalMilli: priceOf(request.nodes, view.priceMilli, request.endMs - request.startMs),
    nodes: taken ? request.nodes.length : instead ? mostNodes(request, fitting) : 0,
    ...taken ? { earliestMs: Math.max(request.startMs, view.nowMs) } : view.calendars === null ? { earliestMs: null } : earliest(request, view, view.calendars),
    shape: instead ? largestShape(request, now, fitting) : null,
    wanMbit: clampToZero(view.hosts.find(host => host.host === view.gateway)?.free ?? zero()).bandwidthMbit
  }
}
