import { open } from 'node:fs/promises'
import { Ajv } from 'ajv'
import { Type, type Static } from 'typebox'
import { parse } from 'yaml'
import { multiaddr } from '@multiformats/multiaddr'
import { InvalidInputError, MusubiError } from '../core/errors.ts'
import { checkPeerId } from './identity.ts'

const MAX_FILE_BYTES = 1024 * 1024
const MAX_SITES = 1000
const MAX_HOSTS_PER_SITE = 1000

const Name = Type.String({ pattern: '^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$' })
const PeerIdText = Type.String({ minLength: 8, maxLength: 128 })
const Addresses = Type.Array(Type.String({ minLength: 1, maxLength: 256 }), { maxItems: 8 })
const strict = { additionalProperties: false }

const FederationSchema = Type.Object({
  name: Name,
  coordinators: Type.Array(Type.Object({ name: Name, peerId: PeerIdText, addresses: Addresses }, strict), { maxItems: 16 }),
  sites: Type.Array(Type.Object({
    name: Name,
    hosts: Type.Array(Type.Object({
      name: Name,
      peerId: PeerIdText,
      roles: Type.Array(Type.Union([Type.Literal('gateway'), Type.Literal('compute'), Type.Literal('storage')]), { minItems: 1, uniqueItems: true }),
      addresses: Addresses
    }, strict), { maxItems: MAX_HOSTS_PER_SITE })
  }, strict), { maxItems: MAX_SITES })
}, strict)

/** The federation file as data. */
export type FederationDocument = Static<typeof FederationSchema>
export type HostRoleName = 'gateway' | 'compute' | 'storage'

/** What a peer is in the federation. */
export type Role =
  | { readonly kind: 'host', readonly site: string, readonly host: string, readonly roles: readonly HostRoleName[] }
  | { readonly kind: 'coordinator', readonly name: string }

/** A peer and where it may be reached (multiaddrs, without the trailing `/p2p/`). */
export interface Neighbour { readonly peerId: string, readonly addresses: readonly string[] }

/** The seam of trust: asked for every connection, inbound and outbound, before any application byte. */
export interface Admission {
  admits (peerId: string): boolean
}

/** Who is who. */
export interface Roster {
  roleOf (peerId: string): Role | null
}

/** The members of a federation, as one file lists them. */
export interface Federation extends Roster {
  readonly name: string
  readonly document: FederationDocument
  /** every member with its addresses, in the order of the file, coordinators first */
  readonly members: readonly Neighbour[]
}

export function isGateway (role: Role): boolean {
  return role.kind === 'host' && role.roles.includes('gateway')
}

/** `tokyo/gw1` or `coordinator main`: what people call a peer. */
export function describeRole (role: Role): string {
  return role.kind === 'host' ? `${role.site}/${role.host}` : `coordinator ${role.name}`
}

const validate = new Ajv({ allErrors: true }).compile<FederationDocument>(FederationSchema)

/** Whether it is a TCP multiaddr without PeerId, such as `/ip4/10.1.2.3/tcp/4001`. */
export function isTcpAddress (text: string): boolean {
  try {
    return /^(ip4|ip6|dns|dns4|dns6) tcp$/.test(multiaddr(text).getComponents().map(({ name }) => name).join(' '))
  } catch {
    return false
  }
}

function checkAddress (text: string, where: string): void {
  if (isTcpAddress(text)) return
  throw new InvalidInputError(`${where}: '${text}' is not an address of the form /ip4/ADDRESS/tcp/PORT`, 'leave out /p2p/: the PeerId stands in its own field')
}

/** Refuses a second use of a name or PeerId, naming both places. */
function once (seen: Map<string, string>, key: string, what: string, where: string): void {
  const first = seen.get(key)
  if (first !== undefined) throw new InvalidInputError(`${where}: ${what} '${key}' is already used by ${first}`)
  seen.set(key, where)
}

/**
 * Federation file as text -> lookups.
 *
 * @param source name of the file, for messages
 * @throws InvalidInputError with every place that does not fit, or the first name, PeerId or
 * address that cannot be used
 */
export function parseFederation (text: string, source = 'federation file'): Federation {
  let data: unknown
  try {
    data = parse(text, { maxAliasCount: 0 })
  } catch (cause) {
    throw new InvalidInputError(`${source} is not YAML: ${cause instanceof Error ? cause.message.split('\n')[0] ?? '' : ''}`)
  }
  if (!validate(data)) {
    const faults = (validate.errors ?? []).slice(0, 8).map(({ instancePath, message, params }) => {
      const extra: unknown = params['additionalProperty']
      return `${instancePath === '' ? '/' : instancePath} ${message ?? 'does not fit'}${typeof extra === 'string' ? `: ${extra}` : ''}`
    })
    throw new InvalidInputError(`${source}: ${faults.join('; ')}`)
  }
  const roles = new Map<string, Role>()
  const members: Neighbour[] = []
  const peers = new Map<string, string>()
  const add = (where: string, peerId: string, addresses: readonly string[], role: Role): void => {
    checkPeerId(peerId, where)
    once(peers, peerId, 'PeerId', where)
    for (const address of addresses) checkAddress(address, where)
    roles.set(peerId, role)
    members.push({ peerId, addresses })
  }
  const names = new Map<string, string>()
  for (const { name, peerId, addresses } of data.coordinators) {
    once(names, name, 'coordinator name', `${source}: coordinator ${name}`)
    add(`${source}: coordinator ${name}`, peerId, addresses, { kind: 'coordinator', name })
  }
  const sites = new Map<string, string>()
  for (const site of data.sites) {
    once(sites, site.name, 'site name', `${source}: site ${site.name}`)
    const hosts = new Map<string, string>()
    for (const { name, peerId, addresses, roles: hostRoles } of site.hosts) {
      const where = `${source}: host ${site.name}/${name}`
      once(hosts, name, 'host name', where)
      add(where, peerId, addresses, { kind: 'host', site: site.name, host: name, roles: hostRoles })
    }
  }
  return { name: data.name, document: data, members, roleOf: peerId => roles.get(peerId) ?? null }
}

/** @throws MusubiError NO_FEDERATION when it cannot be read; see {@link parseFederation} */
export async function loadFederation (path: string): Promise<Federation> {
  const unreadable = (cause: unknown): never => {
    throw new MusubiError('NO_FEDERATION', `cannot read the federation file ${path}`, { cause, hint: 'its path is set in the configuration of the agent or coordinator' })
  }
  const file = await open(path, 'r').catch(unreadable)
  try {
    const stat = await file.stat().catch(unreadable)
    if (stat.size > MAX_FILE_BYTES) throw new InvalidInputError(`${path}: ${stat.size} bytes, at most ${MAX_FILE_BYTES} are allowed`)
    return parseFederation(await file.readFile('utf8').catch(unreadable), path)
  } finally {
    await file.close()
  }
}

/**
 * Whether two members may connect. Symmetric: hosts admit their own site and the coordinators;
 * gateways also the gateways of other sites; coordinators every member.
 */
export function mayConnect (own: Role, other: Role): boolean {
  if (own.kind === 'coordinator' || other.kind === 'coordinator') return true
  return own.site === other.site || (isGateway(own) && isGateway(other))
}

/** Admission by the federation file, for the member `self`. Strangers are never admitted. */
export function admissionBy (roster: Roster, self: string): Admission {
  return {
    admits (peerId) {
      const own = roster.roleOf(self)
      const other = roster.roleOf(peerId)
      return own !== null && other !== null && mayConnect(own, other)
    }
  }
}

/** A set of members that share records; one gossip topic each. */
export type Scope = 'directory' | `site/${string}`

/**
 * The scopes that a member takes part in: a host its site's, a gateway the directory as well, a
 * coordinator the directory alone. What a site says inside stays inside.
 */
export function scopesOf (role: Role): Scope[] {
  if (role.kind === 'coordinator') return ['directory']
  return isGateway(role) ? [`site/${role.site}`, 'directory'] : [`site/${role.site}`]
}

/** Name of the gossip topic of a scope. */
export const topicOf = (scope: Scope): string => `musubi/1/${scope}`
