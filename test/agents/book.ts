/**
 * What agents have acknowledged over REST, and whether they stand by it: a cluster that was accepted
 * is known until it is deleted, a lease that was shown as active is there with the same id, no older
 * token and no earlier end until its deletion was asked for.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { ClusterResource, LeaseResource } from '../../protocol/api.ts'
import { ACTIVATE_TTL_MS, HOLD_TTL_MS } from '../../protocol/core/limits.ts'
import type { RealAgent } from './agent.ts'

/** `asked`: accepted, not settled yet; `leased`: shown as leased; `ending`: deletion asked for, or it had failed */
export type ToldState = 'asked' | 'leased' | 'ending'

export interface Told {
  readonly id: string
  readonly name: string
  readonly master: RealAgent
  readonly state: ToldState
  /** when it came to this state, on this process's clock: lists from before say nothing about it */
  readonly sinceMs: number
  /** somebody asked for other nodes and got no answer: which leases it has is not known, only how many */
  unsure: boolean
  /** end that was acknowledged, ms; 0 before the first */
  endMs: number
  /** active leases as hosts have shown them */
  readonly leases: Map<string, { host: string, token: number, heardMs: number }>
  /** it was made larger or smaller: what it gives back may still be listed for a while, longer when who is to end it is killed */
  resized: boolean
}

/** How long after its due end a lease may still be listed: an agent may be down for a while, and looks once a second. */
const LATE_MS = 20_000

export interface Owed { leaseId: string, token: number, told: Told, sinceMs: number, endMs: number }
interface Waiting { sinceMs: number, text: string, reported: boolean }

export class Book {
  readonly clusters = new Map<string, Told & { state: ToldState, sinceMs: number }>()
  /** broken promises, each once, in words */
  readonly broken: string[] = []
  readonly #waiting = new Map<string, Waiting>()

  told (id: string, name: string, master: RealAgent): Told {
    const told = { id, name, master, state: 'asked' as const, sinceMs: performance.now(), unsure: false, endMs: 0, leases: new Map(), resized: false }
    this.clusters.set(id, told)
    return told
  }

  /** What is heard of its leases counts from now on. */
  now (told: Told, state: ToldState): void {
    const own = this.clusters.get(told.id)
    if (own === undefined) return
    if (state === 'asked') own.leases.clear()
    own.state = state
    own.sinceMs = performance.now()
  }

  break (text: string): void {
    if (!this.broken.includes(text)) this.broken.push(text)
  }

  /** What a host lists. @param askedMs when it was asked  @param nowMs when it had answered, both on this process's clock */
  hear (agent: RealAgent, leases: readonly LeaseResource[], askedMs: number, nowMs: number): void {
    for (const lease of leases) {
      const told = this.clusters.get(lease.clusterId)
      if (lease.state === 'active' && told?.state === 'leased' && told.sinceMs <= askedMs && !told.unsure) {
        const before = told.leases.get(lease.leaseId)
        if (before !== undefined && before.host !== agent.name) this.break(`lease ${lease.leaseId} is at ${before.host} and at ${agent.name}`)
        if (before !== undefined && lease.token < before.token) this.break(`token of ${lease.leaseId} at ${agent.name} went back from ${before.token} to ${lease.token}`)
        told.leases.set(lease.leaseId, { host: agent.name, token: lease.token, heardMs: before?.heardMs ?? nowMs })
      }
      this.#age(agent, lease, nowMs)
    }
    const listed = new Map(leases.map(l => [l.leaseId, l]))
    for (const key of this.#waiting.keys()) {
      const [host, leaseId] = key.split(' ')
      if (host === agent.name && !listed.has(leaseId ?? '')) this.#waiting.delete(key)
    }
  }

  /** Holds and inactive leases end by themselves. */
  #age (agent: RealAgent, lease: LeaseResource, nowMs: number): void {
    const key = `${agent.name} ${lease.leaseId}`
    const text = `${lease.kind} ${lease.name} ${lease.state}`
    const waiting = this.#waiting.get(key)
    if (waiting?.text !== text) {
      this.#waiting.set(key, { sinceMs: nowMs, text, reported: false })
      return
    }
    const bound = lease.state === 'held' ? HOLD_TTL_MS : lease.state === 'committed' ? ACTIVATE_TTL_MS : null
    if (bound === null || waiting.reported || nowMs - waiting.sinceMs < bound + LATE_MS) return
    waiting.reported = true
    this.break(`${text} at ${agent.name} is ${Math.round((nowMs - waiting.sinceMs) / 1000)} s old: it should have ended by itself`)
  }

  /** What this host owes: every active lease that it has shown, of clusters that nobody ended. */
  owed (agent: RealAgent): Owed[] {
    return [...this.clusters.values()].filter(told => told.state === 'leased').flatMap(told => (
      [...told.leases].filter(([, at]) => at.host === agent.name).map(([leaseId, { token }]) => ({ leaseId, token, told, sinceMs: told.sinceMs, endMs: told.endMs }))
    ))
  }

  /** Compares what a host lists, as soon as it answers after its start, with what it owed before. */
  compare (agent: RealAgent, leases: readonly LeaseResource[], owed: readonly Owed[]): void {
    for (const { leaseId, token, told, sinceMs, endMs } of owed) {
      // it was ended or changed meanwhile
      if (told.state !== 'leased' || told.sinceMs !== sinceMs || told.unsure) continue
      const found = leases.find(l => l.leaseId === leaseId)
      if (found === undefined) this.break(`${agent.name} has lost the lease ${leaseId} of ${told.name}`)
      else if (found.state !== 'active') this.break(`the lease ${leaseId} of ${told.name} at ${agent.name} is ${found.state}`)
      else if (found.token < token) this.break(`token of ${leaseId} at ${agent.name} went back from ${token} to ${found.token}`)
      else if (found.endMs < endMs) this.break(`the lease ${leaseId} of ${told.name} at ${agent.name} ends ${endMs - found.endMs} ms too early`)
    }
  }

  /** Every cluster that is `leased`: whole at all hosts. @param all leases by host, everybody answering */
  whole (all: ReadonlyMap<RealAgent, readonly LeaseResource[]>, views: ReadonlyMap<string, ClusterResource>): string[] {
    const wrong: string[] = []
    for (const told of this.clusters.values()) {
      if (told.state !== 'leased') continue
      const view = views.get(told.id)
      const mine = [...all].flatMap(([agent, leases]) => leases.filter(l => l.clusterId === told.id).map(l => ({ agent, lease: l })))
      const active = mine.filter(({ lease }) => lease.state === 'active')
      if (view === undefined) wrong.push(`${told.master.name} has forgotten ${told.name}`)
      else if (active.length !== view.lease.holds) wrong.push(`${told.name} (${view.state}) has ${active.length} active leases of ${view.lease.holds}: ${mine.map(({ agent, lease }) => `${agent.name} ${lease.kind} ${lease.state}`).join(', ')}`)
      for (const { agent, lease } of mine) if (lease.endMs < told.endMs) wrong.push(`the lease ${lease.leaseId} of ${told.name} at ${agent.name} ends ${told.endMs - lease.endMs} ms too early`)
      for (const [leaseId, { host, heardMs }] of told.leases) {
        if (mine.some(({ lease }) => lease.leaseId === leaseId)) continue
        // heard of on its way out, when the master counts it no more
        if (told.resized && heardMs < told.sinceMs + LATE_MS && active.length === view?.lease.holds) told.leases.delete(leaseId)
        else wrong.push(`${host} has lost the lease ${leaseId} of ${told.name}`)
      }
    }
    return wrong
  }

  /** Leases and objects that belong to no cluster that is still wanted; clusters that agents know and nobody asked for. */
  orphans (all: ReadonlyMap<RealAgent, readonly LeaseResource[]>, objects: ReadonlyMap<RealAgent, readonly string[]>): string[] {
    const wanted = (clusterId: string): boolean => this.clusters.get(clusterId)?.state === 'leased'
    // names of objects begin with the first part of their cluster's id
    const short = new Set([...this.clusters.values()].filter(t => t.state === 'leased').map(t => t.id.slice(0, 8)))
    const known = (object: string): boolean => short.has(object.slice(object.indexOf(' ') + 1).slice(0, 8))
    return [
      ...[...all].flatMap(([agent, leases]) => leases.filter(l => !wanted(l.clusterId)).map(l => `${agent.name} lease ${l.kind} ${l.name} ${l.state}`)),
      // the tunnel of a gateway is of all clusters there
      ...[...objects].flatMap(([agent, list]) => list.filter(o => o.startsWith('tunnel ') ? !(all.get(agent) ?? []).some(l => l.state === 'active') : !known(o)).map(o => `${agent.name} object ${o}`))
    ]
  }
}

/** Asks again while the agent is away. @returns null when `check` says that it is not to be asked any more */
export async function insist<T> (ask: () => Promise<T>, goOn: () => boolean): Promise<T | null> {
  for (;;) {
    try {
      return await ask()
    } catch (error) {
      if (!(error instanceof Error) || !('code' in error) || error.code !== 'UNREACHABLE') throw error
      if (!goOn()) return null
      await sleep(50)
    }
  }
}
