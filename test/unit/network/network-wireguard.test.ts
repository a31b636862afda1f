import t from 'tap'
import { anewArguments, crossed } from '../../../agent/drivers/network/tunnel/crossed.ts'
import { checkTunnel, endpointsOf, normalEndpoint, parseDump, setArguments, trackConfig } from '../../../agent/drivers/network/tunnel/wireguard.ts'
import type { TunnelSpec } from '../../../protocol/core/desired.ts'

const key = (letter: string): string => `${letter.repeat(42)}A=`
const [OWN, B, C] = [key('a'), key('b'), key('c')]
const peer = (site: string, publicKey: string, last: number): TunnelSpec['peers'][number] => ({ site, publicKey, endpoint: `192.0.2.${last}:51820`, address: `100.64.0.${last}/32` })
const spec: TunnelSpec = { listenPort: 51_820, address: '100.64.0.1/32', peers: [peer('c', C, 3), peer('b', B, 2)] }
const NOW = 1_000_000

/** What `wg` shows after that spec was set; `at` replaces b's endpoint and its last handshake. */
const dump = (at = { endpoint: '192.0.2.2:51820', handshake: NOW - 20 }): string => [
  ['secret', OWN, 51_820, 'off'],
  [B, '(none)', at.endpoint, '100.64.0.2/32', at.handshake, 10, 20, 25],
  [C, '(none)', '192.0.2.3:51820', '100.64.0.3/32', 0, 0, 0, 25]
].map((line) => line.join('\t')).join('\n') + '\n'

const KEY = { publicKey: OWN, keyFile: '/state/wireguard.key' }

t.test('a new interface is told its key, its port, and every peer with its one address', (t) => {
  const config = trackConfig(checkTunnel(spec), 0, (address) => address === '100.64.0.2')
  t.equal(setArguments(config, parseDump('(none)\t(none)\t40000\toff\n'), KEY, new Map(), NOW).join(' '), [
    'listen-port 51820 private-key /state/wireguard.key',
    `peer ${B} allowed-ips 100.64.0.2/32 endpoint 192.0.2.2:51820 persistent-keepalive 25`,
    `peer ${C} allowed-ips 100.64.0.3/32 endpoint 192.0.2.3:51820`
  ].join(' '))
  t.end()
})

t.test('the dump is read without the private key', (t) => {
  const state = parseDump(dump())
  t.strictSame([state.publicKey, state.listenPort, state.peers.length], [OWN, 51_820, 2])
  t.strictSame(state.peers[0], { publicKey: B, endpoint: '192.0.2.2:51820', allowedIps: ['100.64.0.2/32'], latestHandshake: NOW - 20, rxBytes: 10, txBytes: 20, keepaliveSeconds: 25 })
  t.notMatch(JSON.stringify(state), /secret/)
  t.strictSame(parseDump('(none)\t(none)\t40000\toff\n').peers, [])
  t.end()
})

t.test('an interface is told what differs and no more: of a port that it has it would lose what is under way', (t) => {
  const want = checkTunnel(spec)
  const config = (change: Partial<TunnelSpec>) => trackConfig(checkTunnel({ ...spec, ...change }), 0, () => true)
  const told = (change: Partial<TunnelSpec>, text = dump(), applied: typeof want | null = want): string =>
    setArguments(config(change), parseDump(text), KEY, endpointsOf(applied), NOW).join(' ')
  t.equal(told({}), '')
  t.equal(told({}, dump(), null), '', 'after a restart of the agent')
  t.equal(told({ listenPort: 1 }), 'listen-port 1')
  t.equal(told({ peers: [peer('b', B, 2)] }), `peer ${C} remove`, 'a peer too many')
  t.equal(told({ peers: [...spec.peers, peer('d', key('d'), 4)] }), `peer ${key('d')} allowed-ips 100.64.0.4/32 endpoint 192.0.2.4:51820 persistent-keepalive 25`, 'a peer too few')
  t.equal(told({ peers: [peer('b', B, 9), peer('c', C, 3)] }), `peer ${B} allowed-ips 100.64.0.9/32 endpoint 192.0.2.9:51820`, 'another address')
  t.equal(told({ peers: [peer('d', key('d'), 2), peer('c', C, 3)] }), `peer ${B} remove peer ${key('d')} allowed-ips 100.64.0.2/32 endpoint 192.0.2.2:51820 persistent-keepalive 25`, 'an address is taken before it is given')
  t.equal(setArguments(config({}), parseDump(dump()), { ...KEY, publicKey: B }, endpointsOf(want), NOW).join(' '), 'private-key /state/wireguard.key', 'another key')
  t.equal(setArguments(trackConfig(want, 0, () => false), parseDump(dump()), KEY, endpointsOf(want), NOW).join(' '), `peer ${B} persistent-keepalive 0 peer ${C} persistent-keepalive 0`, 'sessions that may fall asleep')

  const moved = { endpoint: '198.51.100.9:1234', handshake: NOW - 20 }
  const back = `peer ${B} endpoint 192.0.2.2:51820`
  t.equal(told({}, dump(moved)), '', 'a peer that moved is followed')
  t.equal(setArguments(trackConfig(want, 0, () => false), parseDump(dump(moved)), KEY, endpointsOf(want), NOW).join(' '), `peer ${B} persistent-keepalive 0 peer ${C} persistent-keepalive 0`, 'also when something else is set')
  t.equal(told({}, dump({ ...moved, handshake: NOW - 500 })), back, 'unless it is silent')
  t.equal(told({}, dump(moved), null), back, 'or nobody knows what was set')
  t.equal(told({ peers: [{ ...peer('b', B, 2), endpoint: '192.0.2.77:51820' }, peer('c', C, 3)] }), `peer ${B} endpoint 192.0.2.77:51820`, 'or the spec has a new place for it')
  t.end()
})

t.test('a peer is on the tracks that its own gateway lists, whatever the document says', (t) => {
  const tracks = [{ track: 1 as const, publicKey: C, endpoint: '[2001:DB8:0::1]:51821', draining: false }]
  const both = checkTunnel({ listenPort: 51_820, address: '100.64.0.1', peers: [{ ...peer('b', B, 2), tracks }] })
  t.strictSame(trackConfig(both, 0, () => true), { listenPort: 51_820, peers: [] })
  t.strictSame(trackConfig(both, 1, () => true), { listenPort: 51_821, peers: [{ publicKey: C, endpoint: '[2001:db8::1]:51821', address: '100.64.0.2', keepalive: true }] })
  t.strictSame([...endpointsOf(both)], [[C, '[2001:db8::1]:51821']])
  t.equal(checkTunnel({ ...spec, listenPort: 65_535 }).secondPort, 65_534)
  t.equal(normalEndpoint('gw.example.org:1'), 'gw.example.org:1')
  t.end()
})

t.test('bad values are refused before they reach a configuration', (t) => {
  const bad = (what: RegExp, change: Partial<TunnelSpec>): void => { t.throws(() => checkTunnel({ ...spec, ...change }), { code: 'INVALID_INPUT', message: what }) }
  bad(/65536 is no UDP port/, { listenPort: 65_536 })
  bad(/own address/, { address: '100.64.0.1/24' })
  bad(/is no WireGuard key/, { peers: [{ ...peer('b', B, 2), publicKey: 'x' }] })
  bad(/is not host:port/, { peers: [{ ...peer('b', B, 2), endpoint: 'h:1\nPostUp = x' }] })
  bad(/is not host:port/, { peers: [{ ...peer('b', B, 2), endpoint: 'h:99999' }] })
  bad(/c has the tunnel address 100\.64\.0\.2 of b/, { peers: [peer('b', B, 2), peer('c', C, 2)] })
  bad(/of this gateway/, { peers: [peer('b', B, 1)] })
  bad(/one key and different addresses/, { peers: [peer('b', B, 2), peer('b2', B, 3)] })
  const track = { track: 0 as const, publicKey: B, endpoint: '192.0.2.2:51820', draining: false }
  bad(/both tracks have the UDP port 51820/, { secondPort: 51_820 })
  bad(/70000 is no UDP port/, { secondPort: 70_000 })
  bad(/the key epoch -1 is none/, { keyEpoch: -1 })
  bad(/track 2 of b is neither 0 nor 1/, { peers: [{ ...peer('b', B, 2), tracks: [{ ...track, track: 2 as never }] }] })
  bad(/b has two keys on track 0/, { peers: [{ ...peer('b', B, 2), tracks: [track, { ...track, publicKey: C }] }] })
  bad(/no IPv6 address in its brackets/, { peers: [{ ...peer('b', B, 2), endpoint: '[1:2]:51820' }] })
  t.equal(checkTunnel({ ...spec, peers: [peer('b', B, 2), peer('b in another cluster', B, 2)] }).peers.length, 1)
  t.equal(checkTunnel({ ...spec, peers: [{ ...peer('b', B, 2), endpoint: '[2001:db8::1]:51820' }] }).peers.length, 1)
  t.end()
})

t.test('whose handshake has crossed: it was heard, no session came of it, and nothing came since; the lower key begins anew', (t) => {
  const seen = (handshake: number, rx: number, own = OWN, keepalive = '25'): ReturnType<typeof parseDump> => parseDump(`secret\t${own}\t51820\toff\n${B}\t(none)\t192.0.2.2:51820\t100.64.0.2/32\t${handshake}\t${rx}\t296\t${keepalive}\n`)
  const names = (state: ReturnType<typeof parseDump>, before: Array<[string, number]>): string[] => crossed(state, new Map(before)).map(({ publicKey }) => publicKey)
  t.strictSame(names(seen(0, 148), [[B, 148]]), [B])
  t.strictSame(names(seen(0, 148), []), [], 'first seen: an answer may be under way')
  t.strictSame(names(seen(0, 296), [[B, 148]]), [], 'something came meanwhile')
  t.strictSame(names(seen(NOW, 148), [[B, 148]]), [], 'there is a session')
  t.strictSame(names(seen(0, 0), [[B, 0]]), [], 'never heard: it may not be there yet')
  t.strictSame(names(seen(0, 148, C), [[B, 148]]), [], 'the other end has the lower key')
  t.strictSame(names(seen(0, 148, OWN, 'off'), [[B, 148]]), [], 'not kept alive: given again it would wait until there is something to send')
  t.equal(crossed(seen(0, 148), new Map([[B, 148]])).flatMap(anewArguments).join(' '), `peer ${B} remove peer ${B} allowed-ips 100.64.0.2/32 endpoint 192.0.2.2:51820 persistent-keepalive 25`)
  t.end()
})
