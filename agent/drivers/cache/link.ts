import { readFile } from 'node:fs/promises'
import { runOutside } from '../../services/outside.ts'
import { storedBytes } from './account/accounting.ts'
import type { KnownWay } from './folder.ts'
import { DEFAULT_LINK } from './plan.ts'
import type { CachePlan, Link } from './plan.ts'

/** A frontend that has not answered by then is taken to be as far away as is usual. */
const TRIES_MAX = 3
/** Asking takes up to 4 s in which an apply waits, and frontends take some minutes to come up. */
const RETRY_MS = 60_000

/**
 * The way to the frontend, by the least of three round trips. What rate it has only a load would tell, so that is
 * taken to be the usual one.
 *
 * @returns null when nobody answers: the frontend may come later than the cache
 */
export async function measureLink (namespace: string, frontendAddress: string, signal: AbortSignal): Promise<Link | null> {
  const { stdout, exitCode } = await runOutside('ping', ['-n', '-q', '-c', '3', '-i', '0.2', '-W', '1', frontendAddress], { netns: namespace, signal, okCodes: [1, 2] })
  const least = /= ([\d.]+)\/[\d.]+\/[\d.]+/.exec(stdout)?.[1]
  if (exitCode !== 0 || least === undefined) return null
  // in classes, so that noise does not decide: powers of two
  const rttMs = 2 ** Math.round(Math.log2(Math.max(0.25, Number(least))))
  return { ...DEFAULT_LINK, rttMs }
}

/**
 * What a cache takes the way to its frontend for. While that has not answered it is asked again, when the cache is
 * applied: at most `TRIES_MAX` times, `RETRY_MS` apart, and only while the store is empty, as the keys of stored parts
 * contain the size that follows from the way. A store that has something settles it.
 *
 * @param before what the record says; null when there is none, or it was torn
 * @param nowMs wall-clock time
 * @param measure as `measureLink`
 */
export async function settleLink (before: KnownWay | null | undefined, paths: Pick<CachePlan['paths'], 'config' | 'store'>, nowMs: number, measure: () => Promise<Link | null>): Promise<KnownWay> {
  if (before?.link !== undefined) return { link: before.link }
  if (await storedBytes(paths.store) > 0) return { link: linkOfConfig(await readFile(paths.config, 'utf8').catch(() => '')) }
  const { tries, lastMs } = before?.linkAsked ?? { tries: 0, lastMs: -Infinity }
  // a clock that was set back does not keep it waiting
  if (Math.abs(nowMs - lastMs) < RETRY_MS) return { linkAsked: { tries, lastMs } }
  const link = await measure()
  if (link !== null) return { link }
  return tries + 1 < TRIES_MAX ? { linkAsked: { tries: tries + 1, lastMs: nowMs } } : { link: DEFAULT_LINK }
}

/** A way from which the size of parts follows that a configuration has; the usual one where it has none. Pure. */
export function linkOfConfig (config: string): Link {
  const bytes = Number(/^ *slice (\d{1,10});$/m.exec(config)?.[1] ?? NaN)
  if (Number.isNaN(bytes)) return DEFAULT_LINK
  const { rateMbitPerS } = DEFAULT_LINK
  // `sliceBytes` the other way round; it rounds down to a power of two, so this rounds up
  return { rateMbitPerS, rttMs: Math.ceil(bytes / (rateMbitPerS * 1000)) }
}
