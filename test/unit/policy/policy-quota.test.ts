import assert from 'node:assert/strict'
import fc from 'fast-check'
import t from 'tap'
import { type Resources, zero } from '../../../protocol/core/capacity.ts'
import { type Lease, type LedgerState, emptyLedger } from '../../../protocol/core/lease/lease.ts'
import { type LeaseEvent, step } from '../../../protocol/core/lease/step.ts'
import { quotasOf } from '../../../protocol/policy/rules.ts'
import { judgePolicy } from '../../../protocol/policy/document.ts'
import type { PolicyDocument } from '../../../protocol/policy-api.ts'
import { holdRequest, item } from '../../model/fixtures.ts'

const MINUTE = 60_000
const T0 = 1_800_000_000_000
const SITES = ['osaka', 'kyoto', 'nara'] as const
/** Of the gateways' certificates: together at most 100. */
const SHARES = [[100], [60, 40], [50, 25, 25], [33, 33, 33]] as const

interface Quota { nodes: number, vcpus: number, memory: number, bandwidth: number }
type Move =
  | { do: 'hold', gateway: number, site: number, cluster: number, nodes: number, vcpus: number, memory: number, bandwidth: number, startIn: number, minutes: number }
  | { do: 'commit' | 'release', gateway: number, offer: number }
  | { do: 'activate' | 'release-all' | 'revoke' | 'vacate', gateway: number, cluster: number }
  | { do: 'shrink', gateway: number, lease: number }
  | { do: 'extend', gateway: number, cluster: number, minutes: number, commit: boolean }
  | { do: 'wait', minutes: number }
  | { do: 'restart', gateway: number }
  | { do: 'policy', site: number, quota: Quota | null, everybody: boolean }

const gateway = fc.nat(2)
const quotaOf = fc.record({ nodes: fc.integer({ min: 1, max: 14 }), vcpus: fc.integer({ min: 2, max: 40 }), memory: fc.integer({ min: 2, max: 60 }), bandwidth: fc.integer({ min: 1, max: 40 }) })
const cluster = fc.nat(3)
const move: fc.Arbitrary<Move> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ do: fc.constant('hold' as const), gateway, site: fc.nat(2), cluster, nodes: fc.integer({ min: 1, max: 3 }), vcpus: fc.integer({ min: 1, max: 3 }), memory: fc.nat(5), bandwidth: fc.nat(4), startIn: fc.constantFrom(0, 0, 0, 0, 3, 8), minutes: fc.integer({ min: 4, max: 20 }) }) },
  { weight: 6, arbitrary: fc.record({ do: fc.constantFrom('commit' as const, 'commit' as const, 'commit' as const, 'release' as const), gateway, offer: fc.constantFrom(0, 0, 0, 1, 2, 5) }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constantFrom('activate' as const, 'activate' as const, 'activate' as const, 'release-all' as const, 'revoke' as const, 'vacate' as const), gateway, cluster }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('shrink' as const), gateway, lease: fc.nat(120) }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('extend' as const), gateway, cluster, minutes: fc.integer({ min: 8, max: 40 }), commit: fc.boolean() }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('wait' as const), minutes: fc.constantFrom(0.2, 0.2, 0.6, 3, 9) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('restart' as const), gateway }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('policy' as const), site: fc.nat(2), quota: fc.option(quotaOf), everybody: fc.boolean() }) }
)

const DIMENSIONS = ['nodes', 'vcpus', 'memoryMib', 'bandwidthMbit'] as const
type Dimension = typeof DIMENSIONS[number]
const inQuota: Record<Dimension, keyof Quota> = { nodes: 'nodes', vcpus: 'vcpus', memoryMib: 'memory', bandwidthMbit: 'bandwidth' }

/** The plain count: what is promised to a site by some gateways at one moment. */
function lentAt (states: readonly LedgerState[], site: string, dimension: Dimension, atMs: number): number {
  let sum = 0
  for (const state of states) {
    for (const lease of state.leases.values()) {
      if (lease.kind !== 'quota' || lease.masterSite !== site || lease.startMs > atMs) continue
      if (untilOf(state, lease) > atMs) sum += lease.resources[dimension] ?? 0
    }
  }
  return sum
}

function untilOf (state: LedgerState, lease: Lease): number {
  if (lease.state === 'ended') return 0
  const held = [...state.extensions.values()].filter(one => one.state === 'held' && one.leases.some(({ id }) => id === lease.id))
  return Math.max(lease.endMs, ...held.map(one => one.endMs))
}

t.test('no sequence of requests, changes and policies lends more than a quota, whatever gateways are asked', t => {
  const seen = new Map<string, number>()
  const lent = { most: 0, overdrawn: 0 }
  fc.assert(fc.property(fc.constantFrom(...SHARES), fc.array(fc.option(quotaOf), { minLength: 4, maxLength: 4 }), fc.array(move, { minLength: 20, maxLength: 120, size: 'max' }), (percents, [forAll, ...forSites], moves) => {
    let now = T0
    let n = 0
    let document: PolicyDocument = { default: forAll == null ? {} : { quota: forAll }, sites: Object.fromEntries(SITES.flatMap((site, i) => forSites[i] == null ? [] : [[site, { quota: forSites[i] }]])) }
    const share = (states: LedgerState[]): void => { for (const [i, state] of states.entries()) state.quotas = quotasOf(document, 'tokyo', percents[i] ?? 0) }
    const states: LedgerState[] = percents.map((_, i) => emptyLedger(`gw${i}`, { vcpus: 10_000, memoryMib: 100_000, diskMib: 0, volumes: 0, bandwidthMbit: 10_000 }))
    share(states)
    /** by site: the quota now, and the largest since the run began; null: no bound */
    const boundNow = (site: string, dimension: Dimension): number => {
      const rule = (document.sites !== undefined && Object.hasOwn(document.sites, site) ? document.sites[site] : document.default) ?? {}
      return (rule.quota as Quota | undefined)?.[inQuota[dimension]] ?? Infinity
    }
    const largest = new Map(SITES.flatMap(site => DIMENSIONS.map((dimension): [string, number] => [`${site} ${dimension}`, boundNow(site, dimension)])))
    const offers: Array<{ gateway: number, clusterId: string, offerId: string }> = []

    const points = (): number[] => [...new Set(states.flatMap(state => [...state.leases.values()].filter(lease => lease.kind === 'quota').flatMap(lease => [lease.startMs, lease.endMs, untilOf(state, lease) - 1])))]

    const work = (at: number, event: LeaseEvent): boolean => {
      const before = states[at]
      if (before === undefined) return false
      const outcome = step(before, event, now)
      states[at] = outcome.state
      const { result } = outcome
      const name = `${event.type} ${result.ok ? 'ok' : result.error.code}`
      seen.set(name, (seen.get(name) ?? 0) + 1)
      // What is new fits in at every moment of it, and nothing else has grown.
      for (const site of SITES) {
        for (const dimension of DIMENSIONS) {
          const bound = boundNow(site, dimension)
          const mine = bound === Infinity ? Infinity : Math.floor(bound * (percents[at] ?? 0) / 100)
          for (const moment of points()) {
            const [was, is] = [lentAt([before], site, dimension, moment), lentAt([outcome.state], site, dimension, moment)]
            assert.ok(is <= was || is <= mine, `${name} at gw${at}: ${is} ${dimension} lent to ${site} of a share of ${mine}, ${was} before`)
            const all = lentAt(states, site, dimension, moment)
            assert.ok(all <= (largest.get(`${site} ${dimension}`) ?? 0), `${all} ${dimension} lent to ${site} by all`)
            if (all > bound) lent.overdrawn++
            if (bound !== Infinity) lent.most = Math.max(lent.most, all / bound)
          }
        }
      }
      return result.ok
    }

    for (const one of moves) {
      const at = 'gateway' in one ? one.gateway % percents.length : 0
      const clusterId = 'cluster' in one ? `c${one.cluster}-of-${SITES[one.cluster % 3] ?? ''}` : ''
      n++
      switch (one.do) {
        case 'hold': {
          const site = SITES[one.cluster % 3] ?? 'osaka'
          const id = `o${n}`
          const borrowed: Resources = { ...zero(), vcpus: one.nodes * one.vcpus, memoryMib: one.memory, bandwidthMbit: one.bandwidth, nodes: one.nodes }
          const startMs = now + one.startIn * MINUTE
          const ok = work(at, { type: 'hold', requester: `p-${site}`, request: holdRequest({ key: id, clusterId, cluster: clusterId, offerId: id, masterSite: site, masterPeer: `p-${site}`, startMs, endMs: startMs + one.minutes * MINUTE, items: [item(`${id}-1`, { kind: 'node', resources: { ...zero(), vcpus: 1, memoryMib: 1 } }), item(`${id}-2`, { kind: 'quota', name: 'quota', resources: borrowed })] }) })
          if (ok) offers.push({ gateway: at, clusterId, offerId: id })
          break
        }
        case 'commit': case 'release': {
          const offer = offers.at(-1 - one.offer)
          if (offer !== undefined) work(offer.gateway, one.do === 'commit' ? { type: 'commit', clusterId: offer.clusterId, offerId: offer.offerId } : { type: 'release', clusterId: offer.clusterId, offerId: offer.offerId, reason: 'given up' })
          break
        }
        case 'activate': work(at, { type: 'activate', clusterId, receipts: [...states[at]?.leases.values() ?? []].filter(lease => lease.clusterId === clusterId).map(lease => ({ leaseId: lease.id, host: `gw${at}`, token: lease.commitToken })) }); break
        case 'release-all': work(at, { type: 'release', clusterId, reason: 'over' }); break
        case 'revoke': work(at, { type: 'revoke', clusterId, reason: 'needed here' }); break
        case 'vacate': work(at, { type: 'vacate', clusterId }); break
        case 'shrink': {
          const leases = [...states[at]?.leases.values() ?? []]
          const lease = leases[one.lease % Math.max(1, leases.length)]
          if (lease !== undefined) work(at, { type: 'release', clusterId: lease.clusterId, leaseIds: [lease.id], reason: 'smaller' })
          break
        }
        case 'extend': {
          const ok = work(at, { type: 'extend', requester: 'p', request: { key: `x${n}`, clusterId, offerId: `x${n}`, endMs: now + one.minutes * MINUTE, ttlMs: 30_000, epoch: 1, leaseIds: [] } })
          if (ok && one.commit) work(at, { type: 'commit', clusterId, offerId: `x${n}` })
          break
        }
        case 'wait':
          now += one.minutes * MINUTE
          for (const i of states.keys()) work(i, { type: 'tick' })
          break
        case 'restart': work(at, { type: 'restart' }); break
        case 'policy': {
          const rule = one.quota === null ? {} : { quota: one.quota }
          document = one.everybody ? { ...document, default: rule } : { ...document, sites: { ...document.sites, [SITES[one.site] ?? 'osaka']: rule } }
          assert.deepEqual(judgePolicy(document, 'tokyo', now).errors, [])
          share(states)
          for (const site of SITES) for (const dimension of DIMENSIONS) largest.set(`${site} ${dimension}`, Math.max(largest.get(`${site} ${dimension}`) ?? 0, boundNow(site, dimension)))
        }
      }
    }
  }), { numRuns: 200, seed: 7 })
  // the sequences reach what they are to show
  for (const name of ['hold ok', 'hold QUOTA_EXCEEDED', 'extend ok', 'extend QUOTA_EXCEEDED', 'commit ok', 'activate ok', 'release ok', 'vacate ok', 'restart ok']) t.ok((seen.get(name) ?? 0) > 0, `${name}: ${seen.get(name) ?? 0}`)
  t.ok(lent.most >= 1, 'quotas were used up')
  t.ok(lent.overdrawn > 0, 'and were overdrawn by a smaller quota, which ended nothing')
  t.comment(JSON.stringify([...seen]))
  t.end()
})
