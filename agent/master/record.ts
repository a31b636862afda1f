import type { ClusterDocument, Offer, Receipt, Secret } from '../../protocol/core/messages.ts'
import type { ClusterSpec } from '../../protocol/core/spec.ts'
import type { ClusterState, Phases } from '../../protocol/api.ts'

/**
 * What the master knows of one cluster, on its disk. `offers` with state `committing` or later is the
 * decision record: it is synced before the first commit leaves (lease-protocol.md).
 */
export interface ClusterRecord {
  id: string
  name: string
  state: ClusterState
  spec: ClusterSpec
  vni: number
  createdMs: number
  endMs: number
  error: { code: string, message: string, hint?: string } | null
  /** gateways that were asked and have not confirmed a release since: whatever happens, these are told to release */
  asked: Array<{ site: string, peer: string }>
  offers: Offer[]
  receipts: Receipt[]
  document: ClusterDocument | null
  secrets: Secret[]
  sshPrivateKey: string
  imageDigest: string
  phases: Record<string, Phases>
  /** phase after which a node reported a failure */
  failures: Record<string, string>
  negotiateMs: number
  rttMs: number
  firstPingMs: number | null
  mtuInner: number
  readyMs: number | null
  deleteStartedMs: number | null
  deletedMs: number | null
}

export const noPhases = (): Phases => ({ leased: null, defined: null, dhcp: null, boot: null, image: null, ready: null })

/** Ended clusters are kept for people to look at, this long. */
export const KEEP_ENDED_MS = 24 * 3_600_000

export const isEnded = (state: ClusterState): boolean => state === 'deleted' || state === 'failed'
