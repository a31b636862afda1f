/** What people see of a plan, and what the command asks the agent for. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { pino } from 'pino'
import t from 'tap'
import { addPlanRoutes } from '../../../agent/api/routes/plan.ts'
import { run } from '../../../agent/exec.ts'
import { clustersTable, clusterText } from '../../../cli/render.ts'
import { planText } from '../../../cli/render/plan.ts'
import type { ClusterResource } from '../../../protocol/api.ts'
import type { PlanOffer, PlanResource } from '../../../protocol/plan-api.ts'
import { createApi, listenUnix } from '../../../protocol/rest/server.ts'

// each run of the command is a process of its own
t.setTimeout(150_000)
const CLI = join(dirname(dirname(dirname(import.meta.dirname))), 'cli', 'main.ts')
const START = Date.UTC(2026, 11, 1, 8)
const HOUR = 3_600_000

const offer = (site: string, part: Partial<PlanOffer> = {}): PlanOffer =>
  ({ site, gateway: `${site}-1`, answer: 'quote', taken: false, nodes: 0, priceMilli: 250, totalMilli: 6000, rttMs: 12.4, earliestMs: null, shape: null, counter: '', reasons: [], ...part })
const OFFERS: PlanOffer[] = [
  offer('tokyo', { nodes: 2, priceMilli: 0, totalMilli: 0, rttMs: 0, reasons: [{ code: 'NO_CAPACITY', message: '10 nodes: needs 2 vCPU, 1 free on tokyo-1, the nearest of 1 compute host' }] }),
  offer('nara', { nodes: 12, taken: true, earliestMs: START }),
  offer('osaka', { nodes: 8, earliestMs: START + 6 * HOUR, shape: { vcpus: 1, memoryMib: 1536 }, counter: '8 of 12 nodes fit now', reasons: [{ code: 'NO_CAPACITY', message: '4 nodes: needs 2 vCPU, 1 free on osaka-2, the nearest of 3 compute hosts' }] }),
  offer('kyoto', { reasons: [{ code: 'POLICY_DENIED', message: 'site kyoto lends nothing to tokyo' }] }),
  offer('edo', { answer: 'cannot-quote', nodes: 4, priceMilli: null, totalMilli: null, rttMs: null }),
  offer('fuji', { answer: 'none', priceMilli: null, totalMilli: null, rttMs: null, reasons: [{ code: 'UNREACHABLE', message: 'fuji/fuji-1 did not answer quote within 8000 ms' }] })
]
const FITS: PlanResource = {
  cluster: 'demo', fits: true, startMs: START, endMs: START + 2 * HOUR, nodes: 12, offers: OFFERS, leftOut: 1,
  placement: [
    { site: 'tokyo', nodes: 2, volumes: [], frontend: true, priceMilli: 0, totalMilli: 0, wanBytes: 0, wanMs: 0, wanFrom: 'unknown' },
    { site: 'nara', nodes: 10, volumes: ['data', 'more'], frontend: false, priceMilli: 250, totalMilli: 5000, wanBytes: 212_000_000, wanMs: 17_000, wanFrom: 'measured' }
  ],
  totalMilli: 5000, problem: '', nearest: ''
}

const HELD: ClusterResource = {
  id: '01234567-89ab-4cde-8f01-23456789abcd', name: 'demo', state: 'offered', error: null, createdAt: START - 200_000, startsAt: START, expiresAt: START + 2 * HOUR, masterSite: 'tokyo', epoch: 1,
  cidr: '10.42.0.0/16', domain: '', frontend: null, nodes: [], volumes: [], lease: { sites: 2, holds: 16, negotiateMs: 0, rttMs: 0 }, heldUntil: START - 60_000,
  held: [
    { site: 'tokyo', nodes: 2, volumes: [], frontend: true, hosts: ['tokyo-1'], priceMilli: 0, totalMilli: 0 },
    { site: 'nara', nodes: 10, volumes: ['more', 'data'].sort(), frontend: false, hosts: ['nara-1', 'nara-2'], priceMilli: 250, totalMilli: 5000 }
  ],
  lenders: [], segment: { vni: 7, ids: { tokyo: 1, nara: 2 }, mtuInner: 0, firstPingMs: null }, wan: { bytes: 0, bytesWithoutCache: 0 }, caches: [], cacheRetainMs: null,
  timings: { createMs: null, deleteMs: null }, problems: []
}

t.test('offers side by side, then what create would ask for', t => {
  t.equal(planText(FITS), `cluster demo: 12 nodes from 2026-12-01T08:00:00Z for 2h00m

SITE   GATEWAY  NODES     PRICE  FOR ALL  RTT   ALL FROM              ALL NOW WITH
tokyo  tokyo-1  2 of 12   free   free     0ms   -                     -
nara   nara-1   12 of 12  0.25   6.000    12ms  at the start          -
osaka  osaka-1  8 of 12   0.25   6.000    12ms  2026-12-01T14:00:00Z  1 vCPU, 1536 MiB
kyoto  kyoto-1  0 of 12   0.25   -        12ms  -                     -
edo    edo-1    4 of 12?  -      -        -     -                     -
fuji   fuji-1   -         -      -        -     -                     -

tokyo: NO_CAPACITY: 10 nodes: needs 2 vCPU, 1 free on tokyo-1, the nearest of 1 compute host
osaka: NO_CAPACITY: 4 nodes: needs 2 vCPU, 1 free on osaka-2, the nearest of 3 compute hosts
kyoto: POLICY_DENIED: site kyoto lends nothing to tokyo
edo: cannot quote (older release); how many nodes it takes is what it advertises
fuji: UNREACHABLE: fuji/fuji-1 did not answer quote within 8000 ms
1 more site was not asked: name those that you want with --sites

It fits. musubi cluster create would ask for:
SITE   NODES  VOLUMES    FRONTEND  PRICE  TOTAL  OVER THE WAN  IN
tokyo  2      -          yes       free   free   -             -
nara   10     data,more  -         0.25   5.000  212 MB        17.0s (measured)
total 5.000; nothing is held`)
  t.end()
})

const SHORT: PlanResource = { ...FITS, fits: false, offers: OFFERS.slice(0, 1), placement: [], totalMilli: null, leftOut: 0, problem: 'no room for 10 of 12 nodes\ntokyo: takes 2 of 12 nodes', nearest: '2 of 12 nodes would fit in that time; all of it would fit from 2026-12-01T14:00:00Z on' }

t.test('what is missing, the nearest that would fit, and when', t => {
  t.match(planText(SHORT), /\n\nIt does not fit: no room for 10 of 12 nodes\n {2}tokyo: takes 2 of 12 nodes\nNearest: 2 of 12 nodes would fit in that time; all of it would fit from 2026-12-01T14:00:00Z on\nnothing is held$/)
  t.match(planText({ ...FITS, placement: FITS.placement.map(part => ({ ...part, wanBytes: part.frontend ? 0 : null, wanMs: null, wanFrom: 'unknown' as const, totalMilli: null })), totalMilli: null }), /nara +10 +data,more +- +0\.25 +- +unknown +unknown\ntotal -; nothing is held$/)
  t.end()
})

t.test('the command asks as it is told, and its exit code says whether it fits', { timeout: 120_000 }, async t => {
  const dir = await mkdtemp(join(tmpdir(), 'mzp-'))
  const asked: unknown[] = []
  const api = await createApi({ title: 'test', description: 'test', logger: pino({ level: 'silent' }) })
  addPlanRoutes(api, () => ({
    plan: (spec, when, only) => {
      asked.push({ spec, when, only })
      return Promise.resolve(only?.length === 2 ? FITS : SHORT)
    }
  }))
  const socket = join(dir, 's')
  await listenUnix(api, socket)
  t.teardown(async () => {
    await api.close()
    await rm(dir, { recursive: true, force: true })
  })
  const file = join(dir, 'demo.yaml')
  await writeFile(file, 'kind: Cluster\n')
  const musubi = async (...args: string[]): ReturnType<typeof run> => await run(process.execPath, [CLI, 'cluster', 'plan', ...args, '--socket', socket], { okCodes: [0, 1, 2, 4], timeoutMs: 25_000, env: { NODE_OPTIONS: '' } })
  t.match(await musubi('-f', file, '--start', '2026-12-01T08:00Z', '--for', '8h', '--sites', 'nara, osaka'), { exitCode: 0, stdout: planText(FITS), stderr: '' })
  t.match(await musubi('-f', file, '--earliest', '--within', '2d', '--json'), { exitCode: 1, stdout: JSON.stringify(SHORT, null, 2), stderr: '' })
  t.same(asked, [
    { spec: { kind: 'Cluster' }, when: { startMs: START, forMs: 8 * HOUR }, only: ['nara', 'osaka'] },
    { spec: { kind: 'Cluster' }, when: { earliest: true, withinMs: 48 * HOUR }, only: [] }
  ])
  t.match(await musubi('-f', file, '--start', 'soon'), { exitCode: 2, stderr: /--start must be a time/ })
  t.match(await musubi(), { exitCode: 2, stderr: /required option '-f, --file <spec\.yaml>'/ })
})

t.test('--hold asks for it in earnest when it fits, and says what is held, until when, and what to do next', { timeout: 120_000 }, async t => {
  const dir = await mkdtemp(join(tmpdir(), 'mzp-'))
  const asked: unknown[] = []
  const api = await createApi({ title: 'test', description: 'test', logger: pino({ level: 'silent' }) })
  let plan = FITS
  let state: ClusterResource = { ...HELD, state: 'negotiating', heldUntil: null, held: null }
  const then: ClusterResource[] = []
  addPlanRoutes(api, () => ({ plan: () => Promise.resolve(plan) }))
  api.post('/v1/clusters', (request, reply) => { asked.push(request.query); return reply.status(202).send(state) })
  api.get('/v1/clusters/:name', () => { state = then.shift() ?? state; return state })
  const socket = join(dir, 's')
  await listenUnix(api, socket)
  t.teardown(async () => {
    await api.close()
    await rm(dir, { recursive: true, force: true })
  })
  const file = join(dir, 'demo.yaml')
  await writeFile(file, 'kind: Cluster\n')
  const musubi = async (...args: string[]): ReturnType<typeof run> => await run(process.execPath, [CLI, 'cluster', 'plan', '-f', file, ...args, '--socket', socket], { okCodes: [0, 1, 2, 4], timeoutMs: 25_000, env: { NODE_OPTIONS: '' } })

  then.push(state, HELD)
  const words = await musubi('--hold', '--earliest', '--sites', 'nara')
  t.match(words, { exitCode: 0, stderr: /demo: negotiating\ndemo: offered/ })
  t.ok(words.stdout.startsWith(`${planText(FITS, true)}\n`), 'the plan first')
  t.match(words.stdout, /total 5\.000; asking these sites to hold it\n\ncluster demo: 12 nodes from 2026-12-01T08:00:00Z for 2h00m\nSITE +NODES +VOLUMES +FRONTEND +PRICE +TOTAL +HELD ON\ntokyo +2 +- +yes +free +free +tokyo-1\nnara +10 +data,more +- +0\.25 +5\.000 +nara-1,nara-2\ntotal 5\.000\n\nIt is held until \S+, for another .*; nothing is decided\.\n.*musubi cluster accept demo\n.*musubi cluster delete demo$/m)

  state = HELD
  t.match(JSON.parse((await musubi('--hold', '5m', '--json')).stdout), { ...FITS, held: { id: HELD.id, name: 'demo', heldUntil: HELD.heldUntil ?? 0, differs: false, sites: HELD.held ?? [] } })
  state = { ...HELD, held: (HELD.held ?? []).map(part => part.site === 'nara' ? { ...part, site: 'osaka', priceMilli: 300 } : part) }
  t.match((await musubi('--hold', '30s')).stdout, /\nosaka +10 +data,more +- +0\.3 [^]*\nThat is not what was planned: sites were asked anew/)
  t.same(asked, [{ holdMs: '120000', earliest: 'true', sites: 'nara' }, { holdMs: '300000' }, { holdMs: '30000' }])

  asked.length = 0
  state = { ...HELD, state: 'failed', held: null, heldUntil: null, error: { code: 'NO_CAPACITY', message: 'refused by\n  nara: full' } }
  t.match(await musubi('--hold'), { exitCode: 1, stderr: /nara: full/ })
  asked.length = 0
  plan = SHORT
  t.match(await musubi('--hold'), { exitCode: 1, stdout: planText(SHORT), stderr: '' })
  for (const time of ['29s', '5m1s']) t.match(await musubi('--hold', time), { exitCode: 2, stderr: /--hold must be/ }, time)
  t.same(asked, [], 'what does not fit holds nothing')
})

t.test('a cluster that is held is listed with until when, and shown with what is held', t => {
  t.match(clustersTable([HELD], START), /demo +offered, held until 2026-12-01T07:59:00\.000Z +0\/12 +tokyo,nara +7 /)
  t.match(clusterText(HELD, START - 160_000), /SITE +NODES +VOLUMES[^]*nara +10[^]*for another 1m40s; nothing is decided\.[^]*cluster accept demo/)
  t.notMatch(clusterText(HELD, START - 160_000), /^(?:segment|lender|WAN)/m, 'of what is only held nothing runs that could be shown')
  t.end()
})
