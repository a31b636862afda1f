import { ConflictError, InvalidInputError, MusubiError, NotFoundError } from '../../core/errors.ts'
import { INVITATION_TTL_MAX_MS, MAX_INVITATIONS, MAX_WRONG_PROOFS } from '../../core/limits.ts'
import type { wire } from '../../wire/codec.ts'
import { checkPeerId } from '../identity.ts'
import { HOST_ROLES, NAME } from '../roles.ts'
import type { Chain } from '../trust/certificate.ts'
import { hmac, requestBytes, sameProof } from './proof.ts'
import { isInvitationKind, SECRET_BYTES } from './token.ts'
import type { Invitation, InvitationRecord, Invitations, InvitationState, InvitationStore, InviteOptions, NewInvitation } from './types.ts'
import { fromBase64, toBase64 } from '../trust/base64.ts'

export interface InvitationsOptions {
  readonly store: InvitationStore
  /** wall clock, Unix ms */
  readonly now: () => number
  readonly randomBytes: (bytes: number) => Uint8Array
}

const ID_BYTES = 16
const KEEP_MS = 24 * 3_600_000
const MAX_NOTE_CHARACTERS = 200
const AGAIN = 'ask for a new token: musubi site invite on a gateway of the site, musubi coordinator invite for a site'

const iso = (ms: number): string => new Date(ms).toISOString()

/** @throws InvalidInputError */
function checkRoles (roles: readonly string[]): void {
  if (new Set(roles).size !== roles.length || !roles.every(role => (HOST_ROLES as readonly string[]).includes(role))) throw new InvalidInputError(`roles are ${HOST_ROLES.join(', ')}, each once`)
}

/** @throws InvalidInputError */
function checkOptions ({ kind, site, roles, ttlMs, note = '', segmentIds = null, quotaPercent = 0 }: InviteOptions): void {
  const bad = (why: string): never => { throw new InvalidInputError(`invitation: ${why}`) }
  if (!isInvitationKind(kind)) bad('it is for a site or a host')
  if (kind === 'host' ? !NAME.test(site) : site !== '' && !NAME.test(site)) bad(`'${site.slice(0, 40)}' is no site name`)
  if (kind === 'host' ? roles.length === 0 : roles.length > 0) bad(kind === 'host' ? 'a host needs at least one role' : 'a site has no roles')
  checkRoles(roles)
  if (!Number.isSafeInteger(ttlMs) || ttlMs < 1 || ttlMs > INVITATION_TTL_MAX_MS) bad(`it lasts up to ${INVITATION_TTL_MAX_MS / KEEP_MS} days`)
  if (note.length > MAX_NOTE_CHARACTERS) bad(`the note has more than ${MAX_NOTE_CHARACTERS} characters`)
  if ((segmentIds !== null || quotaPercent !== 0) && !roles.includes('gateway')) bad('only gateways have a slice of segment ids and a share of the quota')
  if (segmentIds !== null && !(segmentIds.from >= 1 && segmentIds.from <= segmentIds.to && segmentIds.to <= 0xff_ffff)) bad('segment ids are from 1 to 16777215')
  if (!Number.isInteger(quotaPercent) || quotaPercent < 0 || quotaPercent > 100) bad('the share of the quota is 0 to 100 percent')
}

/** A burnt token that was used stays a used one. */
export function stateOf (record: InvitationRecord, nowMs: number): InvitationState {
  if (record.withdrawn) return 'withdrawn'
  if (record.used !== null) return 'used'
  if (record.wrongProofs >= MAX_WRONG_PROOFS) return 'burnt'
  return record.expiresMs <= nowMs ? 'expired' : 'open'
}

/** Field by field, so that what is added to the record later is not shown by itself. */
function shown (record: InvitationRecord, nowMs: number): Invitation {
  const { id, kind, site, roles, segmentIds, quotaPercent, note, createdMs, expiresMs, used, wrongProofs } = record
  return { id, kind, site, roles, segmentIds, quotaPercent, note, createdMs, expiresMs, used, wrongProofs, state: stateOf(record, nowMs) }
}

/**
 * The invitations of one issuer: what it has promised to certify, each once. Kept in memory, written
 * before anybody is answered; changes take their turns.
 */
export async function createInvitations ({ store, now, randomBytes }: InvitationsOptions): Promise<Invitations> {
  const records = new Map<string, InvitationRecord>()
  for (const record of await store.list()) records.set(record.id, record)
  const listeners = new Set<() => void>()
  let turn: Promise<unknown> = Promise.resolve()

  const inTurn = async <T>(task: () => Promise<T>): Promise<T> => {
    const mine = turn.then(task, task)
    turn = mine.catch(() => undefined)
    return await mine
  }
  const changed = (): void => { for (const listener of listeners) listener() }
  /** Memory follows the disk: after a failed write nothing has happened here. */
  const save = async (record: InvitationRecord): Promise<void> => {
    await store.put(record)
    records.set(record.id, record)
    changed()
  }
  const sweep = async (): Promise<void> => {
    const ended = [...records.values()].filter(record => record.expiresMs + KEEP_MS < now())
    const closed = [...records.values()].filter(record => stateOf(record, now()) !== 'open' && !ended.includes(record)).sort((a, b) => b.createdMs - a.createdMs)
    for (const { id } of [...ended, ...closed.slice(MAX_INVITATIONS)]) {
      await store.delete(id)
      records.delete(id)
    }
  }
  const unknown = (): MusubiError => new MusubiError('TOKEN_UNKNOWN', 'this token is not known here', { hint: `it was made by another issuer, or ended long ago: ${AGAIN}` })
  const checkLive = (record: InvitationRecord): void => {
    if (record.wrongProofs >= MAX_WRONG_PROOFS) throw new MusubiError('TOKEN_BURNT', `this token is worth nothing any more: ${MAX_WRONG_PROOFS} wrong proofs were made for it`, { hint: AGAIN })
    if (record.withdrawn) throw new MusubiError('TOKEN_WITHDRAWN', 'this token was withdrawn', { hint: AGAIN })
    if (record.expiresMs <= now()) throw new MusubiError('TOKEN_EXPIRED', `this token ended ${iso(record.expiresMs)}; here it is ${iso(now())}`, { hint: AGAIN })
  }

  return {
    invite: async options => {
      checkOptions(options)
      return await inTurn(async () => {
        await sweep()
        const open = [...records.values()].filter(record => stateOf(record, now()) === 'open').length
        if (open >= MAX_INVITATIONS) throw new MusubiError('TOO_MANY_INVITATIONS', `${open} invitations wait to be used, no more are made`, { hint: 'withdraw those that nobody needs' })
        const secret = randomBytes(SECRET_BYTES)
        const record: InvitationRecord = {
          id: Buffer.from(randomBytes(ID_BYTES)).toString('base64url'), kind: options.kind, site: options.site, roles: [...options.roles],
          segmentIds: options.segmentIds ?? null, quotaPercent: options.quotaPercent ?? 0, note: options.note ?? '',
          createdMs: now(), expiresMs: now() + options.ttlMs, used: null, wrongProofs: 0, secret: toBase64(secret), withdrawn: false, chain: []
        }
        await save(record)
        const invitation: NewInvitation = { ...shown(record, now()), secret: Uint8Array.from(secret) }
        return invitation
      })
    },
    list: () => [...records.values()].sort((a, b) => b.createdMs - a.createdMs || (a.id < b.id ? -1 : 1)).map(record => shown(record, now())),
    withdraw: async id => await inTurn(async () => {
      const record = records.get(id)
      if (record === undefined) throw new NotFoundError(`there is no invitation ${id.slice(0, 40)}`)
      if (record.used !== null) throw new ConflictError(`invitation ${id} was used by ${record.used.name} (${record.used.subject})`, 'to put it out again, revoke it')
      if (stateOf(record, now()) !== 'open') return shown(record, now())
      const withdrawn = { ...record, withdrawn: true }
      await save(withdrawn)
      return shown(withdrawn, now())
    }),
    check: async (request, issuer, caller) => await inTurn(async () => {
      const record = records.get(request.tokenId)
      if (record === undefined) throw unknown()
      if (record.wrongProofs >= MAX_WRONG_PROOFS) checkLive(record)
      // first of all: who does not know the secret learns nothing of the rest
      if (!sameProof(hmac(fromBase64(record.secret), requestBytes(request, issuer, caller)), request.proof)) {
        await save({ ...record, wrongProofs: record.wrongProofs + 1 })
        throw new MusubiError('BAD_PROOF', 'the proof that the token is known is wrong', { hint: `the token was changed on the way: copy it again; after ${MAX_WRONG_PROOFS} wrong proofs it is worth nothing` })
      }
      checkLive(record)
      if (request.kind !== record.kind) throw new MusubiError('TOKEN_WRONG_KIND', `this token is for a ${record.kind}`, { hint: record.kind === 'site' ? 'musubi site init --join TOKEN' : 'musubi agent join TOKEN' })
      return shown(record, now())
    }),
    redeem: async (id, subject, name, makeChain) => await inTurn(async () => {
      const record = records.get(id)
      if (record === undefined) throw unknown()
      checkLive(record)
      if (record.used !== null) {
        const { subject: by, name: as, atMs } = record.used
        if (by !== subject) throw new MusubiError('TOKEN_USED', `this token was used by ${as} (${by}) ${iso(atMs)}`, { hint: AGAIN })
        if (as !== name) throw new MusubiError('TOKEN_USED', `this token was used under the name ${as} ${iso(atMs)}`, { hint: `join as ${as} again, or ${AGAIN}` })
        return record.chain.map(fromBase64)
      }
      const chain: Chain = await makeChain(shown(record, now()))
      await save({ ...record, used: { subject, name, atMs: now() }, chain: chain.map(toBase64) })
      return chain
    }),
    prove: (id, bytes) => {
      const record = records.get(id)
      return record === undefined ? null : hmac(fromBase64(record.secret), bytes)
    },
    answerableUntilMs: () => {
      const live = [...records.values()].filter(record => !record.withdrawn && record.wrongProofs < MAX_WRONG_PROOFS && record.expiresMs > now())
      return live.length === 0 ? null : Math.max(...live.map(({ expiresMs }) => expiresMs))
    },
    sweep: async () => { await inTurn(sweep) },
    onChange: listener => {
      listeners.add(listener)
      return () => { listeners.delete(listener) }
    }
  }
}

/** Name and place of a request, checked: it comes from anybody who has a token. @throws InvalidInputError */
export function checkJoinRequest (request: wire.JoinRequest): void {
  if (!isInvitationKind(request.kind)) throw new InvalidInputError('a join is for a site or a host')
  if (!NAME.test(request.name)) throw new InvalidInputError(`'${request.name.slice(0, 40)}' is no name of a ${request.kind}`, 'names are lower case letters, digits and hyphens, at most 32')
  checkRoles(request.roles)
  if (request.addresses.length > 16 || request.addresses.some(address => address.length > 256)) throw new InvalidInputError(`${request.addresses.length} addresses; at most 16 are taken, of up to 256 characters`)
  if (request.subject.length > 128) throw new InvalidInputError('the subject is no PeerId')
  checkPeerId(request.subject, 'join')
}
