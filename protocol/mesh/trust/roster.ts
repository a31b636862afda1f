import type { Member } from './certificate.ts'

interface Entry { readonly member: Member, readonly met: boolean }

/**
 * Members that were checked, up to a number. Who has a key that certifies can make any number of
 * members: when there are too many, those go whose signer has made the most, first such as were only
 * heard of. So nobody makes us forget the members of others, and cut their connections for it.
 */
export class Roster {
  readonly #max: number
  readonly #entries = new Map<string, Entry>()
  /** PeerIds by who has signed the certificate, the longest unused first */
  readonly #groups = new Map<string, Set<string>>()

  constructor (max: number) {
    this.#max = max
  }

  get size (): number {
    return this.#entries.size
  }

  get (peerId: string): Member | undefined {
    return this.#entries.get(peerId)?.member
  }

  /** @param met whether it has proved by a connection that it is there */
  put (member: Member, met: boolean): void {
    const { peerId, issuer } = member
    const before = this.#entries.get(peerId)
    this.#delete(peerId)
    this.#entries.set(peerId, { member, met: met || before?.met === true })
    const group = this.#groups.get(issuer) ?? new Set()
    this.#groups.set(issuer, group.add(peerId))
    if (this.#entries.size > this.#max) this.#shrink()
  }

  /** Forgets all members of the site that has this key. */
  dropSite (siteKey: string): void {
    for (const [peerId, { member }] of this.#entries) if (member.siteKey === siteKey) this.#delete(peerId)
  }

  #delete (peerId: string): void {
    const entry = this.#entries.get(peerId)
    if (entry === undefined) return
    this.#entries.delete(peerId)
    const group = this.#groups.get(entry.member.issuer)
    group?.delete(peerId)
    if (group?.size === 0) this.#groups.delete(entry.member.issuer)
  }

  #shrink (): void {
    let largest = new Set<string>()
    for (const group of this.#groups.values()) if (group.size > largest.size) largest = group
    let goes: string | undefined
    for (const peerId of largest) {
      goes ??= peerId
      if (this.#entries.get(peerId)?.met === true) continue
      goes = peerId
      break
    }
    if (goes !== undefined) this.#delete(goes)
  }
}
