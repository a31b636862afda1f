import { InvalidInputError } from '../../core/errors.ts'
import { MAX_CERTIFICATE_BYTES, MAX_CHAIN, MAX_HELLO_BYTES, MAX_RECORD_BYTES, MAX_VERSION } from '../../core/limits.ts'
import { tracksProblem } from '../../core/network/tracks.ts'
import { decode, encode, type wire } from '../../wire/codec.ts'
import { RECORD_TTL_MAX_MS } from '../constants.ts'
import { peerIdOf, sign, verify, type NodeKey } from '../identity.ts'
import { isGateway, type Role, type Scope } from '../roles.ts'
import type { Chain } from '../trust/certificate.ts'
import type { Version } from './view.ts'

/** What peers say about themselves, by kind of record. */
export interface Bodies {
  /** a host to its site */
  host: wire.HostAd
  /** what a gateway holds as the policy of its site, to its site */
  policy: wire.PolicyAd
  /** a site, by one of its gateways, to the federation */
  site: wire.SiteAd
  /** a coordinator to the federation */
  coordinator: wire.CoordinatorAd
}
export type Kind = keyof Bodies
export const KINDS: readonly Kind[] = ['host', 'policy', 'site', 'coordinator']

/** Separates these signatures from all others that the same key makes. */
const PURPOSE = new TextEncoder().encode('musubi record 1\0')
/** A record carries its author's chain beside the body. */
const MAX_BODY_BYTES = MAX_RECORD_BYTES - MAX_HELLO_BYTES - 512

export function isKind (kind: string): kind is Kind {
  return (KINDS as readonly string[]).includes(kind)
}

const SITE_KINDS: readonly Kind[] = ['host', 'policy']
const DIRECTORY_KINDS: readonly Kind[] = ['site', 'coordinator']

/** The kinds of record that a scope carries. */
export function kindsOf (scope: Scope): readonly Kind[] {
  return scope === 'directory' ? DIRECTORY_KINDS : SITE_KINDS
}

/** The scope that a member publishes a kind in, when it takes part in one. */
export function scopeFor (kind: Kind, scopes: readonly Scope[]): Scope | null {
  return scopes.find(scope => kindsOf(scope).includes(kind)) ?? null
}

function signedBytes (record: wire.Record): Uint8Array {
  const encoded = encode('Record', { ...record, signature: new Uint8Array(), ageMs: 0, chain: [] }, { maxBytes: MAX_RECORD_BYTES })
  return Buffer.concat([PURPOSE, encoded])
}

/** What goes around the body of a record. */
export interface Statement {
  readonly version: Version
  readonly ttlMs: number
  /** wall clock, Unix ms */
  readonly madeMs: number
  readonly leaving: boolean
  /** of the author */
  readonly chain: Chain
}

/** @throws InvalidInputError when the body does not fit, or the record is larger than MAX_RECORD_BYTES */
export function signRecord<K extends Kind> (key: NodeKey, kind: K, statement: Statement, body: Bodies[K]): wire.Record {
  const { version: { epoch, seq }, ttlMs, madeMs, leaving, chain } = statement
  const record: wire.Record = {
    peer: peerIdOf(key), kind, epoch, seq, ttlMs, body: encodeBody(kind, body), signature: new Uint8Array(), ageMs: 0, madeMs, leaving, chain: [...chain]
  }
  return { ...record, signature: sign(key, signedBytes(record)) }
}

const LIMIT = { maxBytes: MAX_BODY_BYTES }
const codecs: { readonly [K in Kind]: { encode (body: Bodies[K]): Uint8Array, decode (bytes: Uint8Array): Bodies[K] } } = {
  host: { encode: body => encode('HostAd', body, LIMIT), decode: bytes => decode('HostAd', bytes, LIMIT) },
  policy: { encode: body => encode('PolicyAd', body, LIMIT), decode: bytes => decode('PolicyAd', bytes, LIMIT) },
  site: { encode: body => encode('SiteAd', body, LIMIT), decode: bytes => decode('SiteAd', bytes, LIMIT) },
  coordinator: { encode: body => encode('CoordinatorAd', body, LIMIT), decode: bytes => decode('CoordinatorAd', bytes, LIMIT) }
}

/** @throws InvalidInputError when it does not fit its schema, or is too large for a record */
export function encodeBody<K extends Kind> (kind: K, body: Bodies[K]): Uint8Array {
  return codecs[kind].encode(body)
}

/** @throws InvalidInputError */
export function decodeBody<K extends Kind> (kind: K, bytes: Uint8Array): Bodies[K] {
  return codecs[kind].decode(bytes)
}

/** @throws InvalidInputError when it can be no record, whoever signed it */
export function checkRecord (record: wire.Record): void {
  if (record.ttlMs === 0 || record.ttlMs > RECORD_TTL_MAX_MS) throw new InvalidInputError(`a record of ${record.peer} lives ${record.ttlMs} ms, at most ${RECORD_TTL_MAX_MS} are allowed`)
  if (record.epoch > MAX_VERSION || record.seq > MAX_VERSION) throw new InvalidInputError(`a record of ${record.peer} has the version ${record.epoch}.${record.seq}`)
  if (record.body.length > MAX_BODY_BYTES) throw new InvalidInputError(`a record of ${record.peer} has ${record.body.length} bytes`)
  if (record.chain.length > MAX_CHAIN || record.chain.some(({ length }) => length > MAX_CERTIFICATE_BYTES)) throw new InvalidInputError(`a record of ${record.peer} carries too many or too large certificates`)
}

/** Whether the peer that a record names has signed it. */
export function isAuthentic (record: wire.Record): boolean {
  return verify(record.peer, signedBytes(record), record.signature)
}

type Claims = { readonly [K in Kind]: (role: Role, body: Bodies[K]) => boolean }
const CLAIMS: Claims = {
  host: (role, { site, host, roles }) => role.kind === 'host' && role.site === site && role.host === host && roles.every(name => (role.roles as readonly string[]).includes(name)),
  policy: (role, { site, host }) => role.kind === 'host' && isGateway(role) && role.site === site && role.host === host,
  site: (role, { site, gateway }) => role.kind === 'host' && isGateway(role) && role.site === site && role.host === gateway,
  coordinator: (role, { name }) => role.kind === 'coordinator' && role.name === name
}

/** Whether a member may say this: hosts of themselves, gateways of their site too, coordinators of themselves, and nothing else. */
export function speaksForItself<K extends Kind> (role: Role, kind: K, body: Bodies[K]): boolean {
  return CLAIMS[kind](role, body)
}

type Problems = { readonly [K in Kind]: (body: Bodies[K]) => string | null }
const nothing = (): null => null
const PROBLEMS: Problems = { host: nothing, policy: nothing, coordinator: nothing, site: ({ tunnel }) => tracksProblem(tunnel) }

/** What is wrong with a body that fits its schema and that its author may say; null for nothing. */
export function bodyProblem<K extends Kind> (kind: K, body: Bodies[K]): string | null {
  return PROBLEMS[kind](body)
}

/** Where the author of a record is reached, as far as it says so. */
export function addressesIn (body: Bodies[Kind]): readonly string[] {
  return 'addresses' in body ? body.addresses : []
}
