/**
 * One member of a federation in a process of its own, told what to do by its parent over IPC.
 * Its handlers behave as the text in the request says.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { privateKeyFromProtobuf } from '@libp2p/crypto/keys'
import { MusubiError, NoCapacityError } from '../../protocol/core/errors.ts'
import { peerIdOf } from '../../protocol/mesh/identity.ts'
import { originOf } from '../../protocol/mesh/rpc/failures.ts'
import { createMesh, type Mesh } from '../../protocol/mesh/mesh.ts'
import { createRecords, type Kind, type RecordRow, type Records, type Status } from '../../protocol/mesh/records.ts'
import { createTrust } from '../../protocol/mesh/trust/trust.ts'
import { decode, type wire } from '../../protocol/wire/codec.ts'

export interface MemberConfig {
  /** base64 of libp2p's private key */
  key: string
  /** base64 of each envelope, the own first */
  chain: string[]
  /** PeerId of the coordinator key */
  federation: string
  /** whom to connect to first */
  peers: Array<{ peerId: string, addresses: string[], chain: string[] }>
  listen: string
  epoch: number
  ttlMs: number
  heartbeatMs: number
  syncIntervalMs: number
  ping: { pingIntervalMs: number, pingTimeoutMinMs: number, pingTimeoutMaxMs: number } | null
  /** how far its wall clock is ahead */
  clockMs?: number
  /** its gossip is lost: of revocations, or all of it */
  loses?: 'revocations' | 'all' | undefined
}

export interface CallSpec { peerId: string, clusterId: string, deadlineMs?: number, times?: number }
export interface CallResult { replies: string[], errors: Array<{ name: string, code: string, message: string, retryable: boolean, hint: string | null, site: string | null, host: string | null }>, ms: number }
export interface Row { peer: string, epoch: number, seq: number, ageMs: number, name: string, state: Status, sinceMs: number }
/** A change of state that this member has seen, `atMs` on its wall clock. */
export interface Seen { peer: string, kind: Kind, state: Status | 'gone', atMs: number }

export interface Operations {
  init: { in: MemberConfig, out: { peerId: string } }
  start: { in: null, out: { addresses: string[] } }
  publish: { in: { version: string, site: boolean }, out: null }
  /** publishes a coordinator's record, or a gateway's policy, of that version */
  say: { in: { kind: 'coordinator' | 'policy', version: number }, out: null }
  view: { in: Kind, out: Row[] }
  everyone: { in: Kind, out: Row[] }
  seen: { in: null, out: Seen[] }
  counts: { in: null, out: ReturnType<Records['counts']> & { lateMs: number, rounds: number } }
  connected: { in: null, out: string[] }
  refusals: { in: null, out: ReturnType<Mesh['refusals']> }
  revoke: { in: { envelope: string, chain: string[] }, out: boolean }
  revocations: { in: null, out: number }
  call: { in: CallSpec, out: CallResult }
  memory: { in: null, out: number }
  /** CPU used so far, ms */
  cpu: { in: null, out: number }
  /** holds the event loop */
  block: { in: number, out: null }
  leave: { in: null, out: null }
  close: { in: null, out: null }
}
export type Operation = keyof Operations
export interface Order { id: number, op: Operation, args: unknown }
export interface Answer { id: number, value?: unknown, error?: string }

let mesh: Mesh | null = null
let records: Records | null = null
const seen: Seen[] = []

function here<T> (thing: T | null): T {
  if (thing === null) throw new Error('init comes first')
  return thing
}

function answerOf (text: string): wire.StatusReply {
  return { hosts: [{ site: text, host: '', leaseState: '', objects: [], reachable: true, nowMs: 0 }] }
}

/** `slow 500 x`, `full`, `crash`, `big`: what to do; anything else is echoed. */
async function behave (text: string, signal: AbortSignal): Promise<wire.StatusReply> {
  const [word, ms] = text.split(' ')
  switch (word) {
    case 'slow':
      await sleep(Number(ms), undefined, { signal })
      return answerOf(text)
    case 'full': throw new NoCapacityError('no room for 4 nodes', 'ask for fewer')
    case 'odd': throw new MusubiError('LEASE_STALE', 'an older token', { retryable: false, hint: 'h' })
    case 'crash': throw new TypeError('a bug in the handler')
    case 'big': return answerOf('x'.repeat(Number(ms)))
    default: return answerOf(text)
  }
}

const bytesOf = (base64: string): Uint8Array => Uint8Array.from(Buffer.from(base64, 'base64'))

/** A mesh that says less than it is told to. */
function losing (whole: Mesh, loses: 'revocations' | 'all'): Mesh {
  return {
    ...whole,
    publish: async (scope, data) => {
      if (loses === 'all' || decode('Gossip', data).revocation !== null) return
      await whole.publish(scope, data)
    }
  }
}

function nameOf ({ body, kind }: RecordRow<Kind>): string {
  if ('gateway' in body) return `${body.site}/${body.gateway} ${body.version}`
  if ('document' in body) return `${body.site}/${body.host} ${body.version}`
  return 'host' in body ? `${body.site}/${body.host} ${body.version}` : `${kind} ${body.name} ${body.version}`
}
const toRow = (row: RecordRow<Kind>): Row => {
  const { peer, epoch, seq, ageMs, state, sinceMs } = row
  return { peer, epoch, seq, ageMs, state, sinceMs, name: nameOf(row) }
}

const operations: { [O in Operation]: (args: Operations[O]['in']) => Operations[O]['out'] | Promise<Operations[O]['out']> } = {
  init: async config => {
    const key = privateKeyFromProtobuf(Buffer.from(config.key, 'base64'))
    if (key.type !== 'Ed25519') throw new Error('not an Ed25519 key')
    const now = (): number => Date.now() + (config.clockMs ?? 0)
    const trust = createTrust({ peerId: peerIdOf(key), federation: config.federation, chain: config.chain.map(bytesOf), now })
    const whole = await createMesh({
      key, trust, listen: [config.listen], peers: config.peers.map(peer => ({ ...peer, chain: peer.chain.map(bytesOf) })),
      ...(config.ping === null ? {} : { failureDetection: config.ping })
    })
    mesh = config.loses === undefined ? whole : losing(whole, config.loses)
    records = createRecords({ mesh, epoch: config.epoch, now, ttlMs: config.ttlMs, heartbeatMs: config.heartbeatMs, syncIntervalMs: config.syncIntervalMs })
    const last = new Map<string, Seen['state']>()
    records.onChange((kind, peer) => {
      const state = here(records).view(kind, { dead: true }).find(row => row.peer === peer)?.state ?? 'gone'
      if (last.get(`${kind} ${peer}`) !== state) seen.push({ peer, kind, state, atMs: Date.now() })
      last.set(`${kind} ${peer}`, state)
    })
    mesh.serve('status', async ({ clusterId }, { signal }) => await behave(clusterId, signal))
    return { peerId: mesh.peerId }
  },
  start: async () => {
    await here(mesh).start()
    return { addresses: here(mesh).addresses() }
  },
  publish: ({ version, site: alsoSite }) => {
    const { role } = here(mesh)
    const addresses = here(mesh).addresses()
    if (role.kind !== 'host') return null
    const { site, host, roles } = role
    here(records).publish('host', { site, host, roles: [...roles], addresses, underlayAddress: '', total: null, free: null, cordoned: false, accelerator: '', version, inventory: null, features: [] })
    if (alsoSite) {
      here(records).publish('site', {
        site, gateway: host, addresses, hosts: 1, total: null, free: null, freeByHost: [], volumeFreeMib: 0, version, features: [], roles: [], priceMilli: 0, maxTermMs: 0, relay: false, tunnel: []
      })
    }
    return null
  },
  say: ({ kind, version }) => {
    const { role } = here(mesh)
    if (kind === 'coordinator' && role.kind === 'coordinator') here(records).publish('coordinator', { name: role.name, addresses: here(mesh).addresses(), version: String(version) })
    if (kind === 'policy' && role.kind === 'host') here(records).publish('policy', { site: role.site, host: role.host, setBy: '', version, document: new Uint8Array() })
    return null
  },
  view: kind => here(records).view(kind).map(toRow),
  everyone: kind => here(records).view(kind, { dead: true }).map(toRow),
  seen: () => seen,
  counts: () => ({ ...here(records).counts(), lateMs: here(records).lateMs(), rounds: here(records).rounds() }),
  connected: () => here(mesh).connected(),
  refusals: () => here(mesh).refusals(),
  revoke: ({ envelope, chain }) => here(mesh).trust.takeRevocation({ envelope: bytesOf(envelope), chain: chain.map(bytesOf) }) !== null,
  revocations: () => here(mesh).trust.revocations.size,
  call: async ({ peerId, clusterId, deadlineMs, times = 1 }) => {
    const from = performance.now()
    const result: CallResult = { replies: [], errors: [], ms: 0 }
    await Promise.all(Array.from({ length: times }, async (_, index) => {
      const text = times === 1 ? clusterId : `${clusterId} ${index}`
      try {
        const { hosts } = await here(mesh).call(peerId, 'status', { clusterId: text }, deadlineMs === undefined ? {} : { deadlineMs })
        result.replies.push(`${text} -> ${hosts[0]?.site ?? ''}`)
      } catch (error) {
        if (!(error instanceof MusubiError)) throw error
        const origin = originOf(error)
        result.errors.push({ name: error.name, code: error.code, message: error.message, retryable: error.retryable, hint: error.hint ?? null, site: origin?.site ?? null, host: origin?.host ?? null })
      }
    }))
    result.ms = performance.now() - from
    return result
  },
  memory: () => process.memoryUsage().rss,
  cpu: () => {
    const { user, system } = process.cpuUsage()
    return (user + system) / 1000
  },
  block: ms => {
    for (const end = performance.now() + ms; performance.now() < end;);
    return null
  },
  leave: async () => {
    await here(records).leave()
    return null
  },
  close: async () => {
    here(records).stop()
    await here(mesh).close()
    return null
  }
}

async function obey<O extends Operation> (id: number, op: O, args: Operations[O]['in']): Promise<Answer> {
  try {
    return { id, value: await operations[op](args) }
  } catch (error) {
    return { id, error: error instanceof Error ? error.stack ?? error.message : String(error) }
  }
}

if (process.send !== undefined) {
  process.on('message', ({ id, op, args }: Order) => {
    void obey(id, op, args as never).then(answer => process.send?.(answer))
  })
  // the parent is gone: nobody needs this process
  process.on('disconnect', () => { process.exit(0) })
}
