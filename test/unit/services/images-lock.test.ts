import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import t from 'tap'
import { withBuildLock } from '../../../agent/images/lock.ts'

const LOCK = join(import.meta.dirname, '../../../agent/images/lock.ts')
const bound = (): AbortSignal => AbortSignal.timeout(20_000)

t.test('two builds into one folder run one after the other, in others side by side', async t => {
  const dir = t.testdir({ a: {}, b: {} })
  const events: string[] = []
  const release = Promise.withResolvers<undefined>()
  const started = Promise.withResolvers<undefined>()
  const first = withBuildLock(join(dir, 'a'), bound(), () => undefined, async () => {
    events.push('first begins')
    started.resolve(undefined)
    await release.promise
    events.push('first ends')
  })
  await started.promise
  const second = withBuildLock(join(dir, 'a'), bound(), () => { release.resolve(undefined) }, () => Promise.resolve(events.push('second')))
  await withBuildLock(join(dir, 'b'), bound(), () => undefined, () => Promise.resolve(events.push('other folder')))
  await Promise.all([first, second])
  t.strictSame(events.filter(event => event !== 'other folder'), ['first begins', 'first ends', 'second'])
  t.ok(events.includes('other folder'))
})

t.test('work that throws gives the lock back', async t => {
  const dir = t.testdir()
  await t.rejects(withBuildLock(dir, bound(), () => undefined, () => Promise.reject(new Error('no'))), { message: 'no' })
  t.equal(await withBuildLock(dir, bound(), () => undefined, () => Promise.resolve(7)), 7)
})

t.test('kill -9 of the holder gives the lock back', async t => {
  const dir = t.testdir()
  const script = `import { withBuildLock } from ${JSON.stringify(LOCK)}
    await withBuildLock(${JSON.stringify(dir)}, AbortSignal.timeout(60000), () => {}, () => { console.log('held'); return new Promise(() => setInterval(() => {}, 1000)) })`
  const holder = spawn(process.execPath, ['--input-type=module', '--eval', script], { stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => { holder.kill('SIGKILL') })
  await once(holder.stdout, 'data')
  let waited = false
  await withBuildLock(dir, bound(), () => {
    waited = true
    holder.kill('SIGKILL')
  }, () => Promise.resolve())
  t.ok(waited)
})

t.test('waiting ends with the signal', async t => {
  const dir = t.testdir()
  await withBuildLock(dir, bound(), () => undefined, async () => {
    await t.rejects(withBuildLock(dir, AbortSignal.timeout(50), () => undefined, () => Promise.resolve()), { name: 'AbortError' })
  })
})
