/** What the documents promise and a machine can check: examples load, links lead somewhere, lists are complete. */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { pino } from 'pino'
import t from 'tap'
import { parse } from 'yaml'
import { addAgentRoutes } from '../../agent/api/routes.ts'
import { loadAgentConfig } from '../../agent/config.ts'
import { addCoordinatorRoutes } from '../../coordinator/api/routes.ts'
import { loadCoordinatorConfig } from '../../coordinator/config.ts'
import { NotFoundError } from '../../protocol/core/errors.ts'
import { parseClusterSpec } from '../../protocol/core/spec.ts'
import { loadFederation } from '../../protocol/mesh/federation.ts'
import { createApi, type Api } from '../../protocol/rest/server.ts'

const ROOT = join(import.meta.dirname, '..', '..')
const example = (name: string): string => join(ROOT, 'packaging', `${name}.example.yaml`)
const read = (path: string): string => readFileSync(join(ROOT, path), 'utf8')
const markdown = ['README.md', ...readdirSync(join(ROOT, 'docs'), { recursive: true, encoding: 'utf8' }).filter(f => f.endsWith('.md')).map(f => join('docs', f))]

const FENCE = /^ *```(\w*)\n([\s\S]*?)^ *```$/gm
const withoutCode = (text: string): string => text.replaceAll(FENCE, '').replaceAll(/`[^`\n]*`/g, '')

/** The anchor that a heading gets where Markdown is shown. */
const anchorOf = (heading: string): string => heading.toLowerCase().replaceAll(/[^a-z0-9 _-]/g, '').replaceAll(' ', '-')
const anchors = (text: string): string[] => [...text.replaceAll(FENCE, '').matchAll(/^#+ (.+)$/gm)].map(m => anchorOf(m[1] ?? ''))

/** What the fields of a document are called, from the first cells of its tables. */
const tableFields = (text: string): Set<string> =>
  new Set([...text.matchAll(/^\| (`[^|]*?) \|/gm)].flatMap(m => [...(m[1] ?? '').matchAll(/`([^`]+)`/g)].map(f => f[1] ?? '')))

t.test('the example configurations load with the real loaders', async t => {
  const agent = await loadAgentConfig(example('agent'))
  const coordinator = await loadCoordinatorConfig(example('coordinator'))
  const federation = await loadFederation(example('federation'))
  const self = federation.document.sites.find(s => s.name === agent.site)?.hosts.find(h => h.name === agent.name)
  t.ok(self !== undefined && agent.roles.every(r => self.roles.includes(r)), 'the example agent is a host of the example federation, with its roles')
  t.strictSame(self?.addresses, agent.listen, 'under the address that it listens on')
  const main = federation.document.coordinators.find(c => c.name === coordinator.name)
  t.strictSame(main?.addresses, coordinator.listen, 'so is the example coordinator')
})

t.test('every field of the examples is described, with its default where the example says so', async t => {
  const [agentPart = '', coordinatorPart = ''] = read('docs/configuration.md').split('## coordinator.yaml')
  for (const [config, text] of [[await loadAgentConfig(example('agent')), agentPart], [await loadCoordinatorConfig(example('coordinator')), coordinatorPart.split('## federation.yaml')[0] ?? '']] as const) {
    const described = tableFields(text)
    for (const field of Object.keys(config)) t.ok(described.has(field), `${field} is described`)
  }
  const defaults = await loadAgentConfig(t.testdir({
    'agent.yaml': 'name: a\nsite: s\nroles: [compute]\nlisten: [/ip4/192.0.2.1/tcp/4100]\nunderlayAddress: 192.0.2.1\n'
  }) + '/agent.yaml')
  for (const [field, value] of Object.entries(defaults)) {
    const given = ['name', 'site', 'roles', 'listen', 'underlayAddress'].includes(field)
    if (!given && typeof value !== 'object') t.match(agentPart, `| \`${field}\` | \`${value}\``, `${field} has its default`)
  }
})

t.test('every relative link leads to a file, and to a heading in it', t => {
  for (const file of markdown) {
    const text = read(file)
    for (const [, target = ''] of withoutCode(text).matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^[a-z]+:/.test(target)) continue
      const [path = '', anchor] = target.split('#')
      const to = path === '' ? join(ROOT, file) : resolve(ROOT, dirname(file), path)
      t.ok(existsSync(to), `${file}: ${target} exists`)
      if (anchor !== undefined) t.ok(anchors(readFileSync(to, 'utf8')).includes(anchor), `${file}: ${target} is a heading of ${relative(ROOT, to)}`)
    }
  }
  t.end()
})

t.test('every cluster specification in the documents parses', t => {
  const specs = markdown.flatMap(file => [...read(file).matchAll(FENCE)].filter(m => m[1] === 'yaml').map(m => ({ file, data: parse(m[2] ?? '') as { kind?: unknown } })))
    .filter(({ data }) => data.kind === 'Cluster')
  t.ok(specs.length >= 3, 'there are some')
  for (const { file, data } of specs) t.doesNotThrow(() => parseClusterSpec(data), `in ${file}`)
  t.end()
})

/** `GET /v1/hosts` and so on, from the OpenAPI document of a server. */
async function routesOf (add: (api: Api) => void): Promise<string[]> {
  const api = await createApi({ title: 'docs', description: 'docs', logger: pino({ level: 'silent' }) })
  add(api)
  await api.ready()
  const { paths = {} } = api.swagger() as { paths?: Record<string, object> }
  await api.close()
  return Object.entries(paths).flatMap(([path, methods]) => Object.keys(methods).map(method => `${method.toUpperCase()} ${path}`)).sort()
}

t.test('the routes in the documents are those of the servers', async t => {
  const unused = (): never => { throw new NotFoundError('no route is called here') }
  const agent = await routesOf(api => {
    addAgentRoutes(api, {
      view: { status: unused, hosts: unused, sites: unused, leases: unused, console: unused },
      events: { add: unused, list: unused, subscribe: unused }, master: null, gateways: () => []
    })
  })
  const coordinator = await routesOf(api => { addCoordinatorRoutes(api, { status: unused, sites: unused }) })
  const [agentPart = '', coordinatorPart = ''] = read('docs/rest.md').split('## Coordinator')
  const described = (text: string): string[] => [...tableFields(text)].filter(field => field.startsWith('GET ') || /^(POST|DELETE|PUT|PATCH) /.test(field)).sort()
  t.strictSame(described(agentPart), agent, 'of the agent')
  t.strictSame(described(coordinatorPart), coordinator, 'of the coordinator')
})

t.test('every error code in the documents is one that the sources use', t => {
  const sources = ['protocol', 'store', 'agent', 'coordinator', 'cli'].flatMap(dir =>
    readdirSync(join(ROOT, dir), { recursive: true, encoding: 'utf8' }).filter(f => f.endsWith('.ts') && !f.includes('gen/')).map(f => read(join(dir, f)))).join('\n')
  const codes = [...tableFields(read('docs/operations.md').split('## Error codes')[1] ?? '')].filter(field => /^[A-Z_]+$/.test(field))
  t.ok(codes.length > 20, 'there are some')
  for (const code of codes) t.ok(sources.includes(`'${code}'`), code)
  t.end()
})
