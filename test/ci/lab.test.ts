import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import t, { type Test } from 'tap'
import { call } from '../../cli/client.ts'
import type { LabHostSpec } from '../../lab/config.ts'
import { startLab, type Lab } from '../../lab/lab.ts'
import { survivors } from '../../lab/leftovers.ts'
import { allPids, argvOf, processRef, until, waitGone } from '../../lab/process.ts'
import { downLabs, keptLabs, readState, sweepStaleLabs } from '../../lab/state.ts'
import type { HostResource, SiteResource } from '../../protocol/api.ts'

const skip = process.getuid?.() === 0 ? false : 'needs root to make namespaces'
// Each lab loads several agents; on a busy machine that takes most of a minute.
t.setTimeout(900_000)

const host = (name: string, roles: LabHostSpec['roles']): LabHostSpec => ({ name, roles, vcpus: 2, memoryMiB: 2048, diskMiB: 500 })
const SITES = [
  { name: 'tokyo', hosts: [host('tokyo-1', ['gateway', 'compute']), host('tokyo-2', ['compute', 'storage'])] },
  { name: 'tsukuba', hosts: [host('tsukuba-1', ['gateway', 'compute'])] }
]
const SOLO = [{ name: 'solo', hosts: [host('solo-1', ['gateway', 'compute'])] }]

/** A temporary folder of the test's own: it must not end labs that others keep. */
async function ownTmp (t: Test): Promise<string> {
  const dir = await mkdtemp('/tmp/mzt-')
  const before = process.env.TMPDIR
  process.env.TMPDIR = dir
  t.teardown(async () => {
    if (before === undefined) delete process.env.TMPDIR
    else process.env.TMPDIR = before
    await rm(dir, { recursive: true, force: true })
  })
  return dir
}

async function processesNaming (dir: string): Promise<string[]> {
  return await survivors(dir, new Set(), Number.MAX_SAFE_INTEGER)
}

async function get<T> (lab: Lab, socketPath: string, path: string): Promise<T> {
  return await call<T>({ socketPath, what: 'agent' }, 'GET', path)
}

t.test('a federation on one machine', { skip, timeout: 300_000 }, async t => {
  const tmp = await ownTmp(t)
  const seen: string[] = []
  const lab = await startLab({ sites: SITES, rttMs: 10, rateMbit: 100, drivers: 'fake', onProgress: p => { seen.push(`${p.step} ${p.host ?? ''}`.trim()) } })
  t.teardown(() => lab.stop())

  await t.test('every step was told, and everybody answers', async t => {
    t.same([...seen].sort(), [
      'daemon coordinator', 'daemon tokyo-1', 'daemon tokyo-1', 'daemon tokyo-2', 'daemon tokyo-2', 'daemon tsukuba-1', 'daemon tsukuba-1',
      'host tokyo-1', 'host tokyo-2', 'host tsukuba-1', 'join tokyo-1', 'join tokyo-2', 'join tsukuba-1', 'ready', 'wan'
    ])
    t.equal(seen.at(-1), 'ready')
    await until('gossip within tokyo', 60_000, async () => (await get<HostResource[]>(lab, lab.api('tokyo-2'), '/v1/hosts')).length === 2)
    await until('both sites at the coordinator', 60_000, async () => (await get<SiteResource[]>(lab, lab.coordinator.socket, '/v1/sites')).length === 2)
    t.match((await lab.musubi('tokyo-1', ['host', 'list'], { timeoutMs: 60_000 })).stdout, /tokyo-2/)
    t.throws(() => lab.api('osaka-1'), { code: 'INVALID_INPUT' })
    t.throws(() => lab.host('osaka-1'), { code: 'INVALID_INPUT' })
  })

  await t.test('an agent that is killed is started again, unless it is held', async t => {
    const first = await lab.agent('tokyo-2')
    t.equal(await lab.killAgent('tokyo-2'), true)
    await lab.waitAgent('tokyo-2')
    const second = await lab.agent('tokyo-2')
    t.ok(first !== null && second !== null && first.pid !== second.pid)
    await lab.holdAgent('tokyo-2')
    t.equal(await lab.killAgent('tokyo-2'), true)
    await until('its end', 10_000, async () => await lab.agent('tokyo-2') === null)
    t.equal(await lab.killAgent('tokyo-2'), false)
    await lab.resumeAgent('tokyo-2')
    await lab.waitAgent('tokyo-2')
    t.not(await lab.agent('tokyo-2'), null)
  })

  await t.test('what stays behind in a host is reported, each thing by name', async t => {
    t.same(await lab.leftovers(), [], 'clean before')
    const { pod } = lab.host('tokyo-1')
    await pod.exec(['ip', 'netns', 'add', 'mz-000001'])
    await pod.exec(['ip', 'link', 'add', 'mzb000001', 'type', 'bridge'])
    await pod.exec(['nft', 'add', 'table', 'bridge', 'mzfilter'])
    const sleeper = await pod.spawn(['sleep', '604'], { log: join(lab.dir, 'sleeper.log') })
    await pod.exec(['sh', '-c', 'mkdir /run/mnt && mount -t tmpfs none /run/mnt'])
    t.same([...await lab.leftovers({ settleMs: 0 })].sort(), [
      'tokyo-1: link mzb000001', 'tokyo-1: mount /run/mnt', 'tokyo-1: mount /run/netns/mz-000001',
      'tokyo-1: namespace mz-000001', 'tokyo-1: nft table bridge mzfilter', `tokyo-1: process sleep 604 (pid ${sleeper.innerPid})`
    ])
    await pod.exec(['ip', 'netns', 'del', 'mz-000001'])
    await pod.exec(['ip', 'link', 'del', 'mzb000001'])
    await pod.exec(['nft', 'delete', 'table', 'bridge', 'mzfilter'])
    await pod.exec(['umount', '/run/mnt'])
    sleeper.kill('SIGKILL')
    t.same(await lab.leftovers(), [], 'clean after')
  })

  await t.test('a lab at work is not swept by another one', async t => {
    t.same(await sweepStaleLabs(), [])
    t.same(await keptLabs(), [])
    t.equal((await readState(lab.dir))?.pods.length, 5)
  })

  await t.test('its end leaves nothing, and what would stay is found', async t => {
    // A process outside that is in a pod's network: the pod's end does not end it.
    const stray = spawn('nsenter', ['-t', String(lab.host('tokyo-1').pod.pid), '-n', 'sleep', '605'], { stdio: 'ignore' })
    t.teardown(() => { stray.kill('SIGKILL') })
    await until('the stray process', 5_000, async () => (await argvOf(stray.pid ?? 0))[0] === 'sleep')
    await lab.stop()
    t.same(await lab.leftovers({ settleMs: 0 }), [`machine: process sleep 605 (pid ${stray.pid ?? 0})`])
    stray.kill('SIGKILL')
    await once(stray, 'exit')
    t.same(await lab.leftovers(), [])
    t.same(await readdir(tmp), [])
    t.same(await processesNaming(lab.dir), [])
    await lab.stop()
  })
})

t.test('a lab that cannot come up says why and leaves nothing', { skip, timeout: 120_000 }, async t => {
  const tmp = await ownTmp(t)
  await t.rejects(startLab({ sites: SOLO, rttMs: 4, drivers: 'fake', logLevel: 'loud' }), { code: 'DAEMON_FAILED', message: /did not come up[\s\S]*logLevel/ })
  t.same(await readdir(tmp), [])
  t.same(await processesNaming(tmp), [])
  await t.rejects(startLab({ sites: SOLO, rttMs: 4, drivers: 'fake', dir: join(tmp, 'a'.repeat(120)) }), { code: 'INVALID_INPUT', message: /too long for a unix socket/ })
  await mkdir(join(tmp, 'full', 'x'), { recursive: true })
  await t.rejects(startLab({ sites: SOLO, rttMs: 4, drivers: 'fake', dir: join(tmp, 'full') }), { code: 'CONFLICT' })
  t.ok(existsSync(join(tmp, 'full', 'x')), 'a folder of somebody else stays')
})

t.test('an interrupted start leaves nothing', { skip, timeout: 120_000 }, async t => {
  const tmp = await ownTmp(t)
  const controller = new AbortController()
  const started = startLab({ sites: SITES, rttMs: 4, drivers: 'fake', signal: controller.signal, onProgress: p => { if (p.step === 'host') controller.abort(new Error('interrupted')) } })
  await t.rejects(started, { message: 'interrupted' })
  t.same(await readdir(tmp), [])
  t.same(await processesNaming(tmp), [])
})

interface Starter { dir: Promise<string>, pid: number, kill: (signal: NodeJS.Signals) => Promise<number | null>, ended: Promise<number | null> }

/** Another process that starts a lab. */
function starter (t: Test, tmp: string, ...args: string[]): Starter {
  const child = spawn(process.execPath, [join(import.meta.dirname, '../host/lab-starter.ts'), 'lab', ...args], { stdio: ['ignore', 'pipe', 'ignore'], env: { ...process.env, NODE_OPTIONS: '', TMPDIR: tmp } })
  const ended = once(child, 'exit').then(([code]) => typeof code === 'number' ? code : null)
  t.teardown(() => { child.kill('SIGKILL') })
  const dir = (async () => {
    for await (const line of createInterface({ input: child.stdout })) return (JSON.parse(line) as { dir: string }).dir
    throw new Error('the starter ended without a lab')
  })()
  return { dir, pid: child.pid ?? 0, ended, kill: async signal => { child.kill(signal); return await ended } }
}

t.test('a starter that is told to end cleans up; one that is killed leaves only a folder, which is swept', { skip, timeout: 240_000 }, async t => {
  const tmp = await ownTmp(t)
  const [polite, killed] = [starter(t, tmp), starter(t, tmp)]
  const [politeDir, killedDir] = await Promise.all([polite.dir, killed.dir])
  t.equal(await polite.kill('SIGTERM'), 143)
  t.notOk(existsSync(politeDir))
  t.same(await processesNaming(politeDir), [])
  await killed.kill('SIGKILL')
  await until('the end of its pods', 20_000, async () => (await processesNaming(killedDir)).length === 0)
  t.ok(existsSync(killedDir))
  t.same(await sweepStaleLabs(), [killedDir])
  t.same(await readdir(tmp), [])
})

t.test('a kept lab outlives its starter, is found, works, and goes down', { skip, timeout: 240_000 }, async t => {
  const tmp = await ownTmp(t)
  const keeper = starter(t, tmp, 'keep')
  const dir = await keeper.dir
  t.teardown(async () => { await downLabs() })
  t.equal(await keeper.ended, 0)
  t.same(await sweepStaleLabs(), [], 'it is no stale one')
  t.same((await keptLabs()).map(s => s.dir), [dir])
  const socketPath = join(dir, 'solo-1', 'run', 'musubi', 'agent.sock')
  t.match(await call({ socketPath, what: 'agent' }, 'GET', '/v1/status'), { peerId: /^12D3/ })
  await t.rejects(downLabs(tmp), { code: 'NOT_FOUND' })
  t.same(await downLabs(dir), [dir])
  t.same(await processesNaming(dir), [])
  t.same(await readdir(tmp), [])
  t.same(await downLabs(), [], 'nothing more to end')
})

t.test('a state file of somebody else or with other pids kills nobody', { skip }, async t => {
  const tmp = await ownTmp(t)
  const victim = spawn('sleep', ['606'], { stdio: 'ignore' })
  t.teardown(() => { victim.kill('SIGKILL') })
  const ref = processRef(victim.pid ?? 0)
  if (ref === null) throw new Error('sleep does not run')
  const dir = join(tmp, 'mzlab-forged')
  await mkdir(dir, { mode: 0o777 })
  const reused = { pid: ref.pid, startTicks: '1' }
  const own = processRef(process.pid)
  const state = { version: 1, dir, bootId: 'another boot', owner: own, pidNamespace: 'pid:[1]', kept: false, createdAt: 0, sites: [], pods: [{ name: 'x', dir: `${dir}/x`, init: ref, keeper: reused }] }
  await writeFile(join(dir, 'state.json'), JSON.stringify(state))
  t.same(await sweepStaleLabs(), [dir], 'a lab of before the last boot is only a folder')
  t.equal(await waitGone(ref, 0), false, 'a pid of then is somebody else now')
  t.ok((await allPids()).includes(ref.pid))
})
