/** What events do to the records of one gateway. See `gatewayTransitions` in `record.ts` for the state machine. */
import { MusubiError } from '../errors.ts'
import { checkForm, mustOwn } from './checks.ts'
import type { GatewayEffect, GatewayEvent, SiteAsk } from './events.ts'
import { afterKeepAlive, finishProbe, hear, keepAlive, start, tick } from './keep.ts'
import { type EventOf, type GatewayMachine, type HostResult, type Job, type Phase, type Waiting, type WaitingFor, Turn } from './machine.ts'
import { finishCurtail, finishRestore } from './notice.ts'
import { beginRequest, finishClear, finishHold, finishRehold, finishUndo, freedBy, freedShares, placeByNotice } from './place.ts'
import type { GatewayRecord } from './record.ts'
import { beginRelease, finishRelease } from './release.ts'
import { beginActivate, beginCommit, beginExtend, finishActivate, finishCommit, finishExtend, finishLenders } from './settle.ts'

export const emptyGateway = (site: string): GatewayMachine => ({
  site, records: new Map(), jobs: new Map(), waiting: new Map(), calls: new Map(), heard: new Map(), tidiedMs: new Map(), triedLast: new Set(), lastId: 0, startedMs: 0
})

/** A machine with the records of an earlier process; work the event `start` into it before others. */
export const loadGateway = (site: string, records: Iterable<GatewayRecord>): GatewayMachine =>
  ({ ...emptyGateway(site), records: new Map([...records].map(record => [record.clusterId, record])) })

const clusterOf = (ask: SiteAsk): string => ask.request.clusterId

/** A question arrives: releases and keep-alives are worked on at once, others one after the other. */
function ask (turn: Turn, { askId, caller, ask: asked }: EventOf<'ask'>): void {
  checkForm(asked, turn.now)
  const record = turn.record(clusterOf(asked))
  const entry = { askId, caller, ask: asked, arrivedMs: turn.now, freed: freedBy(record), freedShares: freedShares(record), avoid: [] } satisfies Waiting
  switch (asked.method) {
    case 'keepAlive':
      keepAlive(turn, { ...entry, ask: asked })
      return
    case 'release':
      beginRelease(turn, { ...entry, ask: asked })
      return
    default:
      if (record !== undefined) {
        // Looked at again when it is its turn; before that, so that nobody else fills the line.
        mustOwn(turn.site, record, caller, asked.request.epoch)
        hear(turn, record)
      }
      turn.enqueue(clusterOf(asked), entry)
      // A look at hosts is worth nobody's time.
      if (turn.machine.jobs.get(clusterOf(asked))?.phase.kind === 'probe') turn.machine.jobs.delete(clusterOf(asked))
  }
}

function begin (turn: Turn, entry: Waiting): void {
  const { ask: asked } = entry
  switch (asked.method) {
    case 'request': beginRequest(turn, entry as WaitingFor<'request'>); break
    case 'commit': beginCommit(turn, entry as WaitingFor<'commit'>); break
    case 'activate': beginActivate(turn, entry as WaitingFor<'activate'>); break
    case 'extend': beginExtend(turn, entry as WaitingFor<'extend'>); break
    case 'release': beginRelease(turn, entry as WaitingFor<'release'>); break
    case 'keepAlive': keepAlive(turn, entry as WaitingFor<'keepAlive'>); break
  }
}

type JobIn<K extends Phase['kind']> = Job & { phase: Extract<Phase, { kind: K }> }

function finish (turn: Turn, clusterId: string, job: Job): void {
  switch (job.phase.kind) {
    case 'clear': finishClear(turn, clusterId, job as JobIn<'clear'>); break
    case 'hold': finishHold(turn, clusterId, job as JobIn<'hold'>); break
    case 'undo': finishUndo(turn, clusterId, job as JobIn<'undo'>); break
    case 'rehold': finishRehold(turn, clusterId, job); break
    case 'commit': finishCommit(turn, clusterId, job as JobIn<'commit'>); break
    case 'lenders': finishLenders(turn, clusterId, job as JobIn<'lenders'>); break
    case 'activate': finishActivate(turn, clusterId, job as JobIn<'activate'>); break
    case 'extend': finishExtend(turn, clusterId, job); break
    case 'curtail': {
      finishCurtail(turn, clusterId, job as JobIn<'curtail'>)
      if (job.phase.placing !== null) placeByNotice(turn, job.phase.placing)
      break
    }
    case 'restore': finishRestore(turn, clusterId, job as JobIn<'restore'>); break
    case 'release': finishRelease(turn, clusterId, job as JobIn<'release'>); break
    case 'probe': finishProbe(turn, clusterId, job); break
  }
}

/** A host has answered, or will not. */
function settle (turn: Turn, callId: number, outcome: Pick<HostResult, 'answer' | 'error'>): void {
  const call = turn.machine.calls.get(callId)
  if (call === undefined) return
  turn.machine.calls.delete(callId)
  const { clusterId, host, peer, method } = call
  const { answer } = outcome
  const fitting = answer === null || answer.method === method ? outcome : { answer: null, error: new MusubiError('PROTOCOL', `host ${host} answered ${answer.method} to ${method}`) }
  if (call.jobId === 0) {
    if (answer?.method === 'hostKeepAlive') afterKeepAlive(turn, clusterId, host, answer.reply.state)
    return
  }
  const job = turn.machine.jobs.get(clusterId)
  // A job that was overtaken: hosts refuse what came too late, nobody waits for it.
  if (job?.id !== call.jobId) return
  turn.machine.jobs.set(clusterId, { ...job, open: job.open - 1, results: [...job.results, { host, peer, ...fitting }] })
  turn.touched.add(clusterId)
}

function refusalOf (error: unknown): MusubiError {
  return error instanceof MusubiError ? error : new MusubiError('INTERNAL', `the gateway failed: ${String(error)}`, { cause: error })
}

/** Goes on with a cluster as far as it can: what is finished, then who is next. */
function proceed (turn: Turn, clusterId: string): void {
  const { jobs } = turn.machine
  for (;;) {
    const job = jobs.get(clusterId)
    if (job !== undefined) {
      if (job.open > 0 || turn.goOn(clusterId, job)) return
      jobs.delete(clusterId)
      try {
        finish(turn, clusterId, job)
      } catch (error) {
        turn.refuse(job.askers, refusalOf(error))
      }
      continue
    }
    const entry = turn.dequeue(clusterId)
    if (entry === undefined) return
    try {
      begin(turn, entry)
    } catch (error) {
      turn.refuse([entry.askId], refusalOf(error))
    }
  }
}

/**
 * Works one event into a gateway's machine **in place**; for the single writer that owns it. Never
 * throws for what peers send: a refusal is an effect.
 *
 * @param now the gateway's ledger clock, Unix ms
 */
export function advance (machine: GatewayMachine, event: GatewayEvent, now: number): GatewayEffect[] {
  const turn = new Turn(machine, now)
  switch (event.type) {
    case 'ask':
      try {
        ask(turn, event)
      } catch (error) {
        turn.refuse([event.askId], refusalOf(error))
      }
      break
    case 'reply': settle(turn, event.callId, { answer: event.answer, error: null }); break
    case 'failed': settle(turn, event.callId, { answer: null, error: event.error }); break
    case 'start': start(turn); break
    case 'tick': tick(turn); break
  }
  for (const clusterId of turn.touched) proceed(turn, clusterId)
  return turn.effects
}

/** The pure form of `advance`: the given machine stays as it is. */
export function step (machine: GatewayMachine, event: GatewayEvent, now: number): { state: GatewayMachine, effects: GatewayEffect[] } {
  const state: GatewayMachine = {
    ...machine, records: new Map(machine.records), jobs: new Map(machine.jobs), waiting: new Map(machine.waiting), calls: new Map(machine.calls),
    heard: new Map(machine.heard), tidiedMs: new Map(machine.tidiedMs), triedLast: new Set(machine.triedLast)
  }
  return { effects: advance(state, event, now), state }
}
