/**
 * 10,000 generated hostile strings for every string parameter of every verb. What the schemas let
 * through is given to the real drivers with every door to the machine watched and none of them open:
 * no program is started, and what lies outside of a driver's folders is not even read.
 */
import { readFile } from 'node:fs/promises'
import fc from 'fast-check'
import t from 'tap'
import { Compile } from 'typebox/compile'
import { run } from '../../agent/exec.ts'
import { checkParams, isVerb, readRequest, VERBS, type VerbName } from '../../agent/helper/wire/verbs.ts'
import { errorCode } from '../../protocol/core/errors.ts'
import type { DesiredObject } from '../../protocol/core/desired.ts'
import { SAMPLES } from '../helper-samples.ts'
import { watchDoors } from '../watched-doors.ts'

const STRINGS = 10_000
const SEED = 5
/** A refusal in words takes a hundred times longer than a check of the same schema: every so-many-th is put into words. */
const WORDS_EVERY = 25
/** Accepted ones of each parameter that real drivers get. */
const PER_DRIVER = 8
const CLUSTER = '01234567-0000-4000-8000-000000000000'
const CLAIM = { clusterId: CLUSTER, counter: 5, endMs: 1_800_000_000_000 }

t.setTimeout(100_000)
// nobody reads where refusals were thrown
Error.stackTraceLimit = 0

type Path = ReadonlyArray<string | number>
interface Parameter { verb: VerbName, params: object, path: Path, value: string }

const CALLS: ReadonlyArray<{ verb: VerbName, params: object }> = [
  { verb: 'observe', params: { kind: 'domain' } },
  ...SAMPLES.map(({ kind, name, spec }) => ({ verb: 'apply' as const, params: { kind, name, spec, claim: kind === 'tunnel' ? null : CLAIM } })),
  { verb: 'remove', params: { kind: 'domain', name: '01234567.n1', claim: { clusterId: CLUSTER, counter: 1 } } },
  { verb: 'fence-grant', params: { resource: 'domain 01234567.n1', claim: CLAIM } },
  { verb: 'fence-revoke', params: { resource: 'domain 01234567.n1', clusterId: CLUSTER, counter: 1 } },
  { verb: 'fence-gone', params: { resource: 'domain 01234567.n1', counter: 1 } },
  { verb: 'detail', params: { kind: 'cache', name: '01234567.cache' } },
  { verb: 'segment-ping', params: { vni: 1, address: '10.42.255.2' } },
  { verb: 'segment-look', params: { name: '01234567.segment', gatewayAddress: '10.42.255.1' } },
  { verb: 'segment-echo', params: { name: '01234567.segment', where: 'segment', address: '10.42.255.2', bytes: 1500, count: 1, largest: false } },
  { verb: 'segment-capture', params: { kind: 'segment', name: '01234567.segment', port: 'wan', count: 1, seconds: 1, snapBytes: 64, filter: { host: '10.42.1.1', proto: 'tcp' } } },
  { verb: 'cache-preheat', params: { name: '01234567.cache', order: 'mine', objects: [{ path: '/a/b.rpm', sha256: 'a'.repeat(64) }] } },
  { verb: 'cache-list', params: { name: '01234567.cache', prefix: '/a', after: '/a/b.rpm 80 named' } },
  { verb: 'cache-purge', params: { name: '01234567.cache', prefix: '/a' } },
  { verb: 'cache-retained', params: {} },
  { verb: 'cache-forget', params: { owner: 'tokyo' } },
  { verb: 'sweep', params: { keep: ['tunnel wg'], dryRun: true } }
]

function strings (value: unknown, path: Path = []): Array<{ path: Path, value: string }> {
  if (typeof value === 'string') return [{ path, value }]
  if (typeof value !== 'object' || value === null) return []
  const keyOf = (key: string): string | number => Array.isArray(value) ? Number(key) : key
  return Object.entries(value).flatMap(([key, one]) => strings(one, [...path, keyOf(key)]))
}

/** A place for one string in a copy of the parameters. */
function slot (params: object, path: Path): { params: object, put: (text: string) => void } {
  const copy = structuredClone(params)
  let at = copy as Record<string | number, unknown>
  for (const key of path.slice(0, -1)) at = at[key] as Record<string | number, unknown>
  const last = path.at(-1) ?? ''
  return { params: copy, put: text => { at[last] = text } }
}

const PARAMETERS: readonly Parameter[] = CALLS.flatMap(({ verb, params }) => strings(params).map(one => ({ verb, params, ...one })))

const PIECES = [
  '../', '..', '/', '/etc/passwd', '\\..\\', '\0', '\n', '\r\n', '\n-', '\t', ' ', '  ', '-', '--', ' --help', '-rf', '--privileged', '$(reboot)', '`id`', '${IFS}', ';', '; reboot', '|', '||', '&', '&&', '>', '<', '*', '?', '~', '!', '#', '%', '%00', '%2e%2e%2f',
  "'", '"', '\\', '\\"', '{}', '[]', '","x":"', '}}', '<x/>', '&lt;', ']]>', '<!--', '\u0000', '\u001b[2J', '\u007f', '\u0085', '\u00a0', '\u2028', '\u202e', '\ufeff', '\ud800', '\udfff', 'ａ', 'é', 'İ', 'ß', '結び', '😀', '__proto__', 'constructor', 'prototype',
  'toString', 'hasOwnProperty', 'null', 'undefined', 'NaN', 'true', '0', '-1', '1e999', '0x10', '@file', '=', ',', ':', '+', '.', '...', 'dev lo', 'mzwg0', 'lo', 'eth0', 'orphan-', 'x'.repeat(64), 'x'.repeat(300)
]
const piece = fc.oneof({ weight: 6, arbitrary: fc.constantFrom(...PIECES) }, { weight: 2, arbitrary: fc.string({ unit: 'binary', maxLength: 12 }) }, { weight: 2, arbitrary: fc.string({ maxLength: 12 }) }, { weight: 1, arbitrary: fc.constantFrom(1_000, 5_000, 70_000).map(length => 'A'.repeat(length)) })
const whole = fc.array(piece, { minLength: 1, maxLength: 4 }).map(parts => parts.join(''))
/** Where in a good string, how much of it goes, and what comes instead. */
const change = fc.tuple(fc.double({ min: 0, max: 1, noNaN: true }), fc.nat(3), fc.oneof(piece, fc.constantFrom(...Array.from('abcXYZ019-_.:/@+='))))
const RAW = fc.sample(whole, { numRuns: STRINGS / 2, seed: SEED })
const CHANGES = fc.sample(change, { numRuns: STRINGS / 2, seed: SEED + 1 })
/** Half of them have nothing to do with what is wanted, half differ from it in one place. */
function * hostileFor (good: string): Generator<string> {
  yield * RAW
  for (const [at, cut, instead] of CHANGES) {
    const from = Math.round(at * good.length)
    yield good.slice(0, from) + instead + good.slice(from + cut)
  }
}

/** Free text, by design: a comment of a key, and the secret of a volume. */
const FREE = new Set(['sshPublicKey', 'secret'])
/** Paths on a frontend, not on this host: they become lines of orders and patterns of prefixes, never an argument or the name of a file. */
const ON_FRONTEND = new Set(['prefix', 'path', 'manifest', 'after'])
/** Why a string that was let through could be read as something else; null when it could not. Written without a look at the schemas. */
function danger ({ path, value }: Parameter, text: string): string | null {
  const field = String(path.at(-1))
  if (/[^\x20-\x7e]/.test(text)) return 'not printable ASCII'
  if (text.length > 4_096) return 'very long'
  if (FREE.has(field)) return null
  if (ON_FRONTEND.has(field)) {
    if (!text.startsWith('/')) return 'no path on a frontend'
    if (/[;|$`'"<>(){}*!\\#^,\[\]]/.test(text) || text.split(' ').length !== value.split(' ').length) return 'a sign of shells, XML or configurations, or another word'
    return text.split(/[/?]/).includes('..') ? 'a path' : null
  }
  if (text.startsWith('-')) return 'an option'
  if (/[;|&$`'"<>(){}*?!\\#~%^,]/.test(text)) return 'a sign of shells, XML or configurations'
  if ((text.startsWith('/') && field !== 'publicKey') || text.split(/[/ ]/).some(part => part === '..' || part === '.')) return 'a path'
  if (text.includes('/') && !value.includes('/') && field !== 'publicKey' && !(/^[0-9.]+\/32$/.test(text))) return 'a folder'
  if (text.includes(' ') && !value.includes(' ')) return 'two words'
  return null
}

function codeOf (work: () => unknown): string | null {
  try {
    work()
    return null
  } catch (error) {
    return errorCode(error)
  }
}

/** Those that the schemas let through, per parameter. */
const accepted = new Map<Parameter, string[]>()

t.test(`${STRINGS} hostile strings for each of ${PARAMETERS.length} parameters are refused, or harmless`, t => {
  let refused = 0
  for (const parameter of PARAMETERS) {
    const { params, put } = slot(parameter.params, parameter.path)
    const label = `${parameter.verb} ${parameter.path.join('.')}`
    const taken = new Set<string>()
    const schema = Compile(VERBS[parameter.verb].params)
    let count = 0
    for (const text of hostileFor(parameter.value)) {
      put(text)
      const good = schema.Check(params)
      if (good) taken.add(text)
      else refused++
      if (count++ % WORDS_EVERY !== 0) continue
      const code = codeOf(() => checkParams(parameter.verb, params))
      if (code !== (good ? null : 'INVALID_INPUT')) t.fail(`${label}: ${JSON.stringify(text).slice(0, 80)}: ${code ?? 'taken'}`)
    }
    t.equal(count, STRINGS, label)
    for (const text of taken) {
      const why = danger(parameter, text)
      if (why !== null) t.fail(`${label} takes ${JSON.stringify(text).slice(0, 80)}: ${why}`)
    }
    taken.delete(parameter.value)
    accepted.set(parameter, [...taken])
  }
  t.comment(`${refused} refused, ${[...accepted.values()].reduce((sum, list) => sum + list.length, 0)} others taken`)
  t.ok(refused > STRINGS * PARAMETERS.length / 2)
  t.end()
})

t.test(`${STRINGS} hostile names are no verbs`, t => {
  for (const name of hostileFor('fence-grant')) {
    const request = readRequest({ id: 1, verb: name, params: {}, deadlineMs: 1 })
    if (request !== null && isVerb(request.verb) && name !== 'fence-grant') t.fail(`${JSON.stringify(name)} is a verb`)
  }
  for (const name of Object.getOwnPropertyNames(Object.prototype)) t.notOk(isVerb(name), name)
  t.end()
})

t.test('a field more, also one of a name that objects have, is refused everywhere', t => {
  for (const { verb, params } of CALLS) {
    for (const name of ['__proto__', 'constructor', 'prototype', 'toString', 'env', 'argv', 'path']) {
      // as it comes from the socket: an own property whatever its name
      const text = JSON.stringify(params)
      t.throws(() => checkParams(verb, JSON.parse(`{${JSON.stringify(name)}:{"kind":"domain"}${text === '{}' ? '' : ','}${text.slice(1)}`)), { code: 'INVALID_INPUT' }, `${verb} ${name}`)
      if (verb === 'apply') t.throws(() => checkParams(verb, JSON.parse(text.replace('"spec":{', `"spec":{${JSON.stringify(name)}:1,`))), { code: 'INVALID_INPUT' }, `${verb} spec ${name}`)
    }
  }
  t.equal(({} as Record<string, unknown>).kind, undefined, 'no prototype was changed')
  t.end()
})

t.test('what is taken reaches no option, no other line, and no path but those of the drivers', async t => {
  const doors = watchDoors(t.testdir())
  const objectOf = (params: object): DesiredObject => params as DesiredObject
  await Promise.all(SAMPLES.map(sample => doors.learn(sample)))
  const seen = await doors.watch(async () => {
    await run('ip', ['link', 'show', '--help'])
    await run('ip', ['-batch', '-'], { input: 'link show\nshutdown now\n' })
    await run('reboot', [])
    await readFile('/etc/hostname').catch(() => undefined)
  })
  t.strictSame(seen, ['option --help', 'program reboot', 'line shutdown now', 'readFile /etc/hostname'], 'what is watched for is seen')
  let driven = 0
  const work = PARAMETERS.filter(({ verb }) => verb === 'apply').flatMap(parameter => {
    const all = accepted.get(parameter) ?? []
    // the shortest and the longest, and some between
    const sorted = [...all].sort((a, b) => a.length - b.length)
    const step = Math.max(1, Math.floor(sorted.length / PER_DRIVER))
    return sorted.filter((_, i) => i % step === 0 || i === sorted.length - 1).map(text => {
      const { params, put } = slot(parameter.params, parameter.path)
      put(text)
      return { label: `${parameter.path.join('.')} ${JSON.stringify(text).slice(0, 100)}`, object: objectOf(params) }
    })
  })
  const next = async (): Promise<void> => {
    for (let one = work.pop(); one !== undefined; one = work.pop()) {
      driven++
      const violations = await doors.drive(one.object)
      if (violations.length > 0) t.fail(`${one.object.kind} ${one.label}`, { violations: violations.slice(0, 5) })
    }
  }
  await Promise.all(Array.from({ length: 24 }, next))
  t.comment(`${driven} objects, ${doors.commands()} commands, ${doors.files()} uses of files`)
  t.ok(driven > 100)
  t.ok(doors.commands() > driven, 'the drivers were at work')
  doors.close()
})
