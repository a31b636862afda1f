import { MusubiError } from '../../core/errors.ts'
import { MAX_PROBES, MAX_SUSPICIONS_PER_MINUTE } from '../../core/limits.ts'
import type { wire } from '../../wire/codec.ts'
import { LIVENESS_DIRECTORY, LIVENESS_SITE, LIVENESS_TICK_MS, PROBE_TIMEOUT_MS, SYNC_SUSPICIONS } from '../constants.ts'
import type { Mesh, MeshLog } from '../mesh.ts'
import { MinuteCounter } from '../records/offences.ts'
import { isKind, kindsOf } from '../records/signed.ts'
import { isNewer, type Version } from '../records/view.ts'
import { scopesOf, type Scope } from '../roles.ts'
import { PatientClock } from './clock.ts'
import { Pinger } from './pinger.ts'
import { newPeer, step, type Effect, type LivenessEvent, type LivenessTiming, type PeerState, type Status } from './state.ts'
import { isSuspicionAuthentic, signSuspicion } from './suspicion.ts'

export interface DetectorOptions {
  readonly mesh: Mesh
  readonly log: MeshLog
  /** Asks a peer whether it is there. Rejects when it does not answer. */
  readonly probe: (scope: Scope, peer: string, suspicions: readonly wire.Suspicion[]) => Promise<void>
  /** says it to the members of the scope */
  readonly spread: (scope: Scope, suspicion: wire.Suspicion) => void
  /** somebody suspects this member */
  readonly refute: (scope: Scope, version: Version) => void
  readonly onStatus: (scope: Scope, peer: string, status: Status) => void
}

interface Entry { readonly scope: Scope, readonly peer: string, state: PeerState, suspicion: wire.Suspicion | null, changedMs: number }

const TEXTS: { readonly [S in Status]: string } = { alive: 'a member is back', suspect: 'a member is suspected', dead: 'a member is dead' }

const timingOf = (scope: Scope): LivenessTiming => scope === 'directory' ? LIVENESS_DIRECTORY : LIVENESS_SITE

/** `taken`: believed, or about this member. `stale`: known already, or refuted. */
type SuspicionVerdict = 'taken' | 'stale'

/**
 * Watches the members whose records are known: feeds what happens into {@link step} and does what
 * comes out. Time is patient: a process that is late takes nobody for dead meanwhile.
 */
export class Detector {
  readonly #options: DetectorOptions
  readonly #scopes: ReadonlyMap<Scope, Map<string, Entry>>
  /** those that wait for a time */
  readonly #waiting = new Set<Entry>()
  readonly #probing = new Set<Entry>()
  readonly #toProbe = new Set<Entry>()
  readonly #accusers = new MinuteCounter(MAX_SUSPICIONS_PER_MINUTE)
  readonly #clock = new PatientClock(LIVENESS_TICK_MS, performance.now())
  readonly #pinger: Pinger
  readonly #timer: NodeJS.Timeout
  readonly #ends: ReadonlyArray<() => void>
  #stopped = false

  constructor (options: DetectorOptions) {
    const { mesh } = options
    this.#options = options
    this.#scopes = new Map(mesh.scopes.map(scope => [scope, new Map()]))
    this.#timer = setInterval(() => { this.#tick() }, LIVENESS_TICK_MS)
    this.#pinger = new Pinger({
      self: mesh.peerId,
      scopes: mesh.scopes,
      members: scope => this.#living(scope),
      isConnected: peer => mesh.connected().includes(peer),
      clock: this.#clock,
      timeoutMs: PROBE_TIMEOUT_MS,
      ping: async (scope, peer) => await this.#ask(scope, peer, null),
      onResult: (peer, answered) => { this.#everywhere(peer, { type: 'probed', answered }) }
    })
    this.#ends = [
      mesh.onConnect(peer => {
        this.#pinger.connected(peer)
        this.#everywhere(peer, { type: 'connected' })
      }),
      mesh.onDisconnect(peer => { this.#everywhere(peer, { type: 'disconnected' }) })
    ]
  }

  stop (): void {
    this.#stopped = true
    clearInterval(this.#timer)
    for (const end of this.#ends) end()
  }

  /** ms by which this process was late in all: others were given that much more time */
  get lateMs (): number {
    return Math.round(this.#clock.lateMs)
  }

  /** Since when, on the monotonic clock; null for who is not watched. */
  statusOf (scope: Scope, peer: string): { status: Status, changedMs: number } | null {
    const entry = this.#scopes.get(scope)?.get(peer)
    return entry === undefined ? null : { status: entry.state.status, changedMs: entry.changedMs }
  }

  /** A record of the peer was taken. */
  heard (scope: Scope, peer: string, version: Version): void {
    const entries = this.#scopes.get(scope)
    if (entries === undefined || peer === this.#options.mesh.peerId) return
    const entry = entries.get(peer)
    if (entry !== undefined) {
      this.#feed(entry, { type: 'heard', version })
      return
    }
    const connected = this.#options.mesh.connected().includes(peer)
    entries.set(peer, { scope, peer, state: newPeer(version, connected), suspicion: null, changedMs: performance.now() })
  }

  /** Its record has run out. */
  expired (scope: Scope, peer: string): void {
    this.#one(scope, peer, { type: 'expired' })
  }

  /** It has not been heard of for long. */
  silent (scope: Scope, peer: string): void {
    this.#one(scope, peer, { type: 'silent' })
  }

  /** It has called this member: it is there. */
  proof (peer: string): void {
    this.#pinger.proof(peer)
    for (const entries of this.#scopes.values()) {
      const entry = entries.get(peer)
      if (entry !== undefined && (entry.state.lost || entry.state.status !== 'alive')) this.#feed(entry, { type: 'probed', answered: true })
    }
  }

  /** It left, or is no member any more. */
  forget (scope: Scope, peer: string): void {
    const entry = this.#scopes.get(scope)?.get(peer)
    if (entry === undefined) return
    this.#scopes.get(scope)?.delete(peer)
    this.#waiting.delete(entry)
    this.#toProbe.delete(entry)
  }

  /** What this member believes, to tell others; at most SYNC_SUSPICIONS, the latest. */
  suspicions (scope: Scope): wire.Suspicion[] {
    const entries = [...this.#scopes.get(scope)?.values() ?? []].filter(({ suspicion }) => suspicion !== null)
    return entries.sort((a, b) => b.changedMs - a.changedMs).slice(0, SYNC_SUSPICIONS).flatMap(({ suspicion }) => suspicion ?? [])
  }

  /**
   * Judges what another member says of a peer.
   *
   * @throws MusubiError FORGED_SUSPICION; REFUSED_SUSPICION when its author has no say, or says too much
   */
  take (suspicion: wire.Suspicion, scope: Scope): SuspicionVerdict {
    const { mesh, refute } = this.#options
    const { peer, by, kind } = suspicion
    if (!isKind(kind) || !kindsOf(scope).includes(kind)) throw new MusubiError('REFUSED_SUSPICION', `a suspicion of kind ${JSON.stringify(kind.slice(0, 40))} has no place in ${scope}`)
    if (by === mesh.peerId) return 'stale'
    const entry = this.#scopes.get(scope)?.get(peer)
    if (peer !== mesh.peerId && (entry === undefined || isNewer(entry.state.version, suspicion) || (entry.state.accused !== null && !isNewer(suspicion, entry.state.accused)))) return 'stale'
    const role = mesh.roleOf(by)
    if (role === null || !scopesOf(role).includes(scope) || by === peer) throw new MusubiError('REFUSED_SUSPICION', `${mesh.describe(by)} has no say about ${mesh.describe(peer)}`)
    if (!isSuspicionAuthentic(suspicion)) throw new MusubiError('FORGED_SUSPICION', `a suspicion in the name of ${mesh.describe(by)} is not signed by it`)
    if (this.#accusers.add(by, performance.now())) throw new MusubiError('REFUSED_SUSPICION', `${mesh.describe(by)} suspects too many at a time`)
    if (entry === undefined) {
      refute(scope, suspicion)
      return 'taken'
    }
    this.#feed(entry, { type: 'accused', version: suspicion }, suspicion)
    return entry.suspicion === suspicion ? 'taken' : 'stale'
  }

  #one (scope: Scope, peer: string, event: LivenessEvent): void {
    const entry = this.#scopes.get(scope)?.get(peer)
    if (entry !== undefined) this.#feed(entry, event)
  }

  * #living (scope: Scope): Iterable<string> {
    for (const { peer, state } of this.#scopes.get(scope)?.values() ?? []) if (state.status !== 'dead') yield peer
  }

  #everywhere (peer: string, event: LivenessEvent): void {
    for (const scope of this.#scopes.keys()) this.#one(scope, peer, event)
  }

  #tick (): void {
    this.#clock.advance(performance.now())
    for (const entry of this.#waiting) this.#feed(entry, { type: 'tick' })
    this.#pinger.tick()
  }

  #feed (entry: Entry, event: LivenessEvent, suspicion: wire.Suspicion | null = null): void {
    const { log, mesh, onStatus } = this.#options
    const before = entry.state
    const { state, effects } = step(before, event, this.#clock.nowMs, timingOf(entry.scope))
    entry.state = state
    if (state.graceEndsMs !== null || state.deadlineMs !== null) this.#waiting.add(entry)
    else this.#waiting.delete(entry)
    const told = entry.suspicion
    if (state.status === 'alive') entry.suspicion = null
    else if (suspicion !== null && state.accused !== before.accused) entry.suspicion = suspicion
    for (const effect of effects) this.#do(effect, entry, told)
    if (state.status === before.status) return
    entry.changedMs = performance.now()
    // its connection hangs with it: others may take its place
    if (state.status === 'dead' && state.connected) mesh.disconnect(entry.peer, 'it does not answer')
    log(state.status === 'alive' ? 'info' : 'warn', TEXTS[state.status], { scope: entry.scope, member: mesh.describe(entry.peer), event: event.type, by: suspicion?.by })
    onStatus(entry.scope, entry.peer, state.status)
  }

  #do (effect: Effect, entry: Entry, told: wire.Suspicion | null): void {
    const { mesh, spread } = this.#options
    if (this.#stopped) return
    switch (effect) {
      case 'accuse': {
        const kind = kindsOf(entry.scope)[0] ?? 'host'
        entry.suspicion = signSuspicion(mesh.key, entry.peer, kind, entry.state.version)
        spread(entry.scope, entry.suspicion)
        return
      }
      case 'tell':
        if (told !== null) void this.#ask(entry.scope, entry.peer, told)
        return
      case 'probe':
        this.#toProbe.add(entry)
        this.#probeNext()
    }
  }

  #probeNext (): void {
    for (const entry of this.#toProbe) {
      if (this.#probing.size >= MAX_PROBES || this.#stopped) return
      if (this.#probing.has(entry)) continue
      this.#toProbe.delete(entry)
      this.#probing.add(entry)
      void this.#probe(entry)
    }
  }

  async #probe (entry: Entry): Promise<void> {
    const answered = await this.#ask(entry.scope, entry.peer, entry.suspicion)
    this.#probing.delete(entry)
    if (this.#stopped) return
    if (this.#scopes.get(entry.scope)?.get(entry.peer) === entry) this.#feed(entry, { type: 'probed', answered })
    this.#probeNext()
  }

  /** @returns whether there was an answer */
  async #ask (scope: Scope, peer: string, suspicion: wire.Suspicion | null): Promise<boolean> {
    try {
      await this.#options.probe(scope, peer, suspicion === null ? [] : [suspicion])
      return true
    } catch (error) {
      // an answer that says no is an answer
      return error instanceof MusubiError && error.code !== 'UNREACHABLE'
    }
  }
}
