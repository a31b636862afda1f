import type { PlannedPart, PlanOffer, PlanResource } from '../../protocol/plan-api.ts'
import type { ClusterResource } from '../../protocol/api.ts'
import { bytes, duration, indented, table, timeLeft } from '../output.ts'

const price = (milli: number | null): string => milli === null ? '-' : milli === 0 ? 'free' : String(milli / 1000)
const total = (milli: number | null): string => milli === null ? '-' : milli === 0 ? 'free' : (milli / 1000).toFixed(3)
const when = (ms: number): string => new Date(Math.ceil(ms / 1000) * 1000).toISOString().replace('.000Z', 'Z')

function nodesText (offer: PlanOffer, wanted: number): string {
  if (offer.answer === 'none') return '-'
  return `${offer.nodes} of ${wanted}${offer.answer === 'cannot-quote' ? '?' : ''}`
}

function startText ({ taken, earliestMs }: PlanOffer, startMs: number): string {
  if (earliestMs === null) return '-'
  return taken || earliestMs <= startMs ? 'at the start' : when(earliestMs)
}

const shapeText = ({ shape }: PlanOffer): string => shape === null ? '-' : `${shape.vcpus} vCPU, ${shape.memoryMib} MiB`

/** Why a site does not take all of it, a line each. */
function whyLines (offer: PlanOffer): string[] {
  if (offer.answer === 'cannot-quote') return [`${offer.site}: cannot quote (older release); how many nodes it takes is what it advertises`]
  return offer.reasons.map(({ code, message }) => `${offer.site}: ${code}: ${message}`)
}

function placementTable (parts: readonly PlannedPart[]): string {
  return table(['site', 'nodes', 'volumes', 'frontend', 'price', 'total', 'over the wan', 'in'], parts.map(part => [
    part.site, String(part.nodes), part.volumes.length === 0 ? '-' : part.volumes.join(','), part.frontend ? 'yes' : '-', price(part.priceMilli), total(part.totalMilli),
    part.wanBytes === null ? 'unknown' : part.wanBytes === 0 ? '-' : bytes(part.wanBytes), part.wanBytes === 0 ? '-' : part.wanMs === null ? 'unknown' : duration(part.wanMs)
  ]))
}

/** What sites hold for a user, and at which price. */
export function heldTable (held: NonNullable<ClusterResource['held']>): string {
  return table(['site', 'nodes', 'volumes', 'frontend', 'price', 'total', 'held on'], held.map(part => [
    part.site, String(part.nodes), part.volumes.length === 0 ? '-' : part.volumes.join(','), part.frontend ? 'yes' : '-', price(part.priceMilli), total(part.totalMilli), part.hosts.join(',')
  ]))
}

/** How long it can still be accepted, and what to do with it. */
export function heldLines ({ name, heldUntil }: Pick<ClusterResource, 'name' | 'heldUntil'>, nowMs: number): string[] {
  const untilMs = heldUntil ?? 0
  return [
    `It is held until ${new Date(untilMs).toISOString()}, for another ${timeLeft(Math.max(0, untilMs - nowMs))}; nothing is decided.`,
    `  to have it built:  musubi cluster accept ${name}`, `  to give it back:   musubi cluster delete ${name}`
  ]
}

/** Whether other sites hold it than were planned, or other parts or prices, or it starts at another time. */
export const differs = (plan: PlanResource, { held, startsAt, createdAt }: ClusterResource): boolean => {
  const asOne = (parts: ReadonlyArray<Pick<PlannedPart, 'site' | 'nodes' | 'volumes' | 'priceMilli'>>): string =>
    JSON.stringify(parts.map(({ site, nodes, volumes, priceMilli }) => [site, nodes, volumes.toSorted(), priceMilli]).sort((a, b) => String(a[0]) < String(b[0]) ? -1 : 1))
  return asOne(plan.placement) !== asOne(held ?? []) || (startsAt > createdAt && startsAt !== plan.startMs)
}

/** What became of a plan that was to be held. */
export function heldText (plan: PlanResource, cluster: ClusterResource, nowMs = Date.now()): string {
  const { startsAt, expiresAt, name } = cluster
  const held = cluster.held ?? []
  const sum = held.reduce<number | null>((all, { totalMilli }) => all === null || totalMilli === null ? null : all + totalMilli, 0)
  return [
    `cluster ${name}: ${held.reduce((all, { nodes }) => all + nodes, 0)} nodes from ${when(startsAt)} for ${timeLeft(expiresAt - startsAt)}`, heldTable(held), `total ${total(sum)}`,
    ...differs(plan, cluster) ? ['That is not what was planned: sites were asked anew, and some gave other answers. See: musubi events'] : [], '', ...heldLines(cluster, nowMs)
  ].join('\n')
}

/** Offers side by side, why they are not for all of it, and what create would do, which people look for last. @param holding sites are asked to hold it next */
export function planText (plan: PlanResource, holding = false): string {
  const { offers, nodes, startMs, endMs } = plan
  const rows = table(['site', 'gateway', 'nodes', 'price', 'for all', 'rtt', 'all from', 'all now with'], offers.map(offer => [
    offer.site, offer.gateway, nodesText(offer, nodes), price(offer.priceMilli), offer.nodes === 0 ? '-' : total(offer.totalMilli), duration(offer.rttMs), startText(offer, startMs), shapeText(offer)
  ]))
  const why = offers.flatMap(whyLines)
  const hidden = plan.leftOut === 0 ? [] : [`${plan.leftOut} more ${plan.leftOut === 1 ? 'site was' : 'sites were'} not asked: name those that you want with --sites`]
  const head = `cluster ${plan.cluster}: ${nodes} ${nodes === 1 ? 'node' : 'nodes'} from ${when(startMs)} for ${timeLeft(endMs - startMs)}`
  const verdict = plan.fits
    ? ['It fits. musubi cluster create would ask for:', placementTable(plan.placement), `total ${total(plan.totalMilli)}; ${holding ? 'asking these sites to hold it' : 'nothing is held'}`]
    : [`It does not fit: ${indented(plan.problem, 2)}`, ...plan.nearest === '' ? [] : [`Nearest: ${plan.nearest}`], 'nothing is held']
  return [head, '', rows, ...why.length + hidden.length === 0 ? [] : ['', ...why, ...hidden], '', ...verdict].join('\n')
}
