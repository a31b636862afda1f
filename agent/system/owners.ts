import type { Stats } from 'node:fs'
import { lstat, realpath } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import { InvalidInputError } from '../../protocol/core/errors.ts'

/** Sticky: what is in such a folder is changed by its owner alone. */
const STICKY = 0o1000

/** Who else than root, and the user of this process, can change what was found; null: nobody. */
export function strangerTo (found: Stats): string | null {
  if (found.uid !== 0 && found.uid !== process.geteuid?.()) return `it belongs to user ${found.uid}`
  if (found.isSymbolicLink()) return null
  const shared = found.isDirectory() && (found.mode & STICKY) !== 0
  if (!shared && (found.mode & 0o002) !== 0) return 'everybody can write there'
  if (!shared && (found.mode & 0o020) !== 0 && found.gid !== 0 && found.gid !== process.getegid?.()) return `group ${found.gid} can write there`
  return null
}

function chain (path: string): string[] {
  const above = dirname(path)
  return above === path ? [path] : [...chain(above), path]
}

/**
 * For what must not be moved away, or be replaced, below whoever works in it.
 *
 * @param folder that is there
 * @throws InvalidInputError when others can change it, or a folder above it, naming that
 */
export async function refuseStrangers (folder: string): Promise<void> {
  for (const path of new Set([...chain(resolve(folder)), ...chain(await realpath(folder))])) {
    const why = strangerTo(await lstat(path))
    if (why !== null) throw new InvalidInputError(`${folder} is not safe: ${path}: ${why}`, `chown root: ${path}; chmod go-w ${path}; or name another folder in the configuration`)
  }
}
