import { multiaddr } from '@multiformats/multiaddr'

export type HostRoleName = 'gateway' | 'compute' | 'storage'
export const HOST_ROLES: readonly HostRoleName[] = ['gateway', 'compute', 'storage']

/** Names of sites, hosts and coordinators. */
export const NAME = /^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$/

/** What a peer is in the federation. */
export type Role =
  | { readonly kind: 'host', readonly site: string, readonly host: string, readonly roles: readonly HostRoleName[] }
  | { readonly kind: 'coordinator', readonly name: string }

export function isGateway (role: Role): boolean {
  return role.kind === 'host' && role.roles.includes('gateway')
}

/** `tokyo/gw1` or `coordinator main`: what people call a peer. */
export function describeRole (role: Role): string {
  return role.kind === 'host' ? `${role.site}/${role.host}` : `coordinator ${role.name}`
}

/**
 * Whether two members may connect. Symmetric: hosts admit their own site and the coordinators;
 * gateways also the gateways of other sites; coordinators every member.
 */
export function mayConnect (own: Role, other: Role): boolean {
  if (own.kind === 'coordinator' || other.kind === 'coordinator') return true
  return own.site === other.site || (isGateway(own) && isGateway(other))
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

/** Whether it is a TCP multiaddr without PeerId, such as `/ip4/10.1.2.3/tcp/4001`. */
export function isTcpAddress (text: string): boolean {
  return shapeOf(text, /^(ip4|ip6|dns|dns4|dns6) tcp$/)
}

/** Whether it leads through a relay: `/ip4/10.1.2.3/tcp/4001/p2p/RELAY/p2p-circuit`. */
export function isRelayAddress (text: string): boolean {
  return shapeOf(text, /^(ip4|ip6|dns|dns4|dns6) tcp p2p p2p-circuit$/)
}

function shapeOf (text: string, shape: RegExp): boolean {
  try {
    return text.length <= 256 && shape.test(multiaddr(text).getComponents().map(({ name }) => name).join(' '))
  } catch {
    return false
  }
}
