/** What a host has, lends or is asked for. Memory and disk in MiB; field names as on the wire. */
export interface Resources {
  vcpus: number
  memoryMib: number
  diskMib: number
  /** how many volumes it exports, whatever their size */
  volumes: number
  /** of a gateway's WAN */
  bandwidthMbit: number
  /** how many nodes, whatever their size: counted in what a site borrows alone, no host has a number of them; absent: none */
  nodes?: number
}

/** Each dimension with the word and the unit that people read. */
const dimensions: ReadonlyArray<{ field: keyof Resources, unit: string }> = [
  { field: 'vcpus', unit: 'vCPU' },
  { field: 'memoryMib', unit: 'MiB memory' },
  { field: 'diskMib', unit: 'MiB disk' },
  { field: 'volumes', unit: 'exported volumes' },
  { field: 'bandwidthMbit', unit: 'Mbit/s' },
  { field: 'nodes', unit: 'nodes' }
]
const valueOf = (a: Resources, field: keyof Resources): number => a[field] ?? 0

const combine = (a: Resources, b: Resources, f: (x: number, y: number) => number): Resources => ({
  vcpus: f(a.vcpus, b.vcpus),
  memoryMib: f(a.memoryMib, b.memoryMib),
  diskMib: f(a.diskMib, b.diskMib),
  volumes: f(a.volumes, b.volumes),
  bandwidthMbit: f(a.bandwidthMbit, b.bandwidthMbit),
  ...a.nodes === undefined && b.nodes === undefined ? {} : { nodes: f(a.nodes ?? 0, b.nodes ?? 0) }
})

/** Nothing at all; a fresh object each time. */
export const zero = (): Resources => ({ vcpus: 0, memoryMib: 0, diskMib: 0, volumes: 0, bandwidthMbit: 0 })

export const add = (a: Resources, b: Resources): Resources => combine(a, b, (x, y) => x + y)

/** May go below zero: an operator can shrink a host under its promises. See `clampToZero`. */
export const subtract = (a: Resources, b: Resources): Resources => combine(a, b, (x, y) => x - y)

/** Adds `by` times `a` to `total`, in place: for sums over all promises of a host. */
export function accumulate (total: Resources, a: Resources, by: 1 | -1): void {
  total.vcpus += by * a.vcpus
  total.memoryMib += by * a.memoryMib
  total.diskMib += by * a.diskMib
  total.volumes += by * a.volumes
  total.bandwidthMbit += by * a.bandwidthMbit
  if (a.nodes !== undefined && a.nodes !== 0) total.nodes = (total.nodes ?? 0) + by * a.nodes
}

/** Brings `least` down to `a` where that is smaller, in place. */
export function lower (least: Resources, a: Resources): void {
  least.vcpus = Math.min(least.vcpus, a.vcpus)
  least.memoryMib = Math.min(least.memoryMib, a.memoryMib)
  least.diskMib = Math.min(least.diskMib, a.diskMib)
  least.volumes = Math.min(least.volumes, a.volumes)
  least.bandwidthMbit = Math.min(least.bandwidthMbit, a.bandwidthMbit)
  if (a.nodes !== undefined) least.nodes = Math.min(least.nodes ?? 0, a.nodes)
}

/** The smaller of the two in every dimension. */
export const min = (a: Resources, b: Resources): Resources => combine(a, b, Math.min)

/** The larger of the two in every dimension. */
export const max = (a: Resources, b: Resources): Resources => combine(a, b, Math.max)

/** What can be shown as free: never less than nothing. */
export const clampToZero = (a: Resources): Resources => max(a, zero())

export const sum = (all: Iterable<Resources>): Resources => {
  let total = zero()
  for (const one of all) total = add(total, one)
  return total
}

export const fits = (need: Resources, free: Resources): boolean =>
  dimensions.every(({ field }) => valueOf(need, field) <= valueOf(free, field))

/** How many times `need` goes into `free`; a need of nothing goes in without end. */
export function timesFitting (need: Resources, free: Resources): number {
  let times = Number.POSITIVE_INFINITY
  for (const { field } of dimensions) {
    const each = valueOf(need, field)
    if (each > 0) times = Math.min(times, Math.floor(Math.max(0, valueOf(free, field)) / each))
  }
  return times
}

/** Whole numbers, none below zero: what a request may contain. */
export const isValid = (a: Resources): boolean =>
  dimensions.every(({ field }) => Number.isSafeInteger(valueOf(a, field)) && valueOf(a, field) >= 0)

/** `4 vCPU, 768 MiB memory`; dimensions at zero are left out. */
export function describe (a: Resources): string {
  const parts = dimensions.filter(({ field }) => valueOf(a, field) !== 0).map(({ field, unit }) => `${valueOf(a, field)} ${unit}`)
  return parts.length === 0 ? 'nothing' : parts.join(', ')
}

/**
 * What is missing, in words: `needs 4 vCPU, 2 free; needs 1024 MiB memory, 768 free`.
 * Empty when it fits.
 */
export function describeShortfall (need: Resources, free: Resources): string {
  return dimensions
    .filter(({ field }) => valueOf(need, field) > valueOf(free, field))
    .map(({ field, unit }) => `needs ${valueOf(need, field)} ${unit}, ${Math.max(0, valueOf(free, field))} free`)
    .join('; ')
}
