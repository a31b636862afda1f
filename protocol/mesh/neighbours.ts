import { DIALS_AT_ONCE, NEIGHBOUR_CHECK_MS, OWN_CHOICE_MIN, RECONNECT_MAX_MS, RECONNECT_MIN_MS, SCOPE_DEGREE } from './constants.ts'

/** The peers of one scope that may be connected to. */
export interface NeighbourGroup {
  readonly candidates: readonly string[]
  /** those of them that are always kept, beyond the degree */
  readonly always: ReadonlySet<string>
}

/** `openedMs`: when the last dial succeeded, null after a failed one. */
interface Attempts { failures: number, nextMs: number, openedMs: number | null }

/** A connection that ends sooner counts as a failed dial: the other side may refuse us after the handshake. */
const MIN_LIFE_MS = 10_000

/** Wait before attempt number `failures` + 1, jittered between half and all of it. */
export function backoffMs (failures: number, random: () => number): number {
  const full = Math.min(RECONNECT_MAX_MS, RECONNECT_MIN_MS * 2 ** Math.min(failures, 10))
  return full / 2 + random() * full / 2
}

/**
 * Which peers to dial now: for each group all that are always kept, and others up to the degree,
 * picked at random among those whose wait is over. Few at once: when all start together, each is
 * dialled by others meanwhile. Some are always of our own choice, or others could be all we see.
 */
export function choose (groups: readonly NeighbourGroup[], isConnected: (peerId: string) => boolean, isOurs: (peerId: string) => boolean, isDue: (peerId: string) => boolean, random: () => number): string[] {
  const chosen = new Set<string>()
  for (const { candidates, always } of groups) {
    const others = candidates.filter(peerId => !always.has(peerId))
    const there = others.filter(peerId => isConnected(peerId) || chosen.has(peerId))
    const own = there.filter(peerId => isOurs(peerId) || chosen.has(peerId)).length
    let missing = Math.min(DIALS_AT_ONCE, Math.max(SCOPE_DEGREE - there.length, OWN_CHOICE_MIN - own))
    for (const peerId of always) {
      if (!isConnected(peerId) && isDue(peerId)) chosen.add(peerId)
    }
    const open = others.filter(peerId => !isConnected(peerId) && !chosen.has(peerId) && isDue(peerId))
    for (; missing > 0 && open.length > 0; missing--) {
      const [peerId] = open.splice(Math.floor(random() * open.length), 1)
      if (peerId !== undefined) chosen.add(peerId)
    }
  }
  return [...chosen]
}

export interface NeighboursOptions {
  /** asked at every look: members come and go */
  groups (): readonly NeighbourGroup[]
  connected (): ReadonlySet<string>
  dial (peerId: string): Promise<void>
  /** told of a failed dial, for the log */
  onFailure (peerId: string, failures: number, error: unknown): void
}

/** Keeps the mesh connected: looks at the whole set again and again, sooner after a loss. */
export class Neighbours {
  readonly #options: NeighboursOptions
  readonly #attempts = new Map<string, Attempts>()
  readonly #dialling = new Set<string>()
  #timer: NodeJS.Timeout | null = null
  #stopped = false

  constructor (options: NeighboursOptions) {
    this.#options = options
  }

  start (): void {
    this.#check()
  }

  stop (): void {
    this.#stopped = true
    if (this.#timer !== null) clearTimeout(this.#timer)
  }

  /** A peer went away: look soon, but not all peers of it in the same instant. */
  lost (peerId: string): void {
    if (this.#stopped) return
    const now = performance.now()
    const { failures = 0, openedMs = null } = this.#attempts.get(peerId) ?? {}
    const counted = openedMs !== null && now - openedMs < MIN_LIFE_MS ? failures + 1 : 0
    this.#attempts.set(peerId, { failures: counted, nextMs: now + backoffMs(counted, Math.random), openedMs: null })
    this.#schedule(RECONNECT_MIN_MS)
  }

  #schedule (delayMs: number): void {
    if (this.#stopped) return
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#timer = setTimeout(() => { this.#check() }, delayMs)
  }

  #check (): void {
    const now = performance.now()
    const groups = this.#options.groups()
    const connected = this.#options.connected()
    this.#forget(groups, connected)
    const isConnected = (peerId: string): boolean => this.#dialling.has(peerId) || connected.has(peerId)
    const isDue = (peerId: string): boolean => (this.#attempts.get(peerId)?.nextMs ?? 0) <= now
    const isOurs = (peerId: string): boolean => this.#dialling.has(peerId) || (connected.has(peerId) && (this.#attempts.get(peerId)?.openedMs ?? null) !== null)
    for (const peerId of choose(groups, isConnected, isOurs, isDue, Math.random)) void this.#dial(peerId)
    const waits = [...this.#attempts.values()].map(({ nextMs }) => nextMs - now).filter(wait => wait > 0)
    this.#schedule(Math.max(RECONNECT_MIN_MS, Math.min(NEIGHBOUR_CHECK_MS, ...waits)))
  }

  /** Peers that are no candidates any more need no back-off. */
  #forget (groups: readonly NeighbourGroup[], connected: ReadonlySet<string>): void {
    const wanted = new Set(groups.flatMap(({ candidates }) => candidates))
    for (const peerId of this.#attempts.keys()) if (!wanted.has(peerId) && !connected.has(peerId)) this.#attempts.delete(peerId)
  }

  async #dial (peerId: string): Promise<void> {
    this.#dialling.add(peerId)
    try {
      await this.#options.dial(peerId)
      const now = performance.now()
      this.#attempts.set(peerId, { failures: this.#attempts.get(peerId)?.failures ?? 0, nextMs: now, openedMs: now })
      this.#schedule(RECONNECT_MIN_MS * (1 + Math.random()))
    } catch (error) {
      const failures = (this.#attempts.get(peerId)?.failures ?? 0) + 1
      this.#attempts.set(peerId, { failures, nextMs: performance.now() + backoffMs(failures, Math.random), openedMs: null })
      if (!this.#stopped) this.#options.onFailure(peerId, failures, error)
    } finally {
      this.#dialling.delete(peerId)
    }
  }
}
