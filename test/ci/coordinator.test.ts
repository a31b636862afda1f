/**
 * A coordinator as people run it, by the CLI and in processes of its own: it makes a federation,
 * invites, admits, is lost and comes back, is copied, and puts a site out. The gateways that come
 * are members of the mesh in this process. Needs no rights.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import t, { type Test } from 'tap'
import { stringify } from 'yaml'
import { run } from '../../agent/exec.ts'
import { call } from '../../cli/client.ts'
import { until } from '../../lab/process.ts'
import type { CoordinatorInvited, CoordinatorRevoked, CoordinatorSite, CoordinatorStatus, InvitationResource, SearchResult, SiteResource } from '../../protocol/api.ts'
import { createKey, peerIdOf, type NodeKey } from '../../protocol/mesh/identity.ts'
import { redeem } from '../../protocol/mesh/join/redeem.ts'
import { createMesh, type Mesh } from '../../protocol/mesh/mesh.ts'
import { createRecords } from '../../protocol/mesh/records.ts'
import { issue, type Chain } from '../../protocol/mesh/trust/certificate.ts'
import type { KnownPeer } from '../../protocol/mesh/trust/credentials.ts'
import { createTrust } from '../../protocol/mesh/trust/trust.ts'
import { freePort } from '../free-port.ts'

t.setTimeout(240_000)
const CLI = join(dirname(dirname(import.meta.dirname)), 'cli', 'main.ts')
const ENV = { NODE_OPTIONS: '' }
const PATIENCE_MS = 60_000
const ADDRESS = `127.${process.pid % 200 + 10}.${Math.floor(process.pid / 200) % 250}.3`
const now = (): number => Date.now()

interface Result { stdout: string, stderr: string, exitCode: number }
const musubi = (...args: string[]): Promise<Result> => run(process.execPath, [CLI, ...args], { okCodes: [0, 1, 2, 3, 4], timeoutMs: PATIENCE_MS, env: ENV })
/** A command that must succeed, and what it prints as JSON. */
async function ask<T> (...args: string[]): Promise<T> {
  const { stdout, stderr, exitCode } = await musubi(...args, '--json')
  if (exitCode !== 0) throw new Error(`musubi ${args.join(' ')} ended with ${exitCode}: ${stderr}`)
  return JSON.parse(stdout) as T
}

/** One coordinator: its files, its process, its API. */
class Place {
  readonly dir: string
  readonly config: string
  readonly socket: string
  readonly url: string
  #child: ChildProcess | null = null

  constructor (dir: string, httpPort: number) {
    this.dir = dir
    this.config = join(dir, 'coordinator.yaml')
    this.socket = join(dir, 'run', 'coordinator.sock')
    this.url = `http://${ADDRESS}:${httpPort}`
  }

  get state (): string { return join(this.dir, 'state') }
  get = async <T>(path: string): Promise<T> => await call<T>({ socketPath: this.socket, what: 'coordinator' }, 'GET', path)
  post = async <T>(path: string, body: object): Promise<T> => await call<T>({ socketPath: this.socket, what: 'coordinator' }, 'POST', path, body)

  async start (): Promise<void> {
    const child = spawn(process.execPath, [CLI, 'coordinator', 'run', '-c', this.config], { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...ENV } })
    let output = ''
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => { output = (output + chunk.toString()).slice(-4000) })
    this.#child = child
    await until('the coordinator answers', PATIENCE_MS, async () => {
      if (child.exitCode !== null) throw new Error(`the coordinator ended with ${child.exitCode}: ${output}`)
      return await this.get('/v1/status').then(() => true, () => false)
    }, { everyMs: 30 })
  }

  async end (signal: 'SIGTERM' | 'SIGKILL'): Promise<number | null> {
    const child = this.#child
    this.#child = null
    if (child === null) return null
    const exit = child.exitCode === null && child.signalCode === null ? once(child, 'exit') : Promise.resolve()
    child.kill(signal)
    await exit
    return child.exitCode
  }
}

async function place (t: Test, name?: string): Promise<Place> {
  // Short: unix sockets lie below it.
  const dir = await mkdtemp(join(tmpdir(), 'mzk-'))
  const [mesh, http] = [await freePort(ADDRESS), await freePort(ADDRESS)]
  const made = new Place(dir, http)
  await writeFile(made.config, stringify({
    ...(name === undefined ? {} : { name }), stateDir: made.state, runDir: join(dir, 'run'), listen: [`/ip4/${ADDRESS}/tcp/${mesh}`], joinListen: [`/ip4/${ADDRESS}/tcp/0`], http: { host: ADDRESS, port: http }
  }))
  t.teardown(async () => {
    await made.end('SIGKILL')
    await rm(dir, { recursive: true, force: true })
  })
  return made
}

interface Site { name: string, key: NodeKey, chain: Chain, federation: string, peers: readonly KnownPeer[] }

async function joinSite (name: string, token: string, siteKey?: NodeKey): Promise<Site> {
  const key = siteKey ?? await createKey()
  const joined = await redeem(token, { key: await createKey(), name, siteKey: key, now, signal: AbortSignal.timeout(PATIENCE_MS) })
  if (joined.kind !== 'site') throw new Error('the token was for a host')
  return { name, key, chain: joined.siteChain, federation: joined.federation, peers: joined.peers }
}

/** A gateway in this process that says what its site has. */
async function gateway (t: Test, site: Site, vcpus: number): Promise<Mesh> {
  const key = await createKey()
  const peerId = peerIdOf(key)
  const own = issue(site.key, { federation: site.federation, kind: 'host', subject: peerId, site: site.name, name: `${site.name}-gw`, roles: ['gateway'], segmentIds: { from: 10, to: 20 } }, now())
  const trust = createTrust({ peerId, federation: site.federation, chain: [own, ...site.chain], now })
  const mesh = await createMesh({ key, trust, listen: [`/ip4/${ADDRESS}/tcp/0`], peers: site.peers })
  const records = createRecords({ mesh, epoch: 1 })
  t.teardown(async () => {
    records.stop()
    await mesh.close()
  })
  await mesh.start()
  const free = { vcpus, memoryMib: 4096, diskMib: 0, volumes: 0, bandwidthMbit: 0 }
  records.publish('site', {
    site: site.name, gateway: `${site.name}-gw`, addresses: mesh.addresses(), hosts: 1, total: free, free, freeByHost: [free], volumeFreeMib: 0,
    version: '1', features: [], roles: ['gateway', 'compute'], priceMilli: 0, maxTermMs: 0, relay: false, tunnel: []
  })
  return mesh
}

t.test('a federation and its coordinators', async t => {
  const main = await place(t)
  const socket = ['--socket', main.socket]

  // --- init -----------------------------------------------------------------
  t.match(await musubi('coordinator', 'run', '-c', main.config), { exitCode: 2, stderr: /no coordinator.*\n.*coordinator init/ })
  const made = await ask<{ federation: string, peerId: string, made: boolean }>('coordinator', 'init', '-c', main.config, '--name', 'main')
  t.match(made, { made: true, federation: /^12D3Koo/, peerId: /^12D3Koo/ })
  const [again] = await Promise.all([musubi('coordinator', 'init', '-c', main.config), main.start()])
  t.match(again, { exitCode: 0, stdout: new RegExp(`main: is there already[^]*${made.federation}[^]*${made.peerId}[^]*next`) })

  // --- invitations ----------------------------------------------------------
  const invited = await ask<CoordinatorInvited>('coordinator', 'invite', 'tokyo', '--ttl', '10m', ...socket)
  t.match(invited, { site: 'tokyo', token: /^musubi-/ })
  t.ok(Math.abs(invited.expiresAt - now() - 600_000) < PATIENCE_MS)
  const [osaka, kyoto] = [await main.post<CoordinatorInvited>('/v1/invitations', { site: 'osaka' }), await main.post<CoordinatorInvited>('/v1/invitations', { site: 'kyoto' })]
  t.match(await musubi('coordinator', 'invite', '--withdraw', kyoto.id, ...socket), { exitCode: 0, stdout: /kyoto: withdrawn/ })
  t.match(await call({ socketPath: main.socket, what: 'coordinator' }, 'DELETE', `/v1/invitations/${kyoto.id}`), { state: 'withdrawn' }, 'again')
  const listed = await musubi('coordinator', 'invitations', '--json', ...socket)
  t.same((JSON.parse(listed.stdout) as InvitationResource[]).map(i => `${i.site} ${i.state}`).sort(), ['kyoto withdrawn', 'osaka open', 'tokyo open'])
  const status = await main.get<CoordinatorStatus>('/v1/status')
  t.match(status, { name: 'main', federation: made.federation, invitations: 2, revocations: 0, joinAddresses: [new RegExp(ADDRESS.replaceAll('.', '\\.'))] })
  for (const { token } of [invited, osaka, kyoto]) t.notOk(listed.stdout.includes(token.slice(20, 60)), 'no secret in the list')

  // --- TCP reads, and decides nothing ---------------------------------------
  const tcp = { url: main.url, what: 'coordinator' }
  t.match(await call(tcp, 'GET', '/v1/status'), { name: 'main' })
  for (const [method, path] of [['POST', '/v1/invitations'], ['GET', '/v1/invitations'], ['POST', '/v1/revocations'], ['DELETE', `/v1/invitations/${osaka.id}`], ['POST', '/v1/export']] as const) {
    await t.rejects(call(tcp, method, path, method === 'GET' ? undefined : { site: 'tokyo' }), { code: 'FORBIDDEN', hint: /unix socket/ }, `${method} ${path}`)
  }

  // --- joining --------------------------------------------------------------
  await t.rejects(joinSite('kyoto', kyoto.token), { code: 'TOKEN_WITHDRAWN' })
  await t.rejects(joinSite('nara', invited.token), { code: 'NAME_NOT_INVITED' })
  const tokyoSite = await joinSite('tokyo', invited.token)
  await t.rejects(joinSite('tokyo', invited.token), { code: 'TOKEN_USED' })
  t.match(await main.get<CoordinatorSite[]>('/v1/admissions'), [{ site: 'tokyo', state: 'never seen', key: peerIdOf(tokyoSite.key), admittedHere: true }])
  const osakaSite = await joinSite('osaka', osaka.token)
  const [tokyo, osakaGateway] = [await gateway(t, tokyoSite, 8), await gateway(t, osakaSite, 2)]
  const alive = (at: Place, states: Record<string, string>): Promise<unknown> => until(`sites ${JSON.stringify(states)}`, PATIENCE_MS, async () => {
    const sites = await at.get<CoordinatorSite[]>('/v1/admissions').catch(() => [])
    return Object.entries(states).every(([site, state]) => sites.some(s => s.site === site && s.state === state && (s.state !== 'alive' || s.hosts === 1)))
  }, { everyMs: 30 })
  await alive(main, { tokyo: 'alive', osaka: 'alive' })
  t.match(await musubi('coordinator', 'sites', ...socket), { exitCode: 0, stdout: /osaka +alive +1 +2\/2[^]*tokyo +alive +1 +8\/8.*tokyo-gw direct/ })
  t.match(await call<SearchResult>(tcp, 'POST', '/v1/search', { nodes: 1, vcpus: 4, memoryMib: 1024 }), { fits: true })
  await until('the listener for joins is closed', PATIENCE_MS, async () => (await main.get<CoordinatorStatus>('/v1/status')).invitations === 0, { everyMs: 30 })

  // --- lost, and back with an empty store -----------------------------------
  const exported = join(main.dir, 'export.json')
  const exportRun = await musubi('coordinator', 'export', '-c', main.config, '--out', exported)
  t.match(exportRun, { exitCode: 0, stdout: /2 sites/, stderr: /warning: .*coordinator key in the clear/ })
  t.equal((await stat(exported)).mode & 0o777, 0o600)
  await main.end('SIGKILL')
  await rm(join(main.state, 'store'), { recursive: true })
  await main.start()
  await alive(main, { tokyo: 'alive', osaka: 'alive' })
  const afterLoss = await main.get<SiteResource[]>('/v1/sites')
  t.same(afterLoss.map(s => [s.site, s.free.vcpus]), [['osaka', 2], ['tokyo', 8]], 'the index is whole')
  t.match(await main.get<CoordinatorSite[]>('/v1/admissions'), [{ site: 'osaka', admittedHere: false }, { site: 'tokyo', key: peerIdOf(tokyoSite.key) }], 'who was admitted by whom went with the store')
  // names are not given twice by a coordinator that has forgotten them
  const taken = await main.post<CoordinatorInvited>('/v1/invitations', { site: 'osaka' })
  await t.rejects(joinSite('osaka', taken.token), { code: 'NAME_TAKEN' })

  // --- another coordinator of the federation --------------------------------
  const second = await place(t, 'second')
  const copy = await ask<{ peerId: string, federation: string }>('coordinator', 'import', exported, '-c', second.config, '--new')
  t.equal(copy.federation, made.federation)
  t.not(copy.peerId, made.peerId)
  await second.start()
  await alive(second, { tokyo: 'alive', osaka: 'alive' })
  t.match(await second.get<CoordinatorSite[]>('/v1/admissions'), [{ site: 'osaka', admittedHere: true }, { site: 'tokyo', admittedHere: true }])
  await t.rejects(joinSite('nara', (await second.post<CoordinatorInvited>('/v1/invitations', { site: 'nara' })).token.replace(/.$/, c => c === 'A' ? 'B' : 'A')), { code: 'INVALID_INPUT' })
  t.equal((await gateway(t, await joinSite('nara', (await second.post<CoordinatorInvited>('/v1/invitations', { site: 'nara' })).token), 1)).role.kind, 'host')
  await alive(main, { nara: 'alive' })

  // --- out ------------------------------------------------------------------
  const [unsure, unknown] = await Promise.all([['osaka'], ['kobe', '--yes']].map(args => musubi('coordinator', 'revoke', ...args, ...socket)))
  t.match(unsure, { exitCode: 2, stderr: /--yes/ })
  t.match(unknown, { exitCode: 1, stderr: /no site kobe[^]*known are nara, osaka, tokyo/ })
  const revoked = await ask<CoordinatorRevoked>('coordinator', 'revoke', 'osaka', '--reason', 'sold', '--yes', ...socket)
  t.match(revoked, { site: 'osaka', key: peerIdOf(osakaSite.key), already: false, withdrawn: [taken.id] })
  t.match(await second.post<CoordinatorRevoked>('/v1/revocations', { site: 'tokyo', reason: 'also' }), { already: false })
  await alive(main, { osaka: 'revoked', tokyo: 'revoked', nara: 'alive' })
  await alive(second, { osaka: 'revoked', tokyo: 'revoked', nara: 'alive' })
  t.match(await main.post<CoordinatorRevoked>('/v1/revocations', { site: 'tokyo' }), { already: true, reason: 'also' })
  await until('connections of the revoked are closed', PATIENCE_MS, () => Promise.resolve(tokyo.connected().length + osakaGateway.connected().length === 0), { everyMs: 30 })
  t.same((await main.get<SiteResource[]>('/v1/sites')).map(s => s.site), ['nara'])
  t.same(await readFile(join(main.state, 'audit.log'), 'utf8').then(text => [...new Set(text.trimEnd().split('\n').map(line => (JSON.parse(line) as { act: string }).act))].sort()), ['export', 'init', 'invite', 'redeem', 'revoke', 'withdraw'])

  // --- what is kept over a restart ------------------------------------------
  t.equal(await main.end('SIGTERM'), 0)
  await main.start()
  t.equal((await main.get<CoordinatorStatus>('/v1/status')).revocations, 2)
  await alive(main, { osaka: 'revoked', tokyo: 'revoked', nara: 'alive' })
  const metrics = await (await fetch(`${main.url}/metrics`)).text()
  t.match(metrics, /^musubi_revocations 2$/m)
  t.match(metrics, /^musubi_sites\{state="alive"\} 1$/m)
  await until('a revoked site is refused and counted', PATIENCE_MS, async () => (await (await fetch(`${main.url}/metrics`)).text()).match(/^musubi_admission_refusals_total\{by="us",code="CERTIFICATE_REVOKED"\} [1-9]/m) !== null, { everyMs: 100 })
  t.match(await musubi('coordinator', 'status', ...socket), { exitCode: 0, stdout: /main .*[^]*revocations +2[^]*refused +by us: .*CERTIFICATE_REVOKED/ })
  t.equal(await second.end('SIGTERM'), 0)
})
