import { readdir, readFile, readlink } from 'node:fs/promises'
import { run } from '../../agent/exec.ts'
import { SITE } from './cache-lab.ts'

/** Processes in the site's namespace. */
export async function sitePids (): Promise<number[]> {
  const { stdout } = await run('stat', ['-L', '-c', '%i', `/run/netns/${SITE}`])
  const found: number[] = []
  for (const pid of (await readdir('/proc')).filter(entry => /^\d+$/.test(entry))) {
    if (await readlink(`/proc/${pid}/ns/net`).catch(() => '') === `net:[${stdout.trim()}]`) found.push(Number(pid))
  }
  return found
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
