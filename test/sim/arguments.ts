import { parseArgs, type ParseArgsOptionsConfig } from 'node:util'
import { describeError } from '../../protocol/core/errors.ts'

/** Options of a command of the simulator; prints its usage where that is asked for, or what was given is wrong, and ends. */
export function argumentsOf<T extends ParseArgsOptionsConfig> (usage: string, options: T) {
  try {
    const { values } = parseArgs({ options: { ...options, help: { type: 'boolean', short: 'h' } } })
    if ((values as { help?: boolean }).help === true) {
      console.log(usage)
      process.exit(0)
    }
    return values
  } catch (error) {
    console.error(`${describeError(error)}\n\n${usage}`)
    return process.exit(2)
  }
}

/** A whole number given for an option; ends the process where it is none, or below `least`. */
export function whole (text: string | undefined, name: string, fallback: number, least: number): number {
  const value = text === undefined ? fallback : Number(text)
  if (Number.isSafeInteger(value) && value >= least) return value
  console.error(`--${name} is a whole number from ${least}, not ${text ?? ''}`)
  return process.exit(2)
}
