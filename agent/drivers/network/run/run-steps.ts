import { fileURLToPath } from 'node:url'
import { COMMAND_TIMEOUT_MS } from '../../../../protocol/core/limits.ts'
import { CommandError, resolvedArgv, run } from '../../../exec.ts'
import { runOutside } from '../../../services/outside.ts'
import { vlanRefusal } from '../vlan/trunk.ts'
import type { Step } from '../steps.ts'

const RUNNER = fileURLToPath(new URL('./steps.pl', import.meta.url))
/** `ip netns` touches only the kernel: what takes longer than this hangs. */
const KERNEL_TIMEOUT_MS = 10_000
/** Exit code of the runner when one of its steps failed. */
const STEP_FAILED = 3

/** IPv6 is on, and the link neither has an address nor takes one: what `addrgenmode none` leaves open is closed here. */
const SILENT = { accept_ra: '0', autoconf: '0', disable_ipv6: '0' } as const

/** What the runner does for one step, as its fields. */
interface Order { step: Step, argv: readonly string[], fields: readonly string[] }

const batch = (lines: readonly string[]): string => lines.map((line) => `${line}\n`).join('')

/** @param told how it is told to people, in one namespace that is not entered for it */
function program (step: Step, argv: readonly string[], input: string, okCodes: readonly number[] = []): Order {
  const [file = '', ...args] = argv
  const told = step.ns === null ? argv : file === 'nft' ? ['ip', 'netns', 'exec', step.ns, ...argv] : [file, '-n', step.ns, ...args]
  return { step, argv: told, fields: ['run', step.ns ?? '', ['0', ...okCodes].join(' '), input, String(argv.length), ...resolvedArgv(argv)] }
}

function key (step: Step, name: string, value: string, absent: boolean): Order {
  return { step, argv: ['write', `/proc/sys/net/ipv6/conf/${name}`, value, ...(step.ns === null ? [] : ['in', step.ns])], fields: ['write', step.ns ?? '', name, value, absent ? '1' : '0'] }
}

/** Null for what the runner does not do. */
function ordersOf (step: Step): Order[] | null {
  switch (step.do) {
    // they mount: see `runOutside`
    case 'netns-add': case 'netns-delete': return null
    case 'ip': return [program(step, step.lenient === true ? ['ip', '-force', '-batch', '-'] : ['ip', '-batch', '-'], batch(step.lines), step.lenient === true ? [1, 2] : [])]
    case 'vlan': {
      // from the namespace of the host, which the NIC is in
      const { name, mtu, trunk, id, ns } = step
      const into = ns === null ? [] : ['netns', ns]
      return [program({ ...step, ns: null }, ['ip', 'link', 'add', 'link', trunk, 'name', name, 'mtu', String(mtu), ...into, 'type', 'vlan', 'id', String(id)], '')]
    }
    case 'bridge': return [program(step, ['bridge', '-batch', '-'], batch(step.lines))]
    case 'nft': return [program(step, ['nft', '-f', '-'], step.text)]
    case 'silent-ipv6': return Object.entries(SILENT).map(([name, value]) => key(step, `${step.link}/${name}`, value, false))
    // a kernel without IPv6 has no such keys
    case 'no-ipv6': return (step.ns === null ? step.links ?? [] : ['all', 'default']).map((link) => key(step, `${link}/disable_ipv6`, '1', true))
  }
}

const netstring = (text: string): string => `${Buffer.byteLength(text)}:${text},`

/** Runs orders in one process: starting one for each would take most of the time that a segment needs. */
async function runOrders (orders: readonly Order[], signal: AbortSignal): Promise<void> {
  if (orders.length === 0) return
  const input = [...orders.flatMap(({ fields }) => fields), 'end'].map(netstring).join('')
  const { stdout, stderr, exitCode } = await run('perl', [RUNNER], { input, signal, timeoutMs: COMMAND_TIMEOUT_MS, okCodes: [STEP_FAILED] })
  if (exitCode === 0) return
  const [, number = '', code = '', said = ''] = /^(\d+) (\d+|-) (.*)$/s.exec(stdout) ?? []
  const failed = orders[Number(number)]
  if (number === '' || failed === undefined) throw new CommandError(['perl', RUNNER], exitCode, stderr === '' ? stdout : stderr, 'ended before its steps')
  const { step, argv } = failed
  const refusal = step.do === 'vlan' ? vlanRefusal(step.trunk, step.id, said) : null
  throw refusal ?? new CommandError(argv, code === '-' ? undefined : Number(code), said, code === '-' ? 'was ended' : `exit code ${code}`)
}

/** Runs steps in order; stops at the first that fails. @throws CommandError; MusubiError of `vlanRefusal` */
export async function runSteps (steps: readonly Step[], signal: AbortSignal): Promise<void> {
  let orders: Order[] = []
  for (const step of steps) {
    const more = ordersOf(step)
    if (more !== null) {
      orders.push(...more)
      continue
    }
    await runOrders(orders, signal)
    orders = []
    signal.throwIfAborted()
    await runOutside('ip', ['netns', step.do === 'netns-add' ? 'add' : 'delete', step.ns ?? ''], { signal, timeoutMs: KERNEL_TIMEOUT_MS })
  }
  await runOrders(orders, signal)
}
