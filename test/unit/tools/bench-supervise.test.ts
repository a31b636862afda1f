import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { access, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { isAlive, processRef, type ProcessRef } from '../../../lab/process.ts'

const SUPERVISE = join(import.meta.dirname, '..', '..', 'bench', 'supervise.ts')

/** A bench that makes a folder, says who it is, and then does what is asked. */
async function start (dir: string, what: string) {
  const [bench, main] = [join(dir, 'bench.mjs'), join(dir, 'main.mjs')]
  await writeFile(bench, `import { mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { endWithSupervisor } from ${JSON.stringify(SUPERVISE)}
endWithSupervisor()
const dir = mkdtempSync(join(tmpdir(), 'x-'))
writeFileSync(join(dir, 'file'), '')
process.on('exit', () => { writeFileSync(${JSON.stringify(join(dir, 'ended'))}, '') })
writeFileSync(${JSON.stringify(join(dir, 'said'))}, JSON.stringify({ pid: process.pid, dir }))
setInterval(() => undefined, 1000)
${what}
`)
  await writeFile(main, `import { supervise } from ${JSON.stringify(SUPERVISE)}\nprocess.exit(await supervise(${JSON.stringify(bench)}, []))\n`)
  const child = spawn(process.execPath, [main], { stdio: ['ignore', 'ignore', 'inherit'], env: { ...process.env, TMPDIR: dir, NODE_OPTIONS: '' } })
  const exit = once(child, 'exit') as Promise<[number | null]>
  const said = async (): Promise<{ pid: number, dir: string }> => {
    for (;;) {
      const text = await readFile(join(dir, 'said'), 'utf8').catch(() => '')
      if (text !== '') return JSON.parse(text) as { pid: number, dir: string }
      await sleep(10)
    }
  }
  return { child, exit, said }
}

const tempOf = async (dir: string): Promise<string[]> => (await readdir(dir)).filter(name => name.startsWith('mzn-'))

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  t.test(`a bench that gets ${signal} leaves nothing`, async t => {
    const dir = t.testdir()
    const { child, exit, said } = await start(dir, '')
    const inner = await said()
    await access(join(inner.dir, 'file'))
    const ref = processRef(inner.pid) as ProcessRef
    child.kill(signal)
    t.match((await exit)[0], { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 }[signal])
    t.strictSame(await tempOf(dir), [])
    t.notOk(isAlive(ref))
    await access(join(dir, 'ended')) // by way of its listeners
  })
}

t.test('one that is killed, or fails, leaves nothing either', async t => {
  const killed = t.testdir({ a: {}, b: {} })
  const first = await start(join(killed, 'a'), '')
  process.kill((await first.said()).pid, 'SIGKILL')
  t.equal((await first.exit)[0], 137)
  t.strictSame(await tempOf(join(killed, 'a')), [])
  const second = await start(join(killed, 'b'), 'process.exit(3)')
  t.equal((await second.exit)[0], 3)
  t.strictSame(await tempOf(join(killed, 'b')), [])
})

t.test('it ends when its supervisor is killed', async t => {
  const { child, said } = await start(t.testdir(), '')
  const ref = processRef((await said()).pid) as ProcessRef
  child.kill('SIGKILL')
  while (isAlive(ref)) await sleep(10)
  t.pass()
})
