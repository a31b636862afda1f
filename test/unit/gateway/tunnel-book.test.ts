/** What gateways say of their tunnel keys: whom it is believed of, and what stays when they fall silent. */
import t from 'tap'
import { createTrackBook, type NamedGateway, type TrackBook } from '../../../agent/tunnel/book.ts'
import type { SaidTrack } from '../../../protocol/core/network/tracks.ts'
import type { Records, RecordRow } from '../../../protocol/mesh/records.ts'
import { createMemoryStore } from '../../../store/memory.ts'

const key = (n: number): string => Buffer.alloc(32, n).toString('base64')
const said = (n: number, part: Partial<SaidTrack> = {}): SaidTrack => ({ track: 0, publicKey: key(n), endpoint: '192.0.2.9:51820', draining: false, ...part })
const named = (site: string, n: number): NamedGateway => ({ site, host: 'gw', peer: `peer-${site}`, tunnelPublicKey: key(n) })

interface World {
  book: TrackBook
  changes: () => number
  say: (site: string, seq: number, tunnel: SaidTrack[], part?: { gateway?: string, peer?: string, epoch?: number, madeMs?: number }) => void
  silence: (site: string) => void
  later: (ms: number) => void
  restart: () => Promise<TrackBook>
}

/** A book over records that the test puts there, as the mesh has let them in. */
async function world (gateways: NamedGateway[], own: string[] = [], endpoint = '192.0.2.1:51820'): Promise<World> {
  const rows = new Map<string, RecordRow<'site'>>()
  const listeners = new Set<(kind: 'site', peer: string) => void>()
  let changes = 0
  let nowMs = 0
  const store = createMemoryStore()
  const records = { view: () => [...rows.values()], onChange: (listener: (kind: 'site', peer: string) => void) => { listeners.add(listener); return () => { listeners.delete(listener) } } } as unknown as Pick<Records, 'view' | 'onChange'>
  const open = (): Promise<TrackBook> => createTrackBook({ store, records, named: () => gateways, endpoint, ownKeys: () => own, onChange: () => { changes++ }, monotonic: () => nowMs, log: { warn: () => undefined } })
  const tell = (peer: string): void => { for (const listener of listeners) listener('site', peer) }
  return {
    book: await open(),
    changes: () => changes,
    say (site, seq, tunnel, { gateway = 'gw', peer = `peer-${site}`, epoch = 1, madeMs = 1_000 + seq } = {}) {
      rows.set(peer, { peer, kind: 'site', epoch, seq, madeMs, ttlMs: 1, ageMs: 0, state: 'alive', sinceMs: 0, body: { site, gateway, tunnel } as unknown as RecordRow<'site'>['body'] })
      tell(peer)
    },
    silence (site) {
      rows.delete(`peer-${site}`)
      tell(`peer-${site}`)
    },
    later (ms) { nowMs += ms },
    restart: open
  }
}
const keysOf = (book: TrackBook, one: NamedGateway): string[] | null => book.tracksOf(one)?.map(({ publicKey }) => publicKey) ?? null
const osaka = named('osaka', 1)
const kyoto = named('kyoto', 2)

t.test('until a gateway is heard the document stands; then its own word', async t => {
  const { book, say, changes } = await world([osaka, kyoto])
  t.equal(book.tracksOf(osaka), null)
  t.equal(book.keysOf(osaka.peer), null)
  t.strictSame(book.unheard().map(({ site }) => site), ['osaka', 'kyoto'])
  say('osaka', 1, [said(11, { draining: true }), said(12, { track: 1 })])
  t.strictSame(keysOf(book, osaka), [key(11), key(12)])
  t.strictSame(book.keysOf(osaka.peer), [key(11), key(12)])
  t.equal(book.tracksOf(kyoto), null, 'and of nobody else')
  t.strictSame(book.unheard().map(({ site }) => site), ['kyoto'])
  t.equal(changes(), 1)
  say('osaka', 2, [said(12, { track: 1 }), said(11, { draining: true })])
  t.equal(changes(), 1, 'the same again is no news')
})

t.test('a gateway that says something else all the time is heeded, and has no pass for each word', async t => {
  const { book, say, changes, later } = await world([osaka, kyoto])
  for (let n = 1; n <= 100; n++) {
    say('osaka', n, [said(n)])
    later(100)
  }
  t.strictSame(keysOf(book, osaka), [key(100)])
  t.equal(changes(), 2, 'in ten seconds')
  say('kyoto', 1, [said(200)])
  t.equal(changes(), 3, 'another gateway does not wait for that')
  later(5_000)
  say('osaka', 101, [said(101)])
  t.equal(changes(), 4)
})

t.test('what is older, or says nothing, takes nothing back', async t => {
  const { book, say, silence } = await world([osaka])
  say('osaka', 5, [said(11)])
  say('osaka', 4, [said(12)], { madeMs: 500 })
  t.strictSame(keysOf(book, osaka), [key(11)], 'an older record that somebody kept')
  say('osaka', 6, [])
  t.strictSame(keysOf(book, osaka), [key(11)], 'its helper has not answered it yet')
  silence('osaka')
  t.strictSame(keysOf(book, osaka), [key(11)], 'it is not there at all')
  t.strictSame(book.unheard().map(({ site }) => site), ['osaka'])
  say('osaka', 1, [said(13)], { madeMs: 9_000 })
  t.strictSame(keysOf(book, osaka), [key(13)], 'it has lost its store, and counts from the beginning')
})

t.test('a record speaks for the gateway that a document names, and for no other', async t => {
  const { book, say } = await world([osaka, kyoto])
  say('osaka', 1, [said(11)], { gateway: 'gw2' })
  t.equal(book.tracksOf(osaka), null, 'the same key, but another host by now')
  say('kyoto', 1, [said(12)], { peer: 'peer-stranger' })
  t.equal(book.tracksOf(kyoto), null, 'another gateway of the same name and site')
})

t.test('a key that two claim is of the one that was known with it first', async t => {
  const { book, say } = await world([osaka, kyoto], [key(50)])
  say('osaka', 1, [said(11)])
  say('kyoto', 1, [said(11), said(22, { track: 1 })])
  t.strictSame(keysOf(book, osaka), [key(11)])
  t.strictSame(keysOf(book, kyoto), [key(22)], 'the rest of what it says counts')
  t.match(book.problems(), [/gateway gw of site kyoto says that its tunnel key on track 0 is .*, which was gw's before/])
  say('kyoto', 2, [said(50)])
  t.strictSame(keysOf(book, kyoto), [], 'our own')
  t.match(book.problems(), [/which is this gateway's own/])
  say('osaka', 2, [said(12)])
  say('kyoto', 3, [said(11)])
  t.strictSame(keysOf(book, kyoto), [key(11)], 'nobody else claims it any more')
  t.strictSame(book.problems(), [])
})

t.test('the key of a gateway that was never heard is its own as well', async t => {
  const { book, say } = await world([osaka, kyoto])
  say('kyoto', 1, [said(1)])
  t.strictSame(keysOf(book, kyoto), [])
  t.equal(book.tracksOf(osaka), null, 'the document stands')
  const late = await world([kyoto])
  late.say('kyoto', 1, [said(1)])
  t.strictSame(keysOf(late.book, kyoto), [key(1)])
})

t.test('a document that gives the key of a heard gateway to another one gives it nothing', async t => {
  const gateways = [osaka]
  const { book, say } = await world(gateways)
  say('osaka', 1, [said(11)])
  const liar = { ...kyoto, tunnelPublicKey: key(11) }
  gateways.push(liar)
  t.strictSame(book.tracksOf(liar), [])
  t.strictSame(keysOf(book, osaka), [key(11)])
})

t.test('an endpoint of the version that both have, or none', async t => {
  for (const [own, theirs, chosen] of [['192.0.2.1:1', '[2001:db8::9]:2,192.0.2.9:2', '192.0.2.9:2'], ['[2001:db8::1]:1', '[2001:db8::9]:2,192.0.2.9:2', '[2001:db8::9]:2'], ['[2001:db8::1]:1', '192.0.2.9:2', undefined]] as const) {
    const { book, say } = await world([osaka], [], own)
    say('osaka', 1, [said(11, { endpoint: theirs })])
    t.equal(book.tracksOf(osaka)?.[0]?.endpoint, chosen)
    if (chosen === undefined) t.match(book.problems(), [/at 192\.0\.2\.9:2, this one at \[2001:db8::1\]:1: they have no IP version in common/])
  }
})

t.test('what was said last outlives this process, and who is in no cluster is forgotten', async t => {
  const gateways = [osaka, kyoto]
  const { book, say, silence, restart } = await world(gateways)
  say('osaka', 3, [said(11)])
  say('kyoto', 3, [said(11), said(22, { track: 1 })])
  await book.tick()
  silence('osaka')
  silence('kyoto')
  const next = await restart()
  t.strictSame(keysOf(next, osaka), [key(11)])
  t.strictSame(keysOf(next, kyoto), [key(22)], 'who was first is known as well')
  say('osaka', 2, [said(12)], { madeMs: 500 })
  t.strictSame(keysOf(next, osaka), [key(11)], 'and what is older')
  silence('osaka')
  gateways.splice(0)
  await next.tick()
  t.equal((await restart()).keysOf(osaka.peer), null)
})
