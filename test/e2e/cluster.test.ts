/**
 * A real cluster while things die: a node at the far site boots by PXE through segment and cache,
 * every agent is killed -9 and adopts what runs, and deleting leaves nothing. Needs root.
 */
import t from 'tap'
import { buildNodeImage } from '../../agent/images/build.ts'
import { call, type Endpoint } from '../../cli/client.ts'
import { waitForCluster } from '../../cli/waiting.ts'
import type { AgentStatus, ClusterResource, LeaseResource, SiteResource } from '../../protocol/api.ts'
import { DEFAULT_IMAGE_STORE } from '../../lab/config.ts'
import { onNode } from '../../lab/demo/use.ts'
import { startLab, type Lab } from '../../lab/lab.ts'
import { processesOfPod } from '../../lab/process.ts'
import { AGENT_UID, WORK_TREE } from '../../lab/pod.ts'
import { ourProcesses } from '../sockets.ts'

const MASTER = 'tokyo-1'
const FAR = 'tsukuba-1'
const SPEC = {
  apiVersion: 'musubi/v1', kind: 'Cluster', metadata: { name: 'far' },
  spec: { nodes: { count: 1, vcpus: 1, memoryMiB: 768 }, term: '1h' }
}

t.setTimeout(480_000)

const signal = AbortSignal.timeout(470_000)
const agent = (lab: Lab, host: string): Endpoint => ({ socketPath: lab.api(host), what: 'agent' })

/** Guests and daemons of a pod by pid: these must stay the same processes. */
async function engines (lab: Lab, host: string): Promise<string[]> {
  const processes = await processesOfPod(lab.host(host).pod.pid)
  return processes.map(p => `${p.innerPid} ${p.argv.join(' ').replace(/^.*\/(?=qemu-system|wireguard-go|dnsmasq|nginx)/, '').slice(0, 60)}`)
    // a guest has a name, and a tunnel an interface; what doctor starts to see whether they work has none
    .filter(line => /^\d+ (qemu-system\S* -name|wireguard-go -f|dnsmasq|nginx: master|perl .*prober)/.test(line)).sort()
}

/** Waits until the agent runs as another process than before and all of its objects are well. */
async function adopted (lab: Lab, host: string, before: AgentStatus): Promise<AgentStatus> {
  await lab.waitAgent(host)
  for (;;) {
    signal.throwIfAborted()
    const now = await call<AgentStatus>(agent(lab, host), 'GET', '/v1/status').catch(() => null)
    if (now !== null && now.epoch > before.epoch && now.objects.length >= before.objects.length && now.objects.every(o => o.state === 'ok')) return now
    await new Promise(resolve => { setTimeout(resolve, 200) })
  }
}

t.test('a node at the far site', { skip: process.getuid?.() === 0 ? false : 'needs root' }, async t => {
  await buildNodeImage({ storeDir: DEFAULT_IMAGE_STORE, signal, onProgress: () => undefined })
  // tokyo has room for the frontend alone, so the node has to go to tsukuba
  await using lab = await startLab({
    rttMs: 20, rateMbit: 200, signal,
    sites: [
      { name: 'tokyo', hosts: [{ name: MASTER, roles: ['gateway', 'compute'], vcpus: 1, memoryMiB: 256, diskMiB: 0 }] },
      { name: 'tsukuba', hosts: [{ name: FAR, roles: ['gateway'], vcpus: 0, memoryMiB: 0, diskMiB: 0 }, { name: 'tsukuba-2', roles: ['compute'], vcpus: 1, memoryMiB: 768, diskMiB: 0 }] }
    ]
  })
  const api = agent(lab, MASTER)
  const show = (): Promise<ClusterResource> => call<ClusterResource>(api, 'GET', '/v1/clusters/far')

  await t.test('boots over the WAN through segment and cache', async t => {
    for (;;) {
      const sites = await call<SiteResource[]>(api, 'GET', '/v1/sites')
      // a host offers nothing before it has heard its helper
      if (sites.reduce((n, s) => n + s.hosts, 0) === 3 && sites.every(s => s.free.vcpus === 1)) break
      signal.throwIfAborted()
      await new Promise(resolve => { setTimeout(resolve, 50) })
    }
    await call(api, 'POST', '/v1/clusters', SPEC)
    const cluster = await waitForCluster(api, 'far', ['ready'], 240_000, signal, line => { t.comment(line) })
    t.equal(cluster.nodes[0]?.site, 'tsukuba')
    t.equal(cluster.nodes[0]?.host, 'tsukuba-2', 'behind its gateway, over the in-site segment')
    t.ok(cluster.caches.some(c => c.requests > 0), 'its requests went through the cache')
    t.equal(cluster.segment.mtuInner, 1500)
  })

  await t.test('what talks to the network has no privileges, and what has privileges no socket of the network', async t => {
    let talking = 0
    for (const { name, pod } of lab.hosts) {
      const ours = await ourProcesses(pod.pid, WORK_TREE)
      const [agentPid, helperPid] = [(await lab.agent(name))?.pid, (await lab.helper(name))?.pid]
      t.match(ours.find(one => one.pid === agentPid), { uid: AGENT_UID, capabilities: /^[0 ]+$/ }, `${name}: the agent`)
      t.match(ours.find(one => one.pid === helperPid), { uid: 0, sockets: [] }, `${name}: the helper`)
      t.strictSame(ours.filter(one => one.uid === 0 && one.sockets.length > 0).map(one => one.argv.join(' ')), [], `${name}: no other either`)
      talking += ours.filter(one => one.sockets.length > 0).length
    }
    t.ok(talking >= lab.hosts.length, 'agents do have sockets: they are looked at')
  })

  for (const host of [FAR, 'tsukuba-2', MASTER]) {
    await t.test(`kill -9 of the agent on ${host} disturbs nothing, and the next one adopts`, async t => {
      const before = await call<AgentStatus>(agent(lab, host), 'GET', '/v1/status')
      const running = await engines(lab, host)
      t.ok(running.length > 0, `something runs there: ${running.join(', ')}`)
      const leases = await call<LeaseResource[]>(agent(lab, host), 'GET', '/v1/leases')
      t.equal(await lab.killAgent(host), true)
      t.same(await engines(lab, host), running, 'without the agent everything goes on')
      const after = await adopted(lab, host, before)
      t.equal(after.epoch, before.epoch + 1)
      t.same(after.objects.map(o => `${o.kind} ${o.name}`).sort(), before.objects.map(o => `${o.kind} ${o.name}`).sort(), 'the same objects')
      t.same(await engines(lab, host), running, 'in the same processes')
      t.same((await call<LeaseResource[]>(agent(lab, host), 'GET', '/v1/leases')).map(l => [l.leaseId, l.state, l.token]), leases.map(l => [l.leaseId, l.state, l.token]), 'and the same leases')
    })
  }

  await t.test('the cluster is as it was', async t => {
    await waitForCluster(api, 'far', ['ready'], 60_000, signal, line => { t.comment(line) })
    const node = (await show()).nodes[0]
    t.match(await onNode(lab, MASTER, 'far', node?.name ?? '', ['hostname']), node?.name ?? 'no node')
  })

  await t.test('a guest that is destroyed behind our back is started again', async t => {
    const node = (await show()).nodes[0]
    const pod = lab.host('tsukuba-2').pod
    const name = (await pod.exec(['virsh', 'list', '--name'])).stdout.trim()
    t.match(name, /^mz-.*far-tsukuba-001$/)
    await pod.exec(['virsh', 'destroy', name])
    for (;;) {
      signal.throwIfAborted()
      if ((await pod.exec(['virsh', 'list', '--name'])).stdout.trim() === name) break
      await new Promise(resolve => { setTimeout(resolve, 500) })
    }
    t.ok(node)
  })

  await t.test('delete leaves nothing on any host', async t => {
    await call(api, 'DELETE', '/v1/clusters/far')
    await waitForCluster(api, 'far', ['deleted'], 90_000, signal, line => { t.comment(line) })
    t.same(await lab.leftovers(), [])
    for (const host of lab.hosts) t.same(await call<LeaseResource[]>(agent(lab, host.name), 'GET', '/v1/leases'), [], `${host.name} has no lease`)
  })

  await lab.stop()
  t.same(await lab.leftovers(), [], 'and the lab leaves nothing on this machine')
})
