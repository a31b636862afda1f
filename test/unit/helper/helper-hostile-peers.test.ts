/**
 * Who is not the agent, against a real helper in a process of its own: another user, whether or not
 * the mode of the socket lets it in, and root. And counters that are stale, for every verb that
 * changes something.
 */
import { execFile } from 'node:child_process'
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import type { Test } from 'tap'
import { VERBS, type VerbName } from '../../../agent/helper/wire/verbs.ts'
import type { FenceRecord } from '../../../protocol/core/fence/fence.ts'
import { connectRaw, startBench } from '../../helper-bench.ts'
import { startHelperProcess } from '../../helper-process.ts'
import { SAMPLES } from '../../helper-samples.ts'

t.setTimeout(60_000)
const root = process.getuid?.() === 0
const AGENT = 64_000
const OTHER = 64_001
const HOUR = 3_600_000

const domain = SAMPLES.find(one => one.kind === 'domain')
if (domain === undefined) throw new Error('no sample of a domain')
const RESOURCE = `domain ${domain.name}`
const claim = (counter: number): object => ({ clusterId: 'c1', counter, endMs: Date.now() + HOUR })
/** A call of every verb, at a counter where there is one. */
const callOf = (verb: VerbName, counter: number): object => {
  switch (verb) {
    case 'observe': return { kind: 'domain' }
    case 'apply': return { ...domain, claim: claim(counter) }
    case 'remove': return { kind: 'domain', name: domain.name, claim: { clusterId: 'c1', counter } }
    case 'fence-grant': return { resource: RESOURCE, claim: claim(counter) }
    case 'fence-revoke': return { resource: RESOURCE, clusterId: 'c1', counter }
    case 'fence-gone': return { resource: RESOURCE, counter }
    case 'detail': return { kind: 'domain', name: domain.name }
    case 'segment-ping': return { vni: 1, address: '10.42.255.2' }
    case 'segment-look': return { name: 'demo' }
    case 'segment-echo': return { name: 'demo', where: 'segment', address: '10.42.255.2', bytes: 1500, count: 1, largest: false }
    case 'segment-capture': return { kind: 'segment', name: 'demo', port: 'node', count: 1, seconds: 1, snapBytes: 64, filter: {} }
    case 'cache-preheat': return { name: 'a.cache', order: 'mine', objects: [{ path: '/a' }] }
    case 'cache-cancel': return { name: 'a.cache', order: 'mine' }
    case 'cache-list': case 'cache-purge': return { name: 'a.cache' }
    case 'sweep': return { keep: [], dryRun: false }
    default: return {}
  }
}
const VERB_NAMES = Object.keys(VERBS) as VerbName[]
const frames = (verbs: readonly VerbName[]): string => Buffer.concat(verbs.map((verb, i) => {
  const body = Buffer.from(JSON.stringify({ id: i + 1, verb, params: callOf(verb, 5), deadlineMs: 5_000 }))
  const header = Buffer.alloc(4)
  header.writeUInt32BE(body.length)
  return Buffer.concat([header, body])
})).toString('hex')

/** Run as another user, whom nothing but the socket of this machine is open to: perl is on every Debian. */
const TALK = `use Socket; socket(my $s, PF_UNIX, SOCK_STREAM, 0) or die; connect($s, sockaddr_un($ARGV[0])) or do { print "connect: $!"; exit };
syswrite($s, pack("H*", $ARGV[1])); my $all = ""; my $want = $ARGV[2];
while (1) { my $r = ""; vec($r, fileno($s), 1) = 1; last unless select($r, undef, undef, 10); my $n = sysread($s, my $part, 65536); last unless $n; $all .= $part;
  my ($at, $count) = (0, 0); while (length($all) >= $at + 4) { my $l = unpack("N", substr($all, $at, 4)); last if length($all) < $at + 4 + $l; $at += 4 + $l; $count++ } last if $count >= $want }
my $at = 0; while (length($all) >= $at + 4) { my $l = unpack("N", substr($all, $at, 4)); print substr($all, $at + 4, $l), "\\n"; $at += 4 + $l }`

interface Reply { id: number | null, result?: unknown, error?: { code: string } }

/** What a user is answered, frame by frame; or why it cannot connect. */
async function talkAs (uid: number, gid: number, path: string, verbs: readonly VerbName[], answers: number): Promise<Reply[] | string> {
  const { stdout } = await promisify(execFile)('setpriv', [`--reuid=${uid}`, `--regid=${gid}`, '--clear-groups', '--', 'perl', '-e', TALK, path, frames(verbs), String(answers)], { cwd: '/' })
  return stdout.startsWith('connect: ') ? stdout : stdout.split('\n').filter(line => line !== '').map(line => JSON.parse(line) as Reply)
}

async function startReal (t: Test): Promise<{ path: string }> {
  const dir = await mkdtemp(join(tmpdir(), 'mzp-'))
  // the folders are the helper's; the way to its socket is open to all, as on a host
  await chmod(dir, 0o755)
  const file = join(dir, 'agent.yaml')
  const helper = { socket: join(dir, 'run', 'sock'), stateDir: join(dir, 'state'), agentUser: AGENT }
  await writeFile(file, JSON.stringify({ name: 'h1', site: 'tokyo', roles: ['compute'], listen: ['/ip4/127.0.0.1/tcp/0'], underlayAddress: '127.0.0.1', stateDir: dir, runDir: dir, drivers: 'fake', helper }))
  const running = await startHelperProcess(file)
  t.teardown(async () => {
    await running.kill()
    await rm(dir, { recursive: true, force: true })
  })
  return { path: helper.socket }
}

t.test('the kernel tells users apart', { skip: root ? false : 'needs root to be somebody else' }, async t => {
  const { path } = await startReal(t)
  const observed = async (): Promise<unknown> => {
    const [answer] = await talkAs(AGENT, AGENT, path, ['observe'], 1) as Reply[]
    return answer?.result
  }

  await t.test('another user does not get in', async t => {
    t.match(await talkAs(OTHER, OTHER, path, ['noop'], 1), /^connect: Permission denied/)
  })
  await t.test('another user of the agent\'s group is refused before anything is read, however much it sends', async t => {
    const answers = await talkAs(OTHER, AGENT, path, VERB_NAMES, 99)
    t.match(answers, [{ id: null, error: { code: 'HELPER_REFUSED' } }])
    t.equal(answers.length, 1)
    t.strictSame(await observed(), [])
  })
  await t.test('many of them do not keep the agent out for long', async t => {
    const all = await Promise.all(Array.from({ length: 12 }, () => talkAs(OTHER, AGENT, path, VERB_NAMES, 99)))
    // those that found no place were closed without a word
    for (const answers of all) t.notOk(typeof answers !== 'string' && answers.some(answer => answer.result !== undefined))
    t.strictSame(await observed(), [])
  })
  await t.test('root may look and clean, and nothing else', async t => {
    const answers = await talkAs(0, 0, path, VERB_NAMES, VERB_NAMES.length) as Reply[]
    t.equal(answers.length, VERB_NAMES.length)
    for (const [i, verb] of VERB_NAMES.entries()) {
      const answer = answers.find(one => one.id === i + 1)
      if (VERBS[verb].access === 'change') t.equal(answer?.error?.code, 'HELPER_REFUSED', verb)
      // pretended drivers have no segments and no caches: asked they were
      else if (verb.startsWith('segment-') || verb.startsWith('cache-')) t.equal(answer?.error?.code, 'NOT_FOUND', verb)
      else t.equal(answer?.error, undefined, verb)
    }
    t.strictSame(await observed(), [])
  })
  await t.test('the agent may do everything but listen to guests', async t => {
    t.match(await talkAs(AGENT, AGENT, path, ['segment-capture'], 1), [{ id: 1, error: { code: 'HELPER_REFUSED', hint: 'only root may' } }])
    const [answer] = await talkAs(AGENT, AGENT, path, ['apply'], 1) as Reply[]
    t.strictSame(answer, { id: 1, result: null })
    t.match(await observed(), [{ name: domain.name }])
  })
})

t.test('a counter that is stale changes nothing, whatever the verb, and over a restart', async t => {
  const bench = await startBench(t)
  const counters = VERB_NAMES.filter(verb => JSON.stringify(callOf(verb, 77)).includes('"counter":77'))
  t.strictSame(counters.sort(), ['apply', 'fence-gone', 'fence-grant', 'fence-revoke', 'remove'], 'all verbs with a counter')
  const ask = async (verb: VerbName, counter: number): Promise<Reply> => {
    const raw = await connectRaw(t, bench.socket)
    raw.send({ id: 1, verb, params: callOf(verb, counter), deadlineMs: 5_000 })
    const answer = await raw.next()
    raw.socket.destroy()
    if (answer === null) throw new Error('no answer')
    return answer
  }
  const records = async (): Promise<FenceRecord[]> => (await ask('fence-records', 0)).result as FenceRecord[]

  // what stands was granted at 10, and what was revoked at 20
  for (const state of ['granted', 'revoking'] as const) {
    t.strictSame(await ask('apply', state === 'granted' ? 10 : 15), { id: 1, result: null })
    if (state === 'revoking') t.strictSame(await ask('fence-revoke', 20), { id: 1, result: null })
    for (const restarted of [false, true]) {
      if (restarted) await bench.restart()
      const before = JSON.stringify([await records(), await bench.standing(), bench.calls])
      for (const verb of counters) {
        for (const stale of [0, 1, 9]) {
          const answer = await ask(verb, stale)
          // to say late that something is gone is no error, and tells nothing
          if (verb === 'fence-gone') t.ok(answer.result === null || ['STALE_COUNTER', 'RESOURCE_HELD'].includes(answer.error?.code ?? ''), `${state} fence-gone ${stale}`)
          else t.equal(answer.error?.code, 'STALE_COUNTER', `${state}${restarted ? ', restarted' : ''}: ${verb} at ${stale}`)
        }
      }
      t.equal(JSON.stringify([await records(), await bench.standing(), bench.calls]), before, `${state}: nothing has changed`)
    }
  }
})
