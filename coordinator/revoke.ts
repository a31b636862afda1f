import type { Audit } from './audit.ts'
import type { CoordinatorRevoke, CoordinatorRevoked, CoordinatorSite } from '../protocol/api.ts'
import { ConflictError, NotFoundError } from '../protocol/core/errors.ts'
import type { NodeKey } from '../protocol/mesh/identity.ts'
import type { Invitations } from '../protocol/mesh/join/types.ts'
import { revoke } from '../protocol/mesh/trust/revocation.ts'
import type { Trust } from '../protocol/mesh/trust/trust.ts'
import type { TrustStore } from '../store/trust.ts'

export interface RevokeDeps {
  readonly coordinatorKey: NodeKey
  readonly trust: Trust
  readonly store: TrustStore
  readonly invitations: Invitations
  readonly audit: Audit
  readonly now: () => number
  readonly sites: () => Promise<CoordinatorSite[]>
}

type Keyed = CoordinatorSite & { key: string }

const describe = ({ key, admittedAt, state }: Keyed): string => `${key} (${state}, admitted ${admittedAt === null ? 'at a time not known here' : new Date(admittedAt).toISOString()})`

/** The site that is meant. @throws NotFoundError; ConflictError when two hold the name */
function choose (sites: readonly CoordinatorSite[], { site, key }: CoordinatorRevoke): Keyed {
  const named = sites.filter((entry): entry is Keyed => entry.site === site && entry.key !== null)
  if (named.length === 0) {
    const known = [...new Set(sites.map(entry => entry.site))]
    throw new NotFoundError(`no site ${site} was admitted here or is heard of`, known.length === 0 ? 'no site is known at all' : `known are ${known.slice(0, 20).join(', ')}${known.length > 20 ? ` and ${known.length - 20} more` : ''}`)
  }
  const meant = named.filter(entry => key === undefined || entry.key === key)
  const [first] = meant
  if (first === undefined) throw new NotFoundError(`site ${site} has no key ${key ?? ''}`, `its key is ${named.map(describe).join('; ')}`)
  const live = meant.filter(({ state }) => state !== 'revoked')
  if (live.length > 1) throw new ConflictError(`${live.length} keys hold the name ${site}`, `say which one with --key: ${live.map(describe).join('; ')}`)
  // else the latest revocation
  return live[0] ?? meant.reduce((a, b) => (b.revoked?.at ?? 0) > (a.revoked?.at ?? 0) ? b : a, first)
}

/**
 * Puts a site out: signed, on the disk, then acted on. Open invitations for it go first, so that it
 * does not come back with one of them.
 */
export async function revokeSite (deps: RevokeDeps, request: CoordinatorRevoke): Promise<CoordinatorRevoked> {
  const { trust, store, invitations, audit } = deps
  const { site, key, admittedAt, revoked } = choose(await deps.sites(), request)
  if (revoked !== null) return { site, key, revokedAt: revoked.at, reason: revoked.reason, already: true, withdrawn: [] }
  const withdrawn = invitations.list().filter(({ kind, site: name, state }) => kind === 'site' && name === site && state === 'open').map(({ id }) => id)
  for (const id of withdrawn) await invitations.withdraw(id)
  // admitted by a coordinator whose clock is ahead: a revocation counts only from its own time on
  const revokedAt = Math.max(deps.now(), admittedAt ?? 0)
  const reason = request.reason ?? ''
  const signed = revoke(deps.coordinatorKey, [], { federation: trust.federation, kind: 'site', subject: key, site, name: '', reason }, revokedAt)
  await store.keepRevocation(signed)
  await audit.write('revoke', { site, key, reason })
  trust.takeRevocation(signed)
  return { site, key, revokedAt, reason, already: false, withdrawn }
}
