import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import t, { type Test } from 'tap'
import { run } from '../../agent/exec.ts'
import { adoptPod, startPod, stopPod } from '../../lab/pod.ts'
import { allPids, argvOf, isAlive, namespaceOf, processesOfPod, processRef, until, waitGone } from '../../lab/process.ts'

const skip = process.getuid?.() === 0 ? false : 'needs root to make namespaces'

/** A short folder below /tmp, as a lab has. */
async function folder (t: Test): Promise<string> {
  const dir = await mkdtemp('/tmp/mzpod-')
  t.teardown(() => rm(dir, { recursive: true, force: true }))
  return dir
}

/** Processes whose arguments name the folder: everything of its pods. */
async function processesNaming (dir: string): Promise<string[]> {
  const all = await Promise.all((await allPids()).map(async pid => ({ pid, argv: await argvOf(pid) })))
  return all.filter(p => p.pid !== process.pid && p.argv.some(arg => arg.startsWith(dir))).map(p => p.argv.join(' '))
}

t.test('a pod has a name, links, processes and files of its own', { skip }, async t => {
  const dir = await folder(t)
  const before = { etc: existsSync('/etc/musubi'), lib: existsSync('/var/lib/musubi'), run: await readdir('/run') }
  await using pod = await startPod({ name: 'alpha-1', dir: join(dir, 'a') })
  const out = async (...argv: string[]): Promise<string> => (await pod.exec(argv)).stdout.trim()
  t.equal(await out('hostname'), 'alpha-1')
  t.equal(await out('ls', '/sys/class/net'), 'lo', '/sys shows the network of the pod')
  t.match(await out('ip', '-brief', 'link', 'show', 'lo'), /UP/)
  t.ok((await processesOfPod(pod.pid)).some(p => p.innerPid === 1))
  t.not(await namespaceOf(pod.pid, 'ipc'), await namespaceOf(process.pid, 'ipc'))

  await writeFile(pod.path('/etc/musubi/agent.yaml'), 'name: alpha-1\n')
  t.equal(await out('cat', '/etc/musubi/agent.yaml'), 'name: alpha-1')
  await pod.exec(['sh', '-c', 'mkdir -p /run/musubi && echo x > /run/musubi/x && echo y > /etc/y && mkdir /var/lib/z && chmod 1777 /tmp'])
  t.equal(await readFile(pod.path('/run/musubi/x'), 'utf8'), 'x\n')
  t.same({ etc: existsSync('/etc/musubi'), lib: existsSync('/var/lib/musubi'), run: await readdir('/run') }, before, 'the machine keeps its own')
  t.notOk(existsSync('/etc/y') || existsSync('/var/lib/z'))
  t.throws(() => pod.path('/usr/bin/env'), { code: 'INVALID_INPUT' })
  t.throws(() => pod.path('/run/../etc/passwd'), { code: 'INVALID_INPUT' })
  t.equal(await out('ls', '-d', '/dev/net/tun'), '/dev/net/tun')
})

t.test('pods with namespaces of the same name do not meet, and the machine sees none', { skip }, async t => {
  const dir = await folder(t)
  await using a = await startPod({ name: 'a', dir: join(dir, 'a') })
  await using b = await startPod({ name: 'b', dir: join(dir, 'b') })
  for (const pod of [a, b]) {
    await pod.exec(['ip', 'netns', 'add', 'mz-000001'])
    await pod.exec(['ip', 'link', 'add', 'mzb000001', 'type', 'bridge'])
    await pod.exec(['ip', 'link', 'add', 'br0', 'type', 'bridge'], { netns: 'mz-000001' })
  }
  await b.exec(['ip', 'netns', 'del', 'mz-000001'])
  t.match((await a.exec(['ip', '-brief', 'link'], { netns: 'mz-000001' })).stdout, /br0/)
  t.equal((await b.exec(['ip', 'netns', 'list'])).stdout, '')
  t.notMatch((await run('ip', ['netns', 'list'])).stdout, /mz-000001/)
  t.notMatch((await run('ip', ['-brief', 'link'])).stdout, /mzb000001/)
})

t.test('named folders look the same inside although /tmp is private, and others have other names', { skip }, async t => {
  const dir = await folder(t)
  const tree = join(dir, 'tree')
  const secret = join(dir, 'secret')
  for (const path of [tree, secret]) await mkdir(path)
  await writeFile(join(tree, 'here'), 'yes')
  await using pod = await startPod({ name: 'a', dir: join(dir, 'a'), visible: [tree], mounts: [{ source: tree, target: '/etc/libvirt' }] })
  t.equal((await pod.exec(['cat', join(tree, 'here')])).stdout, 'yes')
  t.equal((await pod.exec(['cat', '/etc/libvirt/here'])).stdout, 'yes')
  await pod.exec(['touch', join(tree, 'from-inside')])
  t.ok(existsSync(join(tree, 'from-inside')))
  t.equal((await pod.exec(['ls', secret], { okCodes: [2] })).exitCode, 2, 'the rest of /tmp is hidden')
  t.equal((await pod.exec(['ls', import.meta.filename])).exitCode, 0, 'the work tree is always there')
})

t.test('a program started inside stays, has a pid that can be killed, and ends with the pod', { skip }, async t => {
  const dir = await folder(t)
  const pod = await startPod({ name: 'a', dir: join(dir, 'a') })
  t.teardown(() => pod.stop())
  const first = await pod.spawn(['sleep', '601'], { log: join(dir, 'log') })
  const second = await pod.spawn(['sh', '-c', 'echo up; exec sleep 602'], { log: join(dir, 'log') })
  // its pid is known before the program has taken the place of the shell that started it
  const became = async (pid: number, ...argv: string[]): Promise<boolean> => (await argvOf(pid)).join(' ') === argv.join(' ')
  t.ok(await until('the first program', 10_000, async () => await became(first.pid, 'sleep', '601')))
  t.ok(await until('the second program', 10_000, async () => await became(second.pid, 'sleep', '602')))
  t.equal(first.kill('SIGKILL'), true)
  t.equal(await waitGone(first, 5_000), true)
  t.equal(first.kill('SIGKILL'), false, 'it is known to be gone')
  t.equal(second.alive(), true)
  await pod.stop()
  t.equal(second.alive(), false)
  t.equal(pod.alive(), false)
  await pod.stop()
  await t.rejects(pod.exec(['true']), { code: 'POD_GONE' })
  t.match(await readFile(join(dir, 'log'), 'utf8'), /up/)
})

t.test('a program that is not there is told with what it said', { skip }, async t => {
  const dir = await folder(t)
  await using pod = await startPod({ name: 'a', dir: join(dir, 'a') })
  await t.rejects(pod.exec(['no-such-program']), { code: 'COMMAND_FAILED', exitCode: 127 })
  await pod.spawn(['no-such-program'], { log: join(dir, 'log') }).catch((error: unknown) => { t.match(error, { code: 'PROCESS_ENDED' }) })
})

t.test('a command that takes too long is killed inside, and the pod still ends at once', { skip }, async t => {
  const dir = await folder(t)
  const pod = await startPod({ name: 'a', dir: join(dir, 'a') })
  t.teardown(() => pod.stop())
  await t.rejects(pod.exec(['sleep', '603'], { timeoutMs: 100 }), { code: 'COMMAND_FAILED', message: /a: sleep 603: timed out after 100 ms/ })
  t.notOk((await processesOfPod(pod.pid)).some(p => p.argv.includes('603')))
  await pod.stop()
})

t.test('a pod that cannot start says why and leaves nothing', { skip }, async t => {
  const dir = await folder(t)
  await t.rejects(startPod({ name: 'a', dir: join(dir, 'a'), mounts: [{ source: '/dev/null', target: '/etc/x' }] }), { code: 'POD_FAILED', message: /pod a did not start: .*\/dev\/null/ })
  await t.rejects(startPod({ name: 'no name', dir: join(dir, 'b') }), { code: 'INVALID_INPUT' })
  await t.rejects(startPod({ name: 'a', dir: join(dir, 'c'), signal: AbortSignal.abort(new Error('stop')) }), { message: 'stop' })
  const controller = new AbortController()
  const starting = startPod({ name: 'a', dir: join(dir, 'd'), signal: controller.signal })
  setTimeout(() => { controller.abort(new Error('stop')) }, 5)
  await t.rejects(starting, { message: 'stop' })
  t.same(await processesNaming(dir), [])
})

async function starter (t: Test, ...args: string[]): Promise<{ kill: () => Promise<void>, pid: number, keeper: number }> {
  const child = spawn(process.execPath, [join(import.meta.dirname, 'lab-starter.ts'), ...args], { stdio: ['ignore', 'pipe', 'inherit'], env: { ...process.env, NODE_OPTIONS: '' } })
  const exited = once(child, 'exit')
  t.teardown(() => { child.kill('SIGKILL') })
  for await (const line of createInterface({ input: child.stdout })) {
    const { pid, keeper } = JSON.parse(line) as { pid: number, keeper: number }
    return { pid, keeper, kill: async () => { child.kill('SIGKILL'); await exited } }
  }
  throw new Error('the starter ended')
}

t.test('kill -9 of the starter leaves nothing running', { skip }, async t => {
  const dir = await folder(t)
  const { pid, keeper, kill } = await starter(t, 'pod', join(dir, 'a'))
  const refs = [processRef(pid), processRef(keeper), ...await processesOfPod(pid)].filter(ref => ref !== null)
  t.ok(refs.length >= 4)
  await kill()
  for (const ref of refs) t.ok(await waitGone(ref, 10_000))
  t.same(await processesNaming(dir), [])
})

t.test('a kept pod outlives its starter and is ended by its pids', { skip }, async t => {
  const dir = await folder(t)
  const { pid, keeper, kill } = await starter(t, 'pod', join(dir, 'a'), 'keep')
  const init = processRef(pid)
  const keeperRef = processRef(keeper)
  if (init === null || keeperRef === null) throw new Error('the pod does not run')
  const record = { name: 'starter', dir: join(dir, 'a'), init, keeper: keeperRef }
  t.teardown(() => stopPod(record))
  await kill()
  t.equal(isAlive(init), true)
  const pod = adoptPod(record)
  t.equal((await pod.exec(['hostname'])).stdout, 'starter\n')
  await pod.stop()
  t.equal(isAlive(init), false)
  t.throws(() => adoptPod(record), { code: 'NOT_FOUND' })
  t.same(await processesNaming(dir), [])
})
