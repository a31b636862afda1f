import { createServer, type Server } from 'node:http'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { spawnSync } from 'node:child_process'
import { Command } from 'commander'
import t, { type Test } from 'tap'
import { call, events, type Endpoint } from '../../../cli/client.ts'
import { waitForCluster } from '../../../cli/waiting.ts'
import { bashCompletion } from '../../../cli/completion.ts'
import { agentEndpoint, coordinatorEndpoint } from '../../../cli/context.ts'
import type { ClusterResource } from '../../../protocol/api.ts'

type Answer = { status?: number, body: string } | null

/** An HTTP server that gives the answers in turn, the last one for ever; null cuts the line. */
async function server (t: Test, ...answers: Answer[]): Promise<{ endpoint: Endpoint, asked: string[], http: Server }> {
  const asked: string[] = []
  const http = createServer((request, response) => {
    asked.push(`${request.method ?? ''} ${request.url ?? ''}`)
    const answer = answers.length > 1 ? answers.shift() : answers[0]
    if (answer === null || answer === undefined) { request.socket.destroy(); return }
    response.writeHead(answer.status ?? 200)
    response.end(answer.body)
  }).listen(0, '127.0.0.1')
  await once(http, 'listening')
  t.teardown(() => { http.closeAllConnections(); http.close() })
  return { endpoint: { url: `http://127.0.0.1:${(http.address() as AddressInfo).port}`, what: 'agent' }, asked, http }
}

t.test('nobody there: the error names the place and the next step', async t => {
  const socketPath = join(t.testdir({}), 'no.sock')
  await t.rejects(call({ socketPath, what: 'agent' }, 'GET', '/v1/status'), {
    code: 'UNREACHABLE', message: new RegExp(`cannot reach the agent at ${socketPath}`), hint: /systemctl status musubi-agent.*--socket or --url/
  })
  await t.rejects(call({ url: 'http://127.0.0.1:1', what: 'coordinator' }, 'GET', '/v1/status'), { code: 'UNREACHABLE', message: /coordinator at http:\/\/127\.0\.0\.1:1/, hint: /musubi-coordinator/ })
  await t.rejects(events({ socketPath, what: 'agent' }, '/v1/events/stream', AbortSignal.timeout(5_000)).next(), { code: 'UNREACHABLE' })
})

t.test('an address that is none is the caller\'s mistake', async t => {
  await t.rejects(call({ url: 'https://192.0.2.1', what: 'agent' }, 'GET', '/v1/status'), { code: 'INVALID_INPUT', hint: /plain HTTP/ })
  for (const url of ['localhost:4180', 'https://192.0.2.1', 'nonsense', '']) await t.rejects(call({ url, what: 'agent' }, 'GET', '/v1/status'), { code: 'INVALID_INPUT', hint: /http:\/\// }, url)
})

t.test('answers of somebody else are not taken for ours', async t => {
  await t.rejects(call((await server(t, { body: '<html>welcome</html>' })).endpoint, 'GET', '/v1/status'), { code: 'BAD_ANSWER', message: /no JSON: <html>/, hint: /address/ })
  await t.rejects(call((await server(t, { status: 502, body: 'bad gateway' })).endpoint, 'GET', '/v1/status'), { code: 'HTTP', message: /answered 502: bad gateway/ })
  await t.rejects(call((await server(t, { status: 418, body: '{"detail":"no","code":"TEA","hint":"coffee"}' })).endpoint, 'GET', '/'), { code: 'TEA', message: 'no', hint: 'coffee' })
  await t.rejects(call((await server(t, { body: `"${'x'.repeat(17 * 1024 * 1024)}"` })).endpoint, 'GET', '/'), { code: 'TOO_LARGE' })
  t.equal(await call((await server(t, { body: '' })).endpoint, 'DELETE', '/'), null)
})

const cluster = (state: ClusterResource['state'], part: Partial<ClusterResource> = {}): Answer =>
  ({ body: JSON.stringify({ name: 'demo', state, nodes: [], problems: [], error: null, ...part }) })
const wait = async (endpoint: Endpoint, wanted: string[], timeoutMs = 20_000, signal = new AbortController().signal): Promise<{ state: string, lines: string[] }> => {
  const lines: string[] = []
  const { state } = await waitForCluster(endpoint, 'demo', wanted, timeoutMs, signal, line => { lines.push(line) })
  return { state, lines }
}

t.test('waiting for a cluster: each change once, through a restart of the agent', async t => {
  const { endpoint } = await server(t, cluster('negotiating'), cluster('negotiating'), null, cluster('building'), cluster('ready'))
  t.same(await wait(endpoint, ['ready']), { state: 'ready', lines: ['demo: negotiating', 'the agent does not answer, still waiting', 'demo: building', 'demo: ready'] })
})

t.test('waiting ends with a reason', async t => {
  await t.rejects(wait((await server(t, cluster('failed', { error: { code: 'NO_CAPACITY', message: 'too little', hint: 'ask for less' } }))).endpoint, ['ready']), { code: 'NO_CAPACITY', message: 'too little', hint: 'ask for less' })
  await t.rejects(wait((await server(t, cluster('building'))).endpoint, ['ready'], 1), { code: 'TIMEOUT', message: /still building/, hint: /cluster show demo/ })
  await t.rejects(wait((await server(t, cluster('deleted'))).endpoint, ['ready']), { code: 'DELETED' })
  await t.rejects(wait((await server(t, { status: 404, body: '{"detail":"gone","code":"NOT_FOUND"}' })).endpoint, ['ready']), { code: 'NOT_FOUND' })
  await t.rejects(wait((await server(t, cluster('building'))).endpoint, ['ready'], 20_000, AbortSignal.abort()), { code: 'INTERRUPTED', hint: /cluster delete demo/ })
  await t.rejects(wait((await server(t, null)).endpoint, ['ready'], 1), { code: 'UNREACHABLE' })
})

t.test('where to ask: options before environment before the usual place', t => {
  const at = (argv: string[], of: (command: Command) => Endpoint): Endpoint => {
    const program = new Command().option('--socket <path>').option('--url <url>')
    let found: Endpoint | undefined
    program.command('x').action((_o: object, command: Command) => { found = of(command) })
    program.parse(['x', ...argv], { from: 'user' })
    if (found === undefined) throw new Error('the command did not run')
    return found
  }
  t.match(at([], agentEndpoint), { socketPath: '/run/musubi/agent.sock' })
  t.match(at([], coordinatorEndpoint), { socketPath: '/run/musubi-coordinator/coordinator.sock', what: 'coordinator' })
  process.env.MUSUBI_SOCKET = '/env.sock'
  t.teardown(() => { delete process.env.MUSUBI_SOCKET })
  t.match(at([], agentEndpoint), { socketPath: '/env.sock' })
  t.match(at(['--socket', '/given.sock'], agentEndpoint), { socketPath: '/given.sock' })
  t.match(at(['--url', 'http://192.0.2.1'], agentEndpoint), { url: 'http://192.0.2.1' })
  t.end()
})

t.test('the completion follows the command tree', t => {
  const program = new Command('musubi').option('--json')
  const group = program.command('cluster')
  group.command('create').option('-f, --file <x>')
  group.command('list')
  program.command('events').option('--follow')
  const script = bashCompletion(program)
  const complete = (...words: string[]): string[] => {
    const bash = spawnSync('bash', ['-c', `${script}\nCOMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); _musubi; printf '%s\\n' "\${COMPREPLY[@]}"`, 'bash', ...words], { encoding: 'utf8' })
    t.equal(bash.stderr, '')
    return bash.stdout.split('\n').filter(word => word !== '')
  }
  t.same(complete('musubi', ''), ['cluster', 'events', '--json'])
  t.same(complete('musubi', 'cl'), ['cluster'])
  t.same(complete('musubi', 'cluster', ''), ['create', 'list'])
  t.same(complete('musubi', 'cluster', 'create', '-'), ['--file'])
  t.same(complete('musubi', 'events', '--'), ['--follow'])
  t.end()
})
