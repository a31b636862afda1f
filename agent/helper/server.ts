import { chmod, chown, mkdir, rm } from 'node:fs/promises'
import { createServer, type Server, type Socket } from 'node:net'
import { dirname } from 'node:path'
import type { Logger } from 'pino'
import { describeError, errorCode, MusubiError } from '../../protocol/core/errors.ts'
import { HELPER_FRAME_MS, HELPER_IDLE_MS, HELPER_MAX_CALLS, HELPER_MAX_CONNECTIONS, HELPER_REPLY_BYTES, HELPER_REQUEST_BYTES } from '../../protocol/core/limits.ts'
import type { Admit, PeerCredentials } from './credentials.ts'
import { createFrameReader, encodeFrame } from './wire/frames.ts'
import { checkParams, idOf, isVerb, readCancel, readRequest, VERBS, type Access, type HelperRequest, type ParamsOf, type VerbName, type VerbResults, type WireError } from './wire/verbs.ts'

/** Does what a verb says; its parameters are checked, and whoever asks may ask it. */
export type Serve = <V extends VerbName>(verb: V, params: ParamsOf<V>, call: CallContext) => Promise<VerbResults[V]>

export interface CallContext {
  /** aborted at the deadline, and when the asker takes the call back; a look also when its connection ends */
  signal: AbortSignal
  /** of whoever asks: the agent's, else root's */
  fromAgent: boolean
}

export interface HelperServerOptions {
  socketPath: string
  /** group that may open the socket; null leaves it as it is */
  gid: number | null
  admit: Admit
  credentials: (socket: Socket) => Promise<PeerCredentials>
  serve: Serve
  log: Logger
  /** instead of those of limits.ts, for tests */
  times?: { idleMs?: number, frameMs?: number }
}

export interface HelperServer {
  /** connections that may change something: agents */
  agents (): number
  /** Takes no more calls, and ends every connection. */
  close (): Promise<void>
}

interface Call { controller: AbortController, access: Access }
interface Connection { socket: Socket, allowed: ReadonlySet<Access>, peer: PeerCredentials, calls: Map<number, Call> }

/** Messages of errors may quote what a program printed. */
const TEXT_MAX = 4_000
/** For the far side to take the last word, and to close its end. */
const PART_MS = 1_000
/** Replies that a reader does not fetch: beyond this its connection is cut. */
const BACKLOG_BYTES = 2 * HELPER_REPLY_BYTES

function wireError (error: unknown): WireError {
  const code = errorCode(error)
  const hint = error instanceof MusubiError ? error.hint : undefined
  return {
    code: /^[A-Z][A-Z0-9_]{0,63}$/.test(code) ? code : 'INTERNAL',
    message: (error instanceof Error ? error.message : String(error)).slice(0, TEXT_MAX),
    retryable: error instanceof MusubiError && error.retryable,
    ...(hint === undefined ? {} : { hint: hint.slice(0, TEXT_MAX) })
  }
}

/**
 * Says a last word and ends a connection. What still comes in is thrown away unread: a socket that is
 * closed with bytes in it takes the last word along.
 */
function part (socket: Socket, word?: object): void {
  if (socket.destroyed) return
  socket.removeAllListeners('data')
  socket.resume()
  if (word === undefined) socket.end()
  else socket.end(encodeFrame(word, HELPER_REPLY_BYTES))
  const timer = setTimeout(() => { socket.destroy() }, PART_MS)
  socket.once('close', () => { clearTimeout(timer) })
}

/**
 * The helper's socket. Nothing that comes in is looked at before the kernel has said who sends it.
 * A message that cannot be read ends its connection and disturbs no other; so does one that does not
 * come to its end, or a connection on which nothing is asked.
 *
 * @throws MusubiError LISTEN
 */
export async function listenHelper (options: HelperServerOptions): Promise<HelperServer> {
  const { socketPath, admit, credentials, serve, log } = options
  const idleMs = options.times?.idleMs ?? HELPER_IDLE_MS
  const frameMs = options.times?.frameMs ?? HELPER_FRAME_MS
  const sockets = new Set<Socket>()
  const connections = new Set<Connection>()
  let underWay = 0
  let closing = false

  async function welcome (socket: Socket): Promise<void> {
    const peer = await credentials(socket)
    const allowed = admit(peer)
    if (allowed === null) throw new MusubiError('HELPER_REFUSED', `process ${peer.pid} of user ${peer.uid} may ask nothing of the helper`)
    if (socket.destroyed || closing) return
    talk({ socket, allowed, peer, calls: new Map() })
  }

  function talk (connection: Connection): void {
    const { socket, calls } = connection
    const reader = createFrameReader(HELPER_REQUEST_BYTES)
    let late: NodeJS.Timeout | undefined
    connections.add(connection)
    const cut = (why: string): void => {
      log.warn({ pid: connection.peer.pid, uid: connection.peer.uid, why }, 'connection cut')
      part(socket)
    }
    socket.setTimeout(idleMs, () => { if (calls.size === 0) cut('nothing was asked') })
    socket.on('close', () => {
      clearTimeout(late)
      connections.delete(connection)
      // What changes something goes on: half of it would have to be mended by whoever asks next.
      for (const { controller, access } of calls.values()) if (access === 'read' || access === 'watch') controller.abort(new MusubiError('STOPPED', 'whoever asked has gone', { retryable: true }))
    })
    socket.on('data', (chunk: Buffer) => {
      if (socket.writableEnded) return
      const waited = reader.partial()
      let whole = false
      try {
        for (const message of reader.push(chunk)) {
          whole = true
          if (!take(connection, message)) { cut('a message was no request'); return }
        }
      } catch (error) {
        send(connection, { id: null, error: wireError(error) })
        cut(describeError(error))
        return
      }
      // a message has its time from its first byte on, however many pieces it comes in
      if (waited && !whole) return
      clearTimeout(late)
      late = reader.partial() ? setTimeout(() => { cut('a message did not come to its end') }, frameMs) : undefined
    })
    socket.resume()
  }

  function send (connection: Connection, reply: { id: number | null, result?: unknown, error?: WireError }): void {
    const { socket } = connection
    if (socket.destroyed || socket.writableEnded) return
    let frame: Buffer
    try {
      frame = encodeFrame(reply, HELPER_REPLY_BYTES)
    } catch (error) {
      frame = encodeFrame({ id: reply.id, error: wireError(error) }, HELPER_REPLY_BYTES)
    }
    if (socket.writableLength + frame.length > BACKLOG_BYTES) socket.destroy()
    else socket.write(frame)
  }

  /** @returns false when nothing that follows on this connection can be trusted */
  function take (connection: Connection, message: unknown): boolean {
    const cancel = readCancel(message)
    if (cancel !== null) {
      connection.calls.get(cancel)?.controller.abort(new MusubiError('STOPPED', 'the call was taken back', { retryable: true }))
      return true
    }
    const request = readRequest(message)
    if (request === null || connection.calls.has(request.id)) {
      send(connection, { id: idOf(message), error: wireError(new MusubiError('BAD_FRAME', 'this is no request')) })
      return false
    }
    void answer(connection, request)
    return true
  }

  async function answer (connection: Connection, request: HelperRequest): Promise<void> {
    const { id, deadlineMs } = request
    const { verb, params } = request
    if (underWay >= HELPER_MAX_CALLS) {
      send(connection, { id, error: wireError(new MusubiError('BUSY', `the helper has ${HELPER_MAX_CALLS} calls under way`, { retryable: true })) })
      return
    }
    const controller = new AbortController()
    const timer = setTimeout(() => { controller.abort(new MusubiError('DEADLINE', `${verb.slice(0, 32)}: not within ${deadlineMs} ms`, { retryable: true })) }, deadlineMs)
    underWay++
    connection.calls.set(id, { controller, access: isVerb(verb) ? VERBS[verb].access : 'read' })
    try {
      send(connection, { id, result: await work(connection, verb, params, controller) })
    } catch (error) {
      // an aborted driver throws what it likes: why it was aborted is the answer
      const reason: unknown = controller.signal.aborted && !(error instanceof MusubiError) ? controller.signal.reason : error
      send(connection, { id, error: wireError(reason) })
    } finally {
      clearTimeout(timer)
      connection.calls.delete(id)
      underWay--
    }
  }

  async function work (connection: Connection, verb: string, params: unknown, controller: AbortController): Promise<unknown> {
    if (closing) throw new MusubiError('STOPPING', 'the helper is stopping', { retryable: true })
    if (!isVerb(verb)) throw new MusubiError('UNIMPLEMENTED', `the helper has no verb ${verb}`, { hint: 'agent and helper must be of one release: restart both' })
    const { access } = VERBS[verb]
    const fromAgent = connection.allowed.has('change')
    if (!connection.allowed.has(access)) {
      log.warn({ verb, pid: connection.peer.pid, uid: connection.peer.uid }, 'refused')
      throw new MusubiError('HELPER_REFUSED', `user ${connection.peer.uid} may not ask the helper for ${verb}`, { hint: access === 'watch' ? 'only root may' : 'only the agent may; its user is helper.agentUser in the configuration' })
    }
    return await serve(verb, checkParams(verb, params), { signal: controller.signal, fromAgent })
  }

  const server: Server = createServer({ pauseOnConnect: true }, socket => {
    socket.on('error', () => undefined) // 'close' follows
    if (closing || sockets.size >= HELPER_MAX_CONNECTIONS) {
      log.warn({ connections: sockets.size }, 'too many connections')
      socket.destroy()
      return
    }
    sockets.add(socket)
    socket.on('close', () => { sockets.delete(socket) })
    welcome(socket).catch((error: unknown) => {
      log.warn({ error: describeError(error) }, 'connection refused')
      part(socket, { id: null, error: wireError(error) })
    })
  })

  await open(server, options)
  return {
    agents: () => [...connections].filter(({ allowed }) => allowed.has('change')).length,
    async close () {
      closing = true
      await new Promise<void>(resolve => {
        server.close(() => { resolve() })
        for (const socket of sockets) socket.destroy()
      })
      await rm(socketPath, { force: true })
    }
  }
}

/** The folder can be entered by all and written by nobody else; the socket is opened by the agent's group alone. */
async function open (server: Server, { socketPath, gid }: HelperServerOptions): Promise<void> {
  const failed = (error: unknown): MusubiError => new MusubiError('LISTEN', `cannot listen on ${socketPath}: ${describeError(error)}`, { hint: 'the path may be longer than 107 bytes, or its folder not writable', cause: error })
  try {
    await mkdir(dirname(socketPath), { recursive: true, mode: 0o755 })
    // whoever listened here is gone: the store is this process's
    await rm(socketPath, { force: true })
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      // nobody may connect before it has its mode
      const before = process.umask(0o177)
      try {
        server.listen(socketPath, resolve)
      } finally {
        process.umask(before)
      }
    })
    if (gid !== null) await chown(socketPath, -1, gid)
    await chmod(socketPath, 0o660)
  } catch (error) {
    throw failed(error)
  }
  server.on('error', () => undefined)
}
