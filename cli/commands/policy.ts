import type { Command } from 'commander'
import { call } from '../client.ts'
import { agentEndpoint, wantsJson } from '../context.ts'
import { show } from '../output.ts'
import { changesText, checkText, policyText } from '../render/policy.ts'
import { readYamlFile } from '../../protocol/config-file.ts'
import { InvalidInputError, UnreachableError } from '../../protocol/core/errors.ts'
import type { PolicyCheck, PolicyResource } from '../../protocol/policy-api.ts'

const EXAMPLE = `
A policy:
  default:                      # for every site that is not named
    longestLease: 24h
    quota: {nodes: 8, vcpus: 32, memory: 128GiB, disk: 2TiB, bandwidth: 500}
  sites:                        # a rule for a site replaces the default as a whole
    osaka: {deny: true, reason: 'no contract since May'}
    kyoto:
      latestStart: 14d
      windows: [{days: [sat, sun], from: '08:00', to: '20:00', zone: Asia/Tokyo}]
      priority: 20
      preempt: {notice: 15m}
      price: 0.5                # per vCPU and hour
    nara: {}                    # no limit
  own: {priority: 100}`

/** Without an agent the file is judged by itself; what only it can say is left out. */
async function askAgent<T> (work: Promise<T>): Promise<T | null> {
  try {
    return await work
  } catch (error) {
    if (error instanceof UnreachableError) return null
    throw error
  }
}

async function check (file: string, command: Command): Promise<void> {
  const data = await readYamlFile(file)
  const { judgePolicy } = await import('../../protocol/policy/document.ts')
  const { errors, warnings } = judgePolicy(data, null, Date.now())
  const asked = await askAgent(call<PolicyCheck>(agentEndpoint(command), 'POST', '/v1/policy/checks', data))
  const found = { ...asked ?? { errors, warnings, usage: [] }, agent: asked !== null }
  if (found.errors.length === 0 || wantsJson(command)) show(found, wantsJson(command), f => checkText(file, f))
  if (found.errors.length > 0) throw new InvalidInputError(`${file} is not valid:\n${[...found.errors, ...found.warnings.map(w => `(warning) ${w}`)].map(line => `  ${line}`).join('\n')}`)
}

/** `musubi site policy ...` */
export function addPolicyCommands (site: Command): void {
  const policy = site.command('policy').description('what this site lends to whom')

  policy.command('get').description('the policy in force, as a file to edit, with what this gateway lends now')
    .addHelpText('after', `
What is lent, and the share of this gateway in each quota, are comments at the head of the file.

Example:
  musubi site policy get > policy.yaml`)
    .action(async (_o: object, command: Command) => { show(await call<PolicyResource>(agentEndpoint(command), 'GET', '/v1/policy'), wantsJson(command), policyText) })

  policy.command('set').description('put another policy in force, on all hosts of this site')
    .requiredOption('-f, --file <policy.yaml>', 'YAML or JSON')
    .addHelpText('after', `
It holds for requests from now on; leases that were given stay, and count. What is wrong with it is
refused, with every problem; what may not be meant so is told, and put in force.

Example:
  musubi site policy set -f policy.yaml
${EXAMPLE}`)
    .action(async (o: { file: string }, command: Command) => {
      const document = await readYamlFile(o.file)
      show(await call<PolicyResource>(agentEndpoint(command), 'PUT', '/v1/policy', document), wantsJson(command),
        p => [`policy of ${p.site}, version ${p.version}, is in force; set on ${p.setBy}`, ...p.warnings.map(w => `warning: ${w}`)].join('\n'))
    })

  policy.command('check <file>').description('what is wrong with a policy, and what may not be meant so; nothing is set')
    .addHelpText('after', `
Needs no agent. With one it also shows what is lent now against the quotas of the file.

Example:
  musubi site policy check policy.yaml
${EXAMPLE}`)
    .action(async (file: string, _o: object, command: Command) => { await check(file, command) })

  policy.command('diff <file>').description('what a policy would change, for each site')
    .addHelpText('after', `
Compared is what holds for a site, whichever rule says it: 60m and 1h are the same.

Example:
  musubi site policy diff policy.yaml`)
    .action(async (file: string, _o: object, command: Command) => {
      const data = await readYamlFile(file)
      const { parsePolicy } = await import('../../protocol/policy/document.ts')
      const { changesBetween } = await import('../../protocol/policy/diff.ts')
      const now = await call<PolicyResource>(agentEndpoint(command), 'GET', '/v1/policy')
      const changes = changesBetween(now.document, parsePolicy(data, now.site, file))
      show({ site: now.site, version: now.version, changes }, wantsJson(command), d => changesText(d.changes, `version ${d.version}`))
    })
}
