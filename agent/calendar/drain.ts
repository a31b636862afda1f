import type { Calendar, HostReply } from './calendar.ts'
import type { CallPeer } from '../peers.ts'
import type { CordonResource } from '../../protocol/api.ts'
import type { DrainLease, DrainResource } from '../../protocol/calendar-api.ts'
import { MusubiError, NotFoundError } from '../../protocol/core/errors.ts'
import { CALENDAR_DEADLINE_MS } from '../../protocol/core/limits.ts'

export interface DrainDeps {
  site: string
  host: string
  isGateway: boolean
  calendar: Pick<Calendar, 'own'>
  call: CallPeer
  /** hosts of the site that are not dead */
  hosts: () => ReadonlyArray<{ host: string, peerId: string }>
  cordonHost: (host: string, cordoned: boolean, reason: string) => Promise<CordonResource>
}

/** Taking a host out of use: nothing new comes, and what is there is listed until it has gone. */
export interface Drain {
  /** Cordons the host, then tells what it still has. @throws NotFoundError, MusubiError NOT_A_GATEWAY, UnreachableError */
  begin (host: string, reason: string): Promise<DrainResource>
  /** What a host still has; changes nothing. @throws as `begin` */
  look (host: string): Promise<DrainResource>
}

type Promised = HostReply['leases'][number]

/** What its user can do about a lease: nothing that runs is moved to another host by itself. */
function adviceFor (site: string, lease: Promised, nowMs: number): string {
  const at = lease.masterSite === site ? '' : `, at site ${lease.masterSite}`
  if (lease.state === 'held') return 'is decided within a minute'
  if (lease.startMs > nowMs) return `has not started: musubi cluster delete ${lease.cluster}, and ask anew${at}`
  if (lease.masterless) return `has no master: let it end, or musubi lease revoke ${lease.cluster} on this host`
  switch (lease.kind) {
    case 'node': return `musubi cluster scale ${lease.cluster} lets the highest numbers go; or musubi cluster delete ${lease.cluster}${at}`
    case 'volume': return `its data go with it: save them, then musubi cluster delete ${lease.cluster}${at}`
    default: return `stays as long as its cluster: musubi cluster delete ${lease.cluster}${at}`
  }
}

export function createDrain (deps: DrainDeps): Drain {
  async function read (host: string): Promise<HostReply> {
    if (host === deps.host) return deps.calendar.own(true)
    const known = deps.hosts()
    const found = known.find(one => one.host === host)
    if (found === undefined) throw new NotFoundError(`this site has no host "${host}" that answers`, known.length === 0 ? 'see: musubi host list' : `it has ${known.map(one => one.host).slice(0, 20).join(', ')}`)
    if (!deps.isGateway) throw new MusubiError('NOT_A_GATEWAY', 'this host is no gateway: it knows its own leases only', { hint: `run it on a gateway of this site, or on ${host} itself` })
    return await deps.call(found.peerId, 'hostCalendar', { leases: true, quotaOf: '' }, { deadlineMs: CALENDAR_DEADLINE_MS })
  }

  async function look (host: string): Promise<DrainResource> {
    const { nowMs, takesLeases, leases, leftOut } = await read(host)
    const rows = leases.map((lease): DrainLease => ({ ...lease, movable: false, advice: adviceFor(deps.site, lease, nowMs) })).sort((a, b) => b.endMs - a.endMs)
    return { host, cordoned: !takesLeases, nowMs, emptyMs: Math.max(0, ...rows.map(lease => lease.endMs)), leases: rows, leftOut }
  }

  return {
    look,
    async begin (host, reason) {
      await deps.cordonHost(host, true, reason === '' ? 'it is being drained' : reason)
      return await look(host)
    }
  }
}
