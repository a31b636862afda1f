import type { Quote, Shape } from './quote.ts'
import { mibText } from '../search/text.ts'

const when = (ms: number): string => new Date(Math.ceil(ms / 1000) * 1000).toISOString().replace('.000Z', 'Z')
export const shapeText = ({ vcpus, memoryMib }: Shape): string => `${vcpus} vCPU and ${mibText(memoryMib)}`

/**
 * What a site could give instead, for people: `8 of 12 nodes fit now; all 12 from 2026-12-01T14:00:00Z`.
 *
 * @param now how the time that was asked for is called
 * @returns '' when it takes all of it, or knows of nothing else
 */
export function counterText ({ taken, nodes, earliestMs, shape, noticeSites = [] }: Pick<Quote, 'taken' | 'nodes' | 'earliestMs' | 'shape' | 'noticeSites'>, wanted: number, now = 'now'): string {
  if (taken) return ''
  return [
    nodes === 0 ? '' : `${nodes} of ${wanted} nodes fit ${now}`,
    earliestMs === null ? '' : `all ${wanted} from ${when(earliestMs)}${noticeSites.length === 0 ? '' : `, by notice to leases of ${noticeSites.slice(0, 4).join(', ')}: reserve it with --start ${when(earliestMs)}, or --earliest`}`,
    shape === null ? '' : `all ${wanted} ${now} with ${shapeText(shape)} each`
  ].filter(text => text !== '').join('; ')
}
