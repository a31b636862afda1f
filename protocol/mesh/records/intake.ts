import { setImmediate as nextTurn } from 'node:timers/promises'
import { errorCode, InvalidInputError, MusubiError } from '../../core/errors.ts'
import { MAX_GATEWAYS_PER_SITE, MAX_RECORDS_PER_MINUTE } from '../../core/limits.ts'
import type { wire } from '../../wire/codec.ts'
import { describeRole, scopesOf, type Role, type Scope } from '../roles.ts'
import { CLOCK_SKEW_MS, NotAdmittedError } from '../trust/certificate.ts'
import type { Trust } from '../trust/trust.ts'
import { MinuteCounter } from './offences.ts'
import type { OwnRecords } from './own.ts'
import { bodyProblem, checkRecord, decodeBody, isAuthentic, isKind, kindsOf, type Bodies, type Kind } from './signed.ts'
import type { Merge, RecordView } from './view.ts'

/** What happened to what was received, counted since the start. */
export interface RecordCounts {
  taken: number
  stale: number
  expired: number
  /** the view has no room for another peer */
  full: number
  /** more of one author than an honest one says */
  flooded: number
  /** not signed by whom it names */
  forged: number
  /** of a kind or about something that its author has no say in */
  refused: number
  malformed: number
  /** made later than now by more than clocks differ */
  future: number
  /** over for so long that somebody must have kept it */
  replayed: number
  /** suspicions that were believed, or known, or not */
  suspicions: number
  suspicionsStale: number
  suspicionsRefused: number
  /** revocations that were new here */
  revocations: number
  /** peers whose connection was closed for what they sent */
  dropped: number
  /** records whose author is no member, by the code of {@link NotAdmittedError} */
  readonly notAdmitted: Record<string, number>
}

export const noCounts = (): RecordCounts => ({
  taken: 0, stale: 0, expired: 0, full: 0, flooded: 0, forged: 0, refused: 0, malformed: 0, future: 0, replayed: 0,
  suspicions: 0, suspicionsStale: 0, suspicionsRefused: 0, revocations: 0, dropped: 0, notAdmitted: {}
})

/** Nobody honest passes these on: they were checked before. What depends on clocks, or on news that travels, is no offence. */
const OFFENCES: ReadonlySet<string> = new Set(['FORGED_RECORD', 'FORGED_SUSPICION', 'INVALID_INPUT', 'NO_CERTIFICATE', 'BAD_CERTIFICATE', 'OTHER_FEDERATION'])

export function isOffence (error: unknown): boolean {
  return OFFENCES.has(errorCode(error))
}

type Views = { readonly [K in Kind]: RecordView<Bodies[K]> }

export interface IntakeOptions {
  readonly trust: Trust
  readonly views: Views
  readonly own: OwnRecords
  readonly counts: RecordCounts
  /** wall clock, Unix ms */
  now (): number
  accepts<K extends Kind> (role: Role, peerId: string, kind: K, body: Bodies[K]): boolean
  /** takes a checked record into the view */
  merge<K extends Kind> (scope: Scope, kind: K, record: wire.Record, body: Bodies[K]): Merge
  /** told when an earlier life of this member is ahead of it */
  onOvertake (kind: Kind, record: wire.Record): void
}

/** `flooded`: its author says too much; the latest of it comes with anti-entropy. */
export type Outcome = Merge | 'flooded'

const sameChain = (a: readonly Uint8Array[], b: readonly Uint8Array[]): boolean => a.length === b.length && a.every((bytes, index) => Buffer.compare(bytes, b[index] ?? new Uint8Array()) === 0)

/** Judges every record from the mesh before it is kept or passed on. */
export class Intake {
  readonly #options: IntakeOptions
  readonly #authors = new MinuteCounter(MAX_RECORDS_PER_MINUTE)

  constructor (options: IntakeOptions) {
    this.#options = options
  }

  /**
   * Checks one record, cheapest first, and counts what came of it.
   *
   * @throws MusubiError REFUSED_RECORD, FUTURE_DATED, REPLAYED_RECORD, FORGED_RECORD; InvalidInputError; NotAdmittedError
   */
  take (record: wire.Record, scope: Scope): Outcome {
    const { counts } = this.#options
    try {
      const outcome = this.#take(record, scope)
      counts[outcome]++
      return outcome
    } catch (error) {
      this.#count(error)
      throw error
    }
  }

  /**
   * Takes what a peer offers. One bad record does not keep the others out, unless nobody honest
   * would have passed it on.
   *
   * @param from the peer; when its own record is refused, it is told why, so that somebody mends its clock
   * @throws MusubiError at the first offence; at the end, when a record by `from` was refused
   */
  async takeAll (records: readonly wire.Record[], scope: Scope, from: string): Promise<void> {
    let refusal: MusubiError | null = null
    for (const [index, record] of records.entries()) {
      // signatures cost time: let others have a turn
      if (index % 32 === 31) await nextTurn()
      try {
        this.take(record, scope)
      } catch (error) {
        if (!(error instanceof MusubiError) || isOffence(error)) throw error
        if (record.peer === from) refusal = error
      }
    }
    if (refusal !== null) throw refusal
  }

  #take (record: wire.Record, scope: Scope): Outcome {
    const { trust, views, own } = this.#options
    const { kind, peer } = record
    checkRecord(record)
    if (!isKind(kind) || !kindsOf(scope).includes(kind)) throw new MusubiError('REFUSED_RECORD', `a record of kind ${JSON.stringify(kind.slice(0, 40))} has no place in ${scope}`)
    if (peer === trust.peerId) {
      if (isAuthentic(record) && own.overtake(kind, record)) this.#options.onOvertake(kind, record)
      return 'stale'
    }
    const expected = views[kind].judge(peer, record, record.ttlMs, record.ageMs, performance.now())
    if (expected !== 'taken') return expected
    const role = this.#admit(record)
    this.#checkDate(record, role)
    if (!scopesOf(role).includes(scope)) throw new MusubiError('REFUSED_RECORD', `${describeRole(role)} takes no part in ${scope}`)
    if (!isAuthentic(record)) throw new MusubiError('FORGED_RECORD', `a record in the name of ${describeRole(role)} is not signed by it`)
    const body = decodeBody(kind, record.body)
    if (!this.#options.accepts(role, peer, kind, body)) throw new MusubiError('REFUSED_RECORD', `${describeRole(role)} may not say that as ${kind}`)
    // its last good record stays
    const problem = bodyProblem(kind, body)
    if (problem !== null) throw new MusubiError('REFUSED_RECORD', `a ${kind} record of ${describeRole(role)} is refused: it has ${problem}`)
    if (this.#authors.add(peer, performance.now())) return 'flooded'
    if (kind === 'site' && role.kind === 'host' && this.#isFull(role.site, peer)) return 'full'
    return this.#options.merge(scope, kind, record, body)
  }

  /** A site's key can make any number of gateways, each of which would take the place of another site's. */
  #isFull (site: string, peer: string): boolean {
    const { site: view } = this.#options.views
    return view.get(peer) === undefined && [...view.entries()].filter(({ body }) => body.site === site).length >= MAX_GATEWAYS_PER_SITE
  }

  /** @throws NotAdmittedError */
  #admit ({ peer, chain }: wire.Record): Role {
    const { trust } = this.#options
    const known = trust.memberOf(peer)
    // always with its chain: whom it is passed on to may not know the author
    if (known !== null && sameChain(known.chain, chain)) return known.role
    return trust.admit(peer, chain).role
  }

  /** @throws MusubiError FUTURE_DATED, REPLAYED_RECORD */
  #checkDate ({ madeMs, ttlMs }: wire.Record, role: Role): void {
    const now = this.#options.now()
    const hint = 'compare the clocks of both hosts'
    if (madeMs > now + CLOCK_SKEW_MS) throw new MusubiError('FUTURE_DATED', `a record of ${describeRole(role)} is dated ${Math.round((madeMs - now) / 1000)} s from now`, { hint })
    if (madeMs + ttlMs + CLOCK_SKEW_MS < now) throw new MusubiError('REPLAYED_RECORD', `a record of ${describeRole(role)} was made ${Math.round((now - madeMs) / 1000)} s ago and lived ${Math.round(ttlMs / 1000)} s`, { hint })
  }

  #count (error: unknown): void {
    const { counts } = this.#options
    if (error instanceof NotAdmittedError) counts.notAdmitted[error.code] = (counts.notAdmitted[error.code] ?? 0) + 1
    else if (error instanceof InvalidInputError) counts.malformed++
    else {
      switch (errorCode(error)) {
        case 'FUTURE_DATED': counts.future++; break
        case 'REPLAYED_RECORD': counts.replayed++; break
        case 'FORGED_RECORD': counts.forged++; break
        case 'REFUSED_RECORD': counts.refused++; break
      }
    }
  }
}
