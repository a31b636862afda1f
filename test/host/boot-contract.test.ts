import { createHash } from 'node:crypto'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { createFrontendDriver } from '../../agent/drivers/boot/frontend.ts'
import { run, runJson } from '../../agent/exec.ts'
import { encodeManifest, manifestDigest } from '../../agent/images/manifest.ts'
import type { ImageFileName } from '../../agent/images/manifest.ts'
import { createPidfileServices } from '../../agent/services/pidfile.ts'
import { clusterNamespace, frontendNamespace } from '../../protocol/core/desired.ts'
import type { FrontendSpec } from '../../protocol/core/desired.ts'
import { driverContract } from '../contract/driver.ts'
import { killService } from '../contract/services.ts'
import { enterPod } from './network-pod.ts'

// the driver works in the namespaces of its process: this file runs itself once more inside its own
const INSIDE = 'inside'
const STATE = '/run/boot'
const IMAGES = '/run/images'
const [VNI, OTHER_VNI] = [0x301, 0x302]

t.setTimeout(240_000)

/** Namespaces and bridges by what does not change by itself: carrier and queue come and go with ports. */
async function foreignThings (): Promise<string> {
  const spaces = (await run('ip', ['netns', 'list'])).stdout.split('\n').map(line => line.split(' ')[0] ?? '').filter(name => name !== '').sort()
  const links = await runJson('ip', ['-json', '-n', clusterNamespace(VNI), 'link', 'show', 'type', 'bridge']) as Array<{ ifname: string, address: string, mtu: number }>
  return JSON.stringify([spaces, links.map(({ ifname, address, mtu }) => ({ ifname, address, mtu }))])
}

/** An image of a few bytes: the driver serves files, it does not look into them. */
async function tinyImage (content: string): Promise<string> {
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

async function segment (vni: number): Promise<void> {
  const namespace = clusterNamespace(vni)
  await run('ip', ['netns', 'add', namespace])
  await run('ip', ['-n', namespace, 'link', 'add', 'name', 'br0', 'address', '02:6d:7a:ff:00:01', 'type', 'bridge'])
  await run('ip', ['-n', namespace, 'link', 'set', 'br0', 'up'])
}

function frontendSpec (vni: number, digest: string): FrontendSpec {
  return {
    cluster: `c${vni}`,
    clusterId: `c${vni}-x1`,
    vni,
    name: 'frontend',
    address: '10.42.0.1/16',
    mac: '02:6d:7a:00:00:01',
    domain: 'c1.musubi',
    image: { digest },
    nodes: [{ name: 'c1-a-001', mac: '02:6d:7a:00:01:01', ip: '10.42.1.1', site: 'a' }, { name: 'c1-b-001', mac: '02:6d:7a:00:02:01', ip: '10.42.2.1', site: 'b' }],
    sshPublicKey: 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFo test'
  }
}

async function daemons (): Promise<string[]> {
  const { stdout } = await run('ps', ['-A', '-o', 'stat=,pid=,args='])
  return stdout.split('\n').filter(line => /^[^Z].*(dnsmasq|nginx)/.test(line))
}

async function contract (): Promise<void> {
  for (const vni of [VNI, OTHER_VNI]) await segment(vni)
  const [first, second] = [await tinyImage('one'), await tinyImage('two')]
  const spec = frontendSpec(VNI, first)
  const services = createPidfileServices({ dir: `${STATE}/services` })
  const service = async (name: string): Promise<number> => (await services.status(`${frontendNamespace(VNI)}-${name}`)).pid ?? 0
  const end = (name: string) => async (): Promise<void> => { await killService(services, `${frontendNamespace(VNI)}-${name}`) }
  const ip = (...args: string[]) => async (): Promise<void> => { await run('ip', args) }
  const folder = join(STATE, 'frontends/c1.frontend')
  await driverContract(t, {
    make: () => createFrontendDriver({ stateDir: STATE, imageStoreDir: IMAGES, services: createPidfileServices({ dir: `${STATE}/services` }) }),
    specs: {
      name: 'c1.frontend',
      spec,
      changed: { ...spec, address: '10.43.0.1/20', domain: 'other.musubi', image: { digest: second }, nodes: [{ name: 'n', mac: '02:6d:7a:00:09:09', ip: '10.43.0.9', site: 'a' }] },
      second: { name: 'c2.frontend', spec: frontendSpec(OTHER_VNI, first) }
    },
    identity: async () => [
      await service('dnsmasq'), await service('nginx'),
      (await run('ip', ['-n', frontendNamespace(VNI), '-o', 'link', 'show', 'eth0'])).stdout
    ].join(' '),
    breaks: {
      'dnsmasq is dead': end('dnsmasq'),
      'nginx is dead': end('nginx'),
      'the namespace is gone': ip('netns', 'delete', frontendNamespace(VNI)),
      'the name of its namespace leads nowhere': async () => {
        await run('ip', ['netns', 'delete', frontendNamespace(VNI)])
        await writeFile(`/run/netns/${frontendNamespace(VNI)}`, '')
      },
      'the name of its namespace is a pipe': async () => {
        await run('ip', ['netns', 'delete', frontendNamespace(VNI)])
        await run('mkfifo', [`/run/netns/${frontendNamespace(VNI)}`])
      },
      'its link is gone': ip('-n', frontendNamespace(VNI), 'link', 'delete', 'eth0'),
      'its port left the bridge': ip('-n', clusterNamespace(VNI), 'link', 'set', 'fe0', 'nomaster'),
      'its address is gone': ip('-n', frontendNamespace(VNI), '-4', 'address', 'flush', 'dev', 'eth0'),
      'a boot script is damaged': async () => { await writeFile(join(folder, 'www/v1/boot/02-6d-7a-00-01-01.ipxe'), 'x') },
      'its state is damaged': async () => { await writeFile(join(folder, 'dnsmasq.conf'), '') }
    },
    foreign: {
      make: async () => {
        await run('ip', ['netns', 'add', 'other'])
        await run('ip', ['-n', clusterNamespace(VNI), 'link', 'add', 'name', 'site0', 'type', 'bridge'])
      },
      look: foreignThings,
      remove: ip('netns', 'delete', 'other')
    },
    leftovers: async () => [
      ...await daemons(),
      ...(await run('ip', ['netns', 'list'])).stdout.split('\n').filter(line => line.startsWith('mzf-')),
      ...(await run('ip', ['-n', clusterNamespace(VNI), '-o', 'link', 'show', 'type', 'veth'])).stdout.split('\n').filter(line => line !== ''),
      ...(await run('find', [STATE, '-mindepth', '1', '-not', '-path', `${STATE}/services`, '-not', '-name', '.key'])).stdout.split('\n').filter(line => line !== '')
    ],
    abortAfterMs: [5, 30, 80, 200, 500]
  })

  const driver = createFrontendDriver({ stateDir: STATE, imageStoreDir: IMAGES, services })
  const signal = (): AbortSignal => AbortSignal.timeout(20_000)
  const nothing = async (message: string): Promise<void> => {
    await driver.remove('c1.frontend', signal())
    t.strictSame([await driver.observe(signal()), await daemons()], [[], []], message)
  }

  await t.test('an unknown image is refused before anything is made', async t => {
    await t.rejects(driver.apply('c1.frontend', { ...spec, image: { digest: `sha256:${'0'.repeat(64)}` } }, signal()), { code: 'IMAGE_UNKNOWN', hint: new RegExp(first) })
    t.strictSame(await driver.observe(signal()), [])
  })

  await t.test('a damaged image is refused before anything is made', async t => {
    const file = join(IMAGES, second.slice('sha256:'.length), 'root.squashfs')
    await writeFile(file, 'tw0')
    await t.rejects(driver.apply('c1.frontend', { ...spec, image: { digest: second } }, signal()), { code: 'IMAGE_CORRUPT', message: new RegExp(`${file} is damaged`) })
    t.strictSame(await driver.observe(signal()), [])
  })

  await t.test('without its segment it says so, and can be removed', async t => {
    await t.rejects(driver.apply('c1.frontend', { ...spec, vni: 0x3ff }, signal()), { code: 'SEGMENT_MISSING', retryable: true })
    t.equal((await driver.observe(signal()))[0]?.healthy, false)
    await nothing('after a frontend without segment')
  })

  await t.test('a namespace without a record is reported under its own name and removed by it', async t => {
    await run('ip', ['netns', 'add', frontendNamespace(VNI)])
    t.match(await driver.observe(signal()), [{ name: frontendNamespace(VNI), fingerprint: null, healthy: false }])
    await driver.remove(frontendNamespace(VNI), signal())
    await nothing('after a stray namespace')
  })

  await t.test('a name that is a path is refused', async t => {
    for (const name of ['../x', 'a/b', '', '.hidden']) await t.rejects(driver.remove(name, signal()), { code: 'INVALID_INPUT' }, name)
    await t.rejects(driver.phases('nobody'), { code: 'NOT_FOUND' })
    await t.rejects(driver.namespace('nobody'), { code: 'NOT_FOUND' })
  })
}

if (process.argv[2] === INSIDE) {
  await enterPod()
  await contract()
} else if (process.getuid?.() !== 0) {
  t.pass('the frontend driver works as root', { skip: 'needs root' })
} else {
  const unshare = ['--net', '--mount', '--uts', '--pid', '--fork', '--kill-child', '--mount-proc']
  t.spawn('unshare', [...unshare, process.execPath, ...process.execArgv, fileURLToPath(import.meta.url), INSIDE], {}, 'inside namespaces of its own')
}
