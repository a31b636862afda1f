import { createPrivateKey, createPublicKey, randomBytes, sign as edSign, verify as edVerify, type KeyObject } from 'node:crypto'
import { existsSync } from 'node:fs'
import { constants, link, mkdir, open, unlink } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { generateKeyPair, privateKeyFromProtobuf, privateKeyToProtobuf } from '@libp2p/crypto/keys'
import { peerIdFromPrivateKey, peerIdFromString } from '@libp2p/peer-id'
import type { Ed25519PrivateKey } from '@libp2p/interface'
import { InvalidInputError, MusubiError } from '../core/errors.ts'

/** The key of an agent or coordinator: its PeerId is made of it. */
export type NodeKey = Ed25519PrivateKey

const MAX_KEY_FILE_BYTES = 1024
/** Public keys kept ready; one per peer that signs something. */
const MAX_CACHED_KEYS = 4096

function isCode (error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code
}

/** A new key that is stored nowhere. */
export async function createKey (): Promise<NodeKey> {
  return await generateKeyPair('Ed25519')
}

/** The PeerId of a key, as text (`12D3Koo...`). */
export function peerIdOf (key: NodeKey): string {
  return peerIdFromPrivateKey(key).toString()
}

function parseKey (bytes: Uint8Array, path: string): NodeKey {
  const hint = 'restore it from a backup; removing it gives this host a new identity, which must be admitted again'
  try {
    const key = privateKeyFromProtobuf(bytes)
    if (key.type === 'Ed25519') return key
  } catch (cause) {
    throw new MusubiError('BAD_KEY', `${path} holds no private key`, { hint, cause })
  }
  throw new MusubiError('BAD_KEY', `${path} holds a key that is not Ed25519`, { hint })
}

async function loadKey (path: string): Promise<NodeKey | null> {
  const file = await open(path, constants.O_RDONLY).catch((error: unknown) => {
    if (isCode(error, 'ENOENT')) return null
    throw new MusubiError('BAD_KEY', `cannot read the key ${path}`, { cause: error, hint: 'run as the user that owns it' })
  })
  if (file === null) return null
  try {
    const stat = await file.stat()
    const mode = stat.mode & 0o777
    if ((mode & 0o077) !== 0) {
      throw new MusubiError('KEY_NOT_PRIVATE', `${path} can be read or written by others (mode ${mode.toString(8).padStart(4, '0')})`, { hint: `chmod 600 ${path}` })
    }
    if (!stat.isFile() || stat.size > MAX_KEY_FILE_BYTES) throw new MusubiError('BAD_KEY', `${path} is no key file`)
    return parseKey(await file.readFile(), path)
  } finally {
    await file.close()
  }
}

async function syncFolder (path: string): Promise<void> {
  const folder = await open(path, constants.O_RDONLY)
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}

/**
 * Where a key is read: what systemd hands to a daemon under this name (systemd.exec(5), LoadCredential=),
 * which may have lain encrypted until then; else `path`, where it is made as well.
 */
export function keyFile (credential: string, path: string, env: NodeJS.ProcessEnv = process.env): string {
  const folder = env.CREDENTIALS_DIRECTORY ?? ''
  const given = join(folder, credential)
  return folder.startsWith('/') && existsSync(given) ? given : path
}

/**
 * The key in `path` (libp2p protobuf, mode 0600), made on the first start. A file that exists is
 * never replaced: of several processes that start at once all get the same key.
 *
 * @throws MusubiError KEY_NOT_PRIVATE when others may read it, BAD_KEY when it cannot be used
 */
export async function loadOrCreateKey (path: string): Promise<NodeKey> {
  const found = await loadKey(path)
  if (found !== null) return found
  const folder = dirname(path)
  await mkdir(folder, { recursive: true, mode: 0o700 })
  const key = await createKey()
  const draft = `${path}.${randomBytes(6).toString('hex')}.tmp`
  const file = await open(draft, 'wx', 0o600)
  try {
    try {
      await file.writeFile(privateKeyToProtobuf(key))
      await file.sync()
    } finally {
      await file.close()
    }
    // link fails where rename would replace a key that another process has just made
    await link(draft, path)
  } catch (error) {
    if (!isCode(error, 'EEXIST')) throw error
    const other = await loadKey(path)
    if (other === null) throw error
    return other
  } finally {
    await unlink(draft)
  }
  await syncFolder(folder)
  return key
}

const signers = new WeakMap<NodeKey, KeyObject>()
const verifiers = new Map<string, KeyObject>()

const base64url = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64url')

function signerOf (key: NodeKey): KeyObject {
  const known = signers.get(key)
  if (known !== undefined) return known
  // libp2p's raw form is the 32-byte seed followed by the public key
  const jwk = { kty: 'OKP', crv: 'Ed25519', d: base64url(key.raw.subarray(0, 32)), x: base64url(key.publicKey.raw) }
  const signer = createPrivateKey({ key: jwk, format: 'jwk' })
  signers.set(key, signer)
  return signer
}

function verifierOf (peerId: string): KeyObject | null {
  const known = verifiers.get(peerId)
  if (known !== undefined) return known
  let raw: Uint8Array
  try {
    const id = peerIdFromString(peerId)
    if (id.type !== 'Ed25519') return null
    raw = id.publicKey.raw
  } catch {
    return null
  }
  const verifier = createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x: base64url(raw) }, format: 'jwk' })
  if (verifiers.size >= MAX_CACHED_KEYS) {
    for (const oldest of verifiers.keys()) {
      verifiers.delete(oldest)
      break
    }
  }
  verifiers.set(peerId, verifier)
  return verifier
}

/** Ed25519 signature (64 bytes) by a node's key. Prefix what you sign with its purpose. */
export function sign (key: NodeKey, bytes: Uint8Array): Uint8Array {
  return Uint8Array.from(edSign(null, bytes, signerOf(key)))
}

/** Whether `peerId` signed `bytes`. A PeerId that is none, or of another key type, signed nothing. */
export function verify (peerId: string, bytes: Uint8Array, signature: Uint8Array): boolean {
  if (signature.length !== 64) return false
  const verifier = verifierOf(peerId)
  return verifier !== null && edVerify(null, bytes, verifier, signature)
}

/** @throws InvalidInputError unless it is the PeerId of an Ed25519 key, in its usual text form */
export function checkPeerId (text: string, where: string): void {
  try {
    const id = peerIdFromString(text)
    if (id.type === 'Ed25519' && id.toString() === text) return
  } catch {
    // said below
  }
  throw new InvalidInputError(`${where}: '${text}' is not the PeerId of an Ed25519 key (12D3Koo...)`)
}
