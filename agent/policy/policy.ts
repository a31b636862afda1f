import { createTurns } from '../turns.ts'
import { describeError, InvalidInputError } from '../../protocol/core/errors.ts'
import { MAX_POLICY_BYTES } from '../../protocol/core/limits.ts'
import { isGateway, type Role } from '../../protocol/mesh/roles.ts'
import { type Findings, judgePolicy, parsePolicy } from '../../protocol/policy/document.ts'
import { checkPolicy, type LeaseAsk } from '../../protocol/policy/rules.ts'
import type { PolicyDocument, PolicyResource } from '../../protocol/policy-api.ts'
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
  /** whether this host is a gateway, and tells the others; a host only keeps what gateways say */
  tells: boolean
  /** ledger clock, Unix ms */
  now: () => number
  /** told when another version is in force here */
  onChange?: () => void
  log: { info: (data: object, text: string) => void, warn: (data: object, text: string) => void }
}

/** The version in force. */
export type PolicyVersion = Pick<PolicyResource, 'site' | 'version' | 'setBy' | 'document'>

/** What this site lends to whom; all of its hosts keep and enforce the same. */
export interface Policy {
  get (): PolicyVersion
  /** Puts a new version in force here, and soon at the other hosts. @throws InvalidInputError with every problem */
  set (document: unknown): Promise<PolicyVersion>
  /** What would be wrong with a document, and what may not be meant so; nothing is set. */
  judge (document: unknown): Findings & { document: PolicyDocument | null }
  /** @throws MusubiError POLICY_DENIED, POLICY_TERM, POLICY_START, POLICY_WINDOW, with the reason that the site gives */
  check (ask: Omit<LeaseAsk, 'nowMs'>): void
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

/** Loads the policy of a host's site from its store, and keeps it in step with the site's gateways. */
export async function createPolicy (options: PolicyOptions): Promise<Policy> {
  const { site, host, store, records, log } = options
  const turns = createTurns()
  let kept: Kept = await store.get<Kept>(KEY) ?? { version: 0, setBy: '', document: {} }

  const resource = (): PolicyVersion => ({ site, version: kept.version, setBy: kept.setBy, document: kept.document })

  function publish (): void {
    if (kept.version === 0 || !options.tells) return
    try {
      records.publish('policy', { site, host, setBy: kept.setBy, version: kept.version, document: Uint8Array.from(Buffer.from(JSON.stringify(kept.document))) })
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
      return { version: ad.version, setBy: ad.setBy === '' ? ad.host : ad.setBy, document: parsePolicy(JSON.parse(Buffer.from(ad.document).toString('utf8')), site, 'policy') }
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
      const { document, errors } = judgePolicy(input, site, options.now())
      if (document === null) throw new InvalidInputError(`the policy is not valid:\n${errors.map(line => `  ${line}`).join('\n')}`)
      await follow()
      if (kept.version >= MAX_VERSION) throw new InvalidInputError('the policy has no version left')
      // the same again is no change: scripts may say it at every run
      if (kept.version === 0 || JSON.stringify(kept.document) !== JSON.stringify(document)) await keep({ version: kept.version + 1, setBy: host, document })
      return resource()
    }),
    judge: input => judgePolicy(input, site, options.now()),
    check: ask => { checkPolicy(kept.document, site, { ...ask, nowMs: options.now() }) },
    stop: unsubscribe
  }
}
