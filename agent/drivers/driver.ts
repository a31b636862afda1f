import type { ObjectKind, SpecByKind } from '../../protocol/core/desired.ts'

/** What a driver finds on the host: only objects of ours, whoever's process made them. */
export interface ObservedObject {
  kind: ObjectKind
  name: string
  /** `fingerprint(spec)` of the spec it was made from; null when it cannot be told */
  fingerprint: string | null
  /** false: it exists but does not work (process gone, link missing); `apply` mends it */
  healthy: boolean
  /** figures for status and metrics (bytes, state); never used to decide */
  detail: Record<string, unknown>
}

/**
 * A driver turns one kind of desired object into reality on this host.
 *
 * Contract (test/contract/driver.ts runs it against every driver, the fake included):
 * - `observe` lists every object of this kind that Musubi made on this host, after any crash;
 * - `apply` is idempotent: it creates, or brings to the spec, or mends; a second call does nothing;
 *   when it fails it undoes what it made in this call, or leaves what `observe` reports truly;
 * - `remove` is idempotent and leaves nothing behind; an unknown name is no error;
 * - nothing foreign is touched;
 * - every call ends within the signal or its own time-out.
 */
export interface Driver<K extends ObjectKind = ObjectKind> {
  readonly kind: K
  /** What this driver cannot do here, in words for `doctor`; empty when usable. */
  probe (signal: AbortSignal): Promise<string[]>
  observe (signal: AbortSignal): Promise<ObservedObject[]>
  apply (name: string, spec: SpecByKind[K], signal: AbortSignal): Promise<void>
  remove (name: string, signal: AbortSignal): Promise<void>
}
