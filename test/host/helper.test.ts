/**
 * The helper as it runs on a host: a process of root with real drivers and its list of programs, in
 * namespaces that end with the test. Users who are not the agent's stay outside.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdir, readdir, readFile, readlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { pino } from 'pino'
import t, { type Test } from 'tap'
import { run } from '../../agent/exec.ts'
import { createHelperClient, type HelperClient } from '../../agent/helper/client/client.ts'
import type { SegmentSpec, VolumeSpec } from '../../protocol/core/desired.ts'
import { driverContract } from '../contract/driver.ts'
import { driverOverSocket } from '../contract/helper-driver.ts'
import { eventually } from '../contract/services.ts'

const INSIDE = 'MUSUBI_TEST_HELPER'
const TREE = join(import.meta.dirname, '..', '..')
const ADDRESS = '10.68.0.1'
const AGENT_UID = 64_007
const STRANGER_UID = 64_008
const TIMEOUT_MS = 200_000
/** Sends one frame and prints what comes back, up to the end of the first answer. */
const ASK = `use Socket; my ($path, $json) = @ARGV; socket(my $s, PF_UNIX, SOCK_STREAM, 0) or die;
connect($s, sockaddr_un($path)) or do { print "$!"; exit 0 }; $SIG{PIPE} = 'IGNORE'; syswrite($s, pack('N', length $json) . $json);
my $got = ''; while (sysread($s, my $part, 65536)) { $got .= $part; last if length $got >= 4 && length $got >= 4 + unpack('N', $got) } print substr($got, 4)`

const segment = (vni: number, segmentId: number): SegmentSpec => ({
  cluster: 'c1', vni, site: { segmentId, localAddress: ADDRESS, remoteAddresses: ['10.68.0.2'] }, compute: true,
  gateway: { address: '10.42.255.1/16', bridgeMac: '02:00:00:00:07:01', tunnel: null }
})
const volume = (name: string, sizeMiB: number): VolumeSpec => ({ sizeMiB, iqn: `iqn.2026-11.org.musubi:contract.${name}`, portalAddress: ADDRESS, chap: { user: `c1-${name}`, secret: 'correct-horse' }, allow: ['10.68.0.2'] })

t.setTimeout(TIMEOUT_MS)
if (process.getuid?.() !== 0) {
  t.plan(0, 'needs root for namespaces')
} else if (process.env[INSIDE] === undefined) {
  const scratch = t.testdir()
  await t.spawn('unshare', ['-n', '-m', '-p', '-f', '--kill-child', '--mount-proc', process.execPath, process.argv[1] ?? ''],
    { env: { ...process.env, [INSIDE]: scratch }, timeout: TIMEOUT_MS }, 'in namespaces of its own')
} else {
  const scratch = process.env[INSIDE]
  await t.test('a helper with real drivers', t => inside(t, scratch))
}

async function inside (t: Test, scratch: string): Promise<void> {
  await run('mount', ['-t', 'tmpfs', '-o', 'mode=755', 'tmpfs', '/run'])
  await run('ip', ['link', 'set', 'lo', 'up'])
  await run('ip', ['address', 'add', `${ADDRESS}/32`, 'dev', 'lo'])
  await mkdir('/run/netns')
  const socket = '/run/musubi-helper/helper.sock'
  const config = join(scratch, 'agent.yaml')
  const stateDir = '/run/state'
  await writeFile(config, JSON.stringify({
    name: 'h1', site: 'tokyo', roles: ['gateway', 'storage'], listen: ['/ip4/127.0.0.1/tcp/0'], underlayAddress: ADDRESS, segmentIds: { from: 1, to: 9 }, stateDir: '/run/agent', runDir: '/run/musubi',
    helper: { socket, stateDir, agentUser: AGENT_UID }
  }))
  const helper = spawn(process.execPath, [join(TREE, 'cli', 'main.ts'), 'helper', 'run', '-c', config], { env: { NODE_OPTIONS: '', PATH: '/nonesuch', CACHE_DIRECTORY: '/run/cache' }, stdio: ['ignore', 'inherit', 'inherit'] })
  const clients: HelperClient[] = []
  t.teardown(async () => {
    for (const client of clients) client.close()
    helper.kill('SIGTERM')
    if (helper.exitCode === null && helper.signalCode === null) await once(helper, 'exit')
  })
  const cli = async (...args: string[]): Promise<string> => (await run(process.execPath, [join(TREE, 'cli', 'main.ts'), ...args, '-c', config], { env: { NODE_OPTIONS: '' } })).stdout
  await eventually('the helper answers', async () => await cli('host', 'owned').then(() => true, () => false), 60_000)

  /** What another user reads: in perl, as the work tree may be root's alone. */
  const asked = async (uid: number, verb: string, params: object): Promise<string> =>
    (await run('setpriv', [`--reuid=${uid}`, `--regid=${uid}`, '--clear-groups', '--', 'perl', '-e', ASK, socket, JSON.stringify({ id: 1, verb, params, deadlineMs: 30_000 })])).stdout

  await t.test('only the agent\'s user may ask for changes, and only root beside it for anything', async t => {
    t.match(await asked(AGENT_UID, 'noop', {}), '"result":null')
    t.match(await asked(STRANGER_UID, 'noop', {}), 'Permission denied', 'the socket is the group\'s')
    await chmod(socket, 0o666)
    t.match(await asked(STRANGER_UID, 'noop', {}), /HELPER_REFUSED.*user 64008 may ask nothing/, 'and the kernel is asked who it is')
    await chmod(socket, 0o660)
    t.match(await asked(0, 'fence-revoke', { resource: 'domain a.b', clusterId: 'c', counter: 1 }), /HELPER_REFUSED.*user 0 may not/)
  })

  await t.test('no process of the helper has a socket of the network', async t => {
    for (const pid of [helper.pid, ...(await children(helper.pid ?? 0))]) {
      const sockets = await Promise.all((await readdir(`/proc/${pid}/fd`)).map(async fd => await readlink(`/proc/${pid}/fd/${fd}`).catch(() => '')))
      const { stdout } = await run('ss', ['-Htuwan', '--info', '-p'])
      t.notMatch(stdout, `pid=${pid},`)
      t.ok(sockets.some(link => link.startsWith('socket:')), 'though it has some')
    }
  })

  // from here on as the agent: this test stays root, so the helper is told that root is the agent's user
  const own = createHelperClient({ socketPath: socket, log: pino({ level: 'silent' }), persistent: false })
  clients.push(own)
  t.match(await own.call('hello', {}), { roles: ['gateway', 'storage'], kinds: ['volume', 'tunnel', 'segment', 'frontend', 'cache'] })
  helper.kill('SIGKILL')
  await once(helper, 'exit')
  const second = join(scratch, 'second.yaml')
  await writeFile(second, (await readFile(config, 'utf8')).replace(String(AGENT_UID), '0'))
  const again = spawn(process.execPath, [join(TREE, 'cli', 'main.ts'), 'helper', 'run', '-c', second], { env: { NODE_OPTIONS: '', PATH: '/nonesuch', CACHE_DIRECTORY: '/run/cache' }, stdio: ['ignore', 'ignore', 'inherit'] })
  t.teardown(() => { again.kill('SIGKILL') })
  const make = (): HelperClient => {
    const client = createHelperClient({ socketPath: socket, log: pino({ level: 'silent' }) })
    clients.push(client)
    while (clients.length > 6) clients.shift()?.close()
    return client
  }
  const client = make()
  await client.ready(AbortSignal.timeout(60_000))

  await t.test('segments keep the contract through the socket', async t => {
    await driverContract(t, {
      make: () => driverOverSocket(make(), 'segment'),
      specs: { name: 'c1.segment', spec: segment(0x701, 7), changed: { ...segment(0x701, 8) }, second: { name: 'c2.segment', spec: segment(0x702, 9) } },
      identity: async () => (await run('ip', ['-n', 'mz-000701', '-o', 'link', 'show'])).stdout,
      breaks: { 'the namespace is gone': async () => { await run('ip', ['netns', 'delete', 'mz-000701']) } },
      abortAfterMs: [5, 40]
    })
  })

  await t.test('volumes keep the contract through the socket', async t => {
    await driverContract(t, {
      make: () => driverOverSocket(make(), 'volume'),
      specs: { name: 'c1.data', spec: volume('data', 64), changed: { ...volume('data', 64), allow: [] }, second: { name: 'c2.more', spec: volume('more', 32) } },
      abortAfterMs: [20]
    })
  })

  await t.test('what belongs to no object is found, and swept', async t => {
    await run('ip', ['link', 'add', 'name', 'mzt00099901', 'type', 'bridge'])
    await run('ip', ['link', 'add', 'name', 'other0', 'type', 'bridge'])
    await run('nft', ['add', 'table', 'inet', 'mz_old'])
    await run('nft', ['add', 'table', 'inet', 'other'])
    await run('ip', ['netns', 'add', 'mz-000999'])
    await run('ip', ['netns', 'add', 'other'])
    const claim = { clusterId: 'c1', counter: 2_000_000_000, endMs: Date.now() + 3_600_000 }
    await make().call('apply', { kind: 'segment', name: 'c3.segment', spec: segment(0x703, 6), claim })
    const owned = JSON.parse(await cli('host', 'owned', '--json')) as { objects: Array<{ name: string, state: string | null }>, orphans: Array<{ what: string, name: string }> }
    t.match(owned.objects, [{ name: 'c3.segment', state: 'granted' }, { name: 'orphan-000999', state: null }])
    t.strictSame(owned.orphans, [{ what: 'link', name: 'mzt00099901' }, { what: 'nft table', name: 'inet mz_old' }])
    t.match(await cli('host', 'sweep', '--dry-run'), /would go +segment orphan-000999\nwould go +link mzt00099901/)
    t.match(await cli('host', 'sweep'), /removed +segment orphan-000999/)
    t.match(await cli('host', 'sweep'), /nothing to sweep/)
    const left = (await run('ip', ['-o', 'link', 'show'])).stdout + (await run('ip', ['netns', 'list'])).stdout + (await run('nft', ['list', 'tables'])).stdout
    t.notMatch(left, /mzt00099901|mz-000999|mz_old/)
    for (const stays of ['other0', 'other', 'inet other', 'mz-000703', 'mz_guard']) t.match(left, stays)
  })
}

async function children (pid: number): Promise<number[]> {
  const { stdout } = await run('ps', ['--no-headers', '-o', 'pid=', '--ppid', String(pid)], { okCodes: [1] })
  return stdout.split('\n').map(Number).filter(one => one > 0)
}
