/** Folders that a process with privileges works in: nobody else may be able to move them away or replace them. */
import { chmod, chown, lchown, mkdir, mkdtemp, rm, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import t from 'tap'
import { refuseStrangers } from '../../../agent/system/owners.ts'
import { startBench } from '../../helper-bench.ts'

const skip = process.getuid?.() === 0 ? {} : { skip: 'needs root to give folders away' }
const STRANGER = 64_321

t.test('every folder on the way counts, and where a link leads', skip, async t => {
  const dir = await mkdtemp(join(tmpdir(), 'mz-owners-'))
  t.teardown(() => rm(dir, { recursive: true, force: true }))
  const folder = join(dir, 'a', 'b')
  await mkdir(folder, { recursive: true })
  await refuseStrangers(folder)
  const refused = { code: 'INVALID_INPUT', message: /is not safe/, hint: /chown root:/ }

  await chown(dirname(folder), STRANGER, STRANGER)
  await t.rejects(refuseStrangers(folder), { ...refused, message: `${dirname(folder)}: it belongs to user ${STRANGER}` })
  await chown(dirname(folder), 0, 0)
  await chmod(folder, 0o777)
  await t.rejects(refuseStrangers(folder), refused)
  await chmod(folder, 0o1777)
  await refuseStrangers(folder)
  await chmod(folder, 0o775)
  await refuseStrangers(folder)
  await chown(folder, 0, STRANGER)
  await t.rejects(refuseStrangers(folder), { ...refused, message: /group 64321/ })
  await chown(folder, 0, 0)

  const led = join(dir, 'led')
  await symlink(folder, led)
  await refuseStrangers(led)
  await lchown(led, STRANGER, STRANGER)
  await t.rejects(refuseStrangers(led), refused, 'a link of somebody else')
  await lchown(led, 0, 0)
  await chown(dirname(folder), STRANGER, STRANGER)
  await t.rejects(refuseStrangers(led), refused, 'somebody else decides where it leads')
})

t.test('a helper does not start in folders of somebody else', skip, async t => {
  const bench = await startBench(t)
  const { stateDir, socket } = bench.config.helper
  for (const folder of new Set([stateDir, dirname(socket)])) {
    await chown(folder, STRANGER, STRANGER)
    await t.rejects(bench.restart(), { code: 'INVALID_INPUT', message: /is not safe/ }, folder)
    await chown(folder, 0, 0)
  }
})
