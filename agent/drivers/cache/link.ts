import { runOutside } from '../../services/outside.ts'
import { DEFAULT_LINK } from './plan.ts'
import type { Link } from './plan.ts'

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
