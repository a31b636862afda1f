import { endianness } from 'node:os'
import fc from 'fast-check'
import t from 'tap'
import { parseSpace } from '../../../agent/drivers/network/observe/netlink.ts'
import type { SpaceLists } from '../../../agent/drivers/network/observe/netlink.ts'

const little = endianness() === 'LE'
const TABLE = 'mz_mss'
const GUARD = 'mz_guard'

function u16 (value: number): Buffer {
  const bytes = Buffer.alloc(2)
  return little ? (bytes.writeUInt16LE(value), bytes) : (bytes.writeUInt16BE(value), bytes)
}
function u32 (value: number): Buffer {
  const bytes = Buffer.alloc(4)
  return little ? (bytes.writeUInt32LE(value), bytes) : (bytes.writeUInt32BE(value), bytes)
}
const u8 = (value: number): Buffer => Buffer.from([value])
const word = (value: string): Buffer => Buffer.from(`${value}\0`)
const pad = (bytes: Buffer): Buffer => Buffer.concat([bytes, Buffer.alloc(-bytes.length & 3)])
const attr = (type: number, ...values: Buffer[]): Buffer => {
  const value = Buffer.concat(values)
  return pad(Buffer.concat([u16(4 + value.length), u16(type), value]))
}
const message = (type: number, head: Buffer, ...attrs: Buffer[]): Buffer => {
  const body = Buffer.concat([head, ...attrs])
  return pad(Buffer.concat([u32(16 + body.length), u16(type), u16(2), u32(1), u32(0), body]))
}
const link = (index: number, name: string, up: boolean, ...attrs: Buffer[]): Buffer => message(16, Buffer.concat([u32(0), u32(index), u32(up ? 1 : 0), u32(0)]), attr(3, word(name)), ...attrs)
const address = (family: number, bits: number, index: number, ...attrs: Buffer[]): Buffer => message(20, Buffer.concat([Buffer.from([family, bits, 0, 0]), u32(index)]), ...attrs)
const flood = (index: number, mac: string, ...attrs: Buffer[]): Buffer => message(28, Buffer.concat([Buffer.from([7, 0, 0, 0]), u32(index), u16(0x80), u16(0)]), attr(2, Buffer.from(mac, 'hex')), ...attrs)
const forward = (index: number, mac: string, state: number, flags: number, ...attrs: Buffer[]): Buffer => message(28, Buffer.concat([Buffer.from([7, 0, 0, 0]), u32(index), u16(state), u8(flags), u8(0)]), attr(2, Buffer.from(mac, 'hex')), ...attrs)
const neighbour = (family: number, index: number, state: number, ...attrs: Buffer[]): Buffer => message(28, Buffer.concat([Buffer.from([family, 0, 0, 0]), u32(index), u16(state), u16(0)]), ...attrs)
const chain = (table: string, name: string): Buffer => message(0xa03, Buffer.from([7, 0, 0, 0]), attr(1, word(table)), attr(3, word(name)))
const comment = (text: string): Buffer => Buffer.from([0, text.length + 1, ...Buffer.from(`${text}\0`)])
const rule = (table: string, of: string, ...attrs: Buffer[]): Buffer => message(0xa06, Buffer.from([7, 0, 0, 0]), attr(1, word(table)), attr(2, word(of)), ...attrs)

const port = (name: string): Buffer => attr(1 | 0x8000, attr(1 | 0x8000, attr(1, Buffer.concat([Buffer.from(name), Buffer.alloc(16 - name.length)]))), attr(4, Buffer.alloc(8)))
const big = (value: number): Buffer => Buffer.from([value >>> 24, value >>> 16, value >>> 8, value])
const verdict = (code: number, to?: string): Buffer => attr(2 | 0x8000, attr(2 | 0x8000, attr(1, big(code)), ...(to === undefined ? [] : [attr(2, word(to))])))
const way = (dport: number, vni: number, what: Buffer): Buffer => attr(1 | 0x8000, attr(1 | 0x8000, attr(1, Buffer.from([dport >> 8, dport, 0, 0, vni >> 16, vni >> 8, vni, 0]))), what)
const element = (...elements: Buffer[]): Buffer => message(0xa0c, Buffer.from([7, 0, 0, 0]), attr(1, word(TABLE)), attr(2, word('forward')), attr(3 | 0x8000, ...elements))

const lists: SpaceLists = {
  links: Buffer.concat([
    link(1, 'lo', true, attr(4, u32(65_536)), attr(1, Buffer.alloc(6))),
    link(5, 'br0', true, attr(4, u32(1500)), attr(1, Buffer.from('0200000000aa', 'hex')), attr(20, word('mz:c1')), attr(18 | 0x8000, attr(1, word('bridge')), attr(2, attr(5, u32(0)), attr(23, u8(1))))),
    link(6, 'site0', false, attr(4, u32(1500)), attr(37, u32(0)), attr(5, u32(5)), attr(18, attr(1, word('vxlan')), attr(2, attr(1, u32(7)), attr(4, Buffer.from([10, 0, 0, 1])), attr(7, u8(1)), attr(15, Buffer.from([0x12, 0xb6]))))),
    link(7, 'site0m', true, attr(5, u32(6)), attr(10, u32(5)), attr(18, attr(1, word('macvlan')), attr(2, attr(1, u32(8))), attr(4, word('bridge')), attr(5, attr(4, u8(1)), attr(32, u8(1))))),
    message(16, Buffer.concat([u32(0), u32(8), u32(0x1_0001), u32(0)]), attr(3, word('site1m')), attr(4, u32(1500)), attr(37, u32(0)), attr(5, u32(3)), attr(10, u32(5)), attr(18, attr(1, word('vlan')), attr(2, attr(1, u16(100)), attr(5, Buffer.from([0x81, 0]))))),
    link(9, 'trunk', true, attr(4, u32(1500)), attr(18, attr(1, word('bridge')), attr(2, attr(5, u32(1)), attr(7, u8(1)), attr(23, u8(1)))))
  ]),
  addresses: Buffer.concat([
    address(2, 16, 5, attr(1, Buffer.from([10, 42, 255, 1])), attr(2, Buffer.from([10, 42, 255, 1]))),
    address(10, 64, 6, attr(1, Buffer.alloc(16, 1)))
  ]),
  forwards: Buffer.concat([
    flood(6, '000000000000', attr(1, Buffer.from([10, 0, 0, 2]))), flood(6, '000000000000', attr(1, Buffer.from([10, 0, 0, 3]))),
    flood(6, '000000000000', attr(1, Buffer.from('fd000000000000000000000000000001', 'hex'))), flood(6, '020000000001', attr(1, Buffer.from([10, 0, 0, 4]))), flood(5, '000000000000'), flood(99, '000000000000', attr(1, Buffer.from([10, 0, 0, 5]))),
    forward(7, '020000000002', 0x40, 0x40, attr(9, u32(5))), forward(7, '020000000003', 0x40, 0, attr(9, u32(5))), forward(7, '020000000004', 0x80, 0, attr(9, u32(5))), forward(7, '333300000001', 0x80, 2)
  ]),
  neighbours: Buffer.concat([
    neighbour(2, 5, 0x80, attr(1, Buffer.from([10, 42, 1, 1])), attr(2, Buffer.from('020000000001', 'hex'))), neighbour(10, 5, 0x80, attr(1, Buffer.from('fe80000000000000005054fffe000001', 'hex')), attr(2, Buffer.from('020000000001', 'hex'))),
    neighbour(10, 5, 0x40, attr(1, Buffer.from('ff020000000000000000000000000001', 'hex')), attr(2, Buffer.from('333300000001', 'hex'))), neighbour(2, 5, 0x80, attr(1, Buffer.from([10, 42, 1, 2])))
  ]),
  chains: Buffer.concat([chain(TABLE, 'in_000201'), chain(TABLE, 'out_000201'), chain('other', 'in_000202')]),
  rules: Buffer.concat([rule(TABLE, 'in_000201', attr(4, attr(1, attr(1, word('payload')))), attr(7, comment('a.0'))), rule(TABLE, 'in_000201'), rule(TABLE, 'in_000201', attr(7, Buffer.from([9, 1, 5]), comment('a.2'))), rule('other', 'in_000201', attr(7, comment('b.0')))]),
  elements: Buffer.concat([element(port('wan0m'), port('other')), element()]),
  guardChains: chain(GUARD, 'vxlan'),
  guardRules: rule(GUARD, 'vxlan', attr(7, comment('c.0'))),
  guardWays: element(way(4790, 7, verdict(0xffff_fffd, 'guard_000201')), way(4789, 0x0abcde, verdict(1)), attr(1, attr(1, attr(1, Buffer.alloc(4)))))
}
const none: SpaceLists = { links: Buffer.alloc(0), addresses: Buffer.alloc(0), forwards: Buffer.alloc(0), neighbours: Buffer.alloc(0), chains: Buffer.alloc(0), rules: Buffer.alloc(0), elements: Buffer.alloc(0), guardChains: Buffer.alloc(0), guardRules: Buffer.alloc(0), guardWays: Buffer.alloc(0) }

t.test('what the kernel answers is read', (t) => {
  const plain = { carrier: false, mac: '', master: undefined, lower: undefined, lowerIndex: undefined, alias: undefined, ipv4: [], ipv6: false, vxlan: undefined, vlan: undefined, macvlanMode: undefined, bridge: undefined, hairpin: false, suppress: false }
  const { links, floods, forwards, neighbours, chains, ways, open } = parseSpace(lists, TABLE, GUARD)
  t.strictSame(links, [
    { ...plain, name: 'lo', index: 1, kind: undefined, up: true, mtu: 65_536, mac: '00:00:00:00:00:00' },
    { ...plain, name: 'br0', index: 5, kind: 'bridge', up: true, mtu: 1500, mac: '02:00:00:00:00:aa', alias: 'mz:c1', ipv4: ['10.42.255.1/16'], bridge: { stp: false, snooping: true, filtering: false } },
    // its lower link is one of another namespace, whatever its number
    { ...plain, name: 'site0', index: 6, lowerIndex: 5, kind: 'vxlan', up: false, mtu: 1500, ipv6: true, vxlan: { id: 7, local: '10.0.0.1', port: 4790, learning: true } },
    { ...plain, name: 'site0m', index: 7, kind: 'macvlan', up: true, mtu: Number.NaN, lower: 'site0', master: 'br0', macvlanMode: 'passthru', hairpin: true, suppress: true },
    { ...plain, name: 'site1m', index: 8, kind: 'vlan', up: true, carrier: true, mtu: 1500, lowerIndex: 3, master: 'br0', vlan: { id: 100, protocol: '802.1Q' } },
    { ...plain, name: 'trunk', index: 9, kind: 'bridge', up: true, mtu: 1500, bridge: { stp: true, snooping: true, filtering: true } }
  ])
  t.strictSame(open, new Set(['wan0m', 'other']))
  t.strictSame(floods, new Map([['site0', new Set(['10.0.0.2', '10.0.0.3', 'fd00::1'])]]))
  t.strictSame(forwards, new Map([['site0', new Map([['02:00:00:00:00:01', '10.0.0.4']])], ['site0m', new Map([['02:00:00:00:00:02', 'sticky'], ['02:00:00:00:00:03', 'static']])]]), 'own MACs of ports and groups are none')
  t.strictSame(neighbours, new Map([['br0', new Map([['10.42.1.1', '02:00:00:00:00:01'], ['fe80::50:54ff:fe00:1', '02:00:00:00:00:01']])]]))
  t.strictSame(ways, new Map([['4790 . 7', 'guard_000201'], ['4789 . 703710', '']]))
  t.strictSame(chains, [{ family: 'bridge', table: GUARD, name: 'vxlan', marks: ['c.0'] }, { family: 'bridge', table: TABLE, name: 'in_000201', marks: ['a.0', '', 'a.2'] }, { family: 'bridge', table: TABLE, name: 'out_000201', marks: [] }])
  t.strictSame(parseSpace(none, TABLE, GUARD), { links: [], floods: new Map(), forwards: new Map(), neighbours: new Map(), chains: [], ways: new Map(), open: new Set() })
  t.end()
})

t.test('what is cut off anywhere reads as less, and never as an error', (t) => {
  const whole = parseSpace(lists, TABLE, GUARD)
  for (const key of ['links', 'addresses', 'forwards', 'neighbours', 'chains', 'rules', 'guardChains', 'guardRules', 'guardWays'] as const) {
    for (let bytes = 0; bytes < lists[key].length; bytes++) {
      const { links, chains, floods, forwards, neighbours, ways } = parseSpace({ ...lists, [key]: lists[key].subarray(0, bytes) }, TABLE, GUARD)
      if (links.length > whole.links.length || chains.length > whole.chains.length || floods.size > whole.floods.size || forwards.size > whole.forwards.size || neighbours.size > whole.neighbours.size || ways.size > whole.ways.size) t.fail(`more out of ${bytes} bytes of ${key}`)
    }
  }
  t.end()
})

t.test('any bytes can be read', (t) => {
  fc.assert(fc.property(fc.constantFrom('links', 'addresses', 'forwards', 'neighbours', 'chains', 'rules', 'guardWays'), fc.array(fc.tuple(fc.nat(700), fc.nat(255)), { maxLength: 20 }), fc.uint8Array({ maxLength: 200 }), (key, changes, bytes) => {
    const changed = Buffer.from(lists[key])
    for (const [at, value] of changes) changed[at % changed.length] = value
    parseSpace({ ...lists, [key]: changed }, TABLE, GUARD)
    parseSpace({ ...lists, [key]: Buffer.from(bytes) }, TABLE, GUARD)
  }), { numRuns: 3_000 })
  t.end()
})
