import { InvalidInputError } from '../../core/errors.ts'
import { MAX_RECORD_BYTES } from '../../core/limits.ts'
import { decode, encode, type wire } from '../../wire/codec.ts'
import { RECORD_TTL_MAX_MS } from '../constants.ts'
import type { Role, Scope } from '../federation.ts'
import { peerIdOf, sign, verify, type NodeKey } from '../identity.ts'

/** What peers say about themselves, by kind of record. */
export interface Bodies {
  /** a host to its site */
  host: wire.HostAd
  /** a site, by one of its gateways, to the federation */
  site: wire.SiteAd
}
export type Kind = keyof Bodies
export const KINDS: readonly Kind[] = ['host', 'site']

/** Separates these signatures from all others that the same key makes. */
const PURPOSE = new TextEncoder().encode('musubi record 1\0')

export function isKind (kind: string): kind is Kind {
  return kind === 'host' || kind === 'site'
}

/** The kind of record that a scope carries. */
export function kindOf (scope: Scope): Kind {
  return scope === 'directory' ? 'site' : 'host'
}

/** The scope that a member publishes a kind in, when it may. */
export function scopeFor (kind: Kind, scopes: readonly Scope[]): Scope | null {
  return scopes.find(scope => kindOf(scope) === kind) ?? null
}

function signedBytes (record: wire.Record): Uint8Array {
  const encoded = encode('Record', { ...record, signature: new Uint8Array(), ageMs: 0 }, { maxBytes: MAX_RECORD_BYTES })
  return Buffer.concat([PURPOSE, encoded])
}

/** @throws InvalidInputError when the body does not fit, or the record is larger than MAX_RECORD_BYTES */
export function signRecord<K extends Kind> (key: NodeKey, kind: K, version: { epoch: number, seq: number }, ttlMs: number, body: Bodies[K]): wire.Record {
  const record: wire.Record = {
    peer: peerIdOf(key), kind, epoch: version.epoch, seq: version.seq, ttlMs, body: encodeBody(kind, body), signature: new Uint8Array(), ageMs: 0
  }
  return { ...record, signature: sign(key, signedBytes(record)) }
}

const LIMIT = { maxBytes: MAX_RECORD_BYTES }
const codecs: { readonly [K in Kind]: { encode (body: Bodies[K]): Uint8Array, decode (bytes: Uint8Array): Bodies[K] } } = {
  host: { encode: body => encode('HostAd', body, LIMIT), decode: bytes => decode('HostAd', bytes, LIMIT) },
  site: { encode: body => encode('SiteAd', body, LIMIT), decode: bytes => decode('SiteAd', bytes, LIMIT) }
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
  if (record.body.length > MAX_RECORD_BYTES) throw new InvalidInputError(`a record of ${record.peer} has ${record.body.length} bytes`)
}

/** Whether the peer that a record names has signed it. */
export function isAuthentic (record: wire.Record): boolean {
  return verify(record.peer, signedBytes(record), record.signature)
}

/** Whether a member may say this: hosts of themselves, gateways of their site, and nothing else. */
export function speaksForItself<K extends Kind> (role: Role, kind: K, body: Bodies[K]): boolean {
  if (role.kind !== 'host' || body.site !== role.site) return false
  return 'host' in body ? kind === 'host' && body.host === role.host : kind === 'site' && role.roles.includes('gateway')
}
