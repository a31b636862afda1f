import { WATCH_DIRECTORY_MS, WATCH_SITE_MS, WATCHED_PEERS } from '../constants.ts'
import { bucketOf } from '../records/view.ts'
import type { Scope } from '../roles.ts'
import type { PatientClock } from './clock.ts'

const RING = 2 ** 32

/**
 * The next `count` members after `self` on a ring, ordered by hash of their PeerId: as everybody
 * sees the same ring, everybody is watched by as many, however large the scope is.
 */
export function successors (self: string, members: Iterable<string>, count: number): string[] {
  const from = bucketOf(self, RING)
  const distance = (peer: string): number => (bucketOf(peer, RING) - from + RING) % RING
  const nearest: Array<{ peer: string, away: number }> = []
  for (const peer of members) {
    if (peer === self) continue
    const away = distance(peer)
    if (nearest.length >= count && away >= (nearest.at(-1)?.away ?? 0)) continue
    nearest.push({ peer, away })
    nearest.sort((a, b) => a.away - b.away || (a.peer < b.peer ? -1 : 1))
    nearest.length = Math.min(nearest.length, count)
  }
  return nearest.map(({ peer }) => peer)
}

export interface PingerOptions {
  readonly self: string
  readonly scopes: readonly Scope[]
  /** those of a scope who are not dead */
  readonly members: (scope: Scope) => Iterable<string>
  readonly isConnected: (peer: string) => boolean
  readonly clock: PatientClock
  /** Asks a peer, connecting to it where needed. @returns whether it answered within `timeoutMs` */
  readonly ping: (scope: Scope, peer: string) => Promise<boolean>
  readonly timeoutMs: number
  readonly onResult: (peer: string, answered: boolean) => void
}

interface Watched { readonly scope: Scope, readonly peer: string, nextMs: number, pinging: boolean }

/**
 * Asks a few peers, again and again, whether they are there: an open connection says nothing about
 * a hung process. Connections are not closed for it: a busy host must not lose the calls that it
 * works on.
 */
export class Pinger {
  readonly #options: PingerOptions
  readonly #watched = new Map<string, Watched>()
  /** those that have no way from here: they are left to others */
  readonly #unreachable = new Set<string>()
  #chosenMs = -Infinity

  constructor (options: PingerOptions) {
    this.#options = options
  }

  connected (peer: string): void {
    this.#unreachable.delete(peer)
  }

  /** It has called, which nobody hung does. */
  proof (peer: string): void {
    for (const watched of this.#watched.values()) if (watched.peer === peer) watched.nextMs = this.#next(watched.scope)
  }

  /** Call it often; asks those whose turn it is. */
  tick (): void {
    const nowMs = this.#options.clock.nowMs
    if (nowMs - this.#chosenMs >= WATCH_SITE_MS / 2) this.#choose(nowMs)
    for (const watched of this.#watched.values()) if (!watched.pinging && watched.nextMs <= nowMs) void this.#ping(watched)
  }

  #choose (nowMs: number): void {
    const { self, scopes, members } = this.#options
    this.#chosenMs = nowMs
    const chosen = new Set<string>()
    for (const scope of scopes) {
      const reachable = [...members(scope)].filter(peer => !this.#unreachable.has(peer))
      for (const peer of successors(self, reachable, WATCHED_PEERS)) {
        const key = `${scope} ${peer}`
        chosen.add(key)
        // not all in the same moment after a start
        if (!this.#watched.has(key)) this.#watched.set(key, { scope, peer, nextMs: nowMs + Math.random() * intervalOf(scope), pinging: false })
      }
    }
    for (const key of this.#watched.keys()) if (!chosen.has(key)) this.#watched.delete(key)
  }

  async #ping (watched: Watched): Promise<void> {
    const { clock, ping, timeoutMs, onResult, isConnected } = this.#options
    const { scope, peer } = watched
    const fromMs = clock.nowMs
    watched.pinging = true
    const answered = await ping(scope, peer)
    watched.pinging = false
    watched.nextMs = this.#next(scope)
    if (answered) onResult(peer, true)
    else if (!isConnected(peer)) this.#unreachable.add(peer)
    // this process was late itself, or the call could not be sent: that says nothing about the peer
    else if (clock.nowMs - fromMs < timeoutMs * 0.75) watched.nextMs = clock.nowMs + timeoutMs / 4
    else onResult(peer, false)
  }

  #next (scope: Scope): number {
    return this.#options.clock.nowMs + intervalOf(scope) * (0.85 + Math.random() * 0.15)
  }
}

const intervalOf = (scope: Scope): number => scope === 'directory' ? WATCH_DIRECTORY_MS : WATCH_SITE_MS
