/** Plain tables and figures for people; `--json` prints the resource itself. */

/** Left-aligned columns, two spaces apart; the header in capitals, as other tools do it. */
export function table (header: readonly string[], rows: ReadonlyArray<readonly string[]>): string {
  const all = [header.map(h => h.toUpperCase()), ...rows]
  const widths = header.map((_, i) => Math.max(...all.map(row => (row[i] ?? '').length)))
  return all.map(row => row.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join('  ').trimEnd()).join('\n')
}

/** `1.5 GB`, decimal units, as network figures are given. */
export function bytes (n: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB']
  let value = n
  let unit = 0
  while (value >= 1000 && unit < units.length - 1) { value /= 1000; unit++ }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit] ?? ''}`
}

/** `12.3s`, `340ms`, `-` when not there yet. */
export function duration (ms: number | null): string {
  if (ms === null) return '-'
  if (ms < 1000) return `${Math.round(ms)}ms`
  if (ms < 120_000) return `${(ms / 1000).toFixed(1)}s`
  const seconds = Math.round(ms / 1000)
  return `${Math.floor(seconds / 60)}m${(seconds % 60).toString().padStart(2, '0')}s`
}

/** What is left of a term, in the two largest units: `3d04h`, `1h59m`, `2m05s`, `45s`. */
export function timeLeft (ms: number): string {
  const seconds = Math.floor(ms / 1000)
  const units = [[86_400, 'd'], [3_600, 'h'], [60, 'm'], [1, 's']] as const
  const first = units.findIndex(([size]) => seconds >= size)
  if (first === -1) return '0s'
  const [size, unit] = units[first] ?? units[3]
  const next = units[first + 1]
  return `${Math.floor(seconds / size)}${unit}${next === undefined ? '' : `${Math.floor(seconds % size / next[0]).toString().padStart(2, '0')}${next[1]}`}`
}

export const mib = (n: number): string => n >= 10_240 ? `${(n / 1024).toFixed(n % 1024 === 0 ? 0 : 1)} GiB` : `${n} MiB`

/** Prints the resource as JSON, or what `human` makes of it. */
export function show<T> (value: T, json: boolean, human: (value: T) => string): void {
  process.stdout.write(`${json ? JSON.stringify(value, null, 2) : human(value)}\n`)
}

/** A message of several lines, such as one for each site, with all but the first below the first. */
export const indented = (message: string, width: number): string =>
  message.split('\n').map((line, i) => i === 0 ? line : `${' '.repeat(width)}${line.trim()}`).join('\n')

/** How far a clock is off: `+1.5s`, `-40ms`, `-` when it is not known. */
export const skewText = (ms: number | null): string => ms === null ? '-' : `${ms < 0 ? '-' : '+'}${duration(Math.abs(ms))}`
