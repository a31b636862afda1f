import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { run } from '../../agent/exec.ts'
import { buildNodeImage } from '../../agent/images/build.ts'

const BUILD = join(import.meta.dirname, '../../agent/images/build.ts')
const root = process.getuid?.() === 0

t.setTimeout(300_000)

/** Processes that work below a folder, by their arguments. */
async function working (dir: string): Promise<string[]> {
  const { stdout } = await run('ps', ['-A', '-o', 'stat=,args='])
  return stdout.split('\n').filter(line => !line.startsWith('Z') && line.includes(dir) && !line.includes('--eval'))
}

async function until (done: () => Promise<boolean>): Promise<boolean> {
  for (let i = 0; i < 600; i++) {
    if (await done()) return true
    await sleep(100)
  }
  return false
}

t.test('a killed build leaves a temporary folder and no process; the next one sweeps it', { skip: root ? false : 'needs root' }, async t => {
  const store = t.testdir()
  const script = `import { buildNodeImage } from ${JSON.stringify(BUILD)}\nawait buildNodeImage({ storeDir: ${JSON.stringify(store)} })`
  const builder = spawn(process.execPath, ['--input-type=module', '--eval', script], { stdio: ['ignore', 'ignore', 'inherit'] })
  t.teardown(() => { builder.kill('SIGKILL') })
  // far enough to have mounts, children and files
  t.ok(await until(async () => (await readdir(join(store, `building-${builder.pid ?? 0}`, 'root')).catch(() => [])).length > 0))
  builder.kill('SIGKILL')
  await once(builder, 'exit')
  t.ok(await until(async () => (await working(store)).length === 0), 'its children end with it')
  t.strictSame(await readdir(store), [`building-${builder.pid ?? 0}`])

  const stop = new AbortController()
  const next = buildNodeImage({ storeDir: store, signal: stop.signal })
  t.ok(await until(async () => (await readdir(join(store, `building-${process.pid}`, 'root')).catch(() => [])).length > 0))
  t.strictSame(await readdir(store), [`building-${process.pid}`], 'the folder of the killed build is gone')
  stop.abort()
  await t.rejects(next, { code: 'COMMAND_FAILED', message: /was cancelled/ })
  t.ok(await until(async () => (await working(store)).length === 0), 'nothing runs on')
  t.strictSame(await readdir(store), [], 'a cancelled build cleans up itself')
})
