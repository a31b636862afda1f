import { readFileSync, readdirSync } from 'node:fs'
import { lchown, lstat, mkdir, readdir, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { resolvedArgv, run } from '../../../exec.ts'
import { keeperArgv, keeperId } from '../../../services/keepers.ts'
import { runOutside } from '../../../services/outside.ts'
import { MAX_HELD_OBJECTS } from '../../../../protocol/core/limits.ts'
import { ignoreMissing } from '../folder.ts'

const PROGRAM = readFileSync(new URL('./check.pl', import.meta.url), 'utf8')
/** Measured: 1 GB in 8.5 s beside other work, so this is for some 100 GB. It runs when nobody else does. */
const CHECK_MS = 15 * 60_000
const CHOWN_MS = 60_000
/** As check.pl holds at most; what is more goes. */
const FILES_MAX = 200_000
/** How long processes of an engine's user may take to end once its services have. */
const ENDING_MS = 3_000
const POLL_MS = 50

/** Whoever has a store between two clusters: nobody else is this user, and no cache's engine may write there. */
export const keptId = (): number => keeperId('retained')

/** Whether any process has this user id, whatever it says of itself in other places. */
function hasProcesses (id: number): boolean {
  for (const pid of readdirSync('/proc')) {
    if (!/^\d+$/.test(pid)) continue
    try {
      const uids = /^Uid:\s+(.*)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]?.split(/\s+/).map(Number)
      if (uids?.includes(id) === true) return true
    } catch {
      // it has ended meanwhile
    }
  }
  return false
}

/** Waits a moment for the processes of a user to be gone. @returns false when they are not: what it owns may change under our hands */
export async function isAlone (id: number, signal?: AbortSignal): Promise<boolean> {
  const deadline = performance.now() + ENDING_MS
  while (hasProcesses(id)) {
    if (performance.now() > deadline) return false
    await delay(POLL_MS, undefined, signal === undefined ? {} : { signal })
  }
  return true
}

/** True for a folder that is none by way of a link. */
export async function isFolder (path: string): Promise<boolean> {
  return (await lstat(path).catch(ignoreMissing))?.isDirectory() === true
}

const names = async (folder: string, form: RegExp): Promise<string[]> => (await isFolder(folder)) ? (await readdir(folder)).filter(name => form.test(name)) : []

/**
 * Moves what has the place, the name and the owner of an engine's file from `raw` into folders made here. Links, pipes,
 * devices, files of others and files with a second name (which may be a file of somebody else) stay behind, and go with `raw`. It goes on where an
 * earlier call was killed.
 *
 * @param engineId owner of the files; no process of it may run
 * @returns bytes of what is in `store` then
 */
export async function takeFiles (raw: string, store: string, engineId: number): Promise<number> {
  const kept = keptId()
  let files = 0
  let bytes = 0
  const ours = async (folder: string): Promise<void> => {
    await mkdir(folder, { recursive: true, mode: 0o700 })
    await lchown(folder, kept, kept)
  }
  await ours(store)
  for (const first of await names(raw, /^[0-9a-f]$/)) {
    await ours(join(store, first))
    for (const second of await names(join(raw, first), /^[0-9a-f]{2}$/)) {
      await ours(join(store, first, second))
      for (const name of await names(join(raw, first, second), /^[0-9a-f]{32}$/)) {
        if (++files > FILES_MAX) break
        const path = join(raw, first, second, name)
        const found = await lstat(path)
        if (!found.isFile() || found.nlink !== 1 || ![engineId, kept].includes(found.uid)) continue
        await lchown(path, kept, kept)
        await rename(path, join(store, first, second, name))
      }
    }
  }
  for (const entry of await readdir(store, { recursive: true, withFileTypes: true })) {
    if (entry.isFile()) bytes += (await lstat(join(entry.parentPath, entry.name))).size
  }
  await rm(raw, { recursive: true, force: true })
  return bytes
}

/** Leaves in a store what can be served to another cluster, see check.pl; `held` are the digests of its largest objects. @throws CommandError */
export async function checkFiles (store: string, sliceBytes: number, bytesMax: number): Promise<{ objects: number, bytes: number, held: string[] }> {
  const [perl = 'perl'] = resolvedArgv(['perl'])
  const [setpriv = 'setpriv', ...as] = keeperArgv('retained', [])
  const { stdout } = await runOutside(setpriv, [...as, perl, '-', String(sliceBytes), String(bytesMax)], { cwd: store, input: PROGRAM, timeoutMs: CHECK_MS })
  const [, objects, bytes] = /^(\d{1,9})\t(\d{1,16})$/m.exec(stdout) ?? []
  const held = [...stdout.matchAll(/^([0-9a-f]{64})\t\d{1,16}$/gm)].slice(0, MAX_HELD_OBJECTS).map(([, digest = '']) => digest)
  return { objects: Number(objects ?? 0), bytes: Number(bytes ?? 0), held }
}

/** Gives a checked store to the engine that is about to start, in the place where that looks for it. */
export async function giveFiles (store: string, engine: string, engineId: number, signal: AbortSignal): Promise<void> {
  await run('chown', ['-hR', `${engineId}:${engineId}`, store], { timeoutMs: CHOWN_MS, signal })
  await mkdir(engine, { recursive: true, mode: 0o700 })
  await rename(store, join(engine, 'store'))
}

/** Names in a folder; none when it is not there. */
export const listNames = async (folder: string): Promise<string[]> => await readdir(folder).catch(ignoreMissing) ?? []

/** Whether there is anything of that name, a link included. */
export const isThere = async (path: string): Promise<boolean> => await lstat(path).then(() => true, () => false)
