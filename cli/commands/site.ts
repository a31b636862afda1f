import type { Command } from 'commander'
import { addPolicyCommands } from './policy.ts'
import { call } from '../client.ts'
import { agentEndpoint, readToken, spanMs, wantsJson } from '../context.ts'
import { show } from '../output.ts'
import { wholeOf } from '../quantity.ts'
import { invitationsTable, sitesTable } from '../render.ts'
import { InvalidInputError } from '../../protocol/core/errors.ts'
import type { InvitationResource, InviteBody, InvitedResource, RevokedResource, SiteResource } from '../../protocol/api.ts'

const CONFIG = ['-c, --config <file>', 'configuration', '/etc/musubi/agent.yaml'] as const
type Roles = NonNullable<InviteBody['roles']>
const ROLES: Readonly<Roles> = ['compute', 'storage', 'gateway']

/** @throws InvalidInputError naming what is no role */
function rolesOf (text: string): Roles {
  const names = [...new Set(text.split(',').map(word => word.trim()).filter(word => word !== ''))]
  const wrong = names.filter(name => !(ROLES as readonly string[]).includes(name))
  if (wrong.length > 0 || names.length === 0) throw new InvalidInputError(`--role takes ${ROLES.join(', ')}, with commas between them${wrong.length === 0 ? '' : `; not ${wrong.join(', ')}`}`)
  return ROLES.filter(role => names.includes(role))
}
const day = (ms: number): string => new Date(ms).toISOString().slice(0, 16).replace('T', ' ')

export function addSiteCommands (program: Command): void {
  const site = program.command('site').description('this site: its key, its hosts, its policy; on a gateway')

  site.command('list').description('sites of the federation, as this agent sees them; empty on a host that is no gateway')
    .addHelpText('after', '\nExample:\n  musubi site list')
    .action(async (_o: object, command: Command) => { show(await call<SiteResource[]>(agentEndpoint(command), 'GET', '/v1/sites'), wantsJson(command), sitesTable) })

  site.command('init').description('make this host the first gateway of a new site, or renew its certificates')
    .option('--join <token>', 'token of musubi coordinator invite; - reads it from standard input')
    .option(...CONFIG)
    .option('--offline-key <file>', 'site key that was moved away with: musubi site key --export')
    .option('--quota-percent <n>', 'give back what this gateway has of the quotas, down to so many per cent, for other gateways')
    .addHelpText('after', `
It makes the site key, redeems the token for the certificate of the site, and certifies this host
as its gateway. Running it again changes nothing; with a new token it renews the certificate of the
site, without one those of this host.

Examples:
  musubi site init --join musubi-a...
  musubi site init --join - < token
  musubi site init --offline-key /media/stick/site.key
  musubi site init --quota-percent 60        then: musubi site invite --role gateway --quota-percent 40`)
    .action(async (o: { join?: string, config: string, offlineKey?: string, quotaPercent?: string }, command: Command) => {
      const { initSite } = await import('../../agent/site/init.ts')
      const token = o.join === undefined ? null : await readToken(o.join)
      show(await initSite(o.config, { token, offlineKey: o.offlineKey ?? null, quotaPercent: o.quotaPercent === undefined ? null : wholeOf(o.quotaPercent, '--quota-percent', 0, 100) }), wantsJson(command), r => [
        `${r.site}/${r.host}: ${r.changed ? 'certified as gateway' : 'nothing to do'}`,
        `federation   ${r.federation}`, `site key     ${r.siteKey}${r.siteKeyHere ? '' : ' (offline)'}`,
        `certificates site until ${day(r.siteNotAfterMs)}, host until ${day(r.notAfterMs)}, issuer until ${day(r.issuerNotAfterMs)} UTC`,
        `next         ${r.next}`
      ].join('\n'))
    })

  site.command('key').description('move the key of the site offline, or back')
    .option(...CONFIG)
    .option('--export <file>', 'write a copy, mode 0600')
    .option('--import <file>', 'take it back from there')
    .option('--remove', 'remove it from this host; beside --export')
    .addHelpText('after', `
Without the key this gateway goes on admitting and renewing hosts that are no gateways, until its
issuer certificate ends (60 days). Gateways are admitted and renewed (every 30 days) with the key alone.

Examples:
  musubi site key                                        where it is
  musubi site key --export /media/stick/site.key
  musubi site key --export /media/stick/site.key --remove
  musubi site init --offline-key /media/stick/site.key   renew from it, without bringing it back`)
    .action(async (o: { config: string, export?: string, import?: string, remove?: boolean }, command: Command) => {
      const { siteKeyCommand } = await import('../../agent/site/key.ts')
      show(await siteKeyCommand(o.config, { exportTo: o.export ?? null, importFrom: o.import ?? null, remove: o.remove === true }), wantsJson(command), r => [`site key  ${r.siteKey}, ${r.here ? 'on this host' : 'not on this host'}`, ...r.notes].join('\n'))
    })

  site.command('invite').description('a token with which one host joins this site')
    .option('--role <roles>', 'that it may take: compute, storage, gateway', 'compute,storage')
    .option('--ttl <time>', 'how long it can be used, such as 30m, 1h, 2d', '1h')
    .option('--note <text>', 'for people', '')
    .option('--quota-percent <n>', 'of a gateway: its share of every quota of the site', '0')
    .addHelpText('after', `
The token holds a secret: whoever has it may join, once. Hand it over privately.
Gateways can be invited only where the site key is.

Examples:
  musubi site invite
  musubi site invite --role gateway,compute --ttl 15m
  musubi site invite --json | jq -r .token | ssh tokyo-2 musubi agent join -`)
    .action(async (o: { role: string, ttl: string, note: string, quotaPercent: string }, command: Command) => {
      const body = { roles: rolesOf(o.role), ttlMs: spanMs(o.ttl, '--ttl'), note: o.note, quotaPercent: wholeOf(o.quotaPercent, '--quota-percent', 0, 100) }
      show(await call<InvitedResource>(agentEndpoint(command), 'POST', '/v1/site/invitations', body), wantsJson(command), ({ token, invitation: i }) =>
        `${token}\n\nadmits one host to ${i.site} as ${i.roles.join(', ')}, until ${day(i.expiresMs)} UTC; there: musubi agent join TOKEN`)
    })
  site.command('invitations').description('invitations of this gateway: open, used, expired')
    .addHelpText('after', '\nExample:\n  musubi site invitations')
    .action(async (_o: object, command: Command) => { show(await call<InvitationResource[]>(agentEndpoint(command), 'GET', '/v1/site/invitations'), wantsJson(command), invitationsTable) })
  site.command('withdraw <id>').description('withdraw an invitation that was not used')
    .addHelpText('after', '\nExample:\n  musubi site invitations\n  musubi site withdraw ID')
    .action(async (id: string, _o: object, command: Command) => {
      show(await call<InvitationResource>(agentEndpoint(command), 'DELETE', `/v1/site/invitations/${encodeURIComponent(id)}`), wantsJson(command), i => `invitation ${i.id} is ${i.state}`)
    })

  site.command('revoke <host>').description('shut a host out: its certificate is void everywhere, its connections close')
    .option('--reason <text>', 'kept with it, told to the host', '')
    .option('--yes', 'needed: its leases cannot be reached any more; only a new token lets it in again')
    .addHelpText('after', '\nThe host is given by its name, or by its PeerId. To keep it and only lend no more of it: musubi host cordon HOST\n\nExample:\n  musubi site revoke tokyo-4 --reason "sold" --yes')
    .action(async (host: string, o: { reason: string, yes?: boolean }, command: Command) => {
      if (o.yes !== true) throw new InvalidInputError(`this shuts host ${host} out of the site, with the leases that it has`, 'say that you mean it: --yes; to lend no more of it and keep the rest: musubi host cordon')
      show(await call<RevokedResource>(agentEndpoint(command), 'POST', '/v1/site/revocations', { host, reason: o.reason }), wantsJson(command), r => `${r.site}/${r.host} (${r.peerId}) is revoked`)
    })

  addPolicyCommands(site)
}
