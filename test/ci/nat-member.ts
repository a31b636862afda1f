/** One member of a federation in a process of its own: orders come as lines of JSON, so do answers. */
import { createInterface } from 'node:readline'
import { privateKeyFromProtobuf } from '@libp2p/crypto/keys'
import { createMesh, type Mesh } from '../../protocol/mesh/mesh.ts'
import type { Chain } from '../../protocol/mesh/trust/certificate.ts'
import { createTrust } from '../../protocol/mesh/trust/trust.ts'

export interface Known { peerId: string, addresses: string[], chain: string[] }
export interface MemberConfig { peerId: string, key: string, federation: string, chain: string[], listen: string, peers: Known[], relay: boolean, reachable: boolean }
export interface Operations {
  start: { in: MemberConfig, out: string[] }
  /** what a record of that member would do */
  learn: { in: Known, out: null }
  relayAddresses: { in: null, out: string[] }
  path: { in: string, out: 'direct' | 'relay' | null }
  ask: { in: string, out: string }
  /** texts of the log, and whom they are about */
  log: { in: null, out: string[] }
}
export type Operation = keyof Operations

const chainOf = (texts: readonly string[]): Chain => texts.map(text => Buffer.from(text, 'base64'))
const texts: string[] = []
let mesh: Mesh | null = null

function here (): Mesh {
  if (mesh === null) throw new Error('start comes first')
  return mesh
}

const operations: { [O in Operation]: (args: Operations[O]['in']) => Promise<Operations[O]['out']> } = {
  start: async config => {
    const key = privateKeyFromProtobuf(Buffer.from(config.key, 'base64'))
    if (key.type !== 'Ed25519') throw new Error('not an Ed25519 key')
    mesh = await createMesh({
      key,
      trust: createTrust({ peerId: config.peerId, federation: config.federation, chain: chainOf(config.chain), now: Date.now }),
      listen: [config.listen],
      peers: config.peers.map(({ peerId, addresses, chain }) => ({ peerId, addresses, chain: chainOf(chain) })),
      relay: config.relay,
      reachable: config.reachable,
      log: (_level, text, { peer }) => { texts.push(`${text}: ${String(peer)}`) }
    })
    mesh.serve('status', ({ clusterId }) => ({ hosts: [{ site: clusterId, host: '', leaseState: '', objects: [], reachable: true, nowMs: 0 }] }))
    await mesh.start()
    return mesh.addresses()
  },
  learn: async ({ peerId, addresses, chain }) => {
    here().trust.admit(peerId, chainOf(chain))
    here().learn(peerId, addresses)
    return await Promise.resolve(null)
  },
  relayAddresses: async () => await Promise.resolve(here().relayAddresses()),
  path: async peerId => await Promise.resolve(here().path(peerId)),
  ask: async peerId => (await here().call(peerId, 'status', { clusterId: 'hello' }, { deadlineMs: 5000 })).hosts[0]?.site ?? '',
  log: async () => await Promise.resolve(texts)
}

async function obey<O extends Operation> (id: number, op: O, args: Operations[O]['in']): Promise<void> {
  const answer = await operations[op](args).then(value => ({ id, value }), (error: unknown) => ({ id, error: error instanceof Error ? error.message : String(error) }))
  process.stdout.write(`${JSON.stringify(answer)}\n`)
}

const lines = createInterface({ input: process.stdin })
lines.on('line', line => {
  const { id, op, args } = JSON.parse(line) as { id: number, op: Operation, args: unknown }
  void obey(id, op, args as never)
})
// nobody needs this process any more
lines.on('close', () => { process.exit(0) })
