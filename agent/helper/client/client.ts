import { createConnection, type Socket } from 'node:net'
import type { Logger } from 'pino'
import { describeError, MusubiError } from '../../../protocol/core/errors.ts'
import { HELPER_REPLY_BYTES, HELPER_REQUEST_BYTES } from '../../../protocol/core/limits.ts'
import { createFrameReader, encodeFrame } from '../wire/frames.ts'
import { readReply, VERBS, type HelperHello, type ParamsOf, type VerbName, type VerbResults } from '../wire/verbs.ts'

export interface HelperClient {
  /**
   * Asks the helper. Without a connection one is tried at once.
   *
   * @throws MusubiError HELPER_UNREACHABLE, retryable, also when the connection ends before the answer:
   * nobody knows then what was done; DEADLINE; and whatever the helper answers
   */
  call<V extends VerbName> (verb: V, params: ParamsOf<V>, options?: { signal?: AbortSignal }): Promise<VerbResults[V]>
  /** Resolves when the helper answers. @throws what the signal says */
  ready (signal: AbortSignal): Promise<HelperHello>
  /** Why the helper does not answer, for status; null when it does. */
  problem (): string | null
  /** Told at every new connection; @returns a function that ends it */
  onConnect (listener: (hello: HelperHello) => void): () => void
  close (): void
}

export interface HelperClientOptions {
  socketPath: string
  log: Logger
  /** the agent's ledger clock, which its claims go by; absent for people's questions */
  ledgerMs?: () => number
  /** false: one try for each question, as people want it */
  persistent?: boolean
}

interface Pending { verb: VerbName, resolve: (result: unknown) => void, reject: (error: Error) => void, end: () => void }
interface Link { socket: Socket, pending: Map<number, Pending> }

const CONNECT_MS = 5_000
const RETRY_MIN_MS = 100
const RETRY_MAX_MS = 5_000
/** On top of a call's own time: the helper says itself that it took too long. */
const ANSWER_GRACE_MS = 5_000
const HINT = 'is it up? systemctl status musubi-helper'

/** A connection to the helper that is made anew for ever. */
export function createHelperClient ({ socketPath, log, ledgerMs, persistent = true }: HelperClientOptions): HelperClient {
  let link: Link | null = null
  let connecting: Promise<Link> | null = null
  let closed = false
  let ids = 0
  let failures = 0
  let retry: NodeJS.Timeout | undefined
  let problem: string | null = `the helper was not asked yet (${socketPath})`
  const listeners = new Set<(hello: HelperHello) => void>()
  const waiting: Array<(hello: HelperHello) => void> = []

  const away = (why: string, cause?: unknown): MusubiError =>
    new MusubiError('HELPER_UNREACHABLE', `the helper does not answer at ${socketPath}: ${why}`, { retryable: true, hint: HINT, ...(cause === undefined ? {} : { cause }) })

  function lost (broken: Link, why: string): void {
    if (link === broken) {
      link = null
      problem = describeError(away(why))
      if (!closed) {
        log.warn({ socket: socketPath, why }, 'lost the helper')
        later()
      }
    }
    broken.socket.destroy()
    for (const [id, { reject, verb, end }] of broken.pending) {
      broken.pending.delete(id)
      end()
      reject(away(`${why} before ${verb} was answered`))
    }
  }

  function later (): void {
    if (closed || !persistent) return
    clearTimeout(retry)
    const pauseMs = Math.min(RETRY_MAX_MS, RETRY_MIN_MS * 2 ** Math.min(failures, 10))
    // it keeps the process alive: an agent that waits for its helper has nothing else to do yet
    retry = setTimeout(() => { connect().catch(() => undefined) }, pauseMs)
  }

  function receive (from: Link, message: unknown): void {
    const reply = readReply(message)
    if (reply === null) throw new MusubiError('BAD_FRAME', 'the helper sent what is no answer')
    const pending = reply.id === null ? undefined : from.pending.get(reply.id)
    if ('error' in reply) {
      const { code, message: text, hint, retryable } = reply.error
      const error = new MusubiError(code, text, { retryable, ...(hint === undefined ? {} : { hint }) })
      if (reply.id === null) throw error
      pending?.reject(error)
    } else {
      pending?.resolve(reply.result)
    }
    if (reply.id !== null) from.pending.delete(reply.id)
    pending?.end()
  }

  async function open (): Promise<Link> {
    const socket = createConnection(socketPath)
    const opened: Link = { socket, pending: new Map() }
    const reader = createFrameReader(HELPER_REPLY_BYTES)
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => { reject(new Error(`not within ${CONNECT_MS} ms`)) }, CONNECT_MS)
      socket.once('connect', resolve)
      socket.once('error', reject)
      socket.once('close', () => { clearTimeout(timer) })
      socket.once('connect', () => { clearTimeout(timer) })
    }).catch((error: unknown) => {
      socket.destroy()
      throw error
    })
    socket.on('error', error => { lost(opened, error.message) })
    socket.on('close', () => { lost(opened, 'the connection ended') })
    socket.on('data', (chunk: Buffer) => {
      try {
        for (const message of reader.push(chunk)) receive(opened, message)
      } catch (error) {
        lost(opened, describeError(error))
      }
    })
    return opened
  }

  async function establish (): Promise<Link> {
    const opened = await open()
    // who refuses us says so by ending the connection
    const hello = await ask(opened, 'hello', ledgerMs === undefined ? {} : { ledgerMs: ledgerMs() })
    link = opened
    failures = 0
    if (persistent && problem !== null) log.info({ socket: socketPath, version: hello.version }, 'the helper answers')
    problem = null
    for (const resolve of waiting.splice(0)) resolve(hello)
    for (const listener of listeners) listener(hello)
    return opened
  }

  function connect (): Promise<Link> {
    if (closed) return Promise.reject(away('this process is stopping'))
    if (link !== null) return Promise.resolve(link)
    connecting ??= establish().catch((error: unknown) => {
      failures++
      const why = error instanceof MusubiError && error.code !== 'HELPER_UNREACHABLE' ? error : away(error instanceof Error ? error.message.replace(/^the helper does not answer at \S+: /, '') : String(error), error)
      problem = describeError(why)
      if (failures === 1 && persistent) log.warn({ socket: socketPath, error: describeError(error) }, 'the helper does not answer')
      later()
      throw why
    }).finally(() => { connecting = null })
    return connecting
  }

  function ask<V extends VerbName> (on: Link, verb: V, params: ParamsOf<V>, signal?: AbortSignal): Promise<VerbResults[V]> {
    return new Promise<VerbResults[V]>((resolve, reject) => {
      signal?.throwIfAborted()
      const id = ++ids
      const { deadlineMs } = VERBS[verb]
      const frame = encodeFrame({ id, verb, params, deadlineMs }, HELPER_REQUEST_BYTES)
      const settle = (error: Error): void => {
        on.pending.delete(id)
        end()
        reject(error)
      }
      const takeBack = (): void => {
        if (!on.socket.destroyed) on.socket.write(encodeFrame({ cancel: id }, HELPER_REQUEST_BYTES))
        settle(signal?.reason instanceof Error ? signal.reason : new MusubiError('DEADLINE', `${verb}: taken back`, { retryable: true }))
      }
      const timer = setTimeout(() => { settle(new MusubiError('DEADLINE', `the helper did not answer ${verb} within ${deadlineMs + ANSWER_GRACE_MS} ms`, { retryable: true, hint: HINT })) }, deadlineMs + ANSWER_GRACE_MS)
      const end = (): void => {
        clearTimeout(timer)
        signal?.removeEventListener('abort', takeBack)
      }
      signal?.addEventListener('abort', takeBack, { once: true })
      on.pending.set(id, { verb, resolve: result => { resolve(result as VerbResults[V]) }, reject, end })
      on.socket.write(frame)
    })
  }

  if (persistent) connect().catch(() => undefined)

  return {
    async call (verb, params, options = {}) {
      return await ask(await connect(), verb, params, options.signal)
    },
    async ready (signal) {
      if (link !== null) return await ask(link, 'hello', ledgerMs === undefined ? {} : { ledgerMs: ledgerMs() }, signal)
      return await new Promise<HelperHello>((resolve, reject) => {
        const stop = (): void => { reject(signal.reason instanceof Error ? signal.reason : away('it was not waited for any longer')) }
        if (signal.aborted) { stop(); return }
        signal.addEventListener('abort', stop, { once: true })
        waiting.push(hello => {
          signal.removeEventListener('abort', stop)
          resolve(hello)
        })
      })
    },
    problem: () => problem,
    onConnect (listener) {
      listeners.add(listener)
      return () => { listeners.delete(listener) }
    },
    close () {
      closed = true
      clearTimeout(retry)
      if (link !== null) lost(link, 'this process is stopping')
    }
  }
}
