/** The list of programs of a process with privileges. Each case in a process of its own: a list is for good. */
import { chmod, mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { run } from '../../../agent/exec.ts'
import { HELPER_PROGRAMS } from '../../../agent/helper/programs.ts'

const ROOT = join(import.meta.dirname, '..', '..', '..')

/** Runs statements with `run` and `CommandError` in scope, after the list was set; @returns what they print. */
async function within (list: readonly string[], code: string, env: Record<string, string> = {}): Promise<string> {
  const text = `
    const { allowOnly } = await import('${ROOT}/agent/system/programs.ts')
    const { run } = await import('${ROOT}/agent/exec.ts')
    allowOnly(${JSON.stringify(list)})
    const told = async work => { try { return (await work()).stdout.trim() } catch (error) { return error.code + ' ' + error.message } }
    ${code}`
  return (await run(process.execPath, ['--input-type=module', '-e', text], { env: { NODE_OPTIONS: '', ...env } })).stdout.trim()
}

t.test('only what is on the list is started', async t => {
  t.match(await within(['id'], 'console.log(await told(() => run("id", ["-u"])))'), /^\d+$/)
  t.match(await within(['id'], 'console.log(await told(() => run("sh", ["-c", "echo broken"])))'), /^PROGRAM_REFUSED sh is not started: it is not on the list/)
  t.match(await within(['id'], 'console.log(await told(() => run("/bin/sh", ["-c", "echo broken"])))'), /^PROGRAM_REFUSED/)
  t.match(await within(['ip'], 'console.log(await told(() => run("sh", [], { netns: "x" })))'), /^PROGRAM_REFUSED/, 'nor inside a namespace')
  t.match(await within(['nonesuch'], 'console.log(await told(() => run("nonesuch", [])))'), /^COMMAND_FAILED nonesuch: is not installed/)
})

t.test('a name is the program of the system, whatever the search path says', async t => {
  const dir = t.testdir()
  const fake = join(dir, 'bin', 'id')
  await mkdir(join(dir, 'bin'))
  await writeFile(fake, '#!/bin/sh\necho fake\n')
  await chmod(fake, 0o755)
  const env = { PATH: `${join(dir, 'bin')}:${process.env.PATH ?? ''}` }
  t.match(await within(['id'], 'console.log(await told(() => run("id", ["-u"])))', env), /^\d+$/)
  t.match(await within(['id'], `console.log(await told(() => run(${JSON.stringify(fake)}, ["-u"])))`, env), /^PROGRAM_REFUSED .*: id is \/usr\/bin\/id here/)
  t.equal(await within(['id'], 'console.log(process.env.PATH)', env), '/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin')
})

t.test('a program that others can change is not started', { skip: process.getuid?.() !== 0 ? 'needs root to put one there' : false }, async t => {
  const path = `/usr/local/bin/musubi-test-${process.pid}`
  await writeFile(path, '#!/bin/sh\necho ours\n')
  t.teardown(() => run('rm', ['-f', path]))
  await chmod(path, 0o755)
  const name = path.split('/').at(-1) ?? ''
  t.match(await within([name], `console.log(await told(() => run("${name}", [])))`), /^(ours|PROGRAM_REFUSED .*\/usr\/local\/bin)/)
  await chmod(path, 0o777)
  t.match(await within([name], `console.log(await told(() => run("${name}", [])))`), /^PROGRAM_REFUSED .*others than root can change[^]*/)
})

t.test('no shell, interpreter of ours or network client is on the list of the helper', t => {
  for (const name of ['sh', 'bash', 'dash', 'env', 'sudo', 'node', 'ssh', 'python3', 'curl', 'dd', 'mount']) t.notOk(HELPER_PROGRAMS.includes(name), name)
  t.equal(new Set(HELPER_PROGRAMS).size, HELPER_PROGRAMS.length)
  t.end()
})
