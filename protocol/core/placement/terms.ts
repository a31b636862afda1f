/** What a cluster asks of its placement: `spec.placement`, as users write it and as it is kept. */
import Type, { type Static } from 'typebox'
import { MAX_BANDWIDTH_MBIT, MAX_NODES_PER_CLUSTER, MAX_PLACEMENT_RTT_MS, MAX_PRICE_MILLI, MAX_SITES_PER_CLUSTER } from '../limits.ts'

const closed = { additionalProperties: false } as const
const SITE = '^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$'
const limit = (description: string): Type.TOptional<Type.TInteger> => Type.Optional(Type.Integer({ minimum: 1, maximum: MAX_NODES_PER_CLUSTER, description }))
const names = (description: string): Type.TOptional<Type.TArray<Type.TString>> => Type.Optional(Type.Array(Type.String({ maxLength: 32 }), { minItems: 1, maxItems: MAX_SITES_PER_CLUSTER, description }))

export const placementSectionSchema = Type.Object({
  hosts: Type.Optional(Type.String({ description: 'inside a site: `pack`, on as few hosts as possible, or `spread`, evenly; default pack' })),
  maxNodesPerHost: limit('nodes of the cluster on one host; default: no limit'),
  sites: Type.Optional(Type.String({ description: '`fewest` or `most`; default fewest' })),
  maxNodesPerSite: limit('nodes of the cluster at one site; default: no limit'),
  onlySites: names('sites that may have nodes'),
  notSites: names('sites that may have none'),
  maxRttMs: Type.Optional(Type.Number({ minimum: 0, maximum: MAX_PLACEMENT_RTT_MS, description: 'round trip from the master to the gateway of a site, ms' })),
  maxPrice: Type.Optional(Type.Number({ minimum: 0, maximum: MAX_PRICE_MILLI / 1000, description: 'per vCPU and hour, in the unit of the federation' })),
  minBandwidthMbit: Type.Optional(Type.Integer({ minimum: 1, maximum: MAX_BANDWIDTH_MBIT, description: 'of the WAN of each site, reserved, where the cluster spans several; Mbit/s' })),
  oneSiteFirst: Type.Optional(Type.Boolean({ description: 'all nodes at one site, if there is one that takes them; default false' })),
  preferWarmCache: Type.Optional(Type.Boolean({ description: 'of sites that are alike, first those that have the image; default true' }))
}, closed)

export type PlacementSection = Static<typeof placementSectionSchema>

/** Checked; what is absent is not asked for. */
export interface PlacementTerms {
  spread?: boolean
  maxNodesPerHost?: number
  mostSites?: boolean
  maxNodesPerSite?: number
  onlySites?: string[]
  notSites?: string[]
  maxRttMs?: number
  /** per vCPU and hour, thousandths of the federation's unit */
  maxPriceMilli?: number
  minBandwidthMbit?: number
  oneSiteFirst?: boolean
  /** false: no site is preferred for having the image */
  preferWarmCache?: boolean
}

const quoted = (value: unknown): string => JSON.stringify(value)

/** The terms that a section stands for, and what is wrong with it, one line each. @param count nodes of the cluster */
export function readPlacementSection (section: PlacementSection, count: number): { terms: PlacementTerms, problems: string[] } {
  const problems: string[] = []
  const bad = (field: string, text: string): void => { problems.push(`spec.placement.${field}: ${text}`) }
  const either = (field: 'hosts' | 'sites', first: string, second: string): boolean => {
    const value = section[field] ?? first
    if (value !== first && value !== second) bad(field, `must be ${first} or ${second}, not ${quoted(value)}`)
    return value === second
  }
  const spread = either('hosts', 'pack', 'spread')
  const mostSites = either('sites', 'fewest', 'most')
  for (const field of ['onlySites', 'notSites'] as const) {
    for (const [i, name] of (section[field] ?? []).entries()) if (!new RegExp(SITE).test(name)) bad(`${field}[${i}]`, `${quoted(name)} is no name of a site`)
  }
  const { maxNodesPerHost, maxNodesPerSite, maxRttMs, maxPrice, minBandwidthMbit, oneSiteFirst, preferWarmCache } = section
  const notSites = [...new Set(section.notSites)].sort()
  const onlySites = [...new Set(section.onlySites)].filter(site => !notSites.includes(site)).sort()
  if (section.onlySites !== undefined && onlySites.length === 0) bad('onlySites', 'notSites names all of them, so no site is left')
  const sites = section.onlySites === undefined ? MAX_SITES_PER_CLUSTER : onlySites.length
  if (maxNodesPerSite !== undefined && sites > 0 && maxNodesPerSite * sites < count) bad('maxNodesPerSite', `${count} nodes do not go on ${sites} sites of ${maxNodesPerSite} each${section.onlySites === undefined ? `, and a cluster spans at most ${MAX_SITES_PER_CLUSTER}` : ''}`)
  if (oneSiteFirst === true && mostSites) bad('oneSiteFirst', 'contradicts sites: most; leave one of them out')
  if (oneSiteFirst === true && maxNodesPerSite !== undefined && maxNodesPerSite < count) bad('oneSiteFirst', `contradicts maxNodesPerSite: ${maxNodesPerSite}, as there are ${count} nodes; leave one of them out`)
  return {
    problems,
    terms: {
      ...spread ? { spread } : {}, ...maxNodesPerHost === undefined ? {} : { maxNodesPerHost },
      ...mostSites ? { mostSites } : {}, ...maxNodesPerSite === undefined ? {} : { maxNodesPerSite },
      ...section.onlySites === undefined ? {} : { onlySites }, ...section.notSites === undefined ? {} : { notSites },
      ...maxRttMs === undefined ? {} : { maxRttMs }, ...maxPrice === undefined ? {} : { maxPriceMilli: Math.floor(Math.round(maxPrice * 1e6) / 1e3) },
      ...minBandwidthMbit === undefined ? {} : { minBandwidthMbit }, ...oneSiteFirst === true ? { oneSiteFirst } : {},
      ...preferWarmCache === false ? { preferWarmCache } : {}
    }
  }
}
