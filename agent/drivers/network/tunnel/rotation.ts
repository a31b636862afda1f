/**
 * Which keys a gateway has, which it gives up, and by which track traffic to each peer goes: decided
 * purely from what is there and what the peers say. Nothing is lost when a key is exchanged because
 * both ends receive on both tracks while traffic moves, and each moves on its own; see
 * docs/adr/0020-tunnel.md.
 */
import type { Track, TunnelTrack } from '../../../../protocol/core/desired.ts'
import { otherTrack, TRACKS } from './names.ts'
import { SESSION_MAX_SECONDS } from './wireguard.ts'

/** A key of this gateway, without the key. */
export interface OwnTrack {
  track: Track
  /** the `keyEpoch` that it was made under */
  epoch: number
  /** Unix ms, by the wall clock: only to tell which is older */
  madeMs: number
}

/** What is kept on the disk of the own keys. */
export interface KeyState {
  tracks: OwnTrack[]
  draining: { track: Track, sinceMs: number } | null
}

/** A peer with what its own gateway says of its tracks. */
export interface RotatingPeer {
  address: string
  tracks: TunnelTrack[]
}

/** What was seen of one peer on one track. */
export interface SessionSeen {
  /** seconds since the epoch; 0 when there was none */
  latestHandshake: number
  /** ms since a byte was last seen to arrive; Infinity is never given: the time since the first look counts */
  quietMs: number
}

export interface Seen {
  nowMs: number
  /** sessions under the keys that peers have now, by track and the peer's address; a track without an interface has none */
  sessions: ReadonlyMap<Track, ReadonlyMap<string, SessionSeen>>
  /** where each peer's route leads now, by address */
  routes: ReadonlyMap<string, Track>
}

export interface RotationOptions {
  /** no byte from any peer for this long means that all have moved; longer than two keep-alives, which show who has not */
  quietMs: number
  /** a key is given up after this even when somebody still uses it */
  graceMs: number
  /** a track that nobody needs stays for this long after the last key was made: peers that change their minds cost no more keys than that */
  tidyMs: number
  /** a session is this old before traffic moves to it: both ends may begin one at once, and which of the two stays is not decided at the first handshake */
  settleMs: number
}

/** More than two keep-alives of 25 s: a peer that still uses a track is heard within that time. */
export const QUIET_MS = 60_000
/** A site that was out of reach of the mesh for longer knows no key that is left, until it hears the newer one. */
export const GRACE_MS = 24 * 3_600_000
/** Few enough keys per hour that nobody who asks for them is a burden. */
export const TIDY_MS = 600_000
/** Handshakes are told in whole seconds; an answer that is late by more is sent again after 5 s. */
export const SETTLE_MS = 2_000
const DEFAULTS: RotationOptions = { quietMs: QUIET_MS, graceMs: GRACE_MS, tidyMs: TIDY_MS, settleMs: SETTLE_MS }

export interface Decision {
  /** a key is to be made for this track */
  open: Track | null
  /** all have left this track: its interface and its key go */
  close: Track | null
  draining: Track | null
  /** by address of the peer; on tracks that stay */
  routes: Map<string, Track>
  /** sessions that are to be kept alive, as `track address`: those in use and those that are to be */
  alive: Set<string>
  /** in words, what is waited for; empty when all is as wished */
  waiting: string[]
}

export const sessionKey = (track: Track, address: string): string => `${track} ${address}`

const lists = (peer: RotatingPeer, track: Track): TunnelTrack | undefined => peer.tracks.find((one) => one.track === track)

/** The track that is to be given up: one with an old key first, else one that nobody needs; null when both may stay, or there is only one. */
function chooseDraining (state: KeyState, peers: readonly RotatingPeer[], keyEpoch: number, nowMs: number, tidyMs: number): Track | null {
  const older = [...state.tracks].sort((a, b) => a.epoch - b.epoch || a.madeMs - b.madeMs || a.track - b.track)
  const candidates = older.filter(({ epoch }) => epoch < keyEpoch).map(({ track }) => track)
  const begun = state.draining?.track ?? null
  if (candidates.length > 0) return begun !== null && candidates.includes(begun) ? begun : candidates[0] ?? null
  if (state.tracks.length < 2) return null
  // Tidying up: one session per peer is enough. Of two gateways that give up different tracks the one with
  // track 0 goes on and the other turns round; nobody begins while a peer is about to leave the other track.
  const spare = older.map(({ track }) => track).filter((track) => peers.every((peer) => {
    const other = lists(peer, otherTrack(track))
    return other !== undefined && (!other.draining || (begun === track && track === 0))
  }))
  if (begun !== null && spare.includes(begun)) return begun
  const settled = state.tracks.every(({ madeMs }) => nowMs - madeMs >= tidyMs)
  return settled || begun !== null ? spare[0] ?? null : null
}

/** A track that is needed and not there: to leave the draining one for, or because a peer has left the other. */
function chooseOpening (state: KeyState, draining: Track | null, peers: readonly RotatingPeer[]): Track | null {
  const has = (track: Track): boolean => state.tracks.some((one) => one.track === track)
  if (state.tracks.length === 0) return 0
  for (const track of TRACKS) {
    if (has(track)) continue
    const other = otherTrack(track)
    const asked = peers.some((peer) => {
      const there = lists(peer, other)
      return (there === undefined && peer.tracks.length > 0) || there?.draining === true
    })
    if (draining === other || asked) return track
  }
  return null
}

/** The track that both ends should use; each end comes to its own answer, and either answer loses nothing. */
function wantedTrack (own: readonly Track[], draining: Track | null, peer: RotatingPeer, current: Track | undefined, isAlive: (track: Track) => boolean): Track | null {
  const common = own.filter((track) => lists(peer, track) !== undefined)
  if (common.length < 2) return common[0] ?? null
  const leaving = TRACKS.filter((track) => draining === track || lists(peer, track)?.draining === true)
  // two that give up different tracks would wait for each other: track 0 goes first
  if (leaving.length > 0) return otherTrack(leaving[0] ?? 0)
  return current ?? TRACKS.find(isAlive) ?? 0
}

/**
 * One step of the exchange; asked again after every step and at every pass. It never asks for a key
 * to be made and another to be given up at once.
 *
 * @param keyEpoch see `TunnelSpec`
 */
export function decide (state: KeyState, peers: readonly RotatingPeer[], keyEpoch: number, seen: Seen, options: RotationOptions = DEFAULTS): Decision {
  const draining = chooseDraining(state, peers, keyEpoch, seen.nowMs, options.tidyMs)
  const open = chooseOpening(state, draining, peers)
  const own = [...state.tracks.map(({ track }) => track), ...(open === null ? [] : [open])].sort()
  const nowSeconds = seen.nowMs / 1000
  const session = (track: Track, address: string): SessionSeen | undefined => seen.sessions.get(track)?.get(address)
  const isAlive = (track: Track, address: string): boolean => nowSeconds - (session(track, address)?.latestHandshake ?? 0) <= SESSION_MAX_SECONDS

  const waiting: string[] = []
  const alive = new Set<string>()
  const plan = (tracks: readonly Track[]): Map<string, Track> => {
    const routes = new Map<string, Track>()
    for (const peer of peers) {
      const at = (track: Track): boolean => isAlive(track, peer.address)
      const known = seen.routes.get(peer.address)
      const current = known !== undefined && tracks.includes(known) ? known : undefined
      const want = wantedTrack(tracks, draining, peer, current, at)
      // who is not ready on the wished track stays where it is, or goes wherever it is heard
      const works = (track: Track | undefined): boolean => track !== undefined && lists(peer, track) !== undefined && at(track)
      const isSettled = (track: Track): boolean => track === current || nowSeconds - (session(track, peer.address)?.latestHandshake ?? 0) >= options.settleMs / 1000
      const ready = [...(want !== null && (isSettled(want) || !works(current)) ? [want] : []), current, ...tracks].find(works)
      // a route there must be, also without a session: what has none would leave by the host's own default route
      const route = ready ?? want ?? current ?? tracks[0]
      if (route === undefined) continue
      routes.set(peer.address, route)
      alive.add(sessionKey(route, peer.address))
      if (want !== null) alive.add(sessionKey(want, peer.address))
    }
    return routes
  }

  if (draining === null || open !== null || state.draining?.track !== draining) return { open, close: null, draining, routes: plan(own), alive, waiting }
  const left = own.filter((track) => track !== draining)
  const stillUsing = peers.filter(({ address }) => {
    const last = session(draining, address)
    // who is not there at all keeps nobody waiting
    if (last === undefined || !isAlive(draining, address)) return false
    return seen.routes.get(address) === draining || last.quietMs < options.quietMs
  })
  const over = seen.nowMs - state.draining.sinceMs >= options.graceMs
  if (left.length > 0 && (stillUsing.length === 0 || over)) return { open: null, close: draining, draining, routes: plan(left), alive, waiting }
  waiting.push(...stillUsing.map(({ address }) => `${address} still uses track ${draining}, which is being given up`))
  return { open: null, close: null, draining, routes: plan(own), alive, waiting }
}

/** Remembers when bytes were last seen to arrive; a counter that went back is another session's. */
export function noteQuiet (before: ReadonlyMap<string, { rxBytes: number, sinceMs: number }>, rx: ReadonlyMap<string, number>, nowMs: number): Map<string, { rxBytes: number, sinceMs: number }> {
  return new Map([...rx].map(([key, rxBytes]) => {
    const last = before.get(key)
    return [key, last?.rxBytes === rxBytes ? last : { rxBytes, sinceMs: nowMs }]
  }))
}
