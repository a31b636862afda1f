import type { Test } from 'tap'
import { readFile, readlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { readProcess } from '../../agent/services/proc.ts'
import { fingerprint } from '../../agent/fingerprint.ts'
import type { ServiceManager } from '../../agent/services.ts'

export interface ServicesContractOptions {
  /** A manager over the same host each time: what a restarted agent would make. */
  create: () => ServiceManager
  /** scratch folder of the test */
  dir: string
  /** a named network namespace to try `netns` with; without it that part is left out */
  netns?: string
}

const WAIT_MS = 5_000

/** Polls until `check` holds; the deadline is only there so that a fault ends. */
export async function eventually (what: string, check: () => Promise<boolean>, waitMs = WAIT_MS): Promise<void> {
  const deadline = Date.now() + waitMs
  while (!await check()) {
    if (Date.now() > deadline) throw new Error(`never happened: ${what}`)
    await sleep(20)
  }
}

/** Kills a service's main process and waits until it is gone: on a busy machine that is a while after the signal. */
export async function killService (services: Pick<ServiceManager, 'kill' | 'status'>, name: string): Promise<void> {
  await services.kill(name, 'SIGKILL')
  await eventually(`${name} is gone`, async () => !(await services.status(name)).running)
}

const alive = (pid: number | null): boolean => pid !== null && readProcess(pid) !== null

/** What every ServiceManager must do. */
export function servicesContract (t: Test, options: ServicesContractOptions): void {
  const { create, dir } = options
  const sleeper = (seconds: number) => ({ argv: ['sleep', String(seconds)] })

  t.test('an unknown service is not running, and stopping it is no error', async t => {
    const services = create()
    t.same(await services.status('nobody'), { name: 'nobody', running: false, pid: null, fingerprint: null })
    await services.stop('nobody')
    await t.rejects(services.kill('nobody', 'SIGHUP'), { code: 'NOT_FOUND' })
    t.same(await services.list(), [])
  })

  t.test('names that could leave their folder are refused', async t => {
    const services = create()
    for (const name of ['', '../x', 'a/b', 'A', 'a b', '.', '-x', 'x'.repeat(200)]) {
      await t.rejects(services.ensure(name, sleeper(1)), { code: 'INVALID_INPUT' }, JSON.stringify(name))
      await t.rejects(services.stop(name), { code: 'INVALID_INPUT' })
    }
  })

  t.test('ensure starts once, restarts on another spec, stop leaves nothing', async t => {
    const services = create()
    t.teardown(() => services.stop('one'))
    const first = await services.ensure('one', sleeper(501))
    t.match(first, { name: 'one', running: true, fingerprint: fingerprint(sleeper(501)) })
    t.ok(alive(first.pid))
    t.same(await services.ensure('one', sleeper(501)), first, 'the second call does nothing')
    t.same(await services.status('one'), first)
    const second = await services.ensure('one', sleeper(502))
    t.not(second.pid, first.pid)
    t.equal(second.fingerprint, fingerprint(sleeper(502)))
    t.notOk(alive(first.pid))
    t.same(await services.list(), [second])
    await services.stop('one')
    t.notOk(alive(second.pid))
    t.same(await services.list(), [])
    t.equal((await services.status('one')).running, false)
  })

  t.test('two calls at once start it once', async t => {
    const services = create()
    t.teardown(() => services.stop('twice'))
    const [a, b] = await Promise.all([services.ensure('twice', sleeper(503)), services.ensure('twice', sleeper(503))])
    t.same(a, b)
  })

  t.test('another manager adopts what runs', async t => {
    const before = await create().ensure('kept', sleeper(504))
    const services = create()
    t.teardown(() => services.stop('kept'))
    t.same(await services.list(), [before])
    t.same(await services.ensure('kept', sleeper(504)), before)
    await services.stop('kept')
    t.notOk(alive(before.pid))
  })

  t.test('a program that dies at once is an error with its last words', async t => {
    const services = create()
    t.teardown(() => services.stop('sick'))
    await t.rejects(services.ensure('sick', { argv: ['ls', '/nonesuch-folder'] }), { code: 'SERVICE_FAILED', message: /nonesuch-folder/ })
    await t.rejects(services.ensure('sick', { argv: ['nonesuch-program'] }), { code: 'SERVICE_FAILED' })
    t.same(await services.list(), [], 'and nothing is left')
  })

  t.test('a service that was killed is seen and started again', async t => {
    const services = create()
    t.teardown(() => services.stop('fallen'))
    const first = await services.ensure('fallen', sleeper(505))
    await killService(services, 'fallen')
    const second = await services.ensure('fallen', sleeper(505))
    t.ok(second.running)
    t.not(second.pid, first.pid)
  })

  t.test('environment, folder and signals reach the program', async t => {
    const services = create()
    t.teardown(() => services.stop('talk'))
    const script = join(dir, 'talk.sh')
    await writeFile(script, 'trap "echo hup >>$OUT" HUP\npwd >$OUT\nwhile :; do sleep 0.05; done\n')
    const out = join(dir, 'talk.out')
    await services.ensure('talk', { argv: ['sh', script], env: { OUT: out }, cwd: dir })
    await eventually('it wrote its folder', async () => (await readFile(out, 'utf8').catch(() => '')).trim() === dir)
    await services.kill('talk', 'SIGHUP')
    await eventually('it got the signal', async () => (await readFile(out, 'utf8')).includes('hup'))
  })

  t.test('stop takes the children along, also from a program that ignores SIGTERM', async t => {
    const services = create()
    t.teardown(() => services.stop('deaf', 0))
    const out = join(dir, 'deaf.out')
    const script = join(dir, 'deaf.sh')
    await writeFile(script, 'trap "" TERM\nsleep 600 &\necho $! >$OUT\nwhile :; do sleep 0.05; done\n')
    const started = await services.ensure('deaf', { argv: ['sh', script], env: { OUT: out } })
    await eventually('it has a child', async () => /\d\n/.test(await readFile(out, 'utf8').catch(() => '')))
    const child = Number(await readFile(out, 'utf8'))
    t.ok(alive(child))
    await services.stop('deaf', 100)
    t.notOk(alive(started.pid))
    t.notOk(alive(child))
  })

  t.test('children left by a killed main process go when it is started again', async t => {
    const services = create()
    t.teardown(() => services.stop('parent', 0))
    const out = join(dir, 'parent.out')
    const script = join(dir, 'parent.sh')
    await writeFile(script, 'sleep 600 &\necho $! >$OUT\nwait\n')
    const spec = { argv: ['sh', script], env: { OUT: out } }
    await services.ensure('parent', spec)
    await eventually('it has a child', async () => /\d\n/.test(await readFile(out, 'utf8').catch(() => '')))
    const child = Number(await readFile(out, 'utf8'))
    await killService(services, 'parent')
    await services.ensure('parent', spec)
    t.notOk(alive(child))
  })

  const { netns } = options
  if (netns !== undefined) {
    t.test('a service can live in a network namespace', async t => {
      const services = create()
      t.teardown(() => services.stop('inside'))
      const started = await services.ensure('inside', { ...sleeper(506), netns })
      t.not(await readlink(`/proc/${started.pid ?? 0}/ns/net`), await readlink('/proc/self/ns/net'))
      t.match(await readFile(`/proc/${started.pid ?? 0}/cmdline`, 'utf8'), /^sleep/, 'the pid is that of the program itself')
      t.same(await create().ensure('inside', { ...sleeper(506), netns }), started)
      await t.rejects(services.ensure('lost', { ...sleeper(507), netns: 'mz-nonesuch' }), { code: 'SERVICE_FAILED' })
    })
  }
}
