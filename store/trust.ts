import { MAX_PEERS_KEPT, MAX_RECORD_BYTES } from '../protocol/core/limits.ts'
import type { KnownPeer } from '../protocol/mesh/trust/credentials.ts'
import { signerOf } from '../protocol/mesh/trust/envelope.ts'
import { readRevocation, revocationId, RevocationSet, type Revoked } from '../protocol/mesh/trust/revocation.ts'
import { decode, encode, type wire } from '../protocol/wire/codec.ts'
import type { Store, StoreOperation } from './store.ts'
import { chainFromText, chainToText, fromBase64, toBase64 } from '../protocol/mesh/trust/base64.ts'

/** What a member remembers of others over restarts: who must not come back, and where the rest is. */
export interface TrustStore {
  /** As they were kept; not checked again. */
  revocations (): Promise<wire.SignedRevocation[]>
  /**
   * Keeps a revocation; on the disk when it resolves, so call it before acting on one. Of those that
   * say the same the one that counts stays, and no more than a RevocationSet holds.
   *
   * @throws InvalidInputError, NotAdmittedError when it is none
   */
  keepRevocation (signed: wire.SignedRevocation): Promise<void>
  peers (): Promise<KnownPeer[]>
  /**
   * Replaces the list of peers by its first MAX_PEERS_KEPT. Calls during a write share the next one.
   * Not synced: what is lost is heard again.
   */
  keepPeers (peers: readonly KnownPeer[]): Promise<void>
}

const REVOCATIONS = 'trust/revocation/'
const PEERS = 'trust/peer/'

interface KeptRevocation { readonly by: Revoked['by'], readonly signed: string }
interface KeptPeer { readonly addresses: readonly string[], readonly chain: readonly string[] }

const encodeSigned = (signed: wire.SignedRevocation): string => toBase64(encode('SignedRevocation', signed, { maxBytes: MAX_RECORD_BYTES }))
const decodeSigned = (text: string): wire.SignedRevocation => decode('SignedRevocation', fromBase64(text), { maxBytes: MAX_RECORD_BYTES })

/** Without a look at the signature. */
const documentOf = ({ envelope }: wire.SignedRevocation): wire.Revocation => decode('Revocation', decode('Envelope', envelope).payload)

/** What was checked when it was kept is not checked again: thousands would hold up a start. */
function reopened ({ by, signed: text }: KeptRevocation): Revoked {
  const signed = decodeSigned(text)
  return { id: revocationId(signed), by, signer: signerOf(signed.envelope), signed, document: documentOf(signed) }
}

/**
 * Revocations and known peers on a store that others use too, below `trust/`.
 *
 * @param now wall clock, Unix ms
 * @throws CorruptRecordError
 */
export async function openTrustStore (store: Store, now: () => number = () => Date.now()): Promise<TrustStore> {
  const set = new RevocationSet()
  const onDisk = new Set<string>()
  const renamed: StoreOperation[] = []
  for await (const { key, value } of store.iterate<KeptRevocation>(REVOCATIONS)) {
    const revoked = reopened(value)
    // an earlier release cut ids another way
    if (key !== REVOCATIONS + revoked.id) renamed.push({ type: 'delete', key }, { type: 'put', key: REVOCATIONS + revoked.id, value })
    onDisk.add(revoked.id)
    set.add(revoked, now())
  }
  if (renamed.length > 0) await store.batch(renamed, { sync: true })
  const peers = new Map<string, KeptPeer>()
  for await (const { key, value } of store.iterate<KeptPeer>(PEERS)) peers.set(key.slice(PEERS.length), value)

  const writePeers = async (list: readonly KnownPeer[]): Promise<void> => {
    const next = new Map(list.slice(0, MAX_PEERS_KEPT).map(({ peerId, addresses, chain }): [string, KeptPeer] => [peerId, { addresses: [...addresses], chain: chainToText(chain) }]))
    const operations: StoreOperation[] = []
    for (const peerId of peers.keys()) if (!next.has(peerId)) operations.push({ type: 'delete', key: PEERS + peerId })
    for (const [peerId, peer] of next) {
      if (JSON.stringify(peers.get(peerId)) !== JSON.stringify(peer)) operations.push({ type: 'put', key: PEERS + peerId, value: peer })
    }
    if (operations.length > 0) await store.batch(operations)
    peers.clear()
    for (const [peerId, peer] of next) peers.set(peerId, peer)
  }
  let writing: Promise<void> | null = null
  let waiting: { list: readonly KnownPeer[], readonly written: Promise<undefined> } | null = null
  const start = (list: readonly KnownPeer[]): Promise<void> => {
    const write = writePeers(list).finally(() => { writing = null })
    writing = write
    return write
  }

  return {
    revocations: () => Promise.resolve(set.all().map(({ signed }) => signed)),
    keepRevocation: async signed => {
      const { federation } = documentOf(signed)
      const revoked = readRevocation(signed, federation, now())
      set.add(revoked, now())
      const stays = new Set(set.ids())
      const gone = [...onDisk].filter(id => !stays.has(id))
      const operations: StoreOperation[] = gone.map(id => ({ type: 'delete', key: REVOCATIONS + id }))
      if (stays.has(revoked.id) && !onDisk.has(revoked.id)) operations.push({ type: 'put', key: REVOCATIONS + revoked.id, value: { by: revoked.by, signed: encodeSigned(signed) } satisfies KeptRevocation })
      await store.batch(operations, { sync: true })
      for (const id of gone) onDisk.delete(id)
      if (stays.has(revoked.id)) onDisk.add(revoked.id)
    },
    peers: () => Promise.resolve([...peers].map(([peerId, { addresses, chain }]) => ({ peerId, addresses, chain: chainFromText(chain) }))),
    keepPeers: async list => {
      if (writing === null) { await start(list); return }
      if (waiting === null) {
        const next = Promise.withResolvers<undefined>()
        waiting = { list, written: next.promise }
        void writing.catch(() => undefined).then(async () => {
          const latest = waiting?.list ?? list
          waiting = null
          await start(latest)
        }).then(() => { next.resolve(undefined) }, next.reject)
      } else {
        waiting.list = list
      }
      await waiting.written
    }
  }
}
