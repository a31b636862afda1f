import type { Connection } from '@libp2p/interface'
import { RPC_DEADLINE_MAX_MS } from '../../core/limits.ts'
import { DIRECT_FIRST_MS, DIRECT_RETRY_MAX_MS, DIRECT_RETRY_MIN_MS, RELAY_LINGER_MS, RPC_PROTOCOL } from '../constants.ts'

export interface PathsOptions {
  /** open connections to a peer */
  connections (peerId: string): Connection[]
  /**
   * Tries to get a direct connection beside a relayed one.
   *
   * @returns false when there is no way to try
   */
  goDirect (relayed: Connection): Promise<boolean>
  /** calls from now on must not take these streams */
  renewCalls (peerId: string, relayed: Connection): void
  onDirect (peerId: string): void
  onFailure (peerId: string, error: unknown): void
}

interface Relayed { readonly connection: Connection, timer: NodeJS.Timeout | null, directSinceMs: number | null }
/** Kept by peer, over the ends of connections: direct ones may open and break again and again. */
interface Attempts { count: number, nextMs: number }

/**
 * Replaces relayed connections by direct ones: tries again and again, ever less often; when there is
 * a direct one, the relayed one is closed as soon as the calls on it have ended.
 */
export class Paths {
  readonly #options: PathsOptions
  readonly #relayed = new Map<string, Relayed>()
  readonly #attempts = new Map<string, Attempts>()
  #stopped = false

  constructor (options: PathsOptions) {
    this.#options = options
  }

  /** A connection was opened. */
  opened (connection: Connection): void {
    if (this.#stopped) return
    if (!connection.direct) {
      this.#relayed.set(connection.id, { connection, timer: null, directSinceMs: null })
      connection.addEventListener('close', () => { this.#forget(connection) }, { once: true })
    }
    const peer = connection.remotePeer.toString()
    for (const entry of this.#relayed.values()) {
      if (entry.connection === connection) this.#later(entry, DIRECT_FIRST_MS)
      else if (entry.connection.remotePeer.toString() === peer) this.#look(entry)
    }
  }

  stop (): void {
    this.#stopped = true
    for (const { connection } of this.#relayed.values()) this.#forget(connection)
  }

  #forget (connection: Connection): void {
    const entry = this.#relayed.get(connection.id)
    if (entry?.timer != null) clearTimeout(entry.timer)
    this.#relayed.delete(connection.id)
  }

  #later (entry: Relayed, delayMs: number): void {
    if (this.#relayed.get(entry.connection.id) !== entry) return
    if (entry.timer !== null) clearTimeout(entry.timer)
    entry.timer = setTimeout(() => {
      entry.timer = null
      this.#look(entry)
    }, delayMs)
  }

  #look (entry: Relayed): void {
    const { connection } = entry
    const peer = connection.remotePeer.toString()
    if (this.#stopped || connection.status !== 'open') return
    if (!this.#options.connections(peer).some(({ direct }) => direct)) {
      entry.directSinceMs = null
      if (entry.timer === null) void this.#try(entry, peer)
      return
    }
    const now = performance.now()
    if (entry.directSinceMs === null) {
      entry.directSinceMs = now
      this.#options.onDirect(peer)
    }
    this.#options.renewCalls(peer, connection)
    const busy = connection.streams.some(({ protocol }) => protocol === RPC_PROTOCOL)
    const ageMs = now - entry.directSinceMs
    if (ageMs > RPC_DEADLINE_MAX_MS || (ageMs >= RELAY_LINGER_MS && !busy)) {
      this.#forget(connection)
      connection.close({ signal: AbortSignal.timeout(RELAY_LINGER_MS) }).catch((error: unknown) => { connection.abort(error instanceof Error ? error : new Error('not needed any more')) })
    } else {
      this.#later(entry, RELAY_LINGER_MS / 2)
    }
  }

  async #try (entry: Relayed, peer: string): Promise<void> {
    const now = performance.now()
    for (const [other, { nextMs }] of this.#attempts) if (now - nextMs > DIRECT_RETRY_MAX_MS) this.#attempts.delete(other)
    const { count, nextMs } = this.#attempts.get(peer) ?? { count: 0, nextMs: 0 }
    if (nextMs > now) {
      this.#later(entry, nextMs - now)
      return
    }
    const waitMs = Math.min(DIRECT_RETRY_MAX_MS, DIRECT_RETRY_MIN_MS * 2 ** Math.min(10, count))
    this.#attempts.set(peer, { count: count + 1, nextMs: now + waitMs })
    // stands for the attempt under way, too
    this.#later(entry, waitMs)
    try {
      if (await this.#options.goDirect(entry.connection)) return
      // nothing to try yet: that was no attempt
      this.#attempts.delete(peer)
      this.#later(entry, DIRECT_RETRY_MIN_MS)
    } catch (error) {
      if (!this.#stopped) this.#options.onFailure(peer, error)
    }
  }
}
