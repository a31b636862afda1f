import { MusubiError } from '../../core/errors.ts'
import { MAX_IN_FLIGHT_PER_PEER, RPC_DEADLINE_MAX_MS, RPC_DEADLINE_MS } from '../../core/limits.ts'
import { encode, METHODS, type MethodName, type Methods, type wire } from '../../wire/codec.ts'
import { toFailure } from './failures.ts'
import type { Role } from '../roles.ts'

/** Who calls, and until when an answer is of use. */
export interface CallContext {
  readonly peerId: string
  readonly role: Role
  /** aborts at the deadline and when the caller is gone */
  readonly signal: AbortSignal
  /** time that the caller gave, ms */
  readonly deadlineMs: number
}

export type Handler<M extends MethodName> = (request: Methods[M]['request'], context: CallContext) => Methods[M]['reply'] | Promise<Methods[M]['reply']>

type Table = { [M in MethodName]?: Handler<M> }
type Requests = { [M in MethodName]: Methods[M]['request'] | null }

/** A Call or Reply with no member set. */
const nothing = (): { [M in MethodName]: null } => ({
  sync: null, request: null, commit: null, activate: null, release: null, status: null, search: null, revocations: null, renew: null,
  hold: null, hostCommit: null, hostActivate: null, hostRelease: null, hostStatus: null, hostCordon: null, extend: null, keepAlive: null, claim: null, copy: null, hostExtend: null, hostKeepAlive: null, cache: null, calendar: null, hostCalendar: null, quote: null, hostCurtail: null, hostRestore: null
})

/** @returns the frame of a call, encoded. @throws InvalidInputError when the request does not fit */
export function encodeCall<M extends MethodName> (id: number, deadlineMs: number, method: M, request: Methods[M]['request']): Uint8Array<ArrayBuffer> {
  return encode('Frame', { call: { ...nothing(), id, deadlineMs, [method]: request }, reply: null })
}

function encodeReply (id: number, part: Partial<wire.Reply>): Uint8Array<ArrayBuffer> {
  return encode('Frame', { call: null, reply: { ...nothing(), failure: null, id, ...part } })
}

export function clampDeadline (deadlineMs: number | undefined): number {
  if (deadlineMs === undefined || deadlineMs === 0) return RPC_DEADLINE_MS
  return Math.max(1, Math.min(Math.ceil(deadlineMs), RPC_DEADLINE_MAX_MS))
}

export interface HandlersOptions {
  /** site and host that failures name */
  readonly self: { site: string, host: string }
  roleOf (peerId: string): Role | null
  /** told of every error that is not meant for the caller */
  onInternalError (method: MethodName, peerId: string, error: unknown): void
}

/** The methods that this process serves. Local and remote calls take the same way through it. */
export class Handlers {
  readonly #table: Table = {}
  readonly #running = new Map<string, number>()
  readonly #options: HandlersOptions

  constructor (options: HandlersOptions) {
    this.#options = options
  }

  /** @throws MusubiError ALREADY_SERVED: two parts of a program claim one method */
  serve<M extends MethodName> (method: M, handler: Handler<M>): void {
    if (this.#table[method] !== undefined) throw new MusubiError('ALREADY_SERVED', `method ${method} has a handler already`)
    const table: { [K in M]?: Handler<K> } = this.#table
    table[method] = handler
  }

  /**
   * Runs one call to its end and gives the frame to send back. Never throws: what goes wrong is in
   * the frame. Work that outlives its deadline still counts as under way.
   */
  async answer (call: wire.Call, peerId: string, gone: AbortSignal): Promise<Uint8Array<ArrayBuffer>> {
    const method = METHODS.find(name => call[name] !== null)
    try {
      if (method === undefined) throw new MusubiError('UNIMPLEMENTED', 'this method is not known here', { hint: 'the peers run different releases' })
      const reply = await this.#run(method, call, peerId, gone)
      return encodeReply(call.id, { [method]: reply })
    } catch (error) {
      // a caller that went away took its handler's errors with it
      if (!(error instanceof MusubiError) && method !== undefined && !gone.aborted) this.#options.onInternalError(method, peerId, error)
      return encodeReply(call.id, { failure: toFailure(error, this.#options.self) })
    }
  }

  async #run<M extends MethodName> (method: M, call: wire.Call, peerId: string, gone: AbortSignal): Promise<Methods[M]['reply']> {
    const requests: Requests = call
    const request = requests[method]
    const handler = this.#table[method]
    const role = this.#options.roleOf(peerId)
    if (handler === undefined || request === null) throw new MusubiError('UNIMPLEMENTED', `method ${method} is not served here`)
    if (role === null) throw new MusubiError('FORBIDDEN', 'the caller is no member of the federation')
    const running = this.#running.get(peerId) ?? 0
    if (running >= MAX_IN_FLIGHT_PER_PEER) throw new MusubiError('BUSY', `${running} calls of this peer are under way, at most ${MAX_IN_FLIGHT_PER_PEER} are allowed`, { retryable: true })
    this.#running.set(peerId, running + 1)

    const deadlineMs = clampDeadline(call.deadlineMs)
    const ended = new AbortController()
    const stop = (): void => { ended.abort(gone.reason) }
    const timer = setTimeout(() => { ended.abort(new MusubiError('DEADLINE', `${method} did not end within ${deadlineMs} ms`, { retryable: true })) }, deadlineMs)
    gone.addEventListener('abort', stop, { once: true })
    const work = (async () => await handler(request, { peerId, role, signal: ended.signal, deadlineMs }))()
    void work.catch(() => undefined).then(() => { this.#done(peerId) })
    const { promise: aborted, reject } = Promise.withResolvers<never>()
    ended.signal.addEventListener('abort', () => { reject(ended.signal.reason as Error) }, { once: true })
    try {
      if (gone.aborted) stop()
      return await Promise.race([work, aborted])
    } finally {
      clearTimeout(timer)
      gone.removeEventListener('abort', stop)
    }
  }

  #done (peerId: string): void {
    const left = (this.#running.get(peerId) ?? 1) - 1
    if (left === 0) this.#running.delete(peerId)
    else this.#running.set(peerId, left)
  }
}
