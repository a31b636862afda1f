import type { Logger } from 'pino'
import { trustFiles } from './site/files.ts'
import type { Identity } from './site/identity.ts'
import { describeError } from '../protocol/core/errors.ts'
import type { NodeKey } from '../protocol/mesh/identity.ts'
import type { Mesh } from '../protocol/mesh/mesh.ts'
import { checkDates } from '../protocol/mesh/trust/certificate.ts'
import { readCredentials, type KnownPeer } from '../protocol/mesh/trust/credentials.ts'
import { createTrust, type Trust } from '../protocol/mesh/trust/trust.ts'
import type { Store } from '../store/store.ts'
import { openTrustStore, type TrustStore } from '../store/trust.ts'

/** How often known peers are kept, and credentials of a join meanwhile are looked for. */
const LOOK_MS = 10_000

export interface Membership {
  readonly key: NodeKey
  readonly trust: Trust
  /** whom to connect to first */
  readonly peers: readonly KnownPeer[]
  readonly trustStore: TrustStore
  /** Remembers peers and revocations, takes over credentials that `agent join` wrote, until `stop`. */
  follow (mesh: Mesh): void
  /** what is wrong with the own certificates, for status; empty when nothing is */
  problems (): string[]
  stop (): Promise<void>
}

/** Who this host is, and how it stays a member. */
export async function openMembership ({ key, credentials, member }: Identity, stateDir: string, store: Store, log: Logger, now: () => number): Promise<Membership> {
  const kept = await openTrustStore(store, now)
  const trust = createTrust({ peerId: member.peerId, federation: credentials.federation, chain: credentials.chain, now, revocations: await kept.revocations() })
  const files = trustFiles(stateDir)
  const ends: Array<() => void> = []
  let followed: Mesh | null = null

  const problems = (): string[] => {
    const found: string[] = []
    try {
      checkDates(trust.own(), now())
    } catch (error) {
      found.push(describeError(error))
    }
    const revoked = trust.revocations.covering(trust.own())
    if (revoked !== null) found.push(`this host was revoked ${new Date(revoked.document.revokedMs).toISOString()}${revoked.document.reason === '' ? '' : `: ${revoked.document.reason}`} (what it has promised goes on; to be a member again: musubi agent join TOKEN)`)
    return found
  }

  const keepPeers = async (mesh: Mesh): Promise<void> => { await kept.keepPeers(mesh.knownPeers()) }

  /** A new token was redeemed while this agent ran: its certificates are taken over without a restart. */
  const lookForNew = async (): Promise<void> => {
    const found = await readCredentials(files.credentials)
    if (found === null || found.federation !== trust.federation) return
    const same = found.chain.length === trust.own().chain.length && found.chain.every((bytes, index) => Buffer.compare(bytes, trust.own().chain[index] ?? new Uint8Array()) === 0)
    if (!same) trust.renewed(found.chain)
  }

  return {
    key,
    trust,
    trustStore: kept,
    peers: [...credentials.peers, ...await kept.peers()],
    follow: mesh => {
      followed = mesh
      const timer = setInterval(() => {
        keepPeers(mesh).catch((error: unknown) => { log.warn({ error: describeError(error) }, 'cannot keep known peers') })
        lookForNew().catch((error: unknown) => { log.warn({ error: describeError(error) }, 'the credentials cannot be taken over') })
      }, LOOK_MS)
      timer.unref()
      ends.push(
        () => { clearInterval(timer) },
        trust.onRevoked(({ signed, document }) => {
          log.warn({ kind: document.kind, site: document.site, name: document.name, reason: document.reason }, 'revoked')
          kept.keepRevocation(signed).catch((error: unknown) => { log.error({ error: describeError(error) }, 'a revocation cannot be kept') })
        })
      )
      for (const problem of problems()) log.error({ problem }, 'this host is no valid member now')
    },
    problems,
    stop: async () => {
      for (const end of ends) end()
      if (followed !== null) await keepPeers(followed).catch((error: unknown) => { log.warn({ error: describeError(error) }, 'cannot keep known peers') })
    }
  }
}
