import { access, writeFile } from 'node:fs/promises'
import { CommandError, runJson } from '../../../exec.ts'
import { namespaceNames } from '../../../system/netns.ts'
import { vniOfNamespace } from '../names.ts'
import { hasCode } from '../records.ts'
import { HOST_SPACE, readSpaces, type SpaceAnswer } from './spaces.ts'
import type { SpaceState } from './observed.ts'
import { isFiltering, parseBridgeVlans, type BridgeVlans } from '../vlan/trunk.ts'

/** Every call here touches only the kernel: what takes longer than this hangs. */
const KERNEL_TIMEOUT_MS = 10_000

/**
 * Links, permanent entries and chains of the host's own namespace, and what is in clusters' namespaces, by one process.
 *
 * @param names of clusters' namespaces
 * @throws CommandError when the host's own did not let itself be read; what is wrong with another is in its answer
 */
export async function readHostAnd (names: readonly string[], signal: AbortSignal): Promise<{ host: SpaceState, spaces: Map<string, SpaceAnswer> }> {
  const spaces = await readSpaces([HOST_SPACE, ...names], signal)
  const host = spaces.get(HOST_SPACE)
  if (host instanceof Error) throw host
  if (host === undefined || host === null || host === 'broken') throw new CommandError(['look into', 'the host'], undefined, '', 'has no answer')
  spaces.delete(HOST_SPACE)
  return { host, spaces }
}

/** Links, permanent entries and chains of the host's own namespace. @throws CommandError */
export async function readHost (signal: AbortSignal): Promise<SpaceState> {
  return (await readHostAnd([], signal)).host
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
