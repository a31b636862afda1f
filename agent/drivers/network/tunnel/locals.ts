import { createRecords } from '../records.ts'
import { join } from 'node:path'
import { PREFIX } from '../../../../protocol/core/desired.ts'

/** Addresses that a host's own links have, from `ip -json address show`; links of ours and `lo` left out. */
export function localAddresses (json: unknown): string[] {
  const links = (Array.isArray(json) ? json : []) as Array<{ ifname?: string, addr_info?: Array<{ local?: string }> }>
  return links.filter(({ ifname }) => ifname !== undefined && ifname !== 'lo' && !ifname.startsWith(PREFIX))
    .flatMap(({ addr_info: addresses }) => (addresses ?? []).map(({ local }) => local ?? '')).filter((address) => address !== '').sort()
}

/**
 * wireguard-go goes on sending from the address that a peer's packets came to, also when this host
 * has lost it (WireGuard in the kernel looks again): its endpoints have to be set anew then.
 */
export interface Locals {
  /** To be told at every look. @returns whether an address has gone since the endpoints were set */
  look (addresses: readonly string[]): Promise<boolean>
  /** The endpoints were set. */
  settled (): Promise<void>
}

/** @param stateDir of the network drivers: an address may go while nobody looks */
export function createLocals (stateDir: string): Locals {
  const records = createRecords<string[]>(join(stateDir, 'tunnel-locals'))
  let known: Set<string> | null = null
  let now: string[] = []
  let lost = false
  return {
    async look (addresses) {
      known ??= new Set(await records.get('locals') ?? [])
      const present = new Set(addresses)
      lost ||= [...known].some((address) => !present.has(address))
      known = present
      now = [...addresses]
      return lost
    },
    async settled () {
      lost = false
      await records.put('locals', now)
    }
  }
}
