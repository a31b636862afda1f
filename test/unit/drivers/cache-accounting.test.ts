import { appendFile, mkdir, readdir, rename, rm, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { addLine, noCounters, readCounters, storedBytes } from '../../../agent/drivers/cache/account/accounting.ts'
import type { CacheCounters } from '../../../agent/drivers/cache/account/accounting.ts'
import { addWire, noWireBytes } from '../../../agent/drivers/cache/account/wire.ts'
import type { WireBytes } from '../../../agent/drivers/cache/account/wire.ts'
import { run } from '../../../agent/exec.ts'
import { cacheFolder, readRecord, readRecords, removeFolder, writeRecord } from '../../../agent/drivers/cache/folder.ts'
import { liveElements } from '../../../agent/drivers/cache/intercept/interception.ts'
import type { CacheSpec } from '../../../protocol/core/desired.ts'
import { MAX_NODES_PER_CLUSTER } from '../../../protocol/core/limits.ts'

const line = (change: Record<string, unknown> = {}): string => JSON.stringify({
  at: 1795353283.509, node: '10.42.1.1', class: 'named', method: 'GET', target: '/images/x', status: 200, asked: 149, sent: 1000, store: 'HIT', fetched: '', ...change
})

const SPEC: CacheSpec = { cluster: 'c1', vni: 7, frontendAddress: '10.0.0.1', ownAddress: '10.0.0.2', bridgeMac: '02:00:00:00:00:01', ports: [80], maxSizeMiB: 1 }

const counted = (...lines: string[]): CacheCounters => {
  const counters = noCounters()
  for (const one of lines) addLine(counters, one)
  return counters
}

t.test('one line of the log', t => {
  t.match(counted(line()), { requests: 1, hits: 1, bytesToNodes: 1000, bytesFromUpstream: 0, classes: { named: { requests: 1, bytesToNodes: 1000 } }, nodes: { '10.42.1.1': { requests: 1, bytes: 1000 } } })
  t.match(counted(line({ store: 'MISS', fetched: '1100' })), { requests: 1, hits: 0, bytesToNodes: 1000, bytesFromUpstream: 1100 })
  t.match(counted(line({ class: 'dynamic', store: '', fetched: '0, 12 : 30' })), { requests: 1, hits: 0, bytesToNodes: 1000, bytesFromUpstream: 42, classes: { named: { requests: 0 }, dynamic: { bytesFromUpstream: 42 } } })
  t.match(counted(line({ asked: 0, store: 'MISS', fetched: '500' })), { requests: 0, hits: 0, bytesToNodes: 0, bytesFromUpstream: 500, nodes: {} }, 'a further part')
  t.match(counted(line({ node: '127.0.0.1', store: 'MISS', fetched: '500' })), { requests: 0, hits: 0, bytesToNodes: 0, bytesFromUpstream: 500, nodes: {} }, 'fetched ahead')
  t.match(counted(line(), line({ node: '10.42.1.2' }), line()), { requests: 3, nodes: { '10.42.1.1': { requests: 2, bytes: 2000 }, '10.42.1.2': { requests: 1, bytes: 1000 } } })
  for (const text of ['', '{"at":1', 'null', '[]', '{}', line({ sent: '5' }), line({ node: 7 })]) t.same(counted(text), noCounters(), text)
  t.equal(Object.keys(counted(...Array.from({ length: 500 }, (_, i) => line({ node: `10.0.${i >> 8}.${i & 255}` }))).nodes).length, MAX_NODES_PER_CLUSTER, 'made up addresses fill nothing')
  t.end()
})

t.test('counters of packets are added up over tables that come and go', t => {
  const now = (static_: number, dynamic: number): WireBytes => ({ ...noWireBytes(), static: static_, dynamic, tftpAsked: dynamic })
  const one = addWire({ sum: noWireBytes(), last: noWireBytes() }, now(100, 5))
  t.same(one.sum, now(100, 5))
  const two = addWire(one, now(150, 5))
  t.same(two.sum, now(150, 5))
  t.same(addWire(two, now(10, 2)).sum, now(160, 7), 'a new table')
  t.end()
})

t.test('the log is counted once, through restarts, rotation and torn lines', async t => {
  const dir = t.testdir()
  const log = join(dir, 'access.log')
  t.same(await readCounters(dir), noCounters(), 'no log yet')
  await writeFile(log, `${line()}\n${line()}\n${line().slice(0, 40)}`)
  t.match(await readCounters(dir), { requests: 2 })
  t.match(await readCounters(dir), { requests: 2 })
  await appendFile(log, `${line().slice(40)}\n`)
  t.match(await readCounters(dir), { requests: 3, bytesToNodes: 3000 })
  await appendFile(log, `${line()}\n`)
  await rename(log, `${log}.1`)
  await writeFile(log, `${line({ at: 2 })}\n`)
  await appendFile(`${log}.1`, `${line()}\n`)
  t.match(await readCounters(dir), { requests: 6 })
  await rename(log, `${log}.1`)
  t.match(await readCounters(dir), { requests: 6 }, 'renamed only')
  await writeFile(log, `${line({ at: 3 })}\n`)
  t.match(await readCounters(dir), { requests: 7 })
  await writeFile(join(dir, 'counters.json'), '{"count')
  t.match(await readCounters(dir), { requests: 2 }, 'torn sums: what the logs still tell')
})

t.test('a log longer than one read', async t => {
  const dir = t.testdir()
  const many = 12_000
  await writeFile(join(dir, 'access.log'), `${line()}\n`.repeat(many) + `${line({ target: 'x'.repeat(65_536) })}\n`)
  t.match(await readCounters(dir), { requests: many + 1, bytesToNodes: (many + 1) * 1000 })
})

t.test('what the engine puts in place of a log is neither followed nor waited for', async t => {
  const dir = t.testdir({ other: `${line()}\n`, logs: {} })
  await symlink(join(dir, 'other'), join(dir, 'logs', 'access.log'))
  await mkdir(join(dir, 'logs', 'access.log.1'))
  t.same(await readCounters(dir, join(dir, 'logs')), noCounters())
  await rm(join(dir, 'logs', 'access.log'))
  await run('perl', ['-MPOSIX', '-e', 'mkfifo($ARGV[0], 0600) or die', join(dir, 'logs', 'access.log')])
  t.same(await readCounters(dir, join(dir, 'logs')), noCounters())
  await rm(join(dir, 'logs', 'access.log'))
  await writeFile(join(dir, 'logs', 'access.log'), `${line()}\n`)
  t.match(await readCounters(dir, join(dir, 'logs')), { requests: 1 })
  t.same(await readdir(join(dir, 'logs')), ['access.log', 'access.log.1'], 'the sums lie beside them')
})

t.test('stored bytes are those of all files below', async t => {
  const dir = t.testdir({ a: { bc: { one: '12345' } }, two: '123' })
  t.equal(await storedBytes(dir), 8)
  t.equal(await storedBytes(join(dir, 'nowhere')), 0)
})

t.test('records: any name has a folder of its own, and they survive what a crash leaves', async t => {
  const dir = t.testdir()
  const names = ['c1', 'c1.cache', '..', 'a/b', 'C1', 'ü', '~']
  t.equal(new Set(names.map(name => cacheFolder(dir, name))).size, names.length)
  for (const name of names) t.match(cacheFolder(dir, name).slice(dir.length), /^\/[A-Za-z0-9_%-]+$/, name)
  t.throws(() => cacheFolder(dir, ''), { code: 'INVALID_INPUT' })
  t.same(await readRecords(join(dir, 'none')), [])

  const folder = cacheFolder(dir, 'c1.cache')
  await writeRecord(folder, 'c1.cache', SPEC, false)
  t.same(await readRecord(folder), { name: 'c1.cache', spec: SPEC, applied: null })
  await writeRecord(folder, 'c1.cache', SPEC, true)
  t.match(await readRecords(dir), [{ name: 'c1.cache', applied: /^[0-9a-f]{16}$/ }])
  await mkdir(join(dir, 'empty'))
  await mkdir(join(dir, 'torn'))
  await writeFile(join(dir, 'torn', 'cache.json'), '{"name":')
  t.equal((await readRecords(dir)).length, 1)
  await removeFolder(folder)
  await removeFolder(folder)
  t.same(await readRecords(dir), [])
})

t.test('live ports are read from nft\'s listing', t => {
  const table = (elements: string): string => `table bridge mz_cache {\n\tset live {\n\t\ttype inet_service\n\t\tflags timeout\n${elements}\t}\n\n\tchain lift {\n\t\ttcp dport { 1, 2 }\n\t}\n}\n`
  t.same(liveElements(table('\t\telements = { 80 timeout 3s expires 2s728ms, 8080 timeout 3s expires 2s728ms }\n')), [80, 8080])
  t.same(liveElements(table('\t\telements = { 80 timeout 3s expires 2s728ms,\n\t\t\t     8080 timeout 3s expires 1ms }\n')), [80, 8080])
  t.same(liveElements(table('')), [])
  t.same(liveElements(''), [])
  t.end()
})
