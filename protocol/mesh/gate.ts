import type { Connection, Libp2p, MultiaddrConnection } from '@libp2p/interface'
import { MAX_CONNECTIONS_PER_PEER, MAX_CONNECTIONS_PER_SITE, MAX_COUNTED_PEERS, MAX_OFFENCES_PER_MINUTE, MAX_PENDING_PER_ADDRESS, SHUT_OUT_MS } from '../core/limits.ts'
import { MinuteCounter } from './records/offences.ts'
import { describeRole, type Role } from './roles.ts'
import { NOT_ADMITTED_CODES, NotAdmittedError, type Member } from './trust/certificate.ts'

/** Codes of ours are few; peers can invent any, and names that objects have already. */
const MAX_CODES = 64

/** Counts by code. */
export class Refusals {
  /** what the last peer said that did not admit us */
  last: string | null = null
  readonly #us = new Map<string, number>()
  readonly #them = new Map<string, number>()

  /** @returns how often by now */
  count (by: 'us' | 'them', code: string): number {
    const counts = by === 'us' ? this.#us : this.#them
    const isOurs = by === 'us' ? counts.has(code) || counts.size < MAX_CODES : (NOT_ADMITTED_CODES as readonly string[]).includes(code)
    const key = isOurs ? code : 'OTHER'
    const times = (counts.get(key) ?? 0) + 1
    counts.set(key, times)
    return times
  }

  get (): { us: Record<string, number>, them: Record<string, number> } {
    return { us: Object.fromEntries(this.#us), them: Object.fromEntries(this.#them) }
  }
}

export interface GateOptions {
  /** own site; null of a coordinator */
  readonly site: string | null
  readonly roleOf: (peerId: string) => Role | null
  /** open connections, to one peer or all */
  readonly connections: (peerId?: string) => ReadonlyArray<Pick<Connection, 'remotePeer'>>
}

/** Who is let in though its certificates hold: nobody takes the place of others, nor comes back at once after misbehaving. */
export class Gate {
  readonly #options: GateOptions
  readonly #offences = new MinuteCounter(MAX_OFFENCES_PER_MINUTE)
  readonly #shutOut = new Map<string, number>()

  constructor (options: GateOptions) {
    this.#options = options
  }

  /** @throws NotAdmittedError SHUT_OUT, TOO_MANY_CONNECTIONS */
  check ({ peerId, role }: Member, nowMs: number): void {
    const { site, roleOf, connections } = this.#options
    const untilMs = this.#shutOut.get(peerId) ?? 0
    if (untilMs > nowMs) throw new NotAdmittedError('SHUT_OUT', `${describeRole(role)} sent what nobody honest sends, and is not let in for another ${Math.ceil((untilMs - nowMs) / 1000)} s`, 'the log of the other side says what it was; is it of another release?')
    const own = connections(peerId).length
    if (own >= MAX_CONNECTIONS_PER_PEER) throw new NotAdmittedError('TOO_MANY_CONNECTIONS', `${describeRole(role)} has ${own} connections already`)
    if (role.kind !== 'host' || role.site === site || own > 0) return
    const peers = connections().filter(({ remotePeer }) => {
      const other = roleOf(remotePeer.toString())
      return other?.kind === 'host' && other.site === role.site
    })
    if (peers.length >= MAX_CONNECTIONS_PER_SITE) throw new NotAdmittedError('TOO_MANY_CONNECTIONS', `site ${role.site} has ${peers.length} connections already`)
  }

  /** Counts what nobody honest does. @returns whether it was once too often: the peer is shut out then */
  offend (peerId: string, nowMs: number): boolean {
    if (!this.#offences.add(peerId, nowMs)) return false
    this.shutOut(peerId, nowMs)
    return true
  }

  shutOut (peerId: string, nowMs: number): void {
    this.#offences.reset(peerId)
    this.#shutOut.delete(peerId)
    this.#shutOut.set(peerId, nowMs + SHUT_OUT_MS)
    for (const [peer, untilMs] of this.#shutOut) if (untilMs <= nowMs || this.#shutOut.size > MAX_COUNTED_PEERS) this.#shutOut.delete(peer)
  }
}

/**
 * Counts connections that are being set up by the address they come from.
 *
 * @returns whether one more is too many; for libp2p's `denyInboundConnection`
 */
export function pendingShares (events: Pick<Libp2p, 'addEventListener'>): (connection: MultiaddrConnection) => boolean {
  const pending = new Map<string, Set<string>>()
  const addressOf = ({ remoteAddr }: Pick<MultiaddrConnection, 'remoteAddr'>): string => remoteAddr.getComponents().find(({ name }) => name.startsWith('ip'))?.value ?? ''
  const done = (connection: Pick<MultiaddrConnection, 'remoteAddr'>): void => {
    const address = addressOf(connection)
    const share = pending.get(address)
    share?.delete(connection.remoteAddr.toString().replace(/\/p2p\/[^/]*$/, ''))
    if (share?.size === 0) pending.delete(address)
  }
  events.addEventListener('connection:open', ({ detail }) => { done(detail) })
  return connection => {
    // through a relay, which has its own bounds
    if (connection.remoteAddr.getComponents().some(({ name }) => name === 'p2p-circuit')) return false
    const address = addressOf(connection)
    const share = pending.get(address) ?? new Set()
    if (share.size >= MAX_PENDING_PER_ADDRESS) return true
    pending.set(address, share.add(connection.remoteAddr.toString()))
    connection.addEventListener('close', () => { done(connection) }, { once: true })
    return false
  }
}
