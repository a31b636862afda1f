import type { Invariant } from '../invariant.ts'
import { type HostModel, type World, leaseText, violated } from '../model.ts'

/** What the ledger's clock was slewed by since it was last written down is lost when its agent dies: it is at least once in this time. */
const MARK_MS = 66_000
/** What was promised before a jump may be on its way to the disk for so long. */
const WRITE_MS = 2_000
/** A ledger is opened, and seen to be, in so long. */
const OPENED_MS = 1_000
/** A wall clock moves by so much between two looks at it. */
const WALL_SEEN_MS = 500
/** A difference of the wall clock beyond this is a jump. */
export const JUMP_MS = 60_000

/**
 * The ledger clock never goes back, and within a boot, over any restart of the agent, it runs at the
 * stated rate whatever the wall clock does; after a boot it starts at the wall clock, never earlier.
 * While the wall clock is off by a jump nothing new is promised.
 */
export function clocks (world: World): Invariant {
  const BACK = 'ledger-clock'
  const FROZEN = 'frozen-makes-no-promise'
  const { clockRate, clockGrainMs, idQuarantineMs } = world.description.bounds
  /** where the clock of a host may be, as offset to true time: it moves apart by the rate as time passes */
  const known = new Map<HostModel, { atMs: number, offMs: number }>()
  const started = new Map<HostModel, 'boot' | 'agent'>()

  /** From when on nothing on a host depends on its clock, by that clock; ids that rest do for a while. */
  function idleFrom (host: HostModel): number {
    let fromMs = 0
    for (const { there, facts } of host.leases.values()) {
      if (!there) continue
      if (facts.state !== 'ended' || !facts.vacated) return Number.POSITIVE_INFINITY
      if (facts.kind === 'segment' && facts.commitToken > 0) fromMs = Math.max(fromMs, facts.endedMs + idQuarantineMs, facts.deadlineMs)
    }
    return fromMs
  }

  /** Its wall clock was set a moment ago, by a jump or, with the end of the faults, by NTP. */
  const isUnsettled = (host: HostModel): boolean => world.nowMs - host.jumpedMs < WRITE_MS || (world.nowMs >= world.healedMs && world.nowMs - world.healedMs < WRITE_MS)

  /** Its wall clock is not what it was at its boot. */
  const wasSetSince = (host: HostModel): boolean => host.jumpedMs >= host.bootTrueMs || (world.healedMs >= host.bootTrueMs && world.healedMs <= world.nowMs)

  /** By where its clock would stand, or stood when an agent that never came up wrote it down. */
  const isIdleBy = (host: HostModel, offMs: number): boolean => (idle.get(host) ?? 0) <= Math.max(world.nowMs + offMs, storedMs.get(host) ?? 0) + clockGrainMs

  function judge (host: HostModel): void {
    const facts = host.facts
    if (facts?.ledgerOffMs == null) return
    const offMs = facts.ledgerOffMs
    const last = known.get(host)
    const start = started.get(host)
    const fresh = { atMs: world.nowMs, offMs }
    if (last === undefined) { known.set(host, fresh); started.delete(host); return }
    const elapsed = world.nowMs - last.atMs + (start === undefined ? 0 : MARK_MS)
    const near = (a: number, b: number): boolean => Math.abs(a - b) <= elapsed * clockRate + clockGrainMs
    let right = near(offMs, last.offMs)
    // After a boot: the wall clock, but never earlier than the disk says that it was.
    const sinceMs = world.nowMs - (start === 'boot' ? host.bootTrueMs : last.atMs)
    if (!right && start === 'boot') {
      const nowMs = world.nowMs + offMs
      const wallMs = world.nowMs + facts.wallOffMs
      // Written down at its last event, or at a write after it; its wall clock may have been set right since it has booted.
      const leastMs = (storedMs.get(host) ?? 0) + sinceMs
      const mostMs = (crashedMs.get(host) ?? last.atMs) + last.offMs + sinceMs
      const slackMs = clockGrainMs + 10 + sinceMs * 2 + Math.max(0, mostMs - leastMs) * clockRate
      right = Math.abs(nowMs - Math.max(wallMs, leastMs)) <= slackMs || (nowMs >= leastMs - slackMs && nowMs <= mostMs + slackMs && (nowMs >= wallMs - slackMs || wasSetSince(host)))
    }
    if (!right && start !== undefined && isIdleBy(host, last.offMs)) {
      right = Math.abs(offMs - facts.wallOffMs) <= clockGrainMs + sinceMs * clockRate
      // Nothing depends on it, so it takes the wall clock; never earlier than what is written down.
      const aheadMs = world.nowMs + offMs - (storedMs.get(host) ?? 0)
      if (!right) right = facts.wallOffMs < offMs && aheadMs >= -clockGrainMs && aheadMs <= OPENED_MS
    }
    // Its wall clock was set after the ledger had been opened, and before that was seen.
    if (!right && start !== undefined && (start === 'boot' || isIdleBy(host, last.offMs))) right = host.wallsMs.some(wallMs => Math.abs(offMs - wallMs) <= WALL_SEEN_MS)
    if (!right) violated(world, BACK, host.name, `the ledger clock is ${Math.round(offMs)} ms off true time, ${Math.round(elapsed)} ms ago it was ${Math.round(last.offMs)} ms off (wall clock: ${Math.round(facts.wallOffMs)} ms)`)
    known.set(host, fresh)
    started.delete(host)
  }
  const idle = new Map<HostModel, number>()
  /** where the clock stood, as the disk of a host that is down has it */
  const storedMs = new Map<HostModel, number>()
  /** true ms */
  const crashedMs = new Map<HostModel, number>()

  return {
    name: BACK,
    host (host, before, reread) {
      const facts = host.facts
      if (facts === null) return
      if (before !== null && !reread && facts.clockMs < before.clockMs) violated(world, BACK, host.name, `the ledger's clock went back from ${before.clockMs} to ${facts.clockMs}`)
      if (host.up) judge(host)
      else if (!storedMs.has(host)) storedMs.set(host, facts.clockMs) // later ones are of an agent that is being started
      idle.set(host, idleFrom(host))
    },
    crash ({ host: name }) {
      const host = world.hosts.get(name)
      if (host === undefined) return
      crashedMs.set(host, world.nowMs)
      storedMs.delete(host)
    },
    boot ({ host: name, newBoot }) {
      const host = world.hosts.get(name)
      if (host === undefined) return
      if (newBoot) started.set(host, 'boot')
      else if (!started.has(host)) started.set(host, 'agent')
    },
    diskLost ({ host: name }) {
      const host = world.hosts.get(name)
      if (host !== undefined) known.delete(host)
    },
    lease ({ host, before, after, reread }) {
      const off = host.facts?.ledgerOffMs
      if (before !== null || after === null || reread || off == null || host.facts === null || isUnsettled(host)) return
      if (Math.abs(host.facts.wallOffMs - off) > JUMP_MS + clockGrainMs) violated(world, FROZEN, host.name, `${leaseText(after)} was held while the wall clock is ${Math.round((host.facts.wallOffMs - off) / 1000)} s off the ledger clock`)
    },
    extension (host, before, after, reread) {
      const off = host.facts?.ledgerOffMs
      if (before !== null || after === null || reread || off == null || host.facts === null || isUnsettled(host)) return
      if (Math.abs(host.facts.wallOffMs - off) > JUMP_MS + clockGrainMs) violated(world, FROZEN, host.name, `the extension ${after.offerId} was held while the wall clock is off by a jump`)
    }
  }
}
