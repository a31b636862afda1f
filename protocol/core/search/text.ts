/** Figures in the messages of a search: exact, so that what is said to be too small is seen to be so. */

const HOUR_MS = 3_600_000
const MINUTE_MS = 60_000

/** `24 h`, `90 min`, `70 s`: the largest unit that is exact, seconds rounded up. */
export function spanText (ms: number): string {
  if (ms % HOUR_MS === 0) return `${ms / HOUR_MS} h`
  if (ms % MINUTE_MS === 0) return `${ms / MINUTE_MS} min`
  return `${Math.ceil(ms / 1000)} s`
}

/** `64 GiB` where it is whole, else `1500 MiB`. */
export const mibText = (mib: number): string => mib >= 1024 && mib % 1024 === 0 ? `${mib / 1024} GiB` : `${mib} MiB`

/** `16 vCPU, 64 GiB memory`, and `, 20 GiB disk` where a disk is asked for. */
export const shapeText = (need: { vcpus: number, memoryMib: number, diskMib: number }): string =>
  `${need.vcpus} vCPU, ${mibText(need.memoryMib)} memory${need.diskMib === 0 ? '' : `, ${mibText(need.diskMib)} disk`}`

/** A measured time beside its bound: rounded to microseconds, unless that would make them look equal. */
export function rttText (rttMs: number, maxRttMs: number): string {
  const rounded = Math.round(rttMs * 1000) / 1000
  return `${rounded > maxRttMs ? rounded : rttMs} ms`
}

/** `12.5`: a price is counted in thousandths. */
export const priceText = (priceMilli: number): string => String(priceMilli / 1000)
