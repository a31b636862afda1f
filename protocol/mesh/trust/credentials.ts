import { randomBytes } from 'node:crypto'
import { mkdir, open, readFile, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import Type, { type Static } from 'typebox'
import { Check, Errors } from 'typebox/value'
import { MusubiError } from '../../core/errors.ts'
import { MAX_JOIN_BYTES } from '../../core/limits.ts'
import type { Chain } from './certificate.ts'
import { chainFromText, chainToText } from './base64.ts'

const Bytes = Type.String({ pattern: '^[A-Za-z0-9+/]+={0,2}$', maxLength: 4096 })
const Chained = Type.Array(Bytes, { minItems: 1, maxItems: 3 })
const CredentialsSchema = Type.Object({
  version: Type.Literal(1),
  federation: Type.String({ minLength: 8, maxLength: 128 }),
  chain: Chained,
  peers: Type.Array(Type.Object({ peerId: Type.String({ maxLength: 128 }), addresses: Type.Array(Type.String({ maxLength: 256 }), { maxItems: 16 }), chain: Chained }, { additionalProperties: false }), { maxItems: 64 })
}, { additionalProperties: false })

/** A peer as it is remembered over restarts: where it is, and the certificates that say what it is. */
export interface KnownPeer { readonly peerId: string, readonly addresses: readonly string[], readonly chain: Chain }

/** What a member got when it joined: the file that says who it is. */
export interface Credentials {
  /** PeerId of the coordinator key */
  readonly federation: string
  /** certificates of the member, its own first */
  readonly chain: Chain
  /** whom to connect to first */
  readonly peers: readonly KnownPeer[]
}

/** @returns null when there is no such file. @throws MusubiError BAD_CREDENTIALS */
export async function readCredentials (path: string): Promise<Credentials | null> {
  const hint = 'restore it from a backup, or join again with a new token: leases stay'
  let data: unknown
  try {
    const text = await readFile(path, 'utf8')
    if (text.length > 8 * MAX_JOIN_BYTES) throw new Error(`${text.length} bytes`)
    data = JSON.parse(text)
  } catch (cause) {
    if (cause instanceof Error && 'code' in cause && cause.code === 'ENOENT') return null
    throw new MusubiError('BAD_CREDENTIALS', `cannot read the credentials ${path}: ${cause instanceof Error ? cause.message : ''}`, { cause, hint })
  }
  if (!Check(CredentialsSchema, data)) {
    const [problem] = Errors(CredentialsSchema, data)
    throw new MusubiError('BAD_CREDENTIALS', `${path} holds no credentials: ${problem?.instancePath ?? ''} ${problem?.message ?? ''}`, { hint })
  }
  return { federation: data.federation, chain: chainFromText(data.chain), peers: data.peers.map(peer => ({ ...peer, chain: chainFromText(peer.chain) })) }
}

/** Writes a file whole, or not at all; mode 0600; on the disk when it resolves. */
export async function writePrivateFile (path: string, data: string | Uint8Array): Promise<void> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 })
  const draft = `${path}.${randomBytes(6).toString('hex')}.tmp`
  const file = await open(draft, 'wx', 0o600)
  try {
    try {
      await file.writeFile(data)
      await file.sync()
    } finally {
      await file.close()
    }
    await rename(draft, path)
  } catch (error) {
    await rm(draft, { force: true })
    throw error
  }
  const folder = await open(dirname(path), 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}

export async function writeCredentials (path: string, { federation, chain, peers }: Credentials): Promise<void> {
  const data: Static<typeof CredentialsSchema> = { version: 1, federation, chain: chainToText(chain), peers: peers.slice(0, 64).map(({ peerId, addresses, chain }) => ({ peerId, addresses: [...addresses].slice(0, 16), chain: chainToText(chain) })) }
  await writePrivateFile(path, `${JSON.stringify(data, null, 2)}\n`)
}
