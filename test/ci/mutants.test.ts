/** Bugs planted one at a time, one for each invariant: the checker notices them. `npm run sim:mutants` plants all of them. */
import { once } from 'node:events'
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import t from 'tap'

t.setTimeout(1_200_000)

/** Each was noticed within 30 schedules when it was chosen; changes of the schedules may move that. */
const SEEDS = '500'
const PLANTED = [
  'active-when-some-are', 'keep-alive-revives', 'never-quite-full', 'keep-alive-not-repeated', 'activated-before-copies', 'gone-without-revocation', 'commit-before-decision', 'asked-forgotten',
  'hold-too-short', 'extension-done-when-some', 'epoch-in-memory', 'jump-accepted', 'starts-at-once', 'clock-stands-still', 'ends-early-by-own-clock', 'activated-before-start',
  'document-without-lease', 'offer-of-some-hosts', 'gateway-obeys-old-master', 'gateway-obeys-anyone', 'answer-before-write', 'calendar-ignores-end', 'quota-ignored', 'release-does-not-wait',
  'replay-applied-twice', 'hosts-before-gateway', 'skew-ignored', 'gone-as-soon-as-ended', 'offered-decides-late'
]

t.test('planted bugs are noticed, and the product as it is has none of them', async t => {
  const child = spawn(process.execPath, [join(import.meta.dirname, '../sim/mutants/main.ts'), '--seeds', SEEDS, ...PLANTED.flatMap(name => ['--only', name])], { stdio: ['ignore', 'pipe', 'inherit'] })
  const lines: string[] = []
  createInterface({ input: child.stdout }).on('line', line => { lines.push(line); t.comment(line) })
  const [code] = await once(child, 'close') as [number | null]
  t.equal(code, 0)
  for (const name of PLANTED) t.ok(lines.some(line => line.startsWith(`${name} `) && line.includes(' caught ')), name)
})
