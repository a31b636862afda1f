import { createHash, randomBytes } from 'node:crypto'
import fc from 'fast-check'
import t from 'tap'
import { MAX_TOKEN_CHARACTERS } from '../../../protocol/core/limits.ts'
import { createKey, peerIdOf } from '../../../protocol/mesh/identity.ts'
import { encodeToken, parseToken } from '../../../protocol/mesh/join/token.ts'
import type { wire } from '../../../protocol/wire/codec.ts'

const issuer = peerIdOf(await createKey())
const federation = peerIdOf(await createKey())
const example: wire.Token = {
  id: randomBytes(16).toString('base64url'), kind: 'host', issuer, addresses: ['/ip4/10.1.2.3/tcp/4002'], secret: Uint8Array.from(randomBytes(32)),
  federation, expiresMs: 1_800_000_000_000, site: 'tokyo'
}
const secretTexts = (secret: Uint8Array): string[] => (['hex', 'base64', 'base64url', 'latin1'] as const).map(form => Buffer.from(secret).toString(form))

const octet = fc.integer({ min: 0, max: 255 })
const address = fc.oneof(
  fc.tuple(octet, octet, octet, octet, fc.integer({ min: 1, max: 65535 })).map(([a, b, c, d, port]) => `/ip4/${a}.${b}.${c}.${d}/tcp/${port}`),
  fc.constantFrom('/dns4/gw.example.org/tcp/4002', '/ip6/2001:db8::1/tcp/4002', '/dns/gw/tcp/1')
)
const tokens: fc.Arbitrary<wire.Token> = fc.record({
  id: fc.uint8Array({ minLength: 16, maxLength: 16 }).map(bytes => Buffer.from(bytes).toString('base64url')),
  kind: fc.constantFrom('host', 'site'), issuer: fc.constant(issuer), federation: fc.constant(federation),
  addresses: fc.array(address, { minLength: 1, maxLength: 8 }), secret: fc.uint8Array({ minLength: 32, maxLength: 32 }).map(bytes => Uint8Array.from(bytes)),
  expiresMs: fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER }), site: fc.constantFrom('a', 'tokyo', 'site-with-a-long-name-of-32-chars'.slice(0, 32))
}, { noNullPrototype: true })

t.test('every token comes back as it was', t => {
  fc.assert(fc.property(tokens, token => {
    const text = encodeToken(token)
    t.match(text, /^musubi-[A-Za-z0-9_-]+$/)
    t.strictSame(parseToken(text), token)
    t.strictSame(parseToken(` ${text.slice(0, 40)}\n  ${text.slice(40)}\r\n`), token, 'broken by a mail program')
  }), { numRuns: 200 })
  t.end()
})

t.test('a token that was cut or changed anywhere is refused, and not shown', t => {
  const text = encodeToken(example)
  const refused = (bad: string): void => {
    try {
      parseToken(bad)
      t.fail(`taken: ${bad}`)
    } catch (error) {
      t.match(error, { code: 'INVALID_INPUT', message: /^this token /, hint: /./ })
      const said = `${String(error)} ${JSON.stringify(error)}`
      t.notOk(bad.length > 20 && said.includes(bad.slice(10, 30)), 'no part of it in the message')
    }
  }
  for (let length = 0; length < text.length; length++) refused(text.slice(0, length))
  fc.assert(fc.property(fc.nat(text.length - 1), fc.constantFrom('a', 'b', 'z', 'X', 'Y', '0', '1', '9', '-', '_', '!', '.', ' ', 'é'), (at, letter) => {
    const bad = text.slice(0, at) + letter + text.slice(at + 1)
    if (bad !== text && letter !== ' ') refused(bad)
  }), { numRuns: 300 })
  t.throws(() => parseToken(text.slice(0, -1)), { message: 'this token was cut or changed on the way', hint: /copy the whole token/ })
  t.throws(() => parseToken('musub'), { message: 'this token was cut' })
  t.throws(() => parseToken('hello'), { message: /does not begin with musubi-/ })
  t.throws(() => parseToken(text.replace('musubi-a', 'musubi-b')), { message: /another version/ })
  t.throws(() => parseToken(`musubi-${'a'.repeat(MAX_TOKEN_CHARACTERS)}`), { message: /characters, at most 2048/ })
  t.throws(() => parseToken('x'.repeat(10_000_000)), { message: /characters, at most 2048/ })
  t.end()
})

t.test('what has the right checksum and makes no sense is refused', t => {
  const made = (bytes: Uint8Array): string => {
    const body = `a${Buffer.from(bytes).toString('base64url')}`
    return `musubi-${body}${createHash('sha256').update(`musubi-${body}`).digest('base64url').slice(0, 6)}`
  }
  t.throws(() => parseToken(made(randomBytes(100))), { code: 'INVALID_INPUT' })
  t.throws(() => parseToken(made(new Uint8Array())), { code: 'INVALID_INPUT' })
  const wrong: Array<[Partial<wire.Token>, RegExp]> = [
    [{ id: 'x' }, /no id/], [{ id: '../../etc/passwd00' }, /no id/], [{ kind: 'coordinator' }, /neither a site nor a host/], [{ secret: new Uint8Array(31) }, /31 bytes/],
    [{ issuer: 'me' }, /no issuer/], [{ federation: '' }, /no federation/], [{ addresses: [] }, /0 addresses/], [{ addresses: Array<string>(9).fill('/ip4/1.2.3.4/tcp/1') }, /9 addresses/],
    [{ addresses: ['/ip4/1.2.3.4/udp/1'] }, /an address that is none/], [{ addresses: ['http://x'] }, /an address/], [{ site: '' }, /no site/], [{ site: 'A B' }, /no site/], [{ expiresMs: 0 }, /no end/]
  ]
  for (const [part, message] of wrong) {
    t.throws(() => encodeToken({ ...example, ...part }), { code: 'INVALID_INPUT', message }, JSON.stringify(Object.keys(part)))
    try { encodeToken({ ...example, ...part }) } catch (error) { for (const text of secretTexts(example.secret)) t.notOk(String(error).includes(text)) }
  }
  t.strictSame(parseToken(encodeToken({ ...example, kind: 'site', site: '' })).site, '', 'a site may choose its name')
  t.throws(() => encodeToken({ ...example, addresses: Array<string>(8).fill(`/dns4/${'a'.repeat(240)}/tcp/1`) }), { message: /characters, at most/ })
  t.end()
})
