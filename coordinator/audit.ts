import { mkdir, open, rename, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { AUDIT_FILE_BYTES, AUDIT_FILES_KEPT } from '../protocol/core/limits.ts'

/** What is audited: every act that decides who is in the federation, or could. */
export type AuditAct = 'init' | 'invite' | 'withdraw' | 'redeem' | 'revoke' | 'export' | 'import'

/** Append-only JSON lines in `stateDir/audit.log`. */
export interface Audit {
  /** On the disk when it resolves. No secrets in `data`. */
  write (act: AuditAct, data: Readonly<Record<string, string | number | boolean | null>>): Promise<void>
}

const PATH = 'audit.log'

async function sizeOf (path: string): Promise<number> {
  try {
    return (await stat(path)).size
  } catch {
    return 0
  }
}

async function renameIfThere (from: string, to: string): Promise<void> {
  await rename(from, to).catch((error: unknown) => {
    if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error
  })
}

/**
 * The audit log of a state folder. Full files become `audit.log.1`, `.2`, ...; the oldest goes.
 *
 * @param options.now wall clock, Unix ms
 * @param options.maxBytes size at which a new file is begun
 */
export function openAudit (stateDir: string, { now, maxBytes = AUDIT_FILE_BYTES }: { now: () => number, maxBytes?: number }): Audit {
  const path = join(stateDir, PATH)
  let last: Promise<void> = Promise.resolve()

  const append = async (line: string): Promise<void> => {
    await mkdir(stateDir, { recursive: true, mode: 0o700 })
    if (await sizeOf(path) + Buffer.byteLength(line) > maxBytes) {
      for (let index = AUDIT_FILES_KEPT; index > 1; index--) await renameIfThere(`${path}.${index - 1}`, `${path}.${index}`)
      await renameIfThere(path, `${path}.1`)
    }
    const file = await open(path, 'a+', 0o600)
    try {
      const { size } = await file.stat()
      const last = size === 0 ? '\n' : (await file.read(Buffer.alloc(1), 0, 1, size - 1)).buffer.toString()
      // a crash may have cut the last line: it must not swallow this one
      await file.appendFile(last === '\n' ? line : `\n${line}`)
      await file.sync()
    } finally {
      await file.close()
    }
  }

  return {
    write: (act, data) => {
      const line = `${JSON.stringify({ time: new Date(now()).toISOString(), act, ...data })}\n`
      // one after the other, so that lines stand in the order of the calls and a rotation meets no writer
      const written = last.catch(() => undefined).then(() => append(line))
      last = written
      return written
    }
  }
}
