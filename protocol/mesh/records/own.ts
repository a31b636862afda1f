import { MAX_VERSION, PUBLISH_COALESCE_MS } from '../../core/limits.ts'
import type { wire } from '../../wire/codec.ts'
import type { NodeKey } from '../identity.ts'
import { isPlausible } from '../liveness/state.ts'
import type { Scope } from '../roles.ts'
import type { Chain } from '../trust/certificate.ts'
import { decodeBody, encodeBody, signRecord, type Bodies, type Kind } from './signed.ts'
import { isNewer, type Version } from './view.ts'

/** `dirty`: changed since it was last said; it is on its way. */
interface Own { readonly scope: Scope, body: Uint8Array, timer: NodeJS.Timeout | null, saidMs: number | null, dirty: boolean }

export interface OwnRecordsOptions {
  readonly key: NodeKey
  readonly epoch: number
  readonly ttlMs: number
  readonly heartbeatMs: number
  /** wall clock, Unix ms */
  readonly now: () => number
  readonly chain: () => Chain
  /** takes a record into the own view and sends it to the scope */
  readonly emit: (scope: Scope, record: wire.Record, kind: Kind, body: Bodies[Kind]) => void
}

const jitter = (ms: number): number => ms * (0.75 + Math.random() / 2)

/**
 * What this member says of itself: a change at once, further ones coalesced, and heartbeats.
 * All kinds share one sequence, so that any later record proves that the author lives.
 */
export class OwnRecords {
  readonly #options: OwnRecordsOptions
  readonly #records = new Map<Kind, Own>()
  #epoch: number
  #seq = 0
  #stopped = false

  constructor (options: OwnRecordsOptions) {
    this.#options = options
    this.#epoch = options.epoch
  }

  /** the last that was said */
  get version (): Version {
    return { epoch: this.#epoch, seq: this.#seq }
  }

  /** @throws InvalidInputError when the body does not fit a record */
  publish<K extends Kind> (scope: Scope, kind: K, body: Bodies[K]): void {
    const bytes = encodeBody(kind, body)
    const known = this.#records.get(kind)
    if (known !== undefined && Buffer.compare(known.body, bytes) === 0) return
    const mine: Own = known ?? { scope, body: bytes, timer: null, saidMs: null, dirty: false }
    this.#records.set(kind, mine)
    mine.body = bytes
    this.#soon(kind, mine)
  }

  /** Says all records again soon, in one scope or everywhere: the certificates are new, or somebody takes this member for dead. */
  sayAgain (scope?: Scope): void {
    for (const [kind, mine] of this.#records) if (scope === undefined || mine.scope === scope) this.#soon(kind, mine)
  }

  /** Somebody suspects this member at `version`: says something newer. */
  refute (scope: Scope, version: Version): void {
    // an accuser may have heard a little more than was said, by mistake or not: go beyond that too; nobody believes it of more
    if (version.seq > this.#seq && isPlausible(version, this.version)) this.#seq = version.seq
    const first = [...this.#records].find(([, mine]) => mine.scope === scope)
    if (first !== undefined) this.#soon(...first)
  }

  /** Own name on something newer than all that was said: an earlier life whose epoch was lost. @returns whether it is ahead */
  overtake (kind: Kind, version: Version): boolean {
    if (!isNewer(version, this.version) || version.epoch >= MAX_VERSION) return false
    this.#epoch = Math.max(this.#epoch, version.epoch) + 1
    const mine = this.#records.get(kind)
    // not at once: two processes with one key would chase each other
    if (mine !== undefined) this.#schedule(kind, mine, Math.max(PUBLISH_COALESCE_MS, (mine.saidMs ?? 0) + this.#options.heartbeatMs / 4 - performance.now()))
    return true
  }

  /** Says goodbye in every kind, and nothing any more. */
  leave (): void {
    for (const [kind, mine] of this.#records) this.#say(kind, mine, true)
    this.stop()
  }

  stop (): void {
    this.#stopped = true
    for (const { timer } of this.#records.values()) if (timer !== null) clearTimeout(timer)
  }

  #soon (kind: Kind, mine: Own): void {
    if (mine.dirty || this.#stopped) return
    mine.dirty = true
    const waitMs = mine.saidMs === null ? 0 : mine.saidMs + PUBLISH_COALESCE_MS - performance.now()
    if (waitMs <= 0) this.#say(kind, mine, false)
    else this.#schedule(kind, mine, waitMs)
  }

  #say (kind: Kind, mine: Own, leaving: boolean): void {
    const { key, ttlMs, heartbeatMs, now, chain, emit } = this.#options
    mine.dirty = false
    mine.saidMs = performance.now()
    this.#seq++
    this.#schedule(kind, mine, jitter(heartbeatMs))
    const body = decodeBody(kind, mine.body)
    emit(mine.scope, signRecord(key, kind, { version: this.version, ttlMs, madeMs: now(), leaving, chain: chain() }, body), kind, body)
  }

  #schedule (kind: Kind, mine: Own, delayMs: number): void {
    if (this.#stopped) return
    if (mine.timer !== null) clearTimeout(mine.timer)
    mine.timer = setTimeout(() => { this.#say(kind, mine, false) }, delayMs)
  }
}
