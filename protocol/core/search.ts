import type { SearchQuery, SearchResult, SiteResource } from '../api.ts'
import { fullQuery, type FullQuery } from './search/query.ts'
import { nodesIn, reasonsOf, RULES } from './search/reasons.ts'
import { mibText, shapeText } from './search/text.ts'

/** Sites that an explanation names; the rest are counted. */
const NAMED = 8

interface Row {
  site: SiteResource
  /** 0 where a rule keeps the site out */
  nodes: number
  /** of the wanted ones: beyond them more is no better, nearer is */
  wanted: number
  rttMs: number
  ruledOut: boolean
  fits: boolean
}

const byText = (a: string, b: string): number => a < b ? -1 : a > b ? 1 : 0
/** Not by subtraction: unknown is infinite. */
const byNumber = (a: number, b: number): number => a < b ? -1 : a > b ? 1 : 0

const byRank = (a: Row, b: Row): number =>
  b.wanted - a.wanted || Number(b.fits) - Number(a.fits) || byNumber(a.rttMs, b.rttMs) || a.site.priceMilli - b.site.priceMilli || byText(a.site.site, b.site.site)
const byNodes = (a: Row, b: Row): number => b.nodes - a.nodes || byText(a.site.site, b.site.site)
const byName = (a: Row, b: Row): number => byText(a.site.site, b.site.site)

const LIVELINESS = { alive: 0, suspect: 1, dead: 2 } as const

/** Which of two gateways speaks for their site: one that lives, then the one that spoke last. */
const bySpeaker = (a: SiteResource, b: SiteResource): number =>
  LIVELINESS[a.state] - LIVELINESS[b.state] || a.ageMs - b.ageMs || byNumber(a.rttMs ?? Infinity, b.rttMs ?? Infinity) || byText(a.peerId, b.peerId)

/** One row a site: several gateways of a site advertise the same hosts, which are there once. */
function oneEach (sites: readonly SiteResource[]): Iterable<SiteResource> {
  const bySite = new Map<string, SiteResource>()
  for (const site of sites) {
    const other = bySite.get(site.site)
    if (other === undefined || bySpeaker(site, other) < 0) bySite.set(site.site, site)
  }
  return bySite.values()
}

/** The first of a list by some order, without sorting all of it. */
function firstBy (rows: readonly Row[], order: (a: Row, b: Row) => number, count: number): Row[] {
  const first: Row[] = []
  for (const row of rows) {
    const last = first.at(-1)
    if (first.length === count && last !== undefined && order(row, last) >= 0) continue
    let at = first.length
    for (let before = first[at - 1]; before !== undefined && order(row, before) < 0; before = first[at - 1]) at--
    first.splice(at, 0, row)
    if (first.length > count) first.pop()
  }
  return first
}

/** `3 at tokyo, 2 at osaka and 7 more sites` */
function placesText (rows: readonly Row[], order: (a: Row, b: Row) => number, name: (row: Row) => string): string {
  const named = firstBy(rows, order, NAMED).map(name).join(', ')
  const more = rows.length - NAMED
  return more <= 0 ? named : `${named} and ${more} more ${more === 1 ? 'site' : 'sites'}`
}

/** Nothing in here depends on where it is asked, as long as all sites are alive and no RTT is asked for. */
function explain (query: FullQuery, rows: readonly Row[], total: number, fits: boolean, breaches: readonly string[]): string {
  const shape = shapeText(query)
  const lenders = rows.filter(row => row.nodes > 0)
  const said = [fits ? 'It fits.' : 'It does not fit.']
  if (rows.length === 0) said.push('No site is known.')
  else if (lenders.length === 0) said.push(`No node of ${shape} fits anywhere, ${query.nodes} wanted.`)
  else said.push(`Nodes of ${shape} that fit: ${placesText(lenders, byNodes, row => `${row.nodes} at ${row.site.site}`)}; ${total} in all, ${query.nodes} wanted.`)
  if (query.volumeMib > 0) {
    const holders = rows.filter(row => !row.ruledOut && row.site.volumeFreeMib >= query.volumeMib)
    said.push(`A volume of ${mibText(query.volumeMib)} fits ${holders.length === 0 ? 'nowhere' : `at ${placesText(holders, byName, row => row.site.site)}`}.`)
  }
  if (breaches.length > 0) said.push(`Ruled out: ${breaches.join(', ')}.`)
  if (query.sites.length > 0) {
    const known = new Set(rows.map(row => row.site.site))
    const unknown = query.sites.filter(site => !known.has(site))
    if (unknown.length > 0) said.push(`Not known here: ${unknown.join(', ')}.`)
  }
  return said.join(' ')
}

/**
 * What each site could lend now for nodes of one shape, ranked, with every reason why a site would
 * not take all of it. The same function answers at the coordinator and in an agent's own view, so
 * both say the same. A pure function of its arguments: their order does not matter.
 *
 * `fits` of a site: it takes the whole search by itself, and has no reasons. `fits` of the answer:
 * the sites that no rule keeps out take it together. Free is what is free now; for a time window
 * only the sites' longest lease is looked at, the calendar is on the hosts.
 *
 * Ranking: how many of the wanted nodes fit, whether everything does, RTT (unknown last), price, name.
 *
 * @param query what is left out has the defaults of `searchDefaults`
 * @param sites several gateways of one site count once
 * @throws InvalidInputError when its time window is half, empty, or longer or shorter than any lease
 */
export function searchSites (query: Partial<SearchQuery>, sites: readonly SiteResource[]): SearchResult {
  const full = fullQuery(query)
  const rules = RULES.filter(rule => rule.asked(full))
  const breaches = rules.map(() => 0)
  const rows: Row[] = []
  let total = 0
  let volumeFits = full.volumeMib === 0
  let matching = 0
  for (const site of oneEach(sites)) {
    let ruledOut = false
    for (const [i, rule] of rules.entries()) {
      if (!rule.breaks(site, full)) continue
      ruledOut = true
      breaches[i] = (breaches[i] ?? 0) + 1
    }
    const nodes = ruledOut ? 0 : nodesIn(site.freeByHost, full)
    const volumeHere = !ruledOut && site.volumeFreeMib >= full.volumeMib
    const fits = nodes >= full.nodes && volumeHere
    rows.push({ site, nodes, wanted: Math.min(nodes, full.nodes), rttMs: site.rttMs ?? Infinity, ruledOut, fits })
    total += nodes
    if (volumeHere) volumeFits = true
    if (fits) matching++
  }
  const fits = total >= full.nodes && volumeFits
  const counted = rules.map((rule, i) => ({ by: rule.by, sites: breaches[i] ?? 0 })).filter(rule => rule.sites > 0)
    .map(rule => `${rule.sites} ${rule.sites === 1 ? 'site' : 'sites'} by ${rule.by}`)
  const explanation = explain(full, rows, total, fits, counted)
  const ranked = rows.sort(byRank).slice(0, full.limit)
  return {
    fits,
    nodesThatFit: total,
    known: rows.length,
    matching,
    sites: ranked.map(row => ({ ...row.site, nodesThatFit: row.nodes, fits: row.fits, reasons: row.fits ? [] : reasonsOf(row.site, full, rules) })),
    explanation
  }
}
