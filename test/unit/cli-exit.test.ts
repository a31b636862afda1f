import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import t, { type Test } from 'tap'
import { stringify } from 'yaml'
import { run } from '../../agent/exec.ts'
import { loadOrCreateKey, peerIdOf } from '../../protocol/mesh/identity.ts'

const CLI = join(dirname(dirname(import.meta.dirname)), 'cli', 'main.ts')

/** Starts an agent whose federation file lists its key, or another, under some name. */
async function agent (t: Test, own: boolean, name: string): Promise<{ exitCode: number, stderr: string }> {
  const dir = await mkdtemp(join(tmpdir(), 'mzx-'))
  t.teardown(() => rm(dir, { recursive: true, force: true }))
  const peerOf = async (file: string): Promise<string> => peerIdOf(await loadOrCreateKey(join(dir, file)))
  const [mine, other] = [await peerOf('key'), await peerOf('other')]
  await writeFile(join(dir, 'federation.yaml'), stringify({
    name: 'test', coordinators: [],
    sites: [{ name: 'tokyo', hosts: [{ name, peerId: own ? mine : other, roles: ['gateway'], addresses: ['/ip4/127.0.0.1/tcp/4100'] }] }]
  }))
  await writeFile(join(dir, 'agent.yaml'), stringify({
    name: 'tokyo-1', site: 'tokyo', roles: ['gateway'], stateDir: dir, runDir: join(dir, 'run'), federation: join(dir, 'federation.yaml'),
    listen: ['/ip4/127.0.0.1/tcp/0'], underlayAddress: '127.0.0.1', segmentIds: { from: 1, to: 9 }, capacity: { vcpus: 1, memoryMiB: 1, diskMiB: 0 }, drivers: 'fake'
  }))
  return await run(process.execPath, [CLI, 'agent', 'run', '--config', join(dir, 'agent.yaml')], { okCodes: [0, 1, 2, 3, 4], timeoutMs: 25_000, env: { NODE_OPTIONS: '' } })
}

t.test('an agent that the federation file does not know ends with 2: systemd must not start it again and again', async t => {
  t.match(await agent(t, false, 'tokyo-1'), { exitCode: 2, stderr: /is not in the federation file/ })
  t.match(await agent(t, true, 'tokyo-2'), { exitCode: 2, stderr: /knows this key as host tokyo-2/ })
})
