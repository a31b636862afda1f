/** What gateways say of their own tunnel keys, and what of it is believed. */
import type { TunnelTrack } from '../desired.ts'
import { parseEndpoints } from './endpoints.ts'

/** Tracks of a gateway: one key, and while it is exchanged a second one. */
export const MAX_TRACKS = 2

/** 32 bytes in base64: the last character before the sign carries four bits only. */
const WIREGUARD_KEY = /^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$/
export const isTunnelKey = (text: string): boolean => WIREGUARD_KEY.test(text)

/** As it travels: which track it is has not been checked yet, and the endpoint may be two. */
export interface SaidTrack { track: number, publicKey: string, endpoint: string, draining: boolean }

const isTrack = (track: number): track is TunnelTrack['track'] => track === 0 || track === 1

/** What is wrong with a gateway's list of its keys, whoever sent it; null when it can be used. An empty one says nothing. */
export function tracksProblem (said: readonly SaidTrack[]): string | null {
  if (said.length > MAX_TRACKS) return `${said.length} tunnel keys, at most ${MAX_TRACKS} are allowed`
  for (const { track, publicKey, endpoint } of said) {
    if (!isTrack(track)) return `a tunnel key on track ${track}, which is neither 0 nor 1`
    if (!isTunnelKey(publicKey)) return `a tunnel key on track ${track} that is no WireGuard key`
    if (parseEndpoints(endpoint) === null) return `the tunnel endpoint ${JSON.stringify(endpoint.slice(0, 64))} on track ${track}, which is no address and port of a host`
  }
  const [first, second] = said
  if (first?.track === second?.track && second !== undefined) return `two tunnel keys on track ${second.track}`
  if (first?.publicKey === second?.publicKey && second !== undefined) return 'one tunnel key on two tracks'
  return null
}

/** A list without problem, typed and in the order of tracks. */
export const readTracks = (said: readonly SaidTrack[]): TunnelTrack[] =>
  said.flatMap(({ track, publicKey, endpoint, draining }) => isTrack(track) ? [{ track, publicKey, endpoint, draining }] : []).sort((a, b) => a.track - b.track)

/** A version of what a gateway has said: the epoch grows at each of its starts, seq within it; `madeMs` by its wall clock. */
export interface SaidVersion { epoch: number, seq: number, madeMs: number }

/**
 * Whether one statement of a gateway replaces another that is kept from earlier. One that was made later
 * does, too, although its numbers are lower: a gateway that lost its store counts from the beginning.
 */
export const supersedes = (a: SaidVersion, b: SaidVersion): boolean => a.epoch > b.epoch || (a.epoch === b.epoch && a.seq > b.seq) || a.madeMs > b.madeMs

/** Whether both say the same. */
export const sameTracks = (a: readonly TunnelTrack[], b: readonly TunnelTrack[]): boolean => {
  const text = (tracks: readonly TunnelTrack[]): string => tracks.map(({ track, publicKey, endpoint, draining }) => `${track} ${publicKey} ${endpoint} ${String(draining)}`).sort().join()
  return text(a) === text(b)
}
