/**
 * The CLI as people use it: a coordinator and two agents with pretended drivers, set up by hand from
 * `coordinator init` on by tokens, on the loopback. Needs no rights.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import t, { type Test } from 'tap'
import { stringify } from 'yaml'
import { run } from '../../agent/exec.ts'
import type { Helper } from '../../agent/helper/helper.ts'
import { call } from '../../cli/client.ts'
import { until } from '../../lab/process.ts'
import type { ClusterResource, HostResource, SiteResource } from '../../protocol/api.ts'
import { PATIENCE_MS, spec } from './federation.ts'
import { freePort } from '../free-port.ts'
import { helperConfig, startHelperFor } from '../helper.ts'

t.setTimeout(300_000)
const CLI = join(dirname(dirname(import.meta.dirname)), 'cli', 'main.ts')
const ENV = { NODE_OPTIONS: '' }

interface Result { stdout: string, stderr: string, exitCode: number }

/** Runs the CLI to its end, whatever that is. */
const musubi = (...args: string[]): Promise<Result> => run(process.execPath, [CLI, ...args], { okCodes: [0, 1, 2, 3, 4], timeoutMs: PATIENCE_MS, env: ENV })

interface Place { dir: string, socket: string, other: string, coordinator: string, url: string, config: string, file: (name: string, content: string | object) => Promise<string>, daemons: Map<string, ChildProcess>, helpers: Helper[], otherConfig: string }

async function startPlace (t: Test): Promise<Place> {
  // Short: unix sockets lie below it.
  const dir = await mkdtemp(join(tmpdir(), 'mzc-'))
  const daemons = new Map<string, ChildProcess>()
  const helpers: Helper[] = []
  t.teardown(async () => {
    await Promise.all([...daemons.values()].map(async child => {
      if (child.exitCode !== null || child.signalCode !== null) return
      child.kill('SIGKILL')
      await once(child, 'exit')
    }))
    await Promise.all(helpers.map(async helper => { await helper.stop() }))
    await rm(dir, { recursive: true, force: true })
  })
  const file = async (name: string, content: string | object): Promise<string> => {
    const path = join(dir, name)
    await mkdir(dirname(path), { recursive: true })
    await writeFile(path, typeof content === 'string' ? content : stringify(content))
    return path
  }
  const address = `127.${process.pid % 200 + 10}.${Math.floor(process.pid / 200) % 250}.1`
  const ports = [await freePort(address), await freePort(address), await freePort(address), await freePort(address)]
  const listen = (i: number): string[] => [`/ip4/${address}/tcp/${ports[i] ?? 0}`]
  const common = (name: string): object => ({ stateDir: join(dir, name), runDir: join(dir, name, 'run') })
  const agent = (name: string, i: number, roles: string[], more: object = {}): object => ({
    name, site: 'kyoto', roles, listen: listen(i), underlayAddress: `192.0.2.${i + 1}`, capacity: { vcpus: 2, memoryMiB: 4096, diskMiB: 100 }, drivers: 'fake', helper: helperConfig(join(dir, name)), ...common(name), ...more
  })
  const configs = {
    gw: await file('gw.yaml', agent('gw', 0, ['gateway', 'compute'], { segmentIds: { from: 10, to: 20 } })),
    c1: await file('c1.yaml', agent('c1', 1, ['compute', 'storage'])),
    main: await file('main.yaml', { name: 'main', listen: listen(2), http: { host: address, port: ports[3] }, ...common('main') })
  }
  const start = (kind: string, name: keyof typeof configs): void => {
    daemons.set(name, spawn(process.execPath, [CLI, kind, 'run', '-c', configs[name]], { stdio: 'ignore', env: { ...process.env, ...ENV } }))
  }
  for (const config of [configs.gw, configs.c1]) helpers.push(await startHelperFor(config))
  const place = { dir, file, daemons, helpers, otherConfig: configs.c1, config: configs.gw, socket: join(dir, 'gw/run/agent.sock'), other: join(dir, 'c1/run/agent.sock'), coordinator: join(dir, 'main/run/coordinator.sock'), url: `http://${address}:${ports[3] ?? 0}` }
  const answers = async (socketPath: string): Promise<unknown> => await until(`an answer at ${socketPath}`, PATIENCE_MS, async () => await call({ socketPath, what: 'agent' }, 'GET', '/v1/status').catch(() => null), { everyMs: 50 })
  const said = async (...args: string[]): Promise<{ token: string }> => {
    const { stdout, stderr, exitCode } = await musubi(...args, '--json')
    if (exitCode !== 0) throw new Error(`musubi ${args.join(' ')}: ${stderr}`)
    return JSON.parse(stdout) as { token: string }
  }
  await said('coordinator', 'init', '-c', configs.main)
  start('coordinator', 'main')
  await answers(place.coordinator)
  const { token: siteToken } = await said('coordinator', 'invite', 'kyoto', '--socket', place.coordinator)
  await said('site', 'init', '--join', siteToken, '-c', configs.gw)
  start('agent', 'gw')
  await answers(place.socket)
  const { token } = await said('site', 'invite', '--role', 'compute,storage', '--socket', place.socket)
  await said('agent', 'join', token, '-c', configs.c1)
  start('agent', 'c1')
  await until('all of it', PATIENCE_MS, async () => {
    const ask = <T>(socketPath: string, path: string): Promise<T[]> => call<T[]>({ socketPath, what: 'agent' }, 'GET', path).catch(() => [])
    const [hosts, others, sites] = await Promise.all([ask<HostResource>(place.socket, '/v1/hosts'), ask<HostResource>(place.other, '/v1/hosts'), ask<SiteResource>(place.coordinator, '/v1/sites')])
    // a host offers nothing before it has heard its helper
    return hosts.length === 2 && others.length === 2 && [...hosts, ...others].every(({ free }) => free.vcpus > 0) && sites[0]?.hosts === 2
  }, { everyMs: 50 })
  return place
}

t.test('help, usage and completion need nobody', async t => {
  const [help, ...groups] = await Promise.all([['--help'], ['cluster', 'create', '--help'], ['cluster', 'ssh', '--help'], ['search', '--help'], ['agent', '--help'], ['coordinator', 'search', '--help']].map(args => musubi(...args)))
  t.match(help, { exitCode: 0, stderr: '', stdout: /Examples:[^]*musubi cluster create -f cluster\.yaml[^]*Exit codes: 0 done, 1 .*, 2 .*, 3 .*, 4 / })
  for (const name of ['agent', 'cluster', 'coordinator', 'host', 'image', 'lease', 'search', 'segment', 'cache', 'events', 'completion']) t.match(help?.stdout, new RegExp(`^  ${name}`, 'm'))
  for (const [i, example] of ['musubi cluster create -f demo.yaml --dry-run', 'musubi cluster ssh demo demo-tokyo-001 -- uname -a', 'musubi search --nodes', 'run', 'musubi coordinator search --nodes'].entries()) {
    t.match(groups[i], { exitCode: 0, stderr: '' })
    t.ok(groups[i]?.stdout.includes(example), example)
  }
  const wrong = await Promise.all([[], ['clustre'], ['cluster', 'list', '--colour'], ['cluster', 'create'], ['cluster', 'show'], ['cluster', 'show', 'a', 'b']].map(args => musubi(...args)))
  for (const result of wrong) t.match(result, { exitCode: 2, stdout: '', stderr: /\S/ })
  t.match(wrong[1]?.stderr, /unknown command[^]*--help/)
  t.match(wrong[3]?.stderr, /--file/)
  t.match(await musubi('--version'), { exitCode: 0, stdout: /^\d+\.\d+\.\d+\n$/ })
  const { stdout } = await musubi('completion')
  t.match(stdout, /complete .*musubi/)
  t.match(await run('bash', ['-n'], { input: stdout }), { exitCode: 0, stderr: '' })
  const words = await run('bash', ['-c', `${stdout}\nCOMP_WORDS=(musubi cluster ""); COMP_CWORD=2; _musubi; echo "\${COMPREPLY[*]}"`])
  t.match(words.stdout, /create list show delete plan accept extend scale retry adopt ssh/)
})

t.test('nobody answers: 4, with the place and the next step; what is wrong already here: 2', async t => {
  const dir = t.testdir({ 'spec.yaml': stringify(spec('demo', 1)), 'broken.yaml': 'a: [', 'agent.yaml': 'name: gw\ncolour: red\n' })
  const nobody = await Promise.all([
    musubi('host', 'list'), musubi('host', 'list', '--socket', '/no/such.sock'), musubi('coordinator', 'sites', '--url', 'http://127.0.0.1:1'),
    musubi('cluster', 'create', '-f', join(dir, 'spec.yaml'), '--socket', '/no/such.sock'), musubi('events', '--follow', '--socket', '/no/such.sock')
  ])
  for (const result of nobody) t.match(result, { exitCode: 4, stdout: '' })
  t.match(nobody[0].stderr, /cannot reach the agent at \/run\/musubi\/agent\.sock[^]*systemctl status musubi-agent[^]*--socket or --url/)
  t.match(nobody[1].stderr, /\/no\/such\.sock/)
  t.match(nobody[2].stderr, /coordinator at http:\/\/127\.0\.0\.1:1[^]*musubi-coordinator/)
  const input = await Promise.all([
    musubi('cluster', 'create', '-f', '/no/such.yaml'), musubi('cluster', 'create', '-f', join(dir, 'broken.yaml')), musubi('search', '--nodes', 'many'),
    musubi('cluster', 'delete', 'x', '--timeout', 'soon'), musubi('agent', 'run', '-c', join(dir, 'agent.yaml')), musubi('agent', 'doctor', '-c', '/no/such.yaml'), musubi('host', 'list', '--url', 'here')
  ])
  for (const [i, said] of [/cannot read \/no\/such\.yaml/, /broken\.yaml is not YAML/, /--nodes must be a whole number, not "many"/, /--timeout must be a number of seconds/, /unknown field colour/, /cannot read/, /"here" is no HTTP address/].entries()) {
    t.match(input[i], { exitCode: 2, stdout: '', stderr: said })
    t.notMatch(input[i]?.stderr, /^ +at /m, 'no stack trace')
  }
  const json = await musubi('host', 'list', '--json', '--socket', '/no/such.sock')
  t.match(JSON.parse(json.stderr), { error: { code: 'UNREACHABLE', message: /such\.sock/, hint: /systemctl/ } })
})

t.test('a small federation, set up and used by hand', async t => {
  const place = await startPlace(t)
  const at = ['--socket', place.socket]
  const demo = await place.file('demo.yaml', spec('demo', 2, { volumes: [{ name: 'data', sizeMiB: 10, node: 1 }] }))

  await t.test('a dry run tells where it would go; what does not fit or is wrong is told', async t => {
    const [dry, large, wrong, other] = await Promise.all([
      musubi('cluster', 'create', '-f', demo, '--dry-run', ...at), musubi('cluster', 'create', '-f', await place.file('large.yaml', spec('large', 50)), '--dry-run', ...at),
      musubi('cluster', 'create', '-f', await place.file('wrong.yaml', { ...spec('wrong', 0), colour: 1 }), ...at), musubi('cluster', 'create', '-f', demo, '--socket', place.other)
    ])
    t.match(dry, { exitCode: 0, stdout: /kyoto[^]*nothing is held/ })
    t.match(large, { exitCode: 1, stderr: /large[^]*kyoto: takes 3 of 50[^]*musubi search/ })
    t.match(wrong, { exitCode: 2, stderr: /colour: unknown field[^]*count/ })
    t.match(other, { exitCode: 1, stderr: /no gateway[^]*run it on gw/ })
    t.match(await musubi('lease', 'list', ...at), { exitCode: 0, stdout: 'No lease.\n' })
  })

  await t.test('a cluster is asked for, shown, and named again where it must be', async t => {
    const made = await musubi('cluster', 'create', '-f', demo, '--no-wait', '--json', ...at)
    t.match(JSON.parse(made.stdout), { name: 'demo', id: /\w+/ })
    const { state, error } = await until('the cluster', PATIENCE_MS, async () => {
      const cluster = await call<ClusterResource>({ socketPath: place.socket, what: 'agent' }, 'GET', '/v1/clusters/demo')
      return ['building', 'failed'].includes(cluster.state) ? cluster : null
    })
    t.match({ state, error }, { state: 'building', error: null })
    const [twice, missing, waited] = await Promise.all([musubi('cluster', 'create', '-f', demo, ...at), musubi('cluster', 'show', 'nothing', ...at), musubi('cluster', 'create', '-f', await place.file('late.yaml', spec('late', 50)), ...at)])
    t.match(twice, { exitCode: 1, stderr: /demo exists already[^]*musubi cluster delete demo/ })
    t.match(missing, { exitCode: 1, stderr: /no cluster "nothing"[^]*musubi cluster list/ })
    t.match(waited, { exitCode: 1, stdout: '', stderr: /late: failed[^]*no room for/ })
  })

  await t.test('every reading command has a table for people and JSON for programs', async t => {
    const node = (JSON.parse((await musubi('cluster', 'show', 'demo', '--json', ...at)).stdout) as { nodes: Array<{ name: string }> }).nodes[0]?.name ?? ''
    const coordinator = ['--socket', place.coordinator]
    const reads: Array<[string[], RegExp, unknown]> = [
      [['host', 'list', ...at], /^HOST +SITE.*\nc1 .*\ngw /, [{ host: 'c1' }, { host: 'gw' }]],
      [['search', '--nodes', '1', '--volume', '5', ...at], /fit: \d at kyoto/, { fits: true }],
      [['lease', 'list', ...at], /frontend +active/, [{ cluster: 'demo', state: 'active' }]],
      [['lease', 'list', '--all', '--socket', place.other], /data +active/, [{ cluster: 'demo' }]],
      [['segment', 'list', ...at], /demo +\d+ +10\.42\.0\.0\/16 +kyoto=10/, [{ name: 'demo' }, { name: 'late' }]],
      [['cache', 'status', ...at], /No cache is running/, []],
      [['cluster', 'list', ...at], /^NAME +STATE[^]*demo +building/, [{ name: 'demo' }, { name: 'late' }]],
      [['cluster', 'show', 'demo', ...at], /^cluster +demo +building[^]*volume +data/, { name: 'demo', volumes: [{ name: 'data' }] }],
      [['agent', 'status', ...at], /^gw \(kyoto\)[^]*object +frontend/, { name: 'gw', site: 'kyoto' }],
      [['agent', 'doctor', '-c', place.config], /Nothing is missing/, { host: 'gw', ok: true }],
      [['coordinator', 'status', ...coordinator], /^main +musubi/, { name: 'main', sites: 1 }],
      [['coordinator', 'sites', ...coordinator], /^SITE +STATE[^]*kyoto +alive +2[^]*gw direct/, [{ site: 'kyoto', state: 'alive', gateways: [{ host: 'gw' }] }]],
      [['coordinator', 'sites', '--url', place.url], /kyoto/, [{ site: 'kyoto' }]],
      [['coordinator', 'invitations', ...coordinator], /used +/, [{ site: 'kyoto', state: 'used' }]],
      [['host', 'show', 'c1', ...at], /^host +c1 \(kyoto\)[^]*path +direct[^]*certificate +compute, storage/, { host: 'c1', path: 'direct' }],
      [['site', 'invitations', ...at], /used +compute,storage[^]*c1/, [{ state: 'used', used: { name: 'c1' } }]],
      [['site', 'policy', 'get', ...at], /default/, { site: 'kyoto', version: 0 }],
      [['coordinator', 'search', '--nodes', '1', ...coordinator], /kyoto/, { sites: [{ site: 'kyoto' }] }],
      [['image', 'list', '--store', join(place.dir, 'images')], /No image[^]*musubi image build/, []]
    ]
    // Two at a time: each is a process of its own.
    const work = reads.values()
    await Promise.all([1, 2].map(async () => {
      for (const [args, people, programs] of work) {
        const [table, json] = [await musubi(...args), await musubi(...args, '--json')]
        const what = args.slice(0, 2).join(' ')
        t.match(table, { exitCode: 0, stderr: '', stdout: people }, what)
        t.match(json, { exitCode: 0, stderr: '' }, `${what} --json`)
        t.match(JSON.parse(json.stdout), programs, `${what} --json`)
      }
    }))
    const console = await musubi('cluster', 'ssh', 'demo', node, '--json', ...at)
    t.match(JSON.parse(console.stdout), { node, argv: ['ip', 'netns', 'exec'], ip: /^10\.42\./ })
    t.match(await musubi('cluster', 'ssh', 'demo', 'nobody', '--json', ...at), { exitCode: 1, stderr: /no node \\"nobody\\".*it has/ })
  })

  await t.test('events are told line by line, and followed', async t => {
    const lines = (await musubi('events', '--json', ...at)).stdout.trim().split('\n')
    t.ok(lines.length > 5 && lines.every(line => typeof (JSON.parse(line) as { seq: unknown }).seq === 'number'))
    t.match((await musubi('events', ...at)).stdout, /^\d{4}-\S+Z  \S+ .*demo: negotiating/m)
    const follower = spawn(process.execPath, [CLI, 'events', '--follow', '--json', ...at], { stdio: ['ignore', 'pipe', 'inherit'], env: { ...process.env, ...ENV } })
    place.daemons.set('follower', follower)
    let text = ''
    follower.stdout.setEncoding('utf8').on('data', (chunk: string) => { text += chunk })
    await until('what was', PATIENCE_MS, () => Promise.resolve(text.includes('demo: negotiating')))
    const deleted = musubi('cluster', 'delete', 'demo', ...at)
    await until('what happens', PATIENCE_MS, () => Promise.resolve(text.includes('demo: deleted')))
    follower.kill('SIGINT')
    t.same(await once(follower, 'exit'), [0, null], 'Ctrl-C is how following ends')
    t.match(await deleted, { exitCode: 0, stdout: /^demo: deleted in / })
    const head = await run('sh', ['-c', '"$0" "$@" | head -n 1', process.execPath, CLI, 'events', ...at], { timeoutMs: PATIENCE_MS, env: ENV })
    t.match(head, { stderr: '', stdout: /^\S+Z .*\n$/ })
  })

  await t.test('what was deleted is gone, and deleting it again is no error', async t => {
    const again = await musubi('cluster', 'delete', 'demo', '--json', ...at)
    t.match(JSON.parse(again.stdout), { name: 'demo', state: 'deleted' })
    t.match(await musubi('cluster', 'delete', 'never', ...at), { exitCode: 1, stderr: /no cluster "never"/ })
    t.match((await musubi('lease', 'list', '--socket', place.other)).stdout, /No lease/)
  })

  await t.test('a host whose helper has gone offers nothing, and says why, until it is back', async t => {
    const freeOfOther = async (): Promise<number | undefined> =>
      (await call<HostResource[]>({ socketPath: place.socket, what: 'agent' }, 'GET', '/v1/hosts')).find(host => host.host === 'c1')?.free.vcpus
    const isFree = (vcpus: number) => async (): Promise<true | null> => await freeOfOther() === vcpus ? true : null
    const before = await freeOfOther() ?? 0
    t.ok(before > 0)
    await place.helpers.pop()?.stop()
    await until('it offers nothing', PATIENCE_MS, isFree(0), { everyMs: 200 })
    t.match((await musubi('agent', 'status', '--socket', place.other)).stdout, /nothing is changed on this host, and no new lease is taken: the helper does not answer at/)
    const disk = await place.file('disk.yaml', spec('disk', 1, { volumes: [{ name: 'data', sizeMiB: 10, node: 1 }] }))
    t.match(await musubi('cluster', 'create', '-f', disk, '--dry-run', ...at), { exitCode: 1 }, 'nobody is sent there')
    place.helpers.push(await startHelperFor(place.otherConfig))
    await until('it offers what it has again', PATIENCE_MS, isFree(before), { everyMs: 200 })
  })

  await t.test('a daemon ends in order when it is told to, and says so with 0', async t => {
    const child = place.daemons.get('c1')
    const ended = child === undefined ? null : once(child, 'exit')
    child?.kill('SIGTERM')
    t.same(await ended, [0, null])
    t.notOk(existsSync(place.other))
    t.match(await musubi('host', 'list', '--socket', place.other), { exitCode: 4 })
    t.match(await readFile(join(place.dir, 'c1', 'key')), /./)
  })
})
