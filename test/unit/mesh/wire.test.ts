import t, { type Test } from 'tap'
import fc from 'fast-check'
import { InvalidInputError } from '../../../protocol/core/errors.ts'
import { MAX_MESSAGE_BYTES } from '../../../protocol/core/limits.ts'
import { decode, encode, METHODS, type MessageName, type wire } from '../../../protocol/wire/codec.ts'
import { staleFiles } from '../../../protocol/wire/generate.ts'
import { SCHEMA, type Field } from '../../../protocol/wire/gen/types.ts'

const NAMES = Object.keys(SCHEMA) as MessageName[]

const scalars: Record<string, fc.Arbitrary<unknown>> = {
  string: fc.string({ unit: 'grapheme', maxLength: 20 }),
  bool: fc.boolean(),
  uint32: fc.integer({ min: 0, max: 0xffff_ffff }),
  uint64: fc.maxSafeNat(),
  bytes: fc.uint8Array({ maxLength: 40 })
}

/** Any value of a field; of a oneof at most the chosen member is set. */
function fieldOf (field: Field, chosen: ReadonlyMap<string, string>): fc.Arbitrary<unknown> {
  if (field.oneof !== undefined && chosen.get(field.oneof) !== field.name) return fc.constant(null)
  const scalar = scalars[field.type]
  if (scalar !== undefined) return field.repeated ? fc.array(scalar, { maxLength: 3 }) : scalar
  const message = messageOf(field.type as MessageName)
  return field.repeated ? fc.array(message, { maxLength: 2 }) : fc.option(message)
}

function messageOf (name: MessageName): fc.Arbitrary<Record<string, unknown>> {
  const oneofs = Map.groupBy(SCHEMA[name].filter(field => field.oneof !== undefined), field => field.oneof ?? '')
  const picks = fc.tuple(...[...oneofs].map(([oneof, fields]) => fc.constantFrom(...fields.map(field => [oneof, field.name] as const))))
  return picks.chain(pairs => fc.record(Object.fromEntries(SCHEMA[name].map(field => [field.name, fieldOf(field, new Map(pairs))])), { noNullPrototype: true }))
}

const someMessage = fc.constantFrom(...NAMES).chain(name => messageOf(name).map(value => ({ name, value })))

const refuses = (t: Test, work: () => unknown, pattern: RegExp, text: string): void => {
  t.throws(work, { name: 'InvalidInputError', code: 'INVALID_INPUT', message: pattern }, text)
}

t.test('what is encoded comes back the same, for every message', t => {
  fc.assert(fc.property(someMessage, ({ name, value }) => {
    const bytes = encode(name, value as never)
    t.strictSame(decode(name, bytes), value, name)
    t.equal(Buffer.compare(encode(name, value as never), bytes), 0, 'the same bytes each time')
  }), { numRuns: 150 })
  t.end()
})

t.test('garbage gives plain data or InvalidInputError, and nothing else', t => {
  let refused = 0
  fc.assert(fc.property(fc.constantFrom(...NAMES), fc.uint8Array({ maxLength: 300 }), (name, bytes) => {
    try {
      decode(name, bytes)
    } catch (error) {
      if (!(error instanceof InvalidInputError)) throw error
      refused++
    }
  }), { numRuns: 3000 })
  t.ok(refused > 500, 'most garbage is refused')
  t.end()
})

t.test('a flipped or cut message is readable or refused', t => {
  fc.assert(fc.property(someMessage, fc.nat(), fc.nat({ max: 255 }), fc.boolean(), ({ name, value }, at, byte, cut) => {
    const bytes = encode(name, value as never)
    if (bytes.length === 0) return
    const place = at % bytes.length
    const bad = cut ? bytes.subarray(0, place) : bytes.with(place, byte)
    try {
      encode(name, decode(name, bad) as never)
    } catch (error) {
      if (!(error instanceof InvalidInputError)) throw error
    }
  }), { numRuns: 500 })
  t.pass('no other error')
  t.end()
})

t.test('what an earlier release has stored is sent on, and read as if it said none', t => {
  const node = { name: 'n', site: 's', host: 'h', mac: 'm', ip: 'i', uuid: 'u', vcpus: 1, memoryMib: 1, leaseId: 'l', index: 1 }
  const none = { ...node, localMac: '', localIp: '' }
  t.strictSame(decode('ClusterNode', encode('ClusterNode', node)), none)
  t.strictSame(encode('ClusterNode', none), encode('ClusterNode', node), 'none and nothing are the same bytes')
  t.strictSame(decode('ClusterNode', encode('ClusterNode', { ...node, localIp: '10.43.1.1' })).localIp, '10.43.1.1')
  t.strictSame(decode('HoldReply', encode('HoldReply', { receipts: [], segmentId: 7 })), { receipts: [], segmentId: 7, localSegmentId: 0 })
  t.throws(() => encode('HoldReply', { receipts: [], segmentId: 7, localSegmentId: -1 }), { code: 'INVALID_INPUT', message: /localSegmentId/ })
  // the bytes that a release without site-local segments writes for this node
  t.strictSame(decode('ClusterNode', Buffer.from('0a016e1201731a016822016d2a0169320175380140014a016c5001', 'hex')), none)
  t.end()
})

t.test('empty bytes are a message of defaults, complete', t => {
  t.strictSame(decode('Offer', new Uint8Array()), { offerId: '', site: '', segmentId: 0, gateway: null, held: [], ttlMs: 0, nowMs: 0, localSegmentId: 0, priceMilli: 0 })
  for (const name of NAMES) t.strictSame(Object.keys(decode(name, new Uint8Array())), SCHEMA[name].map(field => field.name), name)
  t.end()
})

const record: wire.Record = { peer: 'a', kind: 'host', epoch: 1, seq: 2, ttlMs: 3, body: new Uint8Array([1]), signature: new Uint8Array(), ageMs: 0, madeMs: 0, leaving: false, chain: [] }

t.test('numbers that JavaScript cannot hold are refused both ways', t => {
  const huge = new Uint8Array([0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01])
  refuses(t, () => decode('Record', huge), /Record\.epoch: expected uint64/, 'on the wire')
  const largest = { ...record, epoch: Number.MAX_SAFE_INTEGER }
  t.strictSame(decode('Record', encode('Record', largest)), largest, 'the largest safe one passes')
  for (const epoch of [2 ** 53, -1, 1.5, NaN, Infinity]) refuses(t, () => encode('Record', { ...record, epoch }), /Record\.epoch/, String(epoch))
  for (const ttlMs of [2 ** 32, -1, 0.5]) refuses(t, () => encode('Record', { ...record, ttlMs }), /Record\.ttlMs/, String(ttlMs))
  t.end()
})

t.test('an encoder names the place that does not fit', t => {
  const reply = { hosts: [{ site: 'a', host: 'b', leaseState: 'held', objects: [{ kind: 'domain', name: 'n', state: 's', detail: 7, error: '' }], reachable: true, nowMs: 1 }] }
  refuses(t, () => encode('StatusReply', reply as never), /^StatusReply\.hosts\[0\]\.objects\[0\]\.detail: expected string, got 7$/, 'nested')
  refuses(t, () => encode('StatusReply', {} as never), /StatusReply\.hosts: expected an array/, 'missing list')
  refuses(t, () => encode('Receipt', { leaseId: 'x', host: 'y' } as never), /Receipt\.token: expected uint64, got a undefined/, 'missing field')
  refuses(t, () => encode('CommitRequest', { clusterId: '\ud800', offerId: '', key: '', epoch: 1 }), /CommitRequest\.clusterId/, 'a lone surrogate')
  refuses(t, () => encode('Offer', null as never), /expected Offer, got null/, 'no message at all')
  t.end()
})

t.test('only fields of the contract leave, whatever the object carries', t => {
  const extra = { ...record, $unknowns: [new Uint8Array([0x22, 0x01])], other: 1 }
  t.strictSame([...encode('Record', extra)], [...encode('Record', record)])
  t.end()
})

t.test('two members of one oneof are not sent; of two received the last counts', t => {
  const both = { call: decode('Call', new Uint8Array()), reply: decode('Reply', new Uint8Array()) }
  refuses(t, () => encode('Frame', both), /more than one member of body/, 'when encoding')
  const last = decode('Frame', new Uint8Array([0x0a, 0x00, 0x12, 0x00]))
  t.equal(last.call, null)
  t.equal(last.reply?.id, 0)
  t.end()
})

t.test('sizes are capped before decoding and after encoding', t => {
  refuses(t, () => decode('Record', new Uint8Array(MAX_MESSAGE_BYTES + 1)), /at most 262144/, 'a large message')
  refuses(t, () => decode('Record', new Uint8Array(20), { maxBytes: 10 }), /20 bytes, at most 10/, 'a cap of the caller')
  refuses(t, () => encode('Record', { ...record, body: new Uint8Array(200) }, { maxBytes: 100 }), /at most 100/, 'a large result')
  t.end()
})

t.test('deep nesting ends in an error, not in a stack overflow', t => {
  // groups of an unknown field, one within the other
  refuses(t, () => decode('Record', new Uint8Array(100_000).fill(0x63)), /not a valid message/, 'open groups')
  t.end()
})

t.test('decoded bytes do not keep the frame they came in', t => {
  const frame = encode('Record', { ...record, body: new Uint8Array(10) })
  t.equal(decode('Record', frame).body.buffer.byteLength, 10)
  t.end()
})

t.test('every method has a request and a reply of the same name', t => {
  const names = (message: MessageName): string[] => SCHEMA[message].filter(field => field.oneof !== undefined).map(field => field.name)
  t.strictSame(names('Call'), METHODS)
  t.strictSame(names('Reply'), ['failure', ...METHODS])
  t.end()
})

t.test('the committed codecs are those of the contract', async t => {
  t.strictSame(await staleFiles(), [], 'else run npm run codegen')
})
