import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import t from 'tap'
import type { Test } from 'tap'
import { createLibvirtDriver } from '../../agent/drivers/compute/libvirt.ts'
import { chooseAccelerator } from '../../agent/drivers/compute/accelerator.ts'
import { renderDomainXml } from '../../agent/drivers/compute/xml.ts'
import { run } from '../../agent/exec.ts'
import { fingerprint } from '../../agent/fingerprint.ts'
import { prepareLibvirtHost } from '../../lab/libvirt-host.ts'
import type { DomainSpec } from '../../protocol/core/desired.ts'
import { driverContract } from '../contract/driver.ts'
import { driverOverSocket } from '../contract/helper-driver.ts'
import { startHelperHost } from './helper-host.ts'

/**
 * The libvirt driver against a real libvirtd and real (tiny) QEMU guests. The file runs itself again
 * inside a nameless host of its own: network, mount, PID and UTS namespaces that end with it.
 */
const INSIDE = 'MUSUBI_TEST_COMPUTE_DIR'
const dirInside = process.env[INSIDE]
/** generous: it takes some 35 s on two idle cores */
const timeoutMs = 300_000
t.setTimeout(timeoutMs)
const root = process.getuid?.() === 0
if (dirInside !== undefined) await inside(t, dirInside)
else if (root) await outside()
else t.plan(0, 'needs root: namespaces and a libvirtd of its own')

async function outside (): Promise<void> {
  const dir = await mkdtemp(join(tmpdir(), 'musubi-compute-'))
  t.teardown(async () => { await rm(dir, { recursive: true, force: true }) })
  const host = await prepareLibvirtHost({ dir, name: 'compute-test' })
  // the shell stays as the first process: it reaps what libvirtd leaves; "$@" is what to run inside
  const prepare = ['set -e', 'mount -t tmpfs tmpfs /run', 'mount -t sysfs sysfs /sys', 'ip link set lo up',
    ...host.mounts.map(m => `mount --bind '${m.source}' '${m.target}'`), 'set +e', '"$@"', 'exit $?'].join('\n')
  t.spawn('unshare', ['--net', '--mount', '--uts', '--pid', '--fork', '--kill-child', '--mount-proc',
    'sh', '-c', prepare, 'host', process.execPath, ...process.execArgv, import.meta.filename],
  { env: { ...process.env, [INSIDE]: dir }, timeout: timeoutMs }, 'inside a host of its own')
}

async function inside (t: Test, dir: string): Promise<void> {
  const host = await prepareLibvirtHost({ dir, name: 'compute-test' })
  const stateDir = join(dir, 'agent')
  const make = (): ReturnType<typeof createLibvirtDriver> => createLibvirtDriver({ stateDir, accelerator: 'tcg' })
  const signal = (): AbortSignal => AbortSignal.timeout(30_000)
  const virsh = async (...args: string[]): Promise<string> => (await run('virsh', ['-q', ...args])).stdout.trim()
  const pidOf = async (name: string): Promise<string> => (await readFile(`/run/libvirt/qemu/mz-${name}.pid`, 'utf8')).trim()
  const pid = async (name: string): Promise<number> => Number(await pidOf(name))
  const taps = async (): Promise<string[]> => (await readdir('/sys/class/net')).filter(link => link.startsWith('mzt'))
  const leftovers = async (): Promise<string[]> => [
    ...(await virsh('list', '--all', '--name')).split('\n').filter(name => name.startsWith('mz-') && name !== 'mz-theirs'),
    ...(await virsh('secret-list')).split('\n').filter(line => line.includes('mz-')),
    ...await taps(),
    ...await readdir(join(stateDir, 'console')),
    ...await readdir(join(stateDir, 'virsh')),
    ...await processes('qemu-system')
  ]

  let daemon = await startLibvirtd(host.argv)
  t.teardown(() => { daemon.kill('SIGKILL') })
  for (const bridge of ['mzb000001', 'mzb000002']) {
    await run('ip', ['link', 'add', bridge, 'type', 'bridge'])
    await run('ip', ['link', 'set', bridge, 'up'])
  }

  await t.test('keeps the driver contract', async t => {
    const n1 = node(1, { memoryMiB: 64 })
    await driverContract(t, {
      make,
      specs: {
        // the longest that can be: libvirt must take it
        name: `0123abcd.${'n'.repeat(63)}`,
        spec: n1,
        changed: { ...n1, memoryMiB: 96, bridge: 'mzb000002' },
        second: { name: '0123abcd.n2', spec: node(2, { memoryMiB: 64 }) }
      },
      identity: pidOf,
      leftovers,
      abortAfterMs: [40, 90, 200],
      foreign: {
        // one with another name, and one that only looks like ours
        async make () {
          for (const name of ['theirs', 'mz-theirs']) {
            const file = join(dir, 'theirs.xml')
            await writeFile(file, `<domain type='qemu'><name>${name}</name><memory unit='MiB'>32</memory><os><type>hvm</type></os></domain>`)
            await virsh('define', file)
          }
        },
        async look () { return await virsh('dumpxml theirs; dumpxml mz-theirs; list --all') },
        async remove () { for (const name of ['theirs', 'mz-theirs']) await virsh('undefine', name) }
      },
      breaks: {
        'its QEMU was killed': async name => { process.kill(await pid(name), 'SIGKILL'); await stopped(name) },
        'it is paused': async name => { await virsh('suspend', `mz-${name}`) },
        'its tap left the bridge': async (name, spec) => { await run('ip', ['link', 'set', spec.tap, 'nomaster']) },
        'its tap is gone': async (name, spec) => { await run('ip', ['link', 'del', spec.tap]) }
      }
    })
  })

  await t.test('keeps it through the socket of a helper', async t => {
    const connect = await startHelperHost(t, join(dir, 'helper.yaml'), { roles: ['compute'], underlayAddress: '127.0.0.1', stateDir: join(dir, 'helper'), accelerator: 'tcg' })
    const n1 = node(1, { memoryMiB: 64 })
    await driverContract(t, {
      make: () => driverOverSocket(connect(), 'domain'),
      specs: { name: '0123abcd.n1', spec: n1, changed: { ...n1, memoryMiB: 96 }, second: { name: '0123abcd.n2', spec: node(2, { memoryMiB: 64 }) } },
      identity: pidOf,
      leftovers,
      abortAfterMs: [90],
      breaks: { 'its QEMU was killed': async name => { process.kill(await pid(name), 'SIGKILL'); await stopped(name) } }
    })
  })

  async function stopped (name: string): Promise<void> {
    await until(async () => await virsh('domstate', `mz-${name}`) === 'shut off')
  }

  await t.test('leaves a foreign domain of a clashing name alone and says so', async t => {
    const driver = make()
    const file = join(dir, 'theirs.xml')
    await virsh('define', file)
    t.match(await virsh('list', '--all', '--name'), /^mz-theirs$/m)
    await t.rejects(driver.apply('theirs', node(1), signal()), { code: 'CONFLICT', message: /did not make/, hint: /virsh domrename/ })
    await driver.remove('theirs', signal())
    t.match(await virsh('list', '--all', '--name'), /^mz-theirs$/m)
    await virsh('undefine', 'mz-theirs')
  })

  await t.test('refuses names that libvirt or a shell could misread, and removes them without an error', async t => {
    const driver = make()
    for (const name of ['', '../x', 'a b', "a';destroy x", 'a\nb', '-x', 'ü', '<x>', 'x'.repeat(73)]) {
      await t.rejects(driver.apply(name, node(1), signal()), { code: 'INVALID_INPUT' }, JSON.stringify(name))
      await driver.remove(name, signal())
    }
    t.strictSame(await leftovers(), [])
  })

  await t.test('writes XML that libvirt\'s schema accepts and keeps, volumes and odd names included', async t => {
    const file = join(dir, 'valid.xml')
    const spec = node(3, { cluster: 'a & b <"c">', volumes: [volume('data', 'secret')] })
    await writeFile(file, renderDomainXml('valid', spec, { accelerator: 'tcg', consoleLog: "/tmp/it's & <log>" }))
    await virsh('define', '--validate', file)
    const kept = await virsh('dumpxml', 'mz-valid')
    t.match(kept, 'clusterName="a &amp; b &lt;&quot;c&quot;&gt;"')
    t.match(kept, "<log file='/tmp/it&apos;s &amp; &lt;log&gt;' append='on'/>")
    t.match(kept, '<serial>data</serial>')
    t.match(await make().observe(signal()), [{ name: 'valid', fingerprint: fingerprint(spec), healthy: false }])
    await make().remove('valid', signal())
    t.strictSame(await leftovers(), [])
  })

  await t.test('a node runs on through kill -9 of libvirtd, is adopted, and can be watched', async t => {
    const driver = make()
    const name = '0123abcd.n4'
    const spec = node(4, { cluster: 'odd & <named>' })
    await driver.apply(name, spec, signal())
    const before = await pidOf(name)
    const mark = await virsh('metadata', `mz-${name}`, 'urn:musubi:1')
    for (const text of [name, spec.clusterId, fingerprint(spec), spec.uuid]) t.match(mark, text)

    daemon.kill('SIGKILL')
    await new Promise(resolve => daemon.once('exit', resolve))
    await t.rejects(driver.observe(signal()), { code: 'COMMAND_FAILED' })
    t.match(await driver.probe(signal()), [/libvirt does not answer at qemu:\/\/\/system: start libvirtd/])
    daemon = await startLibvirtd(host.argv)

    t.match(await make().observe(signal()), [{ name, fingerprint: fingerprint(spec), healthy: true, detail: { state: 'running', tap: spec.tap } }])
    await make().apply(name, spec, signal())
    t.equal(await pidOf(name), before)

    await until(async () => /iPXE/.test(await driver.consoleLog(name)))
    t.equal((await driver.consoleLog(name, 10)).length, 10)
    await until(async () => (await driver.stats())[name]?.txBytes !== 0)
    t.match(await driver.stats(), { [name]: { state: 'running', rxBytes: Number, txBytes: Number } })

    // the same node of the same name under a new identity, as after delete and create
    await driver.apply(name, { ...spec, uuid: uuid(5) }, signal())
    t.equal(await virsh('domuuid', `mz-${name}`), uuid(5))
    await driver.remove(name, signal())
    t.equal(await driver.consoleLog(name), '')
    t.strictSame(await leftovers(), [])
  })

  await t.test('a second card hangs on the segment of the site, and is put back there', async t => {
    const driver = make()
    const name = '0123abcd.n5'
    const spec = node(5, { local: { mac: '52:55:00:00:00:05', bridge: 'mzb000002', tap: 'mzt00000205' } })
    await driver.apply(name, spec, signal())
    const cards = [...(await virsh('domiflist', `mz-${name}`)).matchAll(/^\s*(\S+)\s+bridge\s+(\S+)\s+virtio\s+(\S+)/gm)].map(([, ...card]) => card)
    t.strictSame(cards, [[spec.tap, spec.bridge, spec.mac], ['mzt00000205', 'mzb000002', '52:55:00:00:00:05']], 'in this order on the bus')
    t.match(await virsh('dumpxml', `mz-${name}`), /52:55:00:00:00:05[^]*<rom enabled='no'\/>/)
    const mark = { tap: spec.tap, bridge: spec.bridge, localTap: 'mzt00000205' }
    t.match(await make().observe(signal()), [{ name, fingerprint: fingerprint(spec), healthy: true, detail: mark }])
    const before = await pidOf(name)
    await run('ip', ['link', 'set', 'mzt00000205', 'nomaster'])
    t.match(await driver.observe(signal()), [{ healthy: false, detail: { problem: 'its tap mzt00000205 is not a port of mzb000002' } }])
    await driver.apply(name, spec, signal())
    t.match(await driver.observe(signal()), [{ healthy: true }])
    t.equal(await pidOf(name), before, 'the node runs on')
    await run('ip', ['link', 'del', 'mzt00000205'])
    t.match(await driver.observe(signal()), [{ healthy: false, detail: { problem: 'its tap mzt00000205 is gone' } }])
    await driver.apply(name, spec, signal())
    t.match(await driver.observe(signal()), [{ healthy: true }])
    await driver.remove(name, signal())
    t.strictSame(await leftovers(), [])
  })

  await t.test('a segment that is not there is named in the error', async t => {
    const driver = make()
    await t.rejects(driver.apply('n6', node(6, { bridge: 'mzb00dead' }), signal()), { code: 'COMMAND_FAILED', message: /mzb00dead/ })
    t.match(await driver.observe(signal()), [{ name: 'n6', healthy: false, detail: { problem: /shut off/ } }])
    await driver.remove('n6', signal())
    t.strictSame(await leftovers(), [])
  })

  await t.test('a volume is attached by iSCSI with CHAP, its password kept private and removed', async t => {
    const driver = make()
    const iqn = volume('data', '').iqn
    await startTarget(t, dir, iqn, { user: 'node', secret: 'correct-horse-1' })
    const spec = node(7, { volumes: [volume('data', 'correct-horse-1')] })

    await t.rejects(driver.apply('n7', { ...spec, volumes: [volume('data', 'wrong-horse-22')] }, signal()), { code: 'COMMAND_FAILED' })
    t.match(await driver.observe(signal()), [{ name: 'n7', healthy: false }])

    await driver.apply('n7', spec, signal())
    t.match(await driver.observe(signal()), [{ name: 'n7', healthy: true, fingerprint: fingerprint(spec) }])
    const sessions = (await run('tgtadm', ['--op', 'show', '--mode', 'target'])).stdout
    t.match(sessions, `Initiator: iqn.2026-11.org.musubi:node.${spec.uuid}`)

    const secret = /^(\S+)\s+iscsi\s+mz-n7:data$/m.exec(await virsh('secret-list'))?.[1] ?? 'no secret'
    await t.rejects(run('virsh', ['-q', 'secret-get-value', secret]), { message: /private/ })
    t.notMatch(await virsh('dumpxml', '--security-info', 'mz-n7'), /correct-horse/)
    t.notMatch(await commandLines(), /correct-horse/)

    // the volume is taken away: so is its secret
    await driver.apply('n7', { ...spec, volumes: [] }, signal())
    t.equal(await virsh('secret-list'), '')
    await driver.remove('n7', signal())
    t.strictSame(await leftovers(), [])
  })

  await t.test('KVM is chosen only when a guest runs on it, and the answer is kept', async t => {
    const chosen = await chooseAccelerator(join(dir, 'choose'), signal())
    t.match(chosen, /^(kvm|tcg)$/)
    t.equal(await chooseAccelerator(join(dir, 'choose'), signal()), chosen)
  })
}

async function startLibvirtd (argv: readonly string[]): Promise<ChildProcess> {
  const daemon = spawn(argv[0] ?? 'libvirtd', argv.slice(1), { stdio: 'ignore' })
  await until(async () => {
    await run('virsh', ['-q', 'uri'])
    return true
  })
  return daemon
}

/** tgtd in user space with one file-backed volume behind CHAP. */
async function startTarget (t: Test, dir: string, iqn: string, chap: { user: string, secret: string }): Promise<void> {
  const daemon = spawn('tgtd', ['-f', '--iscsi', 'portal=127.0.0.1:3260'], { stdio: 'ignore' })
  t.teardown(() => { daemon.kill('SIGKILL') })
  const admin = async (...args: string[]): Promise<void> => { await run('tgtadm', args) }
  const file = join(dir, 'volume.img')
  await writeFile(file, Buffer.alloc(4 * 1024 * 1024))
  await until(async () => {
    await admin('--op', 'show', '--mode', 'sys')
    return true
  })
  await admin('--lld', 'iscsi', '--op', 'new', '--mode', 'target', '--tid', '1', '-T', iqn)
  await admin('--lld', 'iscsi', '--op', 'new', '--mode', 'logicalunit', '--tid', '1', '--lun', '1', '-b', file)
  await admin('--lld', 'iscsi', '--op', 'new', '--mode', 'account', '--user', chap.user, '--password', chap.secret)
  await admin('--lld', 'iscsi', '--op', 'bind', '--mode', 'account', '--tid', '1', '--user', chap.user)
  await admin('--lld', 'iscsi', '--op', 'bind', '--mode', 'target', '--tid', '1', '-I', 'ALL')
}

function uuid (n: number): string {
  return `6d1f1d3a-6a0a-4f0a-9d32-00000000000${n}`
}

function node (n: number, more: Partial<DomainSpec> = {}): DomainSpec {
  return {
    cluster: 'c1',
    clusterId: '0123abcd4567',
    node: `n${n}`,
    uuid: uuid(n),
    vcpus: 1,
    memoryMiB: 64,
    mac: `52:54:00:00:00:0${n}`,
    bridge: 'mzb000001',
    tap: `mzt0000010${n}`,
    volumes: [],
    ...more
  }
}

function volume (name: string, secret: string): DomainSpec['volumes'][number] {
  return { name, iqn: 'iqn.2026-11.org.musubi:0123abcd4567.data', portalAddress: '127.0.0.1', portalPort: 3260, chap: { user: 'node', secret } }
}

/** Waits for what is sure to come; throws when it does not come in 20 s. */
async function until (done: () => Promise<boolean>): Promise<void> {
  let last: unknown
  for (let i = 0; i < 200; i++) {
    try {
      if (await done()) return
    } catch (error) {
      last = error
    }
    await delay(100)
  }
  throw new Error('waited 20 s in vain', { cause: last })
}

async function commandLines (): Promise<string> {
  const pids = (await readdir('/proc')).filter(name => /^\d+$/.test(name))
  const lines = await Promise.all(pids.map(pid => readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')))
  return lines.map(line => line.replaceAll('\0', ' ')).join('\n')
}

async function processes (program: string): Promise<string[]> {
  return (await commandLines()).split('\n').filter(line => line.includes(program))
}
