import fc from 'fast-check'
import t from 'tap'
import { DYNAMIC_HEADERS, classRules, classify } from '../../../agent/drivers/cache/classes.ts'
import type { RequestHead } from '../../../agent/drivers/cache/classes.ts'

const DIGEST = '0123456789abcdef'.repeat(4)
const PATH = `/images/sha256-${DIGEST}/root.squashfs`
const get = (change: Partial<RequestHead> = {}): RequestHead => ({ method: 'GET', target: PATH, headers: { host: '10.42.0.1' }, ...change })

t.test('GET and HEAD of what a digest names are named', t => {
  t.equal(classify(get()), 'named')
  t.equal(classify(get({ method: 'HEAD' })), 'named')
  for (const target of [`/images/${DIGEST}`, `/images/sha256:${DIGEST}/vmlinuz`, `/images/sha256%3A${DIGEST}/vmlinuz`, `/images/a/b/${DIGEST}.img`]) {
    t.equal(classify(get({ target })), 'named', target)
  }
  for (const range of ['bytes=0-', 'bytes=0-99', 'bytes=-500']) t.equal(classify(get({ headers: { range } })), 'named', range)
  t.equal(classify(get({ headers: { 'content-length': '0', 'user-agent': 'iPXE/1.21.1', accept: '*/*' } })), 'named')
  for (const target of [`/v2/blobs/sha256:${DIGEST}`, `/x/sha256-${DIGEST}/root`, `/repo/repodata/${DIGEST}-primary.xml.gz`]) t.equal(classify(get({ target })), 'named', target)
  t.end()
})

t.test('everything else is dynamic', t => {
  for (const method of ['POST', 'PUT', 'DELETE', 'OPTIONS', 'get', 'GETX']) t.equal(classify(get({ method })), 'dynamic', method)
  const targets = [
    '/', '/images/', '/images/latest/root', `/other/${DIGEST}`, `//images/${DIGEST}`, `/images/${DIGEST}?node=1`, `/images/../${DIGEST}`,
    `/images/x/../${DIGEST}`, `/images/.hidden/${DIGEST}`, `/images/%2e%2e/${DIGEST}`, `/images/${DIGEST}#x`, `/Images/${DIGEST}`,
    `/images/${DIGEST.toUpperCase()}`, `/images/${DIGEST.slice(1)}`, `http://10.42.0.1/images/${DIGEST}`, `/images/${DIGEST} `, `/images/${DIGEST}/${'a'.repeat(500)}`
  ]
  for (const target of targets) t.equal(classify(get({ target })), 'dynamic', target)
  for (const range of ['bytes=0-1,3-4', 'bytes=', 'items=0-1', 'bytes=a-b', 'bytes=0-1 ']) t.equal(classify(get({ headers: { range } })), 'dynamic', range)
  t.equal(classify(get({ headers: { 'content-length': '5' } })), 'dynamic')
  t.end()
})

t.test('a header that carries identity or asks for more makes any request dynamic', t => {
  t.doesNotThrow(() => fc.assert(fc.property(fc.constantFrom(...DYNAMIC_HEADERS), fc.string({ minLength: 1 }), fc.constantFrom('GET', 'HEAD'), (name, value, method) => {
    return classify(get({ method, headers: { host: 'x', [name]: value } })) === 'dynamic'
  })))
  t.end()
})

t.test('whatever the target, static means a digest below /images/ and no way out of it', t => {
  const piece = fc.constantFrom('/', '.', '..', 'images', DIGEST, '%2e', '%3A', '?', '#', 'a', '~', '\\', ' ', '\n')
  t.doesNotThrow(() => fc.assert(fc.property(fc.array(piece, { maxLength: 8 }), pieces => {
    const target = `/images/${pieces.join('')}`
    if (classify(get({ target })) === 'dynamic') return true
    return target.includes(DIGEST) && !/[?#\\\s]/.test(target) && new URL(target, 'http://x').pathname.startsWith('/images/') && !target.includes('/.')
  }), { numRuns: 2000 }))
  t.end()
})

t.test('packages and what installers load are kept as long as the frontend confirms them', t => {
  for (const target of ['/install/RPMS/a-1.2.x86_64.rpm', '/debian/pool/main/g/gcc/libstdc++6_12.deb', '/debian/pool/main/g/gcc/libstdc%2b%2b6_12.deb', '/isolinux/vmlinuz', '/isolinux/initrd.img-6.1', '/repo/repodata/repomd.xml', '/debian/dists/stable/InRelease', '/x.squashfs']) {
    t.equal(classify(get({ target })), 'validated', target)
    t.equal(classify(get({ target }), { listed: true }), 'listed', target)
    t.equal(classify(get({ target: `${target}?a` }), { listed: true }), 'dynamic', 'a query asks for something else')
  }
  for (const target of ['/ks.cfg', '/', '/rpm', '/a.rpm/', '/x/kernels/list', '/a.html', '/a.rpm.asc']) t.equal(classify(get({ target })), 'dynamic', target)
  t.end()
})

t.test('who asks for a fresh answer gets one that was asked for', t => {
  for (const headers of [{ 'cache-control': 'no-cache' }, { pragma: 'no-cache' }, { 'cache-control': 'no-cache', pragma: 'no-cache' }, { 'cache-control': 'max-age=0' }]) {
    t.equal(classify(get({ headers })), 'validated')
    t.equal(classify(get({ target: '/a.rpm', headers }), { listed: true }), 'validated')
    t.equal(classify(get({ target: '/a.cfg', headers })), 'dynamic')
  }
  for (const value of ['no-store', 'max-age=5', 'private', 'no-cache, no-store']) t.equal(classify(get({ headers: { 'cache-control': value } })), 'dynamic', value)
  t.end()
})

t.test('a profile names prefixes; what it says is never kept is not, whatever else is known', t => {
  const rules = classRules({ immutable: ['/fixed/'], validated: ['/live/', '/a.b+c/'], dynamic: ['/fixed/ks/', '/images/own/'] })
  const of = (target: string, listed = false): string => classify(get({ target }), { rules, listed })
  t.equal(of('/fixed/anything'), 'named')
  t.equal(of('/fixed/ks/a.rpm', true), 'dynamic')
  t.equal(of(`/images/own/${DIGEST}`), 'dynamic')
  t.equal(of('/live/list.txt'), 'validated')
  t.equal(of('/a.b+c/x'), 'validated')
  t.equal(of('/aXb+c/x'), 'dynamic', 'a dot is a dot')
  t.equal(of('/x/live/list.txt'), 'dynamic')
  t.equal(of(PATH), 'named')
  t.end()
})

t.test('one range that begins where it does not end: others are for the frontend', t => {
  const range = (value: string): string => classify(get({ headers: { range: value } }))
  const number = fc.oneof(fc.integer({ min: 0, max: 200 }), fc.integer({ min: 0, max: 2 ** 40 }))
  t.doesNotThrow(() => fc.assert(fc.property(number, number, (from, to) => (range(`bytes=${from}-${to}`) === 'named') === (from <= to)), { numRuns: 5000 }))
  for (const value of ['bytes=-0', 'bytes=01-5', 'bytes=1-05', `bytes=0-${'9'.repeat(16)}`]) t.equal(range(value), 'dynamic', value)
  t.equal(classify(get({ method: 'HEAD', headers: { range: 'bytes=0-5' } })), 'dynamic', 'ranges are for GET')
  t.end()
})
