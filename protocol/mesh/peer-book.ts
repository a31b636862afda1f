import { MAX_MEMBERS_KEPT } from '../core/limits.ts'
import { isRelayAddress, isTcpAddress, mayConnect, scopesOf, type Role, type Scope } from './roles.ts'
import { readMember, type Member } from './trust/certificate.ts'
import type { KnownPeer } from './trust/credentials.ts'
import type { Trust } from './trust/trust.ts'

const MAX_ADDRESSES = 8

/** Addresses that a peer says it has, without its PeerId; anything odd is left out. */
export function usableAddresses (peerId: string, addresses: readonly string[]): string[] {
  const suffix = `/p2p/${peerId}`
  return addresses.slice(0, MAX_ADDRESSES)
    .map(address => address.endsWith(suffix) ? address.slice(0, -suffix.length) : address)
    .filter(address => isTcpAddress(address) || isRelayAddress(address))
}

/**
 * A gateway that nobody can reach says two things: to its own site where it is in there, to the
 * others which relays reach it. Neither makes the other untrue.
 */
function merge (before: readonly string[], now: readonly string[]): string[] {
  const of = (isKind: (address: string) => boolean): string[] => (now.some(isKind) ? now : before).filter(isKind)
  return [...of(isTcpAddress), ...of(isRelayAddress)]
}

/** `given`: from the time of joining or from the disk; `heard`: what it says itself. */
interface Entry { readonly member: Member, given: readonly string[], heard: readonly string[] }

/**
 * Where members are reached. What they are comes from their certificates; those of a peer that was
 * away may have ended since, which does not keep us from dialling it: it will show its new ones.
 */
export class PeerBook {
  readonly #entries = new Map<string, Entry>()
  readonly #trust: Trust

  constructor (trust: Trust, peers: readonly KnownPeer[]) {
    this.#trust = trust
    for (const { peerId, addresses, chain } of peers) {
      try {
        const member = readMember(chain, trust.federation)
        if (member.peerId === peerId && peerId !== trust.peerId) this.#entries.set(peerId, { member, given: usableAddresses(peerId, addresses), heard: [] })
      } catch {
        // of another federation or damaged: it is met again through others
      }
    }
  }

  /** What a member says of itself; strangers are not kept. */
  learn (peerId: string, addresses: readonly string[]): void {
    const member = this.#trust.memberOf(peerId)
    if (member === null || peerId === this.#trust.peerId) return
    const known = this.#entries.get(peerId)
    this.#entries.delete(peerId)
    this.#entries.set(peerId, { member, given: known?.given ?? [], heard: merge(known?.heard ?? [], usableAddresses(peerId, addresses)) })
    if (this.#entries.size > MAX_MEMBERS_KEPT) {
      for (const oldest of this.#entries.keys()) { this.#entries.delete(oldest); break }
    }
  }

  addressesOf (peerId: string): string[] {
    const { heard = [], given = [] } = this.#entries.get(peerId) ?? {}
    return [...new Set([...heard, ...given])]
  }

  /** Who it is, also when its certificates have ended meanwhile. */
  roleOf (peerId: string): Role | null {
    return this.#trust.roleOf(peerId) ?? this.#entries.get(peerId)?.member.role ?? null
  }

  /** Members of a scope that may be dialled. */
  candidates (scope: Scope): string[] {
    const own = this.#trust.own().role
    return [...this.#entries].filter(([peerId, { member: { role } }]) => (
      scopesOf(role).includes(scope) && mayConnect(own, role) && this.addressesOf(peerId).length > 0 && !this.#isRevoked(peerId)
    )).map(([peerId]) => peerId)
  }

  /** For the disk: whom to connect to after the next start, the latest heard of first. */
  known (): KnownPeer[] {
    return [...this.#entries].filter(([peerId]) => !this.#isRevoked(peerId)).map(([peerId, { member: { chain } }]) => ({ peerId, addresses: this.addressesOf(peerId), chain })).reverse()
  }

  #isRevoked (peerId: string): boolean {
    const member = this.#entries.get(peerId)?.member
    return member !== undefined && this.#trust.revocations.covering(member) !== null
  }
}
