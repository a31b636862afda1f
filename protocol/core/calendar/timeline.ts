/**
 * What a host has free over time, kept as the points at which it changes. Points lie in blocks of some
 * hundred, each with the extremes of its points, so that a search passes a block that cannot matter in
 * one step and a change moves the points of two blocks only. Changes at one moment are one point: a booking
 * may begin where another ends.
 */
import { type Resources, zero } from '../capacity.ts'
import type { Booking } from './free.ts'

const FIELDS = ['vcpus', 'memoryMib', 'diskMib', 'volumes', 'bandwidthMbit', 'nodes'] as const satisfies ReadonlyArray<keyof Resources>
const WIDTH = FIELDS.length
/** Points of a full block; measured: smaller ones make the way along the blocks longer, larger ones each change. */
const BLOCK = 256

/** From `atMs` on, until the next step, so much is free. */
export interface FreeStep { atMs: number, free: Resources }

class Block {
  count = 0
  readonly at = new Float64Array(BLOCK)
  /** free before the first point, by field */
  readonly base = new Float64Array(WIDTH)
  /** by field and point: free from that point on, counted from `base` */
  readonly value = new Float64Array(WIDTH * BLOCK)
  /** the lowest and the highest that each field comes to at a point, counted from `base` */
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

  /** Free in a field from a point on; before the first one for -1. */
  free (f: number, index: number): number {
    return (this.base[f] ?? 0) + (index < 0 ? 0 : this.value[f * BLOCK + index] ?? 0)
  }

  /** Makes room for a point without effect at `index`. */
  insert (index: number, atMs: number): void {
    this.at.copyWithin(index + 1, index, this.count)
    this.at[index] = atMs
    for (let v = index, f = 0; f < WIDTH; f++, v += BLOCK) {
      this.value.copyWithin(v + 1, v, v + this.count - index)
      this.value[v] = index === 0 ? 0 : this.value[v - 1] ?? 0
    }
    this.count++
  }

  remove (index: number): void {
    this.at.copyWithin(index, index + 1, this.count)
    for (let v = index, f = 0; f < WIDTH; f++, v += BLOCK) this.value.copyWithin(v, v + 1, v + this.count - index)
    this.count--
  }

  isIdle (index: number): boolean {
    for (let v = index, f = 0; f < WIDTH; f++, v += BLOCK) if (this.value[v] !== (index === 0 ? 0 : this.value[v - 1])) return false
    return true
  }

  /** Changes points `from` to `until` (exclusive). */
  shift (from: number, until: number, by: Float64Array): void {
    for (let f = 0; f < WIDTH; f++) {
      const more = by[f] ?? 0
      if (more !== 0) for (let v = f * BLOCK + from, end = f * BLOCK + until; v < end; v++) this.value[v] = (this.value[v] ?? 0) + more
    }
  }

  summarise (): void {
    for (let f = 0; f < WIDTH; f++) {
      let low = Infinity
      let high = -Infinity
      for (let v = f * BLOCK, end = v + this.count; v < end; v++) {
        const value = this.value[v] ?? 0
        if (value < low) low = value
        if (value > high) high = value
      }
      this.low[f] = low
      this.high[f] = high
    }
  }

  /** Moves the later half to a new block. */
  split (): Block {
    const later = new Block()
    const half = this.count >> 1
    later.at.set(this.at.subarray(half, this.count))
    for (let f = 0, v = 0; f < WIDTH; f++, v += BLOCK) {
      const before = this.value[v + half - 1] ?? 0
      later.base[f] = (this.base[f] ?? 0) + before
      for (let p = half; p < this.count; p++) later.value[v + p - half] = (this.value[v + p] ?? 0) - before
    }
    later.count = this.count - half
    this.count = half
    this.summarise()
    later.summarise()
    return later
  }
}

/** A point: its block, and its index in that; an index beyond the block's points is the next block's first. */
interface Place { n: number, index: number }

/** What a search wants, by field that it wants something of. */
interface Wanted { fields: readonly number[], needs: Float64Array }

const fill = (to: Float64Array, from: Resources): void => { for (const [f, field] of FIELDS.entries()) to[f] = from[field] ?? 0 }

const resourcesOf = (valueOf: (f: number) => number, withNodes: boolean): Resources => {
  const resources = zero()
  for (const [f, field] of FIELDS.entries()) if (field !== 'nodes' || withNodes) resources[field] = valueOf(f)
  return resources
}

/** Whether a block, from a point of it on, has enough of all that is wanted. */
const hasEnough = (block: Block, index: number, { fields, needs }: Wanted): boolean => fields.every(f => block.free(f, index) >= (needs[f] ?? 0))

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

  #change ({ resources, fromMs, untilMs }: Booking, sign: 1 | -1): void {
    if (untilMs <= fromMs) return
    const by = Float64Array.from(FIELDS, field => sign * (resources[field] ?? 0))
    this.#ensure(fromMs)
    this.#ensure(untilMs)
    const [first, last] = [this.#blockAt(fromMs), this.#blockAt(untilMs)]
    const [begin, end] = [this.#blocks[first], this.#blocks[last]]
    if (begin === undefined || end === undefined) return
    begin.shift(begin.find(fromMs, true), begin === end ? begin.find(untilMs, true) : begin.count, by)
    for (let n = first + 1; n <= last; n++) {
      const block = this.#blocks[n]
      if (block !== undefined) for (let f = 0; f < WIDTH; f++) block.base[f] = (block.base[f] ?? 0) + (by[f] ?? 0)
    }
    // what begins with the end has what it had before
    if (begin !== end) end.shift(end.find(untilMs, true), end.count, by.map(one => -one))
    this.#settle(last, untilMs)
    this.#settle(first, fromMs)
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

  /** Has a point at a moment, which changes nothing if it is new. */
  #ensure (atMs: number): void {
    if (this.#blocks.length === 0) {
      const block = new Block()
      block.base.set(this.#capacity)
      this.#blocks.push(block)
    }
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
  }

  /** Forgets a point that changes nothing any more. */
  #settle (n: number, atMs: number): void {
    const block = this.#blocks[n]
    if (block === undefined) return
    const index = block.find(atMs, true)
    if (block.at[index] === atMs && index < block.count && block.isIdle(index)) block.remove(index)
    if (block.count === 0) this.#blocks.splice(n, 1)
    else block.summarise()
  }

  /** The first point that is later than a moment, or at it where `orAt`. */
  #place (atMs: number, orAt: boolean): Place {
    const n = this.#blockAt(atMs)
    return { n, index: this.#blocks[n]?.find(atMs, orAt) ?? 0 }
  }

  #freeAt ({ n, index }: Place, f: number): number {
    return this.#blocks[n]?.free(f, index - 1) ?? this.#capacity[f] ?? 0
  }

  /** The least that is free at any moment of [fromMs, untilMs); below zero where more is promised than there is. */
  least (fromMs: number, untilMs: number): Resources {
    const place = this.#place(fromMs, false)
    const least = Float64Array.from(FIELDS, (_, f) => this.#freeAt(place, f))
    for (let n = place.n, from = place.index; n < this.#blocks.length; n++, from = 0) {
      const block = this.#blocks[n]
      if (block === undefined || (block.at[from] ?? 0) >= untilMs) break
      const until = (block.at[block.count - 1] ?? 0) < untilMs ? block.count : block.find(untilMs, true)
      for (let f = 0; f < WIDTH; f++) {
        let low = least[f] ?? 0
        if (from === 0 && until === block.count) low = Math.min(low, (block.base[f] ?? 0) + (block.low[f] ?? 0))
        else for (let p = from; p < until; p++) low = Math.min(low, block.free(f, p))
        least[f] = low
      }
    }
    return resourcesOf(f => least[f] ?? 0, this.#withNodes)
  }

  /**
   * The first moment, from `fromMs` and no later than `latestMs`, from which on `need` is free for
   * `durationMs` without a break; null when there is none. Of what is not needed nothing has to be free.
   *
   * Each window is looked at from its end: behind its last moment with too little is the next start that can
   * be one, whatever is before. What is between that moment and the end is not looked at again, so at the worst every point is seen twice.
   */
  earliest (need: Resources, durationMs: number, fromMs: number, latestMs = Number.POSITIVE_INFINITY): number | null {
    const needs = new Float64Array(WIDTH)
    fill(needs, need)
    const wanted: Wanted = { fields: FIELDS.flatMap((field, f) => (need[field] ?? 0) > 0 ? [f] : []), needs }
    let place = this.#place(fromMs, false)
    let startMs = fromMs
    if (!wanted.fields.every(f => this.#freeAt(place, f) >= (needs[f] ?? 0))) {
      const next = this.#nextEnough(place, wanted)
      if (next === null) return null
      place = next
      startMs = this.#blocks[next.n]?.at[next.index] ?? 0
    }
    while (startMs <= latestMs) {
      const end = this.#place(startMs + durationMs, true)
      const lack = this.#lastLack(place, end, wanted)
      if (lack === null) return startMs
      const next = this.#nextEnough({ n: lack.n, index: lack.index + 1 }, wanted)
      if (next === null) return null
      startMs = this.#blocks[next.n]?.at[next.index] ?? 0
      // up to there it was seen to have enough
      place = next.n > end.n || (next.n === end.n && next.index > end.index) ? next : end
    }
    return null
  }

  /** The first point from a place on with enough of all. */
  #nextEnough ({ n: first, index: begin }: Place, wanted: Wanted): Place | null {
    for (let n = first, from = begin; n < this.#blocks.length; n++, from = 0) {
      const block = this.#blocks[n]
      if (block === undefined || wanted.fields.some(f => (block.base[f] ?? 0) + (block.high[f] ?? 0) < (wanted.needs[f] ?? 0))) continue
      for (let index = from; index < block.count; index++) if (hasEnough(block, index, wanted)) return { n, index }
    }
    return null
  }

  /** The last point of [from, until) with too little of something. */
  #lastLack (from: Place, until: Place, wanted: Wanted): Place | null {
    for (let n = until.n; n >= from.n; n--) {
      const block = this.#blocks[n]
      if (block === undefined || wanted.fields.every(f => (block.base[f] ?? 0) + (block.low[f] ?? 0) >= (wanted.needs[f] ?? 0))) continue
      const least = n === from.n ? from.index : 0
      for (let index = (n === until.n ? until.index : block.count) - 1; index >= least; index--) if (!hasEnough(block, index, wanted)) return { n, index }
    }
    return null
  }

  /** Everything from a moment on, as steps; the first holds from `fromMs`. */
  steps (fromMs: number): FreeStep[] {
    const place = this.#place(fromMs, false)
    const steps: FreeStep[] = [{ atMs: fromMs, free: resourcesOf(f => this.#freeAt(place, f), this.#withNodes) }]
    for (let n = place.n, from = place.index; n < this.#blocks.length; n++, from = 0) {
      const block = this.#blocks[n]
      if (block === undefined) continue
      for (let p = from; p < block.count; p++) steps.push({ atMs: block.at[p] ?? 0, free: resourcesOf(f => block.free(f, p), this.#withNodes) })
    }
    return steps
  }
}
