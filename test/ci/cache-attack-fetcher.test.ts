import { execFile, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { appendFile, mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { dirname, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { promisify } from 'node:util'
import { gzipSync } from 'node:zlib'
import t from 'tap'
import type { Test } from 'tap'
import { storedBytes } from '../../agent/drivers/cache/account/accounting.ts'
import { above } from '../../agent/drivers/cache/nginx-conf.ts'

// What a frontend or a node says to the programs beside the engine, to make them large, slow, or wrong. They need no privileges here.
const FETCHER = join(import.meta.dirname, '../../agent/drivers/cache/fetcher')
const INDEX = join(FETCHER, 'index.pl')
/** Debian's own, which every host has. */
const PERL = 'perl'
const SHA = 'a'.repeat(64)
const MIB = 1024 * 1024
/** What reads an index may take: it streams. */
const MEMORY_KIB_MAX = 64 * 1024
const run = promisify(execFile)

interface Ran { code: number, stdout: string, stderr: string, kib: number }

/** Runs a program of the fetcher's; `kib` is the most memory that it had. */
async function perl (args: readonly string[]): Promise<Ran> {
  const last = 'END { if (open my $f, "<", "/proc/$$/status") { while (<$f>) { print STDERR "peak $1\\n" if /^VmHWM:\\s+(\\d+)/ } } }'
  const found = await run('perl', ['-e', `${last} my $p = shift; $0 = $p; do $p; print STDERR $@ and exit 9 if $@`, ...args], { timeout: 60_000, maxBuffer: 256 * MIB })
    .then(({ stdout, stderr }) => ({ code: 0, stdout, stderr }), (error: unknown) => ({ code: -1, stdout: '', stderr: '', ...error as Partial<Ran> }))
  return { ...found, kib: Number(/peak (\d+)/.exec(found.stderr)?.[1] ?? Number.NaN) }
}

/** The engine's own word on a list: whether it starts with it. */
async function engineTakes (t: Test, map: string): Promise<boolean> {
  const dir = t.testdir({ 'listed.map': map })
  await writeFile(join(dir, 'conf'), `pid ${dir}/pid; error_log stderr; events {}
http { access_log off; map_hash_max_size 262144; map_hash_bucket_size 1024; map "$uri" $x { default ""; include ${dir}/listed.map; }
server { listen 127.0.0.1:1; location / { return 200 $x; } } }`)
  return await run('nginx', ['-t', '-c', join(dir, 'conf'), '-e', 'stderr'], { timeout: 30_000 }).then(() => true, () => false)
}

const listed = async (t: Test, paths: readonly string[]): Promise<string[]> => {
  const dir = t.testdir({ list: paths.map(path => `${path}\t1\t${SHA}\n`).join('') })
  const { stdout, code } = await perl([INDEX, 'listed', join(dir, 'denied'), '80', '', join(dir, 'list')])
  t.equal(code, 0)
  return stdout.split('\n').slice(0, -1)
}

t.test('an index that unpacks to anything is given up, not held', async t => {
  const zeros = gzipSync(Buffer.alloc(256 * MIB), { level: 1 })
  const dir = t.testdir()
  await writeFile(join(dir, 'bomb.gz'), zeros)
  for (const kind of ['repomd', 'primary', 'release', 'packages', 'manifest']) {
    const { code, kib } = await perl([INDEX, kind, join(dir, 'bomb.gz')])
    t.not(code, 0, kind)
    t.ok(kib < MEMORY_KIB_MAX, `${kind}: ${kib} KiB`)
  }
  // what has ends is read on, and still not held
  const many = `Package: a\nFilename: pool/a.deb\nSize: 3\nSHA256: ${SHA}\nDescription: ${'d'.repeat(2_000)}\n\n`.repeat(50_000)
  await writeFile(join(dir, 'many.gz'), gzipSync(many, { level: 1 }))
  const { code, kib, stdout } = await perl([INDEX, 'packages', join(dir, 'many.gz')])
  t.equal(code, 0)
  t.equal(stdout.split('\n').length, 50_001)
  t.ok(kib < MEMORY_KIB_MAX, `${kib} KiB`)
})

t.test('no list keeps the engine from starting', async t => {
  const long = await listed(t, [`/${'+'.repeat(400)}`, '/plain.rpm'])
  t.same(long, [`"80:/${'+'.repeat(400)}" "${SHA} 80:/${'+'.repeat(400)}";`, `"80:/plain.rpm" "${SHA} 80:/plain.rpm";`], 'the spelling that is too long to be asked for is left out')
  t.ok(await engineTakes(t, `${long.join('\n')}\n`))
  // all have one value in nginx's hash, as ~ after a and _ after b do not differ there; of ~ there is another spelling
  const alike = Array.from({ length: 8_192 }, (_, i) => `/${Array.from({ length: 13 }, (_, bit) => i >> bit & 1 ? 'a~' : 'b_').join('')}`)
  const kept = await listed(t, [...alike, '/plain.rpm'])
  t.ok(kept.filter(line => !line.includes('%')).length <= 65, 'of those that fall together few are listed')
  t.match(kept.at(-1), '"80:/plain.rpm"')
  t.ok(await engineTakes(t, `${kept.join('\n')}\n`))
  const usual = Array.from({ length: 50_000 }, (_, i) => `/install/Packages/lib-${i}.x86_64.rpm`)
  t.equal((await listed(t, usual)).length, usual.length, 'names of packages are far from that')
  const many = await listed(t, Array.from({ length: 100_500 }, (_, i) => `/install/Packages/lib-${i}.x86_64.rpm`))
  t.equal(many.length, 100_000, 'of more than it takes some are listed: no list at all would leave an old one')
})

t.test('no manifests make the fetcher hold more than the engine has a list for', async t => {
  const dir = t.testdir()
  for (const i of [1, 2, 3]) await writeFile(join(dir, `list${i}`), Array.from({ length: 60_000 }, (_, n) => `/o/${i}/${n}\t1\t${SHA}\n`).join(''))
  const script = `use lib '${FETCHER}'; use Ahead; my $a = Ahead->new(log => '/nonexistent', slice => 1, ports => {}, listed => sub {});
    for my $i (1, 2, 3) { $a->manifest(80, "m$i", ["${dir}/list$i"]) } print scalar(keys %{$a->{place}}), "\\n"; $a->manifest(80, 'm1', []); $a->manifest(80, 'm3', ["${dir}/list3"]); print scalar(keys %{$a->{place}}), "\\n";`
  t.equal((await run('perl', ['-e', script])).stdout, '100000\n100000\n', 'and there is room again when one goes')
})

t.test('bytes of a store are those of a folder, not of what a link in its place leads to', async t => {
  const dir = t.testdir({ store: { a: 'xyz' }, link: t.fixture('symlink', 'store') })
  t.equal(await storedBytes(join(dir, 'store')), 3)
  t.equal(await storedBytes(join(dir, 'link')), 0)
  t.equal(await storedBytes(join(dir, 'none')), 0)
})

t.test('lengths that are too large are told by their digits', t => {
  for (const least of [9, 4_194_304, 16_777_216, 8_589_934_592, 134_217_728, 1_099_511_627_776]) {
    const pattern = new RegExp(`^(?:${above(least).replaceAll('\\\\', '\\')})$`)
    for (const near of [0, 1, least - 1, least]) t.notMatch(String(near), pattern)
    for (const near of [least + 1, least + 9, least * 2, least * 10, 1e15]) t.match(String(near), pattern)
    t.match(`00${least + 1}`, pattern)
    t.notMatch('', pattern)
  }
  t.end()
})

const LOG_SCRIPT = `use lib '${FETCHER}'; use Ahead; my ($log, $list) = @ARGV; my @told;
my $a = Ahead->new(log => $log, slice => 4194304, ports => { 80 => 1 }, listed => sub { push @told, "@_" }, denied => sub { push @told, "denied @_" });
$a->manifest(80, 'm', [$list]); $| = 1; print "ready\\n"; $a->look while <STDIN>;
my $first = $a->next; $first->{done}->({ %$first, error => undef, store => 'MISS', way => 'listed', bytes => 1 }) if $first;
print scalar(@{$a->{objects_queue}}), "\\n", $first ? "$first->{path} $first->{range}" : '-', "\\n", join(';', @told), "\\n";`

/** What the fetcher makes of lines of the engine's log. */
async function ahead (t: Test, lines: readonly string[], objects: readonly string[] = []): Promise<{ queued: number, first: string, told: string }> {
  const dir = t.testdir({ log: '', list: objects.map(path => `${path}\t1\t${SHA}\n`).join('') })
  const child = run('perl', ['-e', LOG_SCRIPT, join(dir, 'log'), join(dir, 'list')], { timeout: 60_000 })
  const { stdin, stdout } = child.child
  if (stdout !== null) await once(stdout, 'data')
  await appendFile(join(dir, 'log'), lines.map(line => `${line}\n`).join(''))
  stdin?.end('\n'.repeat(20))
  const [, queued = '', first = '', told = ''] = (await child).stdout.split('\n')
  return { queued: Number(queued), first, told }
}

t.test('what nodes ask for is fetched ahead only where it is kept, and never more than can be', async t => {
  const part = (way: string): string => `80\tfe\t/x.iso\tbytes 0-4194303/99999999\t${way}\tMISS\t`
  t.equal((await ahead(t, [part('dynamic')])).first, '-', 'a dynamic answer is its node\'s alone')
  t.equal((await ahead(t, [part('validated')])).first, '/x.iso 8388608-12582911')
  const objects = Array.from({ length: 9_000 }, (_, i) => `/o/${i}`)
  const flood = Array.from({ length: 4_000 }, (_, i) => `80\tfe\t/o/${i * 7919 % 9_000}\t\tlisted\t\t${SHA}`)
  const { queued, told } = await ahead(t, flood, objects)
  t.ok(queued > 1_000 && queued <= 4_096, `${queued} are waiting`)
  t.match(told, new RegExp(`^denied 80 /o/\\d+ ${SHA} 1$`), 'what was fetched ahead is compared with its digest, as what nodes fetch is')
})

t.test('an index that is gone, or can no longer be read, is believed no more, also after a clock is set back', async t => {
  const dir = t.testdir({ engine: {}, orders: { 'profile.tsv': 'follow\tmanifest\t80\t/install/m.json\n' } })
  const sha = createHash('sha256').update('x').digest('hex')
  const good = JSON.stringify({ objects: [{ path: '/install/a.rpm', size: 1, sha256: sha }] })
  let answer: { status: number, body: string } = { status: 200, body: good }
  let asked = 0
  const server = createServer((request, response) => {
    asked++
    t.equal(request.headers.host, '10.42.0.1')
    response.writeHead(answer.status, { 'content-length': answer.body.length, 'x-musubi-store': 'validated MISS' }).end(answer.body)
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => server.close())
  const engine = join(dir, 'engine')
  await writeFile(join(engine, 'listed.map'), `"80:/old.rpm" "${SHA} 80:/old.rpm";\n`)
  const program = join(dir, 'fetcher', 'main.pl')
  await mkdir(dirname(program))
  // its minute is a second here
  for (const file of ['main.pl', 'Ahead.pm', 'Clock.pm', 'Http.pm', 'Indexes.pm', 'Orders.pm', 'index.pl']) {
    const text = await readFile(join(FETCHER, file), 'utf8')
    await writeFile(join(dir, 'fetcher', file), text.replace('AGAIN_SECONDS => 60', 'AGAIN_SECONDS => 0.5').replace('RETRY_SECONDS => 1', 'RETRY_SECONDS => 0.5').replace('BUSY_SECONDS => 5', 'BUSY_SECONDS => 0.5'))
  }
  // two seconds after it begins a day is taken back from what tells the time of day
  await writeFile(join(dir, 'fetcher', 'Jump.pm'), `package Jump; use strict; use warnings; require Time::HiRes; my $real = \\&Time::HiRes::time; my $begun = $real->();
    no warnings 'redefine'; *Time::HiRes::time = sub () { my $now = $real->(); return $now - $begun > 2 ? $now - 86_400 : $now }; 1;\n`)
  const child = execFile(PERL, [`-I${dirname(program)}`, '-MJump', program, engine, join(dir, 'orders'), '4194304', '10.42.0.1', `80:${(server.address() as AddressInfo).port}`])
  t.teardown(() => { child.kill('SIGKILL') })
  const map = async (): Promise<string> => await readFile(join(engine, 'listed.map'), 'utf8').catch(() => 'none')
  const becomes = async (what: string, holds: (text: string) => boolean): Promise<void> => {
    for (let tries = 0; tries < 150; tries++) {
      if (holds(await map())) return void t.pass(what)
      await delay(100)
    }
    t.fail(`${what}: ${await map()}`)
  }
  await becomes('it is listed, and what an earlier one left is not', text => text.includes('/install/a.rpm') && !text.includes('/old.rpm'))
  answer = { status: 502, body: '' }
  await delay(2_000)
  t.match(await map(), '/install/a.rpm', 'a frontend that cannot be reached has taken nothing back')
  answer = { status: 404, body: '' }
  await becomes('withdrawn with its index', text => text === '')
  answer = { status: 200, body: good }
  await becomes('listed again', text => text.includes('/install/a.rpm'))
  answer = { status: 200, body: '{"objects":' }
  await becomes('withdrawn when it is broken', text => text === '')
  answer = { status: 200, body: good }
  await becomes('and back', text => text.includes('/install/a.rpm'))
  await rm(join(engine, 'listed.map'))
  await becomes('and made again when somebody takes it away', text => text.includes('/install/a.rpm'))
  t.ok(asked > 5)
  // as an engine of which each worker still serves somebody
  const master = spawn('sh', ['-c', 'for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 60 & done; wait'], { detached: true, stdio: 'ignore' })
  const group = -(master.pid ?? Number.NaN)
  t.teardown(() => { process.kill(group, 'SIGKILL') })
  for (let tries = 0; tries < 100 && (await readFile(`/proc/${-group}/task/${-group}/children`, 'utf8')).split(' ').length < 12; tries++) await delay(100)
  await writeFile(join(engine, 'nginx.pid'), `${-group}\n`)
  const other = good.replace('a.rpm', 'b.rpm')
  answer = { status: 200, body: other }
  await delay(3_000)
  t.notMatch(await map(), '/install/b.rpm', 'no further worker while there are so many')
  t.equal(master.exitCode, null)
  await rm(join(engine, 'nginx.pid'))
  await becomes('and later it is', text => text.includes('/install/b.rpm'))
  child.kill('SIGKILL')
})
