import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { lstat, readdir, readFile, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { strangerTo } from '../system/owners.ts'
import { MusubiError, describeError } from '../../protocol/core/errors.ts'
import { IMAGE_FILES, decodeManifest, digestHex, manifestDigest } from './manifest.ts'
import type { ImageFileName, ImageManifest } from './manifest.ts'

/** No image with this digest on this host. */
export class UnknownImageError extends MusubiError {
  override readonly name = 'UnknownImageError'
  constructor (digest: string, storeDir: string, present: readonly string[]) {
    super('IMAGE_UNKNOWN', `no image ${digest} in ${storeDir}`, {
      hint: present.length === 0 ? 'the store is empty: build an image first' : `present: ${present.join(', ')}`
    })
  }
}

/** A file of an image is not what its manifest, or its own name, says. */
export class CorruptImageError extends MusubiError {
  override readonly name = 'CorruptImageError'
  readonly file: string
  constructor (file: string, expected: string, found: string) {
    super('IMAGE_CORRUPT', `${file} is damaged: expected ${expected}, found ${found}`, {
      hint: 'remove the folder of this image and build it again'
    })
    this.file = file
  }
}

export interface StoredImage {
  /** `sha256:<hex>` of the manifest */
  digest: string
  dir: string
  manifest: ImageManifest
  /** absolute path of each file */
  paths: Record<ImageFileName, string>
}

export interface ImageStore {
  readonly dir: string
  /** All images whose manifest is whole, in the order of their digests; files are not read. */
  list (): Promise<StoredImage[]>
  /** The one that was added last: what `default` means; null without any. */
  newest (): Promise<StoredImage | null>
  /** @throws UnknownImageError, CorruptImageError (manifest only), MusubiError IMAGE_UNSAFE for what others can change, or is a link */
  get (digest: string): Promise<StoredImage>
  /** Reads every file. @throws UnknownImageError, CorruptImageError naming file, expected and found */
  verify (digest: string, signal?: AbortSignal): Promise<StoredImage>
}

/** Opens the folder of images; it need not exist yet. Images are never changed, only added or removed whole. */
export function openImageStore (dir: string): ImageStore {
  const digests = async (): Promise<string[]> => {
    const names = await readdir(dir).catch(ignoreMissing([]))
    return names.filter(name => /^[0-9a-f]{64}$/.test(name)).sort().map(hex => `sha256:${hex}`)
  }

  const get = async (digest: string): Promise<StoredImage> => {
    const imageDir = join(dir, digestHex(digest))
    const file = join(imageDir, 'manifest.json')
    const encoded = await readFile(file, 'utf8').catch(ignoreMissing(null))
    if (encoded === null) throw new UnknownImageError(digest, dir, (await digests()).filter(present => present !== digest))
    const found = manifestDigest(encoded)
    if (found !== digest) throw new CorruptImageError(file, digest, found)
    const at = (name: ImageFileName): string => join(imageDir, name)
    for (const path of [dir, imageDir, file, ...IMAGE_FILES.map(at)]) await mustBeSafe(path)
    return {
      digest,
      dir: imageDir,
      manifest: decodeManifest(encoded),
      paths: { vmlinuz: at('vmlinuz'), 'initrd.img': at('initrd.img'), 'root.squashfs': at('root.squashfs') }
    }
  }

  const list = async (): Promise<StoredImage[]> => {
    const images = await Promise.all((await digests()).map(async digest => await get(digest).catch(() => null)))
    return images.filter(image => image !== null)
  }

  return {
    dir,
    get,
    list,
    async newest () {
      const dated = await Promise.all((await list()).map(async image => ({ image, at: (await stat(image.dir)).mtimeMs })))
      return dated.sort((a, b) => b.at - a.at)[0]?.image ?? null
    },
    async verify (digest, signal) {
      const image = await get(digest)
      for (const name of IMAGE_FILES) {
        const entry = image.manifest.files.find(file => file.name === name)
        if (entry === undefined) throw new CorruptImageError(image.paths[name], 'an entry in the manifest', 'none')
        const size = await lstat(image.paths[name]).then(info => info.size, ignoreMissing(null))
        if (size === null) throw new CorruptImageError(image.paths[name], `${entry.sizeBytes} bytes`, 'no file')
        if (size !== entry.sizeBytes) throw new CorruptImageError(image.paths[name], `${entry.sizeBytes} bytes`, `${size} bytes`)
        const found = await fileSha256(image.paths[name], signal)
        if (found !== entry.sha256) throw new CorruptImageError(image.paths[name], `sha256 ${entry.sha256}`, `sha256 ${found}`)
      }
      return image
    }
  }
}

/** SHA-256 (hex) of a file, streamed. */
export async function fileSha256 (file: string, signal?: AbortSignal): Promise<string> {
  const hash = createHash('sha256')
  await pipeline(createReadStream(file, { highWaterMark: 1024 * 1024 }), hash, signal === undefined ? {} : { signal })
  return hash.digest('hex')
}

/** Nodes are served what lies here by a program that may read every file. What is missing is said where it is read. */
async function mustBeSafe (path: string): Promise<void> {
  const found = await lstat(path).catch(ignoreMissing(null))
  if (found === null) return
  const why = found.isFile() || found.isDirectory() ? strangerTo(found) : 'it is neither a file nor a folder'
  if (why !== null) throw new MusubiError('IMAGE_UNSAFE', `${path} is not served: ${why}`, { hint: `build the image again, or when it is sound: chown -R root: ${dirname(path)}; chmod -R go-w ${dirname(path)}` })
}

function ignoreMissing<T> (fallback: T): (error: unknown) => T {
  return error => {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return fallback
    throw new MusubiError('IMAGE_STORE', `cannot read the image store: ${describeError(error)}`, { cause: error })
  }
}
