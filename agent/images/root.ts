import { chmod, copyFile, cp, mkdir, readFile, readdir, rm, symlink, writeFile } from 'node:fs/promises'
import { dirname, join, relative } from 'node:path'
import { run } from '../exec.ts'
import type { KernelParts } from './kernel.ts'
import { withoutRootPassword } from './recipe.ts'
import type { Recipe } from './recipe.ts'

const BOOTSTRAP_TIMEOUT_MS = 600_000

/**
 * Bootstraps a minimal Debian into `root`; the function that it returns then makes a node of it.
 * mmdebstrap finds the mirror in the machine's own sources. It runs with mounts and processes of its
 * own that end with this process, whatever ends it.
 */
export async function buildRoot (recipe: Recipe, root: string, signal: AbortSignal): Promise<(kernel: KernelParts, signal: AbortSignal) => Promise<void>> {
  await run('setpriv', ['--pdeathsig', 'KILL', 'unshare', '-m', '-p', '-f', '--kill-child', '--mount-proc',
    'mmdebstrap', '--variant=minbase', '--mode=root', '--format=directory', '--quiet',
    '--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr',
    '--aptopt=APT::Install-Recommends "false"', '--aptopt=Acquire::Languages "none"', '--dpkgopt=force-unsafe-io',
    ...recipe.pathExclude.map(pattern => `--dpkgopt=path-exclude=${pattern}`),
    `--include=${recipe.packages.join(',')}`, recipe.suite, root
  ], { signal, timeoutMs: BOOTSTRAP_TIMEOUT_MS })
  return async (kernel, stop) => {
    await removeWhatEveryNodeMakes(root)
    await writeFile(join(root, 'etc/shadow'), withoutRootPassword(await readFile(join(root, 'etc/shadow'), 'utf8')))
    await writeFile(join(root, 'etc/fstab'), '')
    await copyOverlay(root)
    await chooseUnits(recipe, root)
    await trimUdev(recipe, root)
    await copyModules(recipe, kernel, root, stop)
  }
}

/** Host keys, ids and caches: never shared between nodes, and never worth their bytes. */
async function removeWhatEveryNodeMakes (root: string): Promise<void> {
  const ssh = join(root, 'etc/ssh')
  for (const name of await readdir(ssh)) if (name.startsWith('ssh_host_')) await rm(join(ssh, name))
  for (const path of ['etc/hostname', 'etc/resolv.conf', 'etc/machine-id', 'var/lib/dbus/machine-id', 'var/cache/apt', 'var/cache/debconf', 'var/lib/apt/lists', 'var/log/apt', 'var/log/dpkg.log', 'var/log/alternatives.log', 'var/log/bootstrap.log']) {
    await rm(join(root, path), { recursive: true, force: true })
  }
  for (const path of ['var/cache/apt/archives/partial', 'var/lib/apt/lists/partial']) await mkdir(join(root, path), { recursive: true })
}

/** Copies `overlay/`; what lies in `usr/lib/musubi` is a program. */
async function copyOverlay (root: string): Promise<void> {
  const base = join(import.meta.dirname, 'overlay')
  for (const entry of await readdir(base, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue
    const from = join(entry.parentPath, entry.name)
    const path = relative(base, from)
    const to = join(root, path)
    await mkdir(dirname(to), { recursive: true })
    await copyFile(from, to)
    await chmod(to, path.startsWith('usr/lib/musubi/') ? 0o755 : 0o644)
  }
}

async function chooseUnits (recipe: Recipe, root: string): Promise<void> {
  const etc = join(root, 'etc/systemd')
  const link = async (target: string, path: string): Promise<void> => {
    await mkdir(dirname(path), { recursive: true })
    await rm(path, { force: true })
    await symlink(target, path)
  }
  for (const unit of recipe.maskedUnits) await link('/dev/null', join(etc, 'system', unit))
  for (const unit of recipe.enabledUnits) await link(`/etc/systemd/system/${unit}`, join(etc, 'system/multi-user.target.wants', unit))
  for (const unit of recipe.lateUnits) await rm(join(root, 'usr/lib/systemd/system/sysinit.target.wants', unit), { force: true })
  await link('/lib/systemd/system/multi-user.target', join(etc, 'system/default.target'))
  // generators look for disks, fstab and SysV scripts that a node does not have; each costs a process
  for (const generator of await readdir(join(root, 'usr/lib/systemd/system-generators'))) {
    await link('/dev/null', join(etc, 'system-generators', generator))
  }
}

async function trimUdev (recipe: Recipe, root: string): Promise<void> {
  const folder = join(root, 'usr/lib/udev/rules.d')
  for (const name of await readdir(folder)) if (!recipe.udevRules.includes(name)) await rm(join(folder, name))
}

async function copyModules (recipe: Recipe, kernel: KernelParts, root: string, signal: AbortSignal): Promise<void> {
  const target = join(root, 'usr/lib/modules', kernel.release)
  for (const file of await kernel.modules(recipe.rootModules, signal)) {
    await cp(file, join(target, relative(kernel.modulesDir, file)))
  }
  for (const name of ['modules.builtin', 'modules.builtin.modinfo', 'modules.order']) await copyFile(join(kernel.modulesDir, name), join(target, name))
  await run('depmod', ['-b', root, kernel.release], { signal, timeoutMs: 60_000 })
}
