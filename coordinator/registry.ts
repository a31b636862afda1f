import type { Logger } from 'pino'
import type { SiteResource } from '../protocol/api.ts'
import { describeError } from '../protocol/core/errors.ts'
import { MAX_RECORD_BYTES, MAX_RECORDS, RECORD_TTL_MS } from '../protocol/core/limits.ts'
import type { Records } from '../protocol/mesh/records.ts'
import { siteResourceOf, type SiteSeen } from '../protocol/mesh/site-resource.ts'
import type { Revoked } from '../protocol/mesh/trust/revocation.ts'
import type { Trust } from '../protocol/mesh/trust/trust.ts'
import { decode, encode } from '../protocol/wire/codec.ts'
import type { SiteAd } from '../protocol/wire/gen/types.ts'
import type { Store, StoreOperation } from '../store/store.ts'

export type Link = Pick<SiteSeen, 'path' | 'rttMs'>
export type SeenState = 'alive' | 'suspect' | 'dead'

/** What was last heard of a site by way of one of its gateways. */
export interface SeenGateway {
  readonly peer: string
  /** PeerId of the site's key; null when its certificates were not seen */
  readonly key: string | null
  readonly state: SeenState
  readonly ageMs: number
  readonly ad: SiteAd
}

/** `heardMs` is this coordinator's wall clock. */
interface Entry { readonly key: string | null, readonly heardMs: number, readonly ad: SiteAd, readonly live: SeenState | null }
interface Kept { readonly key: string | null, readonly heardMs: number, readonly ad: string }

/** The repository of sites: a view, rebuilt from what gateways say, never the authority over anything. */
export interface Registry {
  /** grows at each start */
  readonly epoch: number
  /**
   * Sites by name, one entry each; one that fell silent stays in the list with its age until it is forgotten.
   *
   * @param link how a gateway is connected now
   */
  sites (link: (peer: string) => Link): SiteResource[]
  ads (): SiteAd[]
  /** Everything that is known, by gateway. */
  gateways (): SeenGateway[]
  /** Takes over what the mesh hears. @returns ends it, with all on the disk */
  follow (records: Records, trust: Trust, log: Logger): () => Promise<void>
}

const PREFIX = 'site/'
const EPOCH = 'epoch'
/** A site that was silent for this long is forgotten. */
const FORGET_MS = 24 * 3_600_000
const LOOK_MS = 1_000
/** Heartbeats only prolong records and are no change: ages follow at every so many looks. */
const LOOKS_PER_AGE = 5
/** How much of an age a crash may lose. */
const KEEP_AGES_MS = 60_000
const RANK: Readonly<Record<SeenState, number>> = { alive: 0, suspect: 1, dead: 2 }

const keep = ({ key, heardMs, ad }: Entry): Kept => ({ key, heardMs, ad: Buffer.from(encode('SiteAd', ad, { maxBytes: MAX_RECORD_BYTES })).toString('base64') })
/** Bytes and not JSON: fields that a later release adds are there with their defaults. */
const kept = ({ key, heardMs, ad }: Kept): Entry => ({ key, heardMs, ad: decode('SiteAd', Buffer.from(ad, 'base64'), { maxBytes: MAX_RECORD_BYTES }), live: null })

/** @throws CorruptRecordError */
export async function createRegistry ({ store, now }: { store: Store, now: () => number }): Promise<Registry> {
  const epoch = ((await store.get<number>(EPOCH)) ?? 0) + 1
  await store.put(EPOCH, epoch, { sync: true })
  const known = new Map<string, Entry>()
  for await (const { key, value } of store.iterate<Kept>(PREFIX)) known.set(key.slice(PREFIX.length), kept(value))
  const written = new Map([...known].map(([peer, { heardMs }]) => [peer, heardMs]))

  /** What only the disk remembers is doubtful until it is heard again. */
  const stateOf = ({ live, heardMs }: Entry): SeenState => live ?? (now() - heardMs < RECORD_TTL_MS ? 'suspect' : 'dead')
  /** Takes over what has changed since; a burst of changes is taken over once, when somebody asks or at the next look. */
  let refresh = (): void => undefined
  const gateways = (): SeenGateway[] => {
    refresh()
    return [...known].filter(([, { heardMs }]) => now() - heardMs < FORGET_MS)
      .map(([peer, entry]) => ({ peer, key: entry.key, state: stateOf(entry), ageMs: Math.max(0, now() - entry.heardMs), ad: entry.ad }))
      .sort((a, b) => a.ad.site === b.ad.site ? RANK[a.state] - RANK[b.state] || a.ageMs - b.ageMs : a.ad.site < b.ad.site ? -1 : 1)
  }
  /** Of several gateways, the one that is best off speaks for the site. */
  const best = (): SeenGateway[] => gateways().filter((gateway, index, all) => gateway.ad.site !== all[index - 1]?.ad.site)

  return {
    epoch,
    gateways,
    sites: link => best().map(({ peer, ageMs, ad, state }) => siteResourceOf(peer, ageMs, ad, { ...link(peer), state })),
    ads: () => best().map(({ ad }) => ad),
    follow (records, trust, log) {
      const save = (operations: readonly StoreOperation[]): void => {
        if (operations.length > 0) store.batch(operations).catch((error: unknown) => { log.warn({ error: describeError(error) }, 'cannot keep what was heard of sites') })
      }
      const put = (peer: string, entry: Entry): StoreOperation => {
        written.set(peer, entry.heardMs)
        return { type: 'put', key: PREFIX + peer, value: keep(entry) }
      }
      const drop = (peer: string): StoreOperation => {
        known.delete(peer)
        written.delete(peer)
        return { type: 'delete', key: PREFIX + peer }
      }
      const take = (): void => {
        const operations: StoreOperation[] = []
        const rows = records.view('site', { dead: true })
        const heard = new Set(rows.map(({ peer }) => peer))
        for (const [peer, entry] of known) {
          // left, or out of the view by now
          if (!heard.has(peer) && entry.live !== null) known.set(peer, { ...entry, live: 'dead' })
          if (now() - entry.heardMs >= FORGET_MS) operations.push(drop(peer))
        }
        for (const { peer, ageMs, body, state } of rows) {
          const before = known.get(peer)
          if (before === undefined && known.size >= MAX_RECORDS) continue
          const entry: Entry = { key: trust.memberOf(peer)?.siteKey ?? before?.key ?? null, heardMs: now() - ageMs, ad: body, live: state }
          known.set(peer, entry)
          const same = before !== undefined && before.key === entry.key && (before.ad === body || JSON.stringify(before.ad) === JSON.stringify(body))
          if (!same || entry.heardMs - (written.get(peer) ?? 0) > KEEP_AGES_MS) operations.push(put(peer, entry))
          if (same && before.live === state) continue
          log.info({ site: body.site, gateway: body.gateway, hosts: body.hosts, state }, before === undefined ? 'a site is here' : 'a site has changed')
        }
        save(operations)
      }
      /** What a revoked gateway has said is not repeated. */
      const forget = ({ document: { kind, subject } }: Revoked): void => {
        save([...known].filter(([peer, { key }]) => subject === (kind === 'site' ? key : peer)).map(([peer]) => drop(peer)))
      }
      let dirty = true
      let looks = 0
      refresh = () => {
        if (!dirty) return
        dirty = false
        take()
      }
      const stops = [records.onChange(kind => { dirty ||= kind === 'site' }), trust.onRevoked(forget)]
      // admitted again after a revocation: heard again, too
      for (const revoked of trust.revocations.all()) forget(revoked)
      const timer = setInterval(() => {
        dirty ||= ++looks % LOOKS_PER_AGE === 0
        refresh()
      }, LOOK_MS)
      return async () => {
        for (const stop of stops) stop()
        clearInterval(timer)
        take()
        refresh = () => undefined
        await store.batch([...known].map(([peer, entry]) => put(peer, entry)))
      }
    }
  }
}
