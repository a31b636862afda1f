import { lstat, realpath } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'

interface Owner { uid: number, gid: number }

/** Of a user whose folder has the group of root. */
const NOGROUP = 65534

async function orMissing<T> (asked: Promise<T>): Promise<T | null> {
  try {
    return await asked
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return null
    throw error
  }
}

/** A path and all above it, from itself on. */
function chain (path: string): string[] {
  const above = dirname(path)
  return above === path ? [path] : [path, ...chain(above)]
}

/** Who else than root decides what is found below a folder, or where it would be made; its own owner first. */
async function strangerIn (folder: string): Promise<Owner | null> {
  const asked = resolve(folder)
  const led = await orMissing(realpath(asked))
  for (const path of [...led === null ? [] : chain(led), ...chain(asked)]) {
    const found = await orMissing(lstat(path))
    if (found !== null && found.uid !== 0) return { uid: found.uid, gid: found.gid === 0 ? NOGROUP : found.gid }
  }
  return null
}

function become ({ uid, gid }: Owner, groups: number[]): void {
  const { seteuid, setegid, setgroups } = process
  if (seteuid === undefined || setegid === undefined || setgroups === undefined) throw new Error('this system has no users to change to')
  // whoever is not root may change neither groups nor group
  seteuid.call(process, 0)
  setgroups.call(process, groups)
  setegid.call(process, gid)
  seteuid.call(process, uid)
}

/**
 * Works in a daemon's folder. Started by root it works as the owner of the folder: the daemon, or
 * whoever has taken it over, may have put a link in the place of any file there, which root would follow.
 * What is made belongs to the daemon besides. What only root may read or write (tokens, copies of keys)
 * is to be opened outside of `work`.
 *
 * It is the user of the whole process that changes: calls must not overlap.
 */
export async function asOwnerOf<T> (folder: string, work: () => Promise<T>): Promise<T> {
  if (process.geteuid?.() !== 0) return await work()
  const owner = await strangerIn(folder)
  if (owner === null) return await work()
  const groups = process.getgroups?.() ?? []
  const gid = process.getegid?.() ?? 0
  become(owner, [])
  try {
    return await work()
  } finally {
    become({ uid: 0, gid }, groups)
  }
}
