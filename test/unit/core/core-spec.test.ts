import fc from 'fast-check'
import t from 'tap'
import { cidrProblem, layout, parseCidr } from '../../../protocol/core/network/addresses.ts'
import { InvalidInputError } from '../../../protocol/core/errors.ts'
import { formatDuration, parseDuration } from '../../../protocol/core/notation/duration.ts'
import { parseClusterSpec, nearest } from '../../../protocol/core/spec.ts'
import { MAX_SITES_PER_CLUSTER } from '../../../protocol/core/limits.ts'

type Plain = Record<string, unknown>
const input = (spec: Plain = {}, rest: Plain = {}): Plain =>
  ({ apiVersion: 'musubi/v1', kind: 'Cluster', metadata: { name: 'demo' }, spec: { nodes: { count: 2 }, ...spec }, ...rest })

const problems = (value: unknown): string[] => {
  try {
    parseClusterSpec(value)
  } catch (error) {
    if (error instanceof InvalidInputError) return error.message.split('\n').slice(1)
    throw error
  }
  return []
}

t.test('defaults are filled in', t => {
  t.strictSame(parseClusterSpec(input()), {
    name: 'demo', cidr: '10.42.0.0/16', antiSpoof: true, frontend: { mode: 'builtin' }, image: 'default', nodes: { count: 2, vcpus: 1, memoryMiB: 768 }, volumes: [], termMs: 7_200_000
  })
  const full = parseClusterSpec(input({
    network: { cidr: '172.16.0.0/12', antiSpoof: false }, frontend: {}, image: `sha256:${'ab'.repeat(32)}`, nodes: { count: 3, vcpus: 2, memoryMiB: 1024 },
    volumes: [{ name: 'data', sizeMiB: 64, node: 3 }], term: 'PT90M'
  }))
  t.equal(full.termMs, 5_400_000)
  t.match(full, { cidr: '172.16.0.0/12', antiSpoof: false })
  t.equal(parseClusterSpec(input({ network: { antiSpoof: true } })).antiSpoof, true)
  t.strictSame(full.volumes, [{ name: 'data', sizeMiB: 64, node: 3 }])
  t.end()
})

t.test('every problem is named, one a line', t => {
  t.strictSame(problems({
    apiVersion: 'musubi/v2', kind: 'Cluster', metadata: { nam: 'x', name: 'Demo' },
    spec: { nework: {}, nodes: { count: 0, vcpu: 1, memoryMiB: 1 }, volumes: [{ name: 'a', sizeMiB: 'x', node: 0 }], term: 5, zzz: 1 }
  }), [
    'apiVersion: must be "musubi/v1", not "musubi/v2"',
    'metadata.nam: unknown field; did you mean "name"?',
    'metadata.name: "Demo" must be a DNS label: lower-case letters, digits and dashes, a letter first, no dash last',
    'spec.nework: unknown field; did you mean "network"?',
    'spec.zzz: unknown field; known here: network, frontend, cache, placement, image, nodes, volumes, start, end, term',
    'spec.nodes.vcpu: unknown field; did you mean "vcpus"?',
    'spec.nodes.count: must be >= 1, not 0',
    'spec.nodes.memoryMiB: must be >= 128, not 1',
    'spec.volumes[0].sizeMiB: must be integer, not "x"',
    'spec.volumes[0].node: must be >= 1, not 0',
    'spec.term: must be string, not 5'
  ])
  t.strictSame(problems(input({ network: { antiSpoof: 'no', antispof: true } })), ['spec.network.antispof: unknown field; did you mean "antiSpoof"?', 'spec.network.antiSpoof: must be boolean, not "no"'])
  t.strictSame(problems(input({
    network: { cidr: '10.1.2.0/16' }, volumes: [{ name: 'a', sizeMiB: 1, node: 3 }, { name: 'b', sizeMiB: 1, node: 1 }, { name: 'a', sizeMiB: 1, node: 1 }], term: 'soon'
  })), [
    'spec.network.cidr: "10.1.2.0/16" has bits set behind its prefix; did you mean 10.1.0.0/16?',
    'spec.term: "soon" is not a duration such as 90m, 2h or PT90M',
    'spec.volumes[0].node: there is no node 3, only 2',
    'spec.volumes[2].name: "a" is already the name of spec.volumes[0]'
  ])
  t.strictSame(problems(input({ term: '1s' })), ['spec.term: "1s" is outside 60 s to 366 days'])
  t.strictSame(problems(input({ image: 'sha256:12' })), ['spec.image: "sha256:12" must be "default" or sha256:<64 hex digits>'])
  t.strictSame(problems(null), ['the document: must be object, not null'])
  t.strictSame(problems({}), ['apiVersion: is required', 'kind: is required', 'metadata: is required', 'spec: is required'])
  t.equal(problems(input({ nodes: { count: 2, a: 1, b: 1, c: 1, d: 1, e: 1, f: 1, g: 1, h: 1, i: 1, j: 1 } })).length, 10, 'not only the first eight')
  t.strictSame(problems({ ...input(), metadata: { name: 'a'.repeat(21) } }).length, 1)
  t.strictSame(problems({ ...input(), metadata: { name: 'a'.repeat(20) } }), [])
  t.end()
})

t.test('whatever comes in, the answer is a spec or an InvalidInputError', t => {
  fc.assert(fc.property(fc.anything({ withNullPrototype: true }), value => {
    problems(value)
    problems(input({ nodes: value }))
    problems(input({ volumes: [value], network: value }))
  }), { numRuns: 300 })
  t.pass()
  t.end()
})

t.test('durations', t => {
  const good: Array<[string, number]> = [['90m', 5_400_000], ['2h', 7_200_000], ['1d12h', 129_600_000], ['30s', 30_000], ['PT1H30M', 5_400_000], ['P2D', 172_800_000], ['P1DT1S', 86_401_000]]
  for (const [text, ms] of good) t.equal(parseDuration(text), ms, text)
  for (const [ms, text] of [[604_800_000, '7d'], [5_400_000, '1h30m'], [86_461_000, '1d1m1s'], [999, '0s']] as const) t.equal(formatDuration(ms), text)
  for (const [text, ms] of good) t.equal(parseDuration(formatDuration(ms)), ms, text)
  for (const text of ['', 'P', 'PT', '2', 'h', '-2h', '2 h', '1.5h', '2H', '5m2h']) t.equal(parseDuration(text), null, `"${text}"`)
  t.end()
})

t.test('names nearby', t => {
  t.equal(nearest('memoryMib', ['count', 'vcpus', 'memoryMiB']), 'memoryMiB')
  t.equal(nearest('qqqq', ['count', 'vcpus']), null)
  t.end()
})

t.test('networks of segments', t => {
  for (const cidr of ['10.0.0.0/8', '10.42.0.0/16', '172.31.0.0/16', '192.168.0.0/16']) t.equal(cidrProblem(cidr), null, cidr)
  t.match(cidrProblem('8.8.0.0/16'), /not inside a private range/)
  t.match(cidrProblem('172.32.0.0/16'), /not inside a private range/)
  t.match(cidrProblem('192.0.0.0/8'), /not inside a private range/, 'larger than the range it begins in')
  t.match(cidrProblem('10.42.0.0/24'), /too small/)
  for (const text of ['10.42.0.0', '10.42.0/16', '10.256.0.0/16', '10.42.0.0/33', '010.0.0.0/8', 'x', '10.42.0.0/-1']) t.match(cidrProblem(text), /not an IPv4 network/, text)
  t.strictSame(parseCidr('10.42.0.0/16'), { base: 0x0a2a0000, prefixLength: 16 })
  t.end()
})

t.test('addresses tell site and node, and never meet', t => {
  const net = layout('10.42.0.0/16', 0xabcdef)
  t.strictSame(net.frontend, { ip: '10.42.0.1', mac: '52:54:cd:ef:00:01' })
  t.strictSame(net.node(1, 7), { ip: '10.42.2.7', mac: '52:54:cd:ef:02:07' })
  t.strictSame(net.gateway(1), { ip: '10.42.255.2', mac: '52:54:cd:ef:ff:02' })
  t.equal(layout('172.16.0.0/12', 1).node(0, 1).ip, '172.16.1.1')
  const all = [net.frontend, ...Array.from({ length: MAX_SITES_PER_CLUSTER }, (_, s) => [net.gateway(s), ...Array.from({ length: 200 }, (_, n) => net.node(s, n + 1))]).flat()]
  t.equal(new Set(all.map(one => one.ip)).size, all.length)
  t.equal(new Set(all.map(one => one.mac)).size, all.length)
  t.throws(() => net.node(MAX_SITES_PER_CLUSTER, 1), RangeError)
  t.throws(() => net.node(0, 201), RangeError)
  t.end()
})
