import { chmod, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { stringify } from 'yaml'
import { hostCapacity, loadAgentConfig, retainLimitsOf, secondPortOf, tunnelEndpointOf } from '../../../agent/config.ts'
import { loadCoordinatorConfig } from '../../../coordinator/config.ts'
import { parseYaml, readYamlFile } from '../../../protocol/config-file.ts'
import { InvalidInputError } from '../../../protocol/core/errors.ts'

const AGENT = { name: 'tokyo-1', site: 'tokyo', roles: ['gateway'], listen: ['/ip4/192.0.2.1/tcp/4100'], underlayAddress: '192.0.2.1', segmentIds: { from: 1000, to: 1999 } }

async function file (t: Test, content: string): Promise<string> {
  const path = join(t.testdir({}), 'config.yaml')
  await writeFile(path, content)
  return path
}
const agent = async (t: Test, change: object): Promise<string> => await file(t, stringify({ ...AGENT, ...change }))

t.test('a small configuration is enough, the rest has defaults', async t => {
  t.match(await loadAgentConfig(await agent(t, {})), {
    stateDir: '/var/lib/musubi', runDir: '/run/musubi', reachable: true, relay: false, priceMilli: 0, drivers: 'real', logLevel: 'info', tunnelPort: 51820
  })
  t.match(await loadCoordinatorConfig(await file(t, 'name: main\nlisten: [/ip4/192.0.2.9/tcp/4100]')), { http: { host: '127.0.0.1', port: 4180 } })
})

t.test('what stores may take that outlive their clusters', async t => {
  const of = async (retain?: object): Promise<unknown> => retainLimitsOf(await loadAgentConfig(await agent(t, retain === undefined ? {} : { retain })))
  t.same(await of(), { totalBytes: 20 * 2 ** 30, ownerBytes: 10 * 2 ** 30, maxMs: 30 * 86_400_000 })
  t.same(await of({ diskMiB: 3, maxDays: 1 }), { totalBytes: 3 * 2 ** 20, ownerBytes: 2 ** 20, maxMs: 86_400_000 })
  t.same(await of({ diskMiB: 0, ownerDiskMiB: 7 }), { totalBytes: 0, ownerBytes: 7 * 2 ** 20, maxMs: 30 * 86_400_000 })
})

for (const [what, change, expected] of [
  ['an unknown field', { segmentIDs: {} }, /unknown field segmentIDs/],
  ['an unknown field deeper down', { capacity: { vcpus: 1, memoryMiB: 1, diskMiB: 1, gpus: 1 } }, /capacity: unknown field gpus/],
  ['a gateway without ids for segments', { segmentIds: undefined }, /segmentIds: a gateway needs a range of its own, e\.g\. \{from: 1000, to: 1999\}/],
  ['VLANs without a trunk NIC', { inSite: { technique: 'vlan', ids: { from: 1000, to: 1999 } } }, /inSite/],
  ['a name that is no link\'s', { inSite: { technique: 'vlan', trunk: 'eth1 up', ids: { from: 1000, to: 1999 } } }, /inSite/],
  ['VLAN ids that there are not', { inSite: { technique: 'vlan', trunk: 'eth1', ids: { from: 1000, to: 4095 } } }, /inSite/],
  ['a range of VLANs that is none', { inSite: { technique: 'vlan', trunk: 'eth1', ids: { from: 9, to: 8 } } }, /inSite\.ids: from is above to/],
  ['ids to hand out that are none of the VLANs', { inSite: { technique: 'vlan', trunk: 'eth1', ids: { from: 1000, to: 1500 } } }, /segmentIds: 1000\.\.1999 are not within inSite\.ids, 1000\.\.1500.*eth1/],
  ['a range that is none', { segmentIds: { from: 5, to: 4 } }, /segmentIds: from is above to/],
  ['no role', { roles: [] }, /roles/],
  ['an unknown role', { roles: ['king'] }, /roles/],
  ['a name that is no host name', { name: 'Tokyo_1' }, /name/],
  ['a name longer than certificates take', { name: 'x'.repeat(33) }, /name/],
  ['a site name longer than certificates take', { site: 'x'.repeat(33) }, /site/],
  ['an address that is none', { underlayAddress: '192.0.2.300' }, /underlayAddress/],
  ['a relative folder', { stateDir: 'state' }, /stateDir/],
  ['a capacity below nothing', { capacity: { vcpus: -1, memoryMiB: 1, diskMiB: 1 } }, /capacity\.vcpus/],
  ['a port that is none', { tunnelPort: 70_000 }, /tunnelPort/],
  ['one port for both keys of the tunnel', { tunnelSecondPort: 51820 }, /tunnelSecondPort: 51820 is tunnelPort/],
  ['the port of VXLAN', { tunnelPort: 4789 }, /tunnelPort: UDP 4789 is that of VXLAN/],
  ['a port before that of VXLAN', { tunnelPort: 4788 }, /tunnelSecondPort: UDP 4789 is that of VXLAN on this host; it is the port after tunnelPort, unless it is given/],
  ['the port of in-site VXLAN', { tunnelSecondPort: 4790 }, /tunnelSecondPort: UDP 4790 is that of VXLAN on this host$/],
  ['two addresses of one IP version', { tunnelAddresses: ['192.0.2.1', '192.0.2.2'] }, /tunnelAddresses: 192\.0\.2\.1 and 192\.0\.2\.2 are of one IP version/],
  ['a link-local address', { tunnelAddresses: ['fe80::1'] }, /tunnelAddresses: fe80::1 is no address/],
  ['a name for an address', { tunnelAddresses: ['gw.example'] }, /tunnelAddresses: gw\.example is no address/],
  ['an IPv6 underlay within the site', { underlayAddress: '2001:db8::1' }, /underlayAddress/],
  ['stores that outlive their clusters by more than a year', { retain: { maxDays: 366 } }, /retain\.maxDays/],
  ['a misspelt limit of such stores', { retain: { sizeMiB: 5 } }, /retain: unknown field sizeMiB/],
  ['keys that live for ever', { tunnelKeyMaxAgeHours: 100_000 }, /tunnelKeyMaxAgeHours/]
] as const) {
  t.test(`${what} is refused by name`, async t => {
    const path = await agent(t, change)
    const error: unknown = await loadAgentConfig(path).catch((e: unknown) => e)
    t.match(error, { code: 'INVALID_INPUT', message: expected })
    t.ok(error instanceof InvalidInputError && error.message.includes(path), 'with its file')
  })
}

t.test('a tunnel has two ports, and an address of each IP version at most', async t => {
  const config = async (change: object): Promise<[number, string]> => { const one = await loadAgentConfig(await agent(t, change)); return [secondPortOf(one), tunnelEndpointOf(one)] }
  t.same(await config({}), [51821, '192.0.2.1:51820'])
  t.same(await config({ tunnelPort: 65535 }), [65534, '192.0.2.1:65535'])
  t.same(await config({ tunnelSecondPort: 7, tunnelAddresses: ['2001:DB8:0::1'] }), [7, '[2001:db8::1]:51820'], 'in the short form')
  t.same(await config({ tunnelAddresses: ['198.51.100.7', '2001:db8::1'] }), [51821, '198.51.100.7:51820,[2001:db8::1]:51820'])
})

t.test('segments inside the site go by VXLAN, or by the VLANs of a trunk NIC', async t => {
  t.match(await loadAgentConfig(await agent(t, {})), { inSite: { technique: 'vxlan' } })
  const inSite = { technique: 'vlan', trunk: 'bond0.7', ids: { from: 1000, to: 1999 } }
  t.match(await loadAgentConfig(await agent(t, { inSite })), { inSite })
})

t.test('every problem is told at once', async t => {
  const error: unknown = await loadAgentConfig(await agent(t, { colour: 1, tunnelPort: 0, name: undefined })).catch((e: unknown) => e)
  for (const part of [/colour/, /tunnelPort/, /name/]) t.match(error, { message: part })
})

t.test('a file that cannot be read, parsed or believed says so', async t => {
  const missing = join(t.testdir({}), 'missing.yaml')
  await t.rejects(loadAgentConfig(missing), { code: 'INVALID_INPUT', message: new RegExp(`cannot read ${missing}`), hint: /path/ })
  await t.rejects(loadAgentConfig(t.testdir({})), { code: 'INVALID_INPUT', message: /cannot read/ })
  await t.rejects(file(t, 'a: [').then(readYamlFile), { code: 'INVALID_INPUT', message: /is not YAML/ })
  await t.rejects(file(t, '#'.repeat(300_000)).then(readYamlFile), { code: 'INVALID_INPUT', message: /300000 bytes; the limit is/ })
  for (const text of ['just words', '- a\n- list', '42', '']) await t.rejects(file(t, text).then(loadAgentConfig), { code: 'INVALID_INPUT' }, JSON.stringify(text))
  const bomb = ['a: &a [x, x, x, x, x, x, x, x, x]', ...Array.from({ length: 8 }, (_, i) => `b${i}: &b${i} [${Array(9).fill(i === 0 ? '*a' : `*b${i - 1}`).join(', ')}]`)].join('\n')
  t.throws(() => parseYaml(bomb, 'a bomb'), { code: 'INVALID_INPUT', message: /a bomb is not YAML/ })
  if (process.getuid?.() !== 0) {
    const secret = await agent(t, {})
    await chmod(secret, 0)
    await t.rejects(loadAgentConfig(secret), { code: 'INVALID_INPUT', message: /cannot read/ })
  }
})

t.test('what a host lends is as configured, else what it has', async t => {
  const config = await loadAgentConfig(await agent(t, { stateDir: t.testdir({}), capacity: { vcpus: 3, memoryMiB: 4, diskMiB: 5 } }))
  t.same(await hostCapacity(config), { vcpus: 3, memoryMib: 4, diskMib: 5, volumes: 64, bandwidthMbit: 0 })
  const { capacity, ...rest } = config
  t.ok(capacity)
  const found = await hostCapacity(rest)
  t.ok(found.vcpus >= 1 && found.memoryMib >= 0 && found.diskMib >= 0 && Object.values(found).every(Number.isInteger))
})
