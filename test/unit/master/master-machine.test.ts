/** The master's machine alone: what it asks, decides and keeps, wherever it is stopped. */
import t from 'tap'
import { MusubiError } from '../../../protocol/core/errors.ts'
import { HOLD_MARGIN, HOLD_TTL_MS, KEEP_ALIVE_MS } from '../../../protocol/core/limits.ts'
import { masterTransitions, type MasterRecord } from '../../../protocol/core/master/record.ts'
import { step } from '../../../protocol/core/master/step.ts'
import { ID, lost, World } from '../../model/master.ts'
import { stoppedEverywhere } from '../../model/master-stops.ts'

const ROOMS = { tokyo: 2, tsukuba: 2, ueno: 2 }
const RUNNING = 4 + 1 + 2 // nodes, frontend, a segment at each of two sites

function active (rooms: Record<string, number> = ROOMS): World {
  const world = new World(rooms)
  world.create()
  world.settle()
  if (world.record().state !== 'active') throw new Error(`it is ${world.record().state}: ${world.record().error?.message ?? ''}`)
  return world
}
const methods = (world: World): string[] => world.sent.map(ask => ask.method)

t.test('a cluster comes to be: requests, decision, commits, document, copies, activation', t => {
  const world = active()
  t.match(world.record(), { state: 'active', asked: [{ site: 'tokyo' }, { site: 'tsukuba' }], epoch: 1, error: null, document: { version: 1 } })
  t.equal(world.running().length, RUNNING)
  t.equal(world.copies, 1)
  t.same(methods(world), ['request', 'request', 'commit', 'commit', 'activate', 'activate', 'keepAlive', 'keepAlive'])
  t.same(world.disk.get(ID)?.state, 'active')
  t.same(world.problems, [])
  t.end()
})

t.test('wherever the master is stopped: all or nothing, and no commit without a decision on its disk', t => {
  t.same(stoppedEverywhere(t, () => new World(ROOMS), world => { world.create(); world.settle() }, 200_000, RUNNING), ['active', 'failed', 'none'])
  t.end()
})

t.test('answers late, doubled, forged or in another order change nothing', t => {
  const world = new World(ROOMS)
  world.create()
  for (let round = 0; world.pending.length > 0 && round < 50; round++) {
    const sent = world.pending.at(-1)
    if (sent === undefined) break
    world.deliver(sent)
    const before = structuredClone([...world.machine.records])
    world.submit({ type: 'failed', callId: sent.callId, error: new MusubiError('STALE_EPOCH', 'forged') })
    world.submit({ type: 'reply', callId: 9_999, answer: { method: 'activate', reply: { site: 'tokyo' } } })
    world.submit({ type: 'copied', clusterId: 'unknown', record: { ...world.record(), id: 'unknown' }, copies: 1 })
    t.same([...world.machine.records], before)
  }
  t.equal(world.record().state, 'active')
  world.submit({ type: 'looked', clusterId: ID, sites: [], id: 'x' })
  world.submit({ type: 'create', cluster: { id: ID, spec: world.record().spec, vni: 1, imageDigest: '', startMs: 0, endMs: 1 } })
  t.match(world.record(), { state: 'active', vni: 7 })
  t.end()
})

t.test('step leaves what it was given as it is', t => {
  const world = new World(ROOMS)
  world.create()
  const before = structuredClone(world.machine)
  const sent = world.pending[0]
  if (sent === undefined) throw new Error('nothing was asked')
  const { state, effects } = step(world.machine, { type: 'failed', callId: sent.callId, error: lost('tokyo') }, world.now)
  t.same(world.machine, before)
  t.not(state.calls.size, before.calls.size)
  t.type(effects, Array)
  t.end()
})

t.test('a site that refuses is left out; after three rounds every refusal is told', t => {
  const world = new World({ tokyo: 2, tsukuba: 2, osaka: 2, nara: 2, uji: 2 })
  world.twist = (site, ask) => ask.method === 'request' && site === 'nara' ? new MusubiError('POLICY', 'we do not lend to you') : null
  world.create()
  world.settle()
  t.match(world.record(), { state: 'active', offers: [{ site: 'tokyo' }, { site: 'osaka' }] })
  t.equal(world.lender('nara').live().length, 0)

  const none = new World({ tokyo: 2, tsukuba: 2, osaka: 2, nara: 2, uji: 2 })
  none.twist = (site, ask) => ask.method === 'request' && site !== 'tokyo' ? new MusubiError('POLICY', `${site} does not lend to you`) : null
  none.create()
  none.settle()
  t.match(none.record(), { state: 'failed', error: { code: 'NO_CAPACITY' } })
  for (const site of ['nara', 'osaka', 'tsukuba']) t.match(none.record().error?.message, new RegExp(`${site} \\(${site}-1\\): ${site} does not lend`))
  t.equal(methods(none).filter(m => m === 'request').length, 6, 'three rounds of two')
  t.same(none.record().asked, [], 'and everybody has let go')
  t.equal(none.live(), 0)
  t.end()
})

t.test('the own site cannot be left out', t => {
  const world = new World(ROOMS)
  world.twist = (site, ask) => ask.method === 'request' && site === 'tokyo' ? new MusubiError('CORDONED', 'tokyo-1 is cordoned') : null
  world.create()
  world.settle()
  t.match(world.record(), { state: 'failed', error: { code: 'CORDONED', message: /tokyo-1 is cordoned/ } })
  t.equal(world.live(), 0)
  t.end()
})

t.test('another offer than was asked for, or one that is held for no time, is no offer', t => {
  const bad: Array<[RegExp, (world: World) => void]> = [
    [/something else than was asked/, world => { world.twist = (site, ask) => {
      if (ask.method !== 'request' || site === 'tokyo') return null
      return world.lender(site).answer({ ...ask, request: { ...ask.request, nodes: ask.request.nodes.slice(1) } })
    } }],
    [/held for no time/, world => { world.twist = (site, ask) => ask.method === 'request' && site !== 'tokyo' ? world.lender(site).answer({ ...ask, request: { ...ask.request, holdTtlMs: 0 } }) : null }]
  ]
  for (const [message, twist] of bad) {
    const world = new World(ROOMS)
    twist(world)
    world.create()
    world.settle()
    t.match(world.record(), { state: 'failed', error: { message } })
    t.notOk(methods(world).includes('commit'))
    world.pass(31_000)
    t.equal(world.live(), 0)
  }
  t.end()
})

t.test('a hold counts from when it was asked for, less what both clocks may be off', t => {
  for (const [late, state] of [[HOLD_TTL_MS * (1 - HOLD_MARGIN) - 1, 'active'], [HOLD_TTL_MS * (1 - HOLD_MARGIN) + 1, 'failed']] as const) {
    const world = new World(ROOMS)
    world.create()
    const [first, second] = world.pending
    if (first === undefined || second === undefined) throw new Error('two sites are asked')
    world.deliver(first)
    world.now += late
    world.deliver(second)
    world.settle()
    t.equal(world.record().state, state)
    if (state === 'failed') t.match(world.record().error, { code: 'UNREACHABLE', message: /the hold at tokyo, tsukuba ran out|the hold at tokyo/ })
    t.equal(methods(world).includes('commit'), state === 'active')
  }
  t.end()
})

t.test('a commit is sent again while holds count, and not after', t => {
  const world = new World(ROOMS)
  let tries = 0
  world.twist = (site, ask) => ask.method === 'commit' && site === 'tsukuba' && ++tries < 3 ? 'lose reply' : null
  world.create()
  world.settle()
  t.equal(world.record().state, 'committing')
  world.pass(2_000)
  t.match(world.record(), { state: 'active' })
  t.equal(tries, 3)

  const away = new World(ROOMS)
  away.twist = (site, ask) => (ask.method === 'commit' || ask.method === 'release') && site === 'tsukuba' ? lost(site) : null
  away.create()
  away.settle()
  away.pass(40_000)
  t.match(away.record(), { state: 'failed', error: { code: 'UNREACHABLE', message: /not every site could commit[^]*tsukuba: tsukuba did not answer/ } })
  t.equal(away.lender('tokyo').live().length, 0)
  t.ok(methods(away).filter(m => m === 'commit').length < 60, 'at a bounded rate')
  t.end()
})

t.test('receipts that do not cover everything are refused: nothing is activated', t => {
  const world = new World(ROOMS)
  world.twist = (site, ask) => {
    if (ask.method !== 'commit' || site !== 'tsukuba') return null
    const answer = world.lender(site).answer(ask)
    return answer.method === 'commit' ? { ...answer, reply: { ...answer.reply, receipts: answer.reply.receipts.slice(1) } } : answer
  }
  world.create()
  world.settle()
  t.match(world.record(), { state: 'failed', error: { message: /no receipt for node/ } })
  t.notOk(methods(world).includes('activate'))
  t.equal(world.live(), 0)
  t.end()
})

t.test('an activation that is refused ends everything, also where it was done', t => {
  const world = new World(ROOMS)
  world.twist = (site, ask) => ask.method === 'activate' && site === 'tsukuba' ? new MusubiError('CONFLICT', 'a wrong document') : null
  world.create()
  world.settle()
  t.match(world.record(), { state: 'failed', error: { code: 'CONFLICT', message: /site tsukuba could not activate its leases: a wrong document/ } })
  t.equal(world.live(), 0)
  t.end()
})

t.test('a deletion in any state goes on until every site has confirmed', t => {
  for (let delivered = 0; delivered <= 6; delivered++) {
    const world = new World(ROOMS)
    world.create()
    for (let i = 0; i < delivered; i++) { const next = world.pending[0]; if (next !== undefined) world.deliver(next) }
    const late = [...world.pending]
    world.pending = []
    const before = world.record().state
    world.submit({ type: 'delete', clusterId: ID, reason: 'enough' })
    world.twist = (site, ask) => ask.method === 'release' && site === 'tsukuba' && world.now < 1_800_000_030_000 ? lost(site) : null
    world.settle()
    if (before !== 'negotiating') t.equal(world.record().state, 'releasing', `${before}: tsukuba has not confirmed`)
    for (const sent of late) world.deliver(sent)
    world.crash(false)
    world.pass(200_000, 1_000)
    t.equal(world.record().state, 'ended', before)
    t.equal(world.live(), 0, before)
  }
  t.end()
})

t.test('the end of the term ends it; long after it is forgotten', t => {
  const world = active()
  world.now = world.record().endMs - 100
  world.pass(1_000)
  t.equal(world.record().state, 'ended')
  world.pass(25 * 3_600_000, 3_600_000)
  t.equal(world.machine.records.size, 0)
  t.equal(world.disk.size, 0)
  t.end()
})

t.test('keep-alives go out at their rate, also after a restart, and tell the skew of clocks', t => {
  const world = active()
  world.twist = (site, ask) => ask.method === 'keepAlive' && site === 'tsukuba' ? { method: 'keepAlive', reply: { site, state: 'active', endMs: 0, epoch: 1, nowMs: world.now + 5_000 } } : null
  const count = (): number => methods(world).filter(m => m === 'keepAlive').length
  const before = count()
  world.pass(KEEP_ALIVE_MS * 5)
  t.ok(count() - before >= 8 && count() - before <= 12, `${count() - before} in five intervals, at two sites`)
  t.match(world.machine.works.get(ID)?.contacts.get('tsukuba'), { skewMs: 5_000, state: 'active' })
  world.crash(false)
  world.pass(1_000)
  t.equal(world.record().state, 'active')
  t.ok(count() > before)
  t.end()
})

t.test('a reservation is confirmed by keep-alives and activated at its start', t => {
  const world = new World(ROOMS)
  world.create({}, world.now + 600_000)
  world.settle()
  t.equal(world.record().state, 'activating')
  t.notOk(methods(world).includes('activate'))
  world.pass(300_000, 1_000)
  world.crash(false)
  world.pass(301_000, 1_000)
  t.equal(world.record().state, 'active')
  t.ok(methods(world).filter(m => m === 'keepAlive').length > 20)
  t.equal(world.running().length, RUNNING)
  t.end()
})

t.test('a higher epoch supersedes a master, if the own site says so', t => {
  const world = active()
  const stale = new MusubiError('STALE_EPOCH', 'cluster has another master since epoch 2')
  world.twist = (site, ask) => ask.method === 'keepAlive' && site === 'tsukuba' ? stale : null
  world.pass(KEEP_ALIVE_MS * 2)
  t.equal(world.record().state, 'active', 'a lender elsewhere ends nobody\'s work with a word')
  world.twist = (_site, ask) => ask.method === 'keepAlive' ? stale : null
  world.pass(KEEP_ALIVE_MS * 2)
  t.match(world.record(), { state: 'superseded', asked: [] })
  const { length } = world.sent
  world.pass(KEEP_ALIVE_MS * 5)
  t.equal(world.sent.length, length, 'it says nothing any more')
  t.equal(world.running().length, RUNNING, 'and ends nothing')
  world.submit({ type: 'delete', clusterId: ID, reason: '' })
  t.equal(world.disk.size, 0, 'a deletion only forgets it')
  t.end()
})

t.test('an adopted cluster goes on; one that never ran is released', t => {
  const first = active()
  const copy = (state: MasterRecord['state'], epoch = 2): MasterRecord => ({ ...structuredClone(first.record()), state, epoch, grant: { envelope: new Uint8Array([1]), chain: [] } })
  const world = new World(ROOMS)
  for (const [site, lender] of first.lenders) for (const [id, lent] of lender.lent) { world.lender(site).lent.set(id, lent); world.lender(site).endMs = lender.endMs }
  world.now = first.now
  world.submit({ type: 'adopt', record: copy('active') })
  world.settle()
  t.match(world.record(), { state: 'active', epoch: 2, asked: [{ site: 'tokyo' }, { site: 'tsukuba' }] })
  t.match(world.sent[0], { method: 'keepAlive', request: { epoch: 2, grant: { envelope: Uint8Array } } })
  world.submit({ type: 'adopt', record: copy('releasing', 3) })
  t.equal(world.record().state, 'active', 'nobody takes it from its master here')
  world.submit({ type: 'delete', clusterId: ID, reason: '' })
  world.settle()
  t.equal(world.live(), 0)

  const never = new World(ROOMS)
  never.submit({ type: 'adopt', record: copy('releasing') })
  never.settle()
  t.equal(never.record().state, 'ended')
  t.end()
})

t.test('an adopted cluster is not over before its lenders say so, nor before they listen', t => {
  const first = active()
  const world = new World(ROOMS)
  const laterMs = first.record().endMs + 1_800_000
  for (const [site, lender] of first.lenders) for (const [id, lent] of lender.lent) { world.lender(site).lent.set(id, lent); world.lender(site).endMs = laterMs }
  const copy: MasterRecord = { ...structuredClone(first.record()), epoch: 2, grant: null }
  world.now = copy.endMs - 10_000
  // the copy is from before an extension, and the answer of the anchor was lost
  const needed = new MusubiError('GRANT_NEEDED', 'nobody has proved epoch 2 here', { retryable: true })
  world.twist = () => needed
  world.submit({ type: 'adopt', record: copy })
  world.pass(100_000, 1_000)
  t.match(world.record(), { state: 'active', endMs: copy.endMs }, 'nobody has listened yet')
  world.twist = () => null
  const grant = { envelope: new Uint8Array([1]), chain: [] }
  world.submit({ type: 'adopt', record: { ...copy, grant } })
  world.pass(1_000)
  t.match(world.record(), { state: 'active', grant, endMs: laterMs })
  t.equal(world.disk.get(ID)?.endMs, laterMs)
  world.now = laterMs
  world.twist = () => needed
  world.pass(30_000, 1_000)
  t.equal(world.record().state, 'releasing', 'then it is over')
  world.pass(120_000, 1_000)
  t.equal(world.record().state, 'ended', 'when the guard has passed')

  const other = new World(ROOMS)
  other.submit({ type: 'adopt', record: { ...copy, endMs: copy.endMs + 900_000_000 } })
  other.submit({ type: 'adopt', record: { ...copy, state: 'superseded' } })
  t.match(other.record(), { state: 'superseded', asked: [] }, 'the anchor gave the epoch to another')
  t.end()
})

t.test('every move is a row of the table', t => {
  for (const { from, to } of masterTransitions) t.ok(from !== null || ['negotiating', 'active', 'activating', 'releasing'].includes(to))
  t.end()
})
