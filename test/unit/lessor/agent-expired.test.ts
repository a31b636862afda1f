/** A host that was away past the end of its certificate: it keeps what it has promised, says what to do, and is taken in again. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { privateKeyToProtobuf } from '@libp2p/crypto/keys'
import t from 'tap'
import { stringify } from 'yaml'
import { call } from '../../../cli/client.ts'
import { until } from '../../../lab/process.ts'
import type { AgentStatus } from '../../../protocol/api.ts'
import { issue } from '../../../protocol/mesh/trust/certificate.ts'
import { writeCredentials } from '../../../protocol/mesh/trust/credentials.ts'
import { helperConfig, startHelperFor } from '../../helper.ts'
import { createKit } from '../../trust-kit.ts'

const CLI = join(dirname(dirname(dirname(import.meta.dirname))), 'cli', 'main.ts')
const PATIENCE_MS = 60_000
const HOUR_MS = 3_600_000
t.setTimeout(120_000)

t.test('an agent whose certificate has ended starts, says what to do, and takes over the new one', async t => {
  const dir = await mkdtemp(join(tmpdir(), 'mze-'))
  const kit = await createKit({ sites: [{ name: 'tokyo', hosts: [{ name: 'tokyo-1', roles: ['compute'] }] }] }, Date.now() - 2 * HOUR_MS, HOUR_MS)
  const { key, peerId, chain } = kit.member('tokyo/tokyo-1')
  await writeFile(join(dir, 'key'), privateKeyToProtobuf(key), { mode: 0o600 })
  await writeCredentials(join(dir, 'credentials.json'), { federation: kit.federation, chain, peers: [] })
  await writeFile(join(dir, 'agent.yaml'), stringify({
    name: 'tokyo-1', site: 'tokyo', roles: ['compute'], stateDir: dir, runDir: join(dir, 'run'),
    listen: ['/ip4/127.0.0.1/tcp/0'], underlayAddress: '127.0.0.1', capacity: { vcpus: 1, memoryMiB: 1, diskMiB: 0 }, drivers: 'fake', helper: helperConfig(dir)
  }))
  const helper = await startHelperFor(join(dir, 'agent.yaml'))
  const agent = spawn(process.execPath, [CLI, 'agent', 'run', '-c', join(dir, 'agent.yaml')], { stdio: 'ignore', env: { ...process.env, NODE_OPTIONS: '' } })
  t.teardown(async () => {
    if (agent.exitCode === null && agent.signalCode === null) {
      agent.kill('SIGKILL')
      await once(agent, 'exit')
    }
    await helper.stop()
    await rm(dir, { recursive: true, force: true })
  })
  const status = async (): Promise<AgentStatus | null> => await call<AgentStatus>({ socketPath: join(dir, 'run', 'agent.sock'), what: 'agent' }, 'GET', '/v1/status').catch(() => null)
  const before = await until('the agent', PATIENCE_MS, status)
  t.match(before.problems.join(' '), /host certificate of tokyo\/tokyo-1 ended[^]*musubi site invite[^]*musubi agent join TOKEN[^]*leases stay/)
  const siteKey = kit.siteKeys.get('tokyo')
  if (siteKey === undefined) throw new Error('no site key')
  const renewed = [issue(siteKey, { federation: kit.federation, kind: 'host', subject: peerId, site: 'tokyo', name: 'tokyo-1', roles: ['compute'] }, Date.now()), ...kit.siteChains.get('tokyo') ?? []]
  await writeCredentials(join(dir, 'credentials.json'), { federation: kit.federation, chain: renewed, peers: [] })
  const after = await until('it to take over the new certificate', PATIENCE_MS, async () => {
    const now = await status()
    return now !== null && !now.problems.some(problem => problem.includes('ended')) ? now : null
  })
  t.ok(after.certificate.notAfterMs > Date.now())
  t.equal(after.epoch, before.epoch, 'without a restart')
})
