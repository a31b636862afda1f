/**
 * An issuer of tokens in a process of its own: gateway of tokyo with the site key. Prints its token
 * as the first line; ends itself by SIGKILL where it is told to, as a power cut would.
 */
import { randomBytes } from 'node:crypto'
import { privateKeyFromProtobuf } from '@libp2p/crypto/keys'
import type { NodeKey } from '../../protocol/mesh/identity.ts'
import { authoriseHosts, siteAuthority } from '../../protocol/mesh/join/authority.ts'
import { createInvitations } from '../../protocol/mesh/join/invitations.ts'
import { createJoinListener } from '../../protocol/mesh/join/listener.ts'
import { invitationStore, issuedStore } from '../../store/invitations.ts'
import { openLevelStore } from '../../store/level.ts'

export interface IssuerConfig {
  folder: string
  key: string
  siteKey: string
  siteChain: string[]
  federation: string
  listen: string
  /** make a token; else serve those in the store */
  invite: boolean
  /** `before-sync`: when a host is certified and nothing is written; `after-sync`: written and not answered */
  die: 'before-sync' | 'after-sync' | 'never'
}

function keyOf (text: string): NodeKey {
  const key = privateKeyFromProtobuf(Buffer.from(text, 'base64'))
  if (key.type !== 'Ed25519') throw new Error('no Ed25519 key')
  return key
}
const die = (): Promise<never> => {
  process.kill(process.pid, 'SIGKILL')
  return new Promise(() => undefined)
}

const config = JSON.parse(process.argv[2] ?? '{}') as IssuerConfig
const store = await openLevelStore(config.folder)
const records = invitationStore(store)
const invitations = await createInvitations({
  now: Date.now,
  randomBytes: size => Uint8Array.from(randomBytes(size)),
  store: {
    ...records,
    put: async record => {
      if (record.used !== null && config.die === 'before-sync') await die()
      await records.put(record)
      if (record.used !== null && config.die === 'after-sync') await die()
    }
  }
})
const authority = siteAuthority({
  site: 'tokyo', federation: config.federation, siteKey: keyOf(config.siteKey), siteChain: config.siteChain.map(text => Uint8Array.from(Buffer.from(text, 'base64'))),
  issuer: null, now: Date.now, taken: () => null, issued: issuedStore(store)
})
const listener = createJoinListener({
  key: keyOf(config.key), federation: config.federation, listen: [config.listen], invitations, authorise: authoriseHosts(authority), peers: () => [], now: Date.now,
  log: (level, text, data) => { process.stderr.write(`${JSON.stringify({ level, text, ...data, err: data.err instanceof Error ? String(data.err) : undefined })}\n`) }
})
await listener.start()
if (config.invite) {
  const invitation = await invitations.invite({ kind: 'host', site: 'tokyo', roles: ['compute'], ttlMs: 600_000 })
  process.stdout.write(`${await listener.token(invitation)}\n`)
} else {
  process.stdout.write(`${listener.addresses().join(' ')}\n`)
}
