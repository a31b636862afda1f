import type { Caller } from '../peers.ts'
import { MusubiError } from '../../protocol/core/errors.ts'
import { MAX_REQUESTS_PER_MINUTE } from '../../protocol/core/limits.ts'
import { MinuteCounter } from '../../protocol/mesh/records/offences.ts'

/** Counts what other sites ask that hosts have to hold something for. */
export interface Rate {
  /** Before anything is looked at: for each hosts are asked, and disks are written. @throws MusubiError BUSY, retryable, beyond MAX_REQUESTS_PER_MINUTE of one site */
  mustBeRare (method: 'request' | 'extend', caller: Caller): void
}

/** @param now ledger clock, Unix ms */
export function createRate (site: string, now: () => number): Rate {
  const asked = { request: new MinuteCounter(MAX_REQUESTS_PER_MINUTE), extend: new MinuteCounter(MAX_REQUESTS_PER_MINUTE) }
  return {
    mustBeRare (method, caller) {
      if (caller.site === site || !asked[method].add(caller.site ?? caller.peerId, now())) return
      throw new MusubiError('BUSY', `the gateway of site ${site} was asked more than ${MAX_REQUESTS_PER_MINUTE} times within a minute by ${caller.site ?? caller.host} (${method})`, { retryable: true, hint: 'try again in a minute, or leave it out (notSites)' })
    }
  }
}
