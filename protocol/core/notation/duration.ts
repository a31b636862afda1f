const SECOND = 1000
const unitMs: Record<string, number> = { s: SECOND, m: 60 * SECOND, h: 3600 * SECOND, d: 86_400 * SECOND }

/** `90m`, `1h30m`, `2d`, `PT1H30M`, `P2D` in milliseconds; null when it is none of these. */
export function parseDuration (text: string): number | null {
  const iso = /^P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?$/.exec(text)
  const short = /^(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?$/.exec(text)
  const groups: Array<string | undefined> | undefined = (iso ?? short)?.slice(1)
  if (groups === undefined || groups.every(group => group === undefined)) return null
  return ['d', 'h', 'm', 's'].reduce((total, unit, i) => total + Number(groups[i] ?? 0) * (unitMs[unit] ?? 0), 0)
}

/** Milliseconds as `parseDuration` reads them, in whole days, hours, minutes and seconds: `7d`, `1h30m`; `0s` for less than one. */
export function formatDuration (ms: number): string {
  let left = Math.floor(ms / SECOND) * SECOND
  const parts = ['d', 'h', 'm', 's'].flatMap(unit => {
    const size = unitMs[unit] ?? SECOND
    const count = Math.floor(left / size)
    left -= count * size
    return count === 0 ? [] : [`${count}${unit}`]
  })
  return parts.length === 0 ? '0s' : parts.join('')
}
