/**
 * Every failure that crosses a module border is a MusubiError: a stable `code` for programs,
 * a message that names the thing and the place, and a `hint` with the next step for people.
 */
export class MusubiError extends Error {
  override readonly name: string = 'MusubiError'
  readonly code: string
  readonly retryable: boolean
  readonly hint: string | undefined

  /**
   * @param code stable upper-case identifier, e.g. `NO_CAPACITY`
   * @param message what happened, where, to what
   * @param options.retryable true when the same call may succeed later
   * @param options.hint what the reader should try next
   */
  constructor (code: string, message: string, options: { retryable?: boolean, hint?: string, cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.code = code
    this.retryable = options.retryable ?? false
    this.hint = options.hint
  }
}

/** Input from outside that does not fit its schema. */
export class InvalidInputError extends MusubiError {
  override readonly name = 'InvalidInputError'
  constructor (message: string, hint?: string) {
    super('INVALID_INPUT', message, hint === undefined ? {} : { hint })
  }
}

/** No host, or not enough hosts, can hold what was asked. */
export class NoCapacityError extends MusubiError {
  override readonly name = 'NoCapacityError'
  constructor (message: string, hint?: string) {
    super('NO_CAPACITY', message, { retryable: true, ...(hint === undefined ? {} : { hint }) })
  }
}

/** The named object does not exist here. */
export class NotFoundError extends MusubiError {
  override readonly name = 'NotFoundError'
  constructor (message: string, hint?: string) {
    super('NOT_FOUND', message, hint === undefined ? {} : { hint })
  }
}

/** The object exists, in a state in which this is not allowed. */
export class ConflictError extends MusubiError {
  override readonly name = 'ConflictError'
  constructor (message: string, hint?: string) {
    super('CONFLICT', message, hint === undefined ? {} : { hint })
  }
}

/** A peer or service did not answer in time, or not at all. */
export class UnreachableError extends MusubiError {
  override readonly name = 'UnreachableError'
  constructor (message: string, hint?: string, cause?: unknown) {
    super('UNREACHABLE', message, { retryable: true, ...(hint === undefined ? {} : { hint }), cause })
  }
}

/** One line for people: the message, and what to do next where that is known. */
export function describeError (error: unknown): string {
  if (error instanceof MusubiError) return error.hint === undefined ? error.message : `${error.message} (${error.hint})`
  if (error instanceof Error) return error.message
  return String(error)
}

/** The stable code of any error; `INTERNAL` for what is not ours. */
export function errorCode (error: unknown): string {
  return error instanceof MusubiError ? error.code : 'INTERNAL'
}
