/**
 * `search-1000x100`: directory search over 1,000 sites of 100 hosts against a bare scan over the same
 * array, in the same run, in turns. The bare scan asks every host whether one node fits, and counts:
 * less than any search can do. Nothing is kept from one search to the next, and every search is
 * another: shapes and filters change each time, for both alike.
 */
import type { SearchQuery, SiteResource } from '../../protocol/api.ts'
import { searchSites } from '../../protocol/core/search.ts'
import { siteResourceOf } from '../../protocol/mesh/site-resource.ts'
import type { SiteAd } from '../../protocol/wire/gen/types.ts'
import { decode, encode } from '../../protocol/wire/codec.ts'
import { percentile, round, type Bench, type BenchOptions, type Figure } from './figures.ts'

const SITES = 1000
const HOSTS = 100
const LIMIT_RATIO = 10
const FEATURES = ['8021q', 'dm', 'kvm', 'lio', 'vlan-filtering', 'wireguard']

/** mulberry32: the same federation in every run. */
function random (seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6D2B79F5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

interface Known { peer: string, ageMs: number, rttMs: number, ad: SiteAd }

/** As they are in an agent: every advertisement came through the codec. */
function federation (): Known[] {
  const next = random(3)
  const upTo = (n: number): number => Math.floor(next() * (n + 1))
  return Array.from({ length: SITES }, (_, i): Known => {
    const total = { vcpus: 64 * HOSTS, memoryMib: 262_144 * HOSTS, diskMib: 1_000_000 * HOSTS, volumes: 64, bandwidthMbit: 0 }
    const freeByHost = Array.from({ length: HOSTS }, () => ({ vcpus: upTo(64), memoryMib: upTo(256) * 1024, diskMib: upTo(1_000_000), volumes: 64, bandwidthMbit: 0 }))
    const ad: SiteAd = {
      site: `site-${i}`, gateway: 'gw1', addresses: [`/ip4/10.0.${i >> 8}.${i & 255}/tcp/4180`], hosts: HOSTS, total, free: total, freeByHost, volumeFreeMib: upTo(1_000_000), version: '0.1.0',
      features: FEATURES.filter(() => next() < 0.8), roles: ['compute', 'gateway', 'storage'], priceMilli: upTo(20) * 1000, maxTermMs: upTo(4) * 86_400_000, relay: false, tunnel: []
    }
    return { peer: `12D3KooW${i}`, ageMs: upTo(20_000), rttMs: upTo(200_000) / 1000, ad: decode('SiteAd', encode('SiteAd', ad)) }
  })
}

const resources = (known: readonly Known[]): SiteResource[] => known.map(k => siteResourceOf(k.peer, k.ageMs, k.ad, { rttMs: k.rttMs, path: 'direct' }))

function bareScan (query: { vcpus: number, memoryMib: number }, sites: readonly SiteResource[]): number {
  let hosts = 0
  for (const site of sites) {
    for (const free of site.freeByHost) {
      if (free.vcpus >= query.vcpus && free.memoryMib >= query.memoryMib) hosts++
    }
  }
  return hosts
}

type Shape = Partial<SearchQuery> & { vcpus: number, memoryMib: number }

/** Two works in turns; what they return is used, so that neither can be left out. */
function inTurns (times: number, shape: (n: number) => Shape, works: ReadonlyArray<(query: Shape) => number>): { samples: number[][], used: number } {
  const samples = works.map((): number[] => [])
  let used = 0
  for (let n = 0; n < times; n++) {
    const query = shape(n)
    for (const [i, work] of works.entries()) {
      const from = performance.now()
      used += work(query)
      samples[i]?.push(performance.now() - from)
    }
  }
  return { samples, used }
}

function * search ({ full = false }: BenchOptions = {}): Generator<Figure> {
  const known = federation()
  const sites = resources(known)
  const shape = (n: number): Shape => ({ vcpus: 1 + n % 32, memoryMib: 1024 * (1 + n % 64), nodes: 1 + n % 200, volumeMib: 1024 })
  const cases: ReadonlyArray<{ figure: string, work: (query: Shape) => SearchAnswer }> = [
    { figure: 'capacity only, first 100 sites', work: q => searchSites(q, sites) },
    { figure: 'capacity only, all sites with reasons', work: q => searchSites({ ...q, nodes: 200, limit: SITES }, sites) },
    { figure: 'every filter, first 100 sites', work: q => searchSites({ ...q, features: ['kvm', 'wireguard'], roles: ['compute'], notSites: ['site-7'], maxRttMs: 150, maxPriceMilli: 15_000, startMs: 0, endMs: 86_400_000 }, sites) },
    { figure: 'capacity only, resources made of advertisements first', work: q => searchSites(q, resources(known)) }
  ]
  const times = full ? 5000 : 1000
  for (const { figure, work } of cases) {
    const works = [(q: Shape): number => work(q).nodesThatFit, (q: Shape): number => bareScan(q, sites)]
    inTurns(200, shape, works)
    const { samples: [own = [], bare = []] } = inTurns(times, shape, works)
    const [value, peerValue] = [percentile(own, 0.5), percentile(bare, 0.5)]
    yield {
      bench: `search-${SITES}x${HOSTS}`, figure, value, unit: 'ms', better: 'lower', peer: 'bare scan of every host, same run', peerValue,
      limit: round(peerValue * LIMIT_RATIO), ratio: round(value / peerValue), samples: own.length, p50: value, p99: percentile(own, 0.99)
    }
  }
}

interface SearchAnswer { nodesThatFit: number }

export const benches: Readonly<Record<string, Bench>> = { 'search-1000x100': search }
