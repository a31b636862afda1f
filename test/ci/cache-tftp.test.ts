import { spawn } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { chmod, mkdir, readFile, readdir, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Test } from 'tap'
import { IPXE_DIR } from '../../agent/drivers/boot/render.ts'
import { createCacheDriver } from '../../agent/drivers/cache/driver.ts'
import { serviceNames } from '../../agent/drivers/cache/plan.ts'
import { RELAY_PORT } from '../../agent/drivers/cache/tftp/ports.ts'
import { relayService } from '../../agent/drivers/cache/tftp/service.ts'
import { run } from '../../agent/exec.ts'
import { keeperId } from '../../agent/services/keepers.ts'
import { createPidfileServices } from '../../agent/services/pidfile.ts'
import type { CacheSpec } from '../../protocol/core/desired.ts'
import { FRONTEND, LAB_SPEC, SITE, createCacheLab } from '../bench/cache-lab.ts'
import type { LabNode } from '../bench/cache-lab.ts'
import { inPod, runInPod } from '../bench/cache-pod.ts'
import type { TftpSeen } from '../cache/tftp-client.ts'
import { until } from '../cache/until.ts'

// TFTP of a far site, asked by three clients: curl, busybox and one of our own. A pod of its own, see cache-pod.ts.
const isRoot = process.getuid?.() === 0
if (isRoot && !inPod()) process.exit(await runInPod(import.meta.filename))
const { default: t } = await import('tap')

const NAME = 'lab.cache'
const DIR = '/run/mz-cache-tftp'
const MASTER = 'mz-master'
const RELAY = '10.42.255.1'
const CLIENT = join(import.meta.dirname, '..', 'cache', 'tftp-client.ts')
const LOADER = 'undionly.kpxe'
const SPEC: CacheSpec = { ...LAB_SPEC, ports: [80], tftp: {} }
const SERVICE = serviceNames(SPEC.vni).tftp
const ANY = Array.from({ length: 100 }, (_, code) => code)
/** Sends packets that are random behind a code that there is, or cut out of real ones. */
const GARBAGE = `
let seed = Number(process.argv[2])
const random = most => { seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0; return seed % most }
const socket = require('node:dgram').createSocket('udp4')
const real = Buffer.from('\\0\\x01undionly.kpxe\\0octet\\0blksize\\x001468\\0windowsize\\x009\\0tsize\\x000\\0', 'latin1')
let left = 3000
const one = () => {
  if (left-- === 0) return socket.close()
  const packet = random(2) ? Buffer.from(Array.from({ length: random(80) }, () => random(256))) : Buffer.from(real.subarray(0, random(real.length + 1)))
  if (packet.length > 1 && random(2)) packet.writeUInt16BE(random(8))
  if (packet.length > 8 && random(2)) packet[random(packet.length)] = random(256)
  socket.send(packet, 69, process.argv[1], () => setImmediate(one))
}
one()`
const signal = (): AbortSignal => AbortSignal.timeout(60_000)
const sha256 = (data: Buffer): string => createHash('sha256').update(data).digest('hex')

/** One file by our own client. */
async function fetchFile (node: LabNode, name: string, ...args: string[]): Promise<TftpSeen> {
  const { stdout } = await run(process.execPath, [CLIENT, SPEC.frontendAddress, name, ...args], { netns: node.namespace, timeoutMs: 60_000 })
  return JSON.parse(stdout) as TftpSeen
}

/** One file by curl; null when it fails. */
async function curlFile (node: LabNode, name: string): Promise<Buffer | null> {
  const file = join(DIR, `got-${node.namespace}-${randomBytes(4).toString('hex')}`)
  const { exitCode } = await run('curl', ['-sS', '-m', '40', '-o', file, `tftp://${SPEC.frontendAddress}/${name}`], { netns: node.namespace, timeoutMs: 60_000, okCodes: ANY })
  const got = exitCode === 0 ? await readFile(file) : null
  await rm(file, { force: true })
  return got
}

/** Packets of UDP over the link, in either direction, whatever their ports; the lab has no others. */
async function linkPackets (): Promise<number> {
  const { stdout } = await run('nft', ['list', 'table', 'bridge', 'look'], { netns: SITE })
  return [...stdout.matchAll(/packets (\d+)/g)].reduce((sum, [, packets]) => sum + Number(packets), 0)
}

async function main (t: Test): Promise<void> {
  await mkdir(DIR)
  const lab = await createCacheLab(DIR, 4)
  const services = createPidfileServices({ dir: join(DIR, 'services') })
  const driver = createCacheDriver({ stateDir: join(DIR, 'cache'), services })
  const [node, other, third] = lab.nodes
  if (node === undefined || other === undefined || third === undefined) throw new Error('no nodes')
  const tftpRoot = join(DIR, 'tftp-root')
  await mkdir(join(tftpRoot, 'pxelinux.cfg'), { recursive: true })
  // the frontend's own TFTP: what it is asked stands in its log
  const asked = join(DIR, 'frontend.log')
  const frontend = spawn('ip', ['netns', 'exec', FRONTEND, 'dnsmasq', '--keep-in-foreground', '--port=0', '--conf-file=/dev/null', '--pid-file', '--user=root', '--enable-tftp', `--tftp-root=${tftpRoot}`, `--log-facility=${asked}`], { stdio: 'inherit' })
  t.teardown(async () => {
    frontend.kill('SIGKILL')
    await services.stop('mz-test-relay')
    await lab.close()
  })
  // iifname of what comes, oifname of what goes, last of all
  await run('nft', ['-f', '-'], { netns: SITE, input: 'table bridge look {\nchain in {\ntype filter hook prerouting priority -400\niifname "wan0m" meta l4proto udp counter\n}\nchain out {\ntype filter hook postrouting priority 400\noifname "wan0m" meta l4proto udp counter\n}\n}\n' })
  const loader = await readFile(join(IPXE_DIR, LOADER))
  const observed = async () => (await driver.observe(signal())).find(object => object.name === NAME)
  const log = async (): Promise<string> => await readFile(join(DIR, 'services', `${SERVICE}.log`), 'utf8')

  await t.test('without it TFTP crosses the link', async t => {
    await writeFile(join(tftpRoot, 'far'), 'far')
    await driver.apply(NAME, LAB_SPEC, signal())
    t.equal((await curlFile(node, 'far'))?.toString(), 'far')
    t.ok(await linkPackets() > 0, 'the counters of this test count')
    t.match(await observed(), { healthy: true, detail: { tftp: undefined } })
    t.equal((await services.status(SERVICE)).running, false)
  })

  await driver.apply(NAME, SPEC, signal())
  const start = await linkPackets()

  await t.test('a loader comes from the own site, in the frontend\'s name', async t => {
    t.match(await observed(), { healthy: true, detail: { tftp: true, tftpStopped: 0 } })
    t.ok((await curlFile(node, LOADER))?.equals(loader), 'curl')
    const file = join(DIR, 'busybox')
    await run('busybox', ['tftp', '-g', '-r', `/${LOADER}`, '-l', file, SPEC.frontendAddress], { netns: other.namespace })
    t.ok((await readFile(file)).equals(loader), 'busybox, with a slash in front')
    const got = await fetchFile(third, LOADER, 'tsize=0', 'blksize=9000', 'windowsize=64', 'timeout=2')
    t.same(got, { bytes: loader.length, sha256: sha256(loader), error: null, granted: { blksize: '1468', windowsize: '16', timeout: '2', tsize: String(loader.length) }, ports: [69], strange: 0, repeated: 0 })
    t.match(await fetchFile(third, LOADER), { sha256: sha256(loader), granted: {}, error: null }, 'without options')
    t.match(await fetchFile(third, LOADER, 'blksize=4', 'timeout=99', 'windowsize=0', 'x=1'), { sha256: sha256(loader), granted: {}, error: null }, 'with options that cannot be granted')
    const files = 5 * loader.length
    const counted = (await driver.stats(NAME))?.classes.tftp
    t.ok(counted !== undefined && counted.bytesToNodes > files && counted.bytesToNodes < 2 * files, `${counted?.bytesToNodes ?? 0} bytes of packets for files of ${files}`)
    t.ok(counted !== undefined && counted.requests >= 5 && counted.requests < 20, `${counted?.requests ?? 0} requests`)
    t.equal(counted?.bytesFromUpstream, 0, 'nothing of it came over the link')
    t.match(await fetchFile(third, 'ipxe.efi', 'blksize=1024', 'windowsize=16'), { sha256: sha256(await readFile(join(IPXE_DIR, 'ipxe.efi'))), error: null }, 'a link of the package')
  })

  await t.test('what is no file of the folder is refused, and nothing is written', async t => {
    for (const name of ['../../../etc/passwd', '/../etc/passwd', 'qemu/../../ipxe/undionly.kpxe', '..\\..\\etc\\passwd', '.', 'qemu/', 'a\nb', 'x'.repeat(300)]) {
      t.match(await fetchFile(node, name), { error: /^2 /, bytes: 0 }, JSON.stringify(name.slice(0, 40)))
    }
    for (const name of ['none', 'qemu', '/etc/passwd', 'undionly.kpxe/x']) t.match(await fetchFile(node, name), { error: /^1 /, bytes: 0 }, name)
    t.match(await fetchFile(node, LOADER, 'write=1'), { error: '2 read only' })
    t.match(await fetchFile(node, LOADER, 'mode=mail'), { error: /^4 / })
    t.match(await log(), /10\.42\.1\.1:\d+ \.\.\/\.\.\/\.\.\/etc\/passwd refused: no name of a file/)
    const { uid } = await stat(`/proc/${String((await services.status(SERVICE)).pid)}`)
    t.equal(uid, keeperId('tftp', SPEC.vni), 'it is a user of its own')
  })

  await t.test('packets that are lost are sent again', async t => {
    t.match(await fetchFile(node, LOADER, 'blksize=1468', 'windowsize=8', 'lose=9'), { sha256: sha256(loader), error: null })
    // either way, on the wire: data and acknowledgements
    await run('nft', ['-f', '-'], { netns: other.namespace, input: 'table inet lossy {\nchain in {\ntype filter hook input priority 0\nudp sport 69 numgen inc mod 23 == 3 drop\n}\nchain out {\ntype filter hook output priority 0\nudp dport 69 numgen inc mod 29 == 5 drop\n}\n}\n' })
    t.match(await fetchFile(other, LOADER, 'blksize=1428', 'timeout=1'), { sha256: sha256(loader), error: null })
    await run('nft', ['delete', 'table', 'inet', 'lossy'], { netns: other.namespace })
  })

  await t.test('clients that go away are forgotten, others do not notice', async t => {
    await Promise.all([1, 5, 20, 21, 22, 23, 24, 25].map(async blocks => await fetchFile(node, LOADER, `leave=${blocks}`, 'timeout=1')))
    t.match(await fetchFile(node, LOADER), { error: '0 too many transfers' }, 'eight of one address are enough')
    t.ok((await curlFile(other, LOADER))?.equals(loader))
    await until('they are given up', async () => (await log()).split('\n').filter(line => line.includes('the client went away')).length >= 8)
  })

  await t.test('packets that are none, and halves of some, stop nobody', async t => {
    const { pid } = await services.status(SERVICE)
    const seed = randomBytes(4).readUInt32LE()
    t.comment(`seed ${seed}`)
    await run(process.execPath, ['-e', GARBAGE, SPEC.frontendAddress, String(seed)], { netns: other.namespace })
    t.ok((await curlFile(third, LOADER))?.equals(loader))
    t.equal((await services.status(SERVICE)).pid, pid, 'by the same process')
    await until('it lets go of all that', async () => (await curlFile(other, LOADER)) !== null)
    t.match(await log(), /10\.42\.1\.2:\d+ \S+ refused: no request/, 'they did arrive')
    const lines = (await log()).split('\n').length
    t.ok(lines < 1_000, `${lines} lines in the log for 3000 packets`)
  })

  await t.test('fifty nodes at once', async t => {
    const more = Array.from({ length: 50 }, (_, i): string => `10.42.7.${i + 1}`)
    await run('ip', ['-n', node.namespace, '-batch', '-'], { input: `${more.map(address => `addr add ${address}/16 dev eth0`).join('\n')}\n` })
    const begun = performance.now()
    const all = await Promise.all(more.map(async (address, i) => {
      const file = join(DIR, `many${i}`)
      await run('curl', ['-sS', '-m', '50', '--interface', address, '--tftp-blksize', '1428', '-o', file, `tftp://${SPEC.frontendAddress}/${LOADER}`], { netns: node.namespace, timeoutMs: 60_000 })
      return (await readFile(file)).equals(loader)
    }))
    t.same(all, more.map(() => true))
    t.comment(`50 x ${loader.length} bytes in ${Math.round(performance.now() - begun)} ms`)
    await run('ip', ['-n', node.namespace, '-batch', '-'], { input: `${more.map(address => `addr del ${address}/16 dev eth0`).join('\n')}\n` })
  })

  await t.test('killed: nothing goes to the other site, and the next pass brings it back', async t => {
    const { pid } = await services.status(SERVICE)
    if (pid === null) throw new Error('it does not run')
    process.kill(pid, 'SIGKILL')
    const stopped = Number((await observed())?.detail['tftpStopped'])
    await run('curl', ['-sS', '-m', '3', '-o', '/dev/null', `tftp://${SPEC.frontendAddress}/far`], { netns: node.namespace, okCodes: ANY })
    const dead = await observed()
    t.match(dead, { healthy: false, detail: { tftp: false, state: 'caching' } }, 'HTTP is not concerned')
    t.ok(Number(dead?.detail['tftpStopped']) > stopped, 'what would have gone is counted')
    await driver.apply(NAME, SPEC, signal())
    t.match(await observed(), { healthy: true })
    t.ok((await curlFile(node, LOADER))?.equals(loader))
  })

  await t.test('killed under way: the client is told, and asks again', async t => {
    // a hundred thousand packets, of which some have arrived
    const received = async (): Promise<number> => Number(/Udp: (\d+) /.exec((await run('cat', ['/proc/net/snmp'], { netns: node.namespace })).stdout)?.[1])
    const before = await received()
    const under = fetchFile(node, 'ipxe.efi', 'blksize=8', 'timeout=1')
    await until('it is under way', async () => await received() > before + 100)
    const { pid } = await services.status(SERVICE)
    if (pid !== null) process.kill(pid, 'SIGKILL')
    await driver.apply(NAME, SPEC, signal())
    t.match(await under, { error: '5 unknown transfer' })
    t.match(await fetchFile(node, LOADER), { sha256: sha256(loader), error: null })
  })

  t.equal(await linkPackets(), start, 'in all this no packet of UDP crossed the link')

  await t.test('another frontend: fetched once for many, and never older than the frontend\'s', async t => {
    const folder = join(DIR, 'relay')
    await mkdir(folder, { mode: 0o700 })
    const id = keeperId('tftp', SPEC.vni)
    await run('chown', [`${id}:${id}`, folder])
    await run('ip', ['-n', MASTER, 'addr', 'add', `${RELAY}/16`, 'dev', 'br0'])
    const relay = relayService({ vni: SPEC.vni, namespace: MASTER, ownAddress: RELAY, frontendAddress: SPEC.frontendAddress, dir: folder })
    await services.ensure('mz-test-relay', relay)
    const proxied: CacheSpec = { ...SPEC, tftp: { relay: RELAY } }
    await driver.apply(NAME, proxied, signal())
    await until('the relay listens', async () => (await run('curl', ['-s', '-m', '2', '-o', '/dev/null', `http://${RELAY}:${RELAY_PORT}/none`], { netns: SITE, okCodes: ANY })).exitCode === 0)
    const first = randomBytes(3_000_000)
    await writeFile(join(tftpRoot, 'initrd.img'), first)
    await chmod(join(tftpRoot, 'initrd.img'), 0o644)
    const [packets, bytes] = [await linkPackets(), await lab.wanBytes()]
    const counted = async (): Promise<number> => (await driver.stats(NAME))?.classes.tftp.bytesFromUpstream ?? NaN
    const countedBefore = await counted()
    const many = await Promise.all(Array.from({ length: 12 }, async (_, i) => await fetchFile(lab.nodes[i % 4] ?? node, 'initrd.img', 'blksize=1468', 'windowsize=16', 'tsize=0')))
    t.same(many.map(got => [got.error, got.sha256]), many.map(() => [null, sha256(first)]))
    t.match(many[0], { granted: { tsize: '3000000' }, ports: [69] })
    const carried = await lab.wanBytes() - bytes
    t.ok(carried > first.length && carried < 1.2 * first.length, `${carried} bytes over the link for ${first.length}`)
    const fetched = await counted() - countedBefore
    t.ok(fetched > first.length && fetched <= carried, `${fetched} of them are counted as TFTP`)
    t.ok((await fetchFile(node, 'initrd.img', 'blksize=1468')).sha256 === sha256(first))
    t.ok(await lab.wanBytes() - bytes - carried < 10_000, 'the next one costs a question')
    const second = randomBytes(3_000_000)
    await writeFile(join(tftpRoot, 'initrd.img'), second)
    t.equal((await fetchFile(node, 'initrd.img', 'blksize=1468')).sha256, sha256(second), 'a file that changed, of the same length')
    await writeFile(join(tftpRoot, 'pxelinux.cfg', '01-02-00'), '')
    t.match(await fetchFile(node, 'pxelinux.cfg/01-02-00'), { bytes: 0, error: null }, 'an empty one')
    await rm(join(tftpRoot, 'pxelinux.cfg', '01-02-00'))
    t.match(await fetchFile(node, 'pxelinux.cfg/01-02-00'), { error: '1 no such file' }, 'one that went')
    await writeFile(join(tftpRoot, 'lines'), 'a\nb\r')
    t.match(await fetchFile(node, 'lines', 'mode=netascii'), { sha256: sha256(Buffer.from('a\r\nb\r\0')), error: null })
    t.match(await fetchFile(node, '../services/x'), { error: /^2 / })
    t.equal(await linkPackets(), packets, 'all of it without a packet of UDP over the link')
    t.same((await readdir(join(DIR, 'cache', 'lab%2Ecache', 'tftp'))).filter(file => !/^[0-9a-f]{64}-[0-9a-f]{64}$/.test(file)), [])
  })

  await t.test('links that nodes cannot have made are not followed out of what is kept', async t => {
    const kept = join(DIR, 'cache', 'lab%2Ecache', 'tftp')
    const [file] = (await readdir(kept)).filter(one => one.startsWith(createHash('sha256').update('initrd.img').digest('hex')))
    await rm(join(kept, file ?? ''))
    await symlink('/etc/passwd', join(kept, file ?? ''))
    t.match(await fetchFile(node, 'initrd.img'), { bytes: 0, error: /^0 / })
    await rm(join(kept, file ?? ''))
  })

  await t.test('its folder is deleted: the next pass mends it', async t => {
    await rm(join(DIR, 'cache', 'lab%2Ecache', 'tftp'), { recursive: true })
    t.match(await observed(), { healthy: false })
    await driver.apply(NAME, { ...SPEC, tftp: { relay: RELAY } }, signal())
    t.match(await observed(), { healthy: true })
    t.match(await fetchFile(node, 'initrd.img', 'blksize=1468'), { bytes: 3_000_000, error: null })
  })

  await t.test('killed while it fetches: nothing of it is in the way of the next', async t => {
    // the relay stands still: what fetches waits for it
    const relay = (await services.status('mz-test-relay')).pid
    const server = (await services.status(SERVICE)).pid
    if (relay === null || server === null) throw new Error('they do not run')
    process.kill(relay, 'SIGSTOP')
    const waits = fetchFile(node, 'initrd.img', 'blksize=1468')
    const children = async (): Promise<string> => (await readFile(`/proc/${server}/task/${server}/children`, 'utf8').catch(() => '')).trim()
    await until('it fetches', async () => await children() !== '')
    process.kill(server, 'SIGKILL')
    await driver.apply(NAME, { ...SPEC, tftp: { relay: RELAY } }, signal())
    process.kill(relay, 'SIGCONT')
    t.match(await waits, { bytes: 3_000_000, error: null }, 'its client asks again, and the next one answers')
    t.match(await observed(), { healthy: true })
  })

  await t.test('a relay that is gone, or a frontend without TFTP: a reason, no packet', async t => {
    const packets = await linkPackets()
    frontend.kill('SIGKILL')
    t.match(await fetchFile(node, 'initrd.img'), { bytes: 0, error: /^0 the frontend's TFTP failed: the relay says 504/ })
    await services.stop('mz-test-relay')
    t.match(await fetchFile(node, 'initrd.img'), { bytes: 0, error: /^0 the relay at the frontend's site does not answer/ })
    t.equal(await linkPackets(), packets)
  })

  await t.test('nothing is left of it', async t => {
    await driver.apply(NAME, LAB_SPEC, signal())
    t.match(await observed(), { healthy: true })
    t.equal((await services.status(SERVICE)).running, false)
    t.notMatch((await run('nft', ['list', 'ruleset'], { netns: SITE })).stdout, /tftp|dport 69/)
    await driver.remove(NAME, signal())
    t.same((await services.list()).map(service => service.name), [])
  })
}

t.setTimeout(300_000)
t.test('TFTP of a far site', isRoot ? {} : { skip: 'needs root' }, main)
