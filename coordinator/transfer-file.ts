import { createCipheriv, createDecipheriv, randomBytes, scrypt } from 'node:crypto'
import { open, readFile, stat, unlink } from 'node:fs/promises'
import { privateKeyFromProtobuf, privateKeyToProtobuf } from '@libp2p/crypto/keys'
import Type, { type Static } from 'typebox'
import { parseWith } from '../protocol/config-file.ts'
import { ConflictError, describeError, InvalidInputError, MusubiError } from '../protocol/core/errors.ts'
import { MAX_EXPORT_BYTES, MAX_PEERS_KEPT, MAX_RECORDS, MAX_REVOCATIONS } from '../protocol/core/limits.ts'
import { checkPeerId, type NodeKey } from '../protocol/mesh/identity.ts'
import { NAME } from '../protocol/mesh/roles.ts'

/** The file that `musubi coordinator export` writes: all that makes a coordinator, to be kept like the key that it holds. */

const Base64 = (maxLength: number) => Type.String({ pattern: '^[A-Za-z0-9+/]+={0,2}$', maxLength })
const Chain = Type.Array(Base64(4096), { maxItems: 3 })
const PeerIdText = Type.String({ minLength: 8, maxLength: 128 })
const Name = Type.String({ pattern: NAME.source })
const Ms = Type.Integer({ minimum: 0 })

/** What other coordinators must know of a federation, without any key. */
export const FederationStateSchema = Type.Object({
  sites: Type.Array(Type.Object({ site: Name, key: PeerIdText, joinedMs: Ms, issuedMs: Ms, notAfterMs: Ms }, { additionalProperties: false }), { maxItems: MAX_RECORDS }),
  revocations: Type.Array(Type.Object({ envelope: Base64(4096), chain: Chain }, { additionalProperties: false }), { maxItems: MAX_REVOCATIONS }),
  peers: Type.Array(Type.Object({ peerId: PeerIdText, addresses: Type.Array(Type.String({ maxLength: 256 }), { maxItems: 32 }), chain: Chain }, { additionalProperties: false }), { maxItems: MAX_PEERS_KEPT + 1 })
}, { additionalProperties: false })
export type FederationState = Static<typeof FederationStateSchema>

const ContentSchema = Type.Object({ coordinatorKey: Base64(512), nodeKey: Base64(512), state: FederationStateSchema }, { additionalProperties: false })

const SCRYPT = { N: 131_072, r: 8, p: 1 } as const
const HeaderFields = { format: Type.Literal('musubi-coordinator'), version: Type.Literal(1), federation: PeerIdText, name: Name, exportedAt: Type.String({ maxLength: 32 }) }
const FileSchema = Type.Union([
  Type.Object({ ...HeaderFields, content: ContentSchema }, { additionalProperties: false }),
  Type.Object({
    ...HeaderFields,
    encrypted: Type.Object({ cipher: Type.Literal('scrypt-aes-256-gcm'), N: Type.Literal(SCRYPT.N), r: Type.Literal(SCRYPT.r), p: Type.Literal(SCRYPT.p), salt: Base64(64), iv: Base64(32), tag: Base64(32), data: Base64(2 * MAX_EXPORT_BYTES) }, { additionalProperties: false })
  }, { additionalProperties: false })
])
const HeaderSchema = Type.Object({ format: Type.Literal('musubi-coordinator'), version: Type.Integer() })

/** A coordinator as it is carried to another disk. */
export interface Carried {
  readonly federation: string
  readonly name: string
  readonly exportedAt: string
  readonly coordinatorKey: NodeKey
  readonly nodeKey: NodeKey
  readonly state: FederationState
}

const MIN_PASSPHRASE = 8

/** The passphrase in a file: its first line. @throws InvalidInputError */
export async function readPassphrase (path: string): Promise<string> {
  let text: string
  try {
    text = await readFile(path, 'utf8')
  } catch (error) {
    throw new InvalidInputError(`cannot read the passphrase in ${path}: ${describeError(error)}`)
  }
  const [line = ''] = text.split(/\r?\n/)
  if (line.length < MIN_PASSPHRASE || line.length > 1024) throw new InvalidInputError(`the passphrase in ${path} has ${line.length} characters, ${MIN_PASSPHRASE} to 1024 are right`, 'its first line counts')
  return line
}

function deriveKey (passphrase: string, salt: Uint8Array): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    scrypt(passphrase.normalize('NFC'), salt, 32, { ...SCRYPT, maxmem: 256 * 1024 * 1024 }, (error, key) => { if (error === null) resolve(key); else reject(error) })
  })
}

interface Header { format: 'musubi-coordinator', version: 1, federation: string, name: string, exportedAt: string }

/** The header stands in the clear and is covered by the tag. */
const covered = ({ format, version, federation, name, exportedAt }: Header): Buffer => Buffer.from(JSON.stringify([format, version, federation, name, exportedAt]))
const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64')
const unbase64 = (text: string): Buffer => Buffer.from(text, 'base64')

/** @param passphrase null: in the clear */
export async function packCoordinator (carried: Carried, passphrase: string | null): Promise<string> {
  const header: Header = { format: 'musubi-coordinator', version: 1, federation: carried.federation, name: carried.name, exportedAt: carried.exportedAt }
  const content: Static<typeof ContentSchema> = { coordinatorKey: base64(privateKeyToProtobuf(carried.coordinatorKey)), nodeKey: base64(privateKeyToProtobuf(carried.nodeKey)), state: carried.state }
  if (passphrase === null) return `${JSON.stringify({ ...header, content }, null, 1)}\n`
  const salt = randomBytes(16)
  const iv = randomBytes(12)
  const cipher = createCipheriv('aes-256-gcm', await deriveKey(passphrase, salt), iv)
  cipher.setAAD(covered(header))
  const data = Buffer.concat([cipher.update(JSON.stringify(content), 'utf8'), cipher.final()])
  const encrypted = { cipher: 'scrypt-aes-256-gcm', ...SCRYPT, salt: base64(salt), iv: base64(iv), tag: base64(cipher.getAuthTag()), data: base64(data) }
  return `${JSON.stringify({ ...header, encrypted }, null, 1)}\n`
}

function parseJson (text: string, source: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    throw new InvalidInputError(`${source} is no JSON`, 'give the file that musubi coordinator export has written')
  }
}

function keyOf (text: string, what: string, source: string): NodeKey {
  try {
    const key = privateKeyFromProtobuf(unbase64(text))
    if (key.type === 'Ed25519') return key
  } catch {
    // said below, without the bytes: they are a key
  }
  throw new InvalidInputError(`${source}: its ${what} is no Ed25519 key`)
}

/**
 * Reads what {@link packCoordinator} wrote.
 *
 * @param source names the file in errors
 * @throws InvalidInputError when it is no such file; MusubiError PASSPHRASE when it needs one, has none, or has another
 */
export async function unpackCoordinator (text: string, passphrase: string | null, source: string): Promise<Carried> {
  const data = parseJson(text, source)
  const { version } = parseWith(HeaderSchema, data, source)
  if (version !== 1) throw new InvalidInputError(`${source} is of version ${version}, this release reads version 1`, 'install the release that wrote it')
  const file = parseWith(FileSchema, data, source)
  checkPeerId(file.federation, `${source}: federation`)
  let content: unknown
  if ('content' in file) {
    ({ content } = file)
  } else {
    if (passphrase === null) throw new MusubiError('PASSPHRASE', `${source} is encrypted`, { hint: 'give its passphrase: --passphrase-file FILE' })
    const { salt, iv, tag, data: sealed } = file.encrypted
    try {
      const decipher = createDecipheriv('aes-256-gcm', await deriveKey(passphrase, unbase64(salt)), unbase64(iv), { authTagLength: 16 })
      decipher.setAAD(covered(file))
      decipher.setAuthTag(unbase64(tag))
      content = JSON.parse(Buffer.concat([decipher.update(unbase64(sealed)), decipher.final()]).toString('utf8'))
    } catch {
      throw new MusubiError('PASSPHRASE', `${source} does not open with this passphrase`, { hint: 'try another one; if it is the right one, the file was changed' })
    }
  }
  const { coordinatorKey, nodeKey, state } = parseWith(ContentSchema, content, source)
  return { federation: file.federation, name: file.name, exportedAt: file.exportedAt, coordinatorKey: keyOf(coordinatorKey, 'coordinator key', source), nodeKey: keyOf(nodeKey, 'node key', source), state }
}

/** Writes a file that only its owner may read; never over another. @throws ConflictError, InvalidInputError */
export async function writeNewPrivateFile (path: string, text: string): Promise<void> {
  const file = await open(path, 'wx', 0o600).catch((error: unknown) => {
    if (error instanceof Error && 'code' in error && error.code === 'EEXIST') throw new ConflictError(`${path} is there already`, 'nothing is overwritten: name another file, or move that one away')
    throw new InvalidInputError(`cannot write ${path}: ${describeError(error)}`)
  })
  try {
    try {
      await file.writeFile(text)
      await file.sync()
    } finally {
      await file.close()
    }
  } catch (error) {
    await unlink(path)
    throw error
  }
}

/** @throws InvalidInputError when it cannot be read, or is too large to be one */
export async function readExportFile (path: string): Promise<string> {
  try {
    const { size } = await stat(path)
    if (size > 2 * MAX_EXPORT_BYTES) throw new InvalidInputError(`${path} has ${size} bytes: no coordinator is that large`)
    return await readFile(path, 'utf8')
  } catch (error) {
    if (error instanceof InvalidInputError) throw error
    throw new InvalidInputError(`cannot read ${path}: ${describeError(error)}`)
  }
}
