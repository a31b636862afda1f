import { chmod, copyFile, mkdir, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { run } from '../exec.ts'
import type { KernelParts } from './kernel.ts'
import type { Recipe } from './recipe.ts'

/** Folders that the first process needs before it can make any. */
const FOLDERS = ['bin', 'dev', 'modules', 'proc', 'sys']

/** Programs of an initrd by their name in it; `init` is the first process. */
export type InitrdScripts = Readonly<Record<string, string>>

const NODE_SCRIPTS: InitrdScripts = { init: join(import.meta.dirname, 'initrd/init'), 'udhcpc.script': join(import.meta.dirname, 'initrd/udhcpc.script') }

/**
 * Packs busybox, the modules and some scripts into a cpio archive, compressed with zstd.
 * @param scripts by default those of `initrd/`, that boot a node
 */
export async function buildInitrd (recipe: Recipe, kernel: KernelParts, tree: string, output: string, signal: AbortSignal, scripts: InitrdScripts = NODE_SCRIPTS): Promise<void> {
  await mkdir(tree)
  for (const folder of FOLDERS) await mkdir(join(tree, folder))
  const put = async (from: string, to: string, mode: number): Promise<void> => {
    await copyFile(from, join(tree, to))
    await chmod(join(tree, to), mode)
  }
  await put(kernel.busybox, 'bin/busybox', 0o755)
  for (const [name, from] of Object.entries(scripts)) await put(from, name, 0o755)
  const modules = await kernel.modules(recipe.initrdModules, signal)
  for (const file of modules) await put(file, `modules/${basename(file)}`, 0o644)
  await writeFile(join(tree, 'modules/order'), modules.map(file => `${basename(file)}\n`).join(''))

  // folders before what is in them, or the kernel cannot unpack the archive
  const names = ['.', ...FOLDERS, 'bin/busybox', ...Object.keys(scripts), 'modules/order', ...modules.map(file => `modules/${basename(file)}`)]
  const archive = `${tree}.cpio`
  await run('cpio', ['--create', '--quiet', '--format=newc', '--owner=0:0', '--reproducible', '-F', archive], { cwd: tree, input: names.join('\n'), signal })
  await run('zstd', ['-q', '-19', '-f', archive, '-o', output], { signal, timeoutMs: 60_000 })
}
