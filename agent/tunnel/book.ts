import { describeError } from '../../protocol/core/errors.ts'
import type { TunnelTrack } from '../../protocol/core/desired.ts'
import { sharedEndpoint } from '../../protocol/core/network/endpoints.ts'
import { RECONCILE_INTERVAL_MS } from '../../protocol/core/limits.ts'
import { readTracks, sameTracks, type SaidVersion, supersedes, tracksProblem } from '../../protocol/core/network/tracks.ts'
import type { Records } from '../../protocol/mesh/records.ts'
import type { Store } from '../../store/store.ts'

/** A gateway as a document names it. */
export interface NamedGateway { site: string, host: string, peer: string, tunnelPublicKey: string }

/** The last word of a gateway on its keys, as it is kept. */
interface Kept extends SaidVersion { peer: string, site: string, host: string, tracks: TunnelTrack[], /** of these, those that nobody else had before */ held: string[] }

/** What other gateways have said of their tunnel keys: the last word of each, also of those that are not heard now. */
export interface TrackBook {
  /** What that very gateway has said; null: nothing yet. A key that is somebody else's is left out, and an endpoint that this one cannot reach. */
  tracksOf (gateway: Pick<NamedGateway, 'site' | 'host' | 'peer'>): TunnelTrack[] | null
  /** All its keys, for checks of documents; null: it has said nothing yet. */
  keysOf (peer: string): readonly string[] | null
  /** Gateways of active clusters that are not heard now, or do not say their keys: they would not hear of a new one of ours. */
  unheard (): NamedGateway[]
  /** What is wrong with what gateways say, in words. */
  problems (): string[]
  /** Writes down what is new of the gateways that documents name, and forgets the others. */
  tick (): Promise<void>
  stop (): void
}

export interface TrackBookOptions {
  store: Store
  records: Pick<Records, 'view' | 'onChange'>
  /** gateways of other sites that documents on this host name */
  named: () => readonly NamedGateway[]
  /** own endpoints as documents carry them: others are reached by the IP version that both have */
  endpoint: string
  ownKeys: () => readonly string[]
  /** a gateway of an active cluster says something else than before; of one that does so all the time it is told now and then */
  onChange: () => void
  /** ms of a clock that is never set */
  monotonic?: () => number
  log: { warn (facts: object, message: string): void }
}

const PREFIX = 'tunnel-peer/'

/** A record of another release may have any form; who wrote it will be heard again. */
function readKept (value: unknown): Kept | null {
  const one = value as Partial<Kept> | null
  const whole = (n: unknown): boolean => Number.isSafeInteger(n)
  if (typeof one !== 'object' || one === null || typeof one.peer !== 'string' || typeof one.site !== 'string' || typeof one.host !== 'string') return null
  if (!whole(one.epoch) || !whole(one.seq) || !whole(one.madeMs) || !Array.isArray(one.tracks) || !Array.isArray(one.held)) return null
  return tracksProblem(one.tracks) === null ? { ...one as Kept, tracks: readTracks(one.tracks) } : null
}

/**
 * A key that two gateways claim is that of the one that was known here with it first, by its record or
 * by a document: public keys are public, and WireGuard takes a key for one peer only. Whoever copies
 * another's key gains nothing, and is named.
 */
export async function createTrackBook (options: TrackBookOptions): Promise<TrackBook> {
  const { store, records, named, log, monotonic = () => performance.now() } = options
  const heard = new Map<string, Kept>()
  const saved = new Map<string, string>()
  /** who was known with a key first */
  const holders = new Map<string, string>()
  /** when a change of a gateway was last told, by the monotonic clock */
  const toldMs = new Map<string, number>()

  /** Of versions only those with which something changed are written: what came between said the same. */
  const essence = ({ site, host, tracks, held }: Kept): string => JSON.stringify([site, host, tracks, held])

  for await (const { key, value } of store.iterate(PREFIX, ({ message }) => { log.warn({ error: message }, 'what a gateway said of its tunnel keys is lost') })) {
    const kept = readKept(value)
    saved.set(key.slice(PREFIX.length), kept === null ? '' : essence(kept))
    if (kept === null) continue
    heard.set(kept.peer, kept)
    for (const held of kept.held) holders.set(held, kept.peer)
  }

  const claims = (peer: string, publicKey: string): boolean => {
    const said = heard.get(peer)
    return said === undefined ? named().some(one => one.peer === peer && one.tunnelPublicKey === publicKey) : said.tracks.some(one => one.publicKey === publicKey)
  }
  const holds = (peer: string, publicKey: string): boolean => {
    const holder = holders.get(publicKey)
    if (holder === peer) return true
    if (holder !== undefined && claims(holder, publicKey)) return false
    holders.set(publicKey, peer)
    return true
  }
  const noteDocuments = (): void => {
    for (const { peer, tunnelPublicKey } of named()) if (!heard.has(peer)) holds(peer, tunnelPublicKey)
  }

  function take (peer: string): boolean {
    const row = records.view('site', { dead: true }).find(one => one.peer === peer)
    // one that says nothing takes nothing back: its helper may not have answered it yet
    if (row === undefined || row.body.tunnel.length === 0 || tracksProblem(row.body.tunnel) !== null) return false
    const before = heard.get(peer)
    if (before !== undefined && !supersedes(row, before)) return false
    noteDocuments()
    const { epoch, seq, madeMs, body } = row
    const tracks = readTracks(body.tunnel)
    const kept: Kept = { peer, site: body.site, host: body.gateway, epoch, seq, madeMs, tracks, held: [] }
    heard.set(peer, kept)
    kept.held = tracks.map(({ publicKey }) => publicKey).filter(publicKey => holds(peer, publicKey))
    return before === undefined || before.site !== kept.site || before.host !== kept.host || !sameTracks(before.tracks, tracks)
  }

  const end = records.onChange((kind, peer) => {
    // a federation has many gateways: what the others say is read when a document names them
    if (kind !== 'site' || !named().some(one => one.peer === peer) || !take(peer)) return
    // who says something else ten times a second is heeded by the regular passes, and has none of its own
    if (monotonic() - (toldMs.get(peer) ?? -Infinity) < RECONCILE_INTERVAL_MS) return
    toldMs.set(peer, monotonic())
    options.onChange()
  })

  const isStranger = ({ peer, site, host }: Pick<NamedGateway, 'site' | 'host' | 'peer'>): boolean => {
    const said = heard.get(peer)
    return said !== undefined && (said.site !== site || said.host !== host)
  }

  return {
    tracksOf (gateway) {
      noteDocuments()
      take(gateway.peer)
      const said = heard.get(gateway.peer)
      // a document that gives somebody else's key to a gateway that was never heard: no key at all
      if (said === undefined) return named().filter(one => one.peer === gateway.peer).every(one => holds(gateway.peer, one.tunnelPublicKey)) ? null : []
      if (isStranger(gateway)) return null
      const own = options.ownKeys()
      return said.tracks.filter(({ publicKey }) => !own.includes(publicKey) && holds(gateway.peer, publicKey)).flatMap(track => {
        const endpoint = sharedEndpoint(options.endpoint, track.endpoint)
        return endpoint === null ? [] : [{ ...track, endpoint }]
      })
    },

    keysOf (peer) {
      take(peer)
      return heard.get(peer)?.tracks.map(({ publicKey }) => publicKey) ?? null
    },

    unheard () {
      const live = new Set(records.view('site').filter(({ body }) => body.tunnel.length > 0).map(({ peer }) => peer))
      return [...new Map(named().map(one => [one.peer, one])).values()].filter(({ peer }) => !live.has(peer))
    },

    problems () {
      const own = options.ownKeys()
      return [...new Map(named().map(one => [one.peer, one])).values()].flatMap(({ peer, site, host }) => (heard.get(peer)?.tracks ?? []).flatMap(({ track, publicKey, endpoint }) => {
        const what = `gateway ${host} of site ${site} says that its tunnel key on track ${track} is ${publicKey}`
        const holder = holders.get(publicKey)
        if (own.includes(publicKey)) return [`${what}, which is this gateway's own: that key is not used`]
        if (holder !== undefined && holder !== peer && claims(holder, publicKey)) return [`${what}, which was ${heard.get(holder)?.host ?? holder}'s before: one of them is wrong, or lies; it is not used for ${site}`]
        if (sharedEndpoint(options.endpoint, endpoint) === null) return [`the tunnel of gateway ${host} of site ${site} is at ${endpoint}, this one at ${options.endpoint}: they have no IP version in common`]
        return []
      }))
    },

    async tick () {
      const wanted = new Set(named().map(({ peer }) => peer))
      for (const peer of wanted) if (!heard.has(peer)) take(peer)
      const changes = [...wanted].flatMap(peer => {
        const kept = heard.get(peer)
        const text = kept === undefined ? '' : essence(kept)
        return kept === undefined || saved.get(peer) === text ? [] : [{ peer, kept, text }]
      })
      const gone = [...saved.keys()].filter(peer => !wanted.has(peer))
      try {
        if (changes.length + gone.length > 0) {
          await store.batch([
            ...changes.map(({ peer, kept }) => ({ type: 'put' as const, key: PREFIX + peer, value: kept })), ...gone.map(peer => ({ type: 'delete' as const, key: PREFIX + peer }))
          ])
        }
      } catch (error) {
        throw new Error(`what gateways say of their tunnel keys cannot be kept: ${describeError(error)}`, { cause: error })
      }
      for (const { peer, text } of changes) saved.set(peer, text)
      for (const peer of gone) saved.delete(peer)
      // what nobody names and nobody says any more
      const shown = new Set(records.view('site', { dead: true }).map(({ peer }) => peer))
      for (const peer of heard.keys()) if (!wanted.has(peer) && !shown.has(peer)) heard.delete(peer)
      for (const peer of toldMs.keys()) if (!wanted.has(peer)) toldMs.delete(peer)
      for (const [publicKey, peer] of holders) if (!claims(peer, publicKey)) holders.delete(publicKey)
    },

    stop: end
  }
}
