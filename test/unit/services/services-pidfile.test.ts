import t from 'tap'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createPidfileServices } from '../../../agent/services/pidfile.ts'
import { bootId, parseStat, readProcess } from '../../../agent/services/proc.ts'
import { fingerprint } from '../../../agent/fingerprint.ts'
import { eventually, servicesContract } from '../../contract/services.ts'

const spec = { argv: ['sleep', '600'] }

t.test('contract', t => {
  const dir = t.testdir()
  servicesContract(t, { create: () => createPidfileServices({ dir: join(dir, 'services') }), dir })
  t.end()
})

t.test('a stat line is parsed whatever the command is called', t => {
  const rest = Array.from({ length: 49 }, (_, index) => index + 4)
  t.match(parseStat(`12 (a) b (c)) S ${rest.join(' ')}`), { pid: 12, state: 'S', threads: 20, parent: 4, session: 6, startTicks: '22' })
  t.equal(parseStat(''), null)
  t.equal(parseStat('12 (x'), null)
  t.equal(parseStat('12 (x) S 1 2'), null)
  t.equal(parseStat('x (x) S 1 2 3'), null)
  t.end()
})

t.test('a zombie is dead', async t => {
  // the shell execs a program that never waits for the child it has
  const parent = spawn('sh', ['-c', 'sleep 0 & echo $!; exec sleep 600'], { stdio: ['ignore', 'pipe', 'ignore'] })
  t.teardown(() => { parent.kill('SIGKILL') })
  const [line] = await once(parent.stdout, 'data') as [Buffer]
  const pid = Number(line.toString())
  await eventually('it is a zombie', async () => (await readFile(`/proc/${pid}/stat`, 'utf8')).includes(') Z '))
  t.equal(readProcess(pid), null)
})

t.test('a process lives until its last thread has ended, as that holds its port', async t => {
  // SIGKILL ends all threads of tgtd, not at once; here the second outlives the first for long enough to look
  const perl = 'use Socket; socket my $s, PF_INET, SOCK_STREAM, 0; bind $s, sockaddr_in(PORT, INADDR_LOOPBACK) or die $!; listen $s, 1; print STDERR sockaddr_in(getsockname $s), qq(\n); ' +
    'threads->create(sub { sleep 60 }); syscall EXIT, 0'
  const program = (port: number): string[] => ['perl', '-Mthreads', '-e', perl.replace('PORT', String(port)).replace('EXIT', process.arch === 'arm64' ? '93' : '60')]
  const dir = t.testdir()
  const services = createPidfileServices({ dir })
  t.teardown(() => services.stop('threads'))
  const { pid } = await services.ensure('threads', { argv: program(0) })
  await eventually('its first thread has ended', async () => (await readFile(`/proc/${pid}/stat`, 'utf8')).includes(') Z '))
  const port = Number((await readFile(join(dir, 'threads.log'), 'latin1')).match(/^\d+/)?.[0])
  t.match(await services.status('threads'), { running: true, pid })
  t.match(await services.ensure('threads', { argv: program(port) }), { running: true }, 'its port is free for the next one, which would have ended at once')
})

t.test('a process whose record was lost in a crash is found and adopted', async t => {
  const dir = t.testdir()
  const started = await createPidfileServices({ dir }).ensure('lost', spec)
  const services = createPidfileServices({ dir })
  t.teardown(() => services.stop('lost'))
  const path = join(dir, 'lost.json')
  for (const [what, text] of [
    ['only the intent', JSON.stringify({ fingerprint: started.fingerprint, bootId: bootId(), pid: null, startTicks: null })],
    ['nothing at all', null],
    ['half a record', '{"fingerp'],
    ['nonsense', '[1,2]']
  ] as const) {
    if (text === null) await rm(path)
    else await writeFile(path, text)
    t.same(await services.list(), [started], what)
    t.same(await services.ensure('lost', spec), started, what)
  }
})

t.test('a program that overwrites its environment is known by its output', async t => {
  const dir = t.testdir()
  const services = createPidfileServices({ dir })
  t.teardown(() => services.stop('nameless'))
  // `env -i` stands for it: the main process keeps pid and output and has no marker
  const wiped = { argv: ['env', '-i', 'sleep', '600'] }
  const started = await services.ensure('nameless', wiped)
  await writeFile(join(dir, 'nameless.json'), JSON.stringify({ fingerprint: fingerprint(wiped), bootId: bootId(), pid: null, startTicks: null }))
  t.same(await createPidfileServices({ dir }).ensure('nameless', wiped), started)
})

t.test('a pid that belongs to somebody else now is not touched', async t => {
  const dir = t.testdir()
  const foreign = spawn('sleep', ['600'], { stdio: 'ignore' })
  t.teardown(() => { foreign.kill('SIGKILL') })
  const pid = foreign.pid ?? 0
  const now = readProcess(pid)
  const services = createPidfileServices({ dir })
  for (const record of [
    { fingerprint: fingerprint(spec), bootId: bootId(), pid, startTicks: '1' },
    { fingerprint: fingerprint(spec), bootId: 'another boot', pid, startTicks: now?.startTicks }
  ]) {
    await mkdir(dir, { recursive: true })
    await writeFile(join(dir, 'reused.json'), JSON.stringify(record))
    t.match(await services.status('reused'), { running: false, pid: null })
    const started = await services.ensure('reused', spec)
    t.not(started.pid, pid)
    await services.stop('reused')
    t.ok(readProcess(pid), 'the foreign process lives')
  }
})

t.test('a process of another user cannot pass for a service, nor have a file written', { skip: process.getuid?.() === 0 ? false : 'needs root' }, async t => {
  const dir = join(t.testdir({ services: {}, elsewhere: {} }), 'services')
  const services = createPidfileServices({ dir })
  t.teardown(() => services.stop('mine'))
  await services.ensure('mine', spec)
  const strangers = ['tgtd', '../elsewhere/victim'].map(name => spawn('sleep', ['60'], {
    detached: true, uid: 65534, gid: 65534, stdio: 'ignore', env: { PATH: process.env['PATH'] ?? '', MUSUBI_SERVICE: `${dir}/${name}`, MUSUBI_SERVICE_SPEC: 'text', MUSUBI_SERVICE_KEY: '' }
  }))
  t.teardown(() => { for (const one of strangers) one.kill('SIGKILL') })
  await Promise.all(strangers.map(async one => { if (one.pid === undefined) await once(one, 'spawn') }))
  t.same((await services.list()).map(({ name }) => name), ['mine'])
  t.notOk((await services.status('tgtd')).running)
  t.same(await readdir(join(dir, '..', 'elsewhere')), [])
})

t.test('the same name in another folder is another service', async t => {
  const dir = t.testdir()
  const one = createPidfileServices({ dir: join(dir, 'one') })
  const two = createPidfileServices({ dir: join(dir, 'two') })
  t.teardown(async () => { await one.stop('same'); await two.stop('same') })
  const first = await one.ensure('same', spec)
  const second = await two.ensure('same', spec)
  t.not(first.pid, second.pid)
  await two.stop('same')
  t.same(await one.list(), [first])
})

t.test('the log is cut when it has grown', async t => {
  const dir = t.testdir()
  const services = createPidfileServices({ dir })
  t.teardown(() => services.stop('loud'))
  await services.ensure('loud', spec)
  await writeFile(join(dir, 'loud.log'), Buffer.alloc(5 * 1024 * 1024), { flag: 'a' })
  await services.ensure('loud', spec)
  t.equal((await readFile(join(dir, 'loud.log'))).length, 0)
  await services.stop('loud')
  t.same(await readdir(dir), ['.key'])
})

t.test('services outlive the process that started them', async t => {
  const dir = t.testdir()
  const services = createPidfileServices({ dir })
  t.teardown(() => services.stop('survivor'))
  const script = `
    import { createPidfileServices } from ${JSON.stringify(new URL('../../../agent/services/pidfile.ts', import.meta.url).href)}
    await createPidfileServices({ dir: ${JSON.stringify(dir)} }).ensure('survivor', ${JSON.stringify(spec)})
    process.kill(process.pid, 'SIGKILL')`
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: 'inherit' })
  t.same(await once(child, 'exit'), [null, 'SIGKILL'])
  const found = await services.status('survivor')
  t.ok(found.running)
  t.same(await services.ensure('survivor', spec), found)
})
