/** The gateway's state machine: a crash between any two effects of a cluster's life. */
import t from 'tap'
import { MusubiError } from '../../../protocol/core/errors.ts'
import { GatewayBench, HOUR } from '../../model/gateway-bench.ts'

function ignore (work: () => unknown): void {
  try {
    work()
  } catch (error) {
    if (!(error instanceof MusubiError)) throw error
  }
}

/** What a master does with one site, each step tried again until it is answered, or given up. */
const SCRIPT = ['request', 'commit', 'activate', 'extend', 'commit extension', 'release'] as const

/**
 * Plays the script with one crash after so many effects. The master repeats what was not answered;
 * @returns how often a step was refused, and whether the script came so far
 */
function play (crashAfter: number, powerLost: boolean, late: boolean): { refused: string[], crashed: boolean, bench: GatewayBench } {
  const b = new GatewayBench()
  b.crashAfter = crashAfter
  const refused: string[] = []
  let crashed = false
  let stray: typeof b.calls = []
  let offer = null as ReturnType<GatewayBench['offer']> | null
  let receipts: ReturnType<GatewayBench['commit']> = []
  const steps: Record<typeof SCRIPT[number], () => void> = {
    request: () => { offer = b.offer() },
    commit: () => { receipts = b.commit(offer?.offerId ?? '') },
    activate: () => { b.settle(b.activating(b.document(offer === null ? [] : [offer]), receipts)) },
    extend: () => { b.settle(b.extending()) },
    'commit extension': () => { b.commit('ext-1') },
    release: () => { b.settle(b.releasing()) }
  }
  for (const name of SCRIPT) {
    for (let attempt = 0; ; attempt++) {
      try {
        steps[name]()
        // What the dead process had asked arrives when everybody is a step further.
        for (const { peer, ask } of stray.splice(0)) ignore(() => b.answer(peer, ask))
        break
      } catch (error) {
        const died = !(error instanceof MusubiError)
        if (died) {
          crashed = true
          if (late) stray = b.calls
          b.crash(powerLost)
        } else {
          refused.push(`${name}: ${error.code} ${error.message}`)
        }
        if (attempt === 3) return { refused, crashed, bench: b }
        if (!died) b.tick(1_000)
      }
    }
  }
  return { refused, crashed, bench: b }
}

t.test('a crash between any two effects, also one that loses unsynced writes: what was answered stays, and all ends', t => {
  for (const [powerLost, late] of [[false, false], [true, false], [false, true], [true, true]] as const) {
    let points = 0
    for (let at = 1; ; at++) {
      const { refused, crashed, bench } = play(at, powerLost, late)
      if (!crashed) break
      points++
      // A growth or extension that was under way is given up, and asked for again.
      const unexpected = refused.filter(r => !r.startsWith('extend: CONFLICT'))
      // A hold that comes late is nobody's, and ends by itself.
      const left = bench.leases().filter(lease => !late || !lease.endsWith('held'))
      if (unexpected.length > 0 || left.length > 0) t.fail(`crash after effect ${at}${powerLost ? ' with the power' : ''}`, { refused, leases: bench.leases() })
      bench.tick(1_000)
      bench.tick(26 * HOUR)
      t.same([left, bench.machine.records.size, bench.machine.jobs.size, bench.machine.calls.size], [[], 0, 0, 0])
    }
    t.ok(points >= 40, `${points} points of crash`)
  }
  t.end()
})
