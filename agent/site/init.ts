import { checkFederation, formerCredentials, isSpent, membership } from './join.ts'
import { loadKeyIfThere, readChainFile, trustFiles, writeChainFile, type ChainFile } from './files.ts'
import { daemonHint } from './running.ts'
import { loadAgentConfig, type AgentConfig } from '../config.ts'
import { asOwnerOf } from '../../protocol/as-owner.ts'
import { InvalidInputError, MusubiError } from '../../protocol/core/errors.ts'
import { siteAuthority } from '../../protocol/mesh/join/authority.ts'
import { redeem } from '../../protocol/mesh/join/redeem.ts'
import { parseToken } from '../../protocol/mesh/join/token.ts'
import type { SiteAuthority } from '../../protocol/mesh/join/types.ts'
import { loadOrCreateKey, peerIdOf, type NodeKey } from '../../protocol/mesh/identity.ts'
import { checkDates, readChain, readMember, renewAtMs, type Chain, type Member } from '../../protocol/mesh/trust/certificate.ts'
import { writeCredentials, type Credentials, type KnownPeer } from '../../protocol/mesh/trust/credentials.ts'

export interface SiteInitialised {
  readonly site: string
  readonly host: string
  readonly peerId: string
  readonly federation: string
  /** path of the site key */
  readonly siteKey: string
  /** false: it was given from elsewhere and is not kept on this host */
  readonly siteKeyHere: boolean
  readonly siteNotAfterMs: number
  readonly issuerNotAfterMs: number
  readonly notAfterMs: number
  readonly changed: boolean
  readonly next: string
}

export interface InitOptions {
  /** of `musubi coordinator invite`; null: with the certificate that the site has */
  readonly token: string | null
  /** file of a site key that does not live on this host */
  readonly offlineKey: string | null
  /** less of the site's quotas than this gateway has; null: as it is */
  readonly quotaPercent?: number | null
}

type Files = ReturnType<typeof trustFiles>

/** The whole quota, until other gateways are given a part of it. */
const FIRST_GATEWAY_QUOTA_PERCENT = 100

/** @throws MusubiError SITE_KEY_NEEDED, NOT_FIRST_GATEWAY */
async function siteKeyOf (files: Files, offline: NodeKey | null, site: string, fresh: boolean): Promise<{ key: NodeKey, made: boolean }> {
  if (offline !== null) return { key: offline, made: false }
  const found = await loadKeyIfThere(files.siteKey)
  if (found !== null) return { key: found, made: false }
  if (!fresh) throw new MusubiError('SITE_KEY_NEEDED', `this host is of site ${site} already, and the key of the site is not on it`, { hint: 'where it was moved offline: musubi site init --offline-key FILE; where another gateway has it: run this there' })
  return { key: await loadOrCreateKey(files.siteKey), made: true }
}

/** The certificate of the site: a new one when there is a token, else the one that is kept. */
async function siteChainOf (config: AgentConfig, files: Files, kept: ChainFile | null, keys: { node: NodeKey, site: NodeKey }, tokenText: string | null, now: () => number): Promise<{ file: ChainFile, peers: readonly KnownPeer[], changed: boolean }> {
  const valid = kept !== null && holds(kept, keys.site, now())
  if (tokenText === null) {
    if (kept === null) throw new InvalidInputError(`site ${config.site} has no certificate yet`, 'ask the administrator of a coordinator for a token (musubi coordinator invite), then: musubi site init --join TOKEN')
    if (!valid) checkDates(readChain(kept.chain, kept.federation), now())
    if (!valid) throw new MusubiError('WRONG_IDENTITY', `the certificate of site ${config.site} is for another key than the site key here`, { hint: 'put the right site key back, or make a certificate for this one: musubi site init --join TOKEN' })
    return { file: kept, peers: [], changed: false }
  }
  try {
    const redeemed = await redeem(tokenText, { key: keys.node, siteKey: keys.site, name: config.site, addresses: config.announce ?? config.listen, now })
    if (redeemed.kind !== 'site') throw new InvalidInputError('this token admits a host, not a site')
    const file = { federation: redeemed.federation, chain: redeemed.siteChain }
    const changed = kept === null || !sameChain(kept.chain, file.chain)
    if (changed) await writeChainFile(files.siteChain, file)
    return { file, peers: redeemed.peers, changed }
  } catch (error) {
    // run again with the token of the first time
    if (!valid || !isSpent(error)) throw error
    return { file: kept, peers: [], changed: false }
  }
}

const sameChain = (a: Chain, b: Chain): boolean => Buffer.concat([...a]).equals(Buffer.concat([...b]))

/** Whether a chain is of this key, and its dates hold. */
function holds ({ chain, federation }: ChainFile, key: NodeKey, nowMs: number): boolean {
  try {
    const member = readChain(chain, federation)
    checkDates(member, nowMs)
    return member.peerId === peerIdOf(key)
  } catch {
    return false
  }
}

/** The kept chain when it stands on the site's certificate as it is now and has time left; else a new one. */
async function upToDate (kept: ChainFile | null, key: NodeKey, siteChain: Chain, nowMs: number, make: () => Chain | Promise<Chain>): Promise<{ chain: Chain, changed: boolean }> {
  if (kept !== null && holds(kept, key, nowMs) && sameChain(kept.chain.slice(-1), siteChain) && renewAtMs(readChain(kept.chain, kept.federation)) > nowMs) return { chain: kept.chain, changed: false }
  return { chain: await make(), changed: true }
}

/** As before where it is valid, so that the admission keeps its date; else as a new member. */
async function certifySelf (authority: SiteAuthority, config: AgentConfig, peerId: string, before: Chain | null, quotaPercent: number): Promise<Chain> {
  if (before !== null) return await authority.renew(before)
  return await authority.certifyHost({ subject: peerId, name: config.name, roles: config.roles, segmentIds: config.segmentIds ?? null, quotaPercent })
}

/**
 * A share can only be given back here: who else has one is known where gateways are invited.
 *
 * @throws InvalidInputError
 */
function givesBack (before: Member | null, quotaPercent: number | null): boolean {
  if (quotaPercent === null) return false
  const has = before?.quotaPercent ?? FIRST_GATEWAY_QUOTA_PERCENT
  if (quotaPercent > has) throw new InvalidInputError(`this gateway has ${has} % of the quotas of its site, ${quotaPercent} % is more`, 'a share is given to a gateway with its invitation: musubi site invite --role gateway --quota-percent')
  return quotaPercent < has
}

/**
 * `musubi site init`: makes a site of this host, or renews what that gave: the site key, its
 * certificate from a coordinator, an issuer certificate for this gateway, and its own certificate.
 * Each is kept before the next is made; running it again finishes what a crash left.
 *
 * @throws InvalidInputError, ConflictError, MusubiError SITE_KEY_NEEDED, WRONG_IDENTITY, NotAdmittedError
 * CERTIFICATE_EXPIRED; and as `redeem`
 */
export async function initSite (configPath: string, { token: tokenText, offlineKey, quotaPercent = null }: InitOptions, now: () => number = () => Date.now()): Promise<SiteInitialised> {
  const config = await loadAgentConfig(configPath)
  if (!config.roles.includes('gateway')) throw new InvalidInputError(`the first host of a site is a gateway; ${configPath} gives ${config.name} the roles ${config.roles.join(', ')}`, 'add gateway to roles, and segmentIds')
  const token = tokenText === null ? null : parseToken(tokenText)
  if (token !== null && token.kind !== 'site') throw new InvalidInputError('this token admits a host, not a site', 'to join a site that exists: musubi agent join TOKEN; for a new site: musubi coordinator invite')
  if (token !== null && token.site !== '' && token.site !== config.site) throw new InvalidInputError(`this token is for site ${token.site}, the configuration ${configPath} says site ${config.site}`, 'ask for a token for the right site, or correct site in the configuration')
  const offline = offlineKey === null ? null : await loadKeyIfThere(offlineKey)
  if (offlineKey !== null && offline === null) throw new InvalidInputError(`there is no key ${offlineKey}`, 'it is the file that was written by: musubi site key --export FILE')
  return await asOwnerOf(config.stateDir, () => initFolder(config, token, tokenText, offline, offlineKey, quotaPercent, now))
}

async function initFolder (config: AgentConfig, token: ReturnType<typeof parseToken> | null, tokenText: string | null, offline: NodeKey | null, offlineKey: string | null, quotaPercent: number | null, now: () => number): Promise<SiteInitialised> {
  const files = trustFiles(config.stateDir)
  const former = await formerCredentials(files.credentials)
  if (token !== null) checkFederation(former, token.federation, files.credentials)
  const kept = await readChainFile(files.siteChain)
  if (kept === null && tokenText === null && offlineKey === null && await loadKeyIfThere(files.siteKey) === null) {
    throw new InvalidInputError(`site ${config.site} has neither key nor certificate on this host yet`, 'ask the administrator of a coordinator for a token (musubi coordinator invite), then: musubi site init --join TOKEN')
  }
  const node = await loadOrCreateKey(files.key)
  const { key: siteKey, made } = await siteKeyOf(files, offline, config.site, former === null && kept === null)
  const { file, peers, changed: newSite } = await siteChainOf(config, files, kept, { node, site: siteKey }, tokenText, now)
  const { federation, chain: siteChain } = file

  const authority = siteAuthority({ site: config.site, federation, siteKey, siteChain, issuer: null, now, taken: () => null })
  const peerId = peerIdOf(node)
  const issuer = await upToDate(await readChainFile(files.issuer).catch(() => null), node, siteChain, now(), () => authority.delegate({ subject: peerId, name: config.name }))
  if (issuer.changed) await writeChainFile(files.issuer, { federation, chain: issuer.chain })

  const before = membership(former, config, peerId, now())
  const less = givesBack(before, quotaPercent)
  const own = await upToDate(before === null || former === null || less ? null : former, node, siteChain, now(), async () =>
    await certifySelf(authority, config, peerId, before?.siteKey === peerIdOf(siteKey) && !less ? before.chain : null, quotaPercent ?? before?.quotaPercent ?? FIRST_GATEWAY_QUOTA_PERCENT))
  const credentials: Credentials = { federation, chain: own.chain, peers: peers.length > 0 ? peers : former?.peers ?? [] }
  if (own.changed || peers.length > 0) await writeCredentials(files.credentials, credentials)

  const changed = made || newSite || issuer.changed || own.changed
  return {
    site: config.site, host: config.name, peerId, federation, siteKey: offlineKey ?? files.siteKey, siteKeyHere: offlineKey === null,
    siteNotAfterMs: readChain(siteChain, federation).notAfterMs, issuerNotAfterMs: readChain(issuer.chain, federation).notAfterMs,
    notAfterMs: readMember(own.chain, federation).notAfterMs, changed, next: `${await daemonHint(config.runDir, changed, true)}; then hosts join with tokens of: musubi site invite`
  }
}
