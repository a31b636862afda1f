import t from 'tap'
import { existsSync } from 'node:fs'
import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { run } from '../../agent/exec.ts'
import { createPidfileServices } from '../../agent/services/pidfile.ts'
import { createServices, systemdRuns } from '../../agent/services/select.ts'
import { createSystemdServices } from '../../agent/services/systemd.ts'
import { eventually, servicesContract } from '../contract/services.ts'
import { startSystemdHost, TREE_INSIDE } from './systemd-host.ts'
import { unitsTest } from './systemd-units.ts'

const INSIDE = 'MUSUBI_TEST_INSIDE'
const TIMEOUT_MS = 240_000
const NODE_INSIDE = `${TREE_INSIDE}/node_modules/.bin/node`

t.setTimeout(TIMEOUT_MS)
if (process.getuid?.() !== 0) {
  t.plan(0, 'needs root for a systemd-nspawn container')
} else if (process.env[INSIDE] !== undefined) {
  await inside()
} else if (!existsSync('/usr/bin/systemd-nspawn')) {
  t.plan(0, 'needs systemd-nspawn (package systemd-container)')
} else {
  await outside()
}

async function outside (): Promise<void> {
  const host = await startSystemdHost(t.testdir())
  t.teardown(() => host.stop())
  const [file = '', ...args] = host.enter(['env', '-u', 'NODE_OPTIONS', NODE_INSIDE, `${TREE_INSIDE}/test/host/systemd.test.ts`])
  await t.spawn(file, args, { env: { ...process.env, [INSIDE]: 'yes' }, timeout: TIMEOUT_MS }, 'services as systemd units')
  await t.test('the units of agent, helper and coordinator', t => unitsTest(t, host))
}

/** Runs in the container, where systemd is. */
async function inside (): Promise<void> {
  const dir = await mkdtemp(join(tmpdir(), 'services-'))
  await run('ip', ['netns', 'add', 'somewhere'])

  t.test('contract', t => {
    const create = () => createSystemdServices({ unitPrefix: 'musubi-svc-', dir: join(dir, 'logs') })
    servicesContract(t, { create, dir, netns: 'somewhere' })
    t.end()
  })

  t.test('contract of the pidfile services, with a network namespace', t => {
    servicesContract(t, { create: () => createPidfileServices({ dir: join(dir, 'pidfile') }), dir, netns: 'somewhere' })
    t.end()
  })

  t.test('systemd is chosen where it runs', async t => {
    t.ok(systemdRuns())
    const services = createServices({ dir: join(dir, 'logs') })
    t.teardown(() => services.stop('chosen'))
    const started = await services.ensure('chosen', { argv: ['sleep', '600'] })
    t.equal((await run('systemctl', ['show', '--property=MainPID', '--value', 'musubi-svc-chosen.service'])).stdout.trim(), String(started.pid))
  })

  t.test('a keeper comes back by itself, until it is stopped', async t => {
    const services = createSystemdServices({ unitPrefix: 'musubi-svc-', dir: join(dir, 'logs') })
    t.teardown(() => services.stop('keeper'))
    const { pid: first } = await services.ensure('keeper', { argv: ['sleep', '600'], keeper: true })
    process.kill(first ?? 0, 'SIGKILL')
    await eventually('it was started again', async () => {
      const { running, pid } = await services.status('keeper')
      return running && pid !== first
    })
    const { pid: second } = await services.status('keeper')
    process.kill(second ?? 0, 'SIGKILL')
    await eventually('it has no process', async () => !(await services.status('keeper')).running)
    await services.stop('keeper')
    t.equal((await run('systemctl', ['list-units', '--all', '--plain', '--no-legend', 'musubi-svc-keeper*'])).stdout, '', 'also between two starts')
  })

  t.test('arguments arrive as they are', async t => {
    const services = createServices({ dir: join(dir, 'logs') })
    t.teardown(() => services.stop('literal'))
    const words = ['$HOME', '${PATH}', '$$', '%n', 'a b', '"q"', '\\t', '']
    const started = await services.ensure('literal', { argv: [process.execPath, '-e', 'setTimeout(() => {}, 600000)', '--', ...words] })
    const { stdout } = await run('cat', [`/proc/${started.pid ?? 0}/cmdline`])
    t.strictSame(stdout.split('\0').slice(4, -1), words)
  })

  t.test('nothing is left in systemd', async t => {
    t.equal((await run('systemctl', ['list-units', '--all', '--plain', '--no-legend', 'musubi-svc-*'])).stdout, '')
  })
}
