/** Endpoints of both IP versions, and what a gateway may say of its tunnel keys. */
import t from 'tap'
import type { TunnelTrack } from '../../../protocol/core/desired.ts'
import { endpointClash, formatEndpoint, formatEndpoints, isUnderlayAddress, normalAddress, parseEndpoint, parseEndpoints, sharedEndpoint } from '../../../protocol/core/network/endpoints.ts'
import { readTracks, sameTracks, type SaidTrack, supersedes, tracksProblem } from '../../../protocol/core/network/tracks.ts'

t.test('an IPv6 address has one short form', t => {
  for (const [text, short] of [
    ['2001:DB8:0:0:0:0:0:1', '2001:db8::1'], ['2001:db8::0:1', '2001:db8::1'], ['2001:db8:0:1:0:0:0:1', '2001:db8:0:1::1'], ['2001:0:0:1:0:0:0:1', '2001:0:0:1::1'],
    ['2001:db8:0:1:1:1:1:1', '2001:db8:0:1:1:1:1:1'], ['2001:db8:1::', '2001:db8:1::'], ['::', '::'], ['::1', '::1'], ['1::', '1::'], ['fd00:0:0:0:1:0:0:2', 'fd00::1:0:0:2'], ['0001:02:003::', '1:2:3::']
  ] as const) t.strictSame(normalAddress(text), { address: short, version: 6 }, text)
  for (const text of ['', ':', ':::', '1:2:3:4:5:6:7', '1:2:3:4:5:6:7:8:9', '1::2::3', '1:2:3:4:5:6:7:8::', 'fe80::1%eth0', '::ffff:192.0.2.1', '12345::', 'g::', '[::1]', '1:2:3:4::5:6:7:8']) t.equal(normalAddress(text), null, text)
  t.strictSame(normalAddress('192.0.2.1'), { address: '192.0.2.1', version: 4 })
  t.end()
})

t.test('hosts are reached at public and private addresses, and nowhere else', t => {
  for (const text of ['192.0.2.1', '10.0.0.1', '2001:db8::1', 'fd77:1::1', '2400::1']) t.ok(isUnderlayAddress(text), text)
  for (const text of ['0.0.0.0', '127.0.0.1', '224.0.0.1', '255.255.255.255', '169.254.1.1', '::', '::1', 'fe80::1', 'fec0::1', 'ff02::1', '::ffff:c000:201', '64:ff9b::1', '2001:DB8::1', '2001:db8:0::1', 'tokyo-1', '192.0.2.01']) t.notOk(isUnderlayAddress(text), text)
  t.end()
})

t.test('an endpoint is an address and a port, an IPv6 address in brackets', t => {
  t.strictSame(parseEndpoint('192.0.2.1:51820'), { address: '192.0.2.1', version: 4, port: 51820 })
  t.strictSame(parseEndpoint('[2001:db8::1]:1'), { address: '2001:db8::1', version: 6, port: 1 })
  for (const text of ['192.0.2.1', '192.0.2.1:0', '192.0.2.1:65536', '192.0.2.1:051', '2001:db8::1:51820', '[192.0.2.1]:51820', '[2001:DB8::1]:51820', '[fe80::1]:51820', '[::1]:51820', 'tokyo-1:51820', ' 192.0.2.1:51820', '192.0.2.1:51820 ', '[2001:db8::1]', '[]:1', '192.0.2.1:-1']) t.equal(parseEndpoint(text), null, text)
  for (const one of ['192.0.2.1:51820', '[2001:db8::1]:51820']) {
    const { address = '', port = 0 } = parseEndpoint(one) ?? {}
    t.equal(formatEndpoint(address, port), one)
  }
  t.end()
})

t.test('of two endpoints one is of each version, and the port is the same', t => {
  const both = formatEndpoints(['2001:db8::1', '192.0.2.1'], 51820)
  t.equal(both, '[2001:db8::1]:51820,192.0.2.1:51820')
  t.strictSame(parseEndpoints(both)?.map(one => one.version), [6, 4])
  for (const text of ['', ',', '192.0.2.1:1,', '192.0.2.1:1,192.0.2.2:1', '192.0.2.1:1,[2001:db8::1]:2', `${both},192.0.2.3:51820`, '192.0.2.1:1;[2001:db8::1]:1', 'x'.repeat(200)]) t.equal(parseEndpoints(text), null, text)
  t.end()
})

t.test('two gateways use a version that both have', t => {
  const [four, six, both] = ['192.0.2.2:1', '[2001:db8::2]:1', '[2001:db8::2]:1,192.0.2.2:1']
  for (const [own, theirs, chosen] of [
    ['192.0.2.1:5', four, four], ['192.0.2.1:5', six, null], ['192.0.2.1:5', both, four], ['[2001:db8::1]:5', both, six], ['[2001:db8::1]:5', four, null], ['192.0.2.1:5,[2001:db8::1]:5', six, six],
    ['192.0.2.1:5,[2001:db8::1]:5', both, four], ['nonsense', four, null], ['192.0.2.1:5', 'nonsense', null]
  ] as const) t.equal(sharedEndpoint(own, theirs), chosen, `${own} to ${theirs}`)
  const gateway = (site: string, tunnelEndpoint: string) => ({ site, host: `${site}-1`, tunnelEndpoint })
  t.equal(endpointClash([gateway('a', four), gateway('b', both), gateway('c', four)]), null)
  t.equal(endpointClash([gateway('a', both), gateway('b', both), gateway('c', six)]), null)
  t.equal(endpointClash([gateway('a', four), gateway('b', both), gateway('c', six)]), 'gateway a-1 of site a has its tunnel at 192.0.2.2:1, gateway c-1 of site c at [2001:db8::2]:1: they have no IP version in common')
  t.end()
})

const key = (n: number): string => Buffer.alloc(32, n).toString('base64')
const track = (part: Partial<SaidTrack> = {}): SaidTrack => ({ track: 0, publicKey: key(1), endpoint: '192.0.2.1:51820', draining: false, ...part })

t.test('a list of keys is refused by what is wrong with it', t => {
  for (const good of [[], [track()], [track({ track: 1 })], [track({ endpoint: '[2001:db8::1]:51820,192.0.2.1:51820' }), track({ track: 1, publicKey: key(2), draining: true })]]) t.equal(tracksProblem(good), null)
  for (const [bad, why] of [
    [[track(), track({ track: 1, publicKey: key(2) }), track({ publicKey: key(3) })], '3 tunnel keys, at most 2 are allowed'],
    [[track({ track: 2 })], 'a tunnel key on track 2, which is neither 0 nor 1'],
    [[track(), track({ publicKey: key(2) })], 'two tunnel keys on track 0'],
    [[track(), track({ track: 1 })], 'one tunnel key on two tracks'],
    [[track({ publicKey: '' })], 'a tunnel key on track 0 that is no WireGuard key'],
    [[track({ publicKey: Buffer.alloc(31, 1).toString('base64') })], 'a tunnel key on track 0 that is no WireGuard key'],
    [[track({ publicKey: Buffer.alloc(33, 1).toString('base64') })], 'a tunnel key on track 0 that is no WireGuard key'],
    [[track({ publicKey: `${key(1).slice(0, -2)}B=` })], 'a tunnel key on track 0 that is no WireGuard key'],
    [[track({ endpoint: '192.0.2.1:0' })], 'the tunnel endpoint "192.0.2.1:0" on track 0, which is no address and port of a host'],
    [[track({ endpoint: '127.0.0.1:51820' })], 'the tunnel endpoint "127.0.0.1:51820" on track 0, which is no address and port of a host'],
    [[track({ endpoint: 'gw.example:51820' })], 'the tunnel endpoint "gw.example:51820" on track 0, which is no address and port of a host']
  ] as const) t.equal(tracksProblem(bad), why)
  t.match(tracksProblem([track({ endpoint: 'x'.repeat(10_000) })]) ?? '', /^the tunnel endpoint "x{64}" on/, 'and no longer than needed')
  t.end()
})

t.test('of two statements the later one counts', t => {
  const [old, next, restarted, lost] = [{ epoch: 3, seq: 9, madeMs: 100 }, { epoch: 3, seq: 10, madeMs: 100 }, { epoch: 4, seq: 1, madeMs: 90 }, { epoch: 1, seq: 1, madeMs: 101 }]
  for (const [a, b, is] of [[next, old, true], [old, next, false], [old, old, false], [restarted, next, true], [lost, restarted, true], [{ ...old, epoch: 2 }, old, false]] as const) t.equal(supersedes(a, b), is)
  const [a, b]: TunnelTrack[] = readTracks([track({ track: 1, publicKey: key(2) }), track()])
  t.strictSame([a?.track, b?.track], [0, 1], 'in the order of tracks')
  if (a === undefined || b === undefined) throw new Error('two tracks were given')
  t.ok(sameTracks([a, b], [b, a]))
  t.notOk(sameTracks([a], [a, b]))
  t.notOk(sameTracks([a], [{ ...a, draining: true }]))
  t.end()
})
