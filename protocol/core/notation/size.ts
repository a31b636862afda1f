/** Sizes as people type them, read strictly. */
import { InvalidInputError } from '../errors.ts'

const MIB = { MiB: 1, GiB: 1024, TiB: 1024 * 1024 } as const

/**
 * `64GiB`, `1.5TiB`, `768MiB` or `768` in MiB.
 * @throws InvalidInputError naming the option, when the unit is another or it is no whole number of MiB
 */
export function mebibytes (text: string, option: string): number {
  const [, number, unit] = /^(\d{1,12}(?:\.\d{1,6})?) ?([A-Za-z]*)$/.exec(text) ?? []
  if (number === undefined) throw new InvalidInputError(`${option} must be a size such as 64GiB, not "${text}"`, 'units are MiB, GiB and TiB; a plain number is MiB')
  if (unit !== '' && unit !== 'MiB' && unit !== 'GiB' && unit !== 'TiB') throw new InvalidInputError(`${option}: "${text}" has no unit that is known here`, `units are MiB, GiB and TiB, written so${/^[kmgt]i?b?$/i.test(unit ?? '') ? `; did you mean ${number}${(unit ?? '').charAt(0).toUpperCase().replace('K', 'M')}iB?` : ''}`)
  const mib = Number(number) * MIB[unit === '' ? 'MiB' : unit]
  if (!Number.isSafeInteger(mib)) throw new InvalidInputError(`${option}: "${text}" is not a whole number of MiB`)
  return mib
}
