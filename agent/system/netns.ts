import { readdir, statfs } from 'node:fs/promises'
import { join } from 'node:path'

/** Where `ip netns` keeps names of namespaces. */
const NAMES_DIR = '/run/netns'

/** File system type of a namespace's file (NSFS_MAGIC in linux/magic.h). */
const NSFS_MAGIC = 0x6e736673

const isMissing = (error: unknown): boolean => error instanceof Error && 'code' in error && error.code === 'ENOENT'

/**
 * Names of the network namespaces of this host, sorted; a name need not lead to a namespace.
 * Not by `ip netns list`: it opens all names, and waits for ever at one that is a pipe.
 */
export async function namespaceNames (): Promise<string[]> {
  try {
    return (await readdir(NAMES_DIR)).sort()
  } catch (error) {
    if (isMissing(error)) return []
    throw error
  }
}

/**
 * What a name of a network namespace leads to: 'broken' is a file that is no namespace, which an
 * `ip netns add` or `delete` leaves that ended between its two steps. Opens nothing, so a pipe cannot hold it.
 */
export async function namespaceState (name: string): Promise<'present' | 'broken' | 'absent'> {
  try {
    return (await statfs(join(NAMES_DIR, name))).type === NSFS_MAGIC ? 'present' : 'broken'
  } catch (error) {
    if (isMissing(error)) return 'absent'
    throw error
  }
}
