import { access, writeFile } from 'node:fs/promises'
import { CommandError, run, runJson } from '../../exec.ts'
import { namespaceNames } from '../../netns.ts'
import { GUARD_TABLE, MSS_TABLE, vniOfNamespace } from './names.ts'
import { hasCode } from './records.ts'
import { parseChains, parseFloods, parseForwards, parseLinks, parseNeighbours } from './observed.ts'
import type { ChainState, SpaceState } from './observed.ts'
import { isFiltering, parseBridgeVlans, vlanRefusal, type BridgeVlans } from './vlan/trunk.ts'
import type { Step } from './steps.ts'
import { runOutside } from '../../services/outside.ts'

/** Every call here touches only the kernel: what takes longer than this hangs. */
const KERNEL_TIMEOUT_MS = 10_000

const inside = (ns: string | null): string[] => (ns === null ? [] : ['-n', ns])

async function listChains (family: string, table: string, signal: AbortSignal): Promise<ChainState[]> {
  try {
    return parseChains(await runJson('nft', ['-j', 'list', 'table', family, table], { signal, timeoutMs: KERNEL_TIMEOUT_MS }))
  } catch (error) {
    if (error instanceof CommandError && error.stderr.includes('No such file or directory')) return []
    throw error
  }
}

/** Links, permanent entries and chains of the host's own namespace. */
export async function readHost (signal: AbortSignal): Promise<SpaceState> {
  const options = { signal, timeoutMs: KERNEL_TIMEOUT_MS }
  const [links, forwards, neighbours, guard, mss] = await Promise.all([
    runJson('ip', ['-json', '-details', 'address', 'show'], options),
    // what was learnt from frames is none of ours, and guests decide how much of it there is
    runJson('bridge', ['-json', 'fdb', 'show', 'state', 'permanent', 'state', 'static'], options),
    runJson('ip', ['-json', 'neighbour', 'show', 'nud', 'permanent'], options),
    listChains('inet', GUARD_TABLE, signal),
    listChains('bridge', MSS_TABLE, signal)
  ])
  return { links: parseLinks(links), floods: parseFloods(forwards), forwards: parseForwards(forwards), neighbours: parseNeighbours(neighbours), chains: [...guard, ...mss], open: new Set() }
}

/** What an administrator's bridges let pass; null, and not asked for, where none of these NICs is one that filters. */
export async function readBridgeVlans (host: SpaceState, nics: readonly string[], signal: AbortSignal): Promise<BridgeVlans | null> {
  if (!nics.some((nic) => isFiltering(host, nic))) return null
  return parseBridgeVlans(await runJson('bridge', ['-json', 'vlan', 'show'], { signal, timeoutMs: KERNEL_TIMEOUT_MS }))
}

/** Names of clusters' namespaces, with their VNI. A name need not lead to a namespace. */
export async function listNamespaces (): Promise<Map<number, string>> {
  const found = new Map<number, string>()
  for (const name of await namespaceNames()) {
    const vni = vniOfNamespace(name)
    if (vni !== null) found.set(vni, name)
  }
  return found
}

/** Writes `disable_ipv6` of links in the host's namespace; a kernel without IPv6 needs none. */
export async function silenceIpv6 (links: readonly string[]): Promise<void> {
  for (const link of links) {
    try {
      await writeFile(`/proc/sys/net/ipv6/conf/${link}/disable_ipv6`, '1')
    } catch (error) {
      if (!hasCode(error, 'ENOENT')) throw error
    }
  }
}

/** Whether this kernel has IPv6 at all. */
export const hasIpv6 = async (): Promise<boolean> => await access('/proc/sys/net/ipv6/conf').then(() => true, () => false)

/** IPv6 is on, and the link neither has an address nor takes one: what `addrgenmode none` leaves open is closed here. */
const SILENT = { accept_ra: '0', autoconf: '0', disable_ipv6: '0' } as const

/** Runs steps in order; stops at the first that fails. @throws CommandError */
export async function runSteps (steps: readonly Step[], signal: AbortSignal): Promise<void> {
  for (const step of steps) {
    signal.throwIfAborted()
    await runStep(step, { signal, timeoutMs: KERNEL_TIMEOUT_MS })
  }
}

async function runStep (step: Step, options: { signal: AbortSignal, timeoutMs: number }): Promise<void> {
  const batch = (lines: readonly string[]): string => lines.map((line) => `${line}\n`).join('')
  switch (step.do) {
    case 'netns-add':
      await runOutside('ip', ['netns', 'add', step.ns], options)
      return
    case 'netns-delete':
      await runOutside('ip', ['netns', 'delete', step.ns], options)
      return
    case 'ip': {
      const lenient = step.lenient === true
      await run('ip', [...inside(step.ns), ...(lenient ? ['-force'] : []), '-batch', '-'], { ...options, input: batch(step.lines), ...(lenient ? { okCodes: [1, 2] } : {}) })
      return
    }
    case 'vlan': {
      const { name, mtu, trunk, id, ns } = step
      const into = ns === null ? [] : ['netns', ns]
      await run('ip', ['link', 'add', 'link', trunk, 'name', name, 'mtu', String(mtu), ...into, 'type', 'vlan', 'id', String(id)], options).catch((error: unknown) => {
        throw (error instanceof CommandError && !options.signal.aborted ? vlanRefusal(trunk, id, error.stderr) : null) ?? error
      })
      return
    }
    case 'bridge':
      await run('bridge', [...inside(step.ns), '-batch', '-'], { ...options, input: batch(step.lines) })
      return
    case 'nft':
      await run('nft', ['-f', '-'], { ...options, input: step.text, ...(step.ns === null ? {} : { netns: step.ns }) })
      return
    case 'silent-ipv6':
      if (step.ns !== null) await run('sysctl', ['-qw', ...Object.entries(SILENT).map(([key, value]) => `net.ipv6.conf.${step.link}.${key}=${value}`)], { ...options, netns: step.ns })
      else for (const [key, value] of Object.entries(SILENT)) await writeFile(`/proc/sys/net/ipv6/conf/${step.link}/${key}`, value)
      return
    case 'no-ipv6':
      if (step.ns === null) await silenceIpv6(step.links ?? [])
      // -e: a kernel without IPv6 has no such keys
      else await run('sysctl', ['-eqw', 'net.ipv6.conf.all.disable_ipv6=1', 'net.ipv6.conf.default.disable_ipv6=1'], { ...options, netns: step.ns })
  }
}
