import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, open, readFile, truncate } from 'node:fs/promises'
import { createConnection } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import type { Test } from 'tap'
import { createFrontendDriver } from '../../agent/drivers/boot/frontend.ts'
import type { FrontendDriver } from '../../agent/drivers/boot/frontend.ts'
import type { NodePhases } from '../../agent/drivers/boot/phases.ts'
import { run } from '../../agent/exec.ts'
import type { RunResult } from '../../agent/exec.ts'
import { buildNodeImage } from '../../agent/images/build.ts'
import { openImageStore } from '../../agent/images/store.ts'
import type { StoredImage } from '../../agent/images/store.ts'
import { createPidfileServices } from '../../agent/services/pidfile.ts'
import { clusterNamespace, frontendNamespace } from '../../protocol/core/desired.ts'
import type { FrontendSpec } from '../../protocol/core/desired.ts'
import { enterPod } from './network-pod.ts'

// real nodes in QEMU: this file runs itself once more inside namespaces of its own, which end with it
const INSIDE = 'inside'
const STORE = fileURLToPath(new URL('../../.cache/musubi/images', import.meta.url))
const STATE = '/run/boot'
/** A store of its own whose root image gets damaged after the frontend has checked it. */
const BAD_STORE = '/run/bad-images'
const [GOOD, BAD] = [0x401, 0x402]
const FRONTEND = '10.42.0.1'
const NODE = { name: 'c1-tokyo-001', mac: '02:6d:7a:00:01:01', ip: '10.42.1.1', site: 'tokyo', local: { mac: '02:6d:7b:00:01:01', address: '10.43.1.1/16' } }
/** Generous: two emulated processors may be shared with other tests. */
const BOOT_TIMEOUT_MS = 240_000

t.setTimeout(1_500_000)

const signal = (): AbortSignal => AbortSignal.timeout(60_000)

async function segment (vni: number): Promise<void> {
  const namespace = clusterNamespace(vni)
  await run('ip', ['netns', 'add', namespace])
  await run('ip', ['-n', namespace, '-batch', '-'], {
    input: 'link add name br0 address 02:6d:7a:ff:00:01 type bridge\naddr add 10.42.255.1/16 dev br0\nlink set br0 up\ntuntap add tap0 mode tap\nlink set tap0 master br0 up\n' +
      // of its second card: nobody answers DHCP there
      'tuntap add tap1 mode tap\naddr add 10.43.1.2/16 dev tap1\nlink set tap1 up\n'
  })
}

/** One machine that boots from its network card; its serial line is a socket and a log. */
async function powerOn (vni: number): Promise<ChildProcess> {
  const base = `/run/machine-${vni}`
  const disk = await open(`${base}.disk`, 'w')
  await disk.truncate(64 * 1024 * 1024)
  await disk.close()
  const args = [
    '-machine', 'q35', '-accel', 'tcg', '-cpu', 'max', '-m', '768', '-nodefaults', '-display', 'none', '-boot', 'n',
    '-chardev', `socket,id=serial,path=${base}.sock,server=on,wait=off,logfile=${base}.log`, '-serial', 'chardev:serial',
    '-drive', `file=${base}.disk,format=raw,if=none,id=data,cache=unsafe`, '-device', 'virtio-blk-pci,drive=data,serial=scratch',
    '-netdev', 'tap,id=net,ifname=tap0,script=no,downscript=no', '-device', `virtio-net-pci,netdev=net,mac=${NODE.mac}`,
    '-netdev', 'tap,id=site,ifname=tap1,script=no,downscript=no', '-device', `virtio-net-pci,netdev=site,mac=${NODE.local.mac},romfile=`
  ]
  return spawn('ip', ['netns', 'exec', clusterNamespace(vni), 'qemu-system-x86_64', ...args], { stdio: 'inherit' })
}

async function until (frontend: FrontendDriver, name: string, done: (phases: NodePhases) => boolean): Promise<NodePhases> {
  const deadline = performance.now() + BOOT_TIMEOUT_MS
  for (;;) {
    const phases = (await frontend.phases(name))[NODE.name] ?? {}
    if (done(phases) || performance.now() > deadline) return phases
    await sleep(250)
  }
}

/** A command in the cluster's namespace, as its gateway would run it. */
async function onSegment (...argv: string[]): Promise<RunResult> {
  const [file = '', ...args] = argv
  return await run(file, args, { netns: clusterNamespace(GOOD), timeoutMs: 60_000, okCodes: Array.from({ length: 256 }, (_, code) => code) })
}

/** Status and headers (lower case) of a request to the frontend. */
async function head (path: string, ...options: string[]): Promise<string> {
  return (await onSegment('curl', '-s', '-m', '20', '-o', '/dev/null', '-D', '-', ...options, `http://${FRONTEND}${path}`)).stdout.toLowerCase()
}

async function daemons (): Promise<string[]> {
  const { stdout } = await run('ps', ['-A', '-o', 'stat=,user=,args='])
  return stdout.split('\n').filter(line => /^[^Z].*(dnsmasq|nginx)/.test(line))
}

async function serves (t: Test, image: StoredImage): Promise<void> {
  const root = image.manifest.files.find(file => file.name === 'root.squashfs')
  const path = `/images/sha256-${root?.sha256 ?? ''}/root.squashfs`
  await t.test('images by their own digest, with ranges and validators, to be kept for ever', async t => {
    const whole = await head(path, '-I')
    t.match(whole, /^http\/1\.1 200/)
    t.match(whole, new RegExp(`content-length: ${root?.sizeBytes ?? 0}\r`))
    t.match(whole, /\r\nlast-modified: /)
    t.match(whole, /\r\ncache-control: public, max-age=31536000, immutable\r/)
    const part = await head(path, '-H', 'Range: bytes=5-14')
    t.match(part, /^http\/1\.1 206/)
    t.match(part, /content-range: bytes 5-14\//)
    const etag = /\r\netag: (.*)\r/.exec(whole)?.[1] ?? ''
    t.match(await head(path, '-H', `If-None-Match: ${etag}`), /^http\/1\.1 304/)
    const twice = await onSegment('curl', '-sv', '-I', `http://${FRONTEND}${path}`, `http://${FRONTEND}${path}`)
    t.match(twice.stderr, /Re-using existing connection/)
  })
  await t.test('scripts, profiles and phases, never to be stored', async t => {
    const mac = NODE.mac.replaceAll(':', '-')
    for (const dynamic of [`/v1/boot/${mac}.ipxe`, `/v1/profile/${mac}`]) t.match(await head(dynamic), /^http\/1\.1 200(.|\r|\n)*cache-control: no-store\r/, dynamic)
    t.match(await head('/v1/phase/test?mac=02:ff:ff:ff:ff:ff'), /^http\/1\.1 204(.|\r|\n)*cache-control: no-store\r/)
    for (const nothing of ['/v1/profile/02-ff-ff-ff-ff-ff', '/', '/images/', '/images/../record.json', '/record.json']) {
      t.match(await head(nothing, '--path-as-is'), /^http\/1\.1 4\d\d/, nothing)
    }
  })
  await t.test('names of the cluster and no others, and the boot loader for other ROMs', async t => {
    const look = async (name: string): Promise<string> => (await onSegment('busybox', 'nslookup', name, FRONTEND)).stdout
    t.match(await look(NODE.name), /10\.42\.1\.1/)
    t.match(await look('frontend.c1.musubi'), /10\.42\.0\.1/)
    t.notMatch(await look('nobody.c1.musubi'), /Address[ 1-9]*: 10\.42\.[^0]/)
    const loader = await onSegment('busybox', 'tftp', '-g', '-r', 'undionly.kpxe', '-l', '/run/undionly.kpxe', FRONTEND)
    t.equal(loader.exitCode, 0)
    t.strictSame(await readFile('/run/undionly.kpxe'), await readFile('/usr/lib/ipxe/undionly.kpxe'))
  })
  await t.test('by daemons without privileges', async t => {
    const running = await daemons()
    t.ok(running.some(line => line.includes('nginx: worker')) && running.some(line => line.includes('dnsmasq')), running.join('\n'))
    t.strictSame(running.filter(line => /^\S+ +root /.test(line)), [])
  })
}

/** Text that the serial line shows after a key was pressed. */
async function serialLine (vni: number, line: string, wanted: RegExp): Promise<string> {
  const socket = createConnection(`/run/machine-${vni}.sock`)
  let seen = ''
  socket.on('data', (bytes: Buffer) => { seen += bytes.toString('latin1') })
  await once(socket, 'connect')
  const deadline = performance.now() + 60_000
  while (!wanted.test(seen) && performance.now() < deadline) {
    socket.write(`${line}\r`)
    await sleep(2_000)
  }
  socket.destroy()
  return seen
}

async function works (t: Test): Promise<void> {
  const ssh = async (command: string): Promise<RunResult> => await onSegment('ssh', '-i', '/run/key', '-o', 'BatchMode=yes', '-o', 'ConnectTimeout=20',
    '-o', 'StrictHostKeyChecking=no', '-o', 'UserKnownHostsFile=/dev/null', '-o', 'LogLevel=ERROR', `root@${NODE.ip}`, command)
  await t.test('answers its name by HTTP', async t => {
    t.equal((await onSegment('curl', '-s', '-m', '20', `http://${NODE.ip}/`)).stdout, `${NODE.name}\n`)
  })
  await t.test('lets its owner in by key, nobody by password, and knows its cluster', async t => {
    const { stdout, stderr } = await ssh('hostname; grep -c tokyo /etc/hosts; ip -o -4 addr show eth0; cat /sys/class/net/eth0/mtu; ping -c1 -W5 frontend >/dev/null && echo frontend answers; getent ahostsv4 frontend.c1.musubi | head -1; ls /etc/ssh/*_key')
    t.match(stdout, new RegExp(`^${NODE.name}\n2\n.* ${NODE.ip}/16 .*\n1500\nfrontend answers\n10\\.42\\.0\\.1 .*\n/etc/ssh/ssh_host_ed25519_key\n$`), stderr)
    const keyless = await onSegment('ssh', '-o', 'BatchMode=yes', '-o', 'ConnectTimeout=20', '-o', 'PubkeyAuthentication=no', '-o', 'StrictHostKeyChecking=no', '-o', 'UserKnownHostsFile=/dev/null', `root@${NODE.ip}`, 'true')
    t.match(keyless.stderr, /Permission denied \(publickey\)/)
  })
  await t.test('has its second card as its profile says, and answers there', async t => {
    const { stdout, stderr } = await ssh('ip -o -4 addr show eth1; cat /sys/class/net/eth1/mtu /sys/class/net/eth1/address; grep -c c1-tokyo-001-local /etc/hosts; getent ahostsv4 c1-tokyo-001-local | head -1; ip route show default | wc -l; ping -c1 -W5 10.43.1.2 >/dev/null && echo a neighbour answers')
    t.match(stdout, new RegExp(`^.* 10\\.43\\.1\\.1/16 brd 10\\.43\\.255\\.255 .*\n1500\n${NODE.local.mac}\n1\n10\\.43\\.1\\.1 .*\n0\na neighbour answers\n$`), stderr)
    t.equal((await onSegment('ping', '-c', '1', '-W', '5', '-M', 'do', '-s', '1472', '10.43.1.1')).exitCode, 0, 'full frames')
  })
  await t.test('finds its disk by serial number, and nothing failed', async t => {
    const { stdout } = await ssh('for i in $(seq 60); do [ -e /dev/disk/by-id/virtio-scratch ] && systemctl is-system-running | grep -v starting && break; sleep 1; done; systemctl --failed --no-legend; mkfs.ext4 -q /dev/disk/by-id/virtio-scratch && mount /dev/vda /mnt && echo data > /mnt/x && cat /mnt/x')
    t.equal(stdout, 'running\ndata\n')
  })
  await t.test('gives a root prompt on its serial line', async t => {
    t.match(await serialLine(GOOD, 'echo on $(hostname)', /on c1-tokyo-001/), /on c1-tokyo-001/)
  })
}

async function nodes (digest: string): Promise<void> {
  const image = await openImageStore(STORE).verify(digest, signal())
  await run('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', '/run/key'])
  const spec = async (vni: number): Promise<FrontendSpec> => ({
    cluster: 'c1', clusterId: 'c1-x', vni, name: 'frontend', address: `${FRONTEND}/16`, mac: '02:6d:7a:00:00:01', domain: 'c1.musubi',
    image: { digest }, nodes: [NODE], sshPublicKey: (await readFile('/run/key.pub', 'utf8')).trim()
  })
  const services = createPidfileServices({ dir: '/run/services' })
  const frontend = createFrontendDriver({ stateDir: STATE, imageStoreDir: STORE, services })
  const bad = createFrontendDriver({ stateDir: '/run/bad', imageStoreDir: BAD_STORE, services })
  await mkdir(BAD_STORE)
  await run('cp', ['-a', image.dir, BAD_STORE])
  for (const [vni, driver] of [[GOOD, frontend], [BAD, bad]] as const) {
    await segment(vni)
    await driver.apply('c1', await spec(vni), signal())
  }
  t.equal(await frontend.namespace('c1'), frontendNamespace(GOOD))

  await t.test('the frontend serves', async t => { await serves(t, image) })

  // damaged after the frontend has checked it, as by a cache or a disk
  await truncate(join(BAD_STORE, digest.slice('sha256:'.length), 'root.squashfs'), 1_000_000)
  const startedMs = Date.now()
  const machines = [await powerOn(GOOD), await powerOn(BAD)]
  t.teardown(() => { for (const machine of machines) machine.kill('SIGKILL') })

  await t.test('a node boots from the network and reports every phase', async t => {
    const { dhcp = 0, boot = 0, image: mounted = 0, ready = 0, failed } = await until(frontend, 'c1', phases => phases.ready !== undefined || phases.failed !== undefined)
    t.comment(`ms after power-on: ${JSON.stringify({ dhcp: dhcp - startedMs, boot: boot - startedMs, image: mounted - startedMs, ready: ready - startedMs })}`)
    t.equal(failed, undefined)
    t.ok(startedMs < dhcp && dhcp < boot && boot < mounted && mounted < ready, 'in their order')
    if (ready === 0) t.comment(await readFile(`/run/machine-${GOOD}.log`, 'latin1'))
  })

  await t.test('the node', async t => { await works(t) })

  await t.test('an image that is not what its digest says is reported and never started', async t => {
    const phases = await until(bad, 'c1', seen => seen.failed !== undefined)
    t.equal(phases.reason, 'root-digest-mismatch')
    t.ok(phases.boot !== undefined)
    t.strictSame([phases.image, phases.ready], [undefined, undefined])
    t.match(await readFile(`/run/machine-${BAD}.log`, 'latin1'), /FAILED: http:\S+root\.squashfs has digest [0-9a-f]{64}/)
  })

  await t.test('removal leaves nothing', async t => {
    for (const machine of machines) {
      machine.kill('SIGKILL')
      await once(machine, 'exit')
    }
    await frontend.remove('c1', signal())
    await bad.remove('c1', signal())
    t.strictSame(await daemons(), [])
    t.notMatch((await run('ip', ['netns', 'list'])).stdout, /mzf-/)
    for (const vni of [GOOD, BAD]) t.notMatch((await run('ip', ['-n', clusterNamespace(vni), '-o', 'link', 'show'])).stdout, /fe0/)
    // the key by which processes are known stays with the folder
    t.equal((await run('find', [STATE, '/run/bad', '/run/services', '-mindepth', '1', '!', '-name', '.key'])).stdout, '')
    t.equal((await openImageStore(STORE).verify(digest)).digest, digest, 'the image is untouched')
  })
}

if (process.argv[2] === INSIDE) {
  await enterPod()
  await nodes(process.argv[3] ?? '')
} else if (process.getuid?.() !== 0) {
  t.pass('nodes boot from the frontend', { skip: 'needs root' })
} else {
  const { digest } = await buildNodeImage({ storeDir: STORE, onProgress: step => { t.comment(`image: ${step}`) } })
  await t.test('a second call finds the image', async t => {
    t.strictSame(await buildNodeImage({ storeDir: STORE }), { digest, dir: join(STORE, digest.slice('sha256:'.length)), built: false })
  })
  const unshare = ['--net', '--mount', '--uts', '--pid', '--fork', '--kill-child', '--mount-proc']
  t.spawn('unshare', [...unshare, process.execPath, ...process.execArgv, fileURLToPath(import.meta.url), INSIDE, digest], {}, 'inside namespaces of its own')
}
