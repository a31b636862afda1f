import { parseArgs } from 'node:util'
import { InvalidInputError } from '../../protocol/core/errors.ts'

export interface DemoOptions {
  nodes: number
  rttMs: number
  rateMbit: number
  keep: boolean
  json: boolean
  down: boolean
  imageDigest: string | null
}

export const HELP = `npm run demo -- [options]

Builds a real virtual cluster across two sites on this machine, uses it, and removes it.

  --nodes <n>     nodes of the cluster, 2 to 8 (default 4)
  --rtt <ms>      round trip between the sites, 0 to 500 (default 20)
  --rate <Mbit/s> cap on each site's uplink, 10 to 10000 (default 200)
  --image <sha256:...>  node image to boot instead of the default one
  --keep          leave everything running and print how to look around
  --down          end what --keep left running
  --json          one JSON document at the end, progress on stderr
  --help          this text

Examples:
  npm run demo
  npm run demo -- --nodes 2 --json
  npm run demo -- --keep        ... look around ...   npm run demo -- --down`

function integer (text: string | undefined, name: string, min: number, max: number, otherwise: number): number {
  if (text === undefined) return otherwise
  const value = Number(text)
  if (!/^\d+$/.test(text) || value < min || value > max) throw new InvalidInputError(`--${name} must be a whole number from ${min} to ${max}, not "${text}"`, 'see: npm run demo -- --help')
  return value
}

/** @returns null when only help was asked for. @throws InvalidInputError */
export function parseDemoOptions (argv: readonly string[]): DemoOptions | null {
  let values
  try {
    values = parseArgs({
      args: [...argv], strict: true,
      options: {
        nodes: { type: 'string' }, rtt: { type: 'string' }, rate: { type: 'string' }, image: { type: 'string' },
        keep: { type: 'boolean' }, json: { type: 'boolean' }, down: { type: 'boolean' }, help: { type: 'boolean', short: 'h' }
      }
    }).values
  } catch (error) {
    throw new InvalidInputError(error instanceof Error ? error.message : String(error), 'see: npm run demo -- --help')
  }
  if (values.help === true) return null
  if (values.image !== undefined && !/^sha256:[0-9a-f]{64}$/.test(values.image)) throw new InvalidInputError(`--image must be sha256:<64 hex digits>, not "${values.image}"`)
  return {
    nodes: integer(values.nodes, 'nodes', 2, 8, 4),
    rttMs: integer(values.rtt, 'rtt', 0, 500, 20),
    rateMbit: integer(values.rate, 'rate', 10, 10_000, 200),
    keep: values.keep === true, json: values.json === true, down: values.down === true,
    imageDigest: values.image ?? null
  }
}
