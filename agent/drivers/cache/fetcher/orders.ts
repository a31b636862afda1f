import { mkdir, readdir, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { FETCH_PATH } from '../../../../protocol/core/cache/terms.ts'
import { InvalidInputError } from '../../../../protocol/core/errors.ts'
import { writeAtomically } from '../folder.ts'
import type { CachePlan } from '../plan.ts'

/** One object to fetch before nodes ask. */
export interface PreheatObject {
  /** path on the frontend, as nodes will ask for it */
  path: string
  /** port of the frontend; the first intercepted one by default */
  port?: number
  sizeBytes?: number
  /** hex; what comes is compared with it */
  sha256?: string
}

/** What to fetch before nodes ask, and how fast. */
export interface PreheatOrder {
  objects: readonly PreheatObject[]
  /** on average, parts come as fast as they can; absent: without limit */
  rateMbitPerS?: number
}

/** Bound of one order, for both its sides: the fetcher holds all of it. */
export const PREHEAT_OBJECTS_MAX = 50_000
/** Name of the order that follows from the specification. */
export const OWN_ORDER = 'profile'
const ORDER_NAME = /^[a-z0-9][a-z0-9-]{0,63}$/

/** What the specification itself has the fetcher do. Pure. */
export function renderOwnOrder ({ spec, listeners }: CachePlan): string {
  const port = listeners[0]?.port ?? 80
  const { preheat } = spec
  const lines = (spec.profile?.indexes ?? []).map(({ kind, path }) => `follow\t${kind}\t${port}\t${path}\n`)
  if (preheat?.rateMbitPerS !== undefined) lines.push(`rate\t${preheat.rateMbitPerS}\n`)
  if (preheat !== undefined) lines.push(`preheat\tmanifest\t${port}\t${preheat.manifest}\n`)
  return lines.join('')
}

/** An order of a person's. Pure. @throws InvalidInputError that names the object */
export function renderOrder ({ listeners }: CachePlan, order: PreheatOrder): string {
  const ports = listeners.map(({ port }) => port)
  const bad = (what: string): never => { throw new InvalidInputError(`preheat: ${what}`) }
  if (order.objects.length > PREHEAT_OBJECTS_MAX) bad(`at most ${PREHEAT_OBJECTS_MAX} objects at once, not ${order.objects.length}`)
  const lines = order.objects.map(({ path, port = ports[0] ?? 80, sizeBytes, sha256 }) => {
    if (!FETCH_PATH.test(path)) bad(`${JSON.stringify(path)} is no path on the frontend`)
    if (!ports.includes(port)) bad(`port ${port} of ${path} is none that the cache has: ${ports.join(', ')}`)
    if (sizeBytes !== undefined && !(Number.isSafeInteger(sizeBytes) && sizeBytes >= 0)) bad(`${path} cannot have ${sizeBytes} bytes`)
    if (sha256 !== undefined && !/^[0-9a-f]{64}$/.test(sha256)) bad(`${JSON.stringify(sha256)} is no SHA-256, of ${path}`)
    return `object\t${port}\t${path}\t${sizeBytes ?? '-'}\t${sha256 ?? '-'}\n`
  })
  const { rateMbitPerS: rate } = order
  if (rate !== undefined && !(rate > 0 && rate <= 1_000_000)) bad(`a rate of ${rate} Mbit/s is out of range`)
  return `${rate === undefined ? '' : `rate\t${rate}\n`}${lines.join('')}`
}

/** Puts an order where the fetcher looks; an empty text takes it away. */
export async function putOrder (folder: string, name: string, text: string): Promise<void> {
  if (!ORDER_NAME.test(name)) throw new InvalidInputError(`${JSON.stringify(name)} is no name of an order`)
  await mkdir(folder, { recursive: true, mode: 0o755 })
  const file = join(folder, `${name}.tsv`)
  if (text === '') await rm(file, { force: true })
  else await writeAtomically(file, text)
}

/**
 * Has orders fetch again what a purge took from them. Which objects an index names the fetcher alone knows, so an order
 * with one is told as well; what it names none of it does not fetch.
 *
 * @param stamp another one than the last time
 * @returns names of orders that fetch something below `prefix`, as far as can be known here
 */
export async function coveringOrders (folder: string, prefix: string, stamp: string | null): Promise<string[]> {
  const found: string[] = []
  for (const name of await orderNames(folder)) {
    const text = await readFile(join(folder, `${name}.tsv`), 'utf8').catch(() => '')
    const covers = text.split('\n').some(line => {
      const [what, , path = ''] = line.split('\t')
      return what === 'preheat' || what === 'object' && path.startsWith(prefix)
    })
    if (!covers) continue
    found.push(name)
    if (stamp === null) continue
    // behind what the budget says, where `OrdersWanted` has it
    const lines = text.split('\n').filter(line => !line.startsWith(AGAIN))
    const at = lines.findIndex(line => !/^(?:cap|pause)\t/.test(line))
    await putOrder(folder, name, lines.toSpliced(at, 0, `${AGAIN}${stamp}\t${prefix}`).join('\n'))
  }
  return found
}

const AGAIN = 'again\t'

/** What orders should say: the specification's own with what a purge asked for, and all of them as `fit` has them. */
export interface OrdersWanted {
  /** text of `OWN_ORDER` before `fit`; empty: there is none */
  own: string
  /** an order as it should be, of what it is; an order that is as it should be stays as it is */
  fit: (text: string) => string
}

/** Orders that do not say what they should, with what they should say; those that are torn or gone included. */
export async function oddOrders (folder: string, { own, fit }: OrdersWanted): Promise<Array<{ name: string, text: string }>> {
  const odd: Array<{ name: string, text: string }> = []
  for (const name of new Set([OWN_ORDER, ...await orderNames(folder)])) {
    const text = await readFile(join(folder, `${name}.tsv`), 'utf8').catch(() => '')
    // what a purge asked for stays
    const again = text.split('\n').filter(line => line.startsWith(AGAIN)).map(line => `${line}\n`).join('')
    const wanted = name === OWN_ORDER ? (own === '' ? '' : fit(`${again}${own}`)) : fit(text)
    if (text !== wanted) odd.push({ name, text: wanted })
  }
  return odd
}

export async function orderNames (folder: string): Promise<string[]> {
  return (await readdir(folder).catch(() => [])).filter(name => name.endsWith('.tsv')).map(name => name.slice(0, -4)).sort()
}
