/** What the documents promise and a machine can check: examples load, links lead somewhere, lists are complete. */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { pino } from 'pino'
import t from 'tap'
import { parse } from 'yaml'
import { addAgentRoutes } from '../../../agent/api/routes.ts'
import { loadAgentConfig } from '../../../agent/config.ts'
import { addAdmissionRoutes, addReadRoutes } from '../../../coordinator/api/routes.ts'
import type { Coordinator } from '../../../coordinator/coordinator.ts'
import { loadCoordinatorConfig } from '../../../coordinator/config.ts'
import { NotFoundError } from '../../../protocol/core/errors.ts'
import { fenceTransitions } from '../../../protocol/core/fence/fence.ts'
import { gatewayTransitions, noticeTransitions } from '../../../protocol/core/gateway/record.ts'
import { epochTransitions, extensionTransitions, transitions } from '../../../protocol/core/lease/tables.ts'
import { masterTransitions } from '../../../protocol/core/master/record.ts'
import { parseClusterSpec } from '../../../protocol/core/spec.ts'
import { createApi, type Api } from '../../../protocol/rest/server.ts'
import { isCurrent, statesPage } from '../../../docs/generate-states.ts'

const ROOT = join(import.meta.dirname, '..', '..', '..')
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
  t.match(await loadAgentConfig(example('agent')), { name: 'tokyo-1', roles: ['gateway', 'compute'] })
  t.match(await loadCoordinatorConfig(example('coordinator')), { name: 'main' })
  // what is only shown in a comment must be right, too
  for (const [name, load] of [['agent', loadAgentConfig], ['coordinator', loadCoordinatorConfig]] as const) {
    const text = read(join('packaging', `${name}.example.yaml`)).replaceAll(/^# (announce|joinListen): /gm, '$1: ')
    const path = join(t.testdir({ 'config.yaml': text }), 'config.yaml')
    const fields = Object.keys(await load(path))
    for (const field of ['announce', 'joinListen']) t.ok(fields.includes(field), `${field} in the example of ${name}`)
  }
})

t.test('every field of the examples is described, with its default where the example says so', async t => {
  const [agentPart = '', coordinatorPart = ''] = read('docs/configuration.md').split('## coordinator.yaml')
  for (const [config, text] of [[await loadAgentConfig(example('agent')), agentPart], [await loadCoordinatorConfig(example('coordinator')), coordinatorPart.split('\n## ')[0] ?? '']] as const) {
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
  const ofCoordinator = await loadCoordinatorConfig(t.testdir({ 'coordinator.yaml': 'listen: [/ip4/192.0.2.1/tcp/4100]\n' }) + '/coordinator.yaml')
  for (const [field, value] of Object.entries(ofCoordinator)) {
    if (typeof value !== 'object') t.match(coordinatorPart, field === 'logLevel' ? '| `logLevel` | `info`' : `| \`${field}\` | \`${value}\``, `${field} has its default`)
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
      view: { status: unused, hosts: unused, host: unused, metrics: unused, sites: unused, leases: unused, lease: unused, history: unused, revoke: unused, console: unused, segmentPlan: unused },
      events: { add: unused, list: unused, subscribe: unused }, master: null, gateways: () => [], policy: null, issuer: null, cordonHost: unused,
      calendar: { site: '', host: '', isGateway: true, gateways: () => [], calendar: { own: unused, hosts: unused }, drain: { begin: unused, look: unused } }
    })
  })
  const nobody: Coordinator = {
    name: '', peerId: '', federation: '', addresses: unused, sites: unused, admissions: unused, status: unused, invitations: unused, invite: unused, withdraw: unused, revoke: unused, exportState: unused, stop: unused
  }
  const coordinator = await routesOf(api => {
    addReadRoutes(api, nobody)
    addAdmissionRoutes(api, nobody)
  })
  const [agentPart = '', coordinatorPart = ''] = read('docs/rest.md').split('## Coordinator')
  const described = (text: string): string[] => [...tableFields(text)].filter(field => field.startsWith('GET ') || /^(POST|DELETE|PUT|PATCH) /.test(field)).sort()
  t.strictSame(described(agentPart), agent, 'of the agent')
  t.strictSame(described(coordinatorPart), coordinator, 'of the coordinator')
})

t.test('error codes in the documents are those of the sources', t => {
  const sources = ['protocol', 'store', 'agent', 'coordinator', 'cli'].flatMap(dir =>
    readdirSync(join(ROOT, dir), { recursive: true, encoding: 'utf8' }).filter(f => f.endsWith('.ts') && !f.includes('gen/')).map(f => read(join(dir, f)))).join('\n')
  const documented = new Set([...tableFields(read('docs/operations.md').split('## Error codes')[1] ?? '')].filter(field => /^[A-Z_]+$/.test(field)))
  t.ok(documented.size > 20, 'there are some')
  for (const code of documented) t.ok(sources.includes(`'${code}'`), `${code} is used`)
  const thrown = new Set([...sources.matchAll(/(?:MusubiError|NotAdmittedError|refuse)\('([A-Z_]+)'/g)].map(([, code = '']) => code))
  for (const code of thrown) t.ok(documented.has(code), `${code} is described in docs/operations.md`)
  t.end()
})

t.test('every command in the documents is one of the program', t => {
  const groups = ['agent', 'site', 'host', 'coordinator', 'cluster', 'image', 'lease', 'segment', 'tunnel']
  const known = readdirSync(join(ROOT, 'cli', 'commands')).map(f => read(join('cli', 'commands', f))).join('\n')
  for (const file of markdown.filter(f => !f.includes('adr'))) {
    for (const [, group = '', verb = ''] of read(file).matchAll(/\bmusubi ([a-z]+) ([a-z]+)\b/g)) {
      if (groups.includes(group)) t.ok(known.includes(`.command('${verb}`), `${file}: musubi ${group} ${verb}`)
    }
  }
  t.end()
})

t.test('the page of states is what the transition tables give, every row of them', async t => {
  t.ok(await isCurrent(), 'docs/lease-states.md is current: else npm run states')
  const page = statesPage()
  const tables = [transitions, extensionTransitions, epochTransitions, gatewayTransitions, noticeTransitions, masterTransitions, fenceTransitions]
  const name = (state: string | null): string => state === null ? '-' : `\`${state}\``
  for (const { from, trigger, to, when } of tables.flat()) t.ok(page.includes(`| ${name(from)} | ${trigger} | ${name(to)} | ${when} |`), `${from ?? '-'} ${trigger} ${to ?? '-'}`)
  t.equal(page.match(/^stateDiagram-v2$/gm)?.length, tables.length)
  // each arrow of a diagram stands for rows of the same machine
  const sections = page.split(/^## /m).filter(section => section.includes('stateDiagram'))
  for (const [i, section] of sections.entries()) {
    const arrows = [...section.matchAll(/^ {2}(\S+) --> (\S+): (.+)$/gm)].flatMap(([, from = '', to = '', triggers = '']) => triggers.split(', ').map(trigger => `${from} ${trigger} ${to}`))
    t.same(arrows.sort(), tables[i]?.map(row => `${row.from ?? '[*]'} ${row.trigger} ${row.to ?? '[*]'}`).sort(), section.split('\n')[0] ?? '')
  }
})
