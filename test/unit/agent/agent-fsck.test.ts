/** `musubi lease fsck` on stores that a real ledger has written, sound and damaged, and one that is in use. */
import { existsSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import t, { type Test } from 'tap'
import { stringify } from 'yaml'
import { fsck, fsckText } from '../../../agent/doctor/fsck.ts'
import { run } from '../../../agent/exec.ts'
import { openLedger } from '../../../store/ledger/ledger.ts'
import { openLevelStore } from '../../../store/level.ts'
import type { Store } from '../../../store/store.ts'

const CLI = join(dirname(dirname(dirname(import.meta.dirname))), 'cli', 'main.ts')
const NOW = 1_800_000_000_000
const node = { vcpus: 1, memoryMib: 512, diskMib: 0, volumes: 0, bandwidthMbit: 0 }
const musubi = async (...args: string[]): Promise<{ exitCode: number, stdout: string, stderr: string }> =>
  await run(process.execPath, [CLI, ...args], { okCodes: [0, 1, 2, 3, 4], timeoutMs: 25_000, env: { NODE_OPTIONS: '' } })

interface Host { config: string, folder: string, withStore: (work: (store: Store) => Promise<void>) => Promise<void> }

/** A host with one held lease in its ledger. */
async function host (t: Test): Promise<Host> {
  const dir = await mkdtemp(join(tmpdir(), 'mzf-'))
  t.teardown(() => rm(dir, { recursive: true, force: true }))
  const config = join(dir, 'agent.yaml')
  await writeFile(config, stringify({
    name: 'tokyo-1', site: 'tokyo', roles: ['compute'], stateDir: dir, runDir: join(dir, 'run'), listen: ['/ip4/127.0.0.1/tcp/0'], underlayAddress: '127.0.0.1', capacity: { vcpus: 4, memoryMiB: 4096, diskMiB: 0 }, drivers: 'fake'
  }))
  const folder = join(dir, 'store')
  const withStore = async (work: (store: Store) => Promise<void>): Promise<void> => {
    const store = await openLevelStore(folder)
    await work(store).finally(() => store.close())
  }
  await withStore(async store => {
    const ledger = await openLedger({ store, now: () => NOW, host: 'tokyo-1', capacity: { ...node, vcpus: 4, memoryMib: 4096 } })
    await ledger.hold({
      key: 'k1', clusterId: 'c1', cluster: 'demo', masterSite: 'osaka', masterPeer: 'p', startMs: NOW, endMs: NOW + 3_600_000, ttlMs: 30_000, offerId: 'o1', epoch: 1,
      items: [{ leaseId: 'l1', kind: 'node', name: 'n1', resources: node, segmentId: 0 }]
    })
    await ledger.close()
  })
  return { config, folder, withStore }
}

t.test('a sound ledger, and nothing is changed by looking', async t => {
  const { config, folder } = await host(t)
  const report = await fsck(config, false)
  t.match(report, { host: 'tokyo-1', store: folder, findings: [], sound: true })
  t.ok(report.records >= 3, 'the lease, its answer, the head')
  t.match(fsckText(report), /^ledger of tokyo-1 in .*store: \d+ records, sound$/)
  t.same(await fsck(config, true), report, 'there is nothing to repair')
})

t.test('what follows from other records is mended, the rest is told; exit codes say which', async t => {
  const { config, withStore } = await host(t)
  await withStore(async store => {
    const meta = await store.read<{ counter: number }>('ledger/meta')
    await store.put('ledger/meta', { ...meta?.value, counter: 0 }, { version: meta?.version ?? 1, sync: true })
  })
  const looked = await musubi('lease', 'fsck', '-c', config)
  t.match(looked, { exitCode: 3, stdout: /wrong +ledger\/meta: its counter 0 is behind[^]*--repair: set the counter[^]*1 of 1 can be mended: musubi lease fsck --repair/ })
  t.match(await fsck(config, false), { sound: false, findings: [{ key: 'ledger/meta', mended: false }] }, 'looking has not changed it')
  t.match(await musubi('lease', 'fsck', '-c', config, '--repair', '--json'), { exitCode: 0, stdout: /"mended": true[^]*"sound": true/ })
  t.match(await fsck(config, false), { sound: true, findings: [] })

  await withStore(async store => {
    const lease = await store.read<object>('ledger/lease/l1')
    await store.put('ledger/lease/l1', { ...lease?.value, state: 'flying' }, { version: lease?.version ?? 1, sync: true })
  })
  const left = await musubi('lease', 'fsck', '-c', config, '--repair')
  t.match(left, { exitCode: 3, stdout: /wrong +ledger\/lease\/l1: its state is flying[^]*cannot be rebuilt from other records/ })
})

t.test('an agent that runs has the store, and is told to be stopped first', async t => {
  const { config, withStore } = await host(t)
  await withStore(async () => {
    t.match(await musubi('lease', 'fsck', '-c', config), { exitCode: 1, stderr: /in use: the agent runs\n +stop it first, nodes run on: systemctl stop musubi-agent/ })
  })
  t.match(await musubi('lease', 'fsck', '-c', config), { exitCode: 0, stdout: /sound/ })
})

t.test('where there is no store none is made', async t => {
  const { config, folder } = await host(t)
  await rm(folder, { recursive: true })
  t.match(await musubi('lease', 'fsck', '-c', config, '--repair'), { exitCode: 2, stderr: /there is no store in .*stateDir/s })
  t.notOk(existsSync(folder))
})
