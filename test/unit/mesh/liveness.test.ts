import t from 'tap'
import fc from 'fast-check'
import { LIVENESS_DIRECTORY, LIVENESS_SITE, LIVENESS_TICK_MS, MAX_STRIKES, PROBE_TIMEOUT_MS, SUSPICION_WINDOW, WATCH_DIRECTORY_MS, WATCH_SITE_MS } from '../../../protocol/mesh/constants.ts'
import { createKey, peerIdOf } from '../../../protocol/mesh/identity.ts'
import { PatientClock } from '../../../protocol/mesh/liveness/clock.ts'
import { Pinger, successors } from '../../../protocol/mesh/liveness/pinger.ts'
import { newPeer, step, type Effect, type LivenessEvent, type PeerState, type Status } from '../../../protocol/mesh/liveness/state.ts'
import { isSuspicionAuthentic, signSuspicion } from '../../../protocol/mesh/liveness/suspicion.ts'
import { isNewer, type Version } from '../../../protocol/mesh/records/view.ts'

const timing = { graceMs: 1000, suspicionMs: 4000 }
const v = (seq: number, epoch = 1): Version => ({ epoch, seq })

/** One peer, followed through events at given times. */
class Story {
  state: PeerState
  readonly effects: Effect[] = []
  constructor (version: Version = v(1), connected = false) {
    this.state = newPeer(version, connected)
  }

  at (nowMs: number, event: LivenessEvent): this {
    const { state, effects } = step(this.state, event, nowMs, timing)
    this.state = state
    this.effects.push(...effects)
    return this
  }

  get status (): Status { return this.state.status }
}
const tick = { type: 'tick' } as const

t.test('a lost connection: grace, suspicion, death', t => {
  const story = new Story(v(1), true).at(0, { type: 'disconnected' }).at(999, tick)
  t.strictSame([story.status, story.effects], ['alive', ['probe']])
  story.at(1000, tick)
  t.strictSame([story.status, story.effects], ['suspect', ['probe', 'accuse']])
  t.equal(story.at(4999, tick).status, 'suspect')
  t.equal(story.at(5000, tick).status, 'dead')
  t.equal(story.at(60_000, tick).status, 'dead')
  t.equal(story.at(60_001, { type: 'heard', version: v(1) }).status, 'dead', 'nothing that it said before')
  t.equal(story.at(60_002, { type: 'heard', version: v(1, 2) }).status, 'alive', 'its next start')
  t.end()
})

t.test('a connection that is found again, or an answer, ends it', t => {
  t.equal(new Story(v(1), true).at(0, { type: 'disconnected' }).at(500, { type: 'connected' }).at(9000, tick).status, 'alive')
  t.equal(new Story(v(1), true).at(0, { type: 'disconnected' }).at(500, { type: 'probed', answered: true }).at(9000, tick).status, 'alive')
  const story = new Story(v(1), true).at(0, { type: 'disconnected' }).at(1000, tick).at(1500, { type: 'connected' })
  t.strictSame([story.status, story.effects.at(-1)], ['alive', 'tell'], 'it is told, so that it refutes everywhere')
  t.equal(story.at(9000, tick).status, 'alive')
  t.end()
})

t.test('what others say is believed until it is refuted', t => {
  const story = new Story(v(5)).at(0, { type: 'accused', version: v(5) })
  t.strictSame([story.status, story.effects], ['suspect', []], 'only its neighbours ask')
  t.equal(story.at(10, { type: 'heard', version: v(5) }).status, 'suspect')
  t.equal(story.at(10, { type: 'heard', version: v(6) }).status, 'alive')
  t.equal(story.at(20, { type: 'accused', version: v(5) }).status, 'alive', 'it has spoken since')
  t.equal(story.at(30, { type: 'accused', version: v(6) }).at(4030, tick).status, 'dead')
  t.end()
})

t.test('a suspicion ahead of what is known stands until something newer than it is heard, within bounds', t => {
  const story = new Story(v(5)).at(0, { type: 'accused', version: v(7) })
  t.equal(story.at(1, { type: 'heard', version: v(6) }).status, 'suspect')
  t.equal(story.at(1, { type: 'heard', version: v(8) }).status, 'alive')
  t.equal(new Story(v(5)).at(0, { type: 'accused', version: v(6 + SUSPICION_WINDOW) }).status, 'alive', 'nobody is accused for all time')
  t.equal(new Story(v(5)).at(0, { type: 'accused', version: v(1, 2) }).status, 'alive')
  t.end()
})

t.test('an accused neighbour is asked, and lives by its answer', t => {
  const story = new Story(v(5), true).at(0, { type: 'accused', version: v(5) })
  t.strictSame(story.effects, ['probe'])
  t.strictSame([story.at(50, { type: 'probed', answered: true }).status, story.effects.at(-1)], ['alive', 'tell'])
  const hung = new Story(v(5), true).at(0, { type: 'accused', version: v(5) }).at(2000, { type: 'probed', answered: false })
  t.equal(hung.at(4000, tick).status, 'dead', 'a connection alone is no proof')
  const open = new Story(v(5), true).at(0, { type: 'accused', version: v(5) }).at(4000, tick)
  t.strictSame([open.status, open.effects], ['suspect', ['probe', 'probe']], 'no answer yet')
  t.end()
})

t.test('what was said before the loss and arrives after it does not save a dead peer', t => {
  const story = new Story(v(1), true).at(0, { type: 'disconnected' }).at(1000, tick)
  story.at(1100, { type: 'heard', version: v(2) })
  t.equal(story.status, 'alive')
  t.equal(story.at(3100, tick).status, 'suspect', 'we lost it: we look again')
  t.equal(story.at(7100, tick).status, 'dead')
  t.end()
})

t.test('one that is reached by others only is left alone after some refutations', t => {
  const story = new Story(v(0), true).at(0, { type: 'disconnected' })
  let now = 0
  for (let seq = 1; seq <= 20; seq++) {
    now += 20_000
    story.at(now, tick)
    if (story.status === 'suspect') story.at(now, { type: 'heard', version: v(seq) })
  }
  t.equal(story.effects.filter(effect => effect === 'accuse').length, MAX_STRIKES + 1)
  t.equal(story.status, 'alive')
  t.end()
})

t.test('a neighbour that does not answer is suspected at once; a busy one gets more time after each refutation', t => {
  const hung = new Story(v(1), true).at(0, { type: 'probed', answered: false })
  t.strictSame([hung.status, hung.effects], ['suspect', ['accuse']])
  t.equal(hung.at(4000, tick).status, 'dead', 'although its connection is open')
  const busy = new Story(v(1), true)
  const accusedMs: number[] = []
  let seq = 1
  for (let now = 0; now < 200_000; now += 500) {
    if (now % 4500 === 0) busy.at(now, { type: 'probed', answered: false })
    busy.at(now, tick)
    if (busy.status !== 'suspect') continue
    accusedMs.push(now)
    busy.at(now, { type: 'heard', version: v(++seq) })
  }
  t.equal(busy.status, 'alive')
  t.ok(accusedMs.length < 15, `${accusedMs.length} suspicions in 200 s`)
  busy.at(200_000, { type: 'probed', answered: true })
  t.equal(busy.at(200_001, { type: 'probed', answered: false }).status, 'suspect', 'an answer makes good for it')
  t.end()
})

t.test('silence is asked about before it is held against anybody', t => {
  const story = new Story().at(0, { type: 'silent' }).at(1, { type: 'silent' })
  t.strictSame(story.effects, ['probe'])
  t.equal(story.at(PROBE_TIMEOUT_MS + 500, tick).status, 'alive')
  t.equal(story.at(PROBE_TIMEOUT_MS + 1000, tick).status, 'suspect')
  t.strictSame(new Story(v(1), true).at(0, { type: 'silent' }).effects, [], 'a connection speaks for it')
  t.end()
})

t.test('whose record has run out is dead until it says something new', t => {
  const story = new Story(v(3)).at(0, { type: 'expired' })
  t.equal(story.status, 'dead')
  t.equal(story.at(1, { type: 'heard', version: v(4) }).status, 'alive')
  t.end()
})

const seq = fc.integer({ min: 1, max: 30 })
const heard = seq.map((n): LivenessEvent => ({ type: 'heard', version: v(n) }))
const accused = seq.map((n): LivenessEvent => ({ type: 'accused', version: v(n) }))

t.test('the order in which records and suspicions arrive does not matter', t => {
  const events = fc.array(fc.oneof(heard, accused), { minLength: 1, maxLength: 20 })
  fc.assert(fc.property(events.chain(list => fc.tuple(fc.constant(list), fc.shuffledSubarray(list, { minLength: list.length }))), ([one, other]) => {
    const [a, b] = [one, other].map(list => list.reduce((story, event) => story.at(0, event), new Story(v(1))))
    const pick = (story: Story | undefined): unknown => [story?.status, story?.state.version]
    t.strictSame(pick(a), pick(b))
    const newest = (type: string): number => Math.max(0, ...one.flatMap(event => 'version' in event && event.type === type ? [event.version.seq] : []))
    t.equal(a?.status, newest('accused') >= Math.max(1, newest('heard')) ? 'suspect' : 'alive')
  }), { numRuns: 500 })
  t.end()
})

t.test('nobody dies who refutes every suspicion in time', t => {
  const event = fc.oneof(heard, accused, fc.constantFrom<LivenessEvent>({ type: 'connected' }, { type: 'disconnected' }, { type: 'silent' }, { type: 'probed', answered: true }, { type: 'probed', answered: false }))
  fc.assert(fc.property(fc.array(fc.tuple(event, fc.integer({ min: 0, max: 6000 })), { maxLength: 60 }), fc.integer({ min: 0, max: timing.suspicionMs - 500 }), (events, delayMs) => {
    const story = new Story(v(1), true)
    let now = 0
    let said = 30
    let suspectMs: number | null = null
    let deaths = 0
    for (const [next, passMs] of events) {
      story.at(now, next)
      // time passes in small steps; what is suspected speaks within `delayMs`
      for (const end = now + passMs; now <= end; now += 250) {
        story.at(now, tick)
        if (story.status === 'dead') deaths++
        suspectMs = story.status === 'suspect' ? suspectMs ?? now : null
        if (suspectMs !== null && now - suspectMs >= delayMs) story.at(now, { type: 'heard', version: v(++said) })
      }
    }
    t.equal(deaths, 0)
  }), { numRuns: 200 })
  t.end()
})

t.test('whoever is gone for good dies, whatever was known before', t => {
  fc.assert(fc.property(fc.array(fc.oneof(heard, accused), { maxLength: 20 }), fc.nat(MAX_STRIKES), (events, late) => {
    const story = events.reduce((before, event) => before.at(0, event), new Story(v(1), true)).at(0, { type: 'disconnected' })
    let now = 0
    // a few records of it are still on their way
    for (let n = 0; n < late; n++) story.at(now += 1500, tick).at(now, { type: 'heard', version: v(40 + n) })
    for (let n = 0; n < 400; n++) story.at(now += 250, tick)
    t.equal(story.status, 'dead')
  }), { numRuns: 200 })
  t.end()
})

t.test('a later start always beats what is suspected of an earlier one', t => {
  fc.assert(fc.property(fc.array(fc.oneof(heard, accused, fc.constant<LivenessEvent>({ type: 'expired' })), { maxLength: 10 }), events => {
    const story = events.reduce((before, event) => before.at(0, event), new Story(v(1))).at(0, { type: 'heard', version: v(0, 2) })
    t.equal(story.status, 'alive')
    t.ok(isNewer(story.state.version, v(1000, 1)))
  }))
  t.end()
})

t.test('the patient clock does not run while this process is late', t => {
  const clock = new PatientClock(250, 1000)
  t.equal(clock.advance(1250), 250)
  t.equal(clock.advance(1510), 510, 'timers are a little late always')
  t.equal(clock.advance(21_510), 810, 'twenty seconds were lost')
  t.equal(clock.lateMs, 19_700)
  t.equal(clock.advance(20_000), 810, 'it never runs backwards')
  t.equal(clock.advance(21_760), 1060)
  t.end()
})

t.test('the times keep the promises: 10 s in a site and 30 s between sites, also for a hung process', t => {
  for (const [limitMs, watchMs, { graceMs, suspicionMs }] of [[10_000, WATCH_SITE_MS, LIVENESS_SITE], [30_000, WATCH_DIRECTORY_MS, LIVENESS_DIRECTORY]] as const) {
    t.ok(watchMs + PROBE_TIMEOUT_MS + suspicionMs + 3 * LIVENESS_TICK_MS < limitMs, 'hung')
    t.ok(graceMs + suspicionMs + 2 * LIVENESS_TICK_MS < limitMs, 'dead')
    t.ok(suspicionMs > PROBE_TIMEOUT_MS, 'who is asked can answer in time')
  }
  t.end()
})

t.test('a suspicion is signed by who says it', async t => {
  const [key, other] = [await createKey(), await createKey()]
  const said = signSuspicion(key, peerIdOf(other), 'host', v(7))
  t.ok(isSuspicionAuthentic(said))
  for (const change of [{ peer: peerIdOf(key) }, { kind: 'site' }, { seq: 8 }, { epoch: 2 }, { by: peerIdOf(other) }, { signature: new Uint8Array(64) }]) {
    t.notOk(isSuspicionAuthentic({ ...said, ...change }), Object.keys(change).join())
  }
})

t.test('on the ring everybody is watched by as many, whoever else is there', t => {
  fc.assert(fc.property(fc.uniqueArray(fc.string({ minLength: 1, maxLength: 12 }), { minLength: 4, maxLength: 40 }), members => {
    const watchers = new Map<string, number>()
    for (const self of members) {
      const next = successors(self, members, 2)
      t.notOk(next.includes(self))
      for (const peer of next) watchers.set(peer, (watchers.get(peer) ?? 0) + 1)
    }
    t.ok(members.every(peer => watchers.get(peer) === 2))
  }), { numRuns: 50 })
  t.strictSame(successors('a', ['a'], 2), [])
  t.strictSame(successors('a', ['b', 'a'], 2), ['b'])
  t.end()
})

t.test('a late process blames nobody, and who cannot be reached is left to others', async t => {
  const clock = new PatientClock(LIVENESS_TICK_MS, 0)
  const asked: string[] = []
  const results: string[] = []
  const gone = new Set<string>()
  let failsAfterMs: number | null = null
  const pinger = new Pinger({
    self: 'a', scopes: ['site/tokyo'], clock, timeoutMs: 2500, members: () => ['b', 'c', 'd'], isConnected: peer => !gone.has(peer),
    ping: async (_scope, peer) => {
      asked.push(peer)
      const fromMs = clock.nowMs
      while (failsAfterMs !== null && clock.nowMs - fromMs < failsAfterMs) await new Promise(setImmediate)
      return failsAfterMs === null && !gone.has(peer)
    },
    onResult: (peer, answered) => { results.push(`${peer} ${answered}`) }
  })
  let now = 0
  const pass = async (ms: number, each = (): void => undefined): Promise<void> => {
    for (const end = now + ms; now < end;) {
      clock.advance(now += 250)
      each()
      pinger.tick()
      for (let turn = 0; turn < 3; turn++) await new Promise(setImmediate)
    }
  }
  await pass(20_000)
  const [one, two] = successors('a', ['b', 'c', 'd'], 2)
  if (one === undefined || two === undefined) throw new Error('no successors')
  t.ok(asked.length >= 18 && asked.length <= 24, `${asked.length} questions in 20 s`)
  t.strictSame([...new Set(results)].sort(), [`${one} true`, `${two} true`].sort())
  asked.length = 0
  for (const peer of [one, two]) pinger.proof(peer)
  await pass(20_000, () => { if (now % 1000 === 0) for (const peer of [one, two]) pinger.proof(peer) })
  t.strictSame(asked, [], 'who calls need not be asked')
  asked.length = results.length = 0
  failsAfterMs = 0
  await pass(10_000)
  t.ok(asked.length > 2)
  t.strictSame(results, [], 'it failed before its time was up: that is our fault')
  failsAfterMs = 2500
  await pass(10_000)
  t.ok(results.includes(`${one} false`))
  failsAfterMs = null
  gone.add(one)
  await pass(4000)
  asked.length = results.length = 0
  await pass(10_000)
  t.notOk(asked.includes(one), 'it has no way from here')
  t.strictSame(new Set(asked).size, 2, 'another is watched instead')
  gone.delete(one)
  pinger.connected(one)
  await pass(10_000)
  t.ok(results.includes(`${one} true`))
})
