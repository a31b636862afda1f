import type { PublicTrack } from '../drivers/network/tunnel/driver.ts'
import type { TunnelTrack } from '../../protocol/core/desired.ts'
import { formatEndpoints } from '../../protocol/core/network/endpoints.ts'
import { ConflictError, MusubiError } from '../../protocol/core/errors.ts'
import { sameTracks } from '../../protocol/core/network/tracks.ts'
import type { Store } from '../../store/store.ts'
import type { NamedGateway } from './book.ts'

/** This gateway's own tunnel keys: which there are, as others are to know them, and when they are exchanged. */
export interface OwnKeys {
  /** keys made under a smaller number are to be exchanged */
  epoch (): number
  /** As last told by the helper, with the endpoints that others use; empty before it has told. */
  tracks (): TunnelTrack[]
  /** The key for new offers: one that stays. @throws MusubiError HELPER_UNREACHABLE */
  current (): Promise<string>
  /**
   * Asks for new keys. Resolves when the wish is on the disk; the exchange goes on in the background.
   *
   * @param force also where gateways of active clusters would not hear of the new key
   * @returns the new epoch
   * @throws ConflictError while an exchange is under way; MusubiError GATEWAYS_UNHEARD
   */
  rotate (force: boolean): Promise<number>
  /** Asks the helper which keys there are, and exchanges those that are too old. */
  tick (): Promise<void>
  /** Why keys that are too old are not exchanged, in words. */
  problems (): string[]
  state (): { epoch: number, tracks: readonly PublicTrack[], exchanging: boolean, oldestMs: number | null, overdue: boolean }
}

export interface OwnKeysOptions {
  store: Store
  ask: () => Promise<PublicTrack[]>
  /** where the tunnel ends, in the order of the configuration */
  addresses: readonly string[]
  /** UDP ports by track */
  ports: readonly [number, number]
  maxAgeMs: number
  /** wall clock, Unix ms */
  now: () => number
  /** ms of a clock that is never set */
  monotonic?: () => number
  /** gateways of active clusters that would not hear of a new key */
  unheard: () => readonly NamedGateway[]
  /** others are to know of other keys */
  onTracks: () => void
  /** keys are to be exchanged */
  onEpoch: (epoch: number, why: string) => void
}

const KEY = 'tunnel-epoch'
const HOUR_MS = 3_600_000
/**
 * A key is never older than twice what the configuration allows: a gateway that does not say its own keys, for whatever
 * reason, must not decide how long others keep theirs. Between the two ages somebody can look after it.
 */
const OVERDUE_FACTOR = 2
/** An agent that has just begun has heard of nobody yet, and its wall clock may not be set: it waits for this long first. */
const OVERDUE_WAIT_MS = HOUR_MS

const namesOf = (gateways: readonly NamedGateway[]): string => gateways.map(({ host, site }) => `${host} of ${site}`).join(', ')

export async function createOwnKeys (options: OwnKeysOptions): Promise<OwnKeys> {
  const { store, now, monotonic = () => performance.now() } = options
  const kept = await store.get<{ epoch: number }>(KEY)
  let epoch = Number.isSafeInteger(kept?.epoch) ? kept?.epoch ?? 0 : 0
  let known: readonly PublicTrack[] = []
  let overdueFor: readonly NamedGateway[] = []
  /** since when somebody has been unheard of while a key was too old, without a break */
  let overdueSinceMs: number | null = null

  const published = (tracks: readonly PublicTrack[]): TunnelTrack[] =>
    tracks.map(({ track, publicKey, draining }) => ({ track, publicKey, draining, endpoint: formatEndpoints(options.addresses, options.ports[track]) }))

  async function look (): Promise<readonly PublicTrack[]> {
    const tracks = await options.ask()
    // a store that was lost knows a smaller number than the keys: what is asked for must be above theirs
    epoch = Math.max(epoch, ...tracks.map(one => one.epoch))
    const changed = !sameTracks(published(known), published(tracks))
    known = tracks
    if (changed) options.onTracks()
    return tracks
  }

  const exchanging = (): boolean => known.some(one => one.epoch < epoch || one.draining)
  /** A clock that was wrong when a key was made makes it old as well. */
  const ageOf = ({ madeMs }: PublicTrack): number => Math.abs(now() - madeMs)
  const isOlderThan = (ms: number): boolean => known.length > 0 && known.some(one => !one.draining && ageOf(one) >= ms)
  const isOld = (): boolean => isOlderThan(options.maxAgeMs)

  async function raise (why: string): Promise<number> {
    const next = epoch + 1
    // no gateway gets there; the helper would refuse the whole tunnel, for good
    if (!Number.isSafeInteger(next)) throw new ConflictError(`the keys of this gateway's tunnel have the epoch ${epoch}, and none is higher: they cannot be exchanged`, 'no gateway gets so far: was the agent, or its store, tampered with?')
    await store.put(KEY, { epoch: next }, { sync: true })
    epoch = next
    options.onEpoch(next, why)
    return next
  }

  return {
    epoch: () => epoch,
    tracks: () => published(known),

    async current () {
      const tracks = await look()
      const newest = tracks.filter(one => !one.draining).sort((a, b) => b.epoch - a.epoch || b.madeMs - a.madeMs)[0] ?? tracks[0]
      if (newest === undefined) throw new MusubiError('NOT_READY', 'this gateway has no tunnel key yet', { retryable: true, hint: 'the helper makes it: musubi agent doctor' })
      return newest.publicKey
    },

    async rotate (force) {
      await look()
      if (exchanging()) throw new ConflictError(`the keys of this gateway's tunnel are being exchanged already (epoch ${epoch})`, 'see: musubi tunnel show; it goes on by itself')
      const unheard = options.unheard()
      if (unheard.length > 0 && !force) {
        throw new MusubiError('GATEWAYS_UNHEARD', `these gateways would not hear of the new key: ${namesOf(unheard)}`, { hint: 'wait until they are heard of (musubi tunnel show); with --force the tunnel to them ends after 24 hours, until they are' })
      }
      return await raise(force ? 'asked for, by force' : 'asked for')
    },

    async tick () {
      await look()
      overdueFor = []
      if (exchanging() || !isOld()) {
        overdueSinceMs = null
        return
      }
      overdueFor = options.unheard()
      overdueSinceMs = overdueFor.length === 0 ? null : overdueSinceMs ?? monotonic()
      if (overdueFor.length === 0) await raise(`a key is older than ${Math.round(options.maxAgeMs / HOUR_MS)} hours`)
      else if (isOlderThan(OVERDUE_FACTOR * options.maxAgeMs) && monotonic() - (overdueSinceMs ?? monotonic()) >= OVERDUE_WAIT_MS) {
        await raise(`a key is older than ${Math.round(OVERDUE_FACTOR * options.maxAgeMs / HOUR_MS)} hours, ${namesOf(overdueFor)} unheard`)
        overdueFor = []
      }
    },

    problems: () => overdueFor.length === 0
      ? []
      : [`the tunnel's key is older than ${Math.round(options.maxAgeMs / HOUR_MS)} hours and is not exchanged, as these gateways would not hear of the new one: ${namesOf(overdueFor)}; it is exchanged all the same after ${Math.round(OVERDUE_FACTOR * options.maxAgeMs / HOUR_MS)} hours`],

    state: () => ({ epoch, tracks: known, exchanging: exchanging(), oldestMs: known.length === 0 ? null : Math.max(...known.map(ageOf)), overdue: isOld() })
  }
}
