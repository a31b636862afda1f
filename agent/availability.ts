import type { Cordon } from './cordon.ts'
import type { HelperClient } from './helper/client/client.ts'
import { MusubiError } from '../protocol/core/errors.ts'

/**
 * After this long without an answer a host promises nothing new. A restart of the helper takes a second or two, and a
 * pass of the reconciler comes every 5 s; a hold lasts 30 s, so whoever asks hears it before he has waited that long.
 */
export const HELPER_BLIND_MS = 15_000
/** How often the helper is asked whether it is there, and how long it has for that. */
export const HELPER_ASK_MS = 5_000

/** How long a starting agent waits for its helper before it tells others what is free. */
export const HELPER_FIRST_MS = 2_000

/** Whether anything could be made on this host, were it promised. What is promised already is not touched by it. */
export interface Availability {
  /** Why nothing new is promised; null: it is. */
  blind (): string | null
  /** @throws MusubiError HOST_CORDONED, or HOST_BLIND, retryable */
  check (): void
  /** Asks the helper; to be called every `HELPER_ASK_MS`. Never throws. */
  tick (): Promise<void>
  close (): void
}

export interface AvailabilityDeps {
  /** the own one, for messages */
  host: string
  cordon: Pick<Cordon, 'check'>
  helper: Pick<HelperClient, 'call' | 'onConnect' | 'problem'>
  /** ms from any beginning; never goes back */
  monotonic: () => number
  /** told when the host goes blind, with the reason, and when it sees again */
  onChange: (why: string | null) => void
  boundMs?: number
}

/** A host that has not heard its helper yet is blind. */
export function createAvailability ({ host, cordon, helper, monotonic, onChange, boundMs = HELPER_BLIND_MS }: AvailabilityDeps): Availability {
  let heardMs: number | null = null
  let told: boolean | null = null

  function blind (): string | null {
    if (heardMs === null) return helper.problem() ?? 'the helper has not answered yet'
    const silentMs = monotonic() - heardMs
    return silentMs <= boundMs ? null : helper.problem() ?? `the helper has not answered for ${Math.round(silentMs / 1000)} s`
  }

  function tell (): void {
    const why = blind()
    // that nothing was known at the beginning is no news
    if (told === null && why === null) told = false
    if (told === (why !== null)) return
    told = why !== null
    onChange(why)
  }

  function heard (): void {
    heardMs = monotonic()
    tell()
  }

  const close = helper.onConnect(heard)
  return {
    blind,
    check () {
      cordon.check()
      const why = blind()
      if (why !== null) throw new MusubiError('HOST_BLIND', `host ${host} takes no new leases for now: ${why}`, { retryable: true, hint: `on ${host}: systemctl status musubi-helper` })
    },
    async tick () {
      await helper.call('noop', {}, { signal: AbortSignal.timeout(HELPER_ASK_MS) }).then(heard, () => undefined)
      tell()
    },
    close
  }
}
