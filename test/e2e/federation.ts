/** One lab with pretended drivers, and questions to its agents: what the end-to-end tests of negotiation share. */
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import type { Test } from 'tap'
import { call } from '../../cli/client.ts'
import type { LabSiteSpec } from '../../lab/config.ts'
import { startLab, type Lab } from '../../lab/lab.ts'
import { signalProcess, until } from '../../lab/process.ts'
import type { AgentStatus, ClusterResource, EventResource, LeaseResource, SiteResource } from '../../protocol/api.ts'

/** Three nodes of 1 vCPU fit at tokyo beside the frontend, two at tsukuba, one at osaka. */
export const SITES: readonly LabSiteSpec[] = [
  { name: 'tokyo', hosts: [{ name: 'tokyo-1', roles: ['gateway', 'compute'], vcpus: 3, memoryMiB: 4096, diskMiB: 0 }, { name: 'tokyo-2', roles: ['compute', 'storage'], vcpus: 1, memoryMiB: 2048, diskMiB: 200 }] },
  { name: 'tsukuba', hosts: [{ name: 'tsukuba-1', roles: ['gateway'], vcpus: 1, memoryMiB: 1024, diskMiB: 0 }, { name: 'tsukuba-2', roles: ['compute', 'storage'], vcpus: 2, memoryMiB: 2048, diskMiB: 100 }] },
  { name: 'osaka', hosts: [{ name: 'osaka-1', roles: ['gateway', 'compute'], vcpus: 1, memoryMiB: 2048, diskMiB: 0 }] }
]
export const HOSTS = SITES.flatMap(s => s.hosts.map(h => h.name))
/** A busy machine takes many times what this takes on a quiet one. */
export const PATIENCE_MS = 60_000

export interface Federation {
  lab: Lab
  get<T>(host: string, path: string): Promise<T>
  create (master: string, spec: object): Promise<ClusterResource>
  show (master: string, name: string): Promise<ClusterResource>
  remove (master: string, name: string): Promise<void>
  /** waits for one of the states */
  until (master: string, name: string, states: readonly string[]): Promise<ClusterResource>
  /** waits for an event of an agent; @returns all events of that text */
  event (host: string, text: RegExp): Promise<EventResource>
  /** live leases at all hosts, or those given: `host kind name state` */
  leases (hosts?: readonly string[]): Promise<string[]>
  /** what "runs" on hosts: `host kind name` */
  objects (hosts?: readonly string[]): Promise<string[]>
  /** waits until nothing is promised and nothing runs at the hosts */
  clean (hosts?: readonly string[]): Promise<void>
  /** ends every cluster, whatever a test has left */
  reset (): Promise<void>
  /** waits until every gateway and the coordinator see all sites as free as they are */
  views (): Promise<void>
  /** stops an agent's process in its tracks, or lets it go on */
  freeze (host: string, frozen: boolean): Promise<void>
  /** kill -9, and waits until the supervisor has started it again */
  restart (host: string): Promise<void>
}

export const spec = (name: string, count: number, more: { volumes?: object[], term?: string } = {}): object =>
  ({ apiVersion: 'musubi/v1', kind: 'Cluster', metadata: { name }, spec: { nodes: { count, vcpus: 1, memoryMiB: 512 }, ...more } })

/** Starts the lab; it ends with the test. */
export async function startFederation (t: Test): Promise<Federation> {
  const lab = await startLab({ sites: SITES, rttMs: 20, drivers: 'fake' })
  t.teardown(() => lab.stop())
  const at = (host: string): { socketPath: string, what: string } => ({ socketPath: lab.api(host), what: host })
  const get = <T>(host: string, path: string): Promise<T> => call<T>(at(host), 'GET', path)

  const f: Federation = {
    lab, get,
    create: (master, body) => call(at(master), 'POST', '/v1/clusters', body),
    show: (master, name) => get(master, `/v1/clusters/${name}`),
    remove: (master, name) => call(at(master), 'DELETE', `/v1/clusters/${name}`),
    async until (master, name, states) {
      let last = 'nothing yet'
      return await until(`cluster ${name} ${states.join(' or ')}`, PATIENCE_MS, async () => {
        const cluster = await f.show(master, name)
        last = `${cluster.state} ${cluster.error?.message ?? ''}`
        return states.includes(cluster.state) ? cluster : null
      }).catch((error: unknown) => { throw new Error(`${String(error)}: it is ${last}`) })
    },
    async event (host, text) {
      return await until(`event ${String(text)} at ${host}`, PATIENCE_MS, async () => (await get<EventResource[]>(host, '/v1/events')).find(e => text.test(e.message)))
    },
    async leases (hosts = HOSTS) {
      const all = await Promise.all(hosts.map(async host => (await get<LeaseResource[]>(host, '/v1/leases')).map(l => `${host} ${l.kind} ${l.name} ${l.state}`)))
      return all.flat().sort()
    },
    async objects (hosts = HOSTS) {
      const all = await Promise.all(hosts.map(async host => {
        const dir = lab.host(host).pod.path('/var/lib/musubi-helper/fake')
        const kinds = await readdir(dir).catch(() => [])
        const lists = await Promise.all(kinds.map(async kind => (await readdir(join(dir, kind))).filter(n => n.endsWith('.json')).map(n => `${host} ${kind} ${decodeURIComponent(n.slice(0, -5))}`)))
        return lists.flat()
      }))
      return all.flat().sort()
    },
    async clean (hosts = HOSTS) {
      let left: string[] = []
      await until('nothing is left', PATIENCE_MS, async () => {
        left = [...await f.leases(hosts), ...await f.objects(hosts)]
        return left.length === 0
      }, { everyMs: 50 }).catch((error: unknown) => { throw new Error(`${String(error)}: ${left.join(', ')}`) })
    },
    async reset () {
      await Promise.all(SITES.map(async ({ hosts: [gateway] }) => {
        const name = gateway?.name ?? ''
        const clusters = await get<ClusterResource[]>(name, '/v1/clusters')
        await Promise.all(clusters.map(c => f.remove(name, c.id)))
      }))
      await f.clean()
    },
    async views () {
      const total = (sites: readonly SiteResource[]): string => JSON.stringify(sites.map(s => [s.site, s.hosts, s.free.vcpus]))
      const want = JSON.stringify(SITES.map(s => [s.name, s.hosts.length, s.hosts.reduce((n, h) => n + h.vcpus, 0)]).sort())
      const seers = [...SITES.map(s => s.hosts[0]?.name ?? ''), 'coordinator']
      await until('every view shows everything free', PATIENCE_MS, async () => (await Promise.all(seers.map(async who => total(await get<SiteResource[]>(who, '/v1/sites'))))).every(seen => seen === want), { everyMs: 50 })
    },
    async freeze (host, frozen) {
      const process = await lab.agent(host)
      if (process === null || !signalProcess(process, frozen ? 'SIGSTOP' : 'SIGCONT')) throw new Error(`the agent of ${host} does not run`)
    },
    async restart (host) {
      if (!await lab.killAgent(host)) throw new Error(`the agent of ${host} did not run`)
      await until(`the next agent of ${host}`, PATIENCE_MS, async () => await lab.agent(host) !== null)
      await until(`the API of ${host}`, PATIENCE_MS, () => get<AgentStatus>(host, '/v1/status').then(() => true, () => false))
    }
  }
  return f
}
