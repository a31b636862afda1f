import type { LeaseDetail, LeaseEventResource, LeaseResource } from '../../protocol/api.ts'
import { shortId } from '../../protocol/core/notation/short-id.ts'
import { mib, skewText, table, timeLeft } from '../output.ts'

const minute = (ms: number): string => ms === 0 ? '-' : new Date(ms).toISOString().slice(0, 16).replace('T', ' ')
const second = (ms: number): string => ms === 0 ? '-' : new Date(ms).toISOString().slice(0, 19).replace('T', ' ')

/** What is promised, in words: each kind takes something else. */
export function promiseText (l: Pick<LeaseResource, 'resources' | 'segmentId'>): string {
  const { vcpus, memoryMib, diskMib, volumes, bandwidthMbit } = l.resources
  const parts = [
    vcpus > 0 ? `${vcpus} vCPU` : '', memoryMib > 0 ? mib(memoryMib) : '', diskMib > 0 ? `disk ${mib(diskMib)}` : '',
    volumes > 0 ? `${volumes} volume${volumes === 1 ? '' : 's'}` : '', l.segmentId > 0 ? `id ${l.segmentId}` : '', bandwidthMbit > 0 ? `${bandwidthMbit} Mbit/s` : ''
  ].filter(part => part !== '')
  return parts.length === 0 ? '-' : parts.join(', ')
}

const stateText = (l: LeaseResource): string => [l.state, ...l.masterless ? ['masterless'] : [], ...l.formerEndMs > 0 && l.state !== 'ended' ? ['preempted'] : []].join(', ')

/** Masterless ones are marked; what they mean is said once, below. */
export function leasesTable (leases: LeaseResource[]): string {
  if (leases.length === 0) return 'No lease.'
  const rows = table(['lease', 'cluster', 'master', 'kind', 'name', 'state', 'promises', 'start (utc)', 'end (utc)', 'remains', 'skew'],
    leases.map(l => [shortId(l.leaseId), l.cluster, l.masterSite, l.kind, l.name, stateText(l), promiseText(l), minute(l.startMs), minute(l.endMs), timeLeft(l.remainsMs), skewText(l.skewMs)]))
  const lost = [...new Set(leases.filter(l => l.masterless).map(l => `${l.cluster} (${l.masterSite})`))]
  return lost.length === 0 ? rows : `${rows}\n\nmasterless: the master of ${lost.join(', ')} is not heard of. Leases go on to their end; at the master's site: musubi cluster adopt NAME`
}

const about = (e: LeaseEventResource): string => e.what === 'lease' ? `${e.kind} ${e.name}` : e.what
const change = (e: LeaseEventResource): string => e.from === null ? e.state : e.from === e.state ? e.state : `${e.from} > ${e.state}`

/** A ledger's log, oldest first. */
export function historyTable (events: LeaseEventResource[]): string {
  if (events.length === 0) return 'Nothing is recorded.'
  return table(['time (utc)', 'event', 'lease', 'cluster', 'about', 'state', 'token', 'end (utc)', 'reason'],
    events.map(e => [second(e.at), e.event, shortId(e.leaseId === '' ? e.offerId : e.leaseId), e.cluster, about(e), change(e), String(e.token), minute(e.endMs), e.reason]))
}

export function leaseText (l: LeaseDetail): string {
  const heard = l.heardAgoMs === null ? 'not heard of since the start of this agent' : `heard of ${timeLeft(l.heardAgoMs)} ago`
  return [
    `lease      ${l.leaseId}  ${stateText(l)}`,
    `cluster    ${l.cluster}  id ${l.clusterId}`,
    `for        ${l.kind} ${l.name}`,
    `promises   ${promiseText(l)} of ${l.host}`,
    `term       ${second(l.startMs)} to ${second(l.endMs)} UTC${l.endedMs > 0 ? `, ended ${second(l.endedMs)}` : `, ${timeLeft(l.remainsMs)} left`}`,
    ...l.formerEndMs > 0 ? [`notice     its end was ${second(l.formerEndMs)} UTC, before this site needed the room for one of a higher priority`] : [],
    ...l.deadlineMs > 0 && l.endedMs === 0 ? [`deadline   ${second(l.deadlineMs)} UTC: ends then unless it is ${l.state === 'held' ? 'committed' : 'activated'}`] : [],
    ...l.confirmByMs > 0 && l.endedMs === 0 ? [`confirm    by ${second(l.confirmByMs)} UTC its master must be heard of, or it ends`] : [],
    ...l.endReason === '' ? [] : [`why        ${l.endReason}${l.vacated ? '' : '; what ran may still be there'}`],
    `master     ${l.masterSite}  ${l.masterPeer}`,
    `           epoch ${l.epoch}${l.epochHolder === '' || l.epochHolder === l.masterPeer ? '' : `, held by ${l.epochHolder}`}, ${heard}${l.skewMs === null ? '' : `, its clock is ${skewText(l.skewMs)} off`}`,
    `asked by   ${l.requester}`,
    `offer      ${l.offerId}`,
    `tokens     ${l.token} now, ${l.commitToken === 0 ? 'not committed' : `${l.commitToken} at commit`}`,
    '', historyTable(l.history)
  ].join('\n')
}
