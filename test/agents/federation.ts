/**
 * Sites of real agents with pretended drivers on loopback, each agent in a process of its own with
 * its store on a real disk, beside a helper in this process. They are members by certificates written beforehand; needs no rights.
 */
import { mkdir, mkdtemp, rm, statfs, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { privateKeyToProtobuf } from '@libp2p/crypto/keys'
import type { SiteResource } from '../../protocol/api.ts'
import type { HostRoleName } from '../../protocol/mesh/roles.ts'
import { writeCredentials, writePrivateFile, type KnownPeer } from '../../protocol/mesh/trust/credentials.ts'
import { helperConfig } from '../helper.ts'
import { createKit, type Kit } from '../trust-kit.ts'
import { RealAgent } from './agent.ts'

export interface HostPlan { name: string, roles: readonly HostRoleName[], vcpus: number, memoryMiB: number, diskMiB: number, quotaPercent?: number }
export interface SitePlan { name: string, hosts: readonly HostPlan[] }

export interface RealFederation {
  readonly dir: string
  readonly kit: Kit
  readonly agents: readonly RealAgent[]
  /** @throws Error for a name that is not in the plan */
  agent (name: string): RealAgent
  /** Starts all that do not run and waits until every gateway sees all sites with all hosts alive. */
  start (): Promise<void>
  /** Ends every process and removes the files. */
  close (): Promise<void>
}

const MESH_PORT = 4100
const PATIENCE_MS = 90_000
/** f_type of file systems that keep nothing over a power cut: a sync to them costs nothing. */
const IN_MEMORY = new Set([0x01021994, 0x858458f6])

/** A folder on a disk; a short path, as unix sockets lie below it. @throws Error where there is none */
export async function diskFolder (prefix: string): Promise<string> {
  for (const place of [tmpdir(), '/var/tmp', join(import.meta.dirname, '..', '..', '.cache')]) {
    await mkdir(place, { recursive: true })
    if (!IN_MEMORY.has((await statfs(place)).type)) return await mkdtemp(join(place, prefix))
  }
  throw new Error('no folder here is on a disk: all are held in memory')
}

/** Waits for a condition. @throws Error naming it, with what was last the matter */
export async function until (what: string, check: () => Promise<boolean> | boolean, withinMs = PATIENCE_MS, everyMs = 50): Promise<void> {
  for (const end = performance.now() + withinMs; !await check();) {
    if (performance.now() > end) throw new Error(`${what}: not within ${withinMs} ms`)
    await sleep(everyMs)
  }
}

/** Writes keys, certificates and configurations; nothing runs yet. @param config additions to every agent's configuration */
export async function makeFederation (sites: readonly SitePlan[], config: Readonly<Record<string, unknown>> = {}): Promise<RealFederation> {
  const dir = await diskFolder('mza-')
  const net = `127.${1 + Math.floor(Math.random() * 250)}.${Math.floor(Math.random() * 250)}`
  const all = sites.flatMap((site, s) => site.hosts.map((host, h) => ({ ...host, site: site.name, s, h })))
  const slice = (s: number, h: number): { from: number, to: number } => ({ from: 1000 * (s + 1) + 100 * h, to: 1000 * (s + 1) + 100 * h + 99 })
  const kit = await createKit({ sites: sites.map((site, s) => ({ name: site.name, hosts: site.hosts.map(({ name, roles, quotaPercent = 0 }, h) => ({ name, roles, quotaPercent, ...(roles.includes('gateway') ? { segmentIds: slice(s, h) } : {}) })) })) })
  const placed = all.map((host, n) => ({ ...host, address: `${net}.${n + 1}`, member: kit.member(`${host.site}/${host.name}`) }))
  const isGateway = (host: HostPlan): boolean => host.roles.includes('gateway')
  const agents = await Promise.all(placed.map(async host => {
    const folder = join(dir, host.name)
    const state = join(folder, 'state')
    await mkdir(state, { recursive: true, mode: 0o700 })
    // as after joining: a host knows the gateways of its site, a gateway those of the others too
    const peers: KnownPeer[] = placed.filter(other => other !== host && isGateway(other) && (other.site === host.site || isGateway(host)))
      .map(other => ({ peerId: other.member.peerId, addresses: [`/ip4/${other.address}/tcp/${MESH_PORT}`], chain: other.member.chain }))
    await writePrivateFile(join(state, 'key'), privateKeyToProtobuf(host.member.key))
    await writeCredentials(join(state, 'credentials.json'), { federation: kit.federation, chain: host.member.chain, peers })
    await writeFile(join(folder, 'agent.yaml'), JSON.stringify({
      name: host.name, site: host.site, roles: host.roles, stateDir: state, runDir: join(folder, 'run'), listen: [`/ip4/${host.address}/tcp/${MESH_PORT}`],
      // only told to others: pretended drivers use no address, and one of loopback would be refused
      underlayAddress: `10.99.${host.s + 1}.${host.h + 1}`,
      imageStore: join(dir, 'images'), capacity: { vcpus: host.vcpus, memoryMiB: host.memoryMiB, diskMiB: host.diskMiB }, accelerator: 'tcg', drivers: 'fake', helper: helperConfig(folder), logLevel: 'info',
      ...(isGateway(host) ? { segmentIds: slice(host.s, host.h) } : {}), ...config
    }))
    return new RealAgent({ site: host.site, name: host.name, peerId: host.member.peerId, gateway: isGateway(host), address: host.address, dir: folder, env: { CACHE_DIRECTORY: join(dir, 'cache') } })
  }))
  const shoot = (): void => { for (const agent of agents) agent.shoot() }
  process.once('exit', shoot)
  const complete = async (agent: RealAgent): Promise<boolean> => {
    const seen = await agent.get<SiteResource[]>('/v1/sites').catch(() => [])
    return sites.every(site => seen.some(s => s.site === site.name && s.state === 'alive' && s.hosts === site.hosts.length && s.free.vcpus === s.total.vcpus))
  }
  return {
    dir, kit, agents,
    agent: name => {
      const found = agents.find(a => a.name === name)
      if (found === undefined) throw new Error(`there is no host ${name}; there are ${agents.map(a => a.name).join(', ')}`)
      return found
    },
    start: async () => {
      await Promise.all(agents.map(async agent => { await agent.startHelper() }))
      const [first, ...others] = agents.filter(agent => !agent.running)
      // alone: the others find its compiled modules
      await first?.start()
      await Promise.all(others.map(async agent => { await agent.start() }))
      await Promise.all(agents.filter(a => a.gateway).map(async agent => { await until(`${agent.name} sees all sites whole`, async () => await complete(agent)) }))
    },
    close: async () => {
      await Promise.all(agents.map(async agent => { await agent.end('SIGKILL'); await agent.endHelper() }))
      process.removeListener('exit', shoot)
      await rm(dir, { recursive: true, force: true })
    }
  }
}
