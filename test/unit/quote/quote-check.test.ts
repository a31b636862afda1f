/** Quotes that other sites send: possible ones pass, made safe to show; all others are refused. */
import fc from 'fast-check'
import t from 'tap'
import { errorCode } from '../../../protocol/core/errors.ts'
import { MAX_PRICE_MILLI, MAX_QUOTE_REASONS, MAX_QUOTE_TEXT, MAX_TERM_MS } from '../../../protocol/core/limits.ts'
import { quoteOf, toMessage, type QuoteMessage } from '../../../protocol/core/quote/check.ts'
import { priceOf, type Quote } from '../../../protocol/core/quote/quote.ts'
import { counterText } from '../../../protocol/core/quote/text.ts'
import { decode, encode } from '../../../protocol/wire/codec.ts'

const NOW = 1_800_000_000_000
const asked = { site: 'osaka', nodes: 12, startMs: NOW }
const taken: Quote = { taken: true, reasons: [], priceMilli: 250, totalMilli: 6000, nodes: 12, earliestMs: NOW, shape: null, wanMbit: 1000 }
const refused: Quote = { ...taken, taken: false, reasons: [{ code: 'NO_CAPACITY', message: '4 nodes: needs 4 vCPU, 2 free on osaka-2' }], nodes: 8, earliestMs: NOW + 3_600_000, shape: { vcpus: 2, memoryMib: 3072 }, wanMbit: 0 }

t.test('a quote goes over the wire and is the same', t => {
  for (const quote of [taken, refused, { ...refused, nodes: 0, earliestMs: null, shape: null }]) {
    t.same(quoteOf(decode('QuoteReply', encode('QuoteReply', toMessage('osaka', NOW, quote))), asked), quote)
  }
  t.end()
})

t.test('what cannot be is refused', t => {
  const good = toMessage('osaka', NOW, refused)
  const reason = good.reasons[0] ?? { code: '', message: '' }
  const bad: Array<Partial<QuoteMessage>> = [
    { site: 'kyoto' }, { taken: true }, { taken: true, reasons: [] }, { reasons: [] }, { nodes: 12 }, { nodes: 13 }, { nodes: -1 }, { nodes: 0.5 },
    { reasons: Array.from({ length: MAX_QUOTE_REASONS + 1 }, () => reason) }, { reasons: [{ code: 'no\u001b[2J', message: '' }] }, { reasons: [{ code: '', message: '' }] },
    { priceMilli: MAX_PRICE_MILLI + 1 }, { totalMilli: Number.MAX_SAFE_INTEGER + 2 }, { earliestMs: NOW + 2 * MAX_TERM_MS + 1 }, { vcpus: 0 }, { memoryMib: 0 }, { vcpus: 10_000 }, { wanMbit: 1e9 }, { earliestMs: Number.NaN }
  ]
  t.equal(errorCode(thrown(good)), 'INTERNAL', 'the good one passes')
  for (const part of bad) t.equal(errorCode(thrown({ ...good, ...part })), 'BAD_OFFER', JSON.stringify(part))
  t.end()
})

function thrown (message: QuoteMessage): unknown {
  try {
    quoteOf(message, asked)
    return null
  } catch (error) {
    return error
  }
}

t.test('whatever is said, what passes is possible and moves no cursor', t => {
  const reason = fc.record({ code: fc.constantFrom('NO_CAPACITY', 'NO_CAPACITY', 'POLICY_DENIED', 'x'), message: fc.string({ unit: 'binary', maxLength: 2 * MAX_QUOTE_TEXT }) })
  const message = fc.record({
    site: fc.constantFrom('osaka', 'osaka', 'osaka', 'kyoto'), nowMs: fc.nat(), taken: fc.boolean(), reasons: fc.array(reason, { maxLength: 3 }), priceMilli: fc.nat({ max: MAX_PRICE_MILLI }), totalMilli: fc.maxSafeNat(),
    nodes: fc.nat({ max: 14 }), earliestMs: fc.constantFrom(0, NOW, Number.MAX_SAFE_INTEGER), vcpus: fc.nat({ max: 300 }), memoryMib: fc.nat({ max: 100_000 }), wanMbit: fc.nat({ max: 11_000_000 })
  })
  let passed = 0
  fc.assert(fc.property(message, said => {
    if (thrown(said) !== null) return true
    passed++
    const { nodes, reasons, taken: all } = quoteOf(said, asked)
    return nodes <= asked.nodes && all === (nodes === asked.nodes) && all === (reasons.length === 0) && reasons.every(({ message: text }) => text.length <= MAX_QUOTE_TEXT && !/[\p{Cc}\u202e]/u.test(text))
  }), { numRuns: 2000, seed: 32 })
  t.ok(passed > 20, `${passed} passed`)
  t.end()
})

t.test('a price is rounded up, and stays a number', t => {
  t.equal(priceOf([{ vcpus: 2 }, { vcpus: 2 }], 250, 7_200_000), 2000)
  t.equal(priceOf([{ vcpus: 1 }], 1, 1), 1)
  t.equal(priceOf([], 250, 7_200_000), 0)
  t.equal(priceOf(Array.from({ length: 200 }, () => ({ vcpus: 256 })), MAX_PRICE_MILLI, MAX_TERM_MS), Number.MAX_SAFE_INTEGER)
  t.end()
})

t.test('what could be given instead, in words', t => {
  t.equal(counterText(refused, 12), '8 of 12 nodes fit now; all 12 from 2027-01-15T09:00:00Z; all 12 now with 2 vCPU and 3 GiB each')
  t.equal(counterText({ ...refused, shape: null, earliestMs: null }, 12, 'then'), '8 of 12 nodes fit then')
  t.equal(counterText(taken, 12), '')
  t.equal(counterText({ taken: false, nodes: 0, earliestMs: null, shape: null }, 12), '')
  t.end()
})
