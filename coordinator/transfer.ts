import { join } from 'node:path'
import { privateKeyToProtobuf } from '@libp2p/crypto/keys'
import type { CoordinatorConfig } from './config.ts'
import { openAudit } from './audit.ts'
import { certifySelf, establish, exists, identityFiles, type CoordinatorIdentity } from './identity.ts'
import { FederationStateSchema, packCoordinator, readExportFile, readPassphrase, unpackCoordinator, writeNewPrivateFile, type Carried, type FederationState } from './transfer-file.ts'
import { asOwnerOf } from '../protocol/as-owner.ts'
import { parseWith } from '../protocol/config-file.ts'
import { ConflictError, errorCode, InvalidInputError, MusubiError } from '../protocol/core/errors.ts'
import { MAX_PEERS_KEPT } from '../protocol/core/limits.ts'
import { loadOrCreateKey, peerIdOf } from '../protocol/mesh/identity.ts'
import { readCredentials, writeCredentials, writePrivateFile, type KnownPeer } from '../protocol/mesh/trust/credentials.ts'
import type { wire } from '../protocol/wire/codec.ts'
import { issuedStore } from '../store/invitations.ts'
import { openLevelStore } from '../store/level.ts'
import type { Store } from '../store/store.ts'
import { openTrustStore, type TrustStore } from '../store/trust.ts'
import { chainFromText, chainToText, fromBase64, toBase64 } from '../protocol/mesh/trust/base64.ts'

const signedOf = ({ envelope, chain }: FederationState['revocations'][number]): wire.SignedRevocation => ({ envelope: fromBase64(envelope), chain: chainFromText(chain) })
const peersOf = (state: FederationState): KnownPeer[] => state.peers.map(({ peerId, addresses, chain }) => ({ peerId, addresses, chain: chainFromText(chain) }))

export const storeFolder = (config: CoordinatorConfig): string => join(config.stateDir, 'store')

/** What another coordinator of the federation must know, keys aside. @param peers whom it connects to first */
export async function federationState (store: Store, trust: TrustStore, peers: readonly KnownPeer[]): Promise<FederationState> {
  const issued = await issuedStore(store).list()
  return {
    sites: issued.filter(({ kind }) => kind === 'site').map(({ name: site, subject: key, joinedMs, issuedMs, notAfterMs }) => ({ site, key, joinedMs, issuedMs, notAfterMs })),
    revocations: (await trust.revocations()).map(({ envelope, chain }) => ({ envelope: toBase64(envelope), chain: chainToText(chain) })),
    peers: peers.slice(0, MAX_PEERS_KEPT + 1).map(({ peerId, addresses, chain }) => ({ peerId, addresses: addresses.slice(0, 32), chain: chainToText(chain) }))
  }
}

export interface ExportOptions {
  readonly out: string
  readonly passphraseFile?: string | undefined
  readonly now: () => number
  /** the state of a coordinator that runs, whose store nobody else can open */
  readonly askRunning: () => Promise<unknown>
}

export interface Exported { readonly file: string, readonly federation: string, readonly name: string, readonly encrypted: boolean, readonly sites: number, readonly revocations: number }

async function stateNow (config: CoordinatorConfig, identity: CoordinatorIdentity, options: ExportOptions): Promise<FederationState> {
  let store: Store
  try {
    store = await openLevelStore(storeFolder(config))
  } catch (error) {
    if (errorCode(error) !== 'STORE_LOCKED') throw error
    return parseWith(FederationStateSchema, await options.askRunning(), 'the answer of the coordinator')
  }
  try {
    const trust = await openTrustStore(store, options.now)
    const state = await federationState(store, trust, [{ peerId: identity.peerId, addresses: config.announce ?? config.listen, chain: identity.credentials.chain }, ...await trust.peers()])
    await openAudit(config.stateDir, options).write('export', { federation: identity.federation, running: false })
    return state
  } finally {
    await store.close()
  }
}

/**
 * `musubi coordinator export`: everything that makes this coordinator, in one file. Its keys are read
 * here and pass through no API.
 *
 * @throws ConflictError when the file is there; MusubiError NOT_A_MEMBER before `init`; UnreachableError
 */
export async function exportCoordinator (config: CoordinatorConfig, options: ExportOptions): Promise<Exported> {
  if (await exists(options.out)) throw new ConflictError(`${options.out} is there already`, 'nothing is overwritten: name another file, or move that one away')
  const passphrase = options.passphraseFile === undefined ? null : await readPassphrase(options.passphraseFile)
  const carried = await asOwnerOf(config.stateDir, () => carriedBy(config, options))
  await writeNewPrivateFile(options.out, await packCoordinator(carried, passphrase))
  const { federation, name, state } = carried
  return { file: options.out, federation, name, encrypted: passphrase !== null, sites: state.sites.length, revocations: state.revocations.length }
}

async function carriedBy (config: CoordinatorConfig, options: ExportOptions): Promise<Carried> {
  const files = identityFiles(config.stateDir)
  if (!await exists(files.coordinatorKey) || !await exists(files.credentials)) throw new MusubiError('NOT_A_MEMBER', `there is no coordinator in ${config.stateDir} to export`, { hint: 'is it the right configuration? -c FILE' })
  const { identity } = await establish(config, undefined, options.now())
  const state = await stateNow(config, identity, options)
  return { federation: identity.federation, name: identity.name, exportedAt: new Date(options.now()).toISOString(), coordinatorKey: identity.coordinatorKey, nodeKey: identity.nodeKey, state }
}

export interface ImportOptions {
  readonly file: string
  readonly passphraseFile?: string | undefined
  /** another coordinator of the same federation, with a node key of its own */
  readonly asNew: boolean
  readonly name?: string | undefined
  readonly now: () => number
}

export interface Imported { readonly federation: string, readonly peerId: string, readonly name: string, readonly sites: number, readonly revocations: number, readonly restored: boolean }

/** @throws ConflictError when the folder holds something that this must not replace */
async function checkFolder (config: CoordinatorConfig, carried: Carried, asNew: boolean): Promise<void> {
  const files = identityFiles(config.stateDir)
  const other = (federation: string): never => {
    throw new ConflictError(`${config.stateDir} holds a coordinator of the federation ${federation}; the file is of ${carried.federation}`, 'a coordinator changes no federation: import into an empty stateDir')
  }
  if (await exists(files.coordinatorKey)) {
    const federation = peerIdOf(await loadOrCreateKey(files.coordinatorKey))
    if (federation !== carried.federation) other(federation)
  }
  const credentials = await readCredentials(files.credentials)
  if (credentials !== null && credentials.federation !== carried.federation) other(credentials.federation)
  if (!await exists(files.nodeKey)) return
  const same = peerIdOf(await loadOrCreateKey(files.nodeKey)) === peerIdOf(carried.nodeKey)
  if (asNew && same) throw new ConflictError(`${config.stateDir} is ${carried.name} itself, which the file was exported from`, 'another coordinator needs a stateDir of its own')
  if (!asNew && !same) throw new ConflictError(`${config.stateDir} holds another coordinator's key`, `restore into an empty stateDir; or, for another coordinator beside ${carried.name}: --new`)
}

function nameFor (config: CoordinatorConfig, carried: Carried, { asNew, name }: ImportOptions): string {
  const wanted = name ?? config.name
  if (!asNew) {
    if (wanted !== undefined && wanted !== carried.name) throw new ConflictError(`the file holds the coordinator ${carried.name}, the configuration names ${wanted}`, `set name: ${carried.name}; or, for another coordinator beside it: --new`)
    return carried.name
  }
  if (wanted === undefined) throw new InvalidInputError('the new coordinator has no name', 'give it one: --name NAME, or name: in the configuration')
  if (wanted === carried.name) throw new ConflictError(`${wanted} is the name of the coordinator that the file was exported from`, 'two coordinators of a federation need two names')
  return wanted
}

/**
 * `musubi coordinator import`: this coordinator on a new disk, or another one of the same federation.
 * The same again changes nothing.
 *
 * @throws ConflictError, InvalidInputError; MusubiError PASSPHRASE, STORE_LOCKED when it runs
 */
export async function importCoordinator (config: CoordinatorConfig, options: ImportOptions): Promise<Imported> {
  const passphrase = options.passphraseFile === undefined ? null : await readPassphrase(options.passphraseFile)
  const carried = await unpackCoordinator(await readExportFile(options.file), passphrase, options.file)
  if (peerIdOf(carried.coordinatorKey) !== carried.federation) throw new InvalidInputError(`${options.file}: its coordinator key is not that of its federation`)
  const name = nameFor(config, carried, options)
  return await asOwnerOf(config.stateDir, () => takeOver(config, carried, name, options))
}

async function takeOver (config: CoordinatorConfig, carried: Carried, name: string, options: ImportOptions): Promise<Imported> {
  await checkFolder(config, carried, options.asNew)
  const files = identityFiles(config.stateDir)
  const store = await openLevelStore(storeFolder(config)).catch((error: unknown) => {
    if (errorCode(error) !== 'STORE_LOCKED') throw error
    throw new MusubiError('STORE_LOCKED', `the coordinator in ${config.stateDir} runs`, { hint: 'stop it first: systemctl stop musubi-coordinator', cause: error })
  })
  try {
    await takeState(store, carried, options.now)
    // the credentials last: what is there without them is done again
    if (!await exists(files.coordinatorKey)) await writePrivateFile(files.coordinatorKey, privateKeyToProtobuf(carried.coordinatorKey))
    if (!options.asNew && !await exists(files.nodeKey)) await writePrivateFile(files.nodeKey, privateKeyToProtobuf(carried.nodeKey))
    const peerId = peerIdOf(await loadOrCreateKey(files.nodeKey))
    if (await readCredentials(files.credentials) === null) {
      await writeCredentials(files.credentials, { federation: carried.federation, chain: certifySelf({ ...carried, peerId, name }, null, options.now()), peers: [] })
    }
    const { identity } = await establish({ ...config, name }, undefined, options.now())
    await openAudit(config.stateDir, options).write('import', { federation: carried.federation, name, new: options.asNew })
    return { federation: carried.federation, peerId: identity.peerId, name, sites: carried.state.sites.length, revocations: carried.state.revocations.length, restored: !options.asNew }
  } finally {
    await store.close()
  }
}

async function takeState (store: Store, { state }: Carried, now: () => number): Promise<void> {
  const issued = issuedStore(store)
  const there = new Map((await issued.list()).map(entry => [entry.subject, entry]))
  for (const { site, key, joinedMs, issuedMs, notAfterMs } of state.sites) {
    const before = there.get(key)
    if (before === undefined || before.notAfterMs < notAfterMs) await issued.put({ kind: 'site', subject: key, name: site, roles: [], segmentIds: null, joinedMs, issuedMs, notAfterMs })
  }
  const trust = await openTrustStore(store, now)
  for (const signed of state.revocations) await trust.keepRevocation(signedOf(signed))
  const known = await trust.peers()
  await trust.keepPeers([...known, ...peersOf(state).filter(({ peerId }) => !known.some(peer => peer.peerId === peerId))])
}
