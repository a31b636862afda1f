import { InvalidInputError, NotFoundError } from '../../protocol/core/errors.ts'
import type { ClusterDocument } from '../../protocol/core/messages.ts'

/** Who can be named as an end of a segment, with where it is. */
export interface Member {
  kind: 'gateway' | 'node'
  name: string
  site: string
  host: string
  /** of its host on the underlay */
  underlayAddress: string
  /** on the segment */
  address: string
}

/** All of a cluster that have an address on its segment: gateways first, then nodes; the frontend is shown as a node. */
export function membersOf (document: ClusterDocument): Member[] {
  const underlayOf = (site: string, host: string): string => document.sites.find(one => one.site === site)?.hosts.find(one => one.host === host)?.underlayAddress ?? ''
  return [
    ...document.sites.map(({ site, gateway, gatewayAddress }): Member => ({ kind: 'gateway', name: gateway.host, site, host: gateway.host, underlayAddress: gateway.underlayAddress, address: gatewayAddress })),
    ...[document.frontend, ...document.nodes].map(({ name, site, host, ip }): Member => ({ kind: 'node', name, site, host, underlayAddress: underlayOf(site, host), address: ip }))
  ]
}

/**
 * The member that a name stands for: a node, a gateway's host, or a site, which is its gateway.
 *
 * @throws NotFoundError when there is none
 */
export function memberCalled (document: ClusterDocument, name: string): Member {
  const all = membersOf(document)
  const found = all.find(member => member.kind === 'node' && member.name === name) ?? all.find(member => member.name === name) ?? all.find(member => member.kind === 'gateway' && member.site === name) ?? all.find(member => member.address === name)
  if (found === undefined) throw new NotFoundError(`cluster ${document.name} has no node, gateway or site "${name}"`, `it has ${all.slice(0, 12).map(member => member.name).join(', ')}${all.length > 12 ? ' ...' : ''} at ${document.sites.map(({ site }) => site).join(', ')}`)
  return found
}

/**
 * The cluster that two names are of.
 *
 * @param cluster name or id; without it the one cluster that has both
 * @throws NotFoundError, InvalidInputError when several have both
 */
export function documentWith (documents: readonly ClusterDocument[], names: readonly string[], cluster?: string): ClusterDocument {
  const has = (document: ClusterDocument, name: string): boolean => {
    try {
      memberCalled(document, name)
      return true
    } catch {
      return false
    }
  }
  const called = cluster === undefined ? documents : documents.filter(({ id, name }) => id === cluster || name === cluster)
  const [first] = called
  // said of the one that was named what it lacks, and not that there is none
  if (cluster !== undefined && called.length === 1 && first !== undefined) return first
  const found = called.filter(document => names.every(name => has(document, name)))
  const [one, ...others] = found
  if (one === undefined) throw new NotFoundError(`no cluster on this host has ${names.map(name => `"${name}"`).join(' and ')}${cluster === undefined ? '' : ` and is called "${cluster}"`}`, documents.length === 0 ? 'this host carries no cluster' : `it carries ${documents.map(({ name }) => name).join(', ')}; names are in: musubi cluster show NAME`)
  if (others.length > 0) throw new InvalidInputError(`several clusters here have ${names.map(name => `"${name}"`).join(' and ')}`, `say which: --cluster ${found.map(({ name, id }) => found.filter(other => other.name === name).length > 1 ? id : name).join(' or ')}`)
  return one
}
