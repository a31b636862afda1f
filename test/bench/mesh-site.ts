/** A site of real agents with fake drivers on loopback, each in a process of its own, for benches. */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, mkdtemp, open, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { privateKeyToProtobuf } from '@libp2p/crypto/keys'
import { call } from '../../cli/client.ts'
import { describeError } from '../../protocol/core/errors.ts'
import type { HostResource } from '../../protocol/api.ts'
import type { HostRoleName } from '../../protocol/mesh/roles.ts'
import { writeCredentials, writePrivateFile } from '../../protocol/mesh/trust/credentials.ts'
import { createKit } from '../trust-kit.ts'
import { helperConfig, startHelperFor } from '../helper.ts'
import type { Helper } from '../../agent/helper/helper.ts'

const LAUNCHER = fileURLToPath(new URL('../../packaging/musubi', import.meta.url))
const MESH_PORT = 4100
const START_TIMEOUT_MS = 120_000

export interface SiteAgent {
  readonly name: string
  readonly socket: string
  /** its process; null while it does not run */
  process: ChildProcess | null
}

export interface BenchSite {
  readonly agents: readonly SiteAgent[]
  /** Starts an agent and does not wait for it. @param args between the launcher and `agent run` */
  start (agent: SiteAgent, env?: Readonly<Record<string, string>>): Promise<number>
  /** SIGTERM, and waits for its end */
  stop (agent: SiteAgent): Promise<void>
  /** what an agent answers to `host list`; null while it does not answer */
  hosts (agent: SiteAgent): Promise<HostResource[] | null>
  /** Waits until an agent lists every host of the site as alive. @throws Error with the end of its log */
  complete (agent: SiteAgent, count?: number): Promise<void>
  log (agent: SiteAgent): Promise<string>
  close (): Promise<void>
}

/** Writes keys, certificates and configurations of a site; nothing runs yet. The first `gateways` hosts are gateways. */
export async function makeSite (size: number, gateways = 2): Promise<BenchSite> {
  const dir = await mkdtemp(join(tmpdir(), 'musubi-bench-'))
  const net = `127.${1 + Math.floor(Math.random() * 250)}.${Math.floor(Math.random() * 250)}`
  const names = Array.from({ length: size }, (_, n) => `h${n}`)
  const rolesOf = (n: number): HostRoleName[] => n < gateways ? ['gateway', 'compute'] : ['compute']
  const kit = await createKit({ sites: [{ name: 'tokyo', hosts: names.map((name, n) => ({ name, roles: rolesOf(n) })) }] })
  const addressOf = (n: number): string => `/ip4/${net}.${n + 1}/tcp/${MESH_PORT}`
  const folder = (name: string): string => join(dir, name)
  const remembered = names.slice(0, gateways).map((name, n) => {
    const { peerId, chain } = kit.member(`tokyo/${name}`)
    return { peerId, addresses: [addressOf(n)], chain }
  })
  await Promise.all(names.map(async (name, n) => {
    const { key, chain, peerId } = kit.member(`tokyo/${name}`)
    const state = join(folder(name), 'state')
    await mkdir(state, { recursive: true, mode: 0o700 })
    await writePrivateFile(join(state, 'key'), privateKeyToProtobuf(key))
    await writeCredentials(join(state, 'credentials.json'), { federation: kit.federation, chain, peers: remembered.filter(peer => peer.peerId !== peerId) })
    await writeFile(join(folder(name), 'agent.yaml'), JSON.stringify({
      name, site: 'tokyo', roles: rolesOf(n), stateDir: state, runDir: join(folder(name), 'run'), listen: [addressOf(n)], underlayAddress: `${net}.${n + 1}`,
      imageStore: join(dir, 'images'), capacity: { vcpus: 16, memoryMiB: 65_536, diskMiB: 100_000 }, accelerator: 'tcg', drivers: 'fake', helper: helperConfig(folder(name)), logLevel: 'info',
      ...(n < gateways ? { segmentIds: { from: 1000 + 100 * n, to: 1099 + 100 * n } } : {})
    }))
  }))
  const agents = names.map((name): SiteAgent => ({ name, socket: join(folder(name), 'run', 'agent.sock'), process: null }))

  const log = async ({ name }: SiteAgent): Promise<string> => await readFile(join(folder(name), 'log'), 'utf8').catch(() => '')
  const hosts = async ({ socket }: SiteAgent): Promise<HostResource[] | null> => {
    try {
      return await call<HostResource[]>({ socketPath: socket, what: 'agent' }, 'GET', '/v1/hosts')
    } catch {
      return null
    }
  }
  const stop = async (agent: SiteAgent): Promise<void> => {
    const { process } = agent
    agent.process = null
    if (process === null || process.exitCode !== null || process.signalCode !== null) return
    const gone = once(process, 'exit')
    process.kill('SIGTERM')
    await Promise.race([gone, sleep(10_000).then(() => { process.kill('SIGKILL') })])
    await gone
  }
  process.on('exit', () => { for (const agent of agents) agent.process?.kill('SIGKILL') })
  const helpers = new Map<string, Helper>()
  return {
    agents,
    start: async (agent, env = {}) => {
      if (!helpers.has(agent.name)) helpers.set(agent.name, await startHelperFor(join(folder(agent.name), 'agent.yaml')))
      const file = await open(join(folder(agent.name), 'log'), 'a')
      // the launcher replaces itself by the agent: the id is the agent's
      const child = spawn(LAUNCHER, ['agent', 'run', '--config', join(folder(agent.name), 'agent.yaml')], {
        env: { ...process.env, NODE_OPTIONS: '', CACHE_DIRECTORY: join(dir, 'cache'), ...env }, stdio: ['ignore', file.fd, file.fd]
      })
      child.once('error', error => { process.stderr.write(`${LAUNCHER}: ${describeError(error)}\n`) })
      await file.close()
      agent.process = child
      return child.pid ?? 0
    },
    stop,
    hosts,
    complete: async (agent, count = size) => {
      for (const end = performance.now() + START_TIMEOUT_MS; ;) {
        const found = await hosts(agent)
        if (found !== null && found.filter(({ state }) => state === 'alive').length >= count) return
        if (performance.now() > end) throw new Error(`${agent.name} lists ${found?.length ?? 'nothing'} of ${count} hosts; its log: ${(await log(agent)).split('\n').slice(-6).join('\n')}`)
        await sleep(5)
      }
    },
    log,
    close: async () => {
      await Promise.all(agents.map(stop))
      await Promise.all([...helpers.values()].map(async helper => { await helper.stop() }))
      await rm(dir, { recursive: true, force: true })
    }
  }
}
