import { MAX_STRIKES, PROBE_TIMEOUT_MS, SUSPICION_WINDOW } from '../constants.ts'
import { isNewer, type Version } from '../records/view.ts'

/** `suspect`: somebody has lost it, and it has time to speak. `dead`: it did not. */
export type Status = 'alive' | 'suspect' | 'dead'

export interface LivenessTiming {
  /** from the loss of a connection to the suspicion, ms */
  readonly graceMs: number
  /** from the suspicion to death, ms */
  readonly suspicionMs: number
}

/** What is known about one peer in one scope. */
export interface PeerState {
  readonly status: Status
  /** newest record that was heard of it */
  readonly version: Version
  /** newest version that it is suspected at; anything newer refutes */
  readonly accused: Version | null
  /** a connection from here is open */
  readonly connected: boolean
  /** it was lost from here, or does not answer, and nothing but records of it has been heard since */
  readonly lost: boolean
  /** how often it refuted since it was lost */
  readonly strikes: number
  /** when loss becomes suspicion */
  readonly graceEndsMs: number | null
  /** when suspicion becomes death */
  readonly deadlineMs: number | null
}

export type LivenessEvent =
  /** a record of it, from wherever */
  | { readonly type: 'heard', readonly version: Version }
  /** a connection to it opened or ended here */
  | { readonly type: 'connected' | 'disconnected' }
  /** it answered, or did not, when it was asked whether it is there */
  | { readonly type: 'probed', readonly answered: boolean }
  /** another member has lost it */
  | { readonly type: 'accused', readonly version: Version }
  /** it has said nothing for long, and no connection shows whether it is there */
  | { readonly type: 'silent' }
  /** its record has run out */
  | { readonly type: 'expired' }
  | { readonly type: 'tick' }

export type Effect =
  /** ask it whether it is there */
  | 'probe'
  /** say to all that it is suspected */
  | 'accuse'
  /** it is reached again: tell it what it was suspected of, so that it refutes everywhere */
  | 'tell'

interface Step { readonly state: PeerState, readonly effects: readonly Effect[] }

export function newPeer (version: Version, connected: boolean): PeerState {
  return { status: 'alive', version, accused: null, connected, lost: false, strikes: 0, graceEndsMs: null, deadlineMs: null }
}

/** Whether an honest accuser can have meant this version, knowing a little more or less than we do. */
export function isPlausible (accused: Version, known: Version): boolean {
  return accused.epoch === known.epoch && accused.seq <= known.seq + SUSPICION_WINDOW
}

const stay = (state: PeerState, ...effects: Effect[]): Step => ({ state, effects })
const cleared = { status: 'alive', accused: null, deadlineMs: null } as const
const found = { lost: false, strikes: 0, graceEndsMs: null } as const

function suspect (state: PeerState, accused: Version, nowMs: number, timing: LivenessTiming): PeerState {
  return { ...state, status: 'suspect', accused, deadlineMs: nowMs + timing.suspicionMs, graceEndsMs: null }
}

function hear (state: PeerState, version: Version, nowMs: number, timing: LivenessTiming): Step {
  if (!isNewer(version, state.version)) return stay(state)
  // a new start explains the lost connection
  const next = { ...state, version, ...(version.epoch > state.version.epoch ? found : {}) }
  if (state.status === 'alive' || (state.accused !== null && !isNewer(version, state.accused))) return stay(next)
  if (!next.lost) return stay({ ...next, ...cleared })
  const strikes = Math.min(next.strikes + 1, MAX_STRIKES)
  // busy, not gone: the next question to it decides
  if (next.connected) return stay({ ...next, ...cleared, lost: false, strikes })
  // it may have said this before it was lost: what we lost ourselves, we look after ourselves, a few times
  if (next.strikes >= MAX_STRIKES) return stay({ ...next, ...cleared, ...found })
  return stay({ ...next, ...cleared, strikes, graceEndsMs: nowMs + timing.graceMs * 2 ** strikes }, 'probe')
}

function accuse (state: PeerState, version: Version, nowMs: number, timing: LivenessTiming): Step {
  if (isNewer(state.version, version) || !isPlausible(version, state.version)) return stay(state)
  if (state.status !== 'alive') {
    return stay(state.accused !== null && isNewer(version, state.accused) ? { ...state, accused: version } : state)
  }
  return state.connected ? stay(suspect(state, version, nowMs, timing), 'probe') : stay(suspect(state, version, nowMs, timing))
}

/** It did not answer. */
function miss (state: PeerState, nowMs: number, timing: LivenessTiming): Step {
  if (state.status !== 'alive') return stay({ ...state, lost: true })
  // without a connection the grace runs already
  if (!state.connected || state.graceEndsMs !== null) return stay(state)
  const next = { ...state, lost: true }
  if (state.strikes > 0) return stay({ ...next, graceEndsMs: nowMs + timing.graceMs * 2 ** state.strikes })
  return stay(suspect(next, state.version, nowMs, timing), 'accuse')
}

function pass (state: PeerState, nowMs: number, timing: LivenessTiming): Step {
  if (state.graceEndsMs !== null && nowMs >= state.graceEndsMs) {
    return state.status === 'alive' ? stay(suspect(state, state.version, nowMs, timing), 'accuse') : stay({ ...state, graceEndsMs: null })
  }
  if (state.status !== 'suspect' || state.deadlineMs === null || nowMs < state.deadlineMs) return stay(state)
  // an open connection that nothing speaks against outweighs what others say; the probe under way decides
  if (state.connected && !state.lost) return stay({ ...state, deadlineMs: nowMs + timing.suspicionMs }, 'probe')
  return stay({ ...state, status: 'dead', deadlineMs: null })
}

/**
 * One step of failure detection about one peer. Pure; `nowMs` is a {@link PatientClock}.
 *
 * alive -(connection lost and not found again within the grace, no answer, or accused by others)-> suspect
 * -(nothing newer heard of it in time)-> dead; any newer record, or reaching it, makes it alive.
 */
export function step (state: PeerState, event: LivenessEvent, nowMs: number, timing: LivenessTiming): Step {
  switch (event.type) {
    case 'heard': return hear(state, event.version, nowMs, timing)
    case 'accused': return accuse(state, event.version, nowMs, timing)
    case 'connected': return stay({ ...state, ...cleared, ...found, connected: true }, ...(state.status === 'alive' ? [] : ['tell' as const]))
    case 'disconnected': {
      const next = { ...state, connected: false, lost: true }
      return state.status === 'alive' ? stay({ ...next, graceEndsMs: nowMs + timing.graceMs }, 'probe') : stay(next)
    }
    case 'probed':
      if (!event.answered) return miss(state, nowMs, timing)
      return stay({ ...state, ...cleared, ...found }, ...(state.status === 'alive' ? [] : ['tell' as const]))
    case 'silent':
      if (state.status !== 'alive' || state.connected || state.lost) return stay(state)
      return stay({ ...state, lost: true, graceEndsMs: nowMs + PROBE_TIMEOUT_MS + timing.graceMs }, 'probe')
    case 'expired':
      return stay({ ...state, status: 'dead', accused: state.accused ?? state.version, deadlineMs: null, graceEndsMs: null })
    case 'tick': return pass(state, nowMs, timing)
  }
}
