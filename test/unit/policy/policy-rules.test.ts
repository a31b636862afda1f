import t from 'tap'
import { usageOf } from '../../../agent/policy/usage.ts'
import { describeError, errorCode, MusubiError } from '../../../protocol/core/errors.ts'
import { emptyLedger, type LedgerState } from '../../../protocol/core/lease/lease.ts'
import { OTHER_SITES, quotaFor } from '../../../protocol/core/lease/state.ts'
import { step } from '../../../protocol/core/lease/step.ts'
import { changesBetween } from '../../../protocol/policy/diff.ts'
import { judgePolicy } from '../../../protocol/policy/document.ts'
import { boundText, checkPolicy, priorityOf, quotaOf, quotasOf, ruleFor, shareOf } from '../../../protocol/policy/rules.ts'
import type { PolicyDocument } from '../../../protocol/policy-api.ts'
import { holdRequest, item } from '../../model/fixtures.ts'

const MINUTE = 60_000
const HOUR = 60 * MINUTE
/** a Saturday, noon UTC */
const NOW = Date.UTC(2026, 0, 10, 12)

const refusal = (document: PolicyDocument, part: Partial<Parameters<typeof checkPolicy>[2]> = {}): MusubiError | null => {
  try {
    checkPolicy(document, 'tokyo', { masterSite: 'osaka', startMs: NOW, endMs: NOW + HOUR, nowMs: NOW, ...part })
    return null
  } catch (error) {
    return error instanceof MusubiError ? error : new MusubiError('OTHER', describeError(error))
  }
}
const codeOf = (...args: Parameters<typeof refusal>): string => { const error = refusal(...args); return error === null ? 'allowed' : errorCode(error) }

t.test('a lease may begin so far ahead, and no farther; one that runs has begun', t => {
  const document: PolicyDocument = { default: { latestStart: '2h', reason: 'we plan by the day' } }
  t.equal(codeOf(document, { startMs: NOW + 2 * HOUR, endMs: NOW + 3 * HOUR }), 'allowed')
  t.match(refusal(document, { startMs: NOW + 2 * HOUR + 1, endMs: NOW + 3 * HOUR }), { code: 'POLICY_START', message: /lends to osaka at most 2h ahead, this starts in 121 minutes: we plan by the day/, hint: /ask again after 2026-01-10T12:00:00Z, or leave tokyo out/ })
  t.equal(codeOf(document, { startMs: NOW + 2 * HOUR + 30_000, endMs: NOW + 3 * HOUR, slackMs: 30_000 }), 'allowed', 'a host whose clock is behind the gateway')
  t.equal(codeOf(document, { startMs: NOW + 5 * HOUR, fromMs: NOW + 6 * HOUR, endMs: NOW + 7 * HOUR }), 'allowed', 'what was agreed before is not asked for anew')
  t.equal(codeOf({ default: { latestStart: '0m' } }, { startMs: NOW - MINUTE }), 'allowed')
  t.equal(codeOf({ default: { latestStart: '0m' } }, { startMs: NOW + 1, endMs: NOW + HOUR }), 'POLICY_START')
  t.end()
})

t.test('a lease lies in windows as a whole; an extension with what it adds; what has passed is nobody\'s to judge', t => {
  const document: PolicyDocument = { sites: { osaka: { windows: [{ days: ['sat'], from: '10:00', to: '20:00', zone: 'UTC' }, { days: ['sat'], from: '20:00', to: '22:00', zone: 'UTC' }] } } }
  t.equal(codeOf(document, { endMs: NOW + 10 * HOUR }), 'allowed', 'through both windows')
  t.match(refusal(document, { endMs: NOW + 11 * HOUR }), { code: 'POLICY_WINDOW', message: /within sat 10:00-20:00 UTC; sat 20:00-22:00 UTC only, which is over at 2026-01-10T22:00:00Z/, hint: /ask for an end by 2026-01-10T22:00:00Z/ })
  t.match(refusal(document, { startMs: NOW + 11 * HOUR, endMs: NOW + 12 * HOUR }), { code: 'POLICY_WINDOW', message: /not at 2026-01-10T23:00:00Z/, hint: /a start at 2026-01-17T10:00:00Z and an end by 2026-01-17T22:00:00Z/ })
  t.equal(codeOf(document, { startMs: NOW - 5 * HOUR, fromMs: NOW + HOUR, endMs: NOW + 2 * HOUR }), 'allowed', 'it began before there was a window')
  t.equal(codeOf(document, { startMs: NOW - 5 * HOUR, endMs: NOW + HOUR }), 'allowed', 'more for a cluster that runs')
  t.equal(codeOf(document, { masterSite: 'kyoto', endMs: NOW + 100 * HOUR }), 'allowed', 'another site')
  t.equal(codeOf(document, { masterSite: 'tokyo', endMs: NOW + 100 * HOUR }), 'allowed', 'the own site')
  t.end()
})

t.test('every error and every doubt is told, by the field it is about', t => {
  const judged = judgePolicy({
    default: { longestLease: '2h', preempt: { notice: '3h' }, quota: {} },
    sites: {
      osaka: { deny: true, quota: { vcpus: 4 }, price: 3, windows: [{ zone: 'UTC' }] }, kyoto: { windows: [{ from: '08:00', to: '08:00', zone: 'UTC' }, { zone: 'Mars/Base' }] },
      nara: { quota: { nodes: 0 }, price: 1.5 }, kobe: { quota: { memory: '64GB', disk: '12 potatoes' } }, otsu: { price: 0.0005, latestStart: 'soon', preempt: { notice: '5s' } }
    }
  }, 'tokyo', NOW)
  t.equal(judged.document, null)
  for (const error of [
    /^default.preempt.notice: 3h is longer than longestLease, 2h/, /^default.quota: it bounds nothing/, /^sites.osaka.quota: has no meaning beside deny/, /^sites.osaka.price: has no meaning/, /^sites.osaka.windows: has no/,
    /^sites.kyoto.windows.0: it never opens: 08:00 is its begin and its end/, /^sites.kyoto.windows.1.zone: "Mars\/Base" is no time zone/, /^sites.nara.price: has no meaning beside a quota of which no node/,
    /^sites.kobe.*quota.memory: "64GB" has no unit/, /^sites.kobe.*quota.disk: "12 potatoes" has no unit/, /^sites.otsu.price: 0.0005 has more than three decimals/, /^sites.otsu.latestStart: "soon" is no time span/, /^sites.otsu.preempt.notice: 5s is below/
  ]) t.ok(judged.errors.some(line => error.test(line)), String(error))
  t.equal(judged.errors.length, 13, judged.errors.join('\n'))
  const schema = judgePolicy({ default: { quota: { vcpus: -1, gpus: 2 }, windows: [{ days: ['Sa'], from: '25:00' }] } }, 'tokyo', NOW)
  t.match(judgePolicy({ default: { priority: 101 } }, 'tokyo', NOW).errors, [/default.priority/])
  for (const part of ['default.quota.vcpus', 'unknown field gpus', 'default.windows.0']) t.ok(schema.errors.some(line => line.includes(part)), part)
  const doubts = judgePolicy({
    default: { longestLease: '24h', windows: [{ days: ['sat'], from: '08:00', to: '20:00', zone: 'UTC' }], latestStart: '1h' },
    sites: {
      osaka: { quota: { vcpus: 0 } }, kyoto: { quota: { disk: '1TiB', volumes: 0 } }, nara: { priority: 100, preempt: { notice: '10m' } }, kobe: { priority: 10, preempt: { notice: '10m' } },
      otsu: { latestStart: '60m', longestLease: '1d', windows: [{ days: ['sat'], from: '08:00', to: '20:00', zone: 'UTC' }] }
    }
  }, 'tokyo', NOW)
  t.same(doubts.errors, [])
  t.same(doubts.warnings.map(line => line.split(': ')[0]).sort(), ['default.latestStart', 'default.longestLease', 'sites.kyoto.quota', 'sites.nara.preempt', 'sites.osaka.quota', 'sites.otsu', 'sites.otsu.latestStart', 'sites.otsu.longestLease'], doubts.warnings.join('\n'))
  t.match(doubts.warnings.join('\n'), /default.longestLease: 24h is longer than the windows are ever open, 12h/)
  const never = judgePolicy({ default: { windows: [{ days: ['sun'], from: '02:15', to: '02:45', zone: 'Europe/Zurich' }] } }, 'tokyo', NOW)
  t.same(never, { document: { default: { windows: [{ days: ['sun'], from: '02:15', to: '02:45', zone: 'Europe/Zurich' }] } }, errors: [], warnings: [] }, 'once a year it does not open, else it does')
  t.end()
})

t.test('shares are whole numbers that are never more than the quota together', t => {
  const quota = quotaOf({ quota: { nodes: 7, vcpus: 10, memory: '1TiB' } })
  if (quota === null) throw new Error('there is one')
  t.match(quota, { nodes: 7, vcpus: 10, memoryMib: 1_048_576, diskMib: Infinity, volumes: Infinity })
  t.match([33, 33, 34].map(percent => shareOf(quota, percent)), [{ nodes: 2, vcpus: 3 }, { nodes: 2, vcpus: 3 }, { nodes: 2, vcpus: 3, diskMib: Infinity }])
  t.match(shareOf({ ...quota, vcpus: 2 ** 40 }, 100), { vcpus: 2 ** 40 }, 'exactly, however large')
  t.match(shareOf(quota, 0), { nodes: 0, vcpus: 0, diskMib: Infinity })
  t.equal(boundText(shareOf(quota, 50)), '5 vCPU, 524288 MiB memory, 3 nodes')
  t.equal(boundText(null), 'no limit')
  const quotas = quotasOf({ default: { quota: { vcpus: 4 } }, sites: { osaka: { quota: { vcpus: 9 } }, kyoto: {} } }, 'tokyo', 50)
  t.match(quotaFor(quotas, 'osaka'), { vcpus: 4 })
  t.match(quotaFor(quotas, 'anybody'), { vcpus: 2 }, 'by the default')
  t.equal(quotaFor(quotas, 'kyoto'), null, 'a rule of its own without a quota')
  t.equal(quotaFor(quotas, 'tokyo'), null, 'the own site')
  t.ok(quotas.has(OTHER_SITES))
  t.end()
})

t.test('what is lent is shown against the share, with what is reserved, and what is overdrawn', t => {
  let state: LedgerState = emptyLedger('gw1', { vcpus: 99, memoryMib: 99_999, diskMib: 0, volumes: 0, bandwidthMbit: 0 })
  const lend = (id: string, masterSite: string, vcpus: number, startMs: number): void => {
    const resources = { vcpus, memoryMib: 0, diskMib: 0, volumes: 0, bandwidthMbit: 0, nodes: 1 }
    const outcome = step(state, { type: 'hold', requester: 'p', request: holdRequest({ key: id, clusterId: id, offerId: id, masterSite, startMs, endMs: startMs + HOUR, items: [item(`${id}-1`, { kind: 'quota', name: 'quota', resources })] }) }, NOW)
    if (!outcome.result.ok) throw outcome.result.error
    state = outcome.state
  }
  lend('a', 'osaka', 3, NOW)
  lend('b', 'osaka', 4, NOW + 2 * HOUR)
  lend('c', 'tokyo', 50, NOW)
  const document: PolicyDocument = { default: { quota: { vcpus: 6, nodes: 10 } }, sites: { kyoto: {} } }
  t.match(usageOf(state, document, 'tokyo', 50), [
    { site: 'kyoto', lent: { vcpus: 0 }, quota: null, share: null, overdrawn: [] },
    { site: 'osaka', lent: { vcpus: 3, nodes: 1 }, most: { vcpus: 4, nodes: 1 }, quota: { vcpus: 6, nodes: 10 }, share: { vcpus: 3, nodes: 5 }, overdrawn: ['vcpus'] }
  ])
  t.equal(JSON.stringify(usageOf(state, document, 'tokyo', 50)).includes('null,"diskMib"'), false, 'what is not bounded is left out')
  t.end()
})

t.test('a difference is what holds for a site, whichever rule says it', t => {
  const before: PolicyDocument = { default: { longestLease: '60m', quota: { memory: 65_536 } }, sites: { osaka: { deny: true } } }
  t.same(changesBetween(before, { default: { longestLease: '1h', quota: { memory: '64GiB' } }, sites: { osaka: { deny: true }, kyoto: { longestLease: 'PT1H', quota: { memory: '64GiB' } } } }), [], 'said otherwise')
  t.same(changesBetween(before, { default: { longestLease: '1h', quota: { memory: 65_536 }, price: 0.5 }, own: { priority: 60 } }), [
    { site: '', field: 'price', before: 'as advertised', after: '0.5' },
    { site: 'osaka', field: 'deny', before: 'yes', after: 'no' }, { site: 'osaka', field: 'quota.memory', before: 'no limit', after: '65536 MiB memory' },
    { site: 'osaka', field: 'longestLease', before: 'no limit', after: '1h' }, { site: 'osaka', field: 'price', before: 'as advertised', after: '0.5' },
    { site: '', field: 'own.priority', before: '100', after: '60' }
  ], 'a site that is not named any more has the default')
  t.end()
})

t.test('priorities', t => {
  const document: PolicyDocument = { default: { priority: 20 }, sites: { osaka: {}, kyoto: { priority: 0 } } }
  t.same(['tokyo', 'osaka', 'kyoto', 'nara'].map(site => priorityOf(document, 'tokyo', site)), [100, 50, 0, 20])
  t.equal(priorityOf({ own: { priority: 30 } }, 'tokyo', 'tokyo'), 30)
  t.same(ruleFor(document, 'constructor'), { priority: 20 }, 'a name that objects have')
  t.end()
})
