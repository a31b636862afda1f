import { readdir, readFile, readlink } from 'node:fs/promises'
import { run } from '../../agent/exec.ts'
import { SITE } from './cache-lab.ts'

/** USER_HZ of Linux, which /proc counts in. */
const TICKS_PER_S = 100

/** Processes in the site's namespace. */
export async function sitePids (): Promise<number[]> {
  const { stdout } = await run('stat', ['-L', '-c', '%i', `/run/netns/${SITE}`])
  const found: number[] = []
  for (const pid of (await readdir('/proc')).filter(entry => /^\d+$/.test(entry))) {
    if (await readlink(`/proc/${pid}/ns/net`).catch(() => '') === `net:[${stdout.trim()}]`) found.push(Number(pid))
  }
  return found
}

/** Command lines of the processes in the site's namespace. */
export async function siteCommands (): Promise<string[]> {
  return await Promise.all((await sitePids()).map(async pid => (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).replaceAll('\0', ' ').trim()))
}

/** Processor time, in seconds, of all that runs in the site's namespace so far, with what has ended below it. */
export async function cpuSeconds (): Promise<number> {
  let ticks = 0
  for (const pid of await sitePids()) {
    const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '')
    // fields 14 to 17 of proc(5): own and children's, user and system; the second may contain spaces
    ticks += stat.slice(stat.lastIndexOf(')') + 2).split(' ').slice(11, 15).reduce((sum, one) => sum + Number(one), 0)
  }
  return ticks / TICKS_PER_S
}

/** Bytes of memory that are the cache's alone, by the kernel's proportional count. */
export async function memoryBytes (): Promise<number> {
  let sum = 0
  for (const pid of await sitePids()) {
    const rollup = await readFile(`/proc/${pid}/smaps_rollup`, 'utf8').catch(() => '')
    sum += Number(/^Pss:\s+(\d+) kB/m.exec(rollup)?.[1] ?? 0) * 1024
  }
  return sum
}
