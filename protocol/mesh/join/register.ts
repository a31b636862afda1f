import { MusubiError } from '../../core/errors.ts'
import type { RevocationSet } from '../trust/revocation.ts'
import type { InvitationKind, Issued, IssuedStore } from './types.ts'

/**
 * How long a name stays with who was certified under it, seen or not: he may still be starting.
 * After that a host that is gone may be set up again with a new key.
 */
const SETTLE_MS = 10 * 60_000

interface RegisterOptions {
  readonly now: () => number
  /** of an authority for hosts: what other sites say of a key is no matter here */
  readonly site?: string
  readonly issued?: IssuedStore
  readonly revocations?: RevocationSet
}

/** What one authority has certified. Signing takes turns, so that no two get the same name or slice. */
export interface Register {
  inTurn<T>(task: () => Promise<T>): Promise<T>
  /** @param live PeerId that is seen under this name. @throws MusubiError NAME_TAKEN */
  checkName (kind: InvitationKind, name: string, subject: string, live: string | null): Promise<void>
  /** gateways whose certificates hold, seen or not */
  slices (): Promise<Issued[]>
  /** When an admission begins: now, but after every revocation of the subject, however the clocks of those who signed it differ. */
  joinedMs (kind: InvitationKind, subject: string): number
  /** durable when it resolves */
  note (issued: Issued): Promise<void>
  renewed (subject: string, notAfterMs: number): Promise<void>
}

export function createRegister ({ now, site, issued: store, revocations }: RegisterOptions): Register {
  let loaded: Map<string, Issued> | null = null
  let turn: Promise<unknown> = Promise.resolve()

  const all = async (): Promise<Map<string, Issued>> => {
    loaded ??= new Map((await store?.list() ?? []).map(issued => [issued.subject, issued]))
    for (const [subject, { notAfterMs }] of loaded) {
      if (notAfterMs > now()) continue
      await store?.delete(subject)
      loaded.delete(subject)
    }
    return loaded
  }
  const revoked = ({ kind, subject, roles, joinedMs }: Issued): boolean =>
    revocations?.all().some(({ by, document }) => document.kind === kind && document.subject === subject && document.revokedMs >= joinedMs &&
      (kind === 'site' || document.site === site) && !(by === 'issuer' && roles.includes('gateway'))) ?? false
  const note = async (issued: Issued): Promise<void> => {
    const known = await all()
    for (const [subject, other] of known) {
      if (subject === issued.subject || other.kind !== issued.kind || other.name !== issued.name) continue
      await store?.delete(subject)
      known.delete(subject)
    }
    await store?.put(issued)
    known.set(issued.subject, issued)
  }

  return {
    inTurn: async task => {
      const mine = turn.then(task, task)
      turn = mine.catch(() => undefined)
      return await mine
    },
    checkName: async (kind, name, subject, live) => {
      const fresh = [...(await all()).values()].find(other => other.kind === kind && other.name === name && other.subject !== subject && !revoked(other) &&
        // a site keeps its name as long as its certificate holds: others may not see it now
        (kind === 'site' || now() - other.issuedMs < SETTLE_MS))
      const holder = live !== null && live !== subject ? live : fresh?.subject
      if (holder === undefined) return
      throw new MusubiError('NAME_TAKEN', `the name ${name} belongs to another ${kind}, ${holder}`, { hint: kind === 'site' ? `join under another name, or revoke that one: musubi coordinator revoke ${name}` : `join under another name, or put the other one out: musubi site revoke ${name}` })
    },
    slices: async () => [...(await all()).values()].filter(issued => issued.segmentIds !== null && !revoked(issued)),
    joinedMs: (kind, subject) => Math.max(now(), ...(revocations?.all() ?? []).filter(({ document }) => document.kind === kind && document.subject === subject).map(({ document }) => document.revokedMs + 1)),
    note,
    renewed: async (subject, notAfterMs) => {
      const known = (await all()).get(subject)
      if (known !== undefined) await note({ ...known, notAfterMs })
    }
  }
}
