import type { HostStatus } from '../peers.ts'

/** Details that drivers give with an object; every field may be missing or odd, so each is checked. */
export function detailOf (host: HostStatus | undefined, kind: string, nameEnd?: string): Record<string, unknown> {
  const object = host?.objects.find(o => o.kind === kind && (nameEnd === undefined || o.name.endsWith(nameEnd)))
  if (object === undefined || object.detail === '') return {}
  try {
    const value: unknown = JSON.parse(object.detail)
    return value !== null && typeof value === 'object' ? value as Record<string, unknown> : {}
  } catch {
    return {}
  }
}
export const figure = (value: unknown): number => typeof value === 'number' && Number.isFinite(value) && value >= 0 ? value : 0
export const inner = (value: unknown): Record<string, unknown> => value !== null && typeof value === 'object' ? value as Record<string, unknown> : {}
