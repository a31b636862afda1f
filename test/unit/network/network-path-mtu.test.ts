import t from 'tap'
import { readPing } from '../../../agent/drivers/network/tunnel/path-mtu.ts'
import { tunnelMtuOf } from '../../../agent/drivers/network/tunnel/names.ts'
import { conclude, nextSize, tunnelMtuFor } from '../../../agent/drivers/network/tunnel/path-search.ts'
import type { Answer, PathFound } from '../../../agent/drivers/network/tunnel/path-search.ts'

/** Searches a path of which this says what it does with a packet. */
function search (ceiling: number, path: (size: number) => Answer): PathFound & { tried: number } {
  const answers = new Map<number, Answer>()
  for (let size = nextSize(answers, ceiling); size !== null; size = nextSize(answers, ceiling)) {
    if (answers.has(size) || answers.size > 20) throw new Error(`no end: ${[...answers.keys()].join()}`)
    answers.set(size, path(size))
  }
  return { ...conclude(answers), tried: answers.size }
}
const passed: Answer = { outcome: 'passed' }
const lost: Answer = { outcome: 'lost' }

t.test('whatever the path, the search ends with the exact figure', (t) => {
  for (const ceiling of [1280, 1400, 1500, 9000, 65_535]) {
    for (const mtu of [576, 600, 1279, 1280, 1281, 1350, 1400, 1419, 1420, 1492, 1499, 1500, 1501, 4000, 8999, 9000]) {
      const real = Math.min(mtu, ceiling, 9216)
      const told = search(ceiling, (size) => (size <= mtu ? passed : { outcome: 'too-big', mtu }))
      const dumb = search(ceiling, (size) => (size <= mtu ? passed : { outcome: 'too-big', mtu: null }))
      const hole = search(ceiling, (size) => (size <= mtu ? passed : lost))
      t.strictSame([told.pathMtu, told.blackHole], [real, null], `${mtu} of ${ceiling}, told`)
      t.strictSame([dumb.pathMtu, dumb.blackHole], [real, null], `${mtu} of ${ceiling}, told without a figure`)
      t.strictSame([hole.pathMtu, hole.blackHole], [real, real < Math.min(ceiling, 9216) ? real + 1 : null], `${mtu} of ${ceiling}, not told`)
      t.ok(told.tried <= 3 && hole.tried <= 16 && dumb.tried <= 16, `${told.tried}, ${hole.tried} sizes`)
    }
  }
  t.end()
})

t.test('an honest router before a black hole, and routers that lie', (t) => {
  const both = (size: number): Answer => (size > 1450 ? { outcome: 'too-big', mtu: 1450 } : size > 1300 ? lost : passed)
  t.match(search(1500, both), { pathMtu: 1300, blackHole: 1301 })
  for (const lie of [0, 68, 1500, 9000, 70_000]) t.match(search(1500, (size) => (size > 1333 ? { outcome: 'too-big', mtu: lie } : passed)), { pathMtu: 1333, blackHole: null }, `says ${lie}`)
  t.strictSame(search(1500, () => lost), { pathMtu: null, blackHole: null, tried: 3 }, 'nobody answers: no black hole')
  t.strictSame(search(1280, () => passed), { pathMtu: 1280, blackHole: null, tried: 1 })
  t.end()
})

t.test('the words of ping', (t) => {
  t.strictSame(readPing('64 bytes from 10.0.0.1', 0), passed)
  t.strictSame(readPing('From 10.0.1.2 icmp_seq=1 Frag needed and DF set (mtu = 1400)', 1), { outcome: 'too-big', mtu: 1400 })
  t.strictSame(readPing('From fd00:1::2 icmp_seq=1 Packet too big: mtu=1400', 1), { outcome: 'too-big', mtu: 1400 })
  t.strictSame(readPing('ping: local error: message too long, mtu: 1400', 1), { outcome: 'too-big', mtu: 1400 })
  t.strictSame(readPing('From 10.0.1.2 icmp_seq=1 Frag needed and DF set', 1), { outcome: 'too-big', mtu: null })
  t.strictSame(readPing('1 packets transmitted, 0 received, 100% packet loss, time 0ms', 1), lost)
  t.end()
})

t.test('the MTU of the tunnel is that of the narrowest path', (t) => {
  const of = (...paths: Array<[string, number | null]>): number => tunnelMtuFor(paths.map(([remote, pathMtu]) => ({ remote, pathMtu })))
  const [v4, v6] = ['192.0.2.1', '2001:db8::1']
  t.equal(of(), 1420)
  t.equal(of([v4, null]), 1420)
  t.equal(of([v4, 1500]), 1420)
  t.equal(of([v6, 1500]), 1420)
  t.equal(of([v4, 1400]), 1328)
  t.equal(of([v6, 1400]), 1312)
  t.equal(of([v4, 1280]), 1216)
  t.equal(of([v6, 1280]), 1200)
  t.equal(of([v6, 900]), 1200, 'no lower: IPv6 would not go through')
  t.equal(of([v4, 9000], [v6, 1630]), 1550, 'whole frames where all paths take them')
  t.equal(of([v4, 9000], [v6, 1629]), 1420)
  t.equal(of([v4, 9000], [v4, null]), 1420)
  t.equal(of([v4, 9000], [v4, 1400]), 1328)
  t.end()
})

t.test('what others clamp by is what the interfaces have now', (t) => {
  t.equal(tunnelMtuOf([{ name: 'eth0', mtu: 1280 }]), 1420)
  t.equal(tunnelMtuOf([{ name: 'eth0', mtu: 1280 }, { name: 'mzwg1', mtu: 1550 }]), 1550)
  t.equal(tunnelMtuOf([{ name: 'mzwg0', mtu: 1328 }, { name: 'mzwg1', mtu: 1420 }]), 1328)
  t.end()
})
