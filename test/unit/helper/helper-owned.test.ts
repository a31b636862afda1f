/** What is ours on a host, and what is swept: nothing that a lease or the agent stands behind. */
import t from 'tap'
import type { ObservedObject } from '../../../agent/drivers/driver.ts'
import { ownedText, sweptText } from '../../../agent/helper/owned/people.ts'
import { isLinkOfOurs, orphansOf } from '../../../agent/helper/owned/orphans.ts'
import { startBench } from '../../helper-bench.ts'
import { SAMPLES } from '../../helper-samples.ts'

const HOUR_MS = 3_600_000
const CLAIM = { clusterId: 'c1', counter: 5, endMs: Date.now() + HOUR_MS }
const all = SAMPLES.map(({ kind, name }) => `${kind} ${name}`)
const seen = (kind: ObservedObject['kind'], name: string, detail: Record<string, unknown> = {}): ObservedObject => ({ kind, name, fingerprint: 'f', healthy: true, detail })

t.test('everything is listed, with what the fence knows of it', async t => {
  const bench = await startBench(t)
  const client = bench.client()
  t.equal(ownedText(await client.call('owned', {})), 'Nothing of Musubi is on this host.')
  for (const one of SAMPLES) await client.call('apply', { ...one, claim: one.kind === 'tunnel' ? null : CLAIM })
  await bench.objects.put('domain', { name: 'stray.n1', fingerprint: 'f', healthy: false, spec: null })
  await client.call('fence-revoke', { resource: all[0]!, clusterId: 'c1', counter: 6 })
  const owned = await client.call('owned', {})
  t.strictSame(owned.objects.map(({ kind, name, state, clusterId }) => `${kind} ${name} ${state ?? '-'} ${clusterId}`), [
    `${all[0]!} revoking c1`, 'tunnel wg - ', ...all.slice(2).map(one => `${one} granted c1`), 'domain stray.n1 - stray'
  ])
  t.match(ownedText(owned), /^KIND +NAME[^]*domain +stray\.n1 +no +- +stray/)
})

t.test('a sweep takes what nobody wants, and only that', async t => {
  const bench = await startBench(t)
  const client = bench.client()
  for (const one of SAMPLES) await client.call('apply', { ...one, claim: one.kind === 'tunnel' ? null : CLAIM })
  for (const name of ['stray.n1', 'wanted.n1']) await bench.objects.put('domain', { name, fingerprint: 'f', healthy: true, spec: null })
  await client.call('fence-revoke', { resource: all[0]!, clusterId: 'c1', counter: 6 })
  const keep = ['domain wanted.n1']
  const would = await client.call('sweep', { keep, dryRun: true })
  t.strictSame(would, { removed: ['domain stray.n1', all[0]!], failed: [], unseen: [] })
  t.match(sweptText(would, true), /^would go +domain stray\.n1/)
  t.equal((await bench.standing()).length, all.length + 2, 'so far it was only told')
  t.strictSame((await client.call('sweep', { keep, dryRun: false })).removed, would.removed)
  t.strictSame((await bench.standing()).sort(), [...all.slice(1), 'domain wanted.n1'].sort())
  t.strictSame(await client.call('sweep', { keep, dryRun: false }), { removed: [], failed: [], unseen: [] }, 'again there is nothing')
})

t.test('the shared tunnel stays while anybody has a grant', async t => {
  const bench = await startBench(t)
  const client = bench.client()
  await client.call('apply', { ...SAMPLES.find(one => one.kind === 'tunnel')!, claim: null })
  await client.call('fence-grant', { resource: 'domain a.b', claim: CLAIM })
  t.strictSame((await client.call('sweep', { keep: [], dryRun: true })).removed, [])
  await client.call('fence-revoke', { resource: 'domain a.b', clusterId: 'c1', counter: 6 })
  t.strictSame((await client.call('sweep', { keep: ['tunnel wg'], dryRun: true })).removed, [])
  t.strictSame((await client.call('sweep', { keep: [], dryRun: false })).removed, ['tunnel wg'])
})

t.test('what cannot be seen, or would not go, is told', async t => {
  const bench = await startBench(t)
  const client = bench.client()
  await bench.objects.put('domain', { name: 'stray.n1', fingerprint: 'f', healthy: true, spec: null })
  bench.onCall = (verb, kind) => {
    if (verb === 'observe' && kind === 'volume') throw new Error('no tgtd')
    if (verb === 'remove') throw new Error('libvirt hangs')
  }
  const swept = await client.call('sweep', { keep: [], dryRun: false })
  t.match(swept, { removed: [], failed: [{ what: 'domain stray.n1', why: /libvirt hangs/ }], unseen: [{ kind: 'volume', why: /no tgtd/ }] })
  t.match(sweptText(swept, false), /failed +domain stray\.n1: libvirt hangs\nunseen +volume: no tgtd/)
})

t.test('an orphan is what no object explains', t => {
  const observed = [
    seen('segment', 'a.segment', { vni: 0x201 }), seen('domain', 'a.n1', { tap: 'mzt00020101' }), seen('frontend', 'a.frontend', { namespace: 'mzf-000201' }), seen('cache', 'a.cache'), seen('tunnel', 'wg')
  ]
  const ours = {
    links: ['mzb000201', 'mzh000201', 'mzv000201', 'mzt00020101', 'mzwg0', 'mzwg1'], namespaces: ['mz-000201', 'mzf-000201'], tables: ['inet mz_guard', 'bridge mz_mss', 'inet mz_tunnel'],
    services: ['mz-wireguard', 'mz-wireguard-1', 'mz-forward', 'mzf-000201-dnsmasq', 'mzf-000201-nginx', 'mz-cache-000201', 'mz-cacheprobe-000201', 'mz-cachetftp-000201'], strays: []
  }
  t.strictSame(orphansOf(ours, observed), [])
  const learner = { ...ours, services: ['mz-snoop'] }
  t.match(orphansOf(learner, observed), [{ what: 'service', name: 'mz-snoop' }], 'where nothing is learnt, nobody is to')
  t.strictSame(orphansOf(learner, observed.map(one => one.kind === 'segment' ? { ...one, detail: { ...one.detail, learned: { host: [], cluster: [] } } } : one)), [])
  const strangers = { links: ['mzb000999', 'mzt00020102'], namespaces: ['mz-000999', 'mzf-000999'], tables: ['inet mz_old'], services: ['tgtd', 'mz-cache-000999'], strays: ['target iqn.2026-11.org.musubi:x.y'] }
  const both = Object.fromEntries(Object.entries(ours).map(([key, names]) => [key, [...names, ...strangers[key as keyof typeof strangers]]])) as unknown as typeof strangers
  t.strictSame(orphansOf(both, observed).map(({ what, name }) => `${what} ${name}`), [
    'service mz-cache-000999', 'service tgtd', 'stray target iqn.2026-11.org.musubi:x.y', 'link mzb000999', 'link mzt00020102', 'namespace mz-000999', 'namespace mzf-000999', 'nft table inet mz_old'
  ])
  t.strictSame(orphansOf(ours, []).length, ours.links.length + ours.namespaces.length + ours.tables.length + ours.services.length, 'with no object all of it is one')
  t.end()
})

t.test('links of segments are known by their names, VLANs too, and the administrator\'s are not ours', t => {
  for (const name of ['mzb000201', 'mzh000201', 'mzs000201', 'mzm000201', 'mzv000201', 'mzt00020101', 'mzwg0', 'mzwg1']) t.ok(isLinkOfOurs(name), name)
  for (const name of ['eth1', 'eth1.100', 'mzx000201', 'mzv00020', 'amzv000201', 'mz0']) t.notOk(isLinkOfOurs(name), name)
  t.end()
})
