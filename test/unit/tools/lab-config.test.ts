import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { parse } from 'yaml'
import { loadAgentConfig } from '../../../agent/config.ts'
import { loadCoordinatorConfig } from '../../../coordinator/config.ts'
import { agentYaml, coordinatorYaml, placeHosts, segmentIdsOf, type LabHostSpec } from '../../../lab/config.ts'
import { compareSnapshots, linkNames, mountPoints, nftTables, type Snapshot } from '../../../lab/leftovers.ts'
import { netemArgs, startWan, tbfArgs, underlayAddress, uplinkDelayMs } from '../../../lab/wan.ts'

const host = (name: string, roles: LabHostSpec['roles'] = ['compute']): LabHostSpec => ({ name, roles, vcpus: 2, memoryMiB: 1024, diskMiB: 100 })
const SITES = [
  { name: 'tokyo', hosts: [host('tokyo-1', ['gateway', 'compute']), host('tokyo-2')] },
  { name: 'tsukuba', hosts: [host('tsukuba-1', ['gateway', 'compute'])] }
]

t.test('every host gets an address of its own, by site and place', t => {
  t.same(placeHosts(SITES).map(h => [h.name, h.site, h.address]), [
    ['tokyo-1', 'tokyo', '10.99.1.1'], ['tokyo-2', 'tokyo', '10.99.1.2'], ['tsukuba-1', 'tsukuba', '10.99.2.1']
  ])
  t.equal(underlayAddress(0, 1), '10.99.0.1', 'the coordinator stands outside the sites')
  t.end()
})

t.test('labs that cannot be built are refused by name', t => {
  t.throws(() => placeHosts([]), { code: 'INVALID_INPUT' })
  t.throws(() => placeHosts([{ name: 'tokyo', hosts: [] }]), { message: /tokyo has 0 hosts/ })
  t.throws(() => placeHosts([{ name: 'Tokyo', hosts: [host('a', ['gateway'])] }]), { message: /no site name/ })
  t.throws(() => placeHosts([{ name: 'tokyo', hosts: [host('a', ['gateway']), host('a')] }]), { message: /name a is taken/ })
  t.throws(() => placeHosts([{ name: 'tokyo', hosts: [host('wan', ['gateway'])] }]), { message: /name wan is taken/ })
  t.throws(() => placeHosts([{ name: 'x', hosts: [host('a', ['gateway'])] }, { name: 'x', hosts: [host('b')] }]), { message: /named twice/ })
  t.throws(() => placeHosts([{ name: 'x', hosts: [host('../a', ['gateway'])] }]), { message: /no host name/ })
  t.throws(() => placeHosts([{ name: 'x', hosts: [host('a')] }]), { message: /no gateway/ })
  t.end()
})

t.test('the files it writes are the ones that agent and coordinator read', async t => {
  const dir = t.testdir()
  const placed = placeHosts(SITES)
  await mkdir(join(dir, 'c'))
  for (const h of placed) {
    const path = join(dir, 'c', `${h.name}.yaml`)
    await writeFile(path, agentYaml(h, { imageStore: '/images', drivers: 'fake', logLevel: 'info' }))
    const config = await loadAgentConfig(path)
    t.match(config, { name: h.name, site: h.site, underlayAddress: h.address, drivers: 'fake', accelerator: 'tcg', capacity: { vcpus: 2, memoryMiB: 1024, diskMiB: 100 } })
    t.equal(config.segmentIds !== undefined, h.roles.includes('gateway'))
  }
  const path = join(dir, 'coordinator.yaml')
  await writeFile(path, coordinatorYaml('info'))
  t.match(await loadCoordinatorConfig(path), { listen: ['/ip4/10.99.0.1/tcp/4100'], http: { host: '10.99.0.1' } })
})

t.test('segment ids of two sites never meet', t => {
  const [a, b] = [segmentIdsOf(1), segmentIdsOf(2)]
  t.ok(a.from <= a.to && a.to < b.from)
  const gateway = placeHosts(SITES)[0]
  t.ok(gateway)
  if (gateway !== undefined) t.match(parse(agentYaml(gateway, { imageStore: '/i', drivers: 'real', logLevel: 'info' })), { segmentIds: a })
  t.end()
})

t.test('an uplink delays by a quarter of the RTT and queues what is under way', t => {
  t.equal(uplinkDelayMs(20), 5)
  const args = netemArgs(20, 200)
  t.same([...args.slice(0, 3), ...args.slice(5)], ['netem', 'delay', '5ms', 'rate', '200mbit'])
  t.ok(Number(args[4]) * 1500 * 8 > 200e6 * 0.02, 'the queue holds more than the path does')
  t.notOk(netemArgs(20, undefined).includes('rate'))
  t.same(tbfArgs(200), ['tbf', 'rate', '200mbit', 'burst', '65536', 'latency', '50ms'])
  t.equal(tbfArgs(1000)[4], '250000')
  t.end()
})

t.test('an underlay that cannot be is refused before anything is started', async t => {
  const dir = join(t.testdir(), 'wan')
  await t.rejects(startWan({ dir, sites: ['a'], rttMs: -1 }), { code: 'INVALID_INPUT' })
  await t.rejects(startWan({ dir, sites: ['a'], rttMs: Number.NaN }), { code: 'INVALID_INPUT' })
  await t.rejects(startWan({ dir, sites: ['a'], rttMs: 20, rateMbit: 0 }), { code: 'INVALID_INPUT' })
  await t.rejects(startWan({ dir, sites: ['a', 'a'], rttMs: 20 }), { code: 'INVALID_INPUT' })
})

const snapshot = (some: Partial<Snapshot>): Snapshot => ({ namespace: [], link: [], 'nft table': [], process: [], domain: [], mount: [], 'loop device': [], ...some })

t.test('what is new is a left-over, what was there is not, what went is none', t => {
  const before = snapshot({ link: ['lo', 'eth0'], process: ['agent', 'sleep'] })
  t.same(compareSnapshots('h', before, before), [])
  t.same(compareSnapshots('h', before, snapshot({ link: ['lo'] })), [])
  t.same(compareSnapshots('h', before, snapshot({ link: ['lo', 'eth0', 'mzb000001'], domain: ['n1'] })), ['h: link mzb000001', 'h: domain n1'])
  t.same(compareSnapshots('h', before, snapshot({ process: ['agent', 'agent', 'sleep'] })), ['h: process agent'], 'a second equal one counts')
  t.end()
})

t.test('answers of ip, nft and the kernel are read', t => {
  t.same(linkNames('[{"ifname":"lo"},{"ifname":"eth0","link_index":7}]'), ['lo', 'eth0'])
  t.same(linkNames(''), [])
  t.same(nftTables('{"nftables":[{"metainfo":{"version":"1.0.6"}},{"table":{"family":"bridge","name":"mzcache","handle":3}}]}'), ['bridge mzcache'])
  t.same(nftTables(''), [])
  t.same(mountPoints('26 1 254:0 / / rw - ext4 /dev/vda rw\n27 26 0:22 / /proc rw - proc proc rw\n'), ['/', '/proc'])
  t.end()
})
