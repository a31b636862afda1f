/** What root does in the folder of a daemon: no link that the daemon's user has put there is followed, and what is made is the daemon's. */
import { chmod, chown, lchown, lstat, mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { stringify } from 'yaml'
import { fsck } from '../../../agent/doctor/fsck.ts'
import { resetAgent } from '../../../agent/main.ts'
import { siteKeyCommand } from '../../../agent/site/key.ts'
import { exportFrom, importTo, initCoordinator } from '../../../coordinator/main.ts'
import { asOwnerOf } from '../../../protocol/as-owner.ts'
import { loadOrCreateKey } from '../../../protocol/mesh/identity.ts'
import { openLevelStore } from '../../../store/level.ts'

const UID = 64_321
const asRoot = process.getuid?.() === 0
const skip = asRoot ? {} : { skip: 'needs root' }
const PRECIOUS = 'precious\n'
/** Of what a store makes next. */
const NEXT = ['000003', '000004', '000005', '000006', '000007', '000008']

interface Place { dir: string, state: string, secret: string, config: string, coordinatorConfig: string }

/** A state folder of another user, and beside it what is only root's. */
async function place (t: Test): Promise<Place> {
  const dir = await mkdtemp(join(tmpdir(), 'mz-owner-'))
  t.teardown(() => rm(dir, { recursive: true, force: true }))
  const state = join(dir, 'state')
  const secret = join(dir, 'secret')
  await mkdir(state, { mode: 0o700 })
  await mkdir(secret, { mode: 0o700 })
  await chown(state, UID, UID)
  // the folder around it can be entered, as /var/lib can
  await chmod(dir, 0o755)
  const config = join(dir, 'agent.yaml')
  await writeFile(config, stringify({ name: 'h1', site: 's', roles: ['compute'], stateDir: state, runDir: join(dir, 'run'), listen: ['/ip4/127.0.0.1/tcp/4999'], underlayAddress: '127.0.0.1' }))
  const coordinatorConfig = join(dir, 'coordinator.yaml')
  await writeFile(coordinatorConfig, stringify({ name: 'main', stateDir: state, runDir: join(dir, 'run'), listen: ['/ip4/127.0.0.1/tcp/4998'] }))
  return { dir, state, secret, config, coordinatorConfig }
}

async function ownersBelow (folder: string): Promise<number[]> {
  const entries = await readdir(folder, { recursive: true })
  return [...new Set(await Promise.all(entries.map(async entry => (await lstat(join(folder, entry))).uid)))]
}

t.test('the user changes for the work, and comes back, also when it fails', skip, async t => {
  const { state, secret } = await place(t)
  const who = (): unknown[] => [process.geteuid?.(), process.getegid?.(), process.getgroups?.()]
  const before = who()
  t.strictSame(await asOwnerOf(state, () => Promise.resolve(who())), [UID, UID, [UID]])
  t.strictSame(who(), before)
  await t.rejects(asOwnerOf(state, () => readFile(join(secret, 'x'))), { code: 'EACCES' })
  t.strictSame(who(), before)
  t.strictSame(await asOwnerOf(secret, () => Promise.resolve(who())), before, 'in a folder of its own root stays root')
  t.strictSame(await asOwnerOf(join(state, 'not', 'made'), () => Promise.resolve(who()[0])), UID, 'what is to be made counts as what is above it')
  await symlink(secret, join(state, 'led'))
  t.strictSame(await asOwnerOf(join(state, 'led'), () => Promise.resolve(who()[0])), UID, 'a link of somebody else to what is root\'s is somebody else\'s')
})

t.test('a folder of a user whose group is root\'s is worked in without that group', skip, async t => {
  const { state } = await place(t)
  await chown(state, UID, 0)
  t.not(await asOwnerOf(state, () => Promise.resolve(process.getegid?.())), 0)
})

t.test('lease fsck follows no link in a store', skip, async t => {
  const { state, secret, config } = await place(t)
  await asOwnerOf(state, async () => {
    const store = await openLevelStore(join(state, 'store'))
    await store.put('x', { text: 'what whoever looks at the log writes to a table' }, { sync: true })
    await store.close()
  })
  for (const number of NEXT) {
    for (const end of ['ldb', 'log']) {
      await symlink(join(secret, `${number}.${end}`), join(state, 'store', `${number}.${end}`)).catch((error: unknown) => { if (!(error instanceof Error && 'code' in error && error.code === 'EEXIST')) throw error })
      await lchown(join(state, 'store', `${number}.${end}`), UID, UID)
    }
  }
  await t.rejects(fsck(config, true))
  t.strictSame(await readdir(secret), [], 'nothing was made where the links lead')
})

t.test('agent reset follows no link; what it makes is the agent\'s', skip, async t => {
  const { state, secret, config } = await place(t)
  const marker = join(state, 'ledger-declared-lost')
  const target = join(secret, 'shadow')
  await writeFile(target, PRECIOUS)
  await symlink(target, marker)
  await t.rejects(resetAgent(config), { code: 'EACCES' })
  t.equal(await readFile(target, 'utf8'), PRECIOUS)
  await rm(marker)
  await resetAgent(config)
  t.equal((await stat(marker)).uid, UID)
})

t.test('the key of a site is read as the agent, and its copy written as root', skip, async t => {
  const { state, secret, config } = await place(t)
  const outside = join(secret, 'other')
  await loadOrCreateKey(outside)
  await mkdir(join(state, 'site'))
  await chown(join(state, 'site'), UID, UID)
  await symlink(outside, join(state, 'site', 'key'))
  const options = { importFrom: null, exportTo: null, remove: false }
  await t.rejects(siteKeyCommand(config, { ...options, exportTo: join(secret, 'copy') }), 'a key that only root may read is not taken for the site\'s')
  await rm(join(state, 'site', 'key'))
  await siteKeyCommand(config, { ...options, importFrom: outside })
  t.strictSame(await ownersBelow(state), [UID])
  await siteKeyCommand(config, { ...options, exportTo: join(secret, 'copy') })
  const copy = await stat(join(secret, 'copy'))
  t.strictSame([copy.uid, copy.mode & 0o777], [0, 0o600])
})

t.test('commands of a coordinator follow no link, write their files where only root may, and leave the rest to it', skip, async t => {
  const { state, secret, coordinatorConfig } = await place(t)
  const log = join(state, 'audit.log')
  const target = join(secret, 'shadow')
  await writeFile(target, PRECIOUS)
  await symlink(target, log)
  await initCoordinator(coordinatorConfig, undefined).catch(() => undefined)
  t.equal(await readFile(target, 'utf8'), PRECIOUS)
  await rm(log)
  await initCoordinator(coordinatorConfig, undefined)
  const out = join(secret, 'export')
  await exportFrom(coordinatorConfig, { out, passphraseFile: undefined, askRunning: () => Promise.reject(new Error('it does not run')) })
  t.equal((await stat(out)).uid, 0)
  t.match(await importTo(coordinatorConfig, { file: out, asNew: false }), { restored: true })
  t.strictSame(await ownersBelow(state), [UID])
})
