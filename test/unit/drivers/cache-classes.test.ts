import fc from 'fast-check'
import t from 'tap'
import { DYNAMIC_HEADERS, classify } from '../../../agent/drivers/cache/classes.ts'
import type { RequestHead } from '../../../agent/drivers/cache/classes.ts'

const DIGEST = '0123456789abcdef'.repeat(4)
const PATH = `/images/sha256-${DIGEST}/root.squashfs`
const get = (change: Partial<RequestHead> = {}): RequestHead => ({ method: 'GET', target: PATH, headers: { host: '10.42.0.1' }, ...change })

t.test('GET and HEAD of what a digest names are static', t => {
  t.equal(classify(get()), 'static')
  t.equal(classify(get({ method: 'HEAD' })), 'static')
  for (const target of [`/images/${DIGEST}`, `/images/sha256:${DIGEST}/vmlinuz`, `/images/sha256%3A${DIGEST}/vmlinuz`, `/images/a/b/${DIGEST}.img`]) {
    t.equal(classify(get({ target })), 'static', target)
  }
  for (const range of ['bytes=0-', 'bytes=0-99', 'bytes=-500']) t.equal(classify(get({ headers: { range } })), 'static', range)
  t.equal(classify(get({ headers: { 'content-length': '0', 'user-agent': 'iPXE/1.21.1', accept: '*/*' } })), 'static')
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
