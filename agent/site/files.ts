import { readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import Type, { type Static } from 'typebox'
import { Check, Errors } from 'typebox/value'
import { MusubiError } from '../../protocol/core/errors.ts'
import { MAX_HELLO_BYTES } from '../../protocol/core/limits.ts'
import { keyFile, loadOrCreateKey, type NodeKey } from '../../protocol/mesh/identity.ts'
import type { Chain } from '../../protocol/mesh/trust/certificate.ts'
import { writePrivateFile } from '../../protocol/mesh/trust/credentials.ts'
import { chainFromText, chainToText } from '../../protocol/mesh/trust/base64.ts'

/** Where a host keeps what makes it a member, and a gateway what makes it an issuer. */
export const trustFiles = (stateDir: string): { key: string, credentials: string, siteKey: string, siteChain: string, issuer: string } => ({
  key: keyFile('musubi-agent.key', join(stateDir, 'key')), credentials: join(stateDir, 'credentials.json'),
  siteKey: join(stateDir, 'site', 'key'), siteChain: join(stateDir, 'site', 'chain.json'), issuer: join(stateDir, 'issuer.json')
})

const ChainFileSchema = Type.Object({
  version: Type.Literal(1),
  federation: Type.String({ minLength: 8, maxLength: 128 }),
  chain: Type.Array(Type.String({ pattern: '^[A-Za-z0-9+/]+={0,2}$', maxLength: 4096 }), { minItems: 1, maxItems: 3 })
}, { additionalProperties: false })

/** A chain of certificates with the federation it belongs to. */
export interface ChainFile { readonly federation: string, readonly chain: Chain }

/** @returns null when there is no such file. @throws MusubiError BAD_CREDENTIALS */
export async function readChainFile (path: string): Promise<ChainFile | null> {
  const hint = 'restore it from a backup, or make it again: musubi site init --join TOKEN'
  let data: unknown
  try {
    const text = await readFile(path, 'utf8')
    if (text.length > 2 * MAX_HELLO_BYTES) throw new Error(`it has ${text.length} bytes`)
    data = JSON.parse(text)
  } catch (cause) {
    if (cause instanceof Error && 'code' in cause && cause.code === 'ENOENT') return null
    throw new MusubiError('BAD_CREDENTIALS', `cannot read the certificates in ${path}: ${cause instanceof Error ? cause.message : ''}`, { cause, hint })
  }
  if (!Check(ChainFileSchema, data)) {
    const [problem] = Errors(ChainFileSchema, data)
    throw new MusubiError('BAD_CREDENTIALS', `${path} holds no certificates: ${problem?.instancePath ?? ''} ${problem?.message ?? ''}`, { hint })
  }
  return { federation: data.federation, chain: chainFromText(data.chain) }
}

/** Written whole or not at all, mode 0600. */
export async function writeChainFile (path: string, { federation, chain }: ChainFile): Promise<void> {
  const data: Static<typeof ChainFileSchema> = { version: 1, federation, chain: chainToText(chain) }
  await writePrivateFile(path, `${JSON.stringify(data, null, 2)}\n`)
}

/** The key in a file, which is not made. @returns null when there is none. @throws MusubiError BAD_KEY, KEY_NOT_PRIVATE */
export async function loadKeyIfThere (path: string): Promise<NodeKey | null> {
  try {
    await stat(path)
  } catch (cause) {
    if (cause instanceof Error && 'code' in cause && cause.code === 'ENOENT') return null
    throw new MusubiError('BAD_KEY', `cannot read the key ${path}: ${cause instanceof Error ? cause.message : ''}`, { cause })
  }
  return await loadOrCreateKey(path)
}
