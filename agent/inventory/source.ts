import { constants } from 'node:fs'
import { access, open, readdir, readlink, stat } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { promisify } from 'node:util'
import { gunzip } from 'node:zlib'
import { MAX_SYSTEM_FILE_BYTES } from '../../protocol/core/limits.ts'
import { parseKernelConfig, parseLoadedModules, parseModuleFiles, type KernelEvidence } from './kernel.ts'

const unzip = promisify(gunzip)
const CHUNK_BYTES = 64 * 1024

/** The files that a system describes itself in, below a root. What is missing or unreadable is null or empty. */
export interface Source {
  /** At most `MAX_SYSTEM_FILE_BYTES`; a longer file is null: a part of it would be taken for the whole. */
  text (path: string): Promise<string | null>
  names (dir: string): Promise<string[]>
  /** name that a link ends in */
  linkName (path: string): Promise<string | null>
  exists (path: string): Promise<boolean>
  /** Opens for reading and writing. @returns null, or the code of the error */
  refusal (path: string): Promise<string | null>
  /** full path of a program, as a child process would find it */
  program (name: string): Promise<string | null>
  /** changes when the file does; null when it is missing */
  stamp (path: string): Promise<string | null>
  kernelEvidence (): Promise<KernelEvidence>
}

/** @param root '/' but in tests @param searchPath of programs, default that of this process */
export function createSource (root: string, searchPath = process.env.PATH ?? ''): Source {
  const at = (path: string): string => join(root, path)
  /** by path: reading and unpacking takes milliseconds, and such files change with packages only */
  const kept = new Map<string, { stamp: string, value: unknown }>()

  async function keep<T> (path: string, read: () => Promise<T>): Promise<T | null> {
    const stamp = await source.stamp(path)
    if (stamp === null) return null
    const known = kept.get(path)
    if (known?.stamp === stamp) return known.value as T
    const value = await read()
    kept.set(path, { stamp, value })
    return value
  }

  async function bytes (path: string): Promise<Buffer | null> {
    try {
      const file = await open(at(path), constants.O_RDONLY | constants.O_NONBLOCK)
      try {
        // files of the kernel have no size to go by
        const chunks: Buffer[] = []
        for (let total = 0; ;) {
          const { bytesRead, buffer } = await file.read(Buffer.allocUnsafe(CHUNK_BYTES), 0, CHUNK_BYTES, null)
          if (bytesRead === 0) return Buffer.concat(chunks)
          total += bytesRead
          if (total > MAX_SYSTEM_FILE_BYTES) return null
          chunks.push(buffer.subarray(0, bytesRead))
        }
      } finally {
        await file.close()
      }
    } catch {
      return null
    }
  }

  async function kernelConfig (release: string): Promise<Map<string, 'y' | 'm'> | null> {
    const packed = await keep('/proc/config.gz', async () => {
      const zipped = await bytes('/proc/config.gz')
      const text = zipped === null ? null : await unzip(zipped, { maxOutputLength: MAX_SYSTEM_FILE_BYTES }).catch(() => null)
      return text === null ? null : parseKernelConfig(text.toString('latin1'))
    })
    if (packed !== null) return packed
    for (const path of [`/boot/config-${release}`, `/lib/modules/${release}/config`]) {
      const config = await keep(path, async () => parseKernelConfig(await source.text(path) ?? ''))
      if (config !== null) return config
    }
    return null
  }

  const source: Source = {
    async text (path) { return (await bytes(path))?.toString('utf8') ?? null },
    async names (dir) { return (await readdir(at(dir)).catch(() => [])).sort() },
    async linkName (path) { return await readlink(at(path)).then(target => basename(target), () => null) },
    async exists (path) { return await access(at(path)).then(() => true, () => false) },

    async refusal (path) {
      try {
        await (await open(at(path), 'r+')).close()
        return null
      } catch (error) {
        return error instanceof Error && 'code' in error ? String(error.code) : 'unknown error'
      }
    },

    async program (name) {
      for (const dir of searchPath.split(':')) {
        const path = join(dir, name)
        if (!dir.startsWith('/') || !await access(at(path), constants.X_OK).then(() => true, () => false)) continue
        if ((await stat(at(path))).isFile()) return path
      }
      return null
    },

    async stamp (path) {
      return await stat(at(path)).then(({ ino, mtimeMs, size }) => `${ino} ${mtimeMs} ${size}`, () => null)
    },

    async kernelEvidence () {
      const release = ((await source.text('/proc/sys/kernel/osrelease')) ?? '').trim()
      // it names a folder
      const known = /^[\w.+~-]{1,128}$/.test(release) && !/^\.+$/.test(release)
      const modules = async (file: string): Promise<Set<string> | null> => {
        const path = `/lib/modules/${release}/${file}`
        return known ? await keep(path, async () => { const text = await source.text(path); return text === null ? null : parseModuleFiles(text) }) : null
      }
      const [inSys, loaded, builtIn, loadable, disabled, config, filteringBridge] = await Promise.all([
        source.names('/sys/module'), source.text('/proc/modules'), modules('modules.builtin'), modules('modules.dep'),
        source.text('/proc/sys/kernel/modules_disabled'), known ? kernelConfig(release) : null, hasFilteringBridge()
      ])
      return {
        loaded: new Set([...inSys.map(name => name.replaceAll('-', '_')), ...parseLoadedModules(loaded ?? '')]),
        builtIn,
        loadable,
        mayLoad: (disabled ?? '0').trim() === '0',
        config,
        filteringBridge
      }
    }
  }

  async function hasFilteringBridge (): Promise<boolean> {
    for (const link of await source.names('/sys/class/net')) {
      if (await source.exists(`/sys/class/net/${link}/bridge/vlan_filtering`)) return true
    }
    return false
  }

  return source
}
