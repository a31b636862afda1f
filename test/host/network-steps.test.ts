/** The process that does a segment's steps in a row: their order, where they stop, and what ends them. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { run } from '../../agent/exec.ts'
import { runSteps } from '../../agent/drivers/network/run/run-steps.ts'
import { clusterNamespace } from '../../protocol/core/desired.ts'
import { enterPod } from './network-pod.ts'

// steps are done in the namespaces of their process: this file runs itself once more inside its own
const INSIDE = 'inside'
const RUNNER = fileURLToPath(new URL('../../agent/drivers/network/run/steps.pl', import.meta.url))
const NS = clusterNamespace(0x201)
/** Ends only when it is killed. */
const ENDLESS = ['ip', 'monitor', 'link']

t.setTimeout(120_000)

const signal = (): AbortSignal => AbortSignal.timeout(30_000)
const text = (fields: readonly string[]): string => fields.map((field) => `${Buffer.byteLength(field)}:${field},`).join('')
const program = (argv: readonly string[], input = '', ok = '0', ns = ''): string[] => ['run', ns, ok, input, String(argv.length), ...argv]
const make = (name: string): string[] => program(['ip', '-batch', '-'], `link add name ${name} type bridge\n`)
const links = async (ns: string[] = []): Promise<string> => (await run('ip', [...ns, '-o', 'link', 'show'])).stdout
const endless = async (): Promise<string[]> => (await run('pgrep', ['-f', '^ip monitor link'], { okCodes: [1] })).stdout.split('\n').filter((pid) => pid !== '')
async function until (what: () => Promise<boolean>): Promise<boolean> {
  for (let tries = 0; tries < 500; tries++) {
    if (await what()) return true
    await sleep(10)
  }
  return false
}

async function steps (): Promise<void> {
  await t.test('one after the other, each in its namespace', async (t) => {
    await runSteps([
      { do: 'ip', ns: null, lines: ['link add name a type bridge'] }, { do: 'netns-add', ns: NS }, { do: 'no-ipv6', ns: NS, links: null },
      { do: 'ip', ns: NS, lines: ['link add name b type bridge', 'link add name c type bridge', 'link set dev c up'] }, { do: 'nft', ns: NS, text: 'table bridge x {\n}\n' }, { do: 'ip', ns: null, lines: ['link add name d type bridge'] },
      { do: 'no-ipv6', ns: null, links: ['a', 'of-a-kernel-without'] }
    ], signal())
    t.match(await links(), /: a: [^]*: d: /)
    t.notMatch(await links(), /: b: /)
    t.match(await links(['-n', NS]), /: b: [^]*: c: /)
    t.equal((await run('nft', ['list', 'tables'], { netns: NS })).stdout, 'table bridge x\n')
    t.equal((await run('nft', ['list', 'tables'])).stdout, '')
    t.equal((await run('sysctl', ['-n', 'net.ipv6.conf.all.disable_ipv6', 'net.ipv6.conf.b.disable_ipv6'], { netns: NS })).stdout, '1\n1\n')
    t.equal((await run('sysctl', ['-n', 'net.ipv6.conf.all.disable_ipv6', 'net.ipv6.conf.a.disable_ipv6', 'net.ipv6.conf.d.disable_ipv6'])).stdout, '0\n1\n0\n')
    await runSteps([], signal())
  })

  await t.test('the first that fails is the last, and says what was wrong', async (t) => {
    const failing = (step: Parameters<typeof runSteps>[0][number]) => runSteps([{ do: 'ip', ns: null, lines: ['link set dev a up'] }, step, { do: 'ip', ns: null, lines: ['link add name late type bridge'] }], signal())
    await t.rejects(failing({ do: 'ip', ns: null, lines: ['link set dev nobody up'] }), { code: 'COMMAND_FAILED', exitCode: 1, argv: ['ip', '-batch', '-'], message: /^ip -batch -: exit code 1: .*"nobody"/, stderr: /Command failed -:1/ })
    await t.rejects(failing({ do: 'bridge', ns: NS, lines: ['fdb append 00:00:00:00:00:00 dev nobody dst 10.0.0.1'] }), { message: new RegExp(`^bridge -n ${NS} -batch -: exit code \\d+: .*nobody`) })
    await t.rejects(failing({ do: 'nft', ns: NS, text: 'add rule bridge x nobody drop\n' }), { message: new RegExp(`^ip netns exec ${NS} nft -f -: exit code 1: .*`) })
    await t.rejects(failing({ do: 'silent-ipv6', ns: null, link: 'nobody' }), { message: /^write \/proc\/sys\/net\/ipv6\/conf\/nobody\/accept_ra 0: exit code 127: .*No such file/ })
    await t.rejects(failing({ do: 'ip', ns: clusterNamespace(0x999), lines: ['link show'] }), { message: /mz-000999.*No such file/ })
    await t.rejects(failing({ do: 'netns-add', ns: NS }), { message: new RegExp(`ip netns add ${NS}: .*File exists`) })
    t.notMatch(await links(), /: late: /)
    await runSteps([{ do: 'ip', ns: null, lines: ['link delete dev nobody', 'link delete dev d'], lenient: true }, { do: 'ip', ns: null, lines: ['link add name late type bridge'] }], signal())
    t.notMatch(await links(), /: d: /, 'one that may fail goes on')
    t.match(await links(), /: late: /)
    await run('ip', ['link', 'delete', 'dev', 'late'])
  })

  await t.test('nothing is begun of what is not whole, or not ours', async (t) => {
    const whole = text([...make('late'), 'end'])
    const refused = async (input: string, why: RegExp): Promise<void> => {
      await t.rejects(run('perl', [RUNNER], { input }), { message: why }, String(why))
      t.notMatch(await links(), /: late: /)
    }
    await refused(text(make('late')), /do not end/)
    for (const bytes of [0, 10, whole.length - 1]) await refused(whole.slice(0, bytes), /do not end|cannot be read/)
    await refused(`${whole}x`, /do not end|cannot be read/)
    await refused(text([...make('late'), ...program(['sh', '-c', 'true']), 'end']), /not a program for a step/)
    await refused(text([...make('late'), ...program(['ip', 'link'], '', '0', 'other'), 'end']), /not a namespace of ours: other/)
    await refused(text([...make('late'), 'write', '', '../../kernel/hostname', 'x', '0', 'end']), /not a key of a link/)
    await refused(text([...make('late'), 'other', '', 'end']), /no step other/)
  })

  await t.test('it ends with who waits for it, and takes the program with it', async (t) => {
    const ended = new AbortController()
    const waiting = run('perl', [RUNNER], { input: text([...program(ENDLESS, '', '0 -'), ...make('late'), 'end']), signal: ended.signal })
    t.ok(await until(async () => (await endless()).length === 1))
    ended.abort()
    await t.rejects(waiting)
    t.strictSame(await endless(), [], 'nothing goes on behind the back of the next pass')
    t.notMatch(await links(), /: late: /)
  })

  await t.test('once the process that started it has gone, it begins no other step', async (t) => {
    for (const killed of [false, true]) {
      const child = spawn('sh', ['-c', `perl ${RUNNER}; true`], { stdio: ['pipe', 'ignore', 'inherit'] })
      child.stdin.end(text([...program(ENDLESS, '', '0 -'), ...make('late'), 'end']))
      t.ok(await until(async () => (await endless()).length === 1))
      const [runner = ''] = (await run('pgrep', ['-f', `^perl ${RUNNER}`])).stdout.split('\n')
      const over = once(child, 'exit')
      if (killed) {
        child.kill('SIGKILL')
        await over
      }
      for (const pid of await endless()) process.kill(Number(pid), 'SIGKILL')
      t.ok(await until(async () => (await run('kill', ['-0', runner], { okCodes: [1] })).exitCode === 1 || (await run('ps', ['-o', 'stat=', '-p', runner], { okCodes: [1] })).stdout.startsWith('Z')))
      t.equal((await links()).includes(': late: '), !killed)
      if (!killed) await run('ip', ['link', 'delete', 'dev', 'late'])
    }
  })
}

if (process.argv[2] === INSIDE) {
  await enterPod()
  await steps()
} else if (process.getuid?.() !== 0) {
  t.pass('steps are done as root', { skip: 'needs root' })
} else {
  const unshare = ['--net', '--mount', '--uts', '--pid', '--fork', '--kill-child', '--mount-proc']
  t.spawn('unshare', [...unshare, process.execPath, ...process.execArgv, fileURLToPath(import.meta.url), INSIDE], {}, 'inside namespaces of its own')
}
