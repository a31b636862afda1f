import { mkdir, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { MusubiError } from '../../protocol/core/errors.ts'
import { run } from '../exec.ts'
import { moduleFiles } from './recipe.ts'
import type { Recipe } from './recipe.ts'

const DOWNLOAD_TIMEOUT_MS = 240_000

/** An unpacked Debian kernel and the static busybox for the initrd. */
export interface KernelParts {
  /** e.g. `6.1.0-37-cloud-amd64` */
  release: string
  vmlinuz: string
  busybox: string
  /** folder `lib/modules/<release>` */
  modulesDir: string
  /** module files in load order for the wanted modules, dependencies first */
  modules (names: readonly string[], signal: AbortSignal): Promise<string[]>
}

/** Downloads kernel and busybox from the machine's own Debian sources and unpacks them below `dir`. */
export async function fetchKernel (recipe: Recipe, dir: string, signal: AbortSignal): Promise<KernelParts> {
  await mkdir(dir)
  await download(recipe, dir, signal).catch(async (error: unknown) => {
    // lists that are missing, or older than what the mirror still has
    if (signal.aborted) throw error
    await run('apt-get', ['update', '-qq'], { signal, timeoutMs: DOWNLOAD_TIMEOUT_MS })
    await download(recipe, dir, signal)
  })
  const tree = join(dir, 'tree')
  for (const name of (await readdir(dir)).filter(file => file.endsWith('.deb'))) {
    await run('dpkg-deb', ['-x', join(dir, name), tree], { signal, timeoutMs: 120_000 })
  }
  const release = (await readdir(join(tree, 'lib/modules')))[0]
  if (release === undefined) throw new MusubiError('IMAGE_KERNEL', `package ${recipe.kernelPackage} brought no modules`)
  await run('depmod', ['-b', tree, release], { signal, timeoutMs: 60_000 })
  return {
    release,
    vmlinuz: join(tree, `boot/vmlinuz-${release}`),
    busybox: join(tree, 'bin/busybox'),
    modulesDir: join(tree, 'lib/modules', release),
    async modules (names, stop) {
      let shown = ''
      for (const name of names) {
        shown += (await run('modprobe', ['-S', release, '-d', tree, '--show-depends', name], { signal: stop })).stdout
      }
      return moduleFiles(shown)
    }
  }
}

async function download (recipe: Recipe, dir: string, signal: AbortSignal): Promise<void> {
  const depends = await run('apt-cache', ['depends', '--no-recommends', '--no-suggests', recipe.kernelPackage], { signal })
  // the meta package names the current kernel
  const kernel = /^\s*Depends:\s*(linux-image-\S+)/m.exec(depends.stdout)?.[1]
  if (kernel === undefined) {
    throw new MusubiError('IMAGE_KERNEL', `package ${recipe.kernelPackage} is not known here`, { hint: 'check the Debian sources of this machine' })
  }
  await run('apt-get', ['download', '-qq', '-o', 'APT::Sandbox::User=root', kernel, recipe.busyboxPackage], { cwd: dir, signal, timeoutMs: DOWNLOAD_TIMEOUT_MS })
}
