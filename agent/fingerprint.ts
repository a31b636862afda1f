import { createHash } from 'node:crypto'

/** JSON with sorted keys: equal values give equal text. */
export function canonicalJson (value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(',')}]`
  if (value !== null && typeof value === 'object') {
    const entries = Object.entries(value).filter(([, v]) => v !== undefined).sort(([a], [b]) => (a < b ? -1 : 1))
    return `{${entries.map(([k, v]) => `${JSON.stringify(k)}:${canonicalJson(v)}`).join(',')}}`
  }
  // JSON has no undefined: in an array it is null, as JSON.stringify makes it there
  return value === undefined ? 'null' : JSON.stringify(value)
}

/** Short digest of a spec; drivers store it with what they made, `diff` compares it. */
export function fingerprint (spec: unknown): string {
  return createHash('sha256').update(canonicalJson(spec)).digest('hex').slice(0, 16)
}
