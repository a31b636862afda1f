/** What a master's machine works on: records as on the disk, and what is under way, which a crash forgets. */
import { MusubiError } from '../errors.ts'
import type { Offer, Receipt } from '../messages.ts'
import type { SitePart } from '../placement/among-sites.ts'
import type { LenderAsk, MasterEffect } from './events.ts'
import { type Asked, type MasterRecord, type MasterState, type MasterTrigger, isOver, masterTransitions } from './record.ts'

/** Why a gateway is called; together with site and offer it names a task. */
export type Purpose = 'request' | 'give-up' | 'commit' | 'activate' | 'release' | 'keep-alive' | 'extend' | 'drop' | 'update' | 'amend-commit' | 'amend-activate'

/** Something that is tried until it has worked. */
export interface Task { busy: boolean, dueMs: number, tries: number }

export interface Call {
  clusterId: string
  purpose: Purpose
  site: string
  peer: string
  /** round, offer or document version that it belongs to: an answer to an older one counts for nothing */
  ref: string
  sentMs: number
}

/** One placement that is being asked for; of an extension, all member sites. */
export interface Round {
  ref: string
  parts: Map<string, { part: SitePart, peer: string, gatewayHost: string, grow: boolean }>
  held: Map<string, { offer: Offer | null, validUntilMs: number }>
  refused: Map<string, { code: string, text: string, hint: string }>
}

/** What the last keep-alive told of a site. */
export interface Contact {
  /** master's clock; 0: never */
  heardMs: number
  /** of the leases there, '' when nothing is known */
  state: string
  /** of the leases there */
  endMs: number
  /** their clock minus ours, give or take half the round trip */
  skewMs: number
  error: string
  /** why its leases end before their term, or that they do not any more; absent: neither was said */
  notice?: string
}

export interface Work {
  tasks: Map<string, Task>
  /** negotiating: nothing goes on until the sites in view are told */
  looking: boolean
  round: Round | null
  rounds: number
  /** sites left out of further placements, and every refusal so far, with its site */
  excluded: Set<string>
  /** sites that have refused for want of room while the earliest start is looked for */
  full: Set<string>
  refusals: string[]
  lastCode: string
  /** calendars were asked: what is known of sites is of the time that is wanted */
  inTime: boolean
  /** what would fit instead, as calendars say */
  nearest: string
  /** first request of the negotiation */
  startedMs: number
  /** since when it is in its state, as far as this process knows */
  sinceMs: number
  receipts: Map<string, Receipt[]>
  activated: Set<string>
  /** sites that will not commit or activate, and why: no further attempt is made anywhere */
  problems: Map<string, { code: string, text: string, hint: string }>
  contacts: Map<string, Contact>
  amendReceipts: Map<string, Receipt[]>
  amendActivated: Set<string>
  /** when what is being changed, or given up, last became something else */
  amendedMs: number
  /** the amendment's document, or the decision to extend, is copied: it may be activated, or committed */
  amendReady: boolean
}

export interface MasterMachine {
  readonly site: string
  records: Map<string, MasterRecord>
  works: Map<string, Work>
  calls: Map<number, Call>
  nextCall: number
  clockMs: number
}

export const emptyMaster = (site: string): MasterMachine => ({ site, records: new Map(), works: new Map(), calls: new Map(), nextCall: 1, clockMs: 0 })

/** A machine with what was on the disk; its first event is `start`. */
export function loadMaster (site: string, records: Iterable<MasterRecord>): MasterMachine {
  const machine = emptyMaster(site)
  for (const record of records) machine.records.set(record.id, record)
  return machine
}

export const newWork = (now: number): Work => ({
  tasks: new Map(), looking: false, round: null, rounds: 0, excluded: new Set(), full: new Set(), refusals: [], lastCode: '', inTime: false, nearest: '', startedMs: 0, sinceMs: now,
  receipts: new Map(), activated: new Set(), problems: new Map(), contacts: new Map(), amendReceipts: new Map(), amendActivated: new Set(), amendedMs: 0, amendReady: false
})

/** Where a trigger leads; undefined when the table has no such row. */
export const nextMasterState = (from: MasterState | null, trigger: MasterTrigger, to?: MasterState): MasterState | undefined =>
  masterTransitions.find(row => row.from === from && row.trigger === trigger && (to === undefined || row.to === to))?.to

/** The gateways of the member sites, as decided. */
export const membersOf = (record: MasterRecord): Asked[] => record.offers.map(offer => ({ site: offer.site, peer: offer.gateway.peer }))

export const taskKey = (purpose: Purpose, site: string, ref: string): string => `${purpose} ${site} ${ref}`

/** States that users know by another word: a cluster that is let go is being deleted. */
const wordOf: Readonly<Partial<Record<MasterState, string>>> = { releasing: 'deleting', ended: 'deleted' }

/** One event being worked in: collects effects and keeps the machine's maps. */
export class Turn {
  readonly machine: MasterMachine
  readonly now: number
  readonly effects: MasterEffect[] = []

  constructor (machine: MasterMachine, now: number) {
    this.machine = machine
    this.now = machine.clockMs = Math.max(machine.clockMs, Math.floor(now))
  }

  record (id: string): MasterRecord | undefined {
    return this.machine.records.get(id)
  }

  work (id: string): Work {
    const work = this.machine.works.get(id) ?? newWork(this.now)
    this.machine.works.set(id, work)
    return work
  }

  /** In memory only: what a crash may forget, because it ends by itself. */
  keep (record: MasterRecord): MasterRecord {
    this.machine.records.set(record.id, record)
    return record
  }

  /** Kept, and synced before any other effect of this event is performed; once an event and record. */
  save (record: MasterRecord): MasterRecord {
    const before = this.record(record.id)
    if (before !== undefined && (before.amendment !== record.amendment || before.dropped !== record.dropped)) this.work(record.id).amendedMs = this.now
    this.keep(record)
    const i = this.effects.findIndex(one => one.effect === 'save' && one.record.id === record.id)
    if (i >= 0) this.effects.splice(i, 1)
    this.effects.push({ effect: 'save', record })
    return record
  }

  /**
   * Moves a record along its table.
   *
   * @param to where a trigger has two rows
   * @throws MusubiError INTERNAL when the table has no such row: a bug, never what a peer sent
   */
  move (record: MasterRecord, from: MasterState | null, trigger: MasterTrigger, changes: Partial<MasterRecord>, message: string, to?: MasterState): MasterRecord {
    const state = nextMasterState(from, trigger, to)
    if (state === undefined) throw new MusubiError('INTERNAL', `cluster ${record.name} cannot ${trigger} when ${from ?? 'unknown'}`)
    const work = this.work(record.id)
    work.sinceMs = this.now
    work.round = null
    if (isOver(state)) work.contacts.clear()
    const moved = this.save({ ...record, ...changes, state })
    this.note('cluster.state', `${record.name}: ${wordOf[state] ?? state}${message === '' ? '' : `, ${message}`}`, record.name)
    return moved
  }

  note (type: string, message: string, cluster: string): void {
    this.effects.push({ effect: 'note', type, message, cluster })
  }

  progress (record: MasterRecord, message: string): void {
    this.note('cluster.progress', `${record.name}: ${message}`, record.name)
  }

  /** Calls a gateway; the task of that name is busy until the answer, or its deadline. */
  call (record: MasterRecord, purpose: Purpose, { site, peer }: Asked, ref: string, ask: LenderAsk, deadlineMs: number): void {
    const { machine } = this
    const { tasks } = this.work(record.id)
    const key = taskKey(purpose, site, ref)
    const callId = machine.nextCall++
    tasks.set(key, { busy: true, dueMs: 0, tries: tasks.get(key)?.tries ?? 0 })
    machine.calls.set(callId, { clusterId: record.id, purpose, site, peer, ref, sentMs: this.now })
    this.effects.push({ effect: 'call', callId, peer, ask, deadlineMs })
  }

  forget (id: string): void {
    this.machine.records.delete(id)
    this.machine.works.delete(id)
    this.effects.push({ effect: 'forget', clusterId: id })
  }
}

/** Calls a gateway unless the same is under way, or rests after it failed. */
export function attempt (turn: Turn, record: MasterRecord, purpose: Purpose, asked: Asked, ref: string, ask: () => LenderAsk, deadlineMs: number): void {
  const task = turn.work(record.id).tasks.get(taskKey(purpose, asked.site, ref))
  if (task !== undefined && (task.busy || turn.now < task.dueMs)) return
  turn.call(record, purpose, asked, ref, ask(), deadlineMs)
}
