import { writeFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { CommandError, run, runJson } from '../../agent/exec.ts'
import { parseChains, parseElements, parseFloods, parseForwards, parseLinks, parseNeighbours } from '../../agent/drivers/network/observe/observed.ts'
import { HOST_SPACE, readSpaces } from '../../agent/drivers/network/observe/spaces.ts'
import { clusterNamespace } from '../../protocol/core/desired.ts'
import { SPACES_PER_LOOK } from '../../protocol/core/limits.ts'
import { segmentSpecs } from './network-lab.ts'
import { enterPod, podDrivers } from './network-pod.ts'
import type { SpaceAnswer } from '../../agent/drivers/network/observe/spaces.ts'

// drivers work in the namespaces of their process: this file runs itself once more inside its own
const INSIDE = 'inside'
const VNI = 0x201
const names = [0, 1, 2, 3].map((n) => clusterNamespace(VNI + n))
const [first = '', second = '', third = '', fourth = ''] = names
const NOWHERE = 'mz-00beef'
/** More forwarding entries than what may be read of one namespace. */
const CROWD = 9_000

t.setTimeout(240_000)

const signal = (): AbortSignal => AbortSignal.timeout(60_000)
const ok = async (command: string, input?: string): Promise<string> => {
  const [file = '', ...args] = command.split(' ')
  return (await run(file, args, input === undefined ? {} : { input })).stdout
}

interface MapJson { map?: { elem?: Array<[{ concat: number[] }, { jump?: { target: string } }]> } }

/** What the programs of the system say of the host's own namespace. */
async function toldOfHost (): Promise<SpaceAnswer> {
  const guard = await runJson('nft', ['-j', 'list', 'table', 'inet', 'mz_guard']) as { nftables: MapJson[] }
  const forwards = await runJson('bridge', ['-json', 'fdb', 'show'])
  const elements = guard.nftables.flatMap(({ map }) => map?.elem ?? [])
  return {
    links: parseLinks(await runJson('ip', ['-json', '-details', 'address', 'show'])), floods: parseFloods(forwards), forwards: parseForwards(forwards),
    neighbours: parseNeighbours(await runJson('ip', ['-json', 'neighbour', 'show', 'nud', 'permanent'])),
    chains: [...parseChains(guard), ...parseChains(await runJson('nft', ['-j', 'list', 'table', 'bridge', 'mz_mss']))],
    ways: new Map(elements.map(([{ concat }, { jump }]) => [concat.join(' . '), jump?.target ?? ''])), open: new Set()
  }
}

/** What the programs of the system say of a namespace. */
async function told (ns: string): Promise<SpaceAnswer> {
  const chains = await runJson('nft', ['-j', 'list', 'table', 'bridge', 'mz_mss'], { netns: ns })
  const forwards = await runJson('bridge', ['-n', ns, '-json', 'fdb', 'show'])
  return {
    links: parseLinks(await runJson('ip', ['-n', ns, '-json', '-details', 'address', 'show'])), floods: parseFloods(forwards), forwards: parseForwards(forwards),
    neighbours: parseNeighbours(await runJson('ip', ['-n', ns, '-json', 'neighbour', 'show', 'nud', 'permanent'])), chains: parseChains(chains), ways: new Map(),
    open: parseElements(await runJson('nft', ['-j', 'list', 'set', 'bridge', 'mz_mss', 'forward'], { netns: ns }))
  }
}

async function manyAtOnce (): Promise<void> {
  const { segment } = podDrivers()
  const spec = (n: number) => ({ ...segmentSpecs(`c${n}`, VNI + n, { a: 7 + 2 * n, b: 8 + 2 * n }).a1 })
  for (const n of names.keys()) await segment.apply(`c${n}`, spec(n), signal())

  await t.test('the reader says what ip, bridge and nft say', async (t) => {
    await run('sysctl', ['-qw', 'net.ipv6.conf.lo.disable_ipv6=0'], { netns: second })
    await ok(`ip -n ${second} address add fd00::1/64 dev lo`)
    await ok(`ip -n ${second} link set dev wan0 down`)
    await ok(`ip -n ${second} link set dev site0m type bridge_slave hairpin on`)
    await ok(`ip -n ${second} address add 10.1.2.3/24 dev br0`)
    await ok(`ip -n ${second} link add name other0 type dummy`).catch(() => undefined) // not every kernel has it
    await ok(`ip -n ${third} link set dev br0 type bridge stp_state 1 mcast_snooping 1`)
    await ok(`ip -n ${third} link set dev br0 alias mz:öther`)
    await ok(`bridge -n ${third} fdb add 02:00:00:00:00:99 dev wan0 dst 100.64.0.9`)
    await ok(`bridge -n ${third} fdb append 00:00:00:00:00:00 dev wan0 dst fd00::9`).catch(() => undefined)
    const found = await readSpaces(names, signal())
    t.strictSame([...found.keys()], names)
    for (const ns of names) {
      const [mine, theirs] = [found.get(ns), await told(ns)]
      t.strictSame(mine, theirs, ns)
      t.match(mine, { links: [{ name: 'lo' }, {}, {}, {}, {}, {}], chains: [{ marks: [/^[0-9a-f]+\.0$/] }, {}], open: new Set(['wan0m']) }, 'and that is not nothing')
    }
    await run('nft', ['delete', 'table', 'bridge', 'mz_mss'], { netns: fourth })
    t.match((await readSpaces([fourth], signal())).get(fourth), { chains: [] })
    const unhealthy = (await segment.observe(signal())).filter(({ healthy }) => !healthy).map(({ name }) => name)
    t.strictSame(unhealthy.sort(), ['c1', 'c2', 'c3'])
    for (const n of names.keys()) await segment.apply(`c${n}`, spec(n), signal())
    t.ok((await segment.observe(signal())).every(({ healthy }) => healthy))
  })

  await t.test('the host itself is read as ip, bridge and nft say', async (t) => {
    await ok('ip link add name eth9 type veth peer name eth8')
    await ok('ip address add 10.9.9.9/24 dev eth9')
    await ok('ip address add 10.9.8.1 peer 10.9.8.2 dev eth9')
    await ok('ip link set dev eth9 up')
    await ok('nft -f -', 'table inet other {\n  chain c { }\n}\nadd element inet mz_guard ways { 4789 . 99999 : accept }\n')
    const answers = await readSpaces([HOST_SPACE, first], signal())
    const theirs = await toldOfHost()
    t.strictSame(answers.get(HOST_SPACE), theirs)
    t.strictSame(answers.get(first), await told(first), 'and it is left for the next one')
    t.match(theirs, { links: [{ name: 'lo' }, {}, {}, {}, {}, {}, {}, {}, {}, {}], chains: [{ name: 'vxlan' }, { name: 'guard_000201' }, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}] }, 'and that is not nothing')
    t.equal(theirs instanceof Object && 'ways' in theirs ? theirs.ways.size : 0, 2 * names.length + 1)
    await ok('nft -f -', 'delete table inet other\ndelete element inet mz_guard ways { 4789 . 99999 }\n')
    await ok('ip link delete dev eth9')
    await t.rejects(readSpaces([first, HOST_SPACE], signal()), { message: /not a namespace of ours/ }, 'only as the first: from another nothing leads back')
  })

  await t.test('what is wrong with one namespace is in its own answer', async (t) => {
    await writeFile(`/run/netns/${clusterNamespace(VNI + 10)}`, '')
    await ok(`mkfifo /run/netns/${clusterNamespace(VNI + 11)}`)
    await ok(`ln -s /proc/self/ns/uts /run/netns/${clusterNamespace(VNI + 12)}`)
    await ok(`mkdir /run/netns/${clusterNamespace(VNI + 13)}`)
    const odd = [10, 11, 12, 13].map((n) => clusterNamespace(VNI + n))
    const found = await readSpaces([first, ...odd, NOWHERE, second], signal())
    t.strictSame(odd.map((name) => found.get(name)), ['broken', 'broken', 'broken', 'broken'])
    t.equal(found.get(NOWHERE), null, 'gone since it was listed')
    for (const ns of [first, second]) t.strictSame(found.get(ns), await told(ns))
    const seen = await segment.observe(signal())
    t.ok(seen.filter(({ name }) => name.startsWith('c')).every(({ healthy }) => healthy))
    t.strictSame(seen.filter(({ name }) => name.startsWith('orphan')).map(({ healthy, fingerprint }) => ({ healthy, fingerprint })), odd.map(() => ({ healthy: false, fingerprint: null })))
    await ok(`rmdir /run/netns/${clusterNamespace(VNI + 13)}`)
    for (const { name } of seen.filter(({ detail }) => odd.slice(0, 3).includes(String(detail.namespace)))) await segment.remove(name, signal())
    t.strictSame((await segment.observe(signal())).map(({ name }) => name).sort(), ['c0', 'c1', 'c2', 'c3'])
  })

  await t.test('one that holds too much is not read, and is no other one\'s trouble', async (t) => {
    const entry = (verb: string, n: number): string => `fdb ${verb} 06:00:00:00:${(n >> 8).toString(16)}:${(n & 255).toString(16)} dev wan0 dst 100.64.0.9`
    const crowd = (verb: string, kind: string): string => Array.from({ length: CROWD }, (_, n) => `${entry(verb, n)}${kind}\n`).join('')
    await ok(`bridge -n ${second} -batch -`, crowd('add', ''))
    const found = await readSpaces(names, signal())
    t.match(found.get(second), new CommandError(['look into', second], undefined, '', 'it holds too much'))
    t.match(found.get(second), { message: `look into ${second}: it holds too much` })
    for (const ns of [first, third, fourth]) t.strictSame(found.get(ns), await told(ns))
    const seen = await segment.observe(signal())
    t.match(seen.map(({ name, healthy }) => ({ name, healthy })), [{ name: 'c0', healthy: true }, { name: 'c1', healthy: false }, { name: 'c2', healthy: true }, { name: 'c3', healthy: true }])
    t.match(seen.find(({ name }) => name === 'c1')?.detail, { namespace: second, problem: /it holds too much/ })
    await t.rejects(segment.apply('c1', spec(1), signal()), { message: /it holds too much/ }, 'nothing is done to what cannot be seen')
    await t.rejects(segment.remove('c1', signal()), { message: /it holds too much/ })
    await ok(`bridge -n ${second} -batch -`, crowd('del', ''))
    // guests choose their addresses: what is learnt from their frames does not count
    await ok(`bridge -n ${second} -batch -`, crowd('add', ' dynamic'))
    t.match((await segment.observe(signal())).find(({ name }) => name === 'c1'), { healthy: true })
    await ok(`bridge -n ${second} -batch -`, crowd('del', ' dynamic'))
  })

  await t.test('what does not fit into one answer is asked for again', async (t) => {
    const whole = await readSpaces(names, signal())
    t.strictSame(await readSpaces([...names, NOWHERE], signal(), { allBytes: 1 }), new Map([...whole, [NOWHERE, null]]))
    t.match([...(await readSpaces(names, signal(), { spaceBytes: 100 })).values()], names.map(() => ({ message: /it holds too much/ })))
    const many = Array.from({ length: 2 * SPACES_PER_LOOK + 5 }, (_, n) => clusterNamespace(0x5000 + n))
    const found = await readSpaces([...many, first], signal())
    t.equal(found.size, many.length + 1)
    t.strictSame(found.get(first), whole.get(first))
    t.strictSame(await readSpaces([], signal()), new Map())
  })

  await t.test('only our namespaces are entered', async (t) => {
    await ok('ip netns add other')
    for (const name of ['other', '../netns/other', `${first}/..`, `${first}\n`, '', '$(id)', '-e']) await t.rejects(readSpaces([first, name], signal()), { message: /not a namespace of ours|has no answer/ }, JSON.stringify(name))
    await ok('ip netns delete other')
    const ended = new AbortController()
    ended.abort()
    await t.rejects(readSpaces(names, ended.signal), 'and none when nobody waits any more')
  })

  for (const n of names.keys()) await segment.remove(`c${n}`, signal())
  t.strictSame(await segment.observe(signal()), [])
}

if (process.argv[2] === INSIDE) {
  await enterPod()
  await manyAtOnce()
} else if (process.getuid?.() !== 0) {
  t.pass('the drivers work as root', { skip: 'needs root' })
} else {
  const unshare = ['--net', '--mount', '--uts', '--pid', '--fork', '--kill-child', '--mount-proc']
  t.spawn('unshare', [...unshare, process.execPath, ...process.execArgv, fileURLToPath(import.meta.url), INSIDE], {}, 'inside namespaces of its own')
}
