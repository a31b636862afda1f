import { errorCode, InvalidInputError, MusubiError } from '../core/errors.ts'
import { HEARTBEAT_MS, MAX_OFFENCES_PER_MINUTE, MAX_RECORD_BYTES, MAX_RECORDS, RECORD_TTL_MS } from '../core/limits.ts'
import { decode, encode, type wire } from '../wire/codec.ts'
import { INTRODUCE_MS, MEMBERSHIP_CHECK_MS, REVOCATION_PUSH_DELAY_MS, REVOCATION_PUSHED_TO, REVOCATION_URGENT_MS, SYNC_INTERVAL_MS, TOLD_OF_LEAVING } from './constants.ts'
import type { Verdict } from './gossip.ts'
import { Detector } from './liveness/detector.ts'
import type { Status } from './liveness/state.ts'
import type { Mesh, MeshLog } from './mesh.ts'
import { Intake, isOffence, noCounts, type RecordCounts } from './records/intake.ts'
import { MinuteCounter } from './records/offences.ts'
import { OwnRecords } from './records/own.ts'
import { answerRevocations, exchangeRevocations, revocationMessage } from './records/revocations.ts'
import { addressesIn, bodyProblem, kindsOf, scopeFor, speaksForItself, type Bodies, type Kind } from './records/signed.ts'
import { answerSync, hand, probe, syncWith, type SyncSource } from './records/sync.ts'
import { RecordView, type Merge, type ViewEntry } from './records/view.ts'
import { scopesOf, type Role, type Scope } from './roles.ts'

export type { RecordCounts } from './records/intake.ts'
export type { Bodies, Kind } from './records/signed.ts'
export type { Status } from './liveness/state.ts'

export interface RecordsOptions {
  readonly mesh: Mesh
  /** grows durably at each start of this member, so that what it says now beats what it said before */
  readonly epoch: number
  /** wall clock, Unix ms: dates records and bounds replays; default Date.now */
  readonly now?: () => number
  /** who may say what; default: every member only about itself, see `speaksForItself` */
  readonly accepts?: <K extends Kind>(role: Role, peerId: string, kind: K, body: Bodies[K]) => boolean
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
  /** by its author's wall clock, Unix ms */
  readonly madeMs: number
  /** since its author made it */
  readonly ageMs: number
  /** what failure detection says of its author; this member itself is always alive */
  readonly state: Status
  /** how long it has been in that state, ms */
  readonly sinceMs: number
  /** shared: do not change it */
  readonly body: Bodies[K]
}

export interface Records {
  /**
   * Says `body` to the members of its scope from now on: at once, changes within a short time of
   * the last coalesced into one; then as a heartbeat.
   *
   * @throws MusubiError NOT_IN_SCOPE when this member has no say in that scope; InvalidInputError
   */
  publish<K extends Kind> (kind: K, body: Bodies[K]): void
  /** Records of members that are alive or suspect, the own one included; with `dead` of all that were there lately. */
  view<K extends Kind> (kind: K, options?: { readonly dead?: boolean }): Array<RecordRow<K>>
  /** Told when the view of a kind has changed, or the state of a member in it; heartbeats that only prolong a record do not count. */
  onChange (listener: (kind: Kind, peer: string) => void): () => void
  counts (): Readonly<RecordCounts>
  /** ms by which this process was late in all, on its own timers; others were given that much more time to speak */
  lateMs (): number
  /** how often this member has compared with others of its own accord: with one of each scope, once in an interval */
  rounds (): number
  /** Compares with one peer now; the outcome is in the view. */
  syncNow (peerId: string): Promise<void>
  /** Says goodbye, so that others forget this member at once, and publishes nothing any more. Never rejects. */
  leave (): Promise<void>
  stop (): void
}

/** Gossip carries one record, or something smaller. */
const MAX_GOSSIP_BYTES = MAX_RECORD_BYTES + 16
const jitter = (ms: number): number => ms * (0.75 + Math.random() / 2)

/** Spreads and keeps signed records, and watches their authors. Create it before the mesh starts; it serves `sync` and `revocations`. */
export function createRecords (options: RecordsOptions): Records {
  const { mesh } = options
  const { trust } = mesh
  const ttlMs = options.ttlMs ?? RECORD_TTL_MS
  const syncIntervalMs = options.syncIntervalMs ?? SYNC_INTERVAL_MS
  const log = options.log ?? (() => undefined)
  const now = options.now ?? Date.now
  const accepts = options.accepts ?? (<K extends Kind>(role: Role, _peerId: string, kind: K, body: Bodies[K]) => speaksForItself(role, kind, body))
  const views: { readonly [K in Kind]: RecordView<Bodies[K]> } = {
    host: new RecordView(MAX_RECORDS), policy: new RecordView(MAX_RECORDS), site: new RecordView(MAX_RECORDS), coordinator: new RecordView(MAX_RECORDS)
  }
  const counts = noCounts()
  const offences = new MinuteCounter(MAX_OFFENCES_PER_MINUTE)
  /** by code, which are ours and few */
  const complaints = new Map<string, number>()
  const listeners = new Set<(kind: Kind, peer: string) => void>()
  const timers = new Set<NodeJS.Timeout>()
  const startedMs = performance.now()
  let stopped = false
  let rounds = 0

  const changed = (kind: Kind, peer: string): void => {
    for (const listener of listeners) {
      try {
        listener(kind, peer)
      } catch (error) {
        log('error', 'a listener of records failed', { kind, peer, err: error })
      }
    }
  }

  const gossip = async (scope: Scope, data: Uint8Array): Promise<void> => {
    try {
      await mesh.publish(scope, data)
    } catch (error) {
      log('debug', 'gossip did not take a message; anti-entropy will carry it', { scope, err: error })
    }
  }
  const recordMessage = (record: wire.Record): Uint8Array => encode('Gossip', { record, suspicion: null, revocation: null }, { maxBytes: MAX_GOSSIP_BYTES })

  const merge = <K extends Kind>(scope: Scope, kind: K, record: wire.Record, body: Bodies[K]): Merge => {
    const { peer } = record
    const before = views[kind].get(peer)
    const outcome = views[kind].merge(record, body, performance.now())
    if (outcome !== 'taken') return outcome
    if (record.leaving) {
      detector.forget(scope, peer)
    } else {
      if (peer !== mesh.peerId) mesh.learn(peer, addressesIn(body))
      detector.heard(scope, peer, record)
    }
    const same = before !== undefined && before.record.leaving === record.leaving && Buffer.compare(before.record.body, record.body) === 0
    if (!same) changed(kind, peer)
    return outcome
  }

  const farewells: Array<Promise<void>> = []
  const own = new OwnRecords({
    key: mesh.key,
    epoch: options.epoch,
    ttlMs,
    heartbeatMs: options.heartbeatMs ?? HEARTBEAT_MS,
    now,
    chain: () => trust.own().chain,
    emit: (scope, record, kind, body) => {
      const sent = gossip(scope, recordMessage(record))
      if (record.leaving) farewells.push(sent, ...neighbours(scope).slice(0, TOLD_OF_LEAVING).map(async peer => { await hand(mesh, peer, scope, source, [record]).catch(() => undefined) }))
      merge(scope, kind, record, body)
    }
  })
  const intake = new Intake({
    trust,
    views,
    own,
    counts,
    now,
    accepts,
    merge,
    onOvertake: (kind, { epoch, seq }) => { log('warn', 'a record of an earlier start is ahead of this one: was the epoch lost?', { kind, epoch, seq }) }
  })

  /** Somebody passed on what nobody honest would. */
  const blame = (from: string, error: unknown): void => {
    if (!isOffence(error) || !offences.add(from, performance.now())) return
    offences.reset(from)
    counts.dropped++
    log('warn', 'closed the connection to a peer that keeps sending what is forged or malformed', { peer: mesh.describe(from) })
    mesh.shutOut(from, 'too many forged or malformed messages')
  }

  const takeSuspicion = (suspicion: wire.Suspicion, scope: Scope): Verdict => {
    try {
      const outcome = detector.take(suspicion, scope)
      counts[outcome === 'taken' ? 'suspicions' : 'suspicionsStale']++
      return outcome === 'taken' ? 'accept' : 'ignore'
    } catch (error) {
      counts[isOffence(error) ? 'forged' : 'suspicionsRefused']++
      throw error
    }
  }

  const source: SyncSource = {
    views,
    takeAll: async (records, scope, from) => {
      try {
        await intake.takeAll(records, scope, from)
      } catch (error) {
        blame(from, error)
        throw error
      }
    },
    suspicions: scope => detector.suspicions(scope),
    takeSuspicions: (suspicions, scope, from) => {
      for (const suspicion of suspicions) {
        try {
          takeSuspicion(suspicion, scope)
        } catch (error) {
          if (!(error instanceof MusubiError)) throw error
          blame(from, error)
        }
      }
    },
    revocationDigest: () => trust.revocations.digest(),
    chainOf: ({ peer, chain }) => [...trust.memberOf(peer)?.chain ?? chain]
  }
  const detector = new Detector({
    mesh,
    log,
    probe: async (scope, peer, suspicions) => { await probe(mesh, peer, scope, source, suspicions) },
    spread: (scope, suspicion) => { void gossip(scope, encode('Gossip', { record: null, suspicion, revocation: null })) },
    refute: (scope, version) => {
      log('info', 'this member is suspected, and says that it is here', { scope })
      own.refute(scope, version)
    },
    onStatus: (scope, peer) => { for (const kind of kindsOf(scope)) if (views[kind].has(peer)) changed(kind, peer) }
  })

  const inspect = (scope: Scope, data: Uint8Array, from: string): Verdict => {
    try {
      const { record, suspicion, revocation } = decodeGossip(data)
      if (suspicion !== null) return takeSuspicion(suspicion, scope)
      if (revocation !== null) return trust.takeRevocation(revocation) === null ? 'ignore' : 'accept'
      if (record !== null) return intake.take(record, scope) === 'taken' ? 'accept' : 'ignore'
      counts.malformed++
      throw new InvalidInputError('gossip about nothing')
    } catch (error) {
      if (!(error instanceof MusubiError)) throw error
      // whoever passes on much of it must not fill the disk with our words
      const times = (complaints.get(error.code) ?? 0) + 1
      complaints.set(error.code, times)
      log(times <= 5 || times % 1000 === 0 ? 'warn' : 'debug', 'dropped what a peer passed on', { scope, from, code: error.code, times, err: error })
      blame(from, error)
      return 'reject'
    }
  }
  const decodeGossip = (data: Uint8Array): wire.Gossip => {
    try {
      return decode('Gossip', data, { maxBytes: MAX_GOSSIP_BYTES })
    } catch (error) {
      counts.malformed++
      throw error
    }
  }

  const after = (ms: number, work: () => void): void => {
    const timer = setTimeout(() => {
      timers.delete(timer)
      if (!stopped) work()
    }, ms)
    timers.add(timer)
  }
  const every = (ms: () => number, work: () => void): void => { after(ms(), () => { work(); every(ms, work) }) }

  const isIn = (scope: Scope, peerId: string): boolean => {
    const role = mesh.roleOf(peerId)
    return role !== null && scopesOf(role).includes(scope)
  }
  const neighbours = (scope: Scope): string[] => mesh.connected().filter(peerId => isIn(scope, peerId))
  const syncScopes = async (peerId: string, all: boolean): Promise<void> => {
    let revocationsDiffer = false
    for (const scope of mesh.scopes.filter(scope => isIn(scope, peerId))) revocationsDiffer = await syncWith(mesh, peerId, scope, source, all) || revocationsDiffer
    if (revocationsDiffer) await exchangeRevocations(mesh, peerId)
  }
  const trySync = (peerId: string, all: boolean): void => {
    syncScopes(peerId, all).catch((error: unknown) => {
      if (stopped) return
      blame(peerId, error)
      const ours = ['FUTURE_DATED', 'REPLAYED_RECORD'].includes(errorCode(error))
      log(ours ? 'warn' : 'debug', 'could not compare records', { peer: mesh.describe(peerId), err: error })
    })
  }

  mesh.serve('sync', async (request, { role, peerId, signal }) => {
    const scope = mesh.scopes.find(name => name === request.scope)
    if (scope === undefined || !scopesOf(role).includes(scope)) throw new MusubiError('FORBIDDEN', `${request.scope} is not shared with this caller`)
    detector.proof(peerId)
    return await answerSync(request, scope, source, peerId, signal)
  })
  mesh.serve('revocations', (request, { peerId }) => {
    try {
      return answerRevocations(trust, request)
    } catch (error) {
      blame(peerId, error)
      throw error
    }
  })
  for (const scope of mesh.scopes) mesh.subscribe(scope, (data, from) => inspect(scope, data, from))

  let pushing: NodeJS.Timeout | null = null
  /** Beside the gossip that may lose it: a few others hear of what is new at once, and tell a few others. */
  const pushRevocations = (): void => {
    pushing = null
    const peers = mesh.connected()
    for (let n = 0; n < REVOCATION_PUSHED_TO && peers.length > 0; n++) {
      const [peer] = peers.splice(Math.floor(Math.random() * peers.length), 1)
      if (peer !== undefined) void exchangeRevocations(mesh, peer).catch((error: unknown) => { log('debug', 'could not compare revocations', { peer: mesh.describe(peer), err: error }) })
    }
  }

  /** Members whose certificates ended or were revoked have no say, and nothing to show. */
  const dropStrangers = (): void => {
    for (const scope of mesh.scopes) {
      for (const kind of kindsOf(scope)) {
        for (const { record } of [...views[kind].entries(), ...views[kind].past()]) {
          if (record.peer === mesh.peerId || isMember(record)) continue
          views[kind].remove(record.peer, performance.now())
          detector.forget(scope, record.peer)
          changed(kind, record.peer)
        }
      }
    }
  }
  const isMember = ({ peer, chain }: wire.Record): boolean => {
    if (trust.roleOf(peer) !== null) return true
    try {
      // the roster is bounded: it may have forgotten one that is still a member
      trust.admit(peer, chain)
      return true
    } catch {
      return false
    }
  }
  const expire = (): void => {
    const nowMs = performance.now()
    for (const scope of mesh.scopes) {
      const watched = kindsOf(scope)
      for (const kind of watched) {
        const { expired, forgotten } = views[kind].expire(nowMs)
        for (const peer of expired) if (!watched.some(other => views[other].get(peer)?.record.leaving === false)) detector.expired(scope, peer)
        for (const peer of forgotten) if (!watched.some(other => views[other].has(peer))) detector.forget(scope, peer)
        for (const peer of [...expired, ...forgotten]) changed(kind, peer)
        for (const { record: { peer, ttlMs: lifeMs }, bornMs } of views[kind].entries()) if (nowMs - bornMs > lifeMs / 2) detector.silent(scope, peer)
      }
    }
  }
  /** What was said while nobody heard it is said again, as soon as gossip has found its way. */
  const introduce = (peerId: string): void => {
    for (const scope of mesh.scopes) {
      const near = neighbours(scope)
      if (near.length !== 1 || near[0] !== peerId) continue
      for (const delayMs of INTRODUCE_MS) after(delayMs, () => { own.sayAgain(scope) })
    }
  }
  const ends = [
    mesh.onConnect(peerId => {
      trySync(peerId, true)
      introduce(peerId)
    }),
    trust.onRevoked(({ signed, document }) => {
      counts.revocations++
      // old ones come in bulk after a start: whoever lacks them compares
      if (now() - document.revokedMs < REVOCATION_URGENT_MS) for (const scope of mesh.scopes) void gossip(scope, revocationMessage(signed))
      pushing ??= setTimeout(pushRevocations, REVOCATION_PUSH_DELAY_MS)
      dropStrangers()
    }),
    trust.onRenewed(() => { own.sayAgain() })
  ]
  every(() => jitter(syncIntervalMs), () => {
    rounds++
    for (const scope of mesh.scopes) {
      const peers = neighbours(scope)
      const peer = peers[Math.floor(Math.random() * peers.length)]
      if (peer !== undefined) trySync(peer, false)
    }
  })
  every(() => Math.min(1000, ttlMs / 10), expire)
  every(() => MEMBERSHIP_CHECK_MS, dropStrangers)

  const rowOf = <K extends Kind>(scope: Scope | null, kind: K, { record, body, bornMs, expiresMs }: ViewEntry<Bodies[K]>, nowMs: number): RecordRow<K> => {
    const { peer, epoch, seq, ttlMs, madeMs } = record
    const watched = scope === null || peer === mesh.peerId ? null : detector.statusOf(scope, peer)
    const { status: state, changedMs } = expiresMs <= nowMs ? { status: 'dead' as const, changedMs: watched?.status === 'dead' ? watched.changedMs : expiresMs } : watched ?? { status: 'alive' as const, changedMs: startedMs }
    return { peer, kind, epoch, seq, ttlMs, madeMs, ageMs: Math.round(nowMs - bornMs), state, sinceMs: Math.max(0, Math.round(nowMs - changedMs)), body }
  }

  return {
    publish: (kind, body) => {
      const scope = scopeFor(kind, mesh.scopes)
      if (scope === null || !accepts(mesh.role, mesh.peerId, kind, body)) throw new MusubiError('NOT_IN_SCOPE', `this member may not publish that ${kind} record`)
      const problem = bodyProblem(kind, body)
      if (problem !== null) throw new InvalidInputError(`this member's ${kind} record has ${problem}`)
      own.publish(scope, kind, body)
    },
    view: (kind, { dead = false } = {}) => {
      const nowMs = performance.now()
      const scope = scopeFor(kind, mesh.scopes)
      return [...views[kind].entries(), ...(dead ? views[kind].past() : [])]
        .filter(({ record }) => !record.leaving)
        .map(entry => rowOf(scope, kind, entry, nowMs))
        .filter(({ state }) => dead || state !== 'dead')
    },
    onChange: listener => {
      listeners.add(listener)
      return () => { listeners.delete(listener) }
    },
    counts: () => ({ ...counts, notAdmitted: { ...counts.notAdmitted } }),
    lateMs: () => detector.lateMs,
    rounds: () => rounds,
    syncNow: async peerId => { await syncScopes(peerId, true) },
    leave: async () => {
      own.leave()
      await Promise.all(farewells)
    },
    stop: () => {
      stopped = true
      detector.stop()
      own.stop()
      for (const end of ends) end()
      for (const timer of timers) clearTimeout(timer)
      if (pushing !== null) clearTimeout(pushing)
    }
  }
}
