import { FRONTEND_RESOURCES } from '../../protocol/core/placement/at-site.ts'

/** The demo's node: what a Debian root in RAM needs under emulation. */
export const NODE = { vcpus: 1, memoryMiB: 768 } as const

/**
 * Two sites of two hosts, sized so that the master's own site holds half of the nodes and has to
 * borrow the rest; a third host at tokyo lends volumes.
 */
export function demoSites (nodes: number): Array<{ name: string, hosts: Array<{ name: string, roles: Array<'gateway' | 'compute' | 'storage'>, vcpus: number, memoryMiB: number, diskMiB: number }> }> {
  const atTokyo = Math.max(1, Math.floor(nodes / 2))
  const host = (name: string, roles: Array<'gateway' | 'compute' | 'storage'>, slots: number, extra: { vcpus: number, memoryMib: number } = { vcpus: 0, memoryMib: 0 }) => ({
    name, roles, vcpus: slots * NODE.vcpus + extra.vcpus, memoryMiB: slots * NODE.memoryMiB + extra.memoryMib, diskMiB: 0
  })
  const split = (n: number): [number, number] => [Math.ceil(n / 2), Math.floor(n / 2)]
  const [t1, t2] = split(atTokyo)
  const [s1, s2] = split(nodes - atTokyo)
  return [
    { name: 'tokyo', hosts: [host('tokyo-1', ['gateway', 'compute'], t1, FRONTEND_RESOURCES), host('tokyo-2', ['compute'], t2), { ...host('tokyo-3', ['storage'], 0), diskMiB: 1024 }] },
    { name: 'tsukuba', hosts: [host('tsukuba-1', ['gateway', 'compute'], s1), host('tsukuba-2', ['compute'], s2)] }
  ]
}
