import t from 'tap'
import { createWanRates } from '../../../agent/tunnel/rates.ts'

const MIB = 2 ** 20
const T0 = 1_800_000_000_000

t.test('the fastest that was sent to a gateway, never more than it was', t => {
  let now = T0
  const rates = createWanRates(() => now)
  const look = (sent: Record<string, number>, part: object = {}): void => {
    rates.note({ readMs: [now - 100, now], peers: Object.entries(sent).map(([address, txBytes]) => ({ address, track: 0, publicKey: 'k', txBytes })), ...part })
  }
  rates.note(undefined)
  rates.note({ peers: [{ address: 'a', txBytes: 1 }] })
  look({ a: 500 * MIB })
  t.equal(rates.of('a'), null, 'one look says nothing')
  now += 4_900
  look({ a: 525 * MIB, b: 900 * MIB })
  t.equal(rates.of('a'), 25 * MIB * 8 / 5_000_000, 'by the longest time that it can have been')
  t.equal(rates.of('b'), null)
  look({ a: 525 * MIB, b: 900 * MIB })
  now += 4_900
  look({ a: 526 * MIB, b: 907 * MIB })
  t.equal(rates.of('a'), 25 * MIB * 8 / 5_000_000, 'a slower look does not make it less')
  t.equal(rates.of('b'), null, 'too little to tell')
  now += 4_900
  look({ a: 3 * MIB, b: 957 * MIB })
  t.equal(rates.of('a'), 25 * MIB * 8 / 5_000_000, 'counters that begin anew')
  t.equal(rates.of('b'), 50 * MIB * 8 / 5_000_000)
  now += 120_000
  look({ a: 9_003 * MIB })
  t.equal(rates.of('a'), 25 * MIB * 8 / 5_000_000, 'looks too far apart')
  now += 4_900
  look({}, { peers: [{ address: 'a', track: 0, publicKey: 'k', txBytes: 9_010 * MIB }, { address: 'a', track: 1, publicKey: 'l', txBytes: 7 }, { address: null, track: 1, txBytes: 'x' }] })
  now += 4_900
  look({}, { peers: [{ address: 'a', track: 0, publicKey: 'k', txBytes: 9_025 * MIB }, { address: 'a', track: 1, publicKey: 'l', txBytes: 7 + 15 * MIB }] })
  t.equal(rates.of('a'), 30 * MIB * 8 / 5_000_000, 'both interfaces while keys are exchanged')
  now += 24 * 3_600_000
  t.equal(rates.of('a'), 30 * MIB * 8 / 5_000_000)
  now += 1
  t.equal(rates.of('a'), null, 'links change')
  t.end()
})
