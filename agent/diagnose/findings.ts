/** One thing that is wrong, and where. */
export interface Finding {
  /** for programs */
  code: string
  /** `fault`: something does not work; `warning`: it may be so on purpose, or not for long */
  severity: 'fault' | 'warning'
  /** which part of the way */
  where: string
  /** other site that it concerns alone; null: all of them, or none */
  site: string | null
  interface: string | null
  address: string | null
  /** UDP */
  port: number | null
  /** largest size that passes, or the size that was found, bytes of IP */
  bytes: number | null
  what: string
  try: string
}

/** A finding with what does not apply left empty. */
export function found (code: string, of: Pick<Finding, 'where' | 'what' | 'try'> & Partial<Finding>): Finding {
  return { severity: 'fault', site: null, interface: null, address: null, port: null, bytes: null, ...of, code }
}

/** What a program said, where it said something. */
export const quoted = (why: string): string => why === '' ? '' : ` (${why})`
