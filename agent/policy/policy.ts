import { maxTermOf, checkPolicy, parsePolicy } from './rules.ts'
import { createTurns } from '../turns.ts'
import type { PolicyDocument, PolicyResource } from '../../protocol/api.ts'
import { describeError, InvalidInputError } from '../../protocol/core/errors.ts'
import { MAX_POLICY_BYTES } from '../../protocol/core/limits.ts'
import { isGateway, type Role } from '../../protocol/mesh/roles.ts'
import type { PolicyAd } from '../../protocol/wire/gen/types.ts'
import type { Store } from '../../store/store.ts'

/** The part of the mesh's records that a policy travels in. */
export interface PolicyRecords {
  publish (kind: 'policy', body: PolicyAd): void
  view (kind: 'policy'): ReadonlyArray<{ readonly peer: string, readonly body: PolicyAd }>
  onChange (listener: (kind: string) => void): () => void
}

export interface PolicyOptions {
  site: string
  host: string
  store: Store
  records: PolicyRecords
  roleOf: (peerId: string) => Role | null
  /** told when another version is in force here */
  onChange?: () => void
  log: { info: (data: object, text: string) => void, warn: (data: object, text: string) => void }
}

/** What this site lends to whom; all of its gateways keep and enforce the same. */
export interface Policy {
  get (): PolicyResource
  /** Puts a new version in force here, and soon at the other gateways. @throws InvalidInputError with every problem */
  set (document: unknown): Promise<PolicyResource>
  /** @throws MusubiError POLICY_DENIED, POLICY_TERM, with the reason that the site gives */
  check (masterSite: string, startMs: number, endMs: number): void
  /** longest lease that is given to sites without a rule of their own, ms; 0: no limit */
  maxTermMs (): number
  stop (): void
}

interface Kept { version: number, setBy: string, document: PolicyDocument }

const KEY = 'policy'
/** A version that nobody reaches by setting: a faulty peer must not make the last one for ever. */
const MAX_VERSION = 2 ** 40

/** Of two policies the one with the higher version holds; equal ones were set at two gateways at once, and any fixed order will do. */
function stands (a: Kept, b: Kept): boolean {
  if (a.version !== b.version) return a.version > b.version
  if (a.setBy !== b.setBy) return a.setBy > b.setBy
  return JSON.stringify(a.document) > JSON.stringify(b.document)
}

/** Loads the policy of a gateway from its store, and keeps it in step with the site's other gateways. */
export async function createPolicy (options: PolicyOptions): Promise<Policy> {
  const { site, host, store, records, log } = options
  const turns = createTurns()
  let kept: Kept = await store.get<Kept>(KEY) ?? { version: 0, setBy: '', document: {} }

  const resource = (): PolicyResource => ({ site, version: kept.version, setBy: kept.setBy, document: kept.document })

  function publish (): void {
    if (kept.version === 0) return
    try {
      records.publish('policy', { site, host: kept.setBy, version: kept.version, document: Uint8Array.from(Buffer.from(JSON.stringify(kept.document))) })
    } catch (error) {
      log.warn({ error: describeError(error) }, 'the policy cannot be told to the other gateways')
    }
  }

  async function keep (next: Kept): Promise<void> {
    await store.put(KEY, next, { sync: true })
    kept = next
    publish()
    options.onChange?.()
  }

  /** What another gateway of this site says; null for what is none, or does not fit. */
  function readAd (peer: string, ad: PolicyAd): Kept | null {
    const role = options.roleOf(peer)
    if (role?.kind !== 'host' || !isGateway(role) || role.site !== site || ad.site !== site) return null
    if (ad.version < 1 || ad.version > MAX_VERSION || ad.document.length > MAX_POLICY_BYTES) return null
    try {
      return { version: ad.version, setBy: ad.host, document: parsePolicy(JSON.parse(Buffer.from(ad.document).toString('utf8')), site, 'policy') }
    } catch {
      return null // of a later release, or damaged: what is in force stays
    }
  }

  async function follow (): Promise<void> {
    let best = kept
    for (const { peer, body } of records.view('policy')) {
      const other = readAd(peer, body)
      if (other !== null && stands(other, best)) best = other
    }
    if (best === kept) return
    log.info({ version: best.version, setBy: best.setBy }, 'another gateway has set the policy')
    await keep(best)
  }

  const look = (): void => {
    turns('policy', follow).catch((error: unknown) => { log.warn({ error: describeError(error) }, 'the policy of another gateway could not be kept') })
  }
  const unsubscribe = records.onChange(kind => { if (kind === 'policy') look() })
  publish()
  look()

  return {
    get: resource,
    set: input => turns('policy', async () => {
      const document = parsePolicy(input, site, 'the policy')
      await follow()
      if (kept.version >= MAX_VERSION) throw new InvalidInputError('the policy has no version left')
      // the same again is no change: scripts may say it at every run
      if (kept.version === 0 || JSON.stringify(kept.document) !== JSON.stringify(document)) await keep({ version: kept.version + 1, setBy: host, document })
      return resource()
    }),
    check: (masterSite, startMs, endMs) => { checkPolicy(kept.document, site, masterSite, startMs, endMs) },
    maxTermMs: () => maxTermOf(kept.document),
    stop: unsubscribe
  }
}
