import { chmod, mkdir, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import swagger from '@fastify/swagger'
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import Fastify, { LogController, type FastifyBaseLogger, type FastifyInstance, type RawReplyDefaultExpression, type RawRequestDefaultExpression, type RawServerDefault } from 'fastify'
import type { TSchema } from 'typebox'
import { Convert } from 'typebox/value'
import { errorCode, MusubiError } from '../core/errors.ts'
import { API_BODY_BYTES } from '../core/limits.ts'
import { VERSION } from '../version.ts'
import type { Problem } from '../api.ts'
import { parseWith, parseYaml } from '../config-file.ts'

export type Api = FastifyInstance<RawServerDefault, RawRequestDefaultExpression, RawReplyDefaultExpression, FastifyBaseLogger, TypeBoxTypeProvider>

/** HTTP status of each error code; what is not listed is 503 when it may pass, else 500. */
const STATUS: Record<string, number> = {
  INVALID_INPUT: 400, FORBIDDEN: 403, NOT_FOUND: 404, CONFLICT: 409, HOLD_LAPSED: 409, NO_CAPACITY: 409, NO_IMAGE: 409,
  IMAGE_UNKNOWN: 400, IMAGE_CORRUPT: 409, NOT_A_GATEWAY: 409, POLICY_DENIED: 403, POLICY_TERM: 403, POLICY_START: 403, POLICY_WINDOW: 403, POLICY_PREEMPTED: 409, HOST_CORDONED: 409, SITE_KEY_NEEDED: 409, ROLE_NEEDS_SITE_KEY: 409, CANNOT_ISSUE: 409, TOO_MANY_INVITATIONS: 409, UNREACHABLE: 503, BUSY: 503,
  FROZEN: 503, NOT_READY: 503, TOO_EARLY: 503, LEDGER_FAILED: 503, STALE_EPOCH: 409, MASTER_ALIVE: 409, CLOCK_SKEW: 409, NOT_ANCHOR: 409, GATEWAYS_UNHEARD: 409, QUOTA_EXCEEDED: 409, MASTER_RESTARTED: 503, STILL_REMOVING: 503, STOPPING: 503, STOPPED: 503
}

/** What the server itself refuses (no JSON, too large, unknown media type) carries codes of its library: to callers it is bad input. */
function refusalOf (error: unknown): number | null {
  if (!(error instanceof Error) || !('code' in error) || !String(error.code).startsWith('FST_')) return null
  const status = 'statusCode' in error ? Number(error.statusCode) : 500
  return status >= 400 && status < 500 ? status : null
}

export function problemOf (error: unknown): Problem {
  const refusal = refusalOf(error)
  const code = refusal !== null ? 'INVALID_INPUT' : errorCode(error)
  const hint = error instanceof MusubiError ? error.hint : undefined
  return {
    type: 'about:blank', title: code, status: refusal ?? STATUS[code] ?? (error instanceof MusubiError && error.retryable ? 503 : 500), code,
    detail: error instanceof Error ? error.message : String(error), ...(hint === undefined ? {} : { hint })
  }
}

/**
 * A REST server: validates with the schemas of protocol/api.ts, makes OpenAPI 3.1 from them at
 * `/v1/openapi.json`, answers errors as RFC 9457 problem details, takes JSON and YAML bodies.
 */
export async function createApi (options: { title: string, description: string, logger: FastifyBaseLogger }): Promise<Api> {
  const api = Fastify({ loggerInstance: options.logger, bodyLimit: API_BODY_BYTES, logController: new LogController({ disableRequestLogging: true }), requestTimeout: 60_000, forceCloseConnections: true })
    .setValidatorCompiler<TSchema>(({ schema, httpPart }) => value => {
      try {
        // query and path are text: `true` and `5` become what the schema says
        return { value: parseWith(schema, httpPart === 'body' ? value : Convert(schema, value), `the ${httpPart ?? 'request'}`) }
      } catch (error) {
        return { error: error as Error }
      }
    })
    .withTypeProvider<TypeBoxTypeProvider>()
  await api.register(swagger, { openapi: { openapi: '3.1.0', info: { title: options.title, description: options.description, version: VERSION } } })
  api.addContentTypeParser(['application/yaml', 'text/yaml'], { parseAs: 'string' }, (_request, body, done) => {
    try {
      done(null, parseYaml(body.toString(), 'the request body'))
    } catch (error) {
      done(error as Error)
    }
  })
  api.setErrorHandler(async (error, _request, reply) => {
    const problem = problemOf(error)
    if (problem.status >= 500) options.logger.error({ error: problem.detail, code: problem.code }, 'request failed')
    await reply.status(problem.status).type('application/problem+json').send(problem)
  })
  api.setNotFoundHandler(async (request, reply) => {
    const problem: Problem = { type: 'about:blank', title: 'NOT_FOUND', status: 404, code: 'NOT_FOUND', detail: `there is no ${request.method} ${request.url} here`, hint: 'the routes are listed at /v1/openapi.json' }
    await reply.status(404).type('application/problem+json').send(problem)
  })
  api.get('/v1/openapi.json', { schema: { hide: true } }, () => api.swagger())
  return api
}

/** Listens on a unix socket that only root and the group may use; a stale one is replaced. */
export async function listenUnix (api: Api, socketPath: string): Promise<void> {
  await mkdir(dirname(socketPath), { recursive: true, mode: 0o755 })
  await rm(socketPath, { force: true })
  try {
    await api.listen({ path: socketPath })
  } catch (error) {
    throw new MusubiError('LISTEN', `cannot listen on ${socketPath}: ${error instanceof Error ? error.message : String(error)}`, { hint: 'the path may be longer than 107 bytes, or its folder not writable' })
  }
  await chmod(socketPath, 0o660)
}

/** Listens on TCP. @throws MusubiError naming address and port when they are taken */
export async function listenTcp (api: Api, host: string, port: number): Promise<void> {
  try {
    await api.listen({ host, port })
  } catch (error) {
    const taken = error instanceof Error && 'code' in error && error.code === 'EADDRINUSE'
    throw new MusubiError('LISTEN', `cannot listen on ${host}:${port}: ${taken ? 'the port is in use' : error instanceof Error ? error.message : String(error)}`, { hint: taken ? `see who has it: ss -ltnp 'sport = :${port}'` : 'check http.host and http.port in the configuration' })
  }
}
