import { mkdir, open, rm, stat, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import { namesIn } from '../../services/common.ts'
import { ConflictError, NoCapacityError } from '../../../protocol/core/errors.ts'

const MIB = 1024 * 1024

export interface BackingVolume {
  name: string
  sizeMiB: number
  /** what it takes on the store now */
  usedMiB: number
}

/** Where the bytes of volumes live: a folder of files here, a thin pool where there is a volume group. */
export interface Backing {
  /** Makes it, or grows it to this size; idempotent. @throws NoCapacityError, or ConflictError when it would shrink */
  create (name: string, sizeMiB: number): Promise<void>
  /** An unknown name is no error. */
  remove (name: string): Promise<void>
  /** what the target exports: a file or a device */
  path (name: string): string
  list (): Promise<BackingVolume[]>
}

/**
 * Sparse files in one folder. Space is promised in full: a new volume must fit into what is free
 * less what the others may still grow to, else writes of a guest would fail later.
 */
export function createFileBacking (options: { dir: string }): Backing {
  const { dir } = options
  const suffix = '.img'
  const path = (name: string): string => join(dir, `${name}${suffix}`)

  async function list (): Promise<BackingVolume[]> {
    const files = await namesIn(dir)
    const found: BackingVolume[] = []
    for (const file of files.filter(one => one.endsWith(suffix)).sort()) {
      const { size, blocks } = await stat(join(dir, file))
      found.push({ name: file.slice(0, -suffix.length), sizeMiB: Math.floor(size / MIB), usedMiB: Math.ceil(blocks * 512 / MIB) })
    }
    return found
  }

  async function assertSpace (name: string, wantedMiB: number, all: readonly BackingVolume[]): Promise<void> {
    const { bavail, bsize } = await statfs(dir)
    const promised = all.reduce((sum, one) => one.name === name ? sum : sum + Math.max(0, one.sizeMiB - one.usedMiB), 0)
    const free = Math.max(0, Math.floor(bavail * bsize / MIB) - promised)
    if (wantedMiB > free) {
      throw new NoCapacityError(`volume ${name}: ${wantedMiB} MiB wanted, ${free} MiB free in ${dir}${promised === 0 ? '' : ` (${promised} MiB more are promised to other volumes)`}`)
    }
  }

  return {
    path,
    list,
    async create (name, sizeMiB) {
      await mkdir(dir, { recursive: true, mode: 0o700 })
      const all = await list()
      const old = all.find(one => one.name === name)
      if (old?.sizeMiB === sizeMiB) return
      if (old !== undefined && old.sizeMiB > sizeMiB) {
        throw new ConflictError(`volume ${name} has ${old.sizeMiB} MiB and cannot shrink to ${sizeMiB} MiB`, 'ask for a new volume and copy')
      }
      await assertSpace(name, sizeMiB - (old?.usedMiB ?? 0), all)
      const file = await open(path(name), 'a', 0o600)
      try {
        await file.truncate(sizeMiB * MIB)
        await file.sync()
      } finally {
        await file.close()
      }
    },
    async remove (name) {
      await rm(path(name), { force: true })
    }
  }
}
