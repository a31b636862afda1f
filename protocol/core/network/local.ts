/** The second segment of a cluster, one at each site, which never leaves it: `network: {local: true}`. */
import { parseCidr } from './addresses.ts'
import { MAX_VNI } from '../limits.ts'
import type { ClusterDocument, ClusterNode } from '../messages.ts'

/** Name of its lease, of kind `segment`, and the end of its object's name. */
export const LOCAL = 'local'
/** Its network where the spec names none. */
export const DEFAULT_LOCAL_CIDR = '10.43.0.0/16'
/** What a host says that it can do (`features`) since it knows of such segments: it would run nodes without their second card else. */
export const LOCAL_FEATURE = 'local-segment'

/** Whether a lease, or what asks for one, is that of a site-local segment. */
export const isLocal = ({ kind, name }: { kind: string, name: string }): boolean => kind === 'segment' && name === LOCAL

/**
 * What the links of the second segment are named by on a host, and nothing else: no packet carries it. It follows from the
 * cluster's own VNI (the highest bit is turned round), so that nobody has to agree on one.
 */
export const localVniOf = (vni: number): number => (vni ^ 0x80_00_00) || MAX_VNI

/** Every VNI that a cluster takes on its hosts. */
export const vnisOf = ({ vni, localCidr = '' }: Pick<ClusterDocument, 'vni' | 'localCidr'>): number[] => localCidr === '' ? [vni] : [vni, localVniOf(vni)]

/** What a node has on the segment of its site; null when there is none. */
export function localOf (document: Pick<ClusterDocument, 'localCidr'>, { localMac = '', localIp = '' }: Pick<ClusterNode, 'localMac' | 'localIp'>): { mac: string, ip: string, prefixLength: number } | null {
  const network = parseCidr(document.localCidr ?? '')
  return network === null || localMac === '' || localIp === '' ? null : { mac: localMac, ip: localIp, prefixLength: network.prefixLength }
}
