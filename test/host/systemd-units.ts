import type { Test } from 'tap'
import { createHash } from 'node:crypto'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { stringify } from 'yaml'
import { encodeManifest, IMAGE_FILES, manifestDigest } from '../../agent/images/manifest.ts'
import { eventually } from '../contract/services.ts'
import { SHARE_INSIDE, TREE_INSIDE } from './systemd-host.ts'
import type { SystemdHost } from './systemd-host.ts'

const ADDRESS = '10.67.0.1'
const AGENT = 'musubi-agent.service'
const COORDINATOR = 'musubi-coordinator.service'
const START_MS = 60_000

/** The packaged units on a host as an administrator sets it up: one site of one host that does all. */
export async function unitsTest (t: Test, host: SystemdHost): Promise<void> {
  const out = async (...argv: string[]): Promise<string> => (await host.exec(argv, { timeoutMs: START_MS })).stdout.trim()
  const property = (unit: string, name: string): Promise<string> => out('systemctl', 'show', `--property=${name}`, '--value', unit)
  const resource = async (...argv: string[]): Promise<Record<string, unknown>> => JSON.parse(await out('musubi', '--json', ...argv)) as Record<string, unknown>
  const image = await install(host, out)

  await t.test('the units are well formed', async t => {
    const { stdout, stderr } = await host.exec(['systemd-analyze', 'verify', `/etc/systemd/system/${AGENT}`, `/etc/systemd/system/${COORDINATOR}`])
    t.notMatch(stdout + stderr, 'musubi')
  })

  await t.test('the coordinator runs without privileges, and is restarted when it hangs', async t => {
    await out('systemctl', 'start', COORDINATOR)
    t.equal(await property(COORDINATOR, 'ActiveState'), 'active')
    t.match(await property(COORDINATOR, 'StatusText'), /coordinator/)
    const pid = await property(COORDINATOR, 'MainPID')
    t.equal(await out('ps', '-o', 'user:32=', '-p', pid), 'musubi-coordinator')
    // a process that is stopped cannot feed the watchdog; what systemd does about it is looked at below
    await out('kill', '-STOP', pid)
  })

  await t.test('the agent says when it is ready', async t => {
    await out('systemctl', 'start', AGENT)
    t.equal(await property(AGENT, 'ActiveState'), 'active')
    t.match(await property(AGENT, 'StatusText'), /gateway,compute,storage of lab/)
    t.match(await resource('agent', 'status'), {})
  })

  await t.test('what runs outlives the agent', async t => {
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
    await eventually('all objects are there', async () => (await states()).join() === 'domain ok,frontend ok,segment ok,volume ok', START_MS)
    const before = await running()
    for (const what of [/dnsmasq/, /nginx/, /tgtd/, /^node \d+$/]) t.ok(before.some(one => what.test(one)), String(what))

    const pid = await property(AGENT, 'MainPID')
    await out('kill', '-KILL', pid)
    await eventually('restarted and ready', async () => await property(AGENT, 'MainPID') !== pid && await property(AGENT, 'ActiveState') === 'active', START_MS)
    t.equal(await property(AGENT, 'NRestarts'), '1')
    t.strictSame(await running(), before, 'kill -9: the same processes run')

    await out('systemctl', 'stop', AGENT)
    t.equal(await property(AGENT, 'ActiveState'), 'inactive')
    t.equal(await property(AGENT, 'Result'), 'success')
    t.strictSame(await running(), before, 'stopped: the same processes run')

    await out('systemctl', 'start', AGENT)
    t.strictSame(await running(), before, 'started again: adopted, not made anew')
    await out('musubi', 'cluster', 'delete', 'one')
    await eventually('all is gone', async () => (await running()).length === 0, START_MS)
    await out('systemctl', 'stop', AGENT)
  })

  await t.test('the coordinator that hung was restarted', async t => {
    await eventually('restarted', async () => await property(COORDINATOR, 'NRestarts') !== '0' && await property(COORDINATOR, 'ActiveState') === 'active', START_MS)
    t.match(await property(COORDINATOR, 'Result'), 'success')
    await out('systemctl', 'stop', COORDINATOR)
    t.equal(await property(COORDINATOR, 'Result'), 'success')
  })

  await t.test('a bad configuration is told once', async t => {
    await writeFile(join(host.share, 'bad.yaml'), 'roles: [everything]\n')
    await out('cp', join(SHARE_INSIDE, 'bad.yaml'), '/etc/musubi/agent.yaml')
    await t.rejects(out('systemctl', 'start', AGENT))
    t.match(await property(AGENT, 'ActiveState'), 'failed')
    t.match(await property(AGENT, 'ExecMainStatus'), '2')
  })
}

/** Installs the package as its files say, configures the host; answers the digest of an image that holds nothing. */
async function install (host: SystemdHost, out: (...argv: string[]) => Promise<string>): Promise<string> {
  const put = async (path: string, text: string): Promise<void> => {
    await writeFile(join(host.share, 'file'), text)
    await out('install', '-D', '-m', '0644', join(SHARE_INSIDE, 'file'), path)
  }
  const packaging = join(TREE_INSIDE, 'packaging')
  await out('ln', '-s', join(packaging, 'musubi'), '/usr/bin/musubi')
  await out('cp', join(packaging, AGENT), join(packaging, COORDINATOR), '/etc/systemd/system/')
  await out('install', '-D', '-m', '0644', join(packaging, 'musubi-coordinator.sysusers'), '/usr/lib/sysusers.d/musubi-coordinator.conf')
  await out('systemd-sysusers')
  await put(`/etc/systemd/system/${COORDINATOR}.d/test.conf`, '[Service]\nWatchdogSec=5s\nTimeoutAbortSec=1s\n')
  // the container has no groups of control to give, and root is its only user
  await put('/etc/libvirt/qemu.conf', 'user = "root"\ngroup = "root"\ncgroup_controllers = []\nnamespaces = []\nsecurity_driver = "none"\nremember_owner = 0\nstdio_handler = "file"\n')
  await out('ip', 'address', 'add', `${ADDRESS}/32`, 'dev', 'lo')
  await out('systemctl', 'daemon-reload')
  await out('systemctl', 'start', 'libvirtd.service')

  const listen = [`/ip4/${ADDRESS}/tcp/4100`]
  await put('/etc/musubi/agent.yaml', stringify({
    name: 'all', site: 'lab', roles: ['gateway', 'compute', 'storage'], listen, underlayAddress: ADDRESS,
    capacity: { vcpus: 2, memoryMiB: 1024, diskMiB: 1024 }, segmentIds: { from: 1000, to: 1009 }, accelerator: 'tcg'
  }))
  await put('/etc/musubi/coordinator.yaml', stringify({ name: 'coordinator', listen: [`/ip4/${ADDRESS}/tcp/4200`] }))
  await joinByToken(out)
  return await installImage(host, out)
}

/** As the installation says: the coordinator first, then the site by its first gateway. */
async function joinByToken (out: (...argv: string[]) => Promise<string>): Promise<void> {
  await out('musubi', 'coordinator', 'init')
  await out('systemctl', 'start', COORDINATOR)
  const { token } = JSON.parse(await out('musubi', '--json', 'coordinator', 'invite', 'lab')) as { token: string }
  await out('musubi', 'site', 'init', '--join', token)
}

async function installImage (host: SystemdHost, out: (...argv: string[]) => Promise<string>): Promise<string> {
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
  await out('mkdir', '-p', '/var/lib/musubi/images')
  await out('cp', '-r', join(SHARE_INSIDE, 'image'), `/var/lib/musubi/images/${digest.replace('sha256:', '')}`)
  return digest
}
