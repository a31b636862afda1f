import type { CallPeer, Methods } from '../peers.ts'
import { isMasterless } from '../api/view/leases.ts'
import { toldSteps } from '../policy/shares.ts'
import { clampToZero } from '../../protocol/core/capacity.ts'
import { Timeline } from '../../protocol/core/calendar/timeline.ts'
import { type ClosedHost, type HostCalendar, type SiteCalendar, coarser, MAX_HOST_STEPS } from '../../protocol/core/calendar/together.ts'
import { describeError } from '../../protocol/core/errors.ts'
import { hostBookings, isLive } from '../../protocol/core/lease/lease.ts'
import { CALENDAR_DEADLINE_MS, MAX_CALENDAR_HOSTS, MAX_CALENDAR_LEASES, MAX_CALENDAR_STEPS } from '../../protocol/core/limits.ts'
import type { Ledger } from '../../store/ledger.ts'

export type HostReply = Methods['hostCalendar']['reply']

/** One host's answer; null with the reason when there was none. */
export interface HostAnswer { host: string, peer: string, roles: readonly string[], reply: HostReply | null, error: string }

export interface CalendarDeps {
  site: string
  /** PeerId of this host */
  peer: string
  ledger: Pick<Ledger, 'state' | 'now' | 'heardMs'>
  /** hosts of the own site that live, this one among them */
  hosts: () => ReadonlyArray<{ host: string, peer: string, roles: readonly string[] }>
  /** why this host takes no new lease, in words; null when it does */
  refusal: () => string | null
  call: CallPeer
  /** a gateway, whose ledger counts what sites borrow; absent: it is none */
  lends?: boolean
}

/** What is promised when, here and at this site. Nothing is held by any of it. */
export interface Calendar {
  /** Of this host, as its ledger says. @param leases also what is promised to whom  @param quotaOf also what this gateway still lends to that site */
  own (leases: boolean, quotaOf?: string): HostReply
  /** Every host of the site asked now, one that does not answer within CALENDAR_DEADLINE_MS with the reason. */
  hosts (leases: boolean): Promise<HostAnswer[]>
  /** What the site has free over time, of hosts that take leases, and why the others do not; `host` is the name. Questions at the same time share one look. */
  site (): Promise<SiteCalendar>
  /** The same for other sites: without names, and not longer than a message. @param noticed what the asking one could have beside it; see `Preempt` */
  told (noticed?: (hosts: readonly HostCalendar[]) => HostCalendar[]): Promise<Pick<Methods['calendar']['reply'], 'site' | 'nowMs' | 'hosts'>>
}

/** @returns the calendar of a host, and at a gateway that of its site */
export function createCalendar ({ site, peer, ledger, hosts, refusal, call, lends }: CalendarDeps): Calendar {
  let look: Promise<SiteCalendar> | null = null
  let telling: ReturnType<Calendar['told']> | null = null

  function own (withLeases: boolean, quotaOf = ''): HostReply {
    const state = ledger.state()
    const nowMs = ledger.now()
    const why = refusal()
    const steps = coarser(new Timeline(state.capacity, hostBookings(state)).steps(nowMs), MAX_HOST_STEPS)
    const live = withLeases ? [...state.occupying.values()].filter(isLive).sort((a, b) => a.startMs - b.startMs || a.endMs - b.endMs) : []
    return {
      nowMs, takesLeases: why === null, why: why ?? '', steps: steps.map(({ atMs, free }) => ({ atMs, free: clampToZero(free) })),
      leases: live.slice(0, MAX_CALENDAR_LEASES).map(lease => ({
        clusterId: lease.clusterId, cluster: lease.cluster, masterSite: lease.masterSite, kind: lease.kind, name: lease.name, state: lease.state,
        startMs: lease.startMs, endMs: lease.endMs, masterless: isMasterless(lease, ledger), ...lease.formerEndMs === undefined ? {} : { formerEndMs: lease.formerEndMs }
      })),
      leftOut: Math.max(0, live.length - MAX_CALENDAR_LEASES),
      quota: quotaOf === '' || lends !== true ? [] : toldSteps(state, quotaOf, nowMs)
    }
  }

  async function ask (one: { host: string, peer: string, roles: readonly string[] }, leases: boolean): Promise<HostAnswer> {
    try {
      return { ...one, reply: one.peer === peer ? own(leases) : await call(one.peer, 'hostCalendar', { leases, quotaOf: '' }, { deadlineMs: CALENDAR_DEADLINE_MS }), error: '' }
    } catch (error) {
      return { ...one, reply: null, error: describeError(error) }
    }
  }

  const askAll = (leases: boolean): Promise<HostAnswer[]> => Promise.all(hosts().slice(0, MAX_CALENDAR_HOSTS).map(one => ask(one, leases)))

  function lookAtSite (): Promise<SiteCalendar> {
    look ??= (async () => {
      const answers = await askAll(false)
      return {
        site, hosts: answers.flatMap(({ host: name, roles, reply }): HostCalendar[] => reply?.takesLeases === true ? [{ host: name, roles, steps: reply.steps }] : []),
        closed: answers.flatMap(({ host: name, reply }): ClosedHost[] => reply?.takesLeases === false ? [{ host: name, why: reply.why }] : [])
      }
    })().finally(() => { look = null })
    return look
  }

  return {
    own,
    hosts: askAll,
    site: lookAtSite,
    told (noticed) {
      const tell = (all: SiteCalendar): Awaited<ReturnType<Calendar['told']>> => {
        const most = Math.max(3, Math.floor(MAX_CALENDAR_STEPS / Math.max(1, all.hosts.length)))
        return { site, nowMs: ledger.now(), hosts: all.hosts.map(({ roles, steps }) => ({ roles: [...roles], steps: coarser(steps, most) })) }
      }
      if (noticed !== undefined) return lookAtSite().then(all => tell({ ...all, hosts: noticed(all.hosts) }))
      // made coarser once for all who ask meanwhile: a peer may ask for hundreds at once
      telling ??= lookAtSite().then(tell).finally(() => { telling = null })
      return telling
    }
  }
}
