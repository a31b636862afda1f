/**
 * What a host has free over time, kept as the points at which it changes. Points lie in blocks of some
 * hundred, each with what its points do together, so that a search passes a block that cannot matter in
 * one step and a change moves one block's points only. Changes at one moment are one point: a booking
 * may begin where another ends.
 */
import { type Resources, zero } from '../capacity.ts'
import type { Booking } from './free.ts'

const FIELDS = ['vcpus', 'memoryMib', 'diskMib', 'volumes', 'bandwidthMbit', 'nodes'] as const satisfies ReadonlyArray<keyof Resources>
const WIDTH = FIELDS.length
/** Points of a full block; measured: smaller ones make the way to the first longer, larger ones each change. */
const BLOCK = 256

/** From `atMs` on, until the next step, so much is free. */
export interface FreeStep { atMs: number, free: Resources }

class Block {
  count = 0
  readonly at = new Float64Array(BLOCK)
  /** by how much each point changes each field */
  readonly change = new Float64Array(BLOCK * WIDTH)
  /** of all points */
  readonly total = new Float64Array(WIDTH)
  /** the lowest and the highest that each field comes to at a point, counted from before the block */
  readonly low = new Float64Array(WIDTH)
  readonly high = new Float64Array(WIDTH)

  /** First point that is later than `atMs`, or at it where `orAt`. */
  find (atMs: number, orAt: boolean): number {
    let from = 0
    let until = this.count
    while (from < until) {
      const middle = (from + until) >> 1
      const there = this.at[middle] ?? 0
      if (there > atMs || (orAt && there === atMs)) until = middle
      else from = middle + 1
    }
    return from
  }

  /** Makes room for a point without effect at `index`. */
  insert (index: number, atMs: number): void {
    this.at.copyWithin(index + 1, index, this.count)
    this.change.copyWithin((index + 1) * WIDTH, index * WIDTH, this.count * WIDTH)
    this.at[index] = atMs
    this.change.fill(0, index * WIDTH, (index + 1) * WIDTH)
    this.count++
  }

  remove (index: number): void {
    this.at.copyWithin(index, index + 1, this.count)
    this.change.copyWithin(index * WIDTH, (index + 1) * WIDTH, this.count * WIDTH)
    this.count--
  }

  isIdle (index: number): boolean {
    for (let f = 0; f < WIDTH; f++) if (this.change[index * WIDTH + f] !== 0) return false
    return true
  }

  summarise (): void {
    const { total, low, high, change } = this
    total.fill(0)
    low.fill(Infinity)
    high.fill(-Infinity)
    for (let i = 0, c = 0; i < this.count; i++) {
      for (let f = 0; f < WIDTH; f++, c++) {
        const value = (total[f] ?? 0) + (change[c] ?? 0)
        total[f] = value
        if (value < (low[f] ?? 0)) low[f] = value
        if (value > (high[f] ?? 0)) high[f] = value
      }
    }
  }

  /** Moves the later half to a new block. */
  split (): Block {
    const later = new Block()
    const half = this.count >> 1
    later.at.set(this.at.subarray(half, this.count))
    later.change.set(this.change.subarray(half * WIDTH, this.count * WIDTH))
    later.count = this.count - half
    this.count = half
    this.summarise()
    later.summarise()
    return later
  }
}

const fill = (to: Float64Array, from: Resources): void => { for (const [f, field] of FIELDS.entries()) to[f] = from[field] ?? 0 }

const resourcesOf = (values: Float64Array, withNodes: boolean): Resources => {
  const resources = zero()
  for (const [f, field] of FIELDS.entries()) if (field !== 'nodes' || withNodes) resources[field] = values[f] ?? 0
  return resources
}

/** A host's free capacity, or what a site may still borrow, as a function of time; changed in place. */
export class Timeline {
  readonly #capacity = new Float64Array(WIDTH)
  /** a host has no number of nodes, a quota may */
  readonly #withNodes: boolean
  #blocks: Block[] = []

  constructor (capacity: Resources, bookings: Iterable<Booking> = []) {
    fill(this.#capacity, capacity)
    this.#withNodes = capacity.nodes !== undefined
    for (const booking of bookings) this.book(booking)
  }

  /** Moments at which what is free changes. */
  get points (): number { return this.#blocks.reduce((total, block) => total + block.count, 0) }

  book (booking: Booking): void { this.#change(booking, -1) }

  /** Takes a booking back; it must have been booked exactly so. */
  unbook (booking: Booking): void { this.#change(booking, 1) }

  #change ({ resources, fromMs, untilMs }: Booking, by: 1 | -1): void {
    if (untilMs <= fromMs) return
    this.#add(fromMs, resources, by)
    this.#add(untilMs, resources, by === 1 ? -1 : 1)
  }

  /** The block in which a moment lies: the last that begins no later, or the first. */
  #blockAt (atMs: number): number {
    let from = 0
    let until = this.#blocks.length
    while (from < until) {
      const middle = (from + until) >> 1
      if ((this.#blocks[middle]?.at[0] ?? 0) > atMs) until = middle
      else from = middle + 1
    }
    return Math.max(0, from - 1)
  }

  #add (atMs: number, resources: Resources, by: 1 | -1): void {
    if (this.#blocks.length === 0) this.#blocks.push(new Block())
    let n = this.#blockAt(atMs)
    let block = this.#blocks[n]
    if (block === undefined) return
    if (block.count === BLOCK) {
      this.#blocks.splice(n + 1, 0, block.split())
      n = this.#blockAt(atMs)
      block = this.#blocks[n] ?? block
    }
    const index = block.find(atMs, true)
    if (index === block.count || block.at[index] !== atMs) block.insert(index, atMs)
    for (const [f, field] of FIELDS.entries()) block.change[index * WIDTH + f] = (block.change[index * WIDTH + f] ?? 0) + by * (resources[field] ?? 0)
    if (block.isIdle(index)) block.remove(index)
    if (block.count === 0) this.#blocks.splice(n, 1)
    else block.summarise()
  }

  /** Where the points after a moment begin, with what is free at that moment in `free`. */
  #seek (atMs: number, free: Float64Array): { n: number, index: number } {
    free.set(this.#capacity)
    const n = this.#blockAt(atMs)
    for (let i = 0; i < n; i++) {
      const block = this.#blocks[i]
      if (block !== undefined) for (let f = 0; f < WIDTH; f++) free[f] = (free[f] ?? 0) + (block.total[f] ?? 0)
    }
    const block = this.#blocks[n]
    const index = block?.find(atMs, false) ?? 0
    if (block !== undefined) for (let c = 0; c < index * WIDTH; c++) free[c % WIDTH] = (free[c % WIDTH] ?? 0) + (block.change[c] ?? 0)
    return { n, index }
  }

  /** The least that is free at any moment of [fromMs, untilMs); below zero where more is promised than there is. */
  least (fromMs: number, untilMs: number): Resources {
    const free = new Float64Array(WIDTH)
    const { n, index } = this.#seek(fromMs, free)
    const least = free.slice()
    for (let i = n, from = index; i < this.#blocks.length; i++, from = 0) {
      const block = this.#blocks[i]
      if (block === undefined || (block.at[from] ?? 0) >= untilMs) break
      const whole = from === 0 && (block.at[block.count - 1] ?? 0) < untilMs
      if (whole) {
        for (let f = 0; f < WIDTH; f++) {
          least[f] = Math.min(least[f] ?? 0, (free[f] ?? 0) + (block.low[f] ?? 0))
          free[f] = (free[f] ?? 0) + (block.total[f] ?? 0)
        }
        continue
      }
      for (let p = from; p < block.count && (block.at[p] ?? 0) < untilMs; p++) {
        for (let f = 0; f < WIDTH; f++) {
          const now = (free[f] ?? 0) + (block.change[p * WIDTH + f] ?? 0)
          free[f] = now
          least[f] = Math.min(least[f] ?? 0, now)
        }
      }
    }
    return resourcesOf(least, this.#withNodes)
  }

  /**
   * The first moment, from `fromMs` and no later than `latestMs`, from which on `need` is free for
   * `durationMs` without a break; null when there is none. Of what is not needed nothing has to be free. One
   * sweep with early exit: at the worst it looks at every point once.
   */
  earliest (need: Resources, durationMs: number, fromMs: number, latestMs = Number.POSITIVE_INFINITY): number | null {
    const fields = FIELDS.flatMap((field, f) => (need[field] ?? 0) > 0 ? [f] : [])
    const wanted = new Float64Array(WIDTH)
    fill(wanted, need)
    const free = new Float64Array(WIDTH)
    const { n, index } = this.#seek(fromMs, free)
    let start = fromMs <= latestMs && fields.every(f => (free[f] ?? 0) >= (wanted[f] ?? 0)) ? fromMs : null
    for (let i = n, from = index; i < this.#blocks.length; i++, from = 0) {
      const block = this.#blocks[i]
      if (block === undefined || from >= block.count) continue
      const firstMs = block.at[from] ?? 0
      if (start !== null ? firstMs >= start + durationMs : firstMs > latestMs) return start
      if (from === 0 && passes(block, fields, free, wanted, start !== null)) {
        for (const f of fields) free[f] = (free[f] ?? 0) + (block.total[f] ?? 0)
        continue
      }
      const { at, change, count } = block
      for (let p = from; p < count; p++) {
        const atMs = at[p] ?? 0
        if (start !== null ? atMs >= start + durationMs : atMs > latestMs) return start
        let enough = true
        for (let k = 0; k < fields.length; k++) {
          const f = fields[k] ?? 0
          const now = (free[f] ?? 0) + (change[p * WIDTH + f] ?? 0)
          free[f] = now
          if (now < (wanted[f] ?? 0)) enough = false
        }
        if (!enough) start = null
        else start ??= atMs
      }
    }
    return start
  }

  /** Everything from a moment on, as steps; the first holds from `fromMs`. */
  steps (fromMs: number): FreeStep[] {
    const free = new Float64Array(WIDTH)
    const { n, index } = this.#seek(fromMs, free)
    const steps: FreeStep[] = [{ atMs: fromMs, free: resourcesOf(free, this.#withNodes) }]
    for (let i = n, from = index; i < this.#blocks.length; i++, from = 0) {
      const block = this.#blocks[i]
      if (block === undefined) continue
      for (let p = from; p < block.count; p++) {
        for (let f = 0; f < WIDTH; f++) free[f] = (free[f] ?? 0) + (block.change[p * WIDTH + f] ?? 0)
        steps.push({ atMs: block.at[p] ?? 0, free: resourcesOf(free, this.#withNodes) })
      }
    }
    return steps
  }
}

/** Whether nothing changes in a block for a search: all of its points have enough, or none has. */
function passes (block: Block, fields: readonly number[], free: Float64Array, wanted: Float64Array, running: boolean): boolean {
  for (const f of fields) {
    const before = free[f] ?? 0
    const needed = wanted[f] ?? 0
    if (running && before + (block.low[f] ?? 0) < needed) return false
    if (!running && before + (block.high[f] ?? 0) < needed) return true
  }
  return running
}
