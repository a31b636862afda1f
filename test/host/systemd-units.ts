import type { Test } from 'tap'
import { createHash } from 'node:crypto'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { stringify } from 'yaml'
import { encodeManifest, IMAGE_FILES, manifestDigest } from '../../agent/images/manifest.ts'
import { FORWARD_SERVICE } from '../../agent/drivers/network/forward/forwarding.ts'
import { eventually } from '../contract/services.ts'
import { keepersTest } from './systemd-keepers.ts'
import { SHARE_INSIDE, TREE_INSIDE } from './systemd-host.ts'
import type { SystemdHost } from './systemd-host.ts'

const ADDRESS = '10.67.0.1'
const AGENT = 'musubi-agent.service'
const HELPER = 'musubi-helper.service'
const COORDINATOR = 'musubi-coordinator.service'
const UNITS = [AGENT, HELPER, COORDINATOR] as const
/** What `systemd-analyze security` may find at most: 0 is all closed, 10 all open. */
const EXPOSURE_MAX: Record<typeof UNITS[number], number> = { [AGENT]: 1.5, [COORDINATOR]: 1.5, [HELPER]: 3.5 }
/** CAP_CHOWN, DAC_OVERRIDE, KILL, NET_ADMIN, SYS_PTRACE, SYS_ADMIN: bits as in linux/capability.h. */
const HELPER_CAPABILITIES = [0, 1, 5, 12, 19, 21].reduce((mask, bit) => mask + 2 ** bit, 0)
const START_MS = 60_000
const PAUSE_MS = 250

/** The packaged units on a host as an administrator sets it up: one site of one host that does all. */
export async function unitsTest (t: Test, host: SystemdHost): Promise<void> {
  const out = async (...argv: string[]): Promise<string> => (await host.exec(argv, { timeoutMs: START_MS })).stdout.trim()
  const property = (unit: string, name: string): Promise<string> => out('systemctl', 'show', `--property=${name}`, '--value', unit)
  const resource = async (...argv: string[]): Promise<Record<string, unknown>> => JSON.parse(await out('musubi', '--json', ...argv)) as Record<string, unknown>
  const active = async (unit: string): Promise<boolean> => await property(unit, 'ActiveState') === 'active'
  /** What the kernel says of the main process of a unit. */
  const privileges = async (unit: string): Promise<{ uids: string[], effective: number, bounding: number, noNew: string }> => {
    const status = await out('cat', `/proc/${await property(unit, 'MainPID')}/status`)
    const told = (name: string): string => new RegExp(`^${name}:\\s*(.*)$`, 'm').exec(status)?.[1] ?? `no ${name} in ${status}`
    return { uids: told('Uid').split('\t'), effective: parseInt(told('CapEff'), 16), bounding: parseInt(told('CapBnd'), 16), noNew: told('NoNewPrivs') }
  }
  const exposure = async (unit: string): Promise<number> => Number(/exposure level for \S+: ([0-9.]+)/.exec(await out('systemd-analyze', 'security', '--no-pager', unit))?.[1])
  const image = await install(host, out)

  await t.test('the units are well formed', async t => {
    const { stdout, stderr } = await host.exec(['systemd-analyze', 'verify', ...UNITS.map(unit => `/etc/systemd/system/${unit}`)])
    t.notMatch(stdout + stderr, 'musubi')
  })

  await t.test('the coordinator runs without privileges, and is restarted when it hangs', async t => {
    t.equal(await property(COORDINATOR, 'ActiveState'), 'active')
    t.match(await property(COORDINATOR, 'StatusText'), /coordinator/)
    const uid = await out('id', '-u', 'musubi-coordinator')
    t.strictSame(await privileges(COORDINATOR), { uids: [uid, uid, uid, uid], effective: 0, bounding: 0, noNew: '1' })
    t.ok(await exposure(COORDINATOR) <= EXPOSURE_MAX[COORDINATOR], `exposure ${await exposure(COORDINATOR)}`)
    // for its next start: the key that signs sites no longer lies where it writes
    await toCredentials('/var/lib/musubi-coordinator/coordinator.key', 'musubi-coordinator.key')
    // a process that is stopped cannot feed the watchdog; what systemd does about it is looked at below
    await out('kill', '-STOP', await property(COORDINATOR, 'MainPID'))
  })

  await t.test('the agent brings its helper, and says when it is ready', async t => {
    await out('systemctl', 'start', AGENT)
    for (const unit of [AGENT, HELPER]) t.equal(await property(unit, 'ActiveState'), 'active')
    t.match(await property(AGENT, 'StatusText'), /gateway,compute,storage of lab/)
    t.match(await property(HELPER, 'StatusText'), /gateway,compute,storage, for user musubi/)
    t.match(await resource('agent', 'status'), { problems: [] })
  })

  await t.test('the agent has no privileges, the helper those that it needs and no network', async t => {
    const uid = await out('id', '-u', 'musubi')
    t.strictSame(await privileges(AGENT), { uids: [uid, uid, uid, uid], effective: 0, bounding: 0, noNew: '1' })
    t.strictSame(await privileges(HELPER), { uids: ['0', '0', '0', '0'], effective: HELPER_CAPABILITIES, bounding: HELPER_CAPABILITIES, noNew: '1' })
    for (const unit of [AGENT, HELPER] as const) t.ok(await exposure(unit) <= EXPOSURE_MAX[unit], `exposure of ${unit}: ${await exposure(unit)}`)
    // as root, in the mounts of the helper: only what is its own can be written
    const write = async (path: string): Promise<number> => (await host.exec(['nsenter', `--target=${await property(HELPER, 'MainPID')}`, '--mount', 'touch', path], { okCodes: [1] })).exitCode
    for (const path of ['/run/x', '/run/systemd/system/x.service', '/run/netns/x', '/run/musubi/x', '/etc/x', '/usr/x', '/var/lib/musubi/x', '/var/lib/musubi-images/x']) t.equal(await write(path), 1, `${path} cannot be written`)
    for (const path of ['/run/musubi-helper/x', '/run/wireguard/x', '/var/lib/musubi-helper/x']) {
      t.equal(await write(path), 0, `${path} can be written`)
      await out('rm', path)
    }
    const sockets = await out('ss', '--no-header', '--tcp', '--udp', '--raw', '--all', '--numeric', '--processes')
    t.match(sockets, `pid=${await property(AGENT, 'MainPID')},`, 'sockets are seen')
    t.notMatch(sockets, `pid=${await property(HELPER, 'MainPID')},`)
    t.equal(await out('stat', '--format=%U %a', '/var/lib/musubi', '/var/lib/musubi-helper', '/var/lib/musubi-images', '/run/musubi-helper'), 'musubi 700\nroot 700\nroot 755\nroot 755')
  })

  await t.test('what runs outlives agent and helper', async t => {
    await writeFile(join(host.share, 'one.yaml'), stringify({
      apiVersion: 'musubi/v1', kind: 'Cluster', metadata: { name: 'one' },
      spec: { image, nodes: { count: 1, memoryMiB: 128 }, volumes: [{ name: 'data', sizeMiB: 16, node: 1 }] }
    }))
    await resource('cluster', 'create', '-f', join(SHARE_INSIDE, 'one.yaml'), '--no-wait')
    /** Main processes of the services and of the node, by name. The image has no kernel, so the node stays in its firmware. */
    const running = async (): Promise<string[]> => {
      const services = (await out('systemctl', 'show', '--property=Id,MainPID', 'musubi-svc-*.service')).split('\n\n')
      const nodes = (await host.exec(['pgrep', '--full', 'name guest='], { okCodes: [1] })).stdout.trim().split('\n').map(one => `node ${one}`)
      return [...services, ...nodes].map(one => one.replace('\n', ' ')).filter(one => /\d/.test(one)).sort()
    }
    const states = async (): Promise<string[]> => ((await resource('agent', 'status')).objects as Array<{ kind: string, state: string }>).map(one => `${one.kind} ${one.state}`).sort()
    await eventually('all objects are there', async () => await sleep(PAUSE_MS, true) && (await states()).join() === 'domain ok,frontend ok,segment ok,volume ok', START_MS)
    await t.rejects(out(join(TREE_INSIDE, 'packaging', 'uninstall'), 'agent'), { message: /with nobody to end them/ }, 'it is not uninstalled with objects on it')
    t.equal(await property(HELPER, 'ActiveState'), 'active')
    const before = await running()
    for (const what of [/dnsmasq/, /nginx/, /tgtd/, /^node \d+$/]) t.ok(before.some(one => what.test(one)), String(what))
    t.match(await out('ip', 'netns', 'list'), /^mz-[0-9a-f]{6}/m, 'the host sees namespaces that the helper has named')
    const pids = async (): Promise<[agent: string, helper: string]> => [await property(AGENT, 'MainPID'), await property(HELPER, 'MainPID')]
    const restarted = async (unit: string, pid: string): Promise<void> => {
      await eventually(`${unit} was restarted and is ready`, async () => {
        // it starts on the same processors that the question takes
        await sleep(PAUSE_MS)
        return !['0', pid].includes(await property(unit, 'MainPID')) && await active(unit)
      }, START_MS)
    }

    // from their next start on they have little time to say that they are well
    for (const unit of [AGENT, HELPER]) await put(host, out, `/etc/systemd/system/${unit}.d/test.conf`, HURRY)
    await out('systemctl', 'daemon-reload')
    const [agent, helper] = await pids()
    await out('kill', '-KILL', helper)
    await restarted(HELPER, helper)
    t.equal((await pids())[0], agent, 'the agent goes on without its helper')
    t.strictSame(await running(), before, 'kill -9 of the helper: the same processes run')

    const [, second] = await pids()
    await out('kill', '-KILL', agent)
    await restarted(AGENT, agent)
    t.equal((await pids())[1], second, 'the helper goes on without its agent')
    t.strictSame(await running(), before, 'kill -9 of the agent: the same processes run')

    const hung = await pids()
    await toCredentials('/var/lib/musubi/key', 'musubi-agent.key')
    await out('kill', '-STOP', ...hung)
    await restarted(HELPER, hung[1])
    await restarted(AGENT, hung[0])
    for (const unit of [AGENT, HELPER]) t.match(await out('journalctl', '--no-pager', '--output=cat', `--unit=${unit}`), /Watchdog timeout/)
    t.strictSame(await running(), before, 'both hung and were ended by the watchdog: the same processes run')
    await eventually('all is known again', async () => (await states()).join() === 'domain ok,frontend ok,segment ok,volume ok', START_MS)

    await out('systemctl', 'restart', HELPER, AGENT)
    t.strictSame(await running(), before, 'restarted: adopted, not made anew')
    for (const unit of [AGENT, HELPER]) t.equal(await property(unit, 'Result'), 'success')
    await out('musubi', 'cluster', 'delete', 'one')
    await eventually('all is gone', async () => (await running()).length === 0, START_MS)
  })

  await t.test('keepers go on without agent and helper', t => keepersTest(t, host, { agent: AGENT, helper: HELPER }))

  await t.test('the coordinator that hung was restarted', async t => {
    await eventually('restarted', async () => await property(COORDINATOR, 'NRestarts') !== '0' && await active(COORDINATOR), START_MS)
    t.match(await property(COORDINATOR, 'Result'), 'success')
    await out('systemctl', 'stop', COORDINATOR)
    t.equal(await property(COORDINATOR, 'Result'), 'success')
  })

  await t.test('a bad configuration is told once', async t => {
    await writeFile(join(host.share, 'bad.yaml'), 'roles: [everything]\n')
    await out('cp', join(SHARE_INSIDE, 'bad.yaml'), '/etc/musubi/agent.yaml')
    await out('systemctl', 'stop', HELPER)
    // the agent wants its helper, and is started whatever becomes of it
    await t.rejects(out('systemctl', 'start', AGENT))
    for (const unit of [AGENT, HELPER]) {
      t.equal(await property(unit, 'ActiveState'), 'failed')
      t.equal(await property(unit, 'ExecMainStatus'), '2')
    }
  })

  await t.test('a tree that others can change is not installed', async t => {
    const tree = '/opt/changed/tree'
    const install = async (): Promise<string> => await out(`${tree}/packaging/install`, 'agent')
    await out('mkdir', '-p', `${tree}/node_modules/some`, `${tree}/.cache/lab`)
    await out('cp', '-r', join(TREE_INSIDE, 'packaging'), tree)
    await out('chown', 'musubi:', `${tree}/.cache/lab`)
    await install()
    await out('chown', 'musubi:', `${tree}/node_modules/some`)
    await t.rejects(install(), { message: /can change \/opt\/changed\/tree\/node_modules\/some; .*chown -R root:/ })
    await out('chown', 'root:', `${tree}/node_modules/some`)
    await out('chmod', 'g+w', `${tree}/packaging/musubi`)
    await t.rejects(install(), { message: /can change \/opt\/changed\/tree\/packaging\/musubi; / })
    await out('chmod', 'g-w', `${tree}/packaging/musubi`)
    await out('chown', 'musubi:', '/opt/changed')
    await t.rejects(install(), { message: /through \/opt\/changed:/ })
    await out(join(TREE_INSIDE, 'packaging', 'install'), 'agent')
  })

  await t.test('what was installed is taken away, but for what it has kept', async t => {
    const uninstall = join(TREE_INSIDE, 'packaging', 'uninstall')
    await t.rejects(out(uninstall, 'agent'), { message: /the helper cannot say/ }, 'with a bad configuration nobody knows what is there')
    const keeper = `musubi-svc-${FORWARD_SERVICE}.service`
    await out('systemd-run', '--quiet', `--unit=${keeper}`, 'sleep', '600')
    t.ok(await active(keeper))
    t.match(await out(uninstall, '--force', 'agent'), /left as they are: \/var\/lib\/musubi /)
    t.notOk(await active(keeper), 'nothing goes on being forwarded between sites with nobody to end it')
    await out('test', '-e', '/usr/bin/musubi')
    await out('musubi', '--version')
    await out(uninstall, 'coordinator')
    for (const path of [...UNITS.map(unit => `/etc/systemd/system/${unit}`), '/usr/lib/sysusers.d/musubi-agent.conf', '/usr/lib/tmpfiles.d/musubi-coordinator.conf', '/usr/bin/musubi']) await t.rejects(out('test', '-e', path), path)
    for (const path of ['/var/lib/musubi/store', '/var/lib/musubi-helper', '/var/lib/musubi-coordinator', '/etc/musubi/agent.yaml']) await out('test', '-e', path)
  })

  /** Moves a key to where systemd looks for credentials, as docs/operations.md says. */
  async function toCredentials (from: string, name: string): Promise<void> {
    await out('install', '-d', '-m', '0700', '/etc/credstore')
    await out('install', '-m', '0600', from, `/etc/credstore/${name}`)
    await out('rm', from)
  }
}

const HURRY = '[Service]\nWatchdogSec=5s\nTimeoutAbortSec=1s\n'

async function put (host: SystemdHost, out: Out, path: string, text: string): Promise<void> {
  await writeFile(join(host.share, 'file'), text)
  await out('install', '-D', '-m', '0644', join(SHARE_INSIDE, 'file'), path)
}

type Out = (...argv: string[]) => Promise<string>

/** Installs the package as README.md says, configures the host; answers the digest of an image that holds nothing. */
async function install (host: SystemdHost, out: Out): Promise<string> {
  await out(join(TREE_INSIDE, 'packaging', 'install'), 'agent', 'coordinator')
  await put(host, out, `/etc/systemd/system/${COORDINATOR}.d/test.conf`, HURRY)
  // the container has no groups of control to give, and root is its only user
  await put(host, out, '/etc/libvirt/qemu.conf', 'user = "root"\ngroup = "root"\ncgroup_controllers = []\nnamespaces = []\nsecurity_driver = "none"\nremember_owner = 0\nstdio_handler = "file"\n')
  await out('ip', 'address', 'add', `${ADDRESS}/32`, 'dev', 'lo')
  await out('systemctl', 'daemon-reload')
  await out('systemctl', 'start', 'libvirtd.service')

  const listen = [`/ip4/${ADDRESS}/tcp/4100`]
  await put(host, out, '/etc/musubi/agent.yaml', stringify({
    name: 'all', site: 'lab', roles: ['gateway', 'compute', 'storage'], listen, underlayAddress: ADDRESS,
    capacity: { vcpus: 2, memoryMiB: 1024, diskMiB: 1024 }, segmentIds: { from: 1000, to: 1009 }, accelerator: 'tcg'
  }))
  await put(host, out, '/etc/musubi/coordinator.yaml', stringify({ name: 'coordinator', listen: [`/ip4/${ADDRESS}/tcp/4200`] }))
  await joinByToken(out)
  return await installImage(host, out)
}

/** As the installation says: the coordinator first, then the site by its first gateway. */
async function joinByToken (out: Out): Promise<void> {
  await out('musubi', 'coordinator', 'init')
  await out('systemctl', 'start', COORDINATOR)
  const { token } = JSON.parse(await out('musubi', '--json', 'coordinator', 'invite', 'lab')) as { token: string }
  await out('musubi', 'site', 'init', '--join', token)
}

async function installImage (host: SystemdHost, out: Out): Promise<string> {
  const dir = join(host.share, 'image')
  await mkdir(dir)
  const files = await Promise.all(IMAGE_FILES.map(async name => {
    const content = `not a real ${name}\n`
    await writeFile(join(dir, name), content)
    return { name, sizeBytes: content.length, sha256: createHash('sha256').update(content).digest('hex') }
  }))
  const manifest = encodeManifest({ format: 1, recipe: 'none', suite: 'none', kernelRelease: 'none', cmdline: 'none', files })
  await writeFile(join(dir, 'manifest.json'), manifest)
  const digest = manifestDigest(manifest)
  await out('cp', '-r', join(SHARE_INSIDE, 'image'), `/var/lib/musubi-images/${digest.replace('sha256:', '')}`)
  return digest
}
