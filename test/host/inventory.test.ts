import { mkdir, readdir, readFile, realpath, symlink, writeFile } from 'node:fs/promises'
import { cpus, release, totalmem } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { tryKernel } from '../../agent/doctor/attempts.ts'
import { doctor, type DoctorReport } from '../../agent/doctor/doctor.ts'
import { run } from '../../agent/exec.ts'
import { createInventory } from '../../agent/inventory/inventory.ts'
import { createSource } from '../../agent/inventory/source.ts'
import { kernelParts, usableParts } from '../../agent/inventory/kernel.ts'
import { encode } from '../../protocol/wire/codec.ts'

// The doctor's host is a pod of its own, whose folder of system programs may lack some.
const INSIDE = 'MUSUBI_TEST_POD'
const HIDDEN = ['nft', 'nginx', 'dnsmasq', 'tgtd', 'tgtadm']
const TIMEOUT_MS = 110_000
const signal = (): AbortSignal => AbortSignal.timeout(60_000)

t.setTimeout(TIMEOUT_MS)
if (process.getuid?.() !== 0) {
  t.plan(0, 'needs root for namespaces')
} else if (process.env[INSIDE] === undefined) {
  await outside()
  const scratch = t.testdir()
  await t.spawn('unshare', ['-n', '-m', process.execPath, process.argv[1] ?? ''], { env: { ...process.env, [INSIDE]: scratch }, timeout: TIMEOUT_MS }, 'in a pod')
} else {
  await inside(process.env[INSIDE])
}

async function outside (): Promise<void> {
  await t.test('the inventory of this machine is what the machine is', async t => {
    const reader = createInventory({ stateDir: t.testdir() })
    const inventory = await reader.read(signal())
    t.equal(inventory.threads, cpus().length)
    t.equal(inventory.memoryMib, Math.floor(totalmem() / 2 ** 20))
    t.equal(inventory.kernel, release())
    t.not(inventory.architecture, '')
    t.ok(inventory.sockets > 0 && inventory.cores >= inventory.sockets)
    t.equal(inventory.numa.reduce((sum, { cpus }) => sum + cpus, 0), inventory.numa.length === 0 ? 0 : inventory.threads)
    const disks = await readdir('/sys/block')
    for (const { name, sizeBytes } of inventory.disks) {
      t.ok(disks.includes(name), `disk ${name}`)
      t.equal(sizeBytes, 512 * Number(await readFile(`/sys/block/${name}/size`, 'utf8')))
    }
    const links = await readdir('/sys/class/net')
    const cards = inventory.nics.map(({ name }) => name)
    t.strictSame(cards.filter(name => !links.includes(name) || name === 'lo' || name.startsWith('mz')), [])
    for (const { name, mtu, mac } of inventory.nics) t.strictSame([String(mtu), mac], (await Promise.all(['mtu', 'address'].map(file => readFile(`/sys/class/net/${name}/${file}`, 'utf8')))).map(text => text.trim()))
    t.ok(encode('Inventory', inventory).length > 50)
  })

  await t.test('what the kernel says of itself is what it does', async t => {
    const parts = kernelParts(await createSource('/').kernelEvidence())
    const { namespaces, tried } = await tryKernel(new Set(['unshare', 'ip', 'nft']), signal())
    t.equal(namespaces, null)
    t.ok(tried.size >= 5)
    for (const [part, result] of tried) {
      // a part that nothing tells about is not claimed
      if (parts[part] !== 'unknown') t.equal(usableParts(parts).includes(part), result === 'works', `${part}: said ${parts[part]}, tried ${JSON.stringify(result)}`)
    }
    t.notOk((await run('ip', ['-json', 'link'])).stdout.includes('"ifname":"b.5"'), 'and nothing stays')
  })
}

async function inside (scratch: string): Promise<void> {
  await run('mount', ['-t', 'tmpfs', 'tmpfs', '/run'])
  await run('ip', ['link', 'set', 'lo', 'up'])
  const file = join(scratch, 'agent.yaml')
  await mkdir(join(scratch, 'state'))
  await writeFile(file, [
    'name: h1', 'site: kyoto', 'roles: [gateway, compute, storage]', `stateDir: ${join(scratch, 'state')}`, 'runDir: /run/musubi', 'listen: [/ip4/127.0.0.1/tcp/4100]',
    'underlayAddress: 127.0.0.1', 'segmentIds: {from: 1000, to: 1999}', 'accelerator: tcg', 'helper: {agentUser: no-such-user}', ''
  ].join('\n'))
  const installs = (report: DoctorReport): string[] => report.findings.filter(({ severity, mend }) => severity === 'missing' && mend.startsWith('apt-get')).map(({ role, mend }) => `${role}: ${mend}`).sort()
  const state = async (): Promise<string> => (await run('ip', ['link'])).stdout + (await run('ip', ['netns', 'list'])).stdout
  const before = await state()
  const here = new Set(await Promise.all(HIDDEN.map(async name => await createSource('/').program(name) === null ? null : name)))
  const complete = HIDDEN.every(name => here.has(name))

  await t.test('on a host with all packages none is missing', { skip: complete ? false : 'this machine lacks some itself' }, async t => {
    const report = await doctor(file)
    t.strictSame(installs(report), [])
    t.match(report.findings.filter(({ role }) => role === 'host'), [{ what: /no user no-such-user/ }, { what: /no helper .* listens at \/run\/musubi-helper\/helper\.sock/ }])
    t.ok(report.findings.every(({ mend, what }) => mend !== '' && what !== ''))
  })

  await t.test('programs that are gone are named with the packages that bring them, and nothing else is', async t => {
    const complaints = new Set((await doctor(file)).findings.map(({ what }) => what))
    await hide(join(scratch, 'sbin'))
    const report = await doctor(file)
    t.equal(report.ok, false)
    t.strictSame(installs(report), ['compute: apt-get install nftables', 'gateway: apt-get install dnsmasq-base', 'gateway: apt-get install nftables', 'gateway: apt-get install nginx', 'storage: apt-get install tgt'])
    t.strictSame(report.findings.filter(({ what, mend }) => !complaints.has(what) && !mend.startsWith('apt-get install')), [], 'no second complaint in other words')
    const cli = await run(process.execPath, [join(import.meta.dirname, '../../cli/main.ts'), 'agent', 'doctor', '-c', file, '--json'], { okCodes: [3] })
    t.equal(cli.exitCode, 3)
    t.strictSame(installs(JSON.parse(cli.stdout) as DoctorReport), installs(report))
    await run('umount', ['/usr/sbin'])
  })

  await t.test('an address that is not here', async t => {
    await writeFile(file, (await readFile(file, 'utf8')).replace('underlayAddress: 127.0.0.1', 'underlayAddress: 198.51.100.1'))
    t.match((await doctor(file)).findings.filter(({ role, what }) => role === 'host' && !what.includes('helper')), [{ severity: 'missing', what: /198\.51\.100\.1 is on no link/ }])
  })

  t.equal(await state(), before, 'the doctor leaves nothing behind')
  t.strictSame(await readdir(join(scratch, 'state', 'compute')).catch(() => []), [], 'and starts nothing where the configuration says tcg')
}

/** Puts a folder without the hidden programs over the system's. */
async function hide (dir: string): Promise<void> {
  const [all, shown] = [join(dir, 'all'), join(dir, 'shown')]
  await mkdir(all, { recursive: true })
  await mkdir(shown)
  const names = (await readdir('/usr/sbin')).filter(name => !HIDDEN.includes(name))
  const targets = await Promise.all(names.map(name => realpath(join('/usr/sbin', name)).catch(() => null)))
  await run('mount', ['--bind', '/usr/sbin', all])
  for (const [index, name] of names.entries()) {
    const target = targets[index] ?? null
    if (target !== null) await symlink(target.startsWith('/usr/sbin/') ? join(all, target.slice('/usr/sbin/'.length)) : target, join(shown, name))
  }
  await run('mount', ['--bind', shown, '/usr/sbin'])
}
