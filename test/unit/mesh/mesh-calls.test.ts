import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { ConflictError, describeError, InvalidInputError, MusubiError, NoCapacityError, NotFoundError, UnreachableError } from '../../../protocol/core/errors.ts'
import { MAX_IN_FLIGHT_PER_PEER } from '../../../protocol/core/limits.ts'
import { decode, type wire } from '../../../protocol/wire/codec.ts'
import { WRITE_HIGH_WATER_BYTES } from '../../../protocol/mesh/constants.ts'
import { fromFailure, originOf, toFailure } from '../../../protocol/mesh/rpc/failures.ts'
import { encodeCall, Handlers } from '../../../protocol/mesh/rpc/handlers.ts'
import { backoffMs, choose } from '../../../protocol/mesh/neighbours.ts'
import { Outbox } from '../../../protocol/mesh/rpc/streams.ts'

const self = { site: 'tokyo', host: 'g1' }

t.test('an error keeps its class, code, hint and place on the way', t => {
  const errors = [
    new InvalidInputError('bad', 'try better'), new NoCapacityError('full'), new NotFoundError('gone'), new ConflictError('no', 'wait'),
    new UnreachableError('far'), new MusubiError('LEASE_STALE', 'old token', { retryable: false }), new MusubiError('BUSY', 'later', { retryable: true, hint: 'h' })
  ]
  for (const error of errors) {
    const back = fromFailure(toFailure(error, self), '12D3')
    t.equal(back.constructor, error.constructor, error.code)
    t.strictSame([back.code, back.message, back.retryable, back.hint], [error.code, error.message, error.retryable, error.hint])
    t.strictSame(originOf(back), { peerId: '12D3', ...self })
    t.equal(describeError(back), describeError(error))
  }
  t.equal(originOf(new Error('local')), null)
  t.end()
})

t.test('an error that is passed on still names where it arose', t => {
  const atGateway = fromFailure(toFailure(new NoCapacityError('no room'), { site: 'tokyo', host: 'c7' }), 'peer of c7')
  const atMaster = fromFailure(toFailure(atGateway, self), 'peer of g1')
  t.strictSame(originOf(atMaster), { peerId: 'peer of g1', site: 'tokyo', host: 'c7' })
  t.end()
})

t.test('what is not ours keeps its details at home', t => {
  const failure = toFailure(new TypeError('cannot read /etc/secret'), self)
  t.strictSame([failure.code, failure.message], ['INTERNAL', 'internal error at tokyo/g1'])
  const odd = fromFailure({ code: 'NO_CAPACITY', message: 'x', retryable: false, hint: '', site: '', host: '' }, 'p')
  t.equal(odd.retryable, false, 'what the far side says about retrying counts')
  t.equal(odd.code, 'NO_CAPACITY')
  t.end()
})

t.test('what another site writes moves no cursor', t => {
  const hostile = fromFailure({ code: 'NO\x1b[2J', message: 'no room\x1b[1A\r\x1b[2Ktotal 0\u202e\n  at osaka', retryable: true, hint: '\x07ask\u2028again', site: 'osaka\x1b', host: '\x9b2J' }, 'p')
  t.strictSame([hostile.code, hostile.message, hostile.hint], ['NO [2J', 'no room [1A [2Ktotal 0 \n  at osaka', ' ask again'])
  t.strictSame(originOf(hostile), { peerId: 'p', site: 'osaka ', host: ' 2J' })
  t.end()
})

const never = new AbortController().signal
const caller = { kind: 'host', site: 'tokyo', host: 'g1', roles: ['gateway'] } as const
const handlers = (onError: (error: unknown) => void = () => undefined): Handlers => new Handlers({
  self, roleOf: peerId => peerId === 'stranger' ? null : caller, onInternalError: (_method, _peer, error) => { onError(error) }
})
function callOf (id: number, deadlineMs = 1000): wire.Call {
  const { call } = decode('Frame', encodeCall(id, deadlineMs, 'commit', { clusterId: 'c', offerId: 'o', key: 'k', epoch: 1 }))
  if (call === null) throw new Error('no call')
  return call
}
async function ask (from: Handlers, call: wire.Call, peerId = 'peer', gone = never): Promise<wire.Reply> {
  const { reply } = decode('Frame', await from.answer(call, peerId, gone))
  if (reply === null) throw new Error('no reply')
  return reply
}

t.test('every call is answered under its id, whatever the handler does', async t => {
  const seen: unknown[] = []
  const served = handlers(error => seen.push(error))
  t.equal((await ask(served, callOf(3))).failure?.code, 'UNIMPLEMENTED', 'no handler')
  t.equal((await ask(served, decode('Call', new Uint8Array([0x08, 0x09])))).failure?.code, 'UNIMPLEMENTED', 'a method of a later release')
  let behave: () => unknown = () => ({ site: 'tokyo', receipts: [] })
  served.serve('commit', async () => await behave() as never)
  t.throws(() => { served.serve('commit', () => ({ site: '', receipts: [] })) }, { code: 'ALREADY_SERVED' })
  const good = await ask(served, callOf(7))
  t.strictSame([good.id, good.commit?.site, good.failure], [7, 'tokyo', null])
  t.equal((await ask(served, callOf(8), 'stranger')).failure?.code, 'FORBIDDEN')
  behave = () => { throw new NoCapacityError('full') }
  t.equal((await ask(served, callOf(9))).failure?.code, 'NO_CAPACITY')
  t.strictSame(seen, [], 'that was meant for the caller')
  behave = () => { throw new TypeError('oops') }
  t.equal((await ask(served, callOf(10))).failure?.code, 'INTERNAL')
  t.match(seen, [{ message: 'oops' }], 'and this is for our log')
  behave = () => ({ site: 5 })
  t.equal((await ask(served, callOf(11))).failure?.code, 'INVALID_INPUT', 'a reply that does not fit')
})

t.test('a handler learns of the deadline and of a caller that is gone', async t => {
  const served = handlers()
  const reasons: unknown[] = []
  served.serve('commit', async (_request, { signal }) => {
    const { promise, reject } = Promise.withResolvers<never>()
    signal.addEventListener('abort', () => { reasons.push(signal.reason); reject(signal.reason as Error) }, { once: true })
    return await promise
  })
  t.match((await ask(served, callOf(1, 20))).failure, { code: 'DEADLINE', retryable: true })
  const gone = new AbortController()
  const answer = ask(served, callOf(2, 5000), 'peer', gone.signal)
  gone.abort(new Error('gone'))
  t.equal((await answer).failure?.code, 'INTERNAL')
  t.match(reasons, [{ code: 'DEADLINE' }, { message: 'gone' }])
})

t.test('a peer has a bounded number of calls under way, and others are not hurt by it', async t => {
  const served = handlers()
  const { promise, resolve } = Promise.withResolvers<null>()
  served.serve('commit', async () => {
    await promise
    return { site: 'tokyo', receipts: [] }
  })
  const running = Array.from({ length: MAX_IN_FLIGHT_PER_PEER }, async (_, id) => await ask(served, callOf(id)))
  t.match((await ask(served, callOf(999))).failure, { code: 'BUSY', retryable: true })
  const other = ask(served, callOf(1), 'another')
  resolve(null)
  for (const reply of await Promise.all([...running, other])) t.equal(reply.failure, null)
  await sleep(0)
  t.equal((await ask(served, callOf(1000))).failure, null, 'places are free again')
})

t.test('an outbox makes its producer wait for a slow reader', async t => {
  const outbox = new Outbox()
  const big = new Uint8Array(WRITE_HIGH_WATER_BYTES / 2 + 1)
  outbox.push(big)
  await outbox.room()
  outbox.push(big)
  let free = false
  const room = outbox.room().then(() => { free = true })
  await sleep(5)
  t.notOk(free)
  const reader = outbox[Symbol.asyncIterator]()
  await reader.next()
  void reader.next()
  await room
  t.ok(free)
  outbox.end()
  await outbox.room()
  t.strictSame(await reader.next(), { done: true, value: undefined })
})

t.test('neighbours: all that are always kept, others up to the degree, few at once, some of our own choice', t => {
  const candidates = ['main', ...Array.from({ length: 30 }, (_, n) => `p${n}`)]
  const group = { candidates, always: new Set(['main']) }
  const none = (): boolean => false
  const all = (): boolean => true
  const chosen = choose([group], none, none, all, () => 0.5)
  t.equal(chosen.length, 4)
  t.ok(chosen.includes('main'))
  t.equal(new Set(chosen).size, 4)
  const first = (n: number) => (peer: string): boolean => candidates.indexOf(peer) <= n
  t.equal(choose([group], first(7), first(7), all, () => 0).length, 1, 'one is missing to the degree')
  t.equal(choose([group], first(8), first(3), all, () => 0).length, 0, 'enough, three of them of our choice')
  t.equal(choose([group], first(20), first(1), all, () => 0).length, 2, 'many have chosen us: some have to be of our choice')
  t.strictSame(choose([group], peer => peer !== 'main', all, all, () => 0), ['main'], 'well connected, but not to the coordinator')
  t.strictSame(choose([group], none, none, peer => peer === 'p3', () => 0), ['p3'], 'only those whose wait is over')
  t.equal(choose([group, group], none, none, all, () => 0).length, 7, 'one peer may serve two groups')
  const waits = [0, 1, 5, 30].map(failures => backoffMs(failures, () => 1))
  t.strictSame(waits, [250, 500, 8000, 15_000])
  t.equal(backoffMs(0, () => 0), 125)
  t.end()
})
