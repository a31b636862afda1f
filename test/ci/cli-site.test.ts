/** From nothing to a site of two hosts by commands alone: coordinator, gateway and host are real processes. */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import t, { type Test } from 'tap'
import { stringify } from 'yaml'
import { run } from '../../agent/exec.ts'
import { call } from '../../cli/client.ts'
import type { AgentStatus, HostDetail, HostResource, InvitationResource, InvitedResource } from '../../protocol/api.ts'
import type { PolicyResource } from '../../protocol/policy-api.ts'
import { eventually } from '../model/federation.ts'
import { helperConfig, startHelperFor } from '../helper.ts'

const CLI = join(dirname(dirname(import.meta.dirname)), 'cli', 'main.ts')
const PATIENCE_MS = 60_000
const ENV = { ...process.env, NODE_OPTIONS: '' }

interface Place {
  dir: string
  /** runs a command to its end; with a host's name before it, at that host's socket */
  musubi: (at: string | null, ...args: string[]) => Promise<{ exitCode: number, stdout: string, stderr: string }>
  json: <T>(at: string, ...args: string[]) => Promise<T>
  /** asks the API itself: for what is asked again and again */
  get: <T>(at: string, path: string) => Promise<T>
  start: (name: string, ...args: string[]) => Promise<ChildProcess>
}

async function place (t: Test): Promise<Place> {
  const dir = await mkdtemp(join(tmpdir(), 'mzs-'))
  const children: ChildProcess[] = []
  t.teardown(async () => {
    await Promise.all(children.map(async child => {
      if (child.exitCode !== null || child.signalCode !== null) return
      const ended = once(child, 'exit')
      child.kill('SIGTERM')
      setTimeout(() => { child.kill('SIGKILL') }, 10_000).unref()
      await ended
    }))
    await rm(dir, { recursive: true, force: true })
  })
  const socketOf = (name: string): string => join(dir, `run-${name}`, name === 'main' ? 'coordinator.sock' : 'agent.sock')
  const musubi: Place['musubi'] = async (at, ...args) =>
    await run(process.execPath, [CLI, ...args, ...at === null ? [] : ['--socket', socketOf(at)]], { okCodes: [0, 1, 2, 3, 4], timeoutMs: PATIENCE_MS, env: { NODE_OPTIONS: '' } })
  return {
    dir, musubi,
    json: async <T>(at: string, ...args: string[]) => {
      const { exitCode, stdout, stderr } = await musubi(at, ...args, '--json')
      if (exitCode !== 0) throw new Error(`${args.join(' ')}: ${stderr}`)
      return JSON.parse(stdout) as T
    },
    get: async <T>(at: string, path: string) => await call<T>({ socketPath: socketOf(at), what: 'agent' }, 'GET', path),
    start: async (name, ...args) => {
      const child = spawn(process.execPath, [CLI, ...args, '-c', join(dir, `${name}.yaml`)], { env: ENV, stdio: ['ignore', 'pipe', 'pipe'] })
      children.push(child)
      let log = ''
      for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text: string) => { log = (log + text).slice(-4_000) })
      await eventually(`${name} is up`, () => {
        if (child.exitCode !== null) throw new Error(`${name} ended: ${log}`)
        return existsSync(socketOf(name))
      }, PATIENCE_MS).catch((error: unknown) => { throw new Error(`${String(error)}: ${log}`) })
      return child
    }
  }
}

t.setTimeout(180_000)
t.test('a coordinator, a site, a host: by tokens', { timeout: 170_000 }, async t => {
  const { dir, musubi, json, get, start } = await place(t)
  const ok = async (at: string | null, ...args: string[]): Promise<string> => {
    const { exitCode, stdout, stderr } = await musubi(at, ...args)
    t.equal(exitCode, 0, `musubi ${args.slice(0, 2).join(' ')} ${stderr}`)
    return stdout
  }
  const config = (name: string): string => join(dir, `${name}.yaml`)
  const common = (name: string): object => ({ name, stateDir: join(dir, name), runDir: join(dir, `run-${name}`), logLevel: 'warn' })
  const agent = (name: string, address: string, part: object): object => ({
    ...common(name), site: 'tokyo', listen: [`/ip4/${address}/tcp/4100`], underlayAddress: address, drivers: 'fake', helper: helperConfig(join(dir, name)), capacity: { vcpus: 4, memoryMiB: 8192, diskMiB: 1000 }, ...part
  })
  await writeFile(config('main'), stringify({ ...common('main'), listen: ['/ip4/127.43.7.1/tcp/4100'], http: { host: '127.43.7.1', port: 0 } }))
  await writeFile(config('gw1'), stringify(agent('gw1', '127.43.7.2', { roles: ['gateway', 'compute'], segmentIds: { from: 1000, to: 1999 } })))
  await writeFile(config('host2'), stringify(agent('host2', '127.43.7.3', { roles: ['compute'] })))

  const helpers = await Promise.all(['gw1', 'host2'].map(name => startHelperFor(config(name))))
  t.teardown(() => Promise.all(helpers.map(helper => helper.stop())))

  await ok(null, 'coordinator', 'init', '-c', config('main'))
  await start('main', 'coordinator', 'run')
  const { token: siteToken } = await json<{ token: string }>('main', 'coordinator', 'invite', 'tokyo')
  t.match(await ok(null, 'site', 'init', '--join', siteToken, '-c', config('gw1')), /tokyo\/gw1: certified as gateway/)
  await start('gw1', 'agent', 'run')

  const invited = await json<InvitedResource>('gw1', 'site', 'invite', '--role', 'compute', '--ttl', '30m', '--note', 'rack 4')
  t.match(await ok(null, 'agent', 'join', invited.token, '-c', config('host2')), /tokyo\/host2: joined as compute[^]*systemctl start musubi-agent/)
  t.match(await ok(null, 'agent', 'join', invited.token, '-c', config('host2')), /is a member already/)
  t.match(await get<InvitationResource[]>('gw1', '/v1/site/invitations'), [{ state: 'used', note: 'rack 4', used: { name: 'host2' } }])
  const credentials = await readFile(join(dir, 'host2', 'credentials.json'), 'utf8')
  await start('host2', 'agent', 'run')

  const hosts = async (at: string): Promise<string[]> => (await get<HostResource[]>(at, '/v1/hosts')).map(h => `${h.host} ${h.state} ${h.path ?? '-'}`)
  await eventually('both hosts see each other', async () => (await hosts('gw1')).join() === 'gw1 alive self,host2 alive direct' && (await hosts('host2')).join() === 'gw1 alive direct,host2 alive self', PATIENCE_MS)
  await eventually('host2 has heard its helper, and offers what it has', async () => (await json<HostDetail>('gw1', 'host', 'show', 'host2')).free.vcpus === 4, PATIENCE_MS)
  const detail = await json<HostDetail>('gw1', 'host', 'show', 'host2')
  t.match(detail, { host: 'host2', path: 'direct', certificate: { site: 'tokyo', name: 'host2', roles: ['compute'] }, promised: { vcpus: 0 }, total: { vcpus: 4 } })
  const status = await get<AgentStatus>('host2', '/v1/status')
  t.match(status, { certificate: { issuer: detail.certificate?.issuer, notAfterMs: detail.certificate?.notAfterMs }, peers: [{ name: 'tokyo/gw1', path: 'direct' }] })
  t.match(credentials, status.federation)

  t.match(await ok('gw1', 'host', 'cordon', 'host2', '--reason', 'new memory'), /host2 takes no new leases/)
  await eventually('the cordon is known', async () => (await get<HostResource[]>('gw1', '/v1/hosts')).some(h => h.host === 'host2' && h.cordoned), PATIENCE_MS)
  t.match(await get<AgentStatus>('host2', '/v1/status'), { cordoned: true, cordonReason: 'new memory' })
  t.match(await musubi('host2', 'host', 'cordon', 'gw1'), { exitCode: 1, stderr: /it can cordon itself only[^]*gw1/ })
  t.match(await ok('host2', 'host', 'uncordon', 'host2'), /takes leases/)

  await writeFile(join(dir, 'policy.yaml'), 'default: {longestLease: 8h}\nsites:\n  osaka: {deny: true, reason: no contract}\n')
  t.match(await ok('gw1', 'site', 'policy', 'set', '-f', join(dir, 'policy.yaml')), /version 1, is in force/)
  t.match(await get<PolicyResource>('gw1', '/v1/policy'), { version: 1, setBy: 'gw1', document: { sites: { osaka: { deny: true } } } })
  t.match(await ok('gw1', 'site', 'policy', 'get'), /^# policy of tokyo, version 1, set on gw1\n# this gateway has 100 % of every quota\n# osaka: nothing lent; no quota\ndefault:\n {2}longestLease: 8h/)
  t.match(await musubi('host2', 'site', 'policy', 'get'), { exitCode: 1, stderr: /no gateway[^]*run it on gw1/ })

  t.match(await ok('gw1', 'site', 'revoke', 'host2', '--reason', 'sold', '--yes'), /tokyo\/host2 \(12D3.*is revoked/)
  await eventually('it is put out', async () => (await get<AgentStatus>('gw1', '/v1/status')).peers.every(p => p.name !== 'tokyo/host2'), PATIENCE_MS)
  t.match(await ok('gw1', 'host', 'list'), /gw1/)
})
