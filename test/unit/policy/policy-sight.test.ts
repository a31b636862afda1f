/** What a master makes of what other sites say of when they lend. */
import t from 'tap'
import { toLending } from '../../../agent/calendar/lending.ts'
import { createSight, type Sight } from '../../../agent/calendar/sight.ts'
import type { CallPeer, Methods } from '../../../agent/peers.ts'
import type { Lending } from '../../../protocol/core/calendar/lending.ts'
import type { KnownSite } from '../../../protocol/core/master/events.ts'
import { siteCapacityOf } from '../../../protocol/core/placement/site-capacity.ts'
import { parseClusterSpec } from '../../../protocol/core/spec.ts'
import type { PolicyRule } from '../../../protocol/policy-api.ts'
import { lendingOf } from '../../../protocol/policy/lending.ts'
import { wanted } from '../../model/federation.ts'

const HOUR = 3_600_000
const T0 = Date.UTC(2026, 11, 1)
const WAY_MS = 40
const FREE = { vcpus: 8, memoryMib: 8192, diskMib: 0, volumes: 0, bandwidthMbit: 0 }
const ROLES = ['gateway', 'compute']

const known = (site: string): KnownSite => ({ ...siteCapacityOf(site, [{ host: `${site}-1`, roles: ROLES, free: FREE }]), peer: site, gatewayHost: `${site}-1` })

/** A master of tokyo; its own site has room for the frontend and two nodes, the others for eight each. */
function sightOf (says: Record<string, (nowMs: number) => Lending | null>): { sight: Sight, now: () => number } {
  let nowMs = T0
  const call = (async (peer: string): Promise<Methods['calendar']['reply']> => {
    await Promise.resolve()
    const lending = says[peer]?.(nowMs) ?? null
    const reply = { site: peer, nowMs, held: [], lending: lending === null ? null : toLending(lending), hosts: [{ roles: ROLES, steps: [{ atMs: nowMs, free: peer === 'tokyo' ? { ...FREE, vcpus: 3 } : FREE }] }] }
    nowMs += WAY_MS
    return reply
  }) as CallPeer
  return { sight: createSight({ site: 'tokyo', call, sites: () => ['tokyo', ...Object.keys(says)].map(known), now: () => nowMs }), now: () => nowMs }
}

const spec = parseClusterSpec(wanted('demo', 4, { term: '2h' }))
const atOnce = { spec, startMs: T0, endMs: T0 + 2 * HOUR, imageDigest: '' }
const rule = (one: PolicyRule) => (nowMs: number): Lending | null => lendingOf({ default: one }, 'osaka', 'tokyo', nowMs)

t.test('a site whose times nobody can live to see keeps no other from being looked at', async t => {
  const far = (): Lending => ({ open: [{ fromMs: 1, untilMs: 2 }], knownUntilMs: Number.MAX_SAFE_INTEGER, longestMs: null, latestStartMs: null })
  const apart = (): Lending => ({ open: [{ fromMs: 1, untilMs: 2 }, { fromMs: 8.9e15, untilMs: 9e15 }], knownUntilMs: 9e15, longestMs: null, latestStartMs: null })
  for (const odd of [far, apart]) {
    const { sight } = sightOf({ kobe: odd, osaka: () => null })
    const { sites, nearest } = await sight.look(atOnce)
    t.equal(nearest, undefined, 'it fits without that site')
    t.match(sites.find(({ site }) => site === 'kobe')?.closed, /^it lends at certain times only, not in all of 2026-12-01T00:00:00Z to 2026-12-01T02:00:00Z$/)
    t.equal(sites.find(({ site }) => site === 'osaka')?.closed, undefined)
    t.equal((await sight.look({ ...atOnce, earliest: { fromMs: T0, latestMs: T0 + HOUR } })).startMs !== undefined, true, 'nor from being found as early as it can')
  }
})

t.test('a site that takes no reservations lends at once, however long its answer was under way', async t => {
  const { sight, now } = sightOf({ osaka: rule({ latestStart: '0s' }) })
  const { sites, nearest } = await sight.look(atOnce)
  t.equal(sites.find(({ site }) => site === 'osaka')?.closed, undefined)
  t.equal(nearest, undefined)
  const found = await sight.look({ ...atOnce, earliest: { fromMs: T0, latestMs: T0 + HOUR } })
  t.equal(found.startMs, now(), 'the earliest start is now')
  t.equal((await sight.freeIn(now(), T0 + 2 * HOUR)).find(({ site }) => site === 'osaka')?.closed, undefined, 'more nodes for a cluster that runs begin at once')
  const later = await sight.look({ ...atOnce, startMs: T0 + HOUR, endMs: T0 + 3 * HOUR })
  t.match(later.sites.find(({ site }) => site === 'osaka')?.closed, /^it lends no later than from 2026-12-01T00:00:0\dZ on/, 'and nothing that is to come')
})
