/** Chance of the simulator: sfc32 (Chris Doty-Humphrey, PractRand), seeded by splitmix32. The seed alone decides everything. */

export interface Prng {
  /** 32 bits */
  bits (): number
  /** in [0, 1) */
  unit (): number
  /** a whole number in [from, to], both ends included */
  int (from: number, to: number): number
  /** in [from, to) */
  between (from: number, to: number): number
  chance (probability: number): boolean
  /** @throws RangeError of an empty list */
  pick<T>(list: readonly T[]): T
  /** of [0, most], small ones far more often */
  small (most: number): number
  shuffled<T>(list: readonly T[]): T[]
  /** lower-case hex digits */
  hex (digits: number): string
  /** a UUID of version 4 */
  uuid (): string
  /** chance of its own: how much of it is used changes nothing here */
  fork (label: string): Prng
}

function splitmix (seed: number): () => number {
  let a = seed | 0
  return () => {
    a = (a + 0x9e3779b9) | 0
    let t = a ^ (a >>> 16)
    t = Math.imul(t, 0x21f0aaad)
    t ^= t >>> 15
    t = Math.imul(t, 0x735a2d97)
    return (t ^ (t >>> 15)) >>> 0
  }
}

const HEX = Array.from({ length: 256 }, (_, i) => i.toString(16).padStart(2, '0'))
const byte = (value: number): string => HEX[value & 0xff] ?? ''
export const hex32 = (value: number): string => byte(value >>> 24) + byte(value >>> 16) + byte(value >>> 8) + byte(value)

/** 32 bits of a text (FNV-1a, finished). */
export function hash32 (text: string, start = 0x811c9dc5): number {
  let h = start
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193)
  h ^= h >>> 15
  h = Math.imul(h, 0x735a2d97)
  return (h ^ (h >>> 15)) >>> 0
}

/** 32 hex digits of a text: cheap, for names only. */
export const hash128 = (text: string): string => hex32(hash32(text)) + hex32(hash32(text, 0x2c1b3c6d)) + hex32(hash32(text, 0x297a2d39)) + hex32(hash32(text, 0x1b56c4e9))

/** @param seed a safe whole number, not below zero */
export function createPrng (seed: number): Prng {
  const start = splitmix(seed % 4294967296 ^ Math.imul(Math.floor(seed / 4294967296), 0x9e3779b1))
  return fromState(start(), start(), start(), start())
}

function fromState (s0: number, s1: number, s2: number, s3: number): Prng {
  let a = s0 | 0, b = s1 | 0, c = s2 | 0, d = s3 | 0
  const bits = (): number => {
    const t = (((a + b) | 0) + d) | 0
    d = (d + 1) | 0
    a = b ^ (b >>> 9)
    b = (c + (c << 3)) | 0
    c = (c << 21) | (c >>> 11)
    c = (c + t) | 0
    return t >>> 0
  }
  for (let i = 0; i < 12; i++) bits()
  const unit = (): number => bits() / 4294967296
  const int = (from: number, to: number): number => from + Math.floor(unit() * (to - from + 1))
  const prng: Prng = {
    bits,
    unit,
    int,
    between: (from, to) => from + unit() * (to - from),
    chance: probability => unit() < probability,
    pick (list) {
      if (list.length === 0) throw new RangeError('nothing to pick from')
      return list[int(0, list.length - 1)] as (typeof list)[number]
    },
    small: most => Math.floor(unit() ** 3 * (most + 1)),
    shuffled (list) {
      const out = [...list]
      for (let i = out.length - 1; i > 0; i--) {
        const j = int(0, i)
        const held = out[i] as (typeof list)[number]
        out[i] = out[j] as (typeof list)[number]
        out[j] = held
      }
      return out
    },
    hex (digits) {
      let out = ''
      while (out.length < digits) out += hex32(bits())
      return out.slice(0, digits)
    },
    uuid () {
      const h = hex32(bits()) + hex32(bits()) + hex32(bits()) + hex32(bits())
      return `${h.slice(0, 8)}-${h.slice(8, 12)}-4${h.slice(13, 16)}-${'89ab'.charAt(bits() & 3)}${h.slice(17, 20)}-${h.slice(20)}`
    },
    fork: label => fromState(a ^ hash32(label), b ^ hash32(label, 1), c ^ hash32(label, 2), d ^ hash32(label, 3))
  }
  return prng
}
