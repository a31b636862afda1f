/** The demo as a process of its own, for the tests that run it as a user does. */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { text } from 'node:stream/consumers'
import type { DemoResult } from '../lab/demo/result.ts'
import { allPids, argvOf } from '../lab/process.ts'

const TREE = dirname(import.meta.dirname)
/** Labs of this test process lie here, apart from those of anybody else; short, because sockets lie below. */
export const LABS = mkdtempSync(join(tmpdir(), 'mzt-'))

export interface DemoRun {
  child: ChildProcess
  /** resolves at the end */
  ended: Promise<{ code: number | null, out: string, err: string }>
  /** resolves when a line of progress matches, false when the demo ends before */
  progress (pattern: RegExp): Promise<boolean>
}

export function startDemo (args: readonly string[]): DemoRun {
  const child = spawn(process.execPath, [join(TREE, 'lab', 'demo.ts'), ...args], { cwd: TREE, stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, TMPDIR: LABS } })
  let seen = ''
  const listeners = new Set<() => void>()
  child.stderr.on('data', chunk => { seen += String(chunk); for (const l of listeners) l() })
  const ended = Promise.all([text(child.stdout), once(child, 'close') as Promise<[number | null]>]).then(([out, [code]]) => ({ code, out, err: seen }))
  return {
    child, ended,
    async progress (pattern) {
      const matched = new Promise<boolean>(resolve => {
        const look = (): void => { if (pattern.test(seen)) { listeners.delete(look); resolve(true) } }
        listeners.add(look)
        look()
      })
      return await Promise.race([matched, ended.then(({ err }) => pattern.test(err))])
    }
  }
}

/** What nodes got while their cache was not in the way yet, or out of it: on a busy machine some boot before it answers, and are not kept waiting. */
export const directBytes = ({ bytesWithoutCache, caches }: DemoResult['wan']): number => Math.max(0, bytesWithoutCache - caches.reduce((sum, cache) => sum + cache.bytesToNodes, 0))

export const runDemo = async (args: readonly string[]): Promise<Awaited<DemoRun['ended']>> => await startDemo(args).ended

/**
 * What is left of our labs: folders, mounts, and processes that still have our folder in their
 * environment. A pod's init is one of these, and with it goes everything in the pod.
 */
export async function labTraces (): Promise<string[]> {
  const folders = readdirSync(LABS).filter(name => name.startsWith('mzlab-'))
  const mounts = readFileSync('/proc/mounts', 'utf8').split('\n').filter(line => line.includes(LABS))
  const processes: string[] = []
  for (const pid of await allPids()) {
    try {
      if (pid !== process.pid && readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0').includes(`TMPDIR=${LABS}`)) processes.push(`process ${(await argvOf(pid)).join(' ').slice(0, 120)}`)
    } catch { /* it has ended */ }
  }
  return [...folders, ...mounts, ...processes]
}
