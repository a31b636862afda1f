/** What the helper takes for the parameters of a verb: closed objects, strings of a form, numbers with bounds. */
import t from 'tap'
import { checkParams, idOf, readCancel, readReply, readRequest, VERBS, type VerbName } from '../../../agent/helper/wire/verbs.ts'
import { SAMPLES } from '../../helper-samples.ts'

const CLAIM = { clusterId: '01234567-0000-4000-8000-000000000000', counter: 5, endMs: 1_800_000_000_000 }
const GOOD: ReadonlyArray<{ verb: VerbName, params: object }> = [
  { verb: 'hello', params: {} }, { verb: 'hello', params: { ledgerMs: 1 } }, { verb: 'noop', params: {} }, { verb: 'probe', params: {} }, { verb: 'observe', params: { kind: 'domain' } },
  ...SAMPLES.map(({ kind, name, spec }) => ({ verb: 'apply' as const, params: { kind, name, spec, claim: kind === 'tunnel' ? null : CLAIM } })),
  { verb: 'remove', params: { kind: 'domain', name: 'a.b', claim: { clusterId: 'c', counter: 1 } } }, { verb: 'remove', params: { kind: 'tunnel', name: 'wg', claim: null } },
  { verb: 'fence-grant', params: { resource: 'domain a.b', claim: CLAIM } }, { verb: 'fence-revoke', params: { resource: 'domain a.b', clusterId: 'c', counter: 1 } },
  { verb: 'fence-gone', params: { resource: 'segment orphan-000201', counter: 1 } }, { verb: 'fence-records', params: {} }, { verb: 'detail', params: { kind: 'cache', name: 'a.cache' } },
  { verb: 'tunnel-tracks', params: {} }, { verb: 'segment-ping', params: { vni: 1, address: '10.42.255.2' } }, { verb: 'segment-ping', params: { vni: 1, address: '10.42.255.2', size: 1500 } },
  { verb: 'apply', params: { kind: 'segment', name: 'a.b', spec: { cluster: 'demo', vni: 1, site: { segmentId: 100, localAddress: '192.0.2.1', remoteAddresses: [], trunk: 'bond0.7' }, compute: true }, claim: null } },
  { verb: 'segment-look', params: { name: '01234567.segment' } }, { verb: 'segment-look', params: { name: 'demo', gatewayAddress: '10.42.255.1' } },
  { verb: 'segment-echo', params: { name: 'demo', where: 'tunnel', address: '100.64.0.1', bytes: 1420, count: 3, largest: true } }, { verb: 'segment-echo', params: { name: 'demo', where: 'underlay', address: '2001:db8::1', bytes: 84, count: 3, largest: false } },
  { verb: 'segment-capture', params: { kind: 'segment', name: 'demo', port: 'wan', count: 10, seconds: 5, snapBytes: 256, filter: {} } },
  { verb: 'segment-capture', params: { kind: 'segment', name: 'demo', port: 'node', count: 10, seconds: 5, snapBytes: 256, filter: { host: '10.42.1.1', port: 80, proto: 'tcp' } } },
  { verb: 'cache-preheat', params: { name: 'a.cache', order: 'mine-1', rateKbitPerS: 8_000, objects: [{ path: '/a/b.rpm', port: 80, sizeBytes: 5, sha256: 'a'.repeat(64) }] } }, { verb: 'cache-cancel', params: { name: 'a.cache', order: 'mine-1' } },
  { verb: 'cache-list', params: { name: 'a.cache' } }, { verb: 'cache-list', params: { name: 'a.cache', prefix: '/a', after: '/a/b.rpm 80 named' } }, { verb: 'cache-purge', params: { name: 'a.cache', prefix: '/a' } }, { verb: 'cache-retained', params: {} }, { verb: 'cache-forget', params: {} }, { verb: 'cache-forget', params: { owner: 'tokyo' } },
  { verb: 'inventory', params: {} }, { verb: 'owned', params: {} }, { verb: 'sweep', params: { keep: ['tunnel wg'], dryRun: true } }
]

type Path = ReadonlyArray<string | number>
/** Every string, number and object in a value, by path. */
function walk (value: unknown, path: Path = []): Array<{ path: Path, value: unknown }> {
  const inner = Array.isArray(value) ? value.flatMap((one, i) => walk(one, [...path, i]))
    : typeof value === 'object' && value !== null ? Object.entries(value).flatMap(([key, one]) => walk(one, [...path, key])) : []
  return [{ path, value }, ...inner]
}
function changed (params: object, path: Path, to: unknown): object {
  const copy = structuredClone({ params }) as Record<string, unknown>
  let at = copy as Record<string | number, unknown>
  const whole = ['params', ...path]
  for (const key of whole.slice(0, -1)) at = at[key] as Record<string | number, unknown>
  at[whole.at(-1) ?? ''] = to
  return copy.params as object
}

t.test('every verb has a sample here, and takes it', t => {
  t.strictSame([...new Set(GOOD.map(({ verb }) => verb))].sort(), Object.keys(VERBS).sort())
  for (const { verb, params } of GOOD) t.doesNotThrow(() => checkParams(verb, params), `${verb} ${JSON.stringify(params).slice(0, 60)}`)
  t.end()
})

t.test('a tunnel takes addresses of the range of tunnels alone, and no names', t => {
  const sample = SAMPLES.find(({ kind }) => kind === 'tunnel')
  const params = { kind: 'tunnel', name: 'wg', spec: sample?.spec, claim: null }
  for (const [path, bad] of [
    [['spec', 'address'], '192.0.2.1'], [['spec', 'peers', 0, 'address'], '8.8.8.8'], [['spec', 'peers', 0, 'address'], '100.63.0.1'], [['spec', 'peers', 0, 'address'], '100.128.0.1'],
    [['spec', 'peers', 0, 'endpoint'], 'gateway.example.org:51820']
  ] as const) t.throws(() => checkParams('apply', changed(params, path, bad)), { code: 'INVALID_INPUT' }, bad)
  t.doesNotThrow(() => checkParams('apply', changed(params, ['spec', 'peers', 0, 'endpoint'], '[2001:db8::1]:51820')))
  t.end()
})

/** What a shell, a path, XML, a configuration or a command line would read otherwise. */
const HOSTILE = ['', ' ', '../../etc/passwd', '/etc/passwd', 'a/b', '-rf', '--help', '$(reboot)', '`reboot`', 'a;b', 'a|b', 'a&b', 'a\nb', 'a\0b', 'a b; c', "'", '"', '<x/>', '&lt;', '%00', '{}', '\\', 'ａ', '..', '.', 'x'.repeat(5_000), '__proto__', '\u202e', 'a\r\nb']

t.test('no string takes what could be read as something else', t => {
  for (const { verb, params } of GOOD) {
    for (const { path, value } of walk(params)) {
      if (typeof value !== 'string') continue
      const label = path.join('.')
      for (const bad of HOSTILE) {
        // a comment of an ssh key is printable text, and a cluster's secret too: neither is ever part of a command's words
        if (path.at(-1) === 'sshPublicKey' || path.at(-1) === 'secret') continue
        // what a frontend has under that path is the frontend's
        if (bad === '/etc/passwd' && verb.startsWith('cache-')) continue
        t.throws(() => checkParams(verb, changed(params, path, bad)), { code: 'INVALID_INPUT' }, `${verb} ${label}: ${JSON.stringify(bad).slice(0, 30)}`)
      }
      for (const end of ['\n', '\0', '\n; reboot', '/../x', '`']) {
        if (['sshPublicKey', 'secret'].includes(String(path.at(-1))) && !/[\n\0]/.test(end)) continue
        t.throws(() => checkParams(verb, changed(params, path, `${value}${end}`)), { code: 'INVALID_INPUT' }, `${verb} ${label} + ${JSON.stringify(end)}`)
      }
      for (const other of [1, null, {}, [], true]) {
        // of nodes whose frontend gives them one: what may have none, the driver checks
        if (other === null && (label === 'claim' || /^spec\.known\.members\.\d+\.address$/.test(label))) continue
        t.throws(() => checkParams(verb, changed(params, path, other)), { code: 'INVALID_INPUT' })
      }
    }
  }
  t.end()
})

t.test('no number is negative, huge, broken or text; no object has a field more', t => {
  for (const { verb, params } of GOOD) {
    for (const { path, value } of walk(params)) {
      if (typeof value === 'number') {
        for (const bad of [-1, 0.5, 2 ** 60, NaN, Infinity, '1']) t.throws(() => checkParams(verb, changed(params, path, bad)), { code: 'INVALID_INPUT' }, `${verb} ${path.join('.')}: ${bad}`)
      } else if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
        t.throws(() => checkParams(verb, path.length === 0 ? { ...params, extra: 1 } : changed(params, path, { ...value, extra: 1 })), { code: 'INVALID_INPUT' }, `${verb} ${path.join('.')} with a field more`)
      } else if (Array.isArray(value)) {
        t.throws(() => checkParams(verb, changed(params, path, new Array(5_000).fill(value[0] ?? '192.0.2.1'))), { code: 'INVALID_INPUT' }, `${verb} ${path.join('.')} with 5000 entries`)
      }
    }
    for (const nothing of [undefined, null, 1, 'x', []]) t.throws(() => checkParams(verb, nothing), { code: 'INVALID_INPUT' })
  }
  t.end()
})

t.test('a spec counts only for its own kind', t => {
  for (const one of SAMPLES) {
    for (const other of SAMPLES) {
      if (one.kind === other.kind) continue
      t.throws(() => checkParams('apply', { kind: one.kind, name: one.name, spec: other.spec, claim: CLAIM }), { code: 'INVALID_INPUT' })
    }
  }
  t.throws(() => checkParams('apply', { kind: 'shell', name: 'a', spec: {}, claim: null }), { code: 'INVALID_INPUT' })
  t.end()
})

t.test('an error names the field and never the value', t => {
  const secret = 'hunter2\nhunter2'
  const volume = SAMPLES[0]!
  const error = (() => { try { checkParams('apply', changed({ ...volume, claim: CLAIM }, ['spec', 'chap', 'secret'], secret)); return null } catch (caught) { return caught as Error } })()
  t.match(error, { message: /apply: \/spec\/chap\/secret/ })
  t.notMatch(error?.message, /hunter2/)
  t.end()
})

t.test('requests, cancellations and answers are what they are, and nothing else', t => {
  t.ok(readRequest({ id: 1, verb: 'noop', params: {}, deadlineMs: 1 }))
  for (const bad of [null, [], {}, { id: 0, verb: 'noop', params: {}, deadlineMs: 1 }, { id: 1, verb: 'No', params: {}, deadlineMs: 1 }, { id: 1, verb: 'noop', params: {}, deadlineMs: 0 }, { id: 1, verb: 'noop', params: {}, deadlineMs: 1e12 }, { id: 1, verb: 'noop', params: {}, deadlineMs: 1, more: 1 }, { id: '1', verb: 'noop', params: {}, deadlineMs: 1 }]) t.equal(readRequest(bad), null)
  t.equal(readCancel({ cancel: 7 }), 7)
  for (const bad of [{ cancel: 0 }, { cancel: '7' }, { cancel: 7, id: 1 }, null]) t.equal(readCancel(bad), null)
  t.ok(readReply({ id: 1, result: null }))
  t.ok(readReply({ id: null, error: { code: 'BUSY', message: 'x', retryable: true } }))
  for (const bad of [{ id: 1 }, { id: 1, error: { code: 'busy', message: 'x', retryable: true } }, { id: null, result: 1 }, 'x']) t.equal(readReply(bad), null)
  t.equal(idOf({ id: 3, x: 1 }), 3)
  for (const bad of [{ id: -1 }, { id: 'x' }, null, 3]) t.equal(idOf(bad), null)
  t.end()
})
