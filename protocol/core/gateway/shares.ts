/**
 * The quota of a site that borrows is split among the gateways of the lender. What a request takes beyond the own share is
 * leased on the ledgers of other gateways of the site: one more lease of kind `quota` at one more host, named after the
 * gateway that asks. The master is told of none of it: nothing of its cluster is there.
 */
import { type Resources, add, clampToZero, describeShortfall, fits, min, subtract, sum, zero } from '../capacity.ts'
import { MusubiError } from '../errors.ts'
import type { Held, Offer } from '../messages.ts'
import type { HostPeer } from './record.ts'

/** Name of the lease by which a gateway counts in its own ledger; one of another gateway has that gateway's name. */
export const OWN_SHARE = 'quota'

/** Another gateway of the site, with what its ledger still lends to the master's site: a hint, as all that is told. */
export interface Lender extends HostPeer { underlayAddress: string, free: Resources }

/** What may still be lent to the master's site in the term of a request. */
export interface ShareView {
  /** by the own ledger */
  own: Resources
  /** by those of other gateways; they are asked only when the own does not suffice */
  lenders: readonly Lender[]
}

const isNothing = (resources: Resources): boolean => fits(resources, zero())

/** How much of a rest a source takes, as the sum of the fractions of each dimension. */
function worth (part: Resources, rest: Resources): number {
  const fraction = (some: number, all: number): number => all === 0 ? 0 : some / all
  return fraction(part.vcpus, rest.vcpus) + fraction(part.memoryMib, rest.memoryMib) + fraction(part.diskMib, rest.diskMib) + fraction(part.volumes, rest.volumes) +
    fraction(part.bandwidthMbit, rest.bandwidthMbit) + fraction(part.nodes ?? 0, rest.nodes ?? 0)
}

/**
 * Divides what is needed, each dimension by itself: the own share takes what it can, of the others as few as will do take
 * the rest, and each no more than it has.
 *
 * @param lenders what each has free
 * @returns the own part, and those of lenders by their index, none of them nothing; null when all together have not enough
 */
export function divideShare (need: Resources, own: Resources, lenders: readonly Resources[]): { own: Resources, parts: Map<number, Resources> } | null {
  const first = min(need, clampToZero(own))
  const parts = new Map<number, Resources>()
  let rest = subtract(need, first)
  while (!isNothing(rest)) {
    const open = lenders.flatMap((free, i) => parts.has(i) ? [] : [{ i, part: min(rest, clampToZero(free)) }]).filter(({ part }) => !isNothing(part))
    // one that covers all of the rest is worth the most
    const [best] = open.sort((a, b) => worth(b.part, rest) - worth(a.part, rest) || a.i - b.i)
    if (best === undefined) return null
    parts.set(best.i, best.part)
    rest = subtract(rest, best.part)
  }
  return { own: first, parts }
}

/** What all gateways together still lend; each is counted from zero, as what one has overdrawn the others do not make good. */
export const lentInAll = ({ own, lenders }: ShareView): Resources => sum([clampToZero(own), ...lenders.map(({ free }) => clampToZero(free))])

/** Refuses what no division covers, with what is missing in all. */
export function noShare (site: string, masterSite: string, need: Resources, view: ShareView): MusubiError {
  const others = view.lenders.length === 0 ? '' : ` with ${view.lenders.map(({ host }) => host).slice(0, 8).join(', ')}`
  return new MusubiError('QUOTA_EXCEEDED', `site ${site} lends no more to site ${masterSite}${others}: ${describeShortfall(need, lentInAll(view))}`, { retryable: true, hint: 'release some of what this site has borrowed, or ask its administrators for more' })
}

/** Whether something is counted by another gateway than the one that offers it. */
export const isLent = (held: Pick<Held, 'kind' | 'peer'>, gateway: { peer: string }): boolean => held.kind === 'quota' && held.peer !== gateway.peer

/** An offer as its master is told of it: shares that other gateways lend are between the gateways of the site. */
export const toldOffer = (offer: Offer): Offer => ({ ...offer, held: offer.held.filter(held => !isLent(held, offer.gateway)) })

/** Peers that have nothing but lent shares among some parts. */
export function onlyLenders (parts: readonly Held[], gateway: { peer: string }): Set<string> {
  const others = new Set(parts.filter(held => !isLent(held, gateway)).map(held => held.peer))
  return new Set(parts.filter(held => !others.has(held.peer) && held.peer !== gateway.peer).map(held => held.peer))
}

/** Shares among some parts, by the host that counts them. */
export function sharesByHost (parts: readonly Held[]): Map<string, Resources> {
  const shares = new Map<string, Resources>()
  for (const { kind, host, resources } of parts) if (kind === 'quota') shares.set(host, add(shares.get(host) ?? zero(), resources))
  return shares
}
