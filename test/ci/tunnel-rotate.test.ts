/**
 * `musubi tunnel rotate` on a whole federation: real agents and helpers at two sites, a cluster over both, pings in its tunnel.
 * Its node has nothing to boot; the tunnel does not wait for that. Needs root.
 */
import t from 'tap'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { startLab, type Lab } from '../../lab/lab.ts'
import { until } from '../../lab/process.ts'
import type { SiteResource } from '../../protocol/api.ts'
import type { DiagnosisResource, RotationResource, TunnelResource } from '../../protocol/network-api.ts'
import { call } from '../../cli/client.ts'
import { tinyImage } from '../helper-pod.ts'

const MASTER = 'tokyo-1'
const FAR = 'tsukuba-1'
const PATIENCE_MS = 90_000

t.setTimeout(290_000)

const shown = async (lab: Lab, host: string): Promise<TunnelResource> => JSON.parse((await lab.musubi(host, ['tunnel', 'show', '--json'])).stdout) as TunnelResource
/** What traffic to the other gateway goes by. */
const inUse = ({ gateways }: TunnelResource): { track: number, publicKey: string, handshakeAgeMs: number | null } | undefined => gateways[0]?.sessions.find(one => one.inUse)

t.test('keys of a running tunnel', { skip: process.getuid?.() === 0 ? false : 'needs root' }, async t => {
  const images = await mkdtemp(join(tmpdir(), 'musubi-rotate-'))
  t.teardown(() => rm(images, { recursive: true, force: true }))
  const image = await tinyImage(images)
  await using lab = await startLab({
    rttMs: 10, imageStore: images, sites: [
      { name: 'tokyo', hosts: [{ name: MASTER, roles: ['gateway', 'compute'], vcpus: 1, memoryMiB: 256, diskMiB: 0 }] },
      { name: 'tsukuba', hosts: [{ name: FAR, roles: ['gateway', 'compute'], vcpus: 1, memoryMiB: 768, diskMiB: 0 }] }
    ]
  })
  const api = { socketPath: lab.api(MASTER), what: MASTER }
  // a host offers nothing before it has heard its helper
  await until('both sites are known', PATIENCE_MS, async () => (await call<SiteResource[]>(api, 'GET', '/v1/sites')).filter(({ free }) => free.vcpus === 1).length === 2)
  t.match(await shown(lab, MASTER), { state: 'none', epoch: 0, gateways: [], tracks: [{ track: 0, epoch: 0 }] }, 'no cluster needs it yet')
  await call(api, 'POST', '/v1/clusters', { apiVersion: 'musubi/v1', kind: 'Cluster', metadata: { name: 'far' }, spec: { image, nodes: { count: 1, vcpus: 1, memoryMiB: 768 }, term: '1h' } })

  const before = await until('the tunnel is there, and each gateway was heard', PATIENCE_MS, async () => {
    const both = await Promise.all([shown(lab, MASTER), shown(lab, FAR)])
    return both.every(one => one.state === 'ok' && one.gateways[0]?.heard === true && one.gateways[0].keyFrom === 'record' && inUse(one)?.handshakeAgeMs != null) ? both : null
  })
  const target = before[0].gateways[0]?.address ?? ''
  const pings = lab.host(MASTER).pod.exec(['ping', '-n', '-i', '0.01', '-w', '25', target], { timeoutMs: 60_000, okCodes: [0, 1] })

  const asked = await lab.musubi(MASTER, ['tunnel', 'rotate', '--json'])
  t.strictSame(JSON.parse(asked.stdout), { epoch: 1, unheard: [] } satisfies RotationResource)
  await t.rejects(lab.musubi(MASTER, ['tunnel', 'rotate']), /being exchanged already/)
  const after = await until('traffic goes by the new key, both ways', PATIENCE_MS, async () => {
    const both = await Promise.all([shown(lab, MASTER), shown(lab, FAR)])
    return both.every(one => inUse(one)?.track === 1) ? both : null
  })
  const fresh = after[0].tracks.find(({ track }) => track === 1)
  t.match(fresh, { epoch: 1, draining: false, interface: 'mzwg1', endpoint: /:51821$/ })
  t.equal(inUse(after[1])?.publicKey, fresh?.publicKey, 'the far gateway took it from the record')
  t.equal(after[0].tracks.find(({ track }) => track === 0)?.draining ?? true, true, 'the former one is given up, or gone')
  t.match((await lab.musubi(MASTER, ['tunnel', 'show'])).stdout, /Keys of epoch 1/)
  // its node does not boot, which is found; its tunnel is well, though it is another interface than it was
  const { findings, seen } = await call<DiagnosisResource>(api, 'POST', '/v1/segments/far/diagnosis')
  t.strictSame(findings.filter(({ where }) => where === 'tunnel').map(({ code }) => code), [])
  t.ok(seen.some(line => line.startsWith('tunnel') && line.includes('mzwg1')), seen.join('\n'))

  const { stdout } = await pings
  const [, sent = 0, received = -1] = (/(\d+) packets transmitted, (\d+) received/.exec(stdout) ?? []).map(Number)
  t.comment(`${sent} pings, ${sent - received} lost`)
  t.ok(sent > 500, `${sent} pings`)
  const numbers = new Set([...stdout.matchAll(/icmp_seq=(\d+) ttl/g)].map(match => Number(match[1])))
  // the last ones may be under way when ping ends
  const last = Math.max(0, ...numbers)
  t.strictSame(Array.from({ length: last }, (_, i) => i + 1).filter(number => !numbers.has(number)), [], 'none lost')
  t.match(await call<Array<{ type: string, message: string }>>(api, 'GET', '/v1/events').then(events => events.find(one => one.type === 'tunnel.rotate')), { message: /epoch 1: asked for/ })

  await call(api, 'DELETE', '/v1/clusters/far')
  await until('the tunnel is gone', PATIENCE_MS, async () => (await shown(lab, MASTER)).state === 'none' && (await shown(lab, FAR)).state === 'none')
})
