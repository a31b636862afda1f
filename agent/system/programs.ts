import { realpathSync, statSync } from 'node:fs'
import { basename, dirname, isAbsolute, join } from 'node:path'
import { MusubiError } from '../../protocol/core/errors.ts'

/** Where programs of a system lie, in this order, whatever the environment says. */
const SYSTEM_DIRS = ['/usr/sbin', '/usr/bin', '/sbin', '/bin', '/usr/local/sbin', '/usr/local/bin'] as const

/** Null: any program of the search path may be started. */
let allowed: ReadonlySet<string> | null = null
const found = new Map<string, string>()

/**
 * From now on, for good, this process starts only these programs, by their absolute paths in the
 * folders of the system. For a process with privileges: neither its environment nor a caller's mistake
 * makes it start anything else.
 */
export function allowOnly (programs: Iterable<string>): void {
  allowed = new Set(programs)
  found.clear()
  // for what the allowed programs start themselves, such as `unshare`
  process.env.PATH = SYSTEM_DIRS.join(':')
}

const refuse = (name: string, why: string, hint: string): never => { throw new MusubiError('PROGRAM_REFUSED', `${name} is not started: ${why}`, { hint }) }

/** Whether nobody but root can change what lies there. */
function isRoots (path: string): boolean {
  const { uid, mode } = statSync(path)
  return uid === 0 && (mode & 0o022) === 0
}

/** The file that a name stands for; null when there is none. @throws MusubiError PROGRAM_REFUSED when somebody else could change it */
function search (name: string): string | null {
  for (const dir of SYSTEM_DIRS) {
    const path = join(dir, name)
    let real: string
    try {
      real = realpathSync(path)
      if (!statSync(real).isFile()) continue
    } catch {
      continue
    }
    if (!isRoots(real) || !isRoots(dirname(real))) return refuse(name, `others than root can change ${real}`, `chown root: ${real} ${dirname(real)}; chmod go-w ${real} ${dirname(real)}`)
    return path
  }
  return null
}

/**
 * What is to be started for a program that is named: the name itself where nothing was restricted.
 *
 * @param program a name, or an absolute path that must be the one which the name leads to
 * @returns null when it is allowed and not installed
 * @throws MusubiError PROGRAM_REFUSED
 */
export function programPath (program: string): string | null {
  if (allowed === null) return program
  const name = isAbsolute(program) ? basename(program) : program
  if (!allowed.has(name)) return refuse(program, 'it is not on the list of this process', 'a fault in Musubi: report it')
  const path = found.get(name) ?? search(name)
  if (path === null) return null
  found.set(name, path)
  if (isAbsolute(program) && realpathSync(path) !== realOf(program)) return refuse(program, `${name} is ${path} here`, 'a fault in Musubi: report it')
  return path
}

function realOf (path: string): string | null {
  try {
    return realpathSync(path)
  } catch {
    return null
  }
}
