import t from 'tap'
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createVolumeDriver } from '../../agent/drivers/storage/volume.ts'
import type { Driver } from '../../agent/drivers/driver.ts'
import { run } from '../../agent/exec.ts'
import { createPidfileServices } from '../../agent/services/pidfile.ts'
import type { VolumeSpec } from '../../protocol/core/desired.ts'
import { driverContract } from '../contract/driver.ts'
import { eventually } from '../contract/services.ts'

// The host is a pod of its own: nameless namespaces that end with their first process, and all in them.
const INSIDE = 'MUSUBI_TEST_POD'
const PORTAL = '10.66.0.1'
const INITIATOR = { netns: 'one', address: '10.66.1.2' }
const STRANGER = { netns: 'two', address: '10.66.2.2' }

const spec: VolumeSpec = {
  sizeMiB: 64,
  iqn: 'iqn.2026-11.org.musubi:0123456789abcdef.data',
  portalAddress: PORTAL,
  chap: { user: 'c1-data', secret: 'correct-horse' },
  allow: [INITIATOR.address]
}
const second: VolumeSpec = { ...spec, sizeMiB: 32, iqn: 'iqn.2026-11.org.musubi:0123456789abcdef.more', chap: { user: 'c1-more', secret: 'battery-staple' } }
const name = '01234567.data'
const TIMEOUT_MS = 110_000
const signal = (): AbortSignal => AbortSignal.timeout(30_000)

t.setTimeout(TIMEOUT_MS)
if (process.getuid?.() !== 0) {
  t.plan(0, 'needs root for namespaces')
} else if (process.env[INSIDE] === undefined) {
  // not tap's folder, which is one for all runs of this file in a tree: a second run would take the first one's volumes away
  const scratch = await mkdtemp(join(tmpdir(), 'musubi-volumes-'))
  t.teardown(() => rm(scratch, { recursive: true }))
  await t.spawn('unshare', ['-n', '-m', '-p', '-f', '--kill-child', '--mount-proc', process.execPath, process.argv[1] ?? ''],
    { env: { ...process.env, [INSIDE]: scratch }, timeout: TIMEOUT_MS }, 'in a pod')
} else {
  await inside(process.env[INSIDE])
}

async function inside (scratch: string): Promise<void> {
  await run('mount', ['-t', 'tmpfs', 'tmpfs', '/run'])
  await run('ip', ['link', 'set', 'lo', 'up'])
  await run('ip', ['address', 'add', `${PORTAL}/32`, 'dev', 'lo'])
  for (const [index, { netns, address }] of [INITIATOR, STRANGER].entries()) {
    await run('ip', ['netns', 'add', netns])
    await run('ip', ['link', 'add', `v${index}`, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', netns])
    await run('ip', ['address', 'add', address.replace(/2$/, '1/24'), 'dev', `v${index}`])
    await run('ip', ['link', 'set', `v${index}`, 'up'])
    await run('ip', ['-n', netns, 'address', 'add', `${address}/24`, 'dev', 'eth0'])
    await run('ip', ['-n', netns, 'link', 'set', 'eth0', 'up'])
    await run('ip', ['-n', netns, 'route', 'add', `${PORTAL}/32`, 'via', address.replace(/2$/, '1')])
  }
  const stateDir = join(scratch, 'storage')
  const services = createPidfileServices({ dir: join(scratch, 'services') })
  const make = (): Driver<'volume'> => createVolumeDriver({ stateDir, services: createPidfileServices({ dir: join(scratch, 'services') }) })
  const image = join(stateDir, 'volumes', `${name}.img`)
  const control = async (): Promise<Record<string, string>> => {
    const file = (await readdir('/run/musubi')).find(one => one.startsWith('tgt-') && !one.endsWith('.lock'))
    return { TGT_IPC_SOCKET: join('/run/musubi', (file ?? '').replace(/\.0$/, '')) }
  }
  const show = async (env: Record<string, string>): Promise<string> => (await run('tgtadm', ['--lld', 'iscsi', '--mode', 'target', '--op', 'show'], { env })).stdout
  const killServer = async (): Promise<void> => {
    await services.kill('tgtd', 'SIGKILL')
    await eventually('tgtd is dead', async () => !(await services.status('tgtd')).running)
  }
  /** `qemu-io` over iSCSI as an initiator; its words, or why it could not */
  const io = async (from: { netns: string }, of: VolumeSpec, commands: string[]): Promise<string> => {
    const url = `iscsi://${of.chap.user}%${of.chap.secret}@${of.portalAddress}/${of.iqn}/1`
    const result = await run('qemu-io', ['-f', 'raw', ...commands.flatMap(one => ['-c', one]), url], { netns: from.netns, okCodes: [1], timeoutMs: 20_000 })
    return result.stdout + result.stderr
  }
  /** Programs of these names do this first, and then become the real ones; the result ends that. */
  const before = async (programs: string[], script: string): Promise<() => void> => {
    const doors = await mkdtemp(join(scratch, 'doors-'))
    for (const program of programs) await writeFile(join(doors, program), `#!/bin/sh\n${script}\nPATH=\${PATH#*:} exec ${program} "$@"\n`, { mode: 0o755 })
    const path = process.env.PATH ?? ''
    process.env.PATH = `${doors}:${path}`
    return () => { process.env.PATH = path }
  }
  const leftovers = async (): Promise<string[]> => [
    ...(await readdir(join(stateDir, 'volumes')).catch(() => [])),
    // what marks the services of a folder as its own stays
    ...(await readdir(join(scratch, 'services')).catch(() => [])).filter(file => file !== '.key'),
    ...(await readdir('/run/musubi').catch(() => [])),
    ...(await services.list()).map(one => one.name),
    ...(await run('ss', ['-Htln', `src ${PORTAL}`])).stdout.split('\n').filter(line => line !== '')
  ]

  await t.test('contract', async t => {
    const foreign = createPidfileServices({ dir: join(scratch, 'foreign') })
    const foreignEnv = { TGT_IPC_SOCKET: '/run/foreign' }
    await driverContract<'volume'>(t, {
      make,
      specs: {
        name,
        spec,
        changed: { ...spec, chap: { user: 'c1-data', secret: 'another-secret' }, allow: [INITIATOR.address, STRANGER.address] },
        second: { name: '01234567.more', spec: second }
      },
      identity: async () => {
        const of = (await show(await control())).split(/^(?=Target )/m).find(text => text.includes(spec.iqn))
        return `${(await services.status('tgtd')).pid ?? 0} ${(await stat(image)).ino} ${of ?? ''}`
      },
      breaks: {
        'the server is killed': async () => {
          await killServer()
          // the contract asks for the other volume to be well too: the reconciler would do this
          await make().apply('01234567.more', second, signal())
        },
        'the target is deleted': async () => {
          const env = await control()
          const tid = new RegExp(`^Target (\\d+): ${spec.iqn}$`, 'm').exec(await show(env))?.[1] ?? ''
          await run('tgtadm', ['--lld', 'iscsi', '--mode', 'target', '--op', 'delete', '--force', '--tid', tid], { env })
        },
        'the access list is opened': async () => {
          const env = await control()
          const tid = new RegExp(`^Target (\\d+): ${spec.iqn}$`, 'm').exec(await show(env))?.[1] ?? ''
          await run('tgtadm', ['--lld', 'iscsi', '--mode', 'target', '--op', 'bind', '--tid', tid, '--initiator-address', 'ALL'], { env })
        }
      },
      foreign: {
        make: async () => {
          await foreign.ensure('foreign', { argv: ['tgtd', '-f', '--iscsi', 'portal=127.0.0.2:3260'], env: foreignEnv })
          await run('tgtadm', ['--lld', 'iscsi', '--mode', 'target', '--op', 'new', '--tid', '1', '--targetname', 'iqn.2001-04.example:foreign'], { env: foreignEnv })
        },
        look: () => show(foreignEnv),
        remove: () => foreign.stop('foreign', 50)
      },
      leftovers
    })
  })

  await t.test('the right secret from an allowed address reads and writes; nobody else does', async t => {
    const driver = make()
    t.teardown(() => driver.remove(name, signal()))
    await driver.apply(name, spec, signal())
    t.match(await io(INITIATOR, spec, ['write -P 0x5a 1M 2M', 'flush', 'read -P 0x5a 1M 2M', 'read -P 0 0 1M']), /wrote 2097152.*read 2097152.*read 1048576/s)
    t.match(await io(INITIATOR, spec, ['write -P 1 64M 512']), /beyond|end of|past|Input\/output|Invalid/i, 'not past its size')
    t.match(await io(INITIATOR, { ...spec, chap: { user: 'c1-data', secret: 'wrong-secret' } }, ['read 0 512']), /Authentication failure/)
    t.match(await io(INITIATOR, { ...spec, chap: { user: 'nobody', secret: 'correct-horse' } }, ['read 0 512']), /Authentication failure/)
    t.match(await io(STRANGER, spec, ['read 0 512']), /Target not found/)
    t.match(await run('qemu-io', ['-f', 'raw', '-c', 'read 0 512', `iscsi://${PORTAL}/${spec.iqn}/1`], { netns: INITIATOR.netns, okCodes: [1] }),
      { stderr: /Authentication failure|Authorization failure|Failed to log in/ }, 'without a password')
    const { stdout } = await run('ss', ['-Htln'])
    t.match(stdout, `${PORTAL}:3260`)
    t.notMatch(stdout, '0.0.0.0:3260')
    t.notMatch(stdout, '[::]:3260')
    t.ok((await stat(image)).blocks * 512 < 8 * 2 ** 20, 'the file is sparse')
    t.equal((await stat(image)).mode & 0o777, 0o600)
  })

  await t.test('changes reach a target in use', async t => {
    const driver = make()
    t.teardown(() => driver.remove(name, signal()))
    await driver.apply(name, spec, signal())
    await io(INITIATOR, spec, ['write -P 0x33 0 1M'])
    const other: VolumeSpec = { ...spec, sizeMiB: 80, chap: { user: 'c1-data', secret: 'rotated-secret' }, allow: [STRANGER.address] }
    await driver.apply(name, other, signal())
    t.match(await io(STRANGER, other, ['read -P 0x33 0 1M', 'write -P 7 79M 1M']), /read 1048576.*wrote 1048576/s, 'grown, with its data')
    t.match(await io(STRANGER, spec, ['read 0 512']), /Authentication failure/, 'the old secret is void')
    t.match(await io(INITIATOR, other, ['read 0 512']), /Target not found/)
    await t.rejects(driver.apply(name, spec, signal()), { code: 'CONFLICT', message: /80 MiB.*64 MiB/ }, 'never shrinks')
    t.match(await driver.observe(signal()), [{ name, healthy: true }], 'and a refused change leaves it as it was')
    t.match(await io(STRANGER, other, ['read -P 0x33 0 1M']), /read 1048576/)
  })

  await t.test('kill -9 of the server: seen, mended, data intact', async t => {
    const driver = make()
    t.teardown(async () => {
      await driver.remove(name, signal())
      await driver.remove('01234567.more', signal())
    })
    await driver.apply(name, spec, signal())
    await driver.apply('01234567.more', second, signal())
    await io(INITIATOR, spec, ['write -P 0x77 4M 4M', 'flush'])
    await io(INITIATOR, second, ['write -P 0x78 4M 4M', 'flush'])
    await killServer()
    t.match(await driver.observe(signal()), [{ healthy: false }, { healthy: false }])
    await driver.apply(name, spec, signal())
    await driver.apply('01234567.more', second, signal())
    t.match(await driver.observe(signal()), [{ healthy: true }, { healthy: true }])
    t.match(await io(INITIATOR, spec, ['read -P 0x77 4M 4M']), /read 4194304/)
    t.match(await io(INITIATOR, second, ['read -P 0x78 4M 4M']), /read 4194304/)
  })

  await t.test('a volume in use can be removed', async t => {
    const driver = make()
    await driver.apply(name, spec, signal())
    const user = createPidfileServices({ dir: join(scratch, 'user') })
    t.teardown(() => user.stop('reader'))
    const url = `iscsi://${spec.chap.user}%${spec.chap.secret}@${PORTAL}/${spec.iqn}/1`
    await user.ensure('reader', { argv: ['qemu-io', '-f', 'raw', '-c', 'sleep 60000', url], netns: INITIATOR.netns })
    await eventually('it is logged in', async () => {
      const [seen] = await driver.observe(signal())
      return JSON.stringify(seen?.detail['sessions']).includes(INITIATOR.address)
    })
    await driver.remove(name, signal())
    await user.stop('reader')
    t.strictSame(await leftovers(), [])
  })

  await t.test('what cannot be is refused, and leaves nothing', async t => {
    const driver = make()
    await t.rejects(driver.apply(name, { ...spec, sizeMiB: 8 * 1024 * 1024 }, signal()), { code: 'NO_CAPACITY', message: /8388608 MiB wanted, \d+ MiB free/ })
    for (const bad of [
      { iqn: 'iqn.2026-11.org.musubi:x --force' }, { iqn: '' }, { iqn: `iqn.2026-11.org:${'x'.repeat(300)}` },
      { sizeMiB: 0 }, { sizeMiB: 1.5 }, { portalAddress: '0.0.0.0' }, { portalAddress: 'host' }, { allow: ['ALL'] },
      { chap: { user: '-x', secret: 'correct-horse' } }, { chap: { user: 'x', secret: 'short' } }
    ]) {
      await t.rejects(driver.apply(name, { ...spec, ...bad }, signal()), { code: 'INVALID_INPUT' }, JSON.stringify(bad).slice(0, 60))
    }
    await t.rejects(driver.apply('../x', spec, signal()), { code: 'INVALID_INPUT' })
    t.strictSame(await leftovers(), [])
    await t.rejects(driver.apply(name, { ...spec, portalAddress: '10.99.99.99' }, signal()), { code: 'PORTAL_FAILED', message: /10\.99\.99\.99/ })
    t.match(await driver.observe(signal()), [{ name, healthy: false }], 'half made, and told so')
    t.notMatch((await run('ss', ['-Htln'])).stdout, ':3260', 'and nothing listens elsewhere')
    await driver.apply(name, spec, signal())
    await t.rejects(driver.apply('other', { ...second, iqn: spec.iqn }, signal()), { code: 'CONFLICT' }, 'one name, one volume')
    await t.rejects(driver.apply('other', { ...second, chap: { user: spec.chap.user, secret: 'battery-staple' } }, signal()), { code: 'CONFLICT' }, 'one secret per user')
    t.match(await driver.observe(signal()), [{ name, healthy: true }])
    await rm(image)
    await t.rejects(driver.apply(name, spec, signal()), { code: 'CONFLICT', message: /gone/ }, 'lost data is not hidden by an empty disk')
    await driver.remove(name, signal())
    t.strictSame(await leftovers(), [])
  })

  await t.test('a question that fails once is asked again before the server counts as dead', async t => {
    const driver = make()
    await driver.apply(name, spec, signal())
    const { pid } = await services.status('tgtd')
    const fault = join(scratch, 'fault')
    t.teardown(await before(['tgtadm'], `if rm ${fault} 2> /dev/null; then exit 1; fi`))
    t.teardown(() => driver.remove(name, signal()))
    await writeFile(fault, '')
    t.match(await driver.observe(signal()), [{ name, healthy: true }])
    await t.rejects(stat(fault), { code: 'ENOENT' }, 'though one failed')
    await writeFile(fault, '')
    await driver.apply('01234567.more', second, signal())
    await driver.remove('01234567.more', signal())
    t.equal((await services.status('tgtd')).pid, pid, 'the disks of others stayed')
  })

  await t.test('no secret in any file, and in no argument of a program', async t => {
    const driver = make()
    const noted = join(scratch, 'argv')
    t.teardown(await before(['tgtadm', 'tgtd'], `for one; do echo "$one" >> ${noted}; done`))
    t.teardown(() => driver.remove(name, signal()))
    await driver.apply(name, spec, signal())
    await driver.apply(name, { ...spec, chap: { user: 'c1-data', secret: 'rotated-secret' } }, signal())
    const told = await readFile(noted, 'utf8')
    t.match(told, 'portal=', 'what tgtd was told is noted')
    t.match(told, '\nc1-data\n', 'and what tgtadm was told')
    t.notMatch(told, /correct-horse|rotated-secret/)
    for (const dir of [join(stateDir, 'volumes'), join(scratch, 'services')]) {
      for (const file of (await readdir(dir)).filter(one => !one.endsWith('.img'))) {
        t.notMatch(await readFile(join(dir, file), 'utf8'), spec.chap.secret, file)
      }
    }
  })
}
