/** Drivers of a gateway keep their contract through the helper's socket, beside those that helper.test.ts asks. */
import { createHash } from 'node:crypto'
import { mkdir, readFile, stat, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { run } from '../../agent/exec.ts'
import type { HelperClient } from '../../agent/helper/client/client.ts'
import { encodeManifest, manifestDigest } from '../../agent/images/manifest.ts'
import type { ImageFileName } from '../../agent/images/manifest.ts'
import { createPidfileServices } from '../../agent/services/pidfile.ts'
import { clusterNamespace, frontendNamespace, type CacheSpec, type FrontendSpec, type TunnelSpec } from '../../protocol/core/desired.ts'
import { driverContract } from '../contract/driver.ts'
import { driverOverSocket } from '../contract/helper-driver.ts'
import { eventually, killService } from '../contract/services.ts'
import { HELPER_SERVICES, startHelperHost } from '../host/helper-host.ts'
import { enterPod } from '../host/network-pod.ts'

const INSIDE = 'inside'
const IMAGES = '/run/images'
const STATE = '/run/state'
const ADDRESS = '10.69.0.1'
const [VNI, OTHER_VNI] = [0x711, 0x712]

t.setTimeout(240_000)

const services = createPidfileServices({ dir: HELPER_SERVICES })
const pidOf = async (name: string): Promise<number> => (await services.status(name)).pid ?? 0
const running = async (): Promise<string[]> => (await services.list()).map(one => one.name)
const end = async (name: string): Promise<void> => { await killService(services, name) }

/** A segment as its driver leaves it, without anybody on it. */
async function segment (vni: number): Promise<void> {
  const namespace = clusterNamespace(vni)
  await run('ip', ['netns', 'add', namespace])
  await run('ip', ['-n', namespace, '-batch', '-'], { input: 'link add name br0 address 02:00:00:00:b1:01 type bridge\naddr add 10.42.255.2/16 dev br0\nlink set br0 up\n' })
}

/** An image of a few bytes: the driver serves files, it does not look into them. */
async function tinyImage (): Promise<string> {
  const content = 'tiny'
  const names: ImageFileName[] = ['vmlinuz', 'initrd.img', 'root.squashfs']
  const files = names.map(name => ({ name, sizeBytes: content.length, sha256: createHash('sha256').update(content).digest('hex') }))
  const encoded = encodeManifest({ format: 1, recipe: 'test', suite: 'bookworm', kernelRelease: '6.1', cmdline: 'quiet', files })
  const digest = manifestDigest(encoded)
  const dir = join(IMAGES, digest.slice('sha256:'.length))
  await mkdir(dir, { recursive: true })
  for (const name of names) await writeFile(join(dir, name), content)
  await writeFile(join(dir, 'manifest.json'), encoded)
  return digest
}

/** Sockets of TCP and UDP in a namespace that root opened, or that a process of root has. */
async function socketsOfRoot (netns: string): Promise<{ all: number, root: string[] }> {
  const lines = (await run('ss', ['-Htuanpe'], { netns })).stdout.split('\n').filter(line => line !== '')
  const root: string[] = []
  for (const line of lines) {
    const pids = [...line.matchAll(/pid=(\d+)/g)].map(match => match[1] ?? '')
    const uids = await Promise.all(pids.map(async pid => /^Uid:\s+(\d+)/m.exec(await readFile(`/proc/${pid}/status`, 'utf8').catch(() => ''))?.[1]))
    // ss names no user where it is root; sockets without a process are the kernel's, of connections that have ended
    if (pids.length > 0 && (uids.includes('0') || !/\buid:\d+/.test(line))) root.push(line)
  }
  return { all: lines.length, root }
}

async function tunnel (t: Test, make: () => HelperClient): Promise<void> {
  const publicKey = (await run('wg', ['pubkey'], { input: (await run('wg', ['genkey'])).stdout })).stdout.trim()
  const spec: TunnelSpec = { listenPort: 51_820, address: '100.64.0.1/32', peers: [{ site: 'b', publicKey, endpoint: '10.69.0.2:51820', address: '100.64.0.2' }] }
  await driverContract(t, {
    make: () => driverOverSocket(make(), 'tunnel'),
    specs: { name: 'wg', spec, changed: { ...spec, listenPort: 51_821, peers: [] } },
    identity: async () => (await run('ip', ['-o', 'address', 'show', 'dev', 'mzwg0'])).stdout,
    breaks: { 'the interface is gone': async () => { await run('ip', ['link', 'delete', 'dev', 'mzwg0']) } },
    leftovers: running,
    abortAfterMs: [40]
  })
}

async function frontend (t: Test, make: () => HelperClient): Promise<void> {
  const digest = await tinyImage()
  const specOf = (vni: number): FrontendSpec => ({
    cluster: `c${vni}`, clusterId: `c${vni}-x1`, vni, name: 'frontend', address: '10.42.0.1/16', mac: '02:6d:7a:00:00:01', domain: 'c1.musubi', image: { digest },
    nodes: [{ name: 'c1-a-001', mac: '02:6d:7a:00:01:01', ip: '10.42.1.1', site: 'a' }], sshPublicKey: 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFo test'
  })
  const service = (name: string): string => `${frontendNamespace(VNI)}-${name}`
  await driverContract(t, {
    make: () => driverOverSocket(make(), 'frontend'),
    specs: { name: 'c1.frontend', spec: specOf(VNI), changed: { ...specOf(VNI), domain: 'other.musubi' }, second: { name: 'c2.frontend', spec: specOf(OTHER_VNI) } },
    identity: async () => `${await pidOf(service('dnsmasq'))} ${await pidOf(service('nginx'))}`,
    breaks: { 'nginx is dead': async () => { await end(service('nginx')) } },
    leftovers: running,
    abortAfterMs: [80]
  })
}

const cacheSpec: CacheSpec = { cluster: 'c1', vni: VNI, frontendAddress: '10.42.0.1', ownAddress: '10.42.255.2', bridgeMac: '02:00:00:00:b1:01', ports: [80], maxSizeMiB: 64 }

async function cache (t: Test, make: () => HelperClient): Promise<void> {
  const spec = cacheSpec
  await driverContract(t, {
    make: () => driverOverSocket(make(), 'cache'),
    specs: { name: 'c1.cache', spec, changed: { ...spec, maxSizeMiB: 128 }, second: { name: 'c2.cache', spec: { ...spec, cluster: 'c2', vni: OTHER_VNI } } },
    identity: async () => `${await pidOf('mz-cache-000711')} ${await pidOf('mz-cacheprobe-000711')}`,
    breaks: { 'the engine was killed': async () => { await end('mz-cache-000711') } },
    leftovers: async () => [...await running(), ...(await run('ip', ['netns', 'pids', clusterNamespace(VNI)])).stdout.split('\n').filter(line => line !== '')],
    abortAfterMs: [80]
  })
  await t.test('no process of root has a socket of the network', async t => {
    const client = make()
    const driver = driverOverSocket(client, 'cache')
    t.teardown(() => driver.remove('c1.cache', AbortSignal.timeout(30_000)))
    await driver.apply('c1.cache', spec, AbortSignal.timeout(30_000))
    const { all, root } = await socketsOfRoot(clusterNamespace(VNI))
    t.ok(all >= 2, 'its listeners are seen')
    t.strictSame(root, [])
    const pid = await pidOf('mz-cache-000711')
    const status = await readFile(`/proc/${pid}/status`, 'utf8')
    t.match(status, /^CapEff:\s+0*802000$/m, 'net_raw and sys_nice, no more')
    t.match(status, /^CapBnd:\s+0*802000$/m)
    t.equal((await stat(join(STATE, 'caches', 'c1%2Ecache', 'engine'))).mode & 0o777, 0o700)
    t.equal((await stat(join(STATE, 'caches', 'c1%2Ecache'))).uid, 0, 'what is not the engine\'s own stays root\'s')
  })
}

async function logs (t: Test, make: () => HelperClient): Promise<void> {
  const driver = driverOverSocket(make(), 'cache')
  t.teardown(() => driver.remove('c1.cache', AbortSignal.timeout(30_000)))
  await driver.apply('c1.cache', cacheSpec, AbortSignal.timeout(30_000))
  const folder = join(STATE, 'caches', 'c1%2Ecache', 'engine')
  const engine = await readFile(join(folder, 'nginx.pid'), 'utf8')
  const bystander = createPidfileServices({ dir: '/run/bystander' })
  t.teardown(() => bystander.stop('sleeper'))
  const { pid } = await bystander.ensure('sleeper', { argv: ['sleep', '600'] })
  const isThere = async (name: string): Promise<boolean> => await stat(join(folder, name)).then(() => true, () => false)

  await writeFile(join(folder, 'nginx.pid'), `${pid ?? 0}\n`)
  await truncate(join(folder, 'access.log'), 17 * 2 ** 20)
  await run('sleep', ['3'])
  t.notOk(await isThere('access.log.1'), 'the prober signals nobody else, though it could')
  t.equal((await bystander.status('sleeper')).running, true)
  await writeFile(join(folder, 'nginx.pid'), engine)
  await eventually('the log is turned over', () => isThere('access.log.1'), 20_000)
  await eventually('the engine writes a new one', () => isThere('access.log'), 20_000)
}

async function inside (): Promise<void> {
  await enterPod()
  await run('ip', ['address', 'add', `${ADDRESS}/32`, 'dev', 'lo'])
  for (const vni of [VNI, OTHER_VNI]) await segment(vni)
  const make = await startHelperHost(t, '/run/agent.yaml', { roles: ['gateway'], underlayAddress: ADDRESS, stateDir: STATE, imageStore: IMAGES })
  await t.test('tunnels', t => tunnel(t, make))
  await t.test('frontends', t => frontend(t, make))
  await t.test('caches', t => cache(t, make))
  await t.test('logs of a cache are turned over by who may signal its engine, and nobody but it', t => logs(t, make))
}

if (process.argv[2] === INSIDE) {
  await inside()
} else if (process.getuid?.() !== 0) {
  t.pass('drivers work as root', { skip: 'needs root' })
} else {
  const unshare = ['--net', '--mount', '--uts', '--pid', '--fork', '--kill-child', '--mount-proc']
  t.spawn('unshare', [...unshare, process.execPath, ...process.execArgv, import.meta.filename, INSIDE], { timeout: 240_000 }, 'inside namespaces of its own')
}
