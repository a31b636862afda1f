import { setImmediate as nextTurn } from 'node:timers/promises'
import { InvalidInputError, MusubiError } from '../core/errors.ts'
import { HEARTBEAT_MS, MAX_RECORD_BYTES, MAX_RECORDS, PUBLISH_COALESCE_MS, RECORD_TTL_MS } from '../core/limits.ts'
import { decode, encode, type wire } from '../wire/codec.ts'
import { SYNC_INTERVAL_MS } from './constants.ts'
import { scopesOf, type Scope } from './federation.ts'
import type { Verdict } from './gossip.ts'
import type { Mesh, MeshLog } from './mesh.ts'
import { isNewer, RecordView, type Merge, type Version } from './records/view.ts'
import { checkRecord, decodeBody, encodeBody, isAuthentic, isKind, KINDS, kindOf, scopeFor, signRecord, speaksForItself, type Bodies, type Kind } from './records/signed.ts'
import { answerSync, syncWith } from './records/sync.ts'

export type { Bodies, Kind } from './records/signed.ts'

export interface RecordsOptions {
  readonly mesh: Mesh
  /** grows durably at each start of this member, so that what it says now beats what it said before */
  readonly epoch: number
  /** who may say what; default: every member only about itself, see `speaksForItself` */
  readonly accepts?: <K extends Kind>(peerId: string, kind: K, body: Bodies[K]) => boolean
  readonly ttlMs?: number
  readonly heartbeatMs?: number
  readonly syncIntervalMs?: number
  readonly log?: MeshLog
}

/** One peer's record as it is known here. */
export interface RecordRow<K extends Kind> {
  readonly peer: string
  readonly kind: K
  readonly epoch: number
  readonly seq: number
  readonly ttlMs: number
  /** since its author made it */
  readonly ageMs: number
  /** shared: do not change it */
  readonly body: Bodies[K]
}

/** What happened to received records, counted since the start. */
export interface RecordCounts { taken: number, stale: number, expired: number, full: number, forged: number, refused: number, malformed: number }

export interface Records {
  /**
   * Says `body` to the members of its scope from now on: soon (coalesced), then as a heartbeat.
   *
   * @throws MusubiError NOT_IN_SCOPE when this member has no say in that scope; InvalidInputError
   */
  publish<K extends Kind> (kind: K, body: Bodies[K]): void
  /** Live records of a kind, the own one included. */
  view<K extends Kind> (kind: K): Array<RecordRow<K>>
  /** Told when the view of a kind has changed; heartbeats that only prolong a record do not count. */
  onChange (listener: (kind: Kind, peer: string) => void): () => void
  counts (): Readonly<RecordCounts>
  /** Compares with one peer now; the outcome is in the view. */
  syncNow (peerId: string): Promise<void>
  stop (): void
}

/** `dirty`: changed since it was last said; it is on its way. */
interface Own { readonly scope: Scope, body: Uint8Array, seq: number, timer: NodeJS.Timeout | null, publishedMs: number, dirty: boolean }

const jitter = (ms: number): number => ms * (0.75 + Math.random() / 2)

/** Spreads and keeps signed records. Create it before the mesh starts; it serves `sync`. */
export function createRecords (options: RecordsOptions): Records {
  const { mesh } = options
  const ttlMs = options.ttlMs ?? RECORD_TTL_MS
  const heartbeatMs = options.heartbeatMs ?? HEARTBEAT_MS
  const syncIntervalMs = options.syncIntervalMs ?? SYNC_INTERVAL_MS
  const log = options.log ?? (() => undefined)
  const accepts = options.accepts ?? ((peerId, kind, body) => {
    const role = mesh.roleOf(peerId)
    return role !== null && speaksForItself(role, kind, body)
  })
  const views: { readonly [K in Kind]: RecordView<Bodies[K]> } = { host: new RecordView(MAX_RECORDS), site: new RecordView(MAX_RECORDS) }
  const counts: RecordCounts = { taken: 0, stale: 0, expired: 0, full: 0, forged: 0, refused: 0, malformed: 0 }
  const own = new Map<Kind, Own>()
  const listeners = new Set<(kind: Kind, peer: string) => void>()
  const timers = new Set<NodeJS.Timeout>()
  let epoch = options.epoch
  let stopped = false

  const changed = (kind: Kind, peer: string): void => {
    for (const listener of listeners) {
      try {
        listener(kind, peer)
      } catch (error) {
        log('error', 'a listener of records failed', { kind, peer, err: error })
      }
    }
  }

  const merge = <K extends Kind>(kind: K, record: wire.Record, body: Bodies[K]): Merge => {
    const before = views[kind].get(record.peer)
    const outcome = views[kind].merge(record, body, performance.now())
    if (outcome === 'taken') {
      if (record.peer !== mesh.peerId) mesh.learn(record.peer, body.addresses)
      const same = before !== undefined && Buffer.compare(before.record.body, record.body) === 0
      if (!same) changed(kind, record.peer)
    }
    return outcome
  }

  /** Our own name on something newer than all we said: an earlier life whose epoch was lost. Go beyond it. */
  const overtake = (kind: Kind, version: Version): void => {
    const mine = own.get(kind)
    if (!isNewer(version, { epoch, seq: mine?.seq ?? 0 })) return
    log('warn', 'a record of an earlier start is ahead of this one: was the epoch lost?', { kind, epoch: version.epoch, seq: version.seq })
    epoch = Math.max(epoch, version.epoch) + 1
    if (mine === undefined) return
    // not at once: two processes with one key would chase each other
    schedule(kind, mine, Math.max(PUBLISH_COALESCE_MS, mine.publishedMs + heartbeatMs / 4 - performance.now()))
  }

  /** Checks one record from the mesh, cheapest first. @throws InvalidInputError for what nobody honest sends */
  const take = (record: wire.Record, scope: Scope): Merge | 'refused' => {
    const { kind } = record
    checkRecord(record)
    if (!isKind(kind) || kindOf(scope) !== kind) return 'refused'
    const author = mesh.roleOf(record.peer)
    if (author === null || !scopesOf(author).includes(scope)) return 'refused'
    if (record.peer === mesh.peerId) {
      if (isNewer(record, { epoch, seq: own.get(kind)?.seq ?? 0 }) && isAuthentic(record)) overtake(kind, record)
      return 'stale'
    }
    const expected = views[kind].judge(record.peer, record, record.ttlMs, record.ageMs)
    if (expected !== 'taken') return expected
    if (!isAuthentic(record)) {
      counts.forged++
      throw new InvalidInputError(`a record in the name of ${mesh.describe(record.peer)} is not signed by it`)
    }
    const body = decodeBody(kind, record.body)
    return accepts(record.peer, kind, body) ? merge(kind, record, body) : 'refused'
  }

  const takeCounted = (record: wire.Record, scope: Scope): Merge | 'refused' => {
    const forged = counts.forged
    try {
      const outcome = take(record, scope)
      counts[outcome]++
      return outcome
    } catch (error) {
      if (counts.forged === forged) counts.malformed++
      throw error
    }
  }

  const inspect = (scope: Scope, data: Uint8Array, from: string): Verdict => {
    try {
      if (data.length > MAX_RECORD_BYTES) throw new InvalidInputError(`${data.length} bytes of gossip`)
      const outcome = takeCounted(decode('Record', data, { maxBytes: MAX_RECORD_BYTES }), scope)
      return outcome === 'taken' ? 'accept' : outcome === 'refused' ? 'reject' : 'ignore'
    } catch (error) {
      if (!(error instanceof MusubiError)) throw error
      log('warn', 'dropped a record', { scope, from, err: error })
      return 'reject'
    }
  }

  const say = async (kind: Kind, mine: Own): Promise<void> => {
    mine.seq++
    mine.dirty = false
    mine.publishedMs = performance.now()
    schedule(kind, mine, jitter(heartbeatMs))
    const body = decodeBody(kind, mine.body)
    const record = signRecord(mesh.key, kind, { epoch, seq: mine.seq }, ttlMs, body)
    merge(kind, record, body)
    try {
      await mesh.publish(mine.scope, encode('Record', record, { maxBytes: MAX_RECORD_BYTES }))
    } catch (error) {
      log('debug', 'gossip did not take a record; anti-entropy will carry it', { kind, err: error })
    }
  }

  function schedule (kind: Kind, mine: Own, delayMs: number): void {
    if (stopped) return
    if (mine.timer !== null) clearTimeout(mine.timer)
    mine.timer = setTimeout(() => { void say(kind, mine) }, delayMs)
  }

  const every = (ms: () => number, work: () => void): void => {
    const timer = setTimeout(() => {
      timers.delete(timer)
      if (stopped) return
      work()
      every(ms, work)
    }, ms())
    timers.add(timer)
  }

  const takeAll = async (records: readonly wire.Record[], scope: Scope): Promise<void> => {
    for (const [index, record] of records.entries()) {
      // signatures cost time: let others have a turn
      if (index % 32 === 31) await nextTurn()
      takeCounted(record, scope)
    }
  }

  const viewOf = (scope: Scope): RecordView<Bodies[Kind]> => views[kindOf(scope)]
  const source = { viewOf, takeAll }
  const syncScopes = async (peerId: string, all: boolean): Promise<void> => {
    const role = mesh.roleOf(peerId)
    if (role === null) return
    for (const scope of scopesOf(role).filter(scope => mesh.scopes.includes(scope))) await syncWith(mesh, peerId, scope, source, all)
  }
  const trySync = (peerId: string, all: boolean): void => {
    syncScopes(peerId, all).catch((error: unknown) => { log('debug', 'could not compare records', { peer: mesh.describe(peerId), err: error }) })
  }

  mesh.serve('sync', async (request, { role, signal }) => {
    const scope = mesh.scopes.find(name => name === request.scope)
    if (scope === undefined || !scopesOf(role).includes(scope)) throw new MusubiError('FORBIDDEN', `${request.scope} is not shared with this caller`)
    return await answerSync(request, scope, source, signal)
  })
  for (const scope of mesh.scopes) mesh.subscribe(scope, (data, from) => inspect(scope, data, from))
  const unsubscribe = mesh.onConnect(peerId => { trySync(peerId, true) })
  every(() => jitter(syncIntervalMs), () => {
    for (const scope of mesh.scopes) {
      const peers = mesh.connected().filter(peerId => {
        const role = mesh.roleOf(peerId)
        return role !== null && scopesOf(role).includes(scope)
      })
      const peer = peers[Math.floor(Math.random() * peers.length)]
      if (peer !== undefined) trySync(peer, false)
    }
  })
  every(() => Math.min(1000, ttlMs / 10), () => {
    for (const kind of KINDS) {
      for (const peer of views[kind].expire(performance.now())) changed(kind, peer)
    }
  })

  return {
    publish: (kind, body) => {
      const scope = scopeFor(kind, mesh.scopes)
      if (scope === null || !accepts(mesh.peerId, kind, body)) throw new MusubiError('NOT_IN_SCOPE', `this member may not publish that ${kind} record`)
      const bytes = encodeBody(kind, body)
      const mine = own.get(kind)
      if (mine === undefined) {
        const fresh: Own = { scope, body: bytes, seq: 0, timer: null, publishedMs: 0, dirty: true }
        own.set(kind, fresh)
        schedule(kind, fresh, PUBLISH_COALESCE_MS)
      } else if (Buffer.compare(mine.body, bytes) !== 0) {
        const waits = mine.dirty
        mine.body = bytes
        mine.dirty = true
        if (!waits) schedule(kind, mine, PUBLISH_COALESCE_MS)
      }
    },
    view: kind => {
      const now = performance.now()
      return [...views[kind].entries()].filter(({ expiresMs }) => expiresMs > now).map(({ record: { peer, epoch, seq, ttlMs }, body, bornMs }) => (
        { peer, kind, epoch, seq, ttlMs, ageMs: Math.round(now - bornMs), body }
      ))
    },
    onChange: listener => {
      listeners.add(listener)
      return () => { listeners.delete(listener) }
    },
    counts: () => ({ ...counts }),
    syncNow: async peerId => { await syncScopes(peerId, true) },
    stop: () => {
      stopped = true
      unsubscribe()
      for (const timer of timers) clearTimeout(timer)
      for (const { timer } of own.values()) if (timer !== null) clearTimeout(timer)
    }
  }
}
