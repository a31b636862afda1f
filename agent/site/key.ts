import { rm } from 'node:fs/promises'
import { privateKeyToProtobuf } from '@libp2p/crypto/keys'
import { loadKeyIfThere, readChainFile, trustFiles } from './files.ts'
import { loadAgentConfig } from '../config.ts'
import { asOwnerOf } from '../../protocol/as-owner.ts'
import { ConflictError, InvalidInputError, MusubiError } from '../../protocol/core/errors.ts'
import { peerIdOf, type NodeKey } from '../../protocol/mesh/identity.ts'
import { checkDates, readChain } from '../../protocol/mesh/trust/certificate.ts'
import { readCredentials, writePrivateFile } from '../../protocol/mesh/trust/credentials.ts'

export interface SiteKeyReport { readonly siteKey: string, readonly here: boolean, readonly notes: readonly string[] }
export interface SiteKeyOptions { readonly exportTo: string | null, readonly importFrom: string | null, readonly remove: boolean }

type Files = ReturnType<typeof trustFiles>

/** Written once: another key in that place is somebody's only copy. @throws ConflictError */
async function copyTo (path: string, key: NodeKey): Promise<void> {
  const there = await loadKeyIfThere(path)
  if (there !== null && peerIdOf(there) !== peerIdOf(key)) throw new ConflictError(`${path} holds another key, ${peerIdOf(there)}`, 'choose another file')
  if (there === null) await writePrivateFile(path, privateKeyToProtobuf(key))
}

/** Without the site key a gateway has its issuer certificate, and its own, which only that key renews. @throws MusubiError NO_ISSUER, NotAdmittedError */
async function endsMs (files: Files): Promise<{ issuerMs: number, ownMs: number }> {
  const issuer = await readChainFile(files.issuer)
  if (issuer === null) throw new MusubiError('NO_ISSUER', 'this host has no issuer certificate: without the site key it could admit nobody', { hint: 'musubi site init, then again' })
  const member = readChain(issuer.chain, issuer.federation)
  checkDates(member, Date.now())
  const own = await readCredentials(files.credentials)
  return { issuerMs: member.notAfterMs, ownMs: own === null ? member.notAfterMs : readChain(own.chain, own.federation).notAfterMs }
}

/**
 * `musubi site key`: copies the key of the site to a file, takes it back, or removes it from this
 * host. It is removed only beside a copy that was read back.
 *
 * @throws InvalidInputError, ConflictError, MusubiError SITE_KEY_NEEDED, NO_ISSUER, WRONG_IDENTITY
 */
export async function siteKeyCommand (configPath: string, { exportTo, importFrom, remove }: SiteKeyOptions): Promise<SiteKeyReport> {
  const config = await loadAgentConfig(configPath)
  const files = trustFiles(config.stateDir)
  // the copy lies where the administrator says; all else in the agent's folder
  const here = <T>(work: () => Promise<T>): Promise<T> => asOwnerOf(config.stateDir, work)
  const notes: string[] = []
  if (importFrom !== null && (exportTo !== null || remove)) throw new InvalidInputError('--import goes with no other option')
  if (remove && exportTo === null) throw new InvalidInputError('--remove needs --export FILE: without any copy of its key a site ends with its certificates', 'musubi site key --export FILE --remove')

  if (importFrom !== null) {
    const key = await loadKeyIfThere(importFrom)
    if (key === null) throw new InvalidInputError(`there is no key ${importFrom}`)
    const kept = await here(() => readChainFile(files.siteChain))
    const certified = kept === null ? null : readChain(kept.chain, kept.federation).peerId
    if (certified !== null && certified !== peerIdOf(key)) throw new MusubiError('WRONG_IDENTITY', `${importFrom} is ${peerIdOf(key)}, the key of site ${config.site} is ${certified}`, { hint: 'take the file that was written by: musubi site key --export FILE' })
    await here(() => copyTo(files.siteKey, key))
    notes.push('a running agent takes it up when it starts again: systemctl restart musubi-agent')
  }
  if (exportTo !== null) {
    const key = await here(() => loadKeyIfThere(files.siteKey))
    if (key === null) throw new MusubiError('SITE_KEY_NEEDED', `the key of site ${config.site} is not on this host: there is no ${files.siteKey}`, { hint: 'run it on the gateway that has the key' })
    const until = remove ? await here(() => endsMs(files)) : null
    await copyTo(exportTo, key)
    const copy = await loadKeyIfThere(exportTo)
    if (copy === null || peerIdOf(copy) !== peerIdOf(key)) throw new MusubiError('BAD_KEY', `the copy in ${exportTo} cannot be read back`, { hint: 'use another medium; nothing was removed' })
    notes.push(`copied to ${exportTo}; whoever has that file can make gateways of site ${config.site}`)
    if (until !== null) {
      await here(() => rm(files.siteKey))
      const day = (ms: number): string => new Date(ms).toISOString().slice(0, 10)
      notes.push(`removed here: until ${day(until.issuerMs)} this gateway admits and renews hosts that are no gateways, by its issuer certificate`,
        `its own certificate ends ${day(until.ownMs)}; gateways are renewed by the site key alone: before that day, musubi site init --offline-key ${exportTo}`,
        'a running agent forgets the key when it starts again: systemctl restart musubi-agent')
    }
  }
  return { siteKey: files.siteKey, here: await here(() => loadKeyIfThere(files.siteKey)) !== null, notes }
}
