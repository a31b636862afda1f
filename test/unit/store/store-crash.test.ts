import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import t from 'tap'
import type { HoldRequest, Receipt } from '../../../protocol/core/messages.ts'
import { openLedger } from '../../../store/ledger.ts'
import { openLevelStore } from '../../../store/level.ts'

interface Line { epoch?: number, request?: HoldRequest, held?: Receipt[], committed?: Receipt[], released?: string }

/** Runs the writer until it has printed `lines` lines, kills it with SIGKILL, and returns what it had printed. */
async function runAndKill (folder: string, run: number, lines: number): Promise<Line[]> {
  const child = spawn(process.execPath, ['--experimental-strip-types', '--no-warnings', join(import.meta.dirname, '../../model/crash-writer.ts'), folder, String(run)], { stdio: ['ignore', 'pipe', 'inherit'], timeout: 60_000, killSignal: 'SIGKILL' })
  const printed: Line[] = []
  const reader = createInterface({ input: child.stdout })
  const ended = once(child, 'close')
  for await (const line of reader) {
    // Killed in the middle of a line: that answer was not given.
    try { printed.push(JSON.parse(line) as Line) } catch { break }
    if (printed.length === lines) child.kill('SIGKILL')
  }
  await ended
  return printed
}

t.test('killed amid writes, a ledger knows everything that it had answered', async t => {
  const folder = join(t.testdir(), 'db')
  const tokens = new Map<number, string>()
  let lastEpoch = 0
  for (const [run, lines] of [150, 40, 1, 400].entries()) {
    const printed = await runAndKill(folder, run, lines)
    t.ok(printed.length >= lines, `run ${run}: ${printed.length} answers before the end`)
    const store = await openLevelStore(folder)
    const ledger = await openLedger({ store, now: Date.now, host: 'a1', capacity: { vcpus: 1, memoryMib: 1, diskMib: 0, volumes: 0, bandwidthMbit: 0 } })
    const state = ledger.state()
    const released = new Set(printed.map(line => line.released))
    let missing = 0
    for (const { epoch, request, held, committed } of printed) {
      if (epoch !== undefined) {
        t.ok(epoch > lastEpoch, 'the boot epoch grew')
        lastEpoch = epoch
      }
      if (request === undefined) continue
      const lease = state.leases.get(request.items[0]?.leaseId ?? '')
      if (lease === undefined || lease.commitToken !== committed?.[0]?.token || (released.has(lease.id) && lease.state !== 'ended')) missing++
      for (const { token, leaseId } of [...held ?? [], ...committed ?? []]) {
        if (tokens.has(token) || token > state.counter) missing++
        tokens.set(token, leaseId)
      }
    }
    t.equal(missing, 0, 'every answer is there, no token was given twice')
    const last = printed.findLast(line => line.request !== undefined)
    if (last?.request !== undefined) t.strictSame((await ledger.hold(last.request)).receipts, last.held, 'a replay has the same answer')
    await ledger.close()
    await store.close()
  }
})
