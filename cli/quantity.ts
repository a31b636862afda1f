/** Quantities as people type them, read strictly: a unit that is not known is an error, never a guess. */
import { InvalidInputError } from '../protocol/core/errors.ts'
import { parseDuration } from '../protocol/core/notation/duration.ts'

export { mebibytes } from '../protocol/core/notation/size.ts'

/** A whole number. @throws InvalidInputError naming the option */
export function wholeNumber (text: string, option: string): number {
  if (!/^\d{1,12}$/.test(text)) throw new InvalidInputError(`${option} must be a whole number, not "${text}"`)
  return Number(text)
}

/** A whole number within bounds. @throws InvalidInputError naming the option and the bounds */
export function wholeOf (text: string, option: string, min: number, max: number): number {
  const number = wholeNumber(text, option)
  if (number < min || number > max) throw new InvalidInputError(`${option} must be from ${min} to ${max}, not ${number}`)
  return number
}

/** `50ms`, `0.2s` or `50` in milliseconds. @throws InvalidInputError naming the option */
export function milliseconds (text: string, option: string): number {
  const [, number, unit] = /^(\d{1,9}(?:\.\d{1,6})?) ?(ms|s|)$/.exec(text) ?? []
  if (number === undefined) throw new InvalidInputError(`${option} must be a time such as 50ms, not "${text}"`, 'units are ms and s; a plain number is ms')
  return unit === 's' ? Number(number) * 1000 : Number(number)
}

/** `12.5` in thousandths. @throws InvalidInputError naming the option */
export function thousandths (text: string, option: string): number {
  if (!/^\d{1,9}(\.\d{1,3})?$/.test(text)) throw new InvalidInputError(`${option} must be a price such as 12.5, not "${text}"`, 'in the unit of the federation, with at most three decimals')
  return Math.round(Number(text) * 1000)
}

/** `90m`, `8h`, `1d12h`, `PT90M` in milliseconds. @throws InvalidInputError naming the option */
export function span (text: string, option: string): number {
  const ms = parseDuration(text)
  if (ms === null || ms === 0 || !Number.isSafeInteger(ms)) throw new InvalidInputError(`${option} must be a duration such as 8h, not "${text}"`, 'such as 90m, 8h, 1d12h or PT90M')
  return ms
}

/** As `span`, or `0s`. @throws InvalidInputError naming the option */
export const spanOrNone = (text: string, option: string): number => /^0[a-z]?$/.test(text) ? 0 : span(text, option)

/**
 * `2026-12-01T08:00` in the time of this machine, or with `Z` or `+09:00` where that is another; epoch ms.
 * @throws InvalidInputError naming the option, also for a day or an hour that does not exist
 */
export function moment (text: string, option: string): number {
  const fields = /^(\d{4})-(\d\d)-(\d\d)(?:T(\d\d):(\d\d)(?::(\d\d))?(Z|[+-]\d\d:\d\d)?)?$/.exec(text)
  if (fields === null) throw new InvalidInputError(`${option} must be a time such as 2026-12-01T08:00, not "${text}"`, 'in the time of this machine; with Z or +09:00 at the end in that zone')
  const parts: Array<string | undefined> = fields.slice(1, 7)
  const [year = 0, month = 0, day = 0, hour = 0, minute = 0, second = 0] = parts.map(part => Number(part ?? 0))
  // Date makes 2 March of 30 February.
  const daysInMonth = new Date(Date.UTC(year, month, 0)).getUTCDate()
  const ms = month >= 1 && month <= 12 && day >= 1 && day <= daysInMonth && hour < 24 && minute < 60 && second < 60
    ? Date.parse(parts[3] === undefined ? `${text}T00:00` : text)
    : NaN
  if (Number.isNaN(ms)) throw new InvalidInputError(`${option}: there is no time ${text}`)
  return ms
}

/**
 * A moment to come: as `moment`, or `today 18:00`, `tomorrow 08:00` in the time of this machine, or `+3h` from now; epoch ms.
 *
 * @param nowMs clock of this machine
 * @throws InvalidInputError naming the option
 */
export function futureMoment (text: string, option: string, nowMs: number): number {
  const [, later] = /^\+(\w+)$/.exec(text) ?? []
  if (later !== undefined) return nowMs + span(later, option)
  const [, word, hour = '', minute = ''] = /^(today|tomorrow)[ T](\d\d):(\d\d)$/.exec(text) ?? []
  if (word === undefined) return moment(text, option)
  const date = new Date(nowMs)
  // by the calendar of this machine: a day need not have 24 hours
  date.setDate(date.getDate() + (word === 'tomorrow' ? 1 : 0))
  if (Number(hour) > 23 || Number(minute) > 59) throw new InvalidInputError(`${option}: there is no time ${text}`)
  date.setHours(Number(hour), Number(minute), 0, 0)
  return date.getTime()
}
