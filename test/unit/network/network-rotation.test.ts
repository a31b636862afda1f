import t from 'tap'
import { decide, noteQuiet, sessionKey } from '../../../agent/drivers/network/tunnel/rotation.ts'
import type { Track } from '../../../protocol/core/desired.ts'
import type { Decision, KeyState, RotatingPeer, RotationOptions, Seen } from '../../../agent/drivers/network/tunnel/rotation.ts'

const NOW = 1_000_000_000
const OPTIONS: RotationOptions = { quietMs: 60_000, graceMs: 3_600_000, tidyMs: 600_000, settleMs: 1_000 }
const P = '100.64.0.2'
const Q = '100.64.0.3'

/** `0` and `1`: a track with a key of that epoch, e.g. `0:2 1:3*`; the star marks what is given up since a minute. */
function keys (text: string): KeyState {
  const parts = text.split(' ').filter((part) => part !== '')
  const tracks = parts.map((part) => ({ track: Number(part[0]) as Track, epoch: Number(/:(\d+)/.exec(part)?.[1] ?? 0), madeMs: NOW - 3_600_000 + Number(part[0]) }))
  const star = parts.find((part) => part.includes('*'))
  return { tracks, draining: star === undefined ? null : { track: Number(star[0]) as Track, sinceMs: NOW - 60_000 } }
}
/** What a peer lists, e.g. `0* 1`. */
const peer = (address: string, text: string): RotatingPeer => ({
  address, tracks: text.split(' ').filter((part) => part !== '').map((part) => ({ track: Number(part[0]) as Track, publicKey: `${address} ${part[0] ?? ''}`, endpoint: 'x:1', draining: part.includes('*') }))
})
/** Sessions as `address track age/quiet`, both in seconds, and routes as `address track`. */
function seen (sessions: string[], routes: string[], nowMs = NOW): Seen {
  const found = new Map<Track, Map<string, { latestHandshake: number, quietMs: number }>>([[0, new Map()], [1, new Map()]])
  for (const line of sessions) {
    const [address = '', track, ages = ''] = line.split(' ')
    const [age = '', quiet = '0'] = ages.split('/')
    found.get(Number(track) as Track)?.set(address, { latestHandshake: age === 'never' ? 0 : nowMs / 1000 - Number(age), quietMs: Number(quiet) * 1000 })
  }
  return { nowMs, sessions: found, routes: new Map(routes.map((line) => [line.split(' ')[0] ?? '', Number(line.split(' ')[1]) as Track])) }
}
const say = ({ open, close, draining, routes, alive, waiting }: Decision): string => [
  ...(open === null ? [] : [`open ${open}`]), ...(close === null ? [] : [`close ${close}`]), ...(draining === null ? [] : [`leaving ${draining}`]),
  ...[...routes].map(([address, track]) => `${address} by ${track}`), `alive ${[...alive].sort().join(', ')}`, ...waiting
].join('; ')

const table: Array<[what: string, state: string, epoch: number, peers: RotatingPeer[], sessions: string[], routes: string[], expected: string]> = [
  ['a gateway without a key makes one', '', 0, [], [], [], 'open 0; alive '],
  ['one track, nothing to do', '0', 0, [peer(P, '0')], [`${P} 0 20`], [`${P} 0`], `${P} by 0; alive 0 ${P}`],
  ['a route is there before the first session', '0', 0, [peer(P, '0')], [`${P} 0 never`], [], `${P} by 0; alive 0 ${P}`],
  ['an old key: the other track gets a new one, nothing moves', '0:1', 2, [peer(P, '0')], [`${P} 0 20`], [`${P} 0`], `open 1; leaving 0; ${P} by 0; alive 0 ${P}`],
  ['the peer has not answered on the new track', '0:1* 1:2', 2, [peer(P, '0')], [`${P} 0 20`], [`${P} 0`], `leaving 0; ${P} by 0; alive 0 ${P}; ${P} still uses track 0, which is being given up`],
  ['it lists the new track, but no handshake yet', '0:1* 1:2', 2, [peer(P, '0 1')], [`${P} 0 20`, `${P} 1 never`], [`${P} 0`], `leaving 0; ${P} by 0; alive 0 ${P}, 1 ${P}; ${P} still uses track 0, which is being given up`],
  ['a handshake just now: it may be replaced at once', '0:1* 1:2', 2, [peer(P, '0 1')], [`${P} 0 20`, `${P} 1 0`], [`${P} 0`], `leaving 0; ${P} by 0; alive 0 ${P}, 1 ${P}; ${P} still uses track 0, which is being given up`],
  ['but nothing is waited for when nothing works', '0:1* 1:2', 2, [peer(P, '0 1')], [`${P} 0 200`, `${P} 1 0`], [`${P} 0`], `close 0; leaving 0; ${P} by 1; alive 1 ${P}`],
  ['a handshake: the route moves', '0:1* 1:2', 2, [peer(P, '0 1')], [`${P} 0 20`, `${P} 1 1`], [`${P} 0`], `leaving 0; ${P} by 1; alive 1 ${P}; ${P} still uses track 0, which is being given up`],
  ['the peer still sends on the old one', '0:1* 1:2', 2, [peer(P, '0 1')], [`${P} 0 20/59`, `${P} 1 1`], [`${P} 1`], `leaving 0; ${P} by 1; alive 1 ${P}; ${P} still uses track 0, which is being given up`],
  ['nothing has come on the old one for a while: its key goes', '0:1* 1:2', 2, [peer(P, '0 1')], [`${P} 0 90/60`, `${P} 1 1`], [`${P} 1`], `close 0; leaving 0; ${P} by 1; alive 1 ${P}`],
  ['a peer that is not there keeps nobody waiting', '0:1* 1:2', 2, [peer(P, '0 1'), peer(Q, '0')], [`${P} 0 90/60`, `${P} 1 1`, `${Q} 0 181`], [`${P} 1`, `${Q} 0`], `close 0; leaving 0; ${P} by 1; ${Q} by 1; alive 1 ${P}, 1 ${Q}`],
  ['a peer gives up the track that it is on: the other one is opened for it', '0', 0, [peer(P, '0* 1'), peer(Q, '0')], [`${P} 0 20`, `${Q} 0 20`], [`${P} 0`, `${Q} 0`], `open 1; ${P} by 0; ${Q} by 0; alive 0 ${P}, 0 ${Q}, 1 ${P}`],
  ['and traffic to that peer alone moves', '0 1', 0, [peer(P, '0* 1'), peer(Q, '0')], [`${P} 0 20`, `${P} 1 1`, `${Q} 0 20`], [`${P} 0`, `${Q} 0`], `${P} by 1; ${Q} by 0; alive 0 ${Q}, 1 ${P}`],
  ['both stay as long as some peer needs each', '0 1', 0, [peer(P, '1'), peer(Q, '0')], [`${P} 1 1`, `${Q} 0 20`], [`${P} 1`, `${Q} 0`], `${P} by 1; ${Q} by 0; alive 0 ${Q}, 1 ${P}`],
  ['the older of two is given up when nobody needs it', '0 1', 0, [peer(P, '1')], [`${P} 1 1`], [`${P} 1`], `leaving 0; ${P} by 1; alive 1 ${P}`],
  ['two gateways give up different tracks: that of track 0 comes first', '0:2 1:1*', 2, [peer(P, '0* 1')], [`${P} 0 9`, `${P} 1 9`], [`${P} 0`], `leaving 1; ${P} by 1; alive 1 ${P}; ${P} still uses track 1, which is being given up`],
  ['two tidy up at once: track 0 goes on', '0* 1', 0, [peer(P, '0 1*')], [`${P} 0 9`, `${P} 1 9`], [`${P} 0`], `leaving 0; ${P} by 1; alive 1 ${P}; ${P} still uses track 0, which is being given up`],
  ['and track 1 turns round', '0 1*', 0, [peer(P, '0* 1')], [`${P} 0 9`, `${P} 1 9`], [`${P} 0`], `leaving 0; ${P} by 1; alive 1 ${P}`],
  ['who has closed the track in use is met on the other', '0 1', 0, [peer(P, '1'), peer(Q, '0')], [`${P} 1 never`, `${Q} 0 9`], [`${P} 0`, `${Q} 0`], `${P} by 1; ${Q} by 0; alive 0 ${Q}, 1 ${P}`],
  ['the wished track is silent, the other is not', '0 1', 0, [peer(P, '0 1*'), peer(Q, '1')], [`${P} 0 300`, `${P} 1 9`, `${Q} 1 9`], [`${P} 0`, `${Q} 1`], `${P} by 1; ${Q} by 1; alive 0 ${P}, 1 ${P}, 1 ${Q}`],
  ['a peer of which nothing is known has a route, so that nothing leaves elsewhere', '1', 0, [peer(P, '')], [], [], `${P} by 1; alive 1 ${P}`]
]

t.test('the next step, from what is there', (t) => {
  for (const [what, state, epoch, peers, sessions, routes, expected] of table) {
    t.equal(say(decide(keys(state), peers, epoch, seen(sessions, routes), OPTIONS)), expected, what)
  }
  t.end()
})

t.test('after the grace time a key goes although somebody uses it', (t) => {
  const at = (sinceMs: number): Track | null => decide({ ...keys('0:1* 1:2'), draining: { track: 0, sinceMs } }, [peer(P, '0')], 2, seen([`${P} 0 20`], [`${P} 0`]), OPTIONS).close
  t.equal(at(NOW - OPTIONS.graceMs + 1), null)
  t.equal(at(NOW - OPTIONS.graceMs), 0)
  t.end()
})

t.test('a track that was opened for a peer is not closed at once', (t) => {
  const young: KeyState = { tracks: keys('0 1').tracks.map((one) => ({ ...one, madeMs: NOW - OPTIONS.tidyMs + 1 })), draining: null }
  t.equal(decide(young, [peer(P, '1')], 0, seen([`${P} 1 9`], [`${P} 1`]), OPTIONS).draining, null)
  t.end()
})

t.test('quiet is since the last byte', (t) => {
  const first = noteQuiet(new Map(), new Map([['a', 5], ['b', 1]]), 10)
  const second = noteQuiet(first, new Map([['a', 5], ['b', 2]]), 20)
  t.strictSame([...second], [['a', { rxBytes: 5, sinceMs: 10 }], ['b', { rxBytes: 2, sinceMs: 20 }]])
  t.strictSame([...noteQuiet(second, new Map([['a', 0]]), 30)], [['a', { rxBytes: 0, sinceMs: 30 }]], 'a counter that went back is of another interface')
  t.end()
})

/** Gateways that see each other's lists late, and take a pass each in any order: what `decide` says is done at once. */
interface Gateway { address: string, keys: KeyState, epoch: number, routes: Map<string, Track>, listed: Array<{ track: Track, publicKey: string, draining: boolean }>, known: Map<string, Gateway['listed']>, quietSince: Map<string, number>, made: number, ids: Map<Track, string> }

t.test('whatever the order of passes, no packet is sent where nobody takes it, and all keys are exchanged', (t) => {
  let seed = 0
  const random = (below: number): number => {
    seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor(seed / 2 ** 32 * below)
  }
  for (let run = 1; run <= 300; run++) {
    seed = run
    const count = 2 + random(3)
    const gateways: Gateway[] = Array.from({ length: count }, (_, i) => ({
      address: `100.64.0.${i}`, keys: { tracks: [{ track: 0, epoch: 0, madeMs: 0 }], draining: null }, epoch: 0, routes: new Map(), listed: [], known: new Map(), quietSince: new Map(), made: 1, ids: new Map([[0, `${i}.0`]])
    }))
    const list = (g: Gateway): void => { g.listed = g.keys.tracks.map(({ track }) => ({ track, publicKey: g.ids.get(track) ?? '', draining: g.keys.draining?.track === track })) }
    const hear = (g: Gateway, from: Gateway): void => { g.known.set(from.address, from.listed) }
    for (const g of gateways) list(g)
    for (const g of gateways) for (const from of gateways) if (from !== g) { hear(g, from); g.routes.set(from.address, 0) }
    /** whether `to` takes what `from` sends it on this track: both have the other's present key there */
    const takes = (from: Gateway, to: Gateway, track: Track): boolean => {
      const has = (a: Gateway, b: Gateway): boolean => a.ids.has(track) && a.known.get(b.address)?.some((one) => one.track === track && one.publicKey === b.ids.get(track)) === true
      return has(from, to) && has(to, from)
    }
    let nowMs = NOW
    let failed = ''
    const pass = (g: Gateway): void => {
      const peers = [...g.known].map(([address, tracks]) => ({ address, tracks: tracks.map((one) => ({ ...one, endpoint: 'x:1' })) }))
      const sessions = new Map<Track, Map<string, { latestHandshake: number, quietMs: number }>>()
      for (const track of [0, 1] as const) {
        sessions.set(track, new Map(g.ids.has(track) ? gateways.filter((other) => other !== g && takes(other, g, track)).map((other) => {
          const key = sessionKey(track, other.address)
          if (other.routes.get(g.address) === track) g.quietSince.set(key, nowMs)
          return [other.address, { latestHandshake: nowMs / 1000, quietMs: nowMs - (g.quietSince.get(key) ?? nowMs) }]
        }) : []))
      }
      const d = decide(g.keys, peers, g.epoch, { nowMs, sessions, routes: g.routes }, { quietMs: 20_000, graceMs: Infinity, tidyMs: 30_000, settleMs: 0 })
      g.keys = { ...g.keys, draining: d.draining === null ? null : g.keys.draining?.track === d.draining ? g.keys.draining : { track: d.draining, sinceMs: nowMs } }
      if (d.open !== null) {
        const open = d.open
        g.keys = { ...g.keys, tracks: [...g.keys.tracks, { track: open, epoch: g.epoch, madeMs: nowMs }] }
        g.ids.set(open, `${g.address} ${g.made++}`)
      }
      g.routes = d.routes
      if (d.close !== null) {
        const gone = d.close
        g.ids.delete(gone)
        g.keys = { tracks: g.keys.tracks.filter(({ track }) => track !== gone), draining: null }
      }
      list(g)
    }
    const check = (): void => {
      for (const from of gateways) {
        for (const [address, track] of from.routes) {
          const to = gateways.find((one) => one.address === address)
          if (to !== undefined && !takes(from, to, track)) failed ||= `run ${run}: ${from.address} sends to ${address} by track ${track}, where it is not taken`
        }
      }
    }
    for (let i = 0; i < 600 && failed === ''; i++) {
      nowMs += 1_000
      const g = gateways[random(count)]
      if (g === undefined) continue
      // a list is heard now and then only; a new wish comes now and then
      if (random(2) === 0) for (const from of gateways) if (from !== g && random(2) === 0) hear(g, from)
      if (i < 300 && random(60) === 0) g.epoch++
      pass(g)
      check()
    }
    for (let i = 0; i < 300; i++) {
      nowMs += 5_000
      for (const g of gateways) {
        for (const from of gateways) if (from !== g) hear(g, from)
        pass(g)
      }
      check()
    }
    if (failed !== '') t.fail(failed)
    const late = gateways.filter((g) => g.keys.tracks.some(({ epoch }) => epoch < g.epoch))
    if (late.length > 0) t.fail(`run ${run}: ${late.map(({ address }) => address).join()} still have old keys`)
    const many = gateways.filter((g) => g.keys.tracks.length > 1)
    if (many.length > 0) t.fail(`run ${run}: ${many.map(({ address }) => address).join()} did not tidy up`)
  }
  t.end()
})
