import type { Logger } from 'pino'
import type { SiteResource } from '../protocol/api.ts'
import { describeError } from '../protocol/core/errors.ts'
import type { Records } from '../protocol/mesh/records.ts'
import { siteResourceOf } from '../protocol/mesh/site-resource.ts'
import type { SiteAd } from '../protocol/wire/gen/types.ts'
import type { Store } from '../store/store.ts'

/** What was last heard of a site, kept over restarts; `heardMs` is the coordinator's clock. */
interface KnownSite { peer: string, heardMs: number, ad: SiteAd }

/** The repository of sites: a view, rebuilt from what gateways say, never the authority over anything. */
export interface Registry {
  /** grows at each start */
  readonly epoch: number
  /** Sites by name; one that fell silent stays in the list with its age until it is forgotten. */
  sites (): SiteResource[]
  ads (): SiteAd[]
  /** Takes over what the mesh hears. @returns ends it */
  follow (records: Records, log: Logger): () => void
}

const PREFIX = 'site/'
const EPOCH = 'epoch'
/** A site that was silent for this long is forgotten. */
const FORGET_MS = 24 * 3_600_000

export async function createRegistry ({ store, now }: { store: Store, now: () => number }): Promise<Registry> {
  const epoch = ((await store.get<number>(EPOCH)) ?? 0) + 1
  await store.put(EPOCH, epoch, { sync: true })
  const known = new Map<string, KnownSite>()
  for await (const { value } of store.iterate<KnownSite>(PREFIX)) known.set(value.ad.site, value)
  const current = (): KnownSite[] => [...known.values()].filter(k => now() - k.heardMs < FORGET_MS).sort((a, b) => a.ad.site < b.ad.site ? -1 : 1)

  return {
    epoch,
    sites: () => current().map(k => siteResourceOf(k.peer, Math.max(0, now() - k.heardMs), k.ad)),
    ads: () => current().map(k => k.ad),
    follow (records, log) {
      const take = (): void => {
        for (const row of records.view('site')) {
          const entry = { peer: row.peer, heardMs: now() - row.ageMs, ad: row.body }
          const before = known.get(row.body.site)
          known.set(row.body.site, entry)
          if (JSON.stringify(before?.ad) === JSON.stringify(entry.ad) && before?.peer === entry.peer) continue
          log.info({ site: row.body.site, gateway: row.body.gateway, hosts: row.body.hosts }, before === undefined ? 'a site is here' : 'a site has changed')
          store.put(PREFIX + row.body.site, entry).catch((error: unknown) => { log.warn({ error: describeError(error) }, 'cannot keep a site') })
        }
      }
      const end = records.onChange(take)
      const timer = setInterval(take, 5_000) // heartbeats only prolong records: ages follow here
      return () => { end(); clearInterval(timer) }
    }
  }
}
