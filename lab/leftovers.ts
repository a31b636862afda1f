import { readdir, readFile } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import { run } from '../agent/exec.ts'
import { PREFIX } from '../protocol/core/desired.ts'
import type { Pod } from './pod.ts'
import { allPids, argvOf, namespaceOf, processesOfPod, processRef } from './process.ts'
import { mountsBelow } from './state.ts'

/** A place's things by kind; equal texts count, so that a second equal process is seen. */
export interface Snapshot {
  namespace: string[]
  link: string[]
  'nft table': string[]
  process: string[]
  domain: string[]
  mount: string[]
  'loop device': string[]
}

export type SnapshotKind = keyof Snapshot
const KINDS: readonly SnapshotKind[] = ['namespace', 'link', 'nft table', 'process', 'domain', 'mount', 'loop device']
const emptySnapshot = (): Snapshot => ({ namespace: [], link: [], 'nft table': [], process: [], domain: [], mount: [], 'loop device': [] })

/** A process in a snapshot; a restarted one counts as the same, so its pid is only for people. */
const withPid = (argv: readonly string[], pid: number): string => `${argv.join(' ').slice(0, 200)} (pid ${pid})`
const withoutPid = (text: string): string => text.replace(/ \(pid \d+\)$/, '')

/** What is there now and was not in the baseline, one line each: `tokyo-1: link mzb000001`. */
export function compareSnapshots (place: string, baseline: Snapshot, now: Snapshot): string[] {
  const lines: string[] = []
  for (const kind of KINDS) {
    const known = baseline[kind].map(withoutPid)
    for (const thing of now[kind]) {
      const at = known.indexOf(withoutPid(thing))
      if (at >= 0) known.splice(at, 1)
      else lines.push(`${place}: ${kind} ${thing}`)
    }
  }
  return lines
}

/** Names in `ip -json link`; peers in other namespaces are not part of a name. */
export function linkNames (json: string): string[] {
  if (json.trim() === '') return []
  return (JSON.parse(json) as Array<{ ifname?: string }>).map(link => link.ifname).filter(name => name !== undefined)
}

/** `family name` of each table in `nft -j list tables`. */
export function nftTables (json: string): string[] {
  if (json.trim() === '') return []
  const { nftables } = JSON.parse(json) as { nftables: Array<{ table?: { family: string, name: string } }> }
  return nftables.map(entry => entry.table).filter(table => table !== undefined).map(table => `${table.family} ${table.name}`)
}

/** Mount points in the text of /proc/PID/mountinfo. */
export function mountPoints (mountinfo: string): string[] {
  return mountinfo.split('\n').map(line => line.split(' ')[4]).filter(point => point !== undefined)
}

const lines = (text: string): string[] => text.split('\n').map(line => line.trim()).filter(line => line !== '')

/** Everything in a pod that a cluster could leave behind. */
export async function snapshotPod (pod: Pod, options: { libvirt: boolean }): Promise<Snapshot> {
  // 127: the program is not installed, so it can have left nothing.
  const output = async (...argv: string[]): Promise<string> => {
    const result = await pod.exec(argv, { okCodes: [127] })
    return result.exitCode === 127 ? '' : result.stdout
  }
  const [netns, links, tables, domains, mounts] = await Promise.all([
    output('ip', 'netns', 'list'), output('ip', '-json', 'link', 'show'), output('nft', '-j', 'list', 'tables'),
    options.libvirt ? output('virsh', '-c', 'qemu:///system', 'list', '--all', '--name') : '',
    readFile(`/proc/${pod.pid}/mountinfo`, 'utf8')
  ])
  // After the commands, which are processes of the pod themselves.
  const processes = await processesOfPod(pod.pid)
  return {
    ...emptySnapshot(),
    namespace: lines(netns).map(line => line.split(' ')[0] ?? line),
    link: linkNames(links),
    'nft table': nftTables(tables),
    process: processes.map(p => withPid(p.argv, p.innerPid)),
    domain: lines(domains),
    mount: mountPoints(mounts)
  }
}

/** What a lab could leave on the machine itself; things of others are not looked at. */
export async function snapshotMachine (labDir: string): Promise<Snapshot> {
  const ours = (name: string): boolean => name.startsWith(PREFIX)
  const [netns, links, tables, mounts, loops] = await Promise.all([
    readdir('/run/netns').catch(() => []),
    run('ip', ['-json', 'link', 'show']).then(r => linkNames(r.stdout)),
    run('nft', ['-j', 'list', 'tables']).then(r => nftTables(r.stdout), () => []),
    mountsBelow(labDir),
    loopDevices()
  ])
  return {
    ...emptySnapshot(),
    namespace: netns.filter(ours),
    link: links.filter(ours),
    'nft table': tables.filter(table => ours(table.split(' ')[1] ?? '')),
    mount: mounts,
    'loop device': loops
  }
}

/** Loop devices in use: the kernel has one list of them, whatever namespace made them. */
async function loopDevices (): Promise<string[]> {
  const names = (await readdir('/sys/block').catch(() => [])).filter(name => name.startsWith('loop'))
  const found = await Promise.all(names.map(async name => {
    const file = await readFile(`/sys/block/${name}/loop/backing_file`, 'utf8').catch(() => null)
    return file === null ? null : `${name} on ${file.trim()}`
  }))
  return found.filter(entry => entry !== null)
}

/** Namespaces of pods, to find their processes after the pods have ended. */
export async function podNamespaces (pod: Pod): Promise<string[]> {
  const found = await Promise.all(['pid', 'net', 'mnt'].map(async kind => await namespaceOf(pod.pid, kind)))
  return found.filter(name => name !== null)
}

/** Clock ticks since boot, as in /proc/PID/stat (100 a second on Linux for user space). */
export async function ticksNow (): Promise<number> {
  return Math.round(Number((await readFile('/proc/uptime', 'utf8')).split(' ')[0]) * 100)
}

/**
 * Processes that outlived their lab: in a namespace of one of its pods, or with its folder in
 * their arguments. Namespace numbers are given out again, hence only processes older than the end.
 */
export async function survivors (labDir: string, namespaces: ReadonlySet<string>, endedTicks: number): Promise<string[]> {
  const found = await Promise.all((await allPids()).map(async pid => {
    if (pid === process.pid) return null
    const ref = processRef(pid)
    if (ref === null || Number(ref.startTicks) > endedTicks) return null
    const argv = await argvOf(pid)
    const inside = (await Promise.all(['pid', 'net', 'mnt'].map(async kind => await namespaceOf(pid, kind)))).some(name => name !== null && namespaces.has(name))
    return inside || argv.some(arg => arg === labDir || arg.startsWith(`${labDir}/`)) ? `machine: process ${withPid(argv, pid)}` : null
  }))
  return found.filter(line => line !== null)
}

/**
 * Repeats a search until nothing is found twice running, or `settleMs` are over: the kernel ends
 * namespaces in its own time, and what an agent runs for a moment is no left-over.
 */
export async function settled (search: () => Promise<string[]>, settleMs: number): Promise<string[]> {
  const endMs = performance.now() + settleMs
  let before = await search()
  while (before.length > 0) {
    await delay(200)
    const now = await search()
    const both = now.filter(line => before.includes(line))
    if (both.length === 0 || performance.now() >= endMs) return both
    before = now
  }
  return []
}
