import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { Test } from 'tap'
import { createCacheDriver } from '../../agent/drivers/cache/driver.ts'
import { createPidfileServices } from '../../agent/services/pidfile.ts'
import { FRONTEND, LAB_SPEC, SITE, createCacheLab } from '../bench/cache-lab.ts'
import { inPod, runInPod } from '../bench/cache-pod.ts'
import { WIRE_ERROR_MAX, wireBytes, wireDifference, wireError } from '../cache/wire-accounting.ts'
import { wireBytesSaid } from '../cache/wiring.ts'

// What the cache says it fetched, served and saved, against counters of the kernel and of the clients: a pod of its own.
const isRoot = process.getuid?.() === 0
if (isRoot && !inPod()) process.exit(await runInPod(import.meta.filename))
const { default: t } = await import('tap')

const MIB = 1024 * 1024
const NAME = 'lab.cache'
/** Headers of Ethernet, IP and TCP for each segment of 1330 bytes, or of less than that where the kernel joins segments; and connections. */
const FRAMING_MAX = 1.08
/** Headers of HTTP beside bodies of megabytes. */
const HEADERS_MAX = 1.01
const HTTPS_BYTES = 2 * MIB

async function main (t: Test): Promise<void> {
  const dir = '/run/mz-cache-wire'
  await mkdir(dir)
  const lab = await createCacheLab(dir, 4)
  t.teardown(async () => { await lab.close() })
  const driver = createCacheDriver({ stateDir: join(dir, 'cache'), services: createPidfileServices({ dir: join(dir, 'services') }) })
  await driver.apply(NAME, LAB_SPEC, AbortSignal.timeout(60_000))
  const image = await lab.publish(24 * MIB)
  const [first] = lab.nodes
  if (first === undefined) throw new Error('no nodes')
  await lab.limitWan(400)

  const before = await wireBytes(SITE)
  let served = 0
  for (const nodes of [lab.nodes, lab.nodes.slice(0, 2)]) {
    const answers = await Promise.all(nodes.map(async node => await lab.get(node, image.path)))
    served += answers.reduce((sum, answer) => sum + answer.bytes, 0)
  }
  for (const node of lab.nodes) served += (await lab.get(node, `http://${LAB_SPEC.frontendAddress}:8080/kickstart`)).bytes
  const uploaded = await lab.get(first, `http://${LAB_SPEC.frontendAddress}:8080/upload`, ['--data-binary', 'x'.repeat(50_000)])
  served += uploaded.bytes
  t.equal(uploaded.status, 200)
  await delay(500)
  const counted = wireDifference(before, await wireBytes(SITE))
  const stats = await driver.stats(NAME)
  if (stats === null) throw new Error('the cache has no figures')

  t.ok(stats.bytesFromUpstream <= counted.received && counted.received <= stats.bytesFromUpstream * FRAMING_MAX, `${counted.received} bytes came in, of which ${stats.bytesFromUpstream} were HTTP`)
  t.ok(served <= stats.bytesToNodes && stats.bytesToNodes <= served * HEADERS_MAX, `nodes got ${served} bytes, the cache counted ${stats.bytesToNodes}`)
  const said = wireBytesSaid(stats)
  if (said === null) t.comment('the cache tells no bytes of frames: those are not compared')
  else {
    const error = wireError(counted, said)
    t.ok(Math.abs(error.received) <= WIRE_ERROR_MAX, `${said.received} of ${counted.received} bytes received are accounted for`)
    if (said.sent !== null) t.ok(Math.abs(error.sent ?? 1) <= WIRE_ERROR_MAX, `${said.sent} of ${counted.sent} bytes sent are accounted for`)
  }

  // whatever is spoken at that port
  const server = spawn('ip', ['netns', 'exec', FRONTEND, process.execPath, '-e', `require('node:http').createServer((_, answer) => answer.end(Buffer.alloc(${HTTPS_BYTES}))).listen(443, '${LAB_SPEC.frontendAddress}', () => console.log('up'))`], { stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => { server.kill('SIGKILL') })
  await once(server.stdout, 'data')
  t.equal(stats.wire.https, 0)
  t.match(await lab.get(first, `http://${LAB_SPEC.frontendAddress}:443/x`), { status: 200, bytes: HTTPS_BYTES })
  const after = await driver.stats(NAME)
  t.ok(after !== null && after.wire.https > HTTPS_BYTES && after.wire.https < HTTPS_BYTES * FRAMING_MAX, `${after?.wire.https ?? 0} bytes for ${HTTPS_BYTES} by port 443`)
  t.same([after?.wire.static, after?.wire.dynamic, after?.bytesToNodes, after?.bytesFromUpstream], [stats.wire.static, stats.wire.dynamic, stats.bytesToNodes, stats.bytesFromUpstream], 'and in no other figure')
}

t.setTimeout(120_000)
t.test('the accounting holds against counters', isRoot ? {} : { skip: 'needs root' }, main)
