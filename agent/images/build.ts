import { readFile, readdir, rename, mkdir, open, rm, stat, writeFile } from 'node:fs/promises'
import { join, relative } from 'node:path'
import { MusubiError } from '../../protocol/core/errors.ts'
import { CommandError, run } from '../exec.ts'
import { withBuildLock } from './lock.ts'
import { buildInitrd } from './initrd.ts'
import { fetchKernel } from './kernel.ts'
import { IMAGE_FILES, digestHex, encodeManifest, manifestDigest } from './manifest.ts'
import type { ImageFile } from './manifest.ts'
import { NODE_RECIPE, recipeHash } from './recipe.ts'
import { buildRoot } from './root.ts'
import { fileSha256, openImageStore } from './store.ts'

/** Steps in order; `found` alone is reported when the image is already there. */
export type BuildStep = 'found' | 'waiting for another build' | 'kernel and root system' | 'customise' | 'initrd' | 'squashfs' | 'store'

export interface BuildOptions {
  /** folder of the image store; made when missing */
  storeDir: string
  signal?: AbortSignal
  onProgress?: (step: BuildStep) => void
}

export interface BuiltImage {
  /** `sha256:<hex>` */
  digest: string
  dir: string
  /** false: it was already in the store */
  built: boolean
}

/** All of a build together; the slowest machine that we know takes a fifth of it. */
const BUILD_TIMEOUT_MS = 15 * 60_000
const TEMP_PREFIX = 'building-'
/** for messages: those that run inside a wrapper first */
const PROGRAMS = ['mmdebstrap', 'mksquashfs']

/**
 * Makes the Debian node image once. An image of the same recipe that is already in the store is
 * found at once and without network. A build happens in a folder of its own inside the store and
 * appears by one rename: killed at any point, it leaves only that folder, which the next build sweeps.
 *
 * @throws MusubiError `IMAGE_BUILD_NOT_ROOT`; `IMAGE_BUILD_FAILED` naming the step and the last words of
 *   its program, the CommandError as cause; CommandError when the signal ended it
 */
export async function buildNodeImage (options: BuildOptions): Promise<BuiltImage> {
  const timeout = AbortSignal.timeout(BUILD_TIMEOUT_MS)
  const signal = options.signal === undefined ? timeout : AbortSignal.any([options.signal, timeout])
  const progress = options.onProgress ?? (() => undefined)
  const recipe = await currentRecipe()
  const present = await findBuilt(options.storeDir, recipe)
  if (present !== null) {
    progress('found')
    return present
  }
  if (process.getuid?.() !== 0) {
    throw new MusubiError('IMAGE_BUILD_NOT_ROOT', 'building a node image needs root', { hint: 'run it once as root; later calls find the image' })
  }
  await mkdir(options.storeDir, { recursive: true, mode: 0o755 })
  return await withBuildLock(options.storeDir, signal, () => { progress('waiting for another build') }, async () => {
    // whoever held the lock before may have built just this
    const meanwhile = await findBuilt(options.storeDir, recipe)
    if (meanwhile !== null) return meanwhile
    await sweep(options.storeDir)
    const work = join(options.storeDir, `${TEMP_PREFIX}${process.pid}`)
    await mkdir(work, { mode: 0o755 })
    let current: BuildStep = 'kernel and root system'
    try {
      return await build(options.storeDir, work, recipe, signal, step => {
        current = step
        progress(step)
      })
    } catch (error) {
      throw signal.aborted ? error : buildFailed(current, error)
    } finally {
      await rm(work, { recursive: true, force: true })
    }
  })
}

async function build (storeDir: string, work: string, recipe: string, signal: AbortSignal, progress: (step: BuildStep) => void): Promise<BuiltImage> {
  const image = join(work, 'image')
  await mkdir(image, { mode: 0o755 })
  progress('kernel and root system')
  const root = join(work, 'root')
  // one waits for the network while the other unpacks
  const stop = new AbortController()
  const either = AbortSignal.any([signal, stop.signal])
  const parts = [fetchKernel(NODE_RECIPE, join(work, 'kernel'), either), buildRoot(NODE_RECIPE, root, either)] as const
  const [kernel, customise] = await Promise.all(parts).catch(async (error: unknown) => {
    stop.abort()
    await Promise.allSettled(parts)
    throw error
  })

  progress('customise')
  await customise(kernel, signal)

  progress('initrd')
  await run('cp', ['--reflink=auto', kernel.vmlinuz, join(image, 'vmlinuz')], { signal })
  await buildInitrd(NODE_RECIPE, kernel, join(work, 'initrd'), join(image, 'initrd.img'), signal)

  progress('squashfs')
  await run('mksquashfs', [root, join(image, 'root.squashfs'), ...NODE_RECIPE.squashfs, '-noappend', '-no-xattrs', '-quiet', '-no-progress'],
    { signal, timeoutMs: 300_000 })

  progress('store')
  const files = await Promise.all(IMAGE_FILES.map(async (name): Promise<ImageFile> => {
    const file = join(image, name)
    return { name, sizeBytes: (await stat(file)).size, sha256: await fileSha256(file, signal) }
  }))
  const encoded = encodeManifest({
    format: 1, recipe, suite: NODE_RECIPE.suite, kernelRelease: kernel.release, cmdline: NODE_RECIPE.cmdline, files
  })
  await writeFile(join(image, 'manifest.json'), encoded)
  for (const name of [...IMAGE_FILES, 'manifest.json', '.']) await syncToDisk(join(image, name))
  const digest = manifestDigest(encoded)
  const dir = join(storeDir, digestHex(digest))
  await rename(image, dir).catch(async (error: unknown) => {
    // the same bytes are already there, only the index entry was lost
    await openImageStore(storeDir).verify(digest, signal).catch(() => { throw error })
  })
  await writeIndex(storeDir, work, recipe, digest)
  await syncToDisk(storeDir)
  return { digest, dir, built: true }
}

function buildFailed (step: BuildStep, error: unknown): unknown {
  if (!(error instanceof CommandError)) return error
  const last = error.stderr.trim().split('\n').slice(-3).map(line => line.slice(0, 200)).join(' / ')
  const program = PROGRAMS.find(name => error.argv.includes(name)) ?? error.argv[0] ?? ''
  return new MusubiError('IMAGE_BUILD_FAILED', `building the node image failed at "${step}": ${program}: ${last === '' ? error.message : last}`, {
    retryable: true, cause: error, hint: 'needs apt sources that answer, and mmdebstrap, squashfs-tools, cpio, zstd and kmod'
  })
}

/** Hash of the recipe and of the files that go into initrd and root image. */
async function currentRecipe (): Promise<string> {
  const files = new Map<string, string>()
  for (const folder of ['initrd', 'overlay']) {
    const base = join(import.meta.dirname, folder)
    for (const entry of await readdir(base, { recursive: true, withFileTypes: true })) {
      const file = join(entry.parentPath, entry.name)
      if (entry.isFile()) files.set(relative(import.meta.dirname, file), await readFile(file, 'utf8'))
    }
  }
  return recipeHash(NODE_RECIPE, files)
}

const indexFile = (storeDir: string, recipe: string): string => join(storeDir, `recipe-${recipe}`)

async function findBuilt (storeDir: string, recipe: string): Promise<BuiltImage | null> {
  const digest = (await readFile(indexFile(storeDir, recipe), 'utf8').catch(() => '')).trim()
  if (digest === '') return null
  // an index entry may outlive its image; sizes are checked here, digests by whoever serves it
  const image = await openImageStore(storeDir).get(digest).catch(() => null)
  if (image === null || image.manifest.recipe !== recipe) return null
  for (const { name, sizeBytes } of image.manifest.files) {
    const size = await stat(image.paths[name]).then(info => info.size, () => -1)
    if (size !== sizeBytes) {
      throw new MusubiError('IMAGE_CORRUPT', `${image.paths[name]} has ${size} bytes instead of ${sizeBytes}`, { hint: `remove ${image.dir} and build again` })
    }
  }
  return { digest, dir: image.dir, built: false }
}

async function writeIndex (storeDir: string, work: string, recipe: string, digest: string): Promise<void> {
  const temp = join(work, 'index')
  await writeFile(temp, `${digest}\n`)
  await syncToDisk(temp)
  await rename(temp, indexFile(storeDir, recipe))
}

/** Removes what killed builds left. Only called under the lock, so none of them can be alive. */
async function sweep (storeDir: string): Promise<void> {
  for (const name of await readdir(storeDir)) {
    if (name.startsWith(TEMP_PREFIX)) await rm(join(storeDir, name), { recursive: true, force: true })
  }
}

async function syncToDisk (path: string): Promise<void> {
  const handle = await open(path, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}
