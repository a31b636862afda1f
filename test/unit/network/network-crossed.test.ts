/** When the greeter looks, with a `wg` that says what the test wants. */
import { chmod, mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { createGreeter } from '../../../agent/drivers/network/tunnel/crossed.ts'
import { wgInterface } from '../../../agent/drivers/network/tunnel/names.ts'
import type { Greeter } from '../../../agent/drivers/network/tunnel/crossed.ts'

t.setTimeout(60_000)

const LOOK_MS = 100
/** More than there are looks. */
const LONG_MS = 1_500

const key = (letter: string): string => `${letter.repeat(43)}=`
const dump = (rxBytes: number, handshake = 0): string => `secret\t${key('A')}\t51820\toff\n${key('B')}\t(none)\t192.0.2.2:51820\t100.64.0.2/32\t${handshake}\t${rxBytes}\t296\t25\n`

/** The n-th look at the first track gets the n-th text, the last one for good; null: it fails. The second track is not there. */
async function withWg (dir: string, looks: Array<string | null>, work: (greeter: Greeter, log: () => Promise<string[]>) => Promise<void>): Promise<void> {
  await mkdir(join(dir, 'looks'))
  for (const [index, text] of looks.entries()) if (text !== null) await writeFile(join(dir, 'looks', String(index + 1)), text)
  await writeFile(join(dir, 'log'), '')
  await writeFile(join(dir, 'wg'), `#!/bin/sh
case "$1 $2" in
  'show ${wgInterface(0)}') ;;
  'show '*) exit 1 ;;
  *) echo "$*" >> '${dir}/log'; exit 0 ;;
esac
echo look >> '${dir}/log'
n=$(grep -c look '${dir}/log')
[ "$n" -gt ${looks.length} ] && n=${looks.length}
exec cat '${dir}/looks/'"$n"
`)
  await chmod(join(dir, 'wg'), 0o755)
  const path = process.env.PATH ?? ''
  process.env.PATH = `${dir}:${path}`
  const greeter = createGreeter(LOOK_MS)
  try {
    await work(greeter, async () => (await readFile(join(dir, 'log'), 'utf8')).split('\n').slice(0, -1))
  } finally {
    greeter.stop()
    process.env.PATH = path
  }
}

async function eventually (what: () => boolean | Promise<boolean>): Promise<boolean> {
  for (let i = 0; i < 400; i++) {
    if (await what()) return true
    await sleep(50)
  }
  return false
}

t.test('a look that fails at first ends nothing', async t => {
  await withWg(t.testdir(), [null, dump(148), dump(148), dump(240, 1_700_000_000)], async greeter => {
    greeter.watch()
    t.ok(await eventually(() => greeter.count() === 1), 'begun anew')
  })
})

t.test('what comes after a peer was given again has just come, be it as much as before', async t => {
  await withWg(t.testdir(), [dump(148), dump(148), dump(148), dump(240, 1_700_000_000)], async (greeter, log) => {
    greeter.watch()
    const isLook = (line: string): boolean => line === 'look'
    t.ok(await eventually(async () => (await log()).filter(isLook).length === 4), 'it looked until there was a session')
    t.equal(greeter.count(), 1, 'begun anew once')
    t.ok(isLook((await log()).at(-2) ?? ''), 'not at the third look')
    await sleep(LOOK_MS * 3)
    t.equal((await log()).filter(isLook).length, 4, 'and looks no more')
  })
})

t.test('a pass that goes on for long takes no looks', async t => {
  await withWg(t.testdir(), [dump(148)], async (greeter, log) => {
    await greeter.pausedFor(async () => {
      greeter.watch()
      await sleep(LONG_MS)
      t.same(await log(), [], 'none meanwhile')
    })
    t.ok(await eventually(() => greeter.count() > 0), 'begun anew afterwards')
  })
})
