import type { Stream } from '@libp2p/interface'
import { InvalidInputError, MusubiError, UnreachableError } from '../../core/errors.ts'
import { DIAL_TIMEOUT_MS, MAX_IN_FLIGHT_PER_PEER } from '../../core/limits.ts'
import type { MethodName, Methods, wire } from '../../wire/codec.ts'
import { MAX_WAITING_CALLS_PER_PEER } from '../constants.ts'
import { fromFailure } from './failures.ts'
import { clampDeadline, encodeCall } from './handlers.ts'
import { CallStream } from './streams.ts'

export interface CallOptions {
  /** how long the answer is of use, ms; default RPC_DEADLINE_MS, at most RPC_DEADLINE_MAX_MS */
  readonly deadlineMs?: number
  readonly signal?: AbortSignal
}

type Replies = { [M in MethodName]: Methods[M]['reply'] | null }

/** The reply to `method`, or the error that the peer answered with. */
export function unwrapReply<M extends MethodName> (method: M, reply: wire.Reply, peerId: string): Methods[M]['reply'] {
  if (reply.failure !== null) throw fromFailure(reply.failure, peerId)
  const replies: Replies = reply
  const result = replies[method]
  if (result === null) throw new MusubiError('BAD_REPLY', `${peerId} answered ${method} with something else`, { hint: 'the peers run different releases' })
  return result
}

/** Ends with the caller's signal, or at the deadline: then as an UnreachableError that says who did not answer. */
export class Deadline {
  readonly #controller = new AbortController()
  readonly #endMs: number
  readonly #timer: NodeJS.Timeout
  readonly #caller: AbortSignal | undefined
  readonly #cancel = (): void => { this.#controller.abort(this.#caller?.reason) }
  readonly totalMs: number

  /** @param late what to say when time is up, given the time that there was */
  constructor (options: CallOptions, late: (totalMs: number) => string) {
    this.totalMs = clampDeadline(options.deadlineMs)
    this.#endMs = performance.now() + this.totalMs
    this.#caller = options.signal
    this.#timer = setTimeout(() => { this.#controller.abort(new UnreachableError(late(this.totalMs))) }, this.totalMs)
    if (this.#caller?.aborted === true) this.#cancel()
    else this.#caller?.addEventListener('abort', this.#cancel, { once: true })
  }

  get signal (): AbortSignal {
    return this.#controller.signal
  }

  get leftMs (): number {
    return Math.max(1, Math.ceil(this.#endMs - performance.now()))
  }

  /** Waits for `work`, but not longer than this. The work itself goes on. */
  async race<T> (work: Promise<T>): Promise<T> {
    this.signal.throwIfAborted()
    const { promise, reject } = Promise.withResolvers<never>()
    const abort = (): void => { reject(this.signal.reason as Error) }
    this.signal.addEventListener('abort', abort, { once: true })
    try {
      return await Promise.race([work, promise])
    } finally {
      this.signal.removeEventListener('abort', abort)
    }
  }

  [Symbol.dispose] (): void {
    clearTimeout(this.#timer)
    this.#caller?.removeEventListener('abort', this.#cancel)
  }
}

/** Places in flight to one peer; callers beyond them wait in turn. */
class Places {
  #free = MAX_IN_FLIGHT_PER_PEER
  readonly #waiting: Array<PromiseWithResolvers<undefined>> = []

  get idle (): boolean {
    return this.#free === MAX_IN_FLIGHT_PER_PEER
  }

  async take (deadline: Deadline): Promise<void> {
    if (this.#free > 0) {
      this.#free--
      return
    }
    if (this.#waiting.length >= MAX_WAITING_CALLS_PER_PEER) throw new MusubiError('BUSY', `${this.#waiting.length} calls to this peer already wait`, { retryable: true })
    const place = Promise.withResolvers<undefined>()
    this.#waiting.push(place)
    try {
      await deadline.race(place.promise)
    } catch (error) {
      const index = this.#waiting.indexOf(place)
      if (index >= 0) this.#waiting.splice(index, 1)
      else this.give() // it was handed over in the same moment
      throw error
    }
  }

  give (): void {
    const next = this.#waiting.shift()
    if (next === undefined) this.#free++
    else next.resolve(undefined)
  }
}

interface Target { stream: Promise<CallStream> | null, open: CallStream | null, readonly places: Places }

export interface CallersOptions {
  /** opens a stream for calls, connecting first where needed */
  open (peerId: string, signal: AbortSignal): Promise<Stream>
  /** the peer and its address, for messages */
  describe (peerId: string): string
}

/** Calls to other peers: one stream per peer, opened when first needed and again after it broke. */
export class Callers {
  readonly #targets = new Map<string, Target>()
  readonly #options: CallersOptions
  #closed = false

  constructor (options: CallersOptions) {
    this.#options = options
  }

  /** @throws MusubiError of the far side; UnreachableError when there is no answer in time */
  async call<M extends MethodName> (peerId: string, method: M, request: Methods[M]['request'], options: CallOptions): Promise<Methods[M]['reply']> {
    using deadline = new Deadline(options, totalMs => `${this.#options.describe(peerId)} did not answer ${method} within ${totalMs} ms`)
    const target = this.#targets.get(peerId) ?? { stream: null, open: null, places: new Places() }
    this.#targets.set(peerId, target)
    try {
      await target.places.take(deadline)
      try {
        return unwrapReply(method, await this.#exchange(peerId, target, method, request, deadline), peerId)
      } finally {
        target.places.give()
      }
    } finally {
      if (target.stream === null && target.places.idle && this.#targets.get(peerId) === target) this.#targets.delete(peerId)
    }
  }

  async #exchange<M extends MethodName> (peerId: string, target: Target, method: M, request: Methods[M]['request'], deadline: Deadline): Promise<wire.Reply> {
    let stream = await deadline.race(this.#stream(peerId, target))
    // it broke while this call waited for it: nothing was sent yet, so once more is safe
    if (stream.closed) stream = await deadline.race(this.#stream(peerId, target))
    try {
      return await stream.call(id => encodeCall(id, deadline.leftMs, method, request), deadline.signal)
    } catch (error) {
      if (deadline.signal.aborted || error instanceof InvalidInputError) throw error
      throw new UnreachableError(`lost ${this.#options.describe(peerId)} while it had ${method} to answer`, 'the call may have been carried out', error)
    }
  }

  /** The open stream, or the one that is being opened: callers at the same time share it. */
  async #stream (peerId: string, target: Target): Promise<CallStream> {
    target.stream ??= this.#open(peerId, target)
    return await target.stream
  }

  async #open (peerId: string, target: Target): Promise<CallStream> {
    try {
      if (this.#closed) throw new Error('the mesh is closed here')
      const raw = await this.#options.open(peerId, AbortSignal.timeout(DIAL_TIMEOUT_MS))
      const opened = new CallStream(raw, () => { if (target.open === opened) target.stream = target.open = null })
      target.open = opened
      return opened
    } catch (cause) {
      target.stream = null
      throw new UnreachableError(`cannot reach ${this.#options.describe(peerId)}`, 'it may be down, or may not admit this peer', cause)
    }
  }

  /** There is a better connection than that of `streams`: calls from now on take it, those under way end where they are. */
  renew (peerId: string, streams: readonly Stream[]): void {
    const target = this.#targets.get(peerId)
    const old = target?.open
    if (target === undefined || old === undefined || old === null || !old.isOneOf(streams)) return
    target.stream = target.open = null
    old.retire()
    if (target.places.idle) this.#targets.delete(peerId)
  }

  /** Ends all streams; calls under way fail. */
  close (): void {
    this.#closed = true
    for (const { stream } of this.#targets.values()) void stream?.then(open => { open.close() }, () => undefined)
  }
}
