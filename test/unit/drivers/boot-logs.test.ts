import { appendFile, open, readFile, stat, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { run } from '../../../agent/exec.ts'
import { boundLog, LOG_MAX_BYTES, readTail } from '../../../agent/drivers/boot/logs.ts'

const size = async (path: string): Promise<number> => (await stat(path)).size

t.test('a log that grew too large is emptied under its writer; one predecessor is kept', async t => {
  const path = join(t.testdir({}), 'phases.log')
  const daemon = await open(path, 'a')
  t.teardown(() => daemon.close())
  await daemon.write('first\n')
  await boundLog(path)
  t.equal(await size(path), 6, 'a small one is left alone')
  await daemon.write('x'.repeat(LOG_MAX_BYTES))
  await daemon.write('\nsecond\n')
  await boundLog(path)
  t.equal(await size(path), 0)
  t.equal(await size(`${path}.1`), LOG_MAX_BYTES, 'only the end is kept')
  await daemon.write('third\n')
  t.match(await readTail(path), /second\nthird\n$/, 'read on over the border')
  for (let i = 0; i < 3; i++) {
    await daemon.write('y'.repeat(LOG_MAX_BYTES + 1))
    await boundLog(path)
  }
  t.ok(await size(path) + await size(`${path}.1`) <= 2 * LOG_MAX_BYTES)
})

t.test('a pipe in the place of a log holds up nobody', async t => {
  const path = join(t.testdir({}), 'phases.log')
  await run('mkfifo', [path])
  t.equal(await readTail(path), '')
})

t.test('links lead nowhere, and what is not there is no error', async t => {
  const dir = t.testdir({ precious: 'z'.repeat(100) })
  await boundLog(join(dir, 'missing.log'), 10)
  t.equal(await readTail(join(dir, 'missing.log')), '')
  await symlink(join(dir, 'precious'), join(dir, 'link.log'))
  await boundLog(join(dir, 'link.log'), 10)
  t.equal(await size(join(dir, 'precious')), 100)
  await writeFile(join(dir, 'a.log'), 'a'.repeat(20))
  await symlink(join(dir, 'precious'), join(dir, 'a.log.1.new'))
  await boundLog(join(dir, 'a.log'), 10)
  t.equal(await readFile(join(dir, 'precious'), 'utf8'), 'z'.repeat(100))
  t.equal(await readFile(join(dir, 'a.log.1'), 'utf8'), 'a'.repeat(10))
  await appendFile(join(dir, 'a.log'), 'b')
  t.equal(await readTail(join(dir, 'a.log')), `${'a'.repeat(10)}b`)
})
