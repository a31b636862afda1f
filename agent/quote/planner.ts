import { bytesOf, type FactsOf } from '../images/facts.ts'
import type { CallPeer } from '../peers.ts'
import { createSight } from '../calendar/sight.ts'
import type { When } from '../master/term.ts'
import { type Outlook, outlookOf } from './outlook.ts'
import { nodeResources, type Refusal } from '../../protocol/core/placement/at-site.ts'
import { clampToZero, timesFitting } from '../../protocol/core/capacity.ts'
import { describeError, errorCode, NotFoundError } from '../../protocol/core/errors.ts'
import { MAX_PLAN_SITES, MAX_QUOTE_TEXT, QUOTE_DEADLINE_MS } from '../../protocol/core/limits.ts'
import type { KnownSite } from '../../protocol/core/master/events.ts'
import { newRecord } from '../../protocol/core/master/negotiation/negotiate.ts'
import { ROUNDS } from '../../protocol/core/master/pace.ts'
import { requestFor } from '../../protocol/core/master/say.ts'
import { quoteOf } from '../../protocol/core/quote/check.ts'
import { priceOf, type Quote } from '../../protocol/core/quote/quote.ts'
import { counterText } from '../../protocol/core/quote/text.ts'
import { parseClusterSpec, type ClusterSpec } from '../../protocol/core/spec.ts'
import { nodeName, type SitePart } from '../../protocol/core/placement/among-sites.ts'
import type { PlannedPart, PlanOffer, PlanResource } from '../../protocol/plan-api.ts'

export interface PlannerDeps {
  site: string
  call: CallPeer
  sites: () => readonly KnownSite[]
  /** ledger clock, Unix ms */
  now: () => number
  newId: () => string
  /** to a gateway; null: not measured */
  rttMs: (peer: string) => number | null
  /** the fastest that this gateway has sent to one lately, Mbit/s; null: not measured */
  sentMbit: (peer: string) => number | null
  /** the node image that a cluster would have */
  image: FactsOf
}

/** Asks sites what they would answer, and says what create would do with it. Nothing is held. */
export interface Planner {
  /**
   * @param only names of sites; empty: all, and the own one in any case
   * @throws InvalidInputError; NotFoundError for a site that is not known
   */
  plan (spec: unknown, when?: When, only?: readonly string[]): Promise<PlanResource>
}

/** An answer to one request: a quote, that there is none as the release is older, or why there is none. */
type Answer = { quote: Quote } | { quote: null, older: boolean, code: string, message: string }

/** All of a cluster, asked of one site. */
const wholePart = (spec: ClusterSpec, site: string, frontend: boolean): SitePart => ({
  site, frontend,
  nodes: Array.from({ length: spec.nodes.count }, (_, i) => ({ name: nodeName(spec.name, site, i + 1), vcpus: spec.nodes.vcpus, memoryMib: spec.nodes.memoryMiB })),
  volumes: spec.volumes.map(({ name, sizeMiB, node }) => ({ name, sizeMib: sizeMiB, node: nodeName(spec.name, site, node) }))
})

/** How many of the nodes a site takes by what it advertises. */
function advertised (spec: ClusterSpec, { freeByHost }: KnownSite): number {
  const need = nodeResources({ vcpus: spec.nodes.vcpus, memoryMib: spec.nodes.memoryMiB })
  return Math.min(spec.nodes.count, freeByHost.reduce((total, free) => total + timesFitting(need, clampToZero(free)), 0))
}

/** What is missing of the whole, then at each site. */
const linesOf = ({ refusal, missing }: Refusal): string[] => [missing.length === 0 ? refusal : refusal.slice(0, -missing.join('; ').length - 2), ...missing]

const reasonsOf = (answer: Answer): PlanOffer['reasons'] => answer.quote !== null ? answer.quote.reasons : answer.older ? [] : [{ code: answer.code, message: answer.message }]
/** Whether it would not lend anything of this, to whom asks, whatever the number of nodes. */
const lendsNothing = (answer: Answer): boolean => answer.quote === null ? !answer.older : !answer.quote.taken && answer.quote.nodes === 0 && answer.quote.reasons.some(({ code }) => code !== 'NO_CAPACITY')

export function createPlanner ({ site: own, call, sites, now, newId, rttMs, sentMbit, image: factsOf }: PlannerDeps): Planner {
  async function ask ({ site, peer }: KnownSite, part: SitePart, { spec, startMs, endMs }: Outlook): Promise<Answer> {
    const record = newRecord({ id: newId(), spec, vni: 1, imageDigest: '', startMs, endMs }, own, now())
    const { request } = requestFor(record, part, newId(), now()) as Extract<ReturnType<typeof requestFor>, { method: 'request' }>
    try {
      const reply = await call(peer, 'quote', { request }, { deadlineMs: QUOTE_DEADLINE_MS })
      return { quote: quoteOf(reply, { site, nodes: part.nodes.length, startMs: Math.max(startMs, now()) }) }
    } catch (error) {
      const code = errorCode(error)
      return { quote: null, older: code === 'UNIMPLEMENTED', code, message: describeError(error).slice(0, MAX_QUOTE_TEXT) }
    }
  }

  function offerOf (known: KnownSite, answer: Answer, { spec, startMs }: Outlook): PlanOffer {
    const { quote } = answer
    const older = 'older' in answer && answer.older
    const nodes = quote?.nodes ?? (older ? advertised(spec, known) : 0)
    return {
      site: known.site, gateway: known.gatewayHost, answer: quote !== null ? 'quote' : older ? 'cannot-quote' : 'none',
      taken: quote?.taken ?? false, nodes, priceMilli: quote?.priceMilli ?? null, totalMilli: quote?.totalMilli ?? null, rttMs: known.site === own ? 0 : rttMs(known.peer),
      earliestMs: quote?.earliestMs ?? null, shape: quote?.shape ?? null, reasons: reasonsOf(answer),
      counter: quote === null ? '' : counterText(quote, spec.nodes.count, startMs > now() ? 'then' : 'now')
    }
  }

  /** @throws NotFoundError */
  function named (spec: ClusterSpec, only: readonly string[]): { asked: KnownSite[], leftOut: number } {
    const known = sites()
    const unknown = only.find(name => known.every(({ site }) => site !== name))
    if (unknown !== undefined) throw new NotFoundError(`no site "${unknown.slice(0, 64)}" is known here`, `known are ${known.map(({ site }) => site).slice(0, 20).join(', ')}`)
    const ranked = known.filter(({ site }) => site === own || only.length === 0 || only.includes(site))
      .sort((a, b) => Number(b.site === own) - Number(a.site === own) || advertised(spec, b) - advertised(spec, a) || (a.site < b.site ? -1 : 1))
    return { asked: ranked.slice(0, MAX_PLAN_SITES), leftOut: Math.max(0, ranked.length - MAX_PLAN_SITES) }
  }

  /** Goes on as create does when it is refused: without the sites that would refuse, for as many rounds. */
  async function settle (first: Outlook, whole: ReadonlyMap<string, Answer>, among: (out: ReadonlySet<string>) => Promise<Outlook>): Promise<{ outlook: Outlook, quotes: ReadonlyMap<string, Quote>, problem: string, parts: readonly SitePart[] }> {
    const out = new Set([...whole].filter(([site, answer]) => site !== own && lendsNothing(answer)).map(([site]) => site))
    const refusals: string[] = []
    let outlook = out.size === 0 ? first : await among(out)
    for (let round = 1; ; round++) {
      const { placed, noStart } = outlook
      const fail = (problem: string): Awaited<ReturnType<typeof settle>> => ({ outlook, quotes: new Map(), parts: [], problem })
      if ('refusal' in placed || noStart !== null) return fail([...noStart === null ? [] : [noStart], ...'refusal' in placed ? linesOf(placed) : [], ...refusals].join('\n'))
      const answers = await Promise.all(placed.parts.map(async part => {
        const known = outlook.sites.find(({ site }) => site === part.site)
        const answer: Answer = known === undefined ? { quote: null, older: false, code: 'INTERNAL', message: 'it is not known any more' } : await ask(known, part, outlook)
        return { part, answer }
      }))
      // as create does with the offer
      const dear = (site: string, { quote }: Answer): boolean => site !== own && quote !== null && quote.priceMilli > (outlook.spec.placement?.maxPriceMilli ?? Infinity)
      const refused = answers.filter(({ part, answer }) => answer.quote === null ? !answer.older : !answer.quote.taken || dear(part.site, answer))
      if (refused.length === 0) return { outlook, parts: placed.parts, problem: '', quotes: new Map(answers.flatMap(({ part, answer }) => answer.quote === null ? [] : [[part.site, answer.quote]])) }
      for (const { part, answer } of refused) {
        out.add(part.site)
        refusals.push(answer.quote?.taken === true
          ? `${part.site} would ask ${answer.quote.priceMilli / 1000} per vCPU and hour, more than the cluster allows`
          : `${part.site} would refuse ${part.nodes.length} nodes: ${reasonsOf(answer).map(({ message }) => message).join('; ')}`)
      }
      if (out.has(own) || round >= ROUNDS) return fail(refusals.join('\n'))
      outlook = await among(out)
    }
  }

  /** Each far site's cache fetches the files of the image once; those of all sites share the way out of the master's. */
  function partOf (part: SitePart, { startMs, endMs, sites: seen }: Outlook, quotes: ReadonlyMap<string, Quote>, image: number | null, far: number): PlannedPart {
    const quote = quotes.get(part.site)
    const known = seen.find(({ site }) => site === part.site)
    const wanBytes = part.site === own ? 0 : image === null ? null : Math.max(0, image - (known?.warmBytes ?? 0))
    const configured = Math.min(quote?.wanMbit ?? 0, (quotes.get(own)?.wanMbit ?? 0) / Math.max(1, far))
    // it may have been the only one then, as now it would not be
    const measured = known === undefined ? null : sentMbit(known.peer)
    const rate = configured > 0 ? configured : (measured ?? 0) / Math.max(1, far)
    const timed = wanBytes !== null && wanBytes > 0 && rate > 0
    return {
      site: part.site, nodes: part.nodes.length, volumes: part.volumes.map(({ name }) => name), frontend: part.frontend,
      priceMilli: quote?.priceMilli ?? null, totalMilli: quote === undefined ? null : priceOf(part.nodes, quote.priceMilli, endMs - startMs),
      wanBytes, wanMs: timed ? Math.ceil(wanBytes * 8 / (rate * 1000)) : wanBytes === 0 ? 0 : null, wanFrom: !timed ? 'unknown' : configured > 0 ? 'configured' : 'measured'
    }
  }

  return {
    async plan (input, when = {}, only = []) {
      const spec = parseClusterSpec(input)
      const { asked, leftOut } = named(spec, only)
      const image = await factsOf(spec.image)
      const among = (out: ReadonlySet<string>): Promise<Outlook> => {
        const seen = asked.filter(({ site }) => !out.has(site))
        return outlookOf(createSight({ site: own, call, sites: () => seen, now, image: () => Promise.resolve(image) }), own, spec, when, now(), image?.digest ?? '')
      }
      const first = await among(new Set())
      const answers = await Promise.all(asked.map(async known => ({ known, answer: await ask(known, wholePart(first.spec, known.site, known.site === own), first) })))
      const { outlook, quotes, parts, problem } = await settle(first, new Map(answers.map(({ known, answer }) => [known.site, answer])), among)
      const far = parts.filter(({ site }) => site !== own).length
      const size = image === null ? null : bytesOf(image)
      const placement = parts.map(part => partOf(part, outlook, quotes, size, far))
      return {
        cluster: spec.name, fits: problem === '', startMs: outlook.startMs, endMs: outlook.endMs, nodes: spec.nodes.count, leftOut,
        offers: answers.map(({ known, answer }) => offerOf(known, answer, first)),
        placement, problem, nearest: problem === '' ? '' : outlook.nearest,
        totalMilli: placement.some(({ totalMilli }) => totalMilli === null) ? null : placement.reduce((total, { totalMilli }) => Math.min(Number.MAX_SAFE_INTEGER, total + (totalMilli ?? 0)), 0)
      }
    }
  }
}
