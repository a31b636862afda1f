import { randomBytes } from 'node:crypto'
import { lstat, mkdir, mkdtemp, readdir, readFile, realpath, rename, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { bootId } from '../agent/services/proc.ts'
import { MusubiError } from '../protocol/core/errors.ts'
import { stopPod } from './pod.ts'
import { allPids, argvOf, childrenOf, isAlive, namespaceOf, processRef, waitGone, type ProcessRef } from './process.ts'

const PREFIX = 'mzlab-'
const STATE_FILE = 'state.json'
/** A folder without state is a lab that died while it was made, or is made this instant. */
const YOUNG_MS = 60_000
const REMOVE_TRIES = 20

export interface PodRecord { name: string, dir: string, init: ProcessRef, keeper: ProcessRef }

/** What must be known to end a lab that another process started. */
export interface LabState {
  version: 1
  dir: string
  bootId: string
  owner: ProcessRef
  /** pids mean nothing in another pid namespace */
  pidNamespace: string
  /** true once a lab that shall outlive its owner is complete */
  kept: boolean
  createdAt: number
  pods: PodRecord[]
  /** for people: how to look around */
  sites: Array<{ name: string, hosts: string[] }>
}

/** A folder for a lab: short, for unix sockets below it, and for root alone. */
export async function makeLabDir (dir?: string): Promise<string> {
  if (dir === undefined) return await mkdtemp(join(await realpath(tmpdir()), PREFIX))
  const path = resolve(dir)
  await mkdir(path, { recursive: true, mode: 0o700 })
  if ((await readdir(path)).length > 0) throw new MusubiError('CONFLICT', `${path} is not empty`, { hint: 'give a new folder for the lab, or end the one that is there with --down' })
  return path
}

export async function newState (dir: string, sites: LabState['sites'], now: number): Promise<LabState> {
  const owner = processRef(process.pid)
  const pidNamespace = await namespaceOf(process.pid, 'pid')
  if (owner === null || pidNamespace === null) throw new MusubiError('NO_PROC', '/proc does not show this process', { hint: 'mount /proc' })
  return { version: 1, dir, bootId: bootId(), owner, pidNamespace, kept: false, createdAt: now, pods: [], sites }
}

/** Replaces the state as a whole: a reader sees the old or the new one. */
export async function writeState (state: LabState): Promise<void> {
  const path = join(state.dir, STATE_FILE)
  const draft = `${path}.${randomBytes(4).toString('hex')}`
  await writeFile(draft, `${JSON.stringify(state, null, 2)}\n`, { mode: 0o600 })
  await rename(draft, path)
}

/** The state of the lab in `dir`; null when there is none or it cannot be trusted. */
export async function readState (dir: string): Promise<LabState | null> {
  try {
    const folder = await lstat(dir)
    // Pids in it are killed: it must be ours, and nobody else may have been able to write it.
    if (!folder.isDirectory() || folder.uid !== process.getuid?.() || (folder.mode & 0o022) !== 0) return null
    const state = JSON.parse(await readFile(join(dir, STATE_FILE), 'utf8')) as Partial<LabState>
    return state.version === 1 && state.dir === dir && Array.isArray(state.pods) && state.owner !== undefined ? state as LabState : null
  } catch {
    return null
  }
}

/** Folders of labs in the temporary folder, complete or not. */
async function labDirs (): Promise<string[]> {
  const base = await realpath(tmpdir())
  return (await readdir(base)).filter(name => name.startsWith(PREFIX)).map(name => join(base, name))
}

/** Pods below `dir`, found by their init's argv: also those that no state file names yet. */
async function podsBelow (dir: string): Promise<PodRecord[]> {
  const found: PodRecord[] = []
  for (const pid of await allPids()) {
    const argv = await argvOf(pid)
    const at = argv.findIndex(arg => arg.endsWith('/lab/scripts/pod-init.sh'))
    const [name, podDir] = argv.slice(at + 1)
    // The keeper has the same arguments behind its own: it is the one that starts with `unshare`.
    if (at < 0 || name === undefined || podDir === undefined || !podDir.startsWith(`${dir}/`) || argv[0] !== 'unshare') continue
    const keeper = processRef(pid)
    const child = (await childrenOf(pid))[0]
    const init = child === undefined ? null : processRef(child)
    if (keeper !== null) found.push({ name, dir: podDir, keeper, init: init ?? keeper })
  }
  return found
}

/** Mount points of this mount namespace at or below a folder. */
export async function mountsBelow (dir: string): Promise<string[]> {
  const points = (await readFile('/proc/self/mountinfo', 'utf8')).split('\n').map(line => line.split(' ')[4] ?? '')
  return points.filter(point => point === dir || point.startsWith(`${dir}/`))
}

/** Removes a lab's folder. @throws MusubiError when something is mounted there, instead of deleting it */
export async function removeLabDir (dir: string): Promise<void> {
  const mounts = await mountsBelow(dir)
  if (mounts.length > 0) throw new MusubiError('BUSY', `${mounts.join(', ')} is still mounted`, { hint: `umount it, then remove ${dir}` })
  await rm(dir, { recursive: true, force: true, maxRetries: REMOVE_TRIES, retryDelay: 50 })
}

/** Ends a lab by its records and by what runs below its folder, then removes the folder. */
export async function endLab (dir: string, options: { keepFiles?: boolean } = {}): Promise<void> {
  const state = await readState(dir)
  const sameBoot = state !== null && state.bootId === bootId() && state.pidNamespace === await namespaceOf(process.pid, 'pid')
  const failures: unknown[] = []
  const end = async (pods: readonly PodRecord[]): Promise<void> => {
    for (const result of await Promise.allSettled(pods.map(async pod => { await stopPod(pod) }))) {
      if (result.status === 'rejected') failures.push(result.reason)
    }
  }
  if (sameBoot) await end(state.pods)
  await end(await podsBelow(dir))
  if (failures.length > 0) throw failures[0]
  if (options.keepFiles !== true) await removeLabDir(dir)
}

/** True when nobody will end this lab any more. */
async function isStale (dir: string, now: number): Promise<boolean> {
  const state = await readState(dir)
  if (state === null) {
    const folder = await lstat(dir).catch(() => null)
    return folder !== null && folder.isDirectory() && folder.uid === process.getuid?.() && now - folder.ctimeMs > YOUNG_MS
  }
  if (state.bootId !== bootId()) return true
  if (state.pidNamespace !== await namespaceOf(process.pid, 'pid')) return false
  if (isAlive(state.owner)) return false
  // A kept lab whose pods have all died (somebody killed them) is only a folder.
  return !state.kept || !state.pods.some(pod => isAlive(pod.init))
}

/** Removes what labs left whose owner died without ending them. @returns their folders */
export async function sweepStaleLabs (now: number = Date.now()): Promise<string[]> {
  const swept: string[] = []
  for (const dir of await labDirs()) {
    if (!(await isStale(dir, now))) continue
    await endLab(dir)
    swept.push(dir)
  }
  return swept
}

/** Labs that were kept and still run. */
export async function keptLabs (): Promise<LabState[]> {
  const states = await Promise.all((await labDirs()).map(async dir => await readState(dir)))
  return states.filter(state => state !== null).filter(state => state.kept)
}

/**
 * `--down`: ends the kept lab in `dir`, or all kept labs and stale ones. @returns their folders
 * @throws MusubiError when `dir` is no lab, or its owner is still at work in it
 */
export async function downLabs (dir?: string): Promise<string[]> {
  if (dir === undefined) {
    const kept = await keptLabs()
    for (const state of kept) await downOne(state)
    return [...kept.map(state => state.dir), ...await sweepStaleLabs()]
  }
  const state = await readState(resolve(dir))
  if (state === null) throw new MusubiError('NOT_FOUND', `there is no lab in ${dir}`)
  await downOne(state)
  return [state.dir]
}

async function downOne (state: LabState): Promise<void> {
  const ownerWorks = state.pidNamespace === await namespaceOf(process.pid, 'pid') && state.owner.pid !== process.pid && isAlive(state.owner)
  if (ownerWorks) {
    // It ends its lab by itself; ending it below its feet would look like a failure of every host.
    process.kill(state.owner.pid, 'SIGTERM')
    await waitGone(state.owner, 30_000)
  }
  await endLab(state.dir)
}
