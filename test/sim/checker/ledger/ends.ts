import type { Invariant } from '../invariant.ts'
import { type HostModel, type LeaseModel, type World, isLive, isOwnGateway, leaseText, listOf, numberOf, textOf, violated } from '../model.ts'

/** A master must have been heard of in this time before the start of an advance reservation. */
export const CONFIRM_MS = 600_000

/** Longest from a decision until it is on the disk and seen. */
const SYNC_MS = 500

interface Pending { host: HostModel, atMs: number, ttlMs: number }
interface Release { id: number, copy: number, clusterId: string, offerId: string, leaseIds: readonly unknown[] }

/**
 * What is promised ends when the protocol says so: not before its time to live, its term, or the word
 * of somebody entitled; and every hold and every inactive lease does end.
 */
export function ends (world: World): Invariant {
  const NAME = 'ends-early'
  const LATE = 'always-ends'
  const { activateTtlMs, clockRate, clockGrainMs, tickMs } = world.description.bounds
  /** releases that arrived and are not answered yet */
  const open = new Map<string, Release[]>()
  /** when a master was heard of through hosts' keep-alives, ledger clock: by host and cluster */
  const heard = new Map<string, number[]>()
  /** first asked for, or the last boot since: by host, cluster and offer */
  const extendedAt = new Map<string, number>()
  const releasedOffers = new Set<string>()
  /** extensions that are held: since they were seen, or the last boot */
  const heldSince = new Map<string, Pending>()
  /** when holds of an offer arrived, by host */
  const asked = new Map<string, number[]>()
  const readySeen = new Map<HostModel, number>()
  let next = Number.POSITIVE_INFINITY

  const covers = (release: Release, lease: LeaseModel): boolean =>
    release.clusterId === lease.facts.clusterId && (release.offerId === '' || release.offerId === lease.facts.offerId) && (release.leaseIds.length === 0 || release.leaseIds.includes(lease.id))

  const confirmed = ({ host, facts }: LeaseModel): boolean =>
    (heard.get(`${host.name}/${facts.clusterId}`) ?? []).some(at => at >= facts.startMs - CONFIRM_MS - clockGrainMs && at <= facts.startMs + clockGrainMs)
  /** held so long before its start that it needs to be confirmed */
  const isAdvance = (lease: LeaseModel): boolean => lease.facts.confirmByMs > 0 || lease.facts.startMs > ledgerAt(lease.host, lease.heldTrueMs) + 60_000

  /** A release covers it, or time does. */
  function mayEnd (lease: LeaseModel, state: string, endedMs: number): boolean {
    const { facts } = lease
    if (lease.releasedMs > 0 || lease.lost) return true
    if (endedMs >= facts.endMs) return true
    const passed = world.nowMs - lease.countsFromMs
    if (state === 'held') return passed >= lease.firstTtlMs * (1 - clockRate) - clockGrainMs
    if (state !== 'committed') return false
    if (endedMs >= facts.startMs && isAdvance(lease) && !confirmed(lease)) return true
    return passed >= activateTtlMs * (1 - clockRate) - SYNC_MS && endedMs >= facts.startMs + activateTtlMs * (1 - clockRate) - clockGrainMs
  }

  /** True time by which it must have ended, if its host works all the while. */
  function mustEndMs (lease: LeaseModel): number {
    const { facts, host } = lease
    const ready = host.readySinceMs
    const slack = tickMs + clockGrainMs
    if (facts.state === 'held') return Math.max(lease.countsLatestMs + lease.firstTtlMs * (1 + clockRate), ready) + slack
    if (facts.state === 'committed') {
      const startTrue = facts.startMs - (host.facts?.ledgerOffMs ?? 0)
      return Math.max(Math.max(lease.countsLatestMs, startTrue) + activateTtlMs * (1 + clockRate), ready) + slack
    }
    if (facts.state === 'active') return Math.max(facts.endMs - (host.facts?.ledgerOffMs ?? 0) + Math.abs(facts.endMs - ledgerNow(host)) * clockRate, ready) + slack
    return Number.POSITIVE_INFINITY
  }

  const lapsesMs = ({ host, atMs, ttlMs }: Pending): number => Math.max(atMs + ttlMs * (1 + clockRate), host.readySinceMs) + tickMs + clockGrainMs

  const ledgerNow = (host: HostModel): number => host.facts?.clockMs ?? 0
  function ledgerAt (host: HostModel, trueMs: number): number {
    return trueMs + (host.facts?.ledgerOffMs ?? 0)
  }

  function schedule (): void {
    next = Number.POSITIVE_INFINITY
    for (const one of heldSince.values()) next = Math.min(next, lapsesMs(one))
    for (const host of world.hosts.values()) {
      if (host.readySinceMs === Number.POSITIVE_INFINITY) continue
      for (const lease of host.leases.values()) if (isLive(lease)) next = Math.min(next, mustEndMs(lease))
    }
  }

  return {
    name: NAME,
    lease ({ host, lease, before, after, reread }) {
      if (after !== null && after.state !== 'ended') {
        if (before === null) {
          // Decided when the hold came, seen when it was on the disk.
          const came = (asked.get(`${host.name} ${after.offerId}`) ?? []).filter(at => at >= world.nowMs - SYNC_MS)
          lease.countsFromMs = came[0] ?? world.nowMs
          for (const release of open.get(host.name) ?? []) if (covers(release, lease)) lease.releasedMs = world.nowMs
        }
        next = Math.min(next, mustEndMs(lease))
        return
      }
      if (after === null || before === null || before.state === 'ended') return
      if (!mayEnd(lease, before.state, after.endedMs)) {
        const why = before.state === 'active' ? `its end is ${before.endMs}, the ledger clock at ${after.endedMs}` : `after ${Math.round(world.nowMs - lease.countsFromMs)} ms of ${before.state === 'held' ? lease.firstTtlMs : activateTtlMs}`
        violated(world, NAME, host.name, `${leaseText(before)} was ended ${why}, and nobody entitled has released it (${after.endReason})`)
      }
      if (!reread) lease.over = true
    },
    extension (host, before, after) {
      const key = `${host.name}/${after?.clusterId ?? before?.clusterId ?? ''}/${after?.offerId ?? before?.offerId ?? ''}`
      if (after?.state !== 'held') heldSince.delete(key)
      else if (!heldSince.has(key)) heldSince.set(key, { host, atMs: world.nowMs, ttlMs: after.ttlMs })
      next = Math.min(next, heldSince.has(key) ? lapsesMs(heldSince.get(key) as Pending) : next)
      if (before?.state !== 'held' || after?.state !== 'ended') return
      const passed = world.nowMs - (extendedAt.get(`${host.name}/${after.clusterId}/${after.offerId}`) ?? 0)
      const leasesLive = after.leases.some(({ id }) => { const lease = host.leases.get(id); return lease !== undefined && isLive(lease) })
      const wasReleased = releasedOffers.has(`${host.name}/${after.clusterId}/${after.offerId}`) || releasedOffers.has(`${host.name}/${after.clusterId}/`)
      if (leasesLive && !wasReleased && passed < after.ttlMs * (1 - clockRate) - clockGrainMs) violated(world, NAME, host.name, `the extension ${after.offerId} was held ${Math.round(passed)} ms of ${after.ttlMs}`)
    },
    arrive (host, { id, copy, call }) {
      const { method, request, caller } = call
      const clusterId = textOf(request, 'clusterId')
      if (method === 'hostKeepAlive' && isOwnGateway(host, caller)) {
        const key = `${host.name}/${clusterId}`
        const list = heard.get(key) ?? []
        list.push(ledgerAt(host, world.nowMs))
        heard.set(key, list)
      }
      if (method === 'hold') {
        const key = `${host.name} ${textOf(request, 'offerId')}`
        const list = asked.get(key)
        if (list === undefined) asked.set(key, [world.nowMs])
        else list.push(world.nowMs)
      }
      if (method === 'hostExtend') {
        const key = `${host.name}/${clusterId}/${textOf(request, 'offerId')}`
        if (!extendedAt.has(key)) extendedAt.set(key, world.nowMs)
      }
      // a notice ends what is held on top of the present end
      if (method === 'hostCurtail' && isOwnGateway(host, caller)) releasedOffers.add(`${host.name}/${clusterId}/`)
      if (method !== 'hostRelease' || !isOwnGateway(host, caller)) return
      const known = host.facts?.epochs.find(one => one.clusterId === clusterId)?.epoch ?? 0
      const epoch = numberOf(request, 'epoch')
      if (epoch > 0 && epoch < known) return
      const release: Release = { id, copy, clusterId, offerId: textOf(request, 'offerId'), leaseIds: listOf(request, 'leaseIds') }
      releasedOffers.add(`${host.name}/${clusterId}/${release.offerId}`)
      const list = open.get(host.name) ?? []
      list.push(release)
      open.set(host.name, list)
      for (const lease of world.clusters.get(clusterId)?.leases ?? []) {
        if (lease.host !== host || !isLive(lease) || !covers(release, lease)) continue
        lease.releasedMs = world.nowMs
        if (release.leaseIds.length > 0 || release.offerId !== '') lease.givenBack = true
      }
    },
    answer (host, { method, id, copy }) {
      if (method !== 'hostRelease') return
      const list = open.get(host.name)
      const at = list?.findIndex(one => one.id === id && one.copy === copy) ?? -1
      if (at >= 0) list?.splice(at, 1)
    },
    operator ({ host: name, action, clusterId }) {
      const host = world.hosts.get(name)
      if (action !== 'revoke' || host === undefined) return
      for (const lease of world.clusters.get(clusterId)?.leases ?? []) if (lease.host === host) lease.releasedMs = world.nowMs
      releasedOffers.add(`${name}/${clusterId}/`)
    },
    boot ({ host, newBoot }) {
      open.delete(host)
      for (const one of heldSince.values()) if (one.host.name === host) one.atMs = world.nowMs
      if (!newBoot) return
      for (const key of extendedAt.keys()) if (key.startsWith(`${host}/`)) extendedAt.set(key, world.nowMs)
    },
    crash ({ host }) { open.delete(host) },
    host (host) {
      const ready = host.readySinceMs
      if (readySeen.get(host) === ready) return
      readySeen.set(host, ready)
      schedule()
    },
    nextDueMs: () => next,
    due () {
      for (const [key, one] of heldSince) if (lapsesMs(one) < world.nowMs) violated(world, LATE, one.host.name, `the extension ${key.slice(key.lastIndexOf('/') + 1)} is held, should have ended ${Math.round(world.nowMs - lapsesMs(one) + tickMs)} ms ago, and its host works`)
      for (const host of world.hosts.values()) {
        if (host.readySinceMs === Number.POSITIVE_INFINITY) continue
        for (const lease of host.leases.values()) {
          if (isLive(lease) && !lease.lost && mustEndMs(lease) < world.nowMs) violated(world, LATE, host.name, `${leaseText(lease.facts)} should have ended ${Math.round(world.nowMs - mustEndMs(lease) + tickMs)} ms ago, and its host works`)
        }
      }
      schedule()
    }
  }
}
