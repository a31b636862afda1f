/**
 * One member of a federation in a process of its own, told what to do by its parent over IPC.
 * Its handlers behave as the text in the request says.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { privateKeyFromProtobuf } from '@libp2p/crypto/keys'
import { MusubiError, NoCapacityError } from '../../protocol/core/errors.ts'
import { parseFederation } from '../../protocol/mesh/federation.ts'
import { originOf } from '../../protocol/mesh/rpc/failures.ts'
import { createMesh, type Mesh } from '../../protocol/mesh/mesh.ts'
import { createRecords, type Kind, type Records } from '../../protocol/mesh/records.ts'
import type { wire } from '../../protocol/wire/codec.ts'

export interface MemberConfig {
  key: string
  federation: string
  listen: string
  epoch: number
  ttlMs: number
  heartbeatMs: number
  syncIntervalMs: number
  ping: { pingIntervalMs: number, pingTimeoutMinMs: number, pingTimeoutMaxMs: number } | null
}

export interface CallSpec { peerId: string, clusterId: string, deadlineMs?: number, times?: number }
export interface CallResult { replies: string[], errors: Array<{ name: string, code: string, message: string, retryable: boolean, hint: string | null, site: string | null, host: string | null }>, ms: number }
export interface Row { peer: string, epoch: number, seq: number, ageMs: number, name: string }

export interface Operations {
  init: { in: MemberConfig, out: { peerId: string } }
  start: { in: null, out: { addresses: string[] } }
  publish: { in: { version: string, site: boolean }, out: null }
  view: { in: Kind, out: Row[] }
  counts: { in: null, out: ReturnType<Records['counts']> }
  connected: { in: null, out: string[] }
  call: { in: CallSpec, out: CallResult }
  memory: { in: null, out: number }
  close: { in: null, out: null }
}
export type Operation = keyof Operations
export interface Order { id: number, op: Operation, args: unknown }
export interface Answer { id: number, value?: unknown, error?: string }

let mesh: Mesh | null = null
let records: Records | null = null

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

const operations: { [O in Operation]: (args: Operations[O]['in']) => Operations[O]['out'] | Promise<Operations[O]['out']> } = {
  init: async config => {
    const key = privateKeyFromProtobuf(Buffer.from(config.key, 'base64'))
    if (key.type !== 'Ed25519') throw new Error('not an Ed25519 key')
    const federation = parseFederation(config.federation)
    mesh = await createMesh({
      key, roster: federation, listen: [config.listen], bootstrap: federation.members, ...(config.ping === null ? {} : { failureDetection: config.ping })
    })
    records = createRecords({ mesh, epoch: config.epoch, ttlMs: config.ttlMs, heartbeatMs: config.heartbeatMs, syncIntervalMs: config.syncIntervalMs })
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
    here(records).publish('host', { site, host, roles: [...roles], addresses, underlayAddress: '', total: null, free: null, cordoned: false, accelerator: '', version })
    if (alsoSite) here(records).publish('site', { site, gateway: host, addresses, hosts: 1, total: null, free: null, freeByHost: [], volumeFreeMib: 0, version })
    return null
  },
  view: kind => here(records).view(kind).map(({ peer, epoch, seq, ageMs, body }) => (
    { peer, epoch, seq, ageMs, name: `${body.site}/${'host' in body ? body.host : body.gateway} ${body.version}` }
  )),
  counts: () => here(records).counts(),
  connected: () => here(mesh).connected(),
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
