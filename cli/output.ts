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

export const mib = (n: number): string => n >= 10_240 ? `${(n / 1024).toFixed(n % 1024 === 0 ? 0 : 1)} GiB` : `${n} MiB`

/** Prints the resource as JSON, or what `human` makes of it. */
export function show<T> (value: T, json: boolean, human: (value: T) => string): void {
  process.stdout.write(`${json ? JSON.stringify(value, null, 2) : human(value)}\n`)
}
