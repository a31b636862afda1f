import { subtract } from '../../../protocol/core/capacity.ts'
import type { CertificateResource, HostDetail, HostResource } from '../../../protocol/api.ts'
import { describeRole } from '../../../protocol/mesh/roles.ts'
import type { Member } from '../../../protocol/mesh/trust/certificate.ts'
import type { HostAd } from '../../../protocol/wire/gen/types.ts'

/** What a checked chain says, for people. */
export function certificateOf (member: Member): CertificateResource {
  const { role, issuer, notBeforeMs, notAfterMs, joinedMs, segmentIds } = member
  return {
    site: role.kind === 'host' ? role.site : '', name: role.kind === 'host' ? role.host : describeRole(role), roles: role.kind === 'host' ? [...role.roles] : [],
    issuer, notBeforeMs, notAfterMs, joinedMs, segmentIds: segmentIds === null ? null : { ...segmentIds }
  }
}

/** One host in full, from its row in the list, what it advertises, and its certificates (null: not known here). */
export function hostDetail (row: HostResource, ad: Pick<HostAd, 'inventory' | 'features'>, member: Member | null, rttMs: number | null): HostDetail {
  return {
    ...row, promised: subtract(row.total, row.free), features: [...ad.features].sort(), rttMs, inventory: ad.inventory,
    certificate: member === null ? null : certificateOf(member)
  }
}
