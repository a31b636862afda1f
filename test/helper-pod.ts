/** A host of its own with a real helper and real drivers, and the agent's half of it in this process. */
import { createHash } from 'node:crypto'
import { appendFile, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import { createHelperClient, type HelperClient } from '../agent/helper/client/client.ts'
import { createRemoteHost } from '../agent/helper/client/remote.ts'
import type { Tenancy } from '../agent/helper/fence/permits.ts'
import { encodeManifest, manifestDigest, type ImageFileName } from '../agent/images/manifest.ts'
import { createReconciler, type Reconciler } from '../agent/reconcile/reconciler.ts'
import { startLibvirt } from '../lab/daemon.ts'
import { prepareLibvirtHost } from '../lab/libvirt-host.ts'
import { startPod, WORK_TREE, type Pod, type SpawnedProcess } from '../lab/pod.ts'
import { until, waitGone } from '../lab/process.ts'
import { KIND_ORDER, type DesiredObject } from '../protocol/core/desired.ts'

const silent = pino({ level: 'silent' })
const CONFIG = '/etc/musubi/agent.yaml'
const SOCKET = '/run/musubi-helper/helper.sock'
const START_MS = 60_000
const HOUR = 3_600_000
export const UNDERLAY = '192.0.2.1'
export const CLUSTER_ID = '01234567-0000-4000-8000-000000000000'
const CLUSTER = CLUSTER_ID.slice(0, 8)
const VNI = 0x201
/** A private address of a peer that never answers. */
const FAR = '192.0.2.77'

/** An agent without mesh and ledger: it decides, and has the helper act. */
export interface Brain {
  client: HelperClient
  reconciler: Reconciler
  close (): Promise<void>
}

export interface HelperHost extends AsyncDisposable {
  pod: Pod
  imageDigest: string
  /** Starts a helper and waits until it answers. */
  start (): Promise<void>
  /** Waits until the helper has ended. */
  ended (): Promise<void>
  kill (): Promise<void>
  /** The helper ends at its n-th command from now on; null: no more; `all`: it goes on, and every command counts. */
  dieAt (command: number | null, when?: 'before' | 'during' | 'all'): Promise<void>
  /** What was started since the last `dieAt`. */
  started (): Promise<string[]>
  /** An agent that wants this; each is newer than those before. */
  brain (desired: readonly DesiredObject[]): Brain
}

/** @param options.libvirt with nodes, which need a libvirtd */
export async function startHelperHost ({ libvirt }: { libvirt: boolean }): Promise<HelperHost> {
  const dir = await mkdtemp(join(tmpdir(), 'mzk-'))
  const images = join(dir, 'images')
  const imageDigest = await tinyImage(images)
  const virtual = libvirt ? await prepareLibvirtHost({ dir, name: 'killed', capabilitiesDir: join(WORK_TREE, '.cache', 'musubi', 'capabilities') }) : null
  const pod = await startPod({ name: 'killed', dir, visible: [images], mounts: virtual?.mounts ?? [] })
  const order = pod.path('/run/dies')
  const log = join(dir, 'helper.log')
  let helper: SpawnedProcess | null = null
  let counter = 0
  const brains = new Set<Brain>()
  try {
    await pod.exec(['ip', 'link', 'add', 'name', 'under0', 'type', 'bridge'])
    await pod.exec(['ip', 'address', 'add', `${UNDERLAY}/24`, 'dev', 'under0'])
    await pod.exec(['ip', 'link', 'set', 'dev', 'under0', 'up'])
    if (virtual !== null) await startLibvirt(pod, virtual.argv, undefined)
    await writeFile(pod.path(CONFIG), JSON.stringify({
      name: 'killed', site: 'tokyo', roles: libvirt ? ['gateway', 'compute', 'storage'] : ['gateway', 'storage'], listen: ['/ip4/127.0.0.1/tcp/0'], underlayAddress: UNDERLAY, segmentIds: { from: 1, to: 9999 },
      imageStore: images, accelerator: 'tcg', helper: { socket: SOCKET, stateDir: '/var/lib/musubi-helper', agentUser: 0 }
    }))
  } catch (error) {
    await pod.stop()
    await rm(dir, { recursive: true, force: true })
    throw error
  }
  const argv = [process.execPath, '--import', join(WORK_TREE, 'test', 'helper-dies.ts'), '--import', join(WORK_TREE, 'cli', 'compile-cache.mjs'), join(WORK_TREE, 'cli', 'main.ts'), 'helper', 'run', '--config', CONFIG]

  const host: HelperHost = {
    pod, imageDigest,
    async start () {
      helper = await pod.spawn(argv, { log, env: { MUSUBI_TEST_DIES: '/run/dies', CACHE_DIRECTORY: '/run/compiled', TAP: '', NODE_OPTIONS: '' } })
      // at once when it listens: pauses between tries would cost more than the start
      await until('the helper', START_MS, async () => {
        if (helper?.alive() !== true) throw new Error(`the helper did not start: ${await readFile(log, 'utf8')}`)
        const client = createHelperClient({ socketPath: pod.path(SOCKET), log: silent, persistent: false })
        try {
          await client.call('noop', {})
          return true
        } catch {
          return false
        } finally {
          client.close()
        }
      }, { everyMs: 30 })
    },
    async ended () { if (helper !== null && !await waitGone(helper, START_MS)) throw new Error('the helper goes on') },
    async kill () {
      helper?.kill('SIGKILL')
      await host.ended()
    },
    async dieAt (command, when = 'before') {
      await rm(`${order}.log`, { force: true })
      await (command === null ? rm(order, { force: true }) : writeFile(order, `${command} ${when}\n`))
    },
    started: async () => (await readFile(`${order}.log`, 'utf8').catch(() => '')).split('\n').filter(line => line !== ''),
    brain (desired) {
      const mine = ++counter
      const client = createHelperClient({ socketPath: pod.path(SOCKET), log: silent, ledgerMs: () => Date.now() })
      const remote = createRemoteHost(client, KIND_ORDER.filter(kind => libvirt || kind !== 'domain'))
      const clusters = desired.length === 0 ? new Map<string, { clusterId: string, endMs: number }>() : new Map([[CLUSTER, { clusterId: CLUSTER_ID, endMs: END_MS }]])
      const reconciler = createReconciler({
        drivers: remote.observers, hands: remote.hands, desired: () => [...desired], log: silent, fence: { fence: remote.fence, tenancy: (): Tenancy => ({ counter: mine, clusters }) },
        onChange: ({ kind, name, state, error }) => { if (error !== '') void appendFile(join(dir, 'brain.log'), `${kind} ${name} ${state} ${error}\n`) }
      })
      const brain: Brain = {
        client, reconciler,
        async close () {
          brains.delete(brain)
          client.close()
          await reconciler.stop()
        }
      }
      brains.add(brain)
      return brain
    },
    async [Symbol.asyncDispose] () {
      for (const brain of brains) await brain.close()
      await pod.stop()
      await rm(dir, { recursive: true, force: true })
    }
  }
  return host
}
const END_MS = Date.now() + HOUR

/** An image of a few bytes: frontends serve files, they do not look into them. */
export async function tinyImage (store: string): Promise<string> {
  const content = 'nothing to boot'
  const names: ImageFileName[] = ['vmlinuz', 'initrd.img', 'root.squashfs']
  const files = names.map(name => ({ name, sizeBytes: content.length, sha256: createHash('sha256').update(content).digest('hex') }))
  const encoded = encodeManifest({ format: 1, recipe: 'test', suite: 'bookworm', kernelRelease: '6.1', cmdline: 'quiet', files })
  const digest = manifestDigest(encoded)
  const dir = join(store, digest.slice('sha256:'.length))
  await mkdir(dir, { recursive: true })
  for (const name of names) await writeFile(join(dir, name), content)
  await writeFile(join(dir, 'manifest.json'), encoded)
  return digest
}

/** What the two hosts of a cluster of two nodes at two sites run: the one with the frontend, and the far one. */
export function plansOf (imageDigest: string, libvirt: boolean): { near: DesiredObject[], far: DesiredObject[] } {
  const name = (short: string): string => `${CLUSTER}.${short}`
  const chap = { user: name('data'), secret: '0123456789abcdef' }
  const iqn = `iqn.2026-11.org.musubi:${CLUSTER_ID}.data`
  const tunnel: DesiredObject = { kind: 'tunnel', name: 'wg', spec: { listenPort: 51_820, address: '100.64.0.1', peers: [{ site: 'osaka', publicKey: `${'A'.repeat(42)}E=`, endpoint: `${FAR}:51820`, address: '100.64.0.2' }] } }
  const segment = (address: string): DesiredObject => ({ kind: 'segment', name: name('segment'), spec: {
    cluster: 'demo', vni: VNI, site: { segmentId: 1000, localAddress: UNDERLAY, remoteAddresses: [] }, compute: true,
    gateway: { address, bridgeMac: '02:00:00:00:02:01', tunnel: { localAddress: '100.64.0.1', remoteAddresses: ['100.64.0.2'] } }
  } })
  const node = (n: number, volumes: boolean): DesiredObject => ({ kind: 'domain', name: name(`demo-${n}`), spec: {
    cluster: 'demo', clusterId: CLUSTER_ID, node: `demo-${n}`, uuid: `6d1f1d3a-6a0a-4f0a-9d32-0c1a2b3c4d0${n}`, vcpus: 1, memoryMiB: 64, mac: `52:54:00:00:00:0${n}`, bridge: 'mzb000201', tap: `mzt0002010${n}`,
    volumes: volumes ? [{ name: 'data', iqn, portalAddress: UNDERLAY, portalPort: 3260, chap }] : []
  } })
  const domains = (n: number, volumes: boolean): DesiredObject[] => libvirt ? [node(n, volumes)] : []
  return {
    near: [
      { kind: 'volume', name: name('data'), spec: { sizeMiB: 16, iqn, portalAddress: UNDERLAY, chap, allow: [UNDERLAY] } },
      tunnel, segment('10.42.255.1/16'),
      { kind: 'frontend', name: name('frontend'), spec: {
        cluster: 'demo', clusterId: CLUSTER_ID, vni: VNI, name: 'demo-fe', address: '10.42.0.1/16', mac: '02:6d:7a:00:00:01', domain: 'demo.internal', image: { digest: imageDigest },
        nodes: [{ name: 'demo-1', mac: '52:54:00:00:00:01', ip: '10.42.1.1', site: 'tokyo' }, { name: 'demo-2', mac: '52:54:00:00:00:02', ip: '10.42.2.1', site: 'osaka' }], sshPublicKey: 'ssh-ed25519 AAAA test'
      } },
      ...domains(1, true)
    ],
    far: [
      tunnel, segment('10.42.255.2/16'),
      { kind: 'cache', name: name('cache'), spec: { cluster: 'demo', vni: VNI, frontendAddress: '10.42.0.1', ownAddress: '10.42.255.2', bridgeMac: '02:00:00:00:02:01', ports: [80], maxSizeMiB: 16 } },
      ...domains(2, false)
    ]
  }
}
