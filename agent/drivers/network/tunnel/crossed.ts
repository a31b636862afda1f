import { setTimeout as sleep } from 'node:timers/promises'
import { run } from '../../../exec.ts'
import { TRACKS, wgInterface } from './names.ts'
import { parseDump } from './wireguard.ts'
import type { PeerState, WireGuardState } from './wireguard.ts'

/** Longer than a round trip on any path that a cluster is of use on: an answer that is under way has come by then. */
export const LOOK_MS = 1_000
/** After that WireGuard has tried again by itself, and each time it is less likely that both ends do in one instant. */
const LOOKS = 8
const WG_TIMEOUT_MS = 5_000

/**
 * Peers whose handshake has crossed with ours: each end has taken the other's first message, and so threw away its own
 * half; both drop the answers, and try again after 5 s (REKEY_TIMEOUT, WireGuard whitepaper, section 6.1), at almost the same
 * moment. Something came of them, no session did, and nothing has changed since the last look. One end is enough to
 * begin anew: that of the lower key.
 *
 * @param before bytes received by public key at the last look
 */
export function crossed ({ publicKey: own, peers }: WireGuardState, before: ReadonlyMap<string, number>): PeerState[] {
  return peers.filter(({ publicKey, latestHandshake, rxBytes, endpoint, allowedIps, keepaliveSeconds }) =>
    latestHandshake === 0 && rxBytes > 0 && before.get(publicKey) === rxBytes && own < publicKey && endpoint !== null && allowedIps.length > 0 && keepaliveSeconds > 0)
}

/** A peer that is taken away and given again begins a handshake at once when it is kept alive, and without that only when there is something to send. For `wg set INTERFACE`. */
export function anewArguments ({ publicKey, endpoint, allowedIps, keepaliveSeconds }: PeerState): string[] {
  return ['peer', publicKey, 'remove', 'peer', publicKey, 'allowed-ips', allowedIps.join(), 'endpoint', endpoint ?? '', 'persistent-keepalive', String(keepaliveSeconds)]
}

export interface Greeter {
  /** Peers were told to WireGuard: watches, beside everything else, whether sessions come of it. */
  watch (): void
  /** Waits for the look that is under way; no other while `work` goes on: a peer that `work` takes away is not given back. */
  pausedFor<T> (work: () => Promise<T>): Promise<T>
  /** how often a handshake was begun anew */
  count (): number
  stop (): void
}

/** Sees to it that two gateways that greet each other in one instant do not wait for 5 s. @param lookMs for tests */
export function createGreeter (lookMs = LOOK_MS): Greeter {
  let running: AbortController | null = null
  let looking: Promise<unknown> = Promise.resolve()
  let paused = 0
  let left = 0
  let count = 0

  /** @returns bytes received by those without a session; as before when it could not look, null when it never could */
  const look = async (track: typeof TRACKS[number], before: Map<string, number> | null, signal: AbortSignal): Promise<Map<string, number> | null> => {
    const name = wgInterface(track)
    const options = { signal, timeoutMs: WG_TIMEOUT_MS }
    // an interface that is not there, or does not answer, is the next pass's
    const seen = await run('wg', ['show', name, 'dump'], options).then(({ stdout }) => parseDump(stdout), () => null)
    if (seen === null) return before
    const silent = new Map(seen.peers.filter(({ latestHandshake }) => latestHandshake === 0).map(({ publicKey, rxBytes }) => [publicKey, rxBytes]))
    for (const peer of crossed(seen, before ?? new Map<string, number>())) {
      const done = await run('wg', ['set', name, ...anewArguments(peer)], options).then(() => true, () => false)
      if (!done) continue
      count++
      // it counts from nothing now: what comes next has just come, be it as much as before
      silent.set(peer.publicKey, 0)
    }
    return silent
  }

  const work = async (signal: AbortSignal): Promise<void> => {
    let silent = new Map<typeof TRACKS[number], Map<string, number> | null>()
    while (left > 0) {
      await sleep(lookMs, undefined, { signal, ref: false })
      // that is no look: peers may be told long before the rest of a pass is done
      if (paused > 0) continue
      left--
      const looks = Promise.all(TRACKS.map(async (track) => [track, await look(track, silent.get(track) ?? null, signal)] as const))
      looking = looks
      silent = new Map(await looks)
      // one that never answered may not be there: all that did have sessions
      const seen = [...silent.values()].filter((peers) => peers !== null)
      if (seen.length > 0 && seen.every(({ size }) => size === 0)) return
    }
  }

  return {
    watch () {
      left = LOOKS
      if (running !== null) return
      const control = new AbortController()
      running = control
      void work(control.signal).catch(() => undefined).finally(() => { running = null })
    },
    async pausedFor (work) {
      paused++
      try {
        await looking
        return await work()
      } finally {
        paused--
      }
    },
    count: () => count,
    stop () { running?.abort() }
  }
}
