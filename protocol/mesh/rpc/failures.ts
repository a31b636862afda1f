import { ConflictError, InvalidInputError, MusubiError, NoCapacityError, NotFoundError, UnreachableError } from '../../core/errors.ts'
import type { wire } from '../../wire/codec.ts'

/** Where an error that came over the mesh was first thrown. */
export interface ErrorOrigin {
  /** who told us: the peer that was called */
  readonly peerId: string
  /** where it happened, which may lie behind that peer; empty when the far side did not say */
  readonly site: string
  readonly host: string
}

const MAX_MESSAGE = 2000
const MAX_HINT = 500
const MAX_NAME = 64

const origins = new WeakMap<MusubiError, ErrorOrigin>()

/** Where an error came from, when it came over the mesh. */
export function originOf (error: unknown): ErrorOrigin | null {
  return error instanceof MusubiError ? origins.get(error) ?? null : null
}

const text = (value: string, max: number): string => value.slice(0, max).toWellFormed()

/** What moves a cursor, or hides; lines stay lines, as errors of several sites have one for each. */
const UNSEEN = /(?:(?!\n)[\p{Cc}\p{Cf}\p{Zl}\p{Zp}])+/gu
/** As others wrote it, for terminals and logs of people here. */
const heard = (value: string, max: number): string => text(value, max).replace(UNSEEN, ' ')

/**
 * An error as it travels. What is not a MusubiError keeps its details at home: the far side only
 * learns that something broke here.
 *
 * @param self site and host of this process, used unless the error came from farther away
 */
export function toFailure (error: unknown, self: { site: string, host: string }): wire.Failure {
  const origin = originOf(error)
  const site = origin !== null && origin.site !== '' ? origin.site : self.site
  const host = origin !== null && origin.host !== '' ? origin.host : self.host
  if (!(error instanceof MusubiError)) {
    const where = [site, host].filter(name => name !== '').join('/')
    return { code: 'INTERNAL', message: `internal error${where === '' ? '' : ` at ${where}`}`, retryable: false, hint: 'its log has the details', site, host }
  }
  return { code: text(error.code, MAX_NAME), message: text(error.message, MAX_MESSAGE), retryable: error.retryable, hint: text(error.hint ?? '', MAX_HINT), site, host }
}

function known (code: string, message: string, hint: string | undefined): MusubiError | null {
  switch (code) {
    case 'INVALID_INPUT': return new InvalidInputError(message, hint)
    case 'NO_CAPACITY': return new NoCapacityError(message, hint)
    case 'NOT_FOUND': return new NotFoundError(message, hint)
    case 'CONFLICT': return new ConflictError(message, hint)
    case 'UNREACHABLE': return new UnreachableError(message, hint)
    default: return null
  }
}

/** The error that a peer answered with, of the same class, code, retryable and hint. */
export function fromFailure (failure: wire.Failure, peerId: string): MusubiError {
  const hint = failure.hint === '' ? undefined : heard(failure.hint, MAX_HINT)
  const message = heard(failure.message, MAX_MESSAGE)
  const code = failure.code === '' ? 'INTERNAL' : heard(failure.code, MAX_NAME)
  const typed = known(code, message, hint)
  const error = typed !== null && typed.retryable === failure.retryable
    ? typed
    : new MusubiError(code, message, { retryable: failure.retryable, ...(hint === undefined ? {} : { hint }) })
  origins.set(error, { peerId, site: heard(failure.site, MAX_NAME), host: heard(failure.host, MAX_NAME) })
  return error
}
