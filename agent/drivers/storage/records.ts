import { mkdir, open, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { namesIn } from '../../services/common.ts'

/** What a volume was made from, without its secret. */
export interface VolumeRecord {
  /** null while it is being made, changed or removed */
  fingerprint: string | null
  iqn: string
  sizeMiB: number
  portalAddress: string
  user: string
  allow: string[]
  /** tells whether two volumes have the same secret; secrets are random, so no way back */
  secretDigest: string
}

export interface VolumeRecords {
  all (): Promise<Map<string, VolumeRecord>>
  /** Synced to disk when it returns. */
  write (name: string, record: VolumeRecord): Promise<void>
  remove (name: string): Promise<void>
  /** @throws when nothing can be written there */
  check (): Promise<void>
}

const SUFFIX = '.json'

/** A JSON file per volume beside its image; replaced as a whole. */
export function createVolumeRecords (options: { dir: string }): VolumeRecords {
  const { dir } = options
  const path = (name: string): string => join(dir, `${name}${SUFFIX}`)

  return {
    async all () {
      const found = new Map<string, VolumeRecord>()
      const files = await namesIn(dir)
      for (const file of files.filter(one => one.endsWith(SUFFIX)).sort()) {
        found.set(file.slice(0, -SUFFIX.length), parseRecord(await readFile(join(dir, file), 'utf8')))
      }
      return found
    },
    async write (name, record) {
      await mkdir(dir, { recursive: true, mode: 0o700 })
      const temporary = `${path(name)}.tmp`
      const file = await open(temporary, 'w', 0o600)
      try {
        await file.writeFile(JSON.stringify(record))
        await file.sync()
      } finally {
        await file.close()
      }
      await rename(temporary, path(name))
    },
    async remove (name) {
      await rm(`${path(name)}.tmp`, { force: true })
      await rm(path(name), { force: true })
    },
    async check () {
      await mkdir(dir, { recursive: true, mode: 0o700 })
      const probe = join(dir, '.probe')
      await writeFile(probe, '')
      await rm(probe, { force: true })
    }
  }
}

/** A damaged record still says that the volume is there, so that it is mended or removed. */
export function parseRecord (text: string): VolumeRecord {
  let value: Partial<Record<keyof VolumeRecord, unknown>> = {}
  try {
    const parsed = JSON.parse(text) as unknown
    if (typeof parsed === 'object' && parsed !== null) value = parsed
  } catch { /* damaged */ }
  const string = (key: keyof VolumeRecord): string => {
    const found = value[key]
    return typeof found === 'string' ? found : ''
  }
  const allow = Array.isArray(value.allow) ? value.allow.filter(one => typeof one === 'string') : []
  const print = string('fingerprint')
  return {
    fingerprint: print === '' ? null : print,
    iqn: string('iqn'),
    sizeMiB: typeof value.sizeMiB === 'number' ? value.sizeMiB : 0,
    portalAddress: string('portalAddress'),
    user: string('user'),
    allow,
    secretDigest: string('secretDigest')
  }
}
