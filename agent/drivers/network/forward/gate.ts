import { chainName, FORWARD_SET, INNER, MSS_TABLE } from '../names.ts'
import type { FilterChain } from '../filter.ts'

/**
 * As nft's `filter` of bridges. Not 0: what br_netfilter has there takes frames over when it was registered first, as a bridge
 * that is made after the chain does, and goes on behind all others of that priority.
 */
const PRIORITY = -200

/**
 * Between other sites and this one frames pass only while the inter-site port is in the set. Whatever stays
 * inside the site takes no notice of it, nor does what the gateway itself says and hears.
 */
export function forwardChain (vni: number): FilterChain {
  const rule = (direction: string): string => `${direction} "${INNER.wanPort}" ${direction} != @${FORWARD_SET} drop`
  return { family: 'bridge', table: MSS_TABLE, name: chainName('forward', vni), base: `type filter hook forward priority ${PRIORITY}`, gate: FORWARD_SET, rules: [rule('iifname'), rule('oifname')] }
}

/**
 * nft text that lets frames pass for some time from now, in one transaction. Kernels before 6.12 do not prolong an element that
 * is added again; a deletion costs some 15 ms.
 *
 * @param anew frames may be passing already
 */
export function openText (lifetimeMs: number, anew: boolean): string {
  const element = (verb: string, timeout = ''): string => `${verb} element bridge ${MSS_TABLE} ${FORWARD_SET} { "${INNER.wanPort}"${timeout} }\n`
  return (anew ? element('add') + element('delete') : '') + element('add', ` timeout ${Math.floor(lifetimeMs)}ms`)
}

/** nft text that ends it at once. */
export const closeText = `flush set bridge ${MSS_TABLE} ${FORWARD_SET}\n`
