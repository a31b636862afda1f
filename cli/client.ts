import { request, type ClientRequest, type IncomingMessage } from 'node:http'
import { InvalidInputError, MusubiError, UnreachableError } from '../protocol/core/errors.ts'
import type { Problem } from '../protocol/api.ts'

/** Where an API is: a unix socket path, or an http:// URL. */
export interface Endpoint { socketPath?: string, url?: string, what: string }

export const describeEndpoint = (e: Endpoint): string => e.socketPath ?? e.url ?? '(nowhere)'

const CALL_TIMEOUT_MS = 60_000
const MAX_RESPONSE_BYTES = 16 * 1024 * 1024

/** A mistake of the caller, told apart from an agent that is away. */
function urlOf (base: string, path: string): URL {
  if (!URL.canParse(base) || new URL(base).protocol !== 'http:') throw new InvalidInputError(`"${base}" is no HTTP address`, base.startsWith('https:') ? 'agents and coordinators speak plain HTTP: use http://, through a tunnel of your own where the way is not trusted' : 'such as http://192.0.2.1:4180')
  return new URL(path, base)
}

function open (endpoint: Endpoint, method: string, path: string, body: unknown, timeoutMs: number): { req: ClientRequest, response: Promise<IncomingMessage> } {
  const payload = body === undefined ? undefined : JSON.stringify(body)
  const url = endpoint.url === undefined ? undefined : urlOf(endpoint.url, path)
  const req = request({
    method,
    ...(url === undefined ? { socketPath: endpoint.socketPath, path } : { hostname: url.hostname, port: url.port, path: url.pathname + url.search }),
    headers: { accept: 'application/json', ...(payload === undefined ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(payload) }) },
    timeout: timeoutMs
  })
  const response = new Promise<IncomingMessage>((resolve, reject) => {
    req.on('response', resolve)
    req.on('timeout', () => { req.destroy(new Error(`no answer within ${timeoutMs} ms`)) })
    req.on('error', reject)
  })
  req.end(payload)
  return { req, response }
}

function unreachable (endpoint: Endpoint, error: unknown): UnreachableError {
  const code = error instanceof Error && 'code' in error ? String(error.code) : ''
  const hint = code === 'EACCES'
    ? 'you may not open this socket: run as root'
    : `is the ${endpoint.what} running? try: systemctl status musubi-${endpoint.what}; another place is given by --socket or --url`
  return new UnreachableError(`cannot reach the ${endpoint.what} at ${describeEndpoint(endpoint)}: ${error instanceof Error ? error.message : String(error)}`, hint, error)
}

async function readAll (stream: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  let size = 0
  for await (const chunk of stream as AsyncIterable<Buffer>) {
    size += chunk.length
    if (size > MAX_RESPONSE_BYTES) throw new MusubiError('TOO_LARGE', `the answer is larger than ${MAX_RESPONSE_BYTES} bytes`)
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}

function problemToError (text: string, status: number, endpoint: Endpoint): MusubiError {
  try {
    const problem = JSON.parse(text) as Partial<Problem>
    if (typeof problem.detail === 'string') {
      return new MusubiError(problem.code ?? 'HTTP', problem.detail, problem.hint === undefined ? {} : { hint: problem.hint })
    }
  } catch { /* not ours: told below with its status */ }
  return new MusubiError('HTTP', `${describeEndpoint(endpoint)} answered ${status}: ${text.slice(0, 200)}`)
}

/**
 * One REST call. @returns the decoded body (null when empty)
 * @throws UnreachableError when nobody answers; MusubiError with the server's code and hint otherwise
 */
export async function call<T> (endpoint: Endpoint, method: 'GET' | 'POST' | 'PUT' | 'DELETE', path: string, body?: unknown): Promise<T> {
  let status: number
  let text: string
  try {
    const response = await open(endpoint, method, path, body, CALL_TIMEOUT_MS).response
    status = response.statusCode ?? 0
    text = await readAll(response)
  } catch (error) {
    if (error instanceof MusubiError) throw error
    throw unreachable(endpoint, error)
  }
  if (status >= 400) throw problemToError(text, status, endpoint)
  try {
    return (text === '' ? null : JSON.parse(text)) as T
  } catch (error) {
    throw new MusubiError('BAD_ANSWER', `${describeEndpoint(endpoint)} answered something that is no JSON: ${text.slice(0, 60)}`, { hint: `is this the ${endpoint.what}'s address?`, cause: error })
  }
}

/** Server-sent events of a path, until the signal or the server ends it. */
export async function * events<T> (endpoint: Endpoint, path: string, signal: AbortSignal): AsyncGenerator<T> {
  const { req, response } = open(endpoint, 'GET', path, undefined, 0)
  const stop = (): void => { req.destroy() }
  signal.addEventListener('abort', stop, { once: true })
  try {
    const stream = await response
    stream.setEncoding('utf8') // a character may be cut in two by the network
    let rest = ''
    for await (const chunk of stream as AsyncIterable<string>) {
      const blocks = (rest + chunk).split('\n\n')
      rest = blocks.pop() ?? ''
      for (const block of blocks) {
        const data = block.split('\n').filter(line => line.startsWith('data:')).map(line => line.slice(5).trim()).join('')
        if (data !== '') yield JSON.parse(data) as T
      }
    }
  } catch (error) {
    if (!signal.aborted) throw error instanceof MusubiError ? error : unreachable(endpoint, error)
  } finally {
    signal.removeEventListener('abort', stop)
    req.destroy()
  }
}
