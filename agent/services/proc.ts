import { readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs'

// /proc answers from memory: synchronous reads take microseconds, the asynchronous ones ten times that

/** What /proc tells about one process; `startTicks` with the boot id names it for good. */
export interface ProcessStat {
  pid: number
  /** one letter, `Z` is a zombie: its first thread at least has ended */
  state: string
  /** of them that have not ended; a zombie counts as one itself */
  threads: number
  parent: number
  session: number
  /** field 22: clock ticks since boot, kept as text */
  startTicks: string
}

/** Parses /proc/PID/stat; the command may itself hold blanks and brackets. */
export function parseStat (text: string): ProcessStat | null {
  const open = text.indexOf('(')
  const close = text.lastIndexOf(')')
  if (open < 1 || close < open) return null
  const rest = text.slice(close + 1).trim().split(/\s+/)
  const pid = Number(text.slice(0, open))
  const parent = Number(rest[1])
  const session = Number(rest[3])
  const threads = Number(rest[17])
  const state = rest[0]
  const startTicks = rest[19]
  if (!Number.isInteger(pid) || !Number.isInteger(parent) || !Number.isInteger(session) || !Number.isInteger(threads)) return null
  if (state === undefined || startTicks === undefined || !/^\d+$/.test(startTicks)) return null
  return { pid, state, threads, parent, session, startTicks }
}

/**
 * The process, or null when there is none (or only its zombie: nothing runs any more). One of which the first thread
 * has ended and others have not is a zombie too, but holds its sockets and files still: after SIGKILL for a moment.
 */
export function readProcess (pid: number): ProcessStat | null {
  try {
    const stat = parseStat(readFileSync(`/proc/${pid}/stat`, 'latin1'))
    return stat === null || (stat.state === 'Z' && stat.threads <= 1) || stat.state === 'X' ? null : stat
  } catch {
    return null
  }
}

/** All living processes of this pid namespace but the caller. */
export function listProcesses (): ProcessStat[] {
  const found: ProcessStat[] = []
  for (const entry of readdirSync('/proc')) {
    if (!/^\d+$/.test(entry) || Number(entry) === process.pid) continue
    const stat = readProcess(Number(entry))
    if (stat !== null) found.push(stat)
  }
  return found
}

/** One variable of a process's environment as it was at exec; null when it has none or may not be read. */
export function environmentOf (pid: number, variable: string): string | null {
  try {
    const prefix = `${variable}=`
    const text = readFileSync(`/proc/${pid}/environ`, 'utf8')
    const entry = text.split('\0').find(line => line.startsWith(prefix))
    return entry === undefined ? null : entry.slice(prefix.length)
  } catch {
    return null
  }
}

/** Number of the user that a process runs as; null when it is gone. */
export function ownerOf (pid: number): number | null {
  try {
    return statSync(`/proc/${pid}`).uid
  } catch {
    return null
  }
}

/** What standard output and error of a process point to, be it deleted or not. */
export function outputsOf (pid: number): string[] {
  const found: string[] = []
  for (const fd of [1, 2]) {
    try {
      found.push(readlinkSync(`/proc/${pid}/fd/${fd}`).replace(/ \(deleted\)$/, ''))
    } catch { /* gone, or not ours to look at */ }
  }
  return found
}

/** Differs after each boot: pids and start times of another boot mean nothing. */
export function bootId (): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
}
