/** Instances of placement within a site: of a fixed seed, so that every run has the same hundred. */
import type { Resources } from '../../protocol/core/capacity.ts'

/** mulberry32 */
export function random (seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6D2B79F5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

export interface Instance {
  family: 'planted' | 'mixed' | 'skewed' | 'alike' | 'tight'
  hosts: Resources[]
  vms: Resources[]
  /** all VMs are known to fit: the hosts were cut up to make them */
  perfect: boolean
}

const of = (vcpus: number, memoryMib: number, diskMib: number): Resources => ({ vcpus, memoryMib, diskMib, volumes: 0, bandwidthMbit: 0 })
const FAMILIES = ['planted', 'mixed', 'skewed', 'alike', 'tight'] as const

/** Whole parts of a whole, none below `least`. */
function cut (total: number, parts: number, least: number, next: () => number): number[] {
  const shares = Array.from({ length: parts }, () => 0.3 + next())
  const sum = shares.reduce((a, b) => a + b, 0)
  const spare = total - least * parts
  const cuts = shares.map(share => least + Math.floor(spare * share / sum))
  cuts[0] = (cuts[0] ?? 0) + total - cuts.reduce((a, b) => a + b, 0)
  return cuts
}

function planted (hosts: readonly Resources[], count: number, next: () => number): Resources[] {
  const each = hosts.map((_, h) => Math.floor(count / hosts.length) + (h < count % hosts.length ? 1 : 0))
  const vms = hosts.flatMap((host, h) => {
    const parts = each[h] ?? 0
    const [cpu, memory, disk] = [cut(host.vcpus, parts, 1, next), cut(host.memoryMib / 256, parts, 2, next), cut(host.diskMib / 1024, parts, 4, next)]
    return Array.from({ length: parts }, (_, i) => of(cpu[i] ?? 0, (memory[i] ?? 0) * 256, (disk[i] ?? 0) * 1024))
  })
  // in no order that tells where they come from
  return vms.map(vm => ({ vm, key: next() })).sort((a, b) => a.key - b.key).map(({ vm }) => vm)
}

/** 4 to 8 hosts and 30 to 60 VMs; one of five families in turn, the first planted. */
export function instances (count = 100, seed = 41): Instance[] {
  return Array.from({ length: count }, (_, n): Instance => {
    const next = random(seed * 1000 + n)
    const between = (low: number, high: number): number => low + Math.floor(next() * (high - low + 1))
    const pick = <T>(list: readonly T[]): T => list[Math.floor(next() * list.length)] as T
    const family = FAMILIES[n % FAMILIES.length] ?? 'mixed'
    const model = of(pick([32, 48, 64]), pick([64, 128, 192]) * 1024, pick([1, 2, 4]) * 512_000)
    const hosts = Array.from({ length: between(4, 8) }, () => family === 'alike' || family === 'tight' ? { ...model } : of(pick([16, 32, 48, 64]), pick([64, 96, 128, 256]) * 1024, pick([512, 1024, 2048]) * 1024))
    const vmCount = between(30, 60)
    if (family === 'planted') return { family, hosts, vms: planted(hosts, vmCount, next), perfect: true }
    const total = (field: 'vcpus' | 'memoryMib' | 'diskMib'): number => hosts.reduce((sum, host) => sum + host[field], 0)
    const load = family === 'tight' ? 1 : 1 + next() * 0.5
    // of each dimension: demand that would fill the hosts so many times, in shares of a mean VM
    const shape = (): [number, number, number] => family === 'skewed' ? pick([[1.8, 0.5, 0.5], [0.5, 1.8, 0.5], [0.5, 0.5, 1.8]]) : [0.2 + next() * 1.6, 0.2 + next() * 1.6, 0.2 + next() * 1.6]
    const vms = Array.from({ length: vmCount }, () => {
      const [cpu, memory, disk] = shape()
      const size = (0.4 + next() * 1.2) * load / vmCount
      return of(Math.max(1, Math.round(cpu * size * total('vcpus'))), 256 * Math.max(1, Math.round(memory * size * total('memoryMib') / 256)), 1024 * Math.max(1, Math.round(disk * size * total('diskMib') / 1024)))
    })
    return { family, hosts, vms, perfect: false }
  })
}
