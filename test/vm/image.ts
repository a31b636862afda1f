/** What the guest of `npm run test:vm` boots: Debian's kernel, a small initrd and a root image, made once and kept; the work tree at every run. */
import { createHash } from 'node:crypto'
import { cp, mkdir, readFile, readdir, realpath, rename, rm, stat } from 'node:fs/promises'
import { join, relative } from 'node:path'
import { canonicalJson } from '../../agent/fingerprint.ts'
import { buildInitrd } from '../../agent/images/initrd.ts'
import { fetchKernel } from '../../agent/images/kernel.ts'
import { withBuildLock } from '../../agent/images/lock.ts'
import { NODE_RECIPE } from '../../agent/images/recipe.ts'
import { buildRoot } from '../../agent/images/root.ts'
import { run } from '../../agent/exec.ts'
import type { Recipe } from '../../agent/images/recipe.ts'

/** The node image's recipe with what the network drivers and their tests need; the guest has no systemd. */
const GUEST_RECIPE: Recipe = {
  ...NODE_RECIPE,
  packages: [
    'usr-is-merged', 'kmod', 'iproute2', 'iputils-ping', 'nftables', 'procps', 'ethtool', 'tcpdump', 'wireguard-tools', 'wireguard-go',
    // of Node.js
    'libstdc++6'
  ],
  initrdModules: ['virtio_pci', 'virtio_blk', 'virtio_console', 'squashfs', 'overlay'],
  rootModules: [],
  squashfs: ['-comp', 'zstd', '-Xcompression-level', '3']
}

/** Files of an image, by path. */
export interface GuestImage { kernel: string, initrd: string, root: string }

/** What a run may take that has to build the image: mirrors are slow at times. */
const PACK_TIMEOUT_MS = 300_000
const INIT = join(import.meta.dirname, 'guest/init')
const FILES = ['kernel', 'initrd', 'root'] as const

const pathsIn = (dir: string): GuestImage => ({ kernel: join(dir, 'kernel'), initrd: join(dir, 'initrd'), root: join(dir, 'root') })

const isThere = async (path: string): Promise<boolean> => await stat(path).then(() => true, () => false)

/**
 * Work that appears in `storeDir` under `name` by one rename, made by one process at a time. What killed ones left is swept.
 * @param make gets a folder of its own, and says which path in it is the result
 */
async function once (storeDir: string, name: string, signal: AbortSignal, make: (work: string) => Promise<string>): Promise<string> {
  const kept = join(storeDir, name)
  if (await isThere(kept)) return kept
  await mkdir(storeDir, { recursive: true })
  return await withBuildLock(storeDir, signal, () => undefined, async () => {
    if (await isThere(kept)) return kept
    for (const old of await readdir(storeDir)) if (old.startsWith('making-')) await rm(join(storeDir, old), { recursive: true, force: true })
    const work = join(storeDir, `making-${process.pid}`)
    await mkdir(work)
    try {
      await rename(await make(work), kept)
      // an older one is of no use any more
      const kind = name.split('-')[0] ?? name
      for (const old of await readdir(storeDir)) if (old !== name && old.startsWith(`${kind}-`)) await rm(join(storeDir, old), { recursive: true, force: true })
      return kept
    } finally {
      await rm(work, { recursive: true, force: true })
    }
  })
}

const squash = async (from: string, to: string, signal: AbortSignal, options: readonly string[] = ['-comp', 'lz4']): Promise<void> => {
  await run('mksquashfs', [from, to, ...options, '-noappend', '-no-xattrs', '-quiet', '-no-progress'], { signal, timeoutMs: PACK_TIMEOUT_MS })
}

/** Kernel, initrd and root; some minutes the first time, then found. */
export async function guestImage (storeDir: string, signal: AbortSignal): Promise<GuestImage> {
  const hash = createHash('sha256').update(canonicalJson(GUEST_RECIPE)).update(await readFile(INIT)).digest('hex').slice(0, 16)
  const dir = await once(storeDir, `guest-${hash}`, signal, async (work) => {
    const [image, root] = [join(work, 'image'), join(work, 'root')]
    await mkdir(image)
    const stop = new AbortController()
    const either = AbortSignal.any([signal, stop.signal])
    const parts = [fetchKernel(GUEST_RECIPE, join(work, 'kernel'), either), buildRoot(GUEST_RECIPE, root, either)] as const
    const [kernel] = await Promise.all(parts).catch(async (error: unknown) => {
      stop.abort()
      await Promise.allSettled(parts)
      throw error
    })
    await cp(kernel.modulesDir, join(root, 'usr/lib/modules', kernel.release), { recursive: true })
    for (const cache of ['var/cache/apt', 'var/lib/apt/lists', 'usr/share/doc']) await rm(join(root, cache), { recursive: true, force: true })
    const paths = pathsIn(image)
    await cp(kernel.vmlinuz, paths.kernel)
    await buildInitrd(GUEST_RECIPE, kernel, join(work, 'initrd'), paths.initrd, signal, { init: INIT })
    await squash(root, paths.root, signal, GUEST_RECIPE.squashfs)
    return image
  })
  const paths = pathsIn(dir)
  for (const name of FILES) await stat(paths[name])
  return paths
}

/** `node_modules` of the work tree, packed once for every state of the lock file. */
export async function packagesImage (storeDir: string, tree: string, signal: AbortSignal): Promise<string> {
  const hash = createHash('sha256').update(await readFile(join(tree, 'package-lock.json'))).digest('hex').slice(0, 16)
  return await once(storeDir, `packages-${hash}`, signal, async (work) => {
    await squash(await realpath(join(tree, 'node_modules')), join(work, 'packages'), signal)
    return join(work, 'packages')
  })
}

/** What tests read of the work tree. */
const PARTS = ['agent', 'cli', 'coordinator', 'lab', 'packaging', 'protocol', 'store', 'test', 'docs', 'package.json', 'tsconfig.json', '.taprc']

/** Packs the work tree as it is now; `node_modules` is an empty folder, the place of the other image. */
export async function treeImage (workDir: string, tree: string, signal: AbortSignal): Promise<string> {
  const copy = join(workDir, 'tree')
  for (const place of ['node_modules', '.tap']) await mkdir(join(copy, place), { recursive: true })
  for (const part of PARTS) await cp(join(tree, part), join(copy, part), { recursive: true, filter: (from) => !relative(tree, from).includes('.cache') })
  const image = join(workDir, 'tree.squashfs')
  await squash(copy, image, signal)
  await rm(copy, { recursive: true, force: true })
  return image
}
