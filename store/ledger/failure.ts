/** What a write to the disk failed of, for the operator. */
import { MusubiError } from '../../protocol/core/errors.ts'

/** Texts of leveldb, which passes no numbers on. */
const TEXTS: ReadonlyArray<readonly [RegExp, string]> = [
  [/no space left/i, 'ENOSPC'], [/input\/output error/i, 'EIO'], [/read-only file system/i, 'EROFS'], [/quota exceeded/i, 'EDQUOT'], [/too many open files/i, 'EMFILE']
]

/** `ENOSPC`, `EIO` and the like, of the error or of what caused it; '' when nobody says. */
function errnoOf (error: unknown): string {
  for (let one: unknown = error, depth = 0; one instanceof Error && depth < 8; one = one.cause, depth++) {
    const { code } = one as { code?: unknown }
    if (typeof code === 'string' && /^E[A-Z0-9]+$/.test(code)) return code
    const text = TEXTS.find(([pattern]) => pattern.test(one.message))
    if (text !== undefined) return text[1]
  }
  return ''
}

const hints: Record<string, string> = {
  ENOSPC: 'make room on the disk of the state folder; it goes on by itself',
  EDQUOT: 'make room on the disk of the state folder; it goes on by itself',
  EROFS: 'look at why the file system of the state folder has become read-only (dmesg)'
}

/** @param what happened to it, e.g. `could not be written` */
export function ledgerFailure (host: string, what: string, cause: unknown): MusubiError {
  const errno = errnoOf(cause)
  return new MusubiError('LEDGER_FAILED', `the ledger of ${host} ${what}${errno === '' ? '' : ` (${errno})`}: ${cause instanceof Error ? cause.message : String(cause)}`, {
    retryable: true, hint: hints[errno] ?? 'look at the disk of the state folder; the agent reads the ledger anew every few seconds', cause
  })
}
