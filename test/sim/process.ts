/** The simulator as a process of its own, for the tests that run it as a user does. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface } from 'node:readline'

export interface SimRun {
  code: number | null
  lines: string[]
  /** schedules that met the bar, see run.ts */
  counting: number
}

/** @param onLine for progress while it runs */
export async function runSim (args: readonly string[], onLine: (line: string) => void = () => undefined): Promise<SimRun> {
  const child = spawn(process.execPath, [join(import.meta.dirname, 'main.ts'), ...args], { stdio: ['ignore', 'pipe', 'inherit'] })
  const lines: string[] = []
  createInterface({ input: child.stdout }).on('line', line => { lines.push(line); onLine(line) })
  const [code] = await once(child, 'close') as [number | null]
  return { code, lines, counting: Number(lines.map(line => /, (\d+) count/.exec(line)?.[1]).find(count => count !== undefined) ?? 0) }
}
