import { InvalidInputError, MusubiError } from '../../core/errors.ts'
import { MAX_CHAIN, MAX_EPOCH } from '../../core/limits.ts'
import type { EpochGrant, Grant } from '../../core/messages.ts'
import { isUuid } from '../../core/verify/request.ts'
import { checkPeerId, type NodeKey } from '../identity.ts'
import { CLOCK_SKEW_MS, type Chain } from './certificate.ts'
import { seal, unseal } from './envelope.ts'
import type { Trust } from './trust.ts'

/**
 * Signs who is master of a cluster from an epoch on.
 *
 * @param signer key of the anchor host, whose ledger has decided it
 * @param chain of that host
 */
export const signGrant = (signer: NodeKey, chain: Chain, grant: EpochGrant): Grant => ({ envelope: seal(signer, 'EpochGrant', grant), chain: [...chain] })

/** Of which cluster a grant must speak, and whose word counts there. */
export interface GrantSubject {
  clusterId: string
  /** of the master: its own host decides, nobody else's */
  masterSite: string
  /** the host that has the frontend; '' while nobody knows: then any host of that site */
  anchor: string
}

/**
 * Checks a grant: signed by a host of the master's site that is a member now, the anchor where it is
 * known, and about this cluster.
 *
 * @throws NotAdmittedError when the signer's certificates ended, were revoked, or are none;
 * InvalidInputError when it is no such grant; MusubiError FUTURE_DATED
 */
export function readGrant (grant: Grant, subject: GrantSubject, trust: Pick<Trust, 'admit'>, nowMs: number): EpochGrant {
  if (grant.chain.length > MAX_CHAIN) throw new InvalidInputError(`a grant with ${grant.chain.length} certificates`)
  const { signer, document } = unseal('EpochGrant', grant.envelope)
  const bad = (why: string): never => { throw new InvalidInputError(`the grant of epoch ${document.epoch} is refused: ${why}`, 'ask the host that has the frontend of the cluster') }
  if (!isUuid(document.clusterId) || document.clusterId !== subject.clusterId) bad(`it is about cluster ${document.clusterId.slice(0, 64)}, not ${subject.clusterId}`)
  if (!(document.epoch >= 1 && document.epoch <= MAX_EPOCH)) bad('there is no such epoch')
  checkPeerId(document.holder, 'grant: holder')
  if (document.site !== subject.masterSite) bad(`it is of site ${document.site.slice(0, 64)}, the cluster belongs to ${subject.masterSite}`)
  if (subject.anchor !== '' && document.host !== subject.anchor) bad(`it is of host ${document.host.slice(0, 64)}, ${subject.anchor} decides`)
  const { role } = trust.admit(signer, grant.chain)
  if (role.kind !== 'host' || role.site !== document.site || role.host !== document.host) bad(`it is signed by ${role.kind === 'host' ? `${role.site}/${role.host}` : `coordinator ${role.name}`}, not by ${document.site.slice(0, 64)}/${document.host.slice(0, 64)}`)
  if (document.grantedMs > nowMs + CLOCK_SKEW_MS) throw new MusubiError('FUTURE_DATED', `the grant of epoch ${document.epoch} is dated ${Math.round((document.grantedMs - nowMs) / 1000)} s from now`, { hint: 'compare the clocks of both hosts' })
  return document
}
