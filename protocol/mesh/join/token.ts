import { createHash } from 'node:crypto'
import { InvalidInputError } from '../../core/errors.ts'
import { MAX_TOKEN_CHARACTERS } from '../../core/limits.ts'
import { decode, encode, type wire } from '../../wire/codec.ts'
import { checkPeerId } from '../identity.ts'
import { isTcpAddress, NAME } from '../roles.ts'
import type { InvitationKind } from './types.ts'

/** Version of the text form; the next one gets another letter, so that old programs can say so. */
const VERSION = 'a'
const PREFIX = 'musubi-'
const CHECKSUM_CHARACTERS = 6
export const SECRET_BYTES = 32
export const TOKEN_ID = /^[A-Za-z0-9_-]{16,32}$/
const MAX_ADDRESSES = 8

const AGAIN = 'copy the whole token, from musubi- on, or ask for a new one'
const checksum = (body: string): string => createHash('sha256').update(`${PREFIX}${body}`).digest('base64url').slice(0, CHECKSUM_CHARACTERS)

export function isInvitationKind (text: string): text is InvitationKind {
  return text === 'site' || text === 'host'
}

function bad (why: string, hint: string = AGAIN): never {
  throw new InvalidInputError(`this token ${why}`, hint)
}

/** Never names a value: a secret that slipped into the wrong field would end in a log. */
function checkToken (token: wire.Token): void {
  if (!TOKEN_ID.test(token.id)) bad('has no id')
  if (!isInvitationKind(token.kind)) bad('is for neither a site nor a host', 'it may be of a newer release')
  if (token.secret.length !== SECRET_BYTES) bad(`has a secret of ${token.secret.length} bytes instead of ${SECRET_BYTES}`)
  for (const [peer, what] of [[token.issuer, 'issuer'], [token.federation, 'federation']] as const) {
    try {
      checkPeerId(peer, 'token')
    } catch {
      bad(`names no ${what}`)
    }
  }
  if (token.addresses.length === 0 || token.addresses.length > MAX_ADDRESSES) bad(`names ${token.addresses.length} addresses, 1 to ${MAX_ADDRESSES} are right`)
  if (!token.addresses.every(isTcpAddress)) bad('names an address that is none of the form /ip4/ADDRESS/tcp/PORT')
  if (token.kind === 'host' ? !NAME.test(token.site) : token.site !== '' && !NAME.test(token.site)) bad('names no site')
  if (token.expiresMs === 0) bad('has no end')
}

/**
 * A token as people pass it on: `musubi-`, a version, base64url of the message, a checksum.
 * Whoever has it may join: it belongs into no log.
 *
 * @throws InvalidInputError when a part is missing or the text would be longer than MAX_TOKEN_CHARACTERS
 */
export function encodeToken (token: wire.Token): string {
  checkToken(token)
  const body = `${VERSION}${Buffer.from(encode('Token', token)).toString('base64url')}`
  const text = `${PREFIX}${body}${checksum(body)}`
  if (text.length > MAX_TOKEN_CHARACTERS) bad(`has ${text.length} characters, at most ${MAX_TOKEN_CHARACTERS} are allowed`, 'announce fewer addresses')
  return text
}

/**
 * Reads a token; white space around it and inside (mails break lines) is no fault.
 *
 * @throws InvalidInputError saying whether it is no token, cut, of another version or too long;
 * never with the token in the message
 */
export function parseToken (text: string): wire.Token {
  // before anything else: the text comes from anywhere
  if (text.length > 2 * MAX_TOKEN_CHARACTERS) bad(`has ${text.length} characters, at most ${MAX_TOKEN_CHARACTERS} are allowed`)
  const compact = text.replace(/\s+/g, '')
  if (compact === '') bad('is empty')
  if (!compact.startsWith(PREFIX)) bad(PREFIX.startsWith(compact) ? 'was cut' : `does not begin with ${PREFIX}`)
  if (compact.length > MAX_TOKEN_CHARACTERS) bad(`has ${compact.length} characters, at most ${MAX_TOKEN_CHARACTERS} are allowed`)
  const body = compact.slice(PREFIX.length, -CHECKSUM_CHARACTERS)
  if (!/^[A-Za-z0-9_-]+$/.test(compact.slice(PREFIX.length))) bad('has characters that no token has')
  if (compact.length < PREFIX.length + CHECKSUM_CHARACTERS + 2) bad('was cut')
  if (!body.startsWith(VERSION)) bad('is of another version', 'install the release of the host that made it')
  if (checksum(body) !== compact.slice(-CHECKSUM_CHARACTERS)) bad('was cut or changed on the way')
  let token: wire.Token
  try {
    token = decode('Token', Buffer.from(body.slice(VERSION.length), 'base64url'))
  } catch {
    return bad('cannot be read')
  }
  checkToken(token)
  return token
}
