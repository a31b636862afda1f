import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { privateKeyToProtobuf } from '@libp2p/crypto/keys'
import t, { type Test } from 'tap'
import { stringify } from 'yaml'
import { run } from '../../../agent/exec.ts'
import { writeCredentials } from '../../../protocol/mesh/trust/credentials.ts'
import { createKit } from '../../trust-kit.ts'

const CLI = join(dirname(dirname(dirname(import.meta.dirname))), 'cli', 'main.ts')
const musubi = async (...args: string[]): Promise<{ exitCode: number, stdout: string, stderr: string }> =>
  await run(process.execPath, [CLI, ...args], { okCodes: [0, 1, 2, 3, 4], timeoutMs: 25_000, env: { NODE_OPTIONS: '' } })

/** An agent whose certificate, if any, is for host `name` of tokyo. */
async function agent (t: Test, name: string | null): Promise<{ exitCode: number, stderr: string }> {
  const dir = await mkdtemp(join(tmpdir(), 'mzx-'))
  t.teardown(() => rm(dir, { recursive: true, force: true }))
  await writeFile(join(dir, 'agent.yaml'), stringify({
    name: 'tokyo-1', site: 'tokyo', roles: ['compute'], stateDir: dir, runDir: join(dir, 'run'),
    listen: ['/ip4/127.0.0.1/tcp/0'], underlayAddress: '127.0.0.1', capacity: { vcpus: 1, memoryMiB: 1, diskMiB: 0 }, drivers: 'fake'
  }))
  if (name !== null) {
    const kit = await createKit({ sites: [{ name: 'tokyo', hosts: [{ name, roles: ['compute'] }] }] })
    const { key, chain } = kit.member(`tokyo/${name}`)
    await writeFile(join(dir, 'key'), privateKeyToProtobuf(key), { mode: 0o600 })
    await writeCredentials(join(dir, 'credentials.json'), { federation: kit.federation, chain, peers: [] })
  }
  return await musubi('agent', 'run', '--config', join(dir, 'agent.yaml'))
}

t.test('an agent that cannot be a member ends with 2 and says what to do: systemd must not start it again and again', async t => {
  const [none, other] = await Promise.all([agent(t, null), agent(t, 'tokyo-2')])
  t.match(none, { exitCode: 2, stderr: /tokyo-1 is no member of site tokyo yet[^]*musubi site invite[^]*musubi agent join TOKEN/ })
  t.match(other, { exitCode: 2, stderr: /is for tokyo\/tokyo-2, the configuration says tokyo\/tokyo-1/ })
})

t.test('bad usage ends with 2, nobody there with 4', async t => {
  const nowhere = ['--socket', '/nonexistent/agent.sock']
  const [unknown, unsure, odd, file, nobody] = await Promise.all([
    musubi('host', 'frobnicate'), musubi('site', 'revoke', 'tokyo-2', ...nowhere), musubi('site', 'invite', '--ttl', 'soon', ...nowhere),
    musubi('agent', 'join', 'nonsense', '-c', '/nonexistent.yaml'), musubi('host', 'show', 'x', ...nowhere)
  ])
  t.equal(unknown.exitCode, 2)
  t.match(unsure, { exitCode: 2, stderr: /--yes/ })
  t.match(odd, { exitCode: 2, stderr: /--ttl must be a time span/ })
  t.match(file, { exitCode: 2, stderr: /cannot read \/nonexistent.yaml/ })
  t.match(nobody, { exitCode: 4, stderr: /cannot reach the agent/ })
})
