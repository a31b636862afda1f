import type { Command } from 'commander'
import { call } from '../client.ts'
import { coordinatorEndpoint, spanMs, wantsJson } from '../context.ts'
import { duration, mib, show, table } from '../output.ts'
import { addSearch } from './search.ts'
import { InvalidInputError } from '../../protocol/core/errors.ts'
import type { CoordinatorInvite, CoordinatorInvited, CoordinatorRevoke, CoordinatorRevoked, CoordinatorSite, CoordinatorStatus, InvitationResource } from '../../protocol/api.ts'

const CONFIG = ['-c, --config <file>', 'configuration', '/etc/musubi/coordinator.yaml'] as const
const PASSPHRASE = ['--passphrase-file <file>', 'its first line encrypts the file'] as const

const day = (ms: number): string => new Date(ms).toISOString().slice(0, 10)
const minute = (ms: number): string => new Date(ms).toISOString().slice(0, 16).replace('T', ' ')

function invitationsTable (invitations: InvitationResource[]): string {
  if (invitations.length === 0) return 'No invitation. Make one with: musubi coordinator invite SITE'
  return table(['id', 'site', 'state', 'made', 'expires', 'used by', 'note'],
    invitations.map(i => [i.id, i.site === '' ? '(any)' : i.site, i.state, minute(i.createdMs), minute(i.expiresMs), i.used === null ? '-' : `${i.used.name} ${minute(i.used.atMs)}`, i.note]))
}

function sitesTable (sites: CoordinatorSite[]): string {
  if (sites.length === 0) return 'No site is admitted or known yet. Invite one with: musubi coordinator invite SITE'
  return table(['site', 'state', 'hosts', 'vcpu free', 'memory free', 'gateways', 'certificate until', 'admitted'], sites.map(s => [
    s.site, s.revoked === null ? s.state : `revoked ${day(s.revoked.at)}${s.revoked.reason === '' ? '' : ` (${s.revoked.reason})`}`, String(s.hosts),
    s.free === null || s.total === null ? '-' : `${s.free.vcpus}/${s.total.vcpus}`, s.free === null || s.total === null ? '-' : `${mib(s.free.memoryMib)} / ${mib(s.total.memoryMib)}`,
    s.gateways.map(g => `${g.host} ${g.path ?? g.state}`).join(', ') || '-', s.certificateExpiresAt === null ? '-' : day(s.certificateExpiresAt),
    s.admittedAt === null ? '-' : `${day(s.admittedAt)}${s.admittedHere ? '' : ' (elsewhere)'}`
  ]))
}

const counts = (by: Record<string, number>): string => Object.entries(by).filter(([, n]) => n > 0).map(([code, n]) => `${code} ${n}`).join(', ') || 'none'

function statusText (s: CoordinatorStatus): string {
  const { us, them } = s.refusals
  return [
    `${s.name}  musubi ${s.version}  start ${s.epoch}, up ${duration(s.uptimeMs)}`,
    `federation   ${s.federation}`,
    `peer         ${s.peerId}`,
    `addresses    ${s.addresses.join(', ')}`,
    `certificate  until ${minute(s.certificate.expiresAt)}, renews itself ${day(s.certificate.renewsAt)}${s.certificate.error === null ? '' : `; the last try failed: ${s.certificate.error}`}`,
    `sites        ${s.sites}`,
    `peers        ${s.peers.map(p => `${p.name} (${p.path ?? 'lost'}${p.rttMs === null ? '' : `, ${duration(p.rttMs)}`})`).join(', ') || 'none connected'}`,
    `invitations  ${s.invitations} open${s.joinAddresses.length === 0 ? '' : `, joins at ${s.joinAddresses.join(', ')}`}`,
    `revocations  ${s.revocations}`,
    `refused      by us: ${counts(us)}; by others: ${counts(them)}`,
    `joins        ${counts(s.joins)}`,
    `records      ${counts(s.records)}`,
    `of strangers ${counts(s.recordsNotAdmitted)}`
  ].join('\n')
}

/** The coordinator's commands; the daemon itself is loaded only by those that need it. */
export function addCoordinatorCommands (program: Command): void {
  const coordinator = program.command('coordinator').description('the repository of sites: admits them, answers searches')
  addFolderCommands(coordinator)
  addAdmissionCommands(coordinator)
  addSearch(coordinator, 'the repository of sites', coordinatorEndpoint)
  coordinator.command('status').description('identity, peers, certificate, refusals and counts of the coordinator')
    .addHelpText('after', '\nExamples:\n  musubi coordinator status\n  musubi coordinator status --json | jq .refusals')
    .action(async (_o: object, command: Command) => { show(await call<CoordinatorStatus>(coordinatorEndpoint(command), 'GET', '/v1/status'), wantsJson(command), statusText) })
}

/** What works on the state folder. */
function addFolderCommands (coordinator: Command): void {
  coordinator.command('init').description('make a coordinator: its keys and its certificate, once')
    .option(...CONFIG)
    .option('--name <name>', 'name of this coordinator; default: as in the configuration')
    .addHelpText('after', `
A new coordinator is a new federation. For another coordinator of one that is there, see export and
import --new. Running it again changes nothing and says what is there.

Examples:
  musubi coordinator init
  musubi coordinator init -c /etc/musubi/coordinator.yaml --name main`)
    .action(async (o: { config: string, name?: string }, command: Command) => {
      const { initCoordinator } = await import('../../coordinator/main.ts')
      show(await initCoordinator(o.config, o.name), wantsJson(command), r => [
        `coordinator ${r.name}: ${r.made ? 'made' : 'is there already'}`, `federation   ${r.federation}`, `peer         ${r.peerId}`,
        `keys         ${r.coordinatorKey} (signs sites), ${r.nodeKey}`, `certificate  until ${day(r.notAfterMs)}; renews itself`,
        'next         keep a copy of it: musubi coordinator export --out FILE; then: systemctl start musubi-coordinator, and: musubi coordinator invite SITE'
      ].join('\n'))
    })
  coordinator.command('run').description('run in the foreground, as systemd does')
    .option(...CONFIG)
    .addHelpText('after', '\nExample:\n  musubi coordinator run -c /etc/musubi/coordinator.yaml')
    .action(async (o: { config: string }) => {
      const { createNotifier } = await import('../../agent/services/notify.ts')
      await (await import('../../coordinator/main.ts')).runCoordinator(o.config, createNotifier())
    })
  coordinator.command('export').description('write all that makes this coordinator to a file: keys, admitted sites, revocations')
    .option(...CONFIG)
    .requiredOption('--out <file>', 'a new file; nothing is overwritten')
    .option(...PASSPHRASE)
    .addHelpText('after', `
The file holds the coordinator key: whoever has it can admit sites. Keep it offline. Works whether the
coordinator runs or not.

Examples:
  musubi coordinator export --out /root/coordinator.json --passphrase-file /root/passphrase
  musubi coordinator export --out main.json --json`)
    .action(async (o: { config: string, out: string, passphraseFile?: string }, command: Command) => {
      const { exportFrom } = await import('../../coordinator/main.ts')
      const askRunning = async (socketPath: string): Promise<unknown> => {
        // the configuration names the socket of the coordinator whose keys are read here: no other will do
        const { state } = await call<{ state: unknown }>({ socketPath, what: 'coordinator' }, 'POST', '/v1/export', {})
        return state
      }
      const result = await exportFrom(o.config, { out: o.out, passphraseFile: o.passphraseFile, askRunning })
      if (!result.encrypted) process.stderr.write(`musubi: warning: ${result.file} holds the coordinator key in the clear; encrypt it with --passphrase-file, and keep it offline\n`)
      show(result, wantsJson(command), r => `${r.file}: coordinator ${r.name} of ${r.federation}, ${r.sites} sites, ${r.revocations} revocations${r.encrypted ? ', encrypted' : ''}\nIt holds the coordinator key: whoever reads it can admit sites.`)
    })
  coordinator.command('import <file>').description('bring back an exported coordinator, or with --new make another one of its federation')
    .option(...CONFIG)
    .option('--new', 'another coordinator beside it: own node key, own name, own tokens')
    .option('--name <name>', 'with --new: its name; default: as in the configuration')
    .option('--passphrase-file <file>', 'its first line opens the file')
    .addHelpText('after', `
The coordinator must not run. Never run two restored copies of one coordinator: use --new for a second
one. Running it again changes nothing. A folder of another federation is refused.

Examples:
  musubi coordinator import /root/coordinator.json --passphrase-file /root/passphrase
  musubi coordinator import main.json --new --name second`)
    .action(async (file: string, o: { config: string, new?: boolean, name?: string, passphraseFile?: string }, command: Command) => {
      const { importTo } = await import('../../coordinator/main.ts')
      show(await importTo(o.config, { file, passphraseFile: o.passphraseFile, asNew: o.new === true, name: o.name }), wantsJson(command), r =>
        `coordinator ${r.name}: ${r.restored ? 'restored' : 'made'}, ${r.sites} sites, ${r.revocations} revocations\nfederation   ${r.federation}\npeer         ${r.peerId}\nnext         systemctl start musubi-coordinator`)
    })
}

/** Who is in and who is not: all by the API of the coordinator that runs. */
function addAdmissionCommands (coordinator: Command): void {
  coordinator.command('invite [site]').description('make a one-time token that lets a site join; or withdraw one')
    .option('--ttl <time>', 'how long the token can be used: 30m, 1h, 2d', '1h')
    .option('--note <text>', 'for your own list of invitations')
    .option('--withdraw <id>', 'the token of this invitation shall not be used any more')
    .addHelpText('after', `
The token is shown once, and is secret: hand it over privately. Each call makes another one; the site
uses one of them, once: musubi site init --join TOKEN.

Examples:
  musubi coordinator invite tokyo
  musubi coordinator invite tokyo --ttl 2d --note "asked by mail" --json | jq -r .token
  musubi coordinator invite --withdraw 3q2-7wEjRWeJq83v`)
    .action(async (site: string | undefined, o: { ttl: string, note?: string, withdraw?: string }, command: Command) => {
      const endpoint = coordinatorEndpoint(command)
      if (o.withdraw !== undefined) {
        if (site !== undefined) throw new InvalidInputError('give a site, or --withdraw ID, not both')
        show(await call<InvitationResource>(endpoint, 'DELETE', `/v1/invitations/${encodeURIComponent(o.withdraw)}`), wantsJson(command), i => `invitation ${i.id} for ${i.site}: ${i.state}`)
        return
      }
      if (site === undefined) throw new InvalidInputError('which site?', 'musubi coordinator invite SITE')
      const body: CoordinatorInvite = { site, ttlMs: spanMs(o.ttl, '--ttl'), ...(o.note === undefined ? {} : { note: o.note }) }
      show(await call<CoordinatorInvited>(endpoint, 'POST', '/v1/invitations', body), wantsJson(command), r =>
        `${r.token}\n\nfor site ${r.site}, once, until ${minute(r.expiresAt)} UTC; invitation ${r.id}\nnext: on the first gateway of ${r.site}: musubi site init --join TOKEN`)
    })
  coordinator.command('invitations').description('invitations of this coordinator, without their secrets')
    .addHelpText('after', '\nExamples:\n  musubi coordinator invitations\n  musubi coordinator invitations --json | jq \'.[] | select(.state == "open")\'')
    .action(async (_o: object, command: Command) => { show(await call<InvitationResource[]>(coordinatorEndpoint(command), 'GET', '/v1/invitations'), wantsJson(command), invitationsTable) })
  coordinator.command('sites').description('sites that were admitted, and those that are heard of')
    .addHelpText('after', '\nExamples:\n  musubi coordinator sites\n  musubi coordinator sites --json | jq \'.[] | select(.state != "alive") | .site\'')
    .action(async (_o: object, command: Command) => { show(await call<CoordinatorSite[]>(coordinatorEndpoint(command), 'GET', '/v1/admissions'), wantsJson(command), sitesTable) })
  coordinator.command('revoke <site>').description('put a site out of the federation: every member closes its connections to it')
    .option('--reason <text>', 'told to whoever asks, and to the site')
    .option('--key <peerId>', 'key of the site, where two hold one name')
    .option('--yes', 'needed: this cannot be taken back; the site joins again with a new token only')
    .addHelpText('after', `
Open invitations of the site are withdrawn with it. Doing it again changes nothing.

Examples:
  musubi coordinator revoke tokyo --reason "key was lost" --yes
  musubi coordinator revoke tokyo --key 12D3Koo... --yes --json`)
    .action(async (site: string, o: { reason?: string, key?: string, yes?: boolean }, command: Command) => {
      if (o.yes !== true) throw new InvalidInputError(`this puts site ${site} out of the federation, with all of its hosts, for good`, 'say that you mean it: --yes')
      const body: CoordinatorRevoke = { site, ...(o.reason === undefined ? {} : { reason: o.reason }), ...(o.key === undefined ? {} : { key: o.key }) }
      show(await call<CoordinatorRevoked>(coordinatorEndpoint(command), 'POST', '/v1/revocations', body), wantsJson(command), r =>
        `site ${r.site} (${r.key}): ${r.already ? 'was revoked before' : 'revoked'}, ${minute(r.revokedAt)} UTC${r.withdrawn.length === 0 ? '' : `\nwithdrawn invitations: ${r.withdrawn.join(', ')}`}`)
    })
}
