/** What a master says: its questions to gateways, made from its record, and to people every refusal with its site and reason. */
import { describeError, MusubiError, NoCapacityError, UnreachableError } from '../errors.ts'
import { HOLD_TTL_MS } from '../limits.ts'
import type { ClusterDocument, Receipt } from '../messages.ts'
import type { SitePart } from '../placement/among-sites.ts'
import type { LenderAsk } from './events.ts'
import type { Dropped, MasterRecord } from './record.ts'

/** @param id idempotency key: the same within a round, another in the next  @param grow the site has leases of the cluster already */
export const requestFor = (record: MasterRecord, part: SitePart, id: string, nowMs: number, grow = false, startMs = record.startMs): LenderAsk => ({
  method: 'request',
  request: {
    key: id, clusterId: record.id, cluster: record.name, vni: record.vni, masterSite: record.masterSite, startMs, endMs: record.endMs,
    nodes: part.nodes, volumes: part.volumes, frontend: part.frontend, holdTtlMs: grow ? HOLD_TTL_MS : record.hold?.ttlMs ?? HOLD_TTL_MS, bandwidthMbit: part.bandwidthMbit ?? 0, epoch: record.epoch, sentMs: nowMs, grow,
    ...(record.spec.localCidr === undefined ? {} : { local: true }),
    ...(record.spec.placement?.spread === true ? { spread: true } : {}),
    ...(record.spec.placement?.maxNodesPerHost === undefined ? {} : { maxNodesPerHost: record.spec.placement.maxNodesPerHost })
  }
})

export const extendFor = (record: MasterRecord, id: string, endMs: number, nowMs: number): LenderAsk =>
  ({ method: 'extend', request: { key: id, clusterId: record.id, offerId: id, endMs, ttlMs: HOLD_TTL_MS, epoch: record.epoch, sentMs: nowMs } })

export const commitFor = (record: MasterRecord, offerId: string): LenderAsk =>
  ({ method: 'commit', request: { clusterId: record.id, offerId, key: `${record.id}/${offerId}`, epoch: record.epoch } })

/** A site learns the secrets of the volumes that it has, no others. */
export const activateFor = (record: MasterRecord, site: string, document: ClusterDocument, receipts: readonly Receipt[]): LenderAsk => ({
  method: 'activate',
  request: {
    clusterId: record.id, document, receipts: [...receipts], epoch: record.epoch,
    secrets: record.secrets.filter(secret => document.volumes.some(volume => volume.site === site && volume.name === secret.name))
  }
})

export const releaseFor = (record: MasterRecord, reason: string, part: Pick<Dropped, 'offerId' | 'leaseIds'> = { offerId: '', leaseIds: [] }): LenderAsk =>
  ({ method: 'release', request: { clusterId: record.id, reason, offerId: part.offerId, leaseIds: [...part.leaseIds], epoch: record.epoch } })

export const keepAliveFor = (record: MasterRecord, nowMs: number): LenderAsk =>
  ({ method: 'keepAlive', request: { clusterId: record.id, epoch: record.epoch, sentMs: nowMs, grant: record.grant } })

/** A refusal as it is kept while others are waited for. */
export interface Refused { code: string, text: string, hint: string }

export const refusedBy = (who: string, error: MusubiError): Refused => ({ code: error.code, text: who === '' ? describeError(error) : `${who}: ${describeError(error)}`, hint: error.hint ?? '' })

const lines = (refusals: readonly string[]): string => refusals.join('\n  ')

/** No placement is left. @param placing why the rest of the sites would not do */
export function placeError (name: string, placing: string, refusals: readonly string[], lastCode: string, nearest = ''): MusubiError {
  const message = `cluster ${name}: ${lines([placing, ...refusals])}`
  // When the sites that would have fitted did not answer, that is the news, not the capacity.
  if (lastCode === 'UNREACHABLE') return new UnreachableError(message, 'try again when the site answers; see: musubi search')
  return new NoCapacityError(message, nearestHint(nearest))
}

/** @param nearest as calendars say; '' when they were not asked, or know of nothing */
const nearestHint = (nearest: string): string => nearest === ''
  ? 'ask for less, wait for leases to end, or see what is free: musubi search'
  : `${nearest}; as early as it can be: musubi cluster create --earliest; see what is free: musubi search`

export const allRefused = (name: string, refusals: readonly string[], nearest = ''): MusubiError =>
  new NoCapacityError(`cluster ${name}: refused by ${lines(refusals)}`, nearest === '' ? 'see what is free: musubi search' : nearestHint(nearest))

/** @param untilMs latest start that was wanted */
export const noStart = (name: string, untilMs: number, placing: string, nearest: string): MusubiError =>
  new NoCapacityError(`cluster ${name}: no start until ${new Date(untilMs).toISOString()} is known at which all of it would fit; as things are then: ${placing}`, nearest === '' ? 'ask for less, or allow a later start: --within' : `${nearest}; allow a later start: --within`)

export const notCommitted = ({ name, hold }: Pick<MasterRecord, 'name' | 'hold'>, problems: ReadonlyMap<string, Refused>): MusubiError =>
  new UnreachableError(`cluster ${name}: not every site could commit, so none keeps anything:\n  ${lines([...problems].map(([site, p]) => `${site}: ${p.text}`))}`, `holds end by themselves within ${Math.ceil((hold?.ttlMs ?? HOLD_TTL_MS) / 1000)} s; then try again`)

export function notActivated (problems: ReadonlyMap<string, Refused>): MusubiError {
  const [first] = problems.values()
  const text = [...problems].map(([site, p]) => `site ${site} could not activate its leases: ${p.text}`)
  return new MusubiError(first?.code ?? 'INTERNAL', lines(text), { retryable: true, hint: 'nothing is kept; ask again' })
}

export const heldTooShort = (sites: readonly string[]): MusubiError =>
  new UnreachableError(`the hold at ${sites.join(', ')} ran out before all sites had answered`, 'try again')

export const restarted = (name: string): MusubiError =>
  new MusubiError('MASTER_RESTARTED', `the master restarted while ${name} was being negotiated; nothing is kept`, { retryable: true, hint: 'ask again' })

export const restartedWhileHeld = (name: string): MusubiError =>
  new MusubiError('MASTER_RESTARTED', `the master restarted while ${name} was held for its user; what was held is given back`, { retryable: true, hint: 'ask again: musubi cluster plan --hold' })

/** @param untilMs when it could last be taken */
export const lapsed = (name: string, untilMs: number): MusubiError =>
  new MusubiError('HOLD_LAPSED', `cluster ${name} was held for its user until ${new Date(untilMs).toISOString()}, and not accepted by then; what was held is given back`, { hint: 'ask again: musubi cluster plan --hold, or musubi cluster create' })

/** An error as a record keeps it. */
export const errorOf = (error: MusubiError): NonNullable<MasterRecord['error']> =>
  ({ code: error.code, message: error.message, ...(error.hint === undefined ? {} : { hint: error.hint }) })
