/** Sends exchanges both ways, compares, and makes what differs small. */
import { compare } from './compare.ts'
import type { Difference, Outcome } from './compare.ts'
import { requestBytes } from './exchanges.ts'
import type { Exchange, Request, Step } from './exchanges.ts'
import { RawConnection } from './raw-http.ts'
import { targetOf } from './resources.ts'

export interface Ways {
  host: string
  /** port that no cache takes */
  directPort: number
  /** port that the cache takes */
  cachedPort: number
}

export interface Finding extends Difference {
  exchange: Exchange
  step: number
}

/** Findings of one kind: the same field went wrong in the same way for the same kind of request. */
export interface Report {
  kind: string
  times: number
  /** one line: the smallest example that was found */
  line: string
}

const SHRINK_TRIES_MAX = 24
const ABORT_AFTER_BYTES = 4_000

async function setVersion ({ host, directPort }: Ways, alias: string, version: number): Promise<void> {
  const connection = new RawConnection(host, directPort)
  connection.send(`POST /control?alias=${alias}&version=${version} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n`)
  try {
    await connection.read('POST')
  } finally {
    connection.close()
  }
}

const outcome = async (connection: RawConnection, method: string): Promise<Outcome> =>
  await connection.read(method).catch((error: unknown) => error instanceof Error ? error.message : String(error))

/** One side of a `kept` or `fresh` exchange: a connection for each request, or the same for all. */
function asker (host: string, port: number, exchange: Exchange, alias: string): (step: Step, last: boolean) => Promise<Outcome> {
  let kept: RawConnection | null = null
  return async ({ request }, last) => {
    const connection = kept ?? new RawConnection(host, port)
    const goesOn = exchange.mode === 'kept' && !last
    connection.send(requestBytes(request, exchange.resource, alias, !goesOn))
    const found = await outcome(connection, request.method)
    kept = goesOn && typeof found !== 'string' && !found.headers.some(([name, value]) => name.toLowerCase() === 'connection' && /close/i.test(value)) ? connection : null
    if (kept === null) connection.close()
    return found
  }
}

async function pipelined (host: string, port: number, { steps, resource }: Exchange, alias: string): Promise<Outcome[]> {
  const connection = new RawConnection(host, port)
  connection.send(Buffer.concat(steps.map(({ request }, i) => requestBytes(request, resource, alias, i === steps.length - 1))))
  const found: Outcome[] = []
  for (const { request } of steps) found.push(await outcome(connection, request.method))
  connection.close()
  return found
}

/** Runs one exchange under an alias. @returns the differences of its first step that has some */
export async function runExchange (ways: Ways, exchange: Exchange, alias: string): Promise<Finding[]> {
  const { host, directPort, cachedPort } = ways
  const found = (step: number, differences: readonly Difference[]): Finding[] => differences.map(difference => ({ ...difference, exchange, step }))
  if (exchange.mode === 'pipelined') {
    const direct = await pipelined(host, directPort, exchange, alias)
    const cached = await pipelined(host, cachedPort, exchange, alias)
    for (const [step, one] of direct.entries()) {
      const differences = compare(one, cached[step] ?? 'no answer')
      if (differences.length > 0) return found(step, differences)
    }
    return []
  }
  const sides = [asker(host, directPort, exchange, alias), asker(host, cachedPort, exchange, alias)]
  if (exchange.mode === 'aborted' && exchange.steps[0] !== undefined) {
    const connection = new RawConnection(host, cachedPort)
    connection.send(requestBytes(exchange.steps[0].request, exchange.resource, alias, true))
    await connection.abort(ABORT_AFTER_BYTES)
  }
  for (const [index, step] of exchange.steps.entries()) {
    if (step.version !== null) await setVersion(ways, alias, step.version)
    const last = index === exchange.steps.length - 1
    const [direct = 'no answer', cached = 'no answer'] = [await sides[0]?.(step, last), await sides[1]?.(step, last)]
    const differences = compare(direct, cached)
    if (differences.length > 0) return found(index, differences)
  }
  return []
}

const shape = (value: string): string => /^\d{3}$/.test(value) ? value : value === '(none)' ? 'none' : 'other'

/** What findings are gathered by. */
export function kindOf ({ exchange, step, field, direct, cached }: Finding): string {
  const method = exchange.steps[step]?.request.method ?? ''
  return `${exchange.resource.kind} ${/^(GET|HEAD)$/.test(method) ? method : 'other'} ${field}: ${shape(direct)} -> ${shape(cached)}`
}

/** Simpler exchanges, each by one thing. */
function * simpler (exchange: Exchange, step: number): Generator<{ exchange: Exchange, step: number }> {
  const failing = exchange.steps[step]
  if (failing === undefined) return
  if (exchange.mode !== 'fresh') yield { exchange: { ...exchange, mode: 'fresh' }, step }
  for (let i = exchange.steps.length - 1; i >= 0; i--) {
    if (i !== step) yield { exchange: { ...exchange, steps: exchange.steps.filter((_, j) => j !== i) }, step: i < step ? step - 1 : step }
  }
  const withRequest = (at: number, request: Request): Exchange => ({ ...exchange, steps: exchange.steps.map((one, i) => i === at ? { ...one, request } : one) })
  for (const [at, { request, version }] of exchange.steps.entries()) {
    if (version !== null) yield { exchange: { ...exchange, steps: exchange.steps.map((one, i) => i === at ? { ...one, version: null } : one) }, step }
    for (let i = 0; i < request.headers.length; i++) yield { exchange: withRequest(at, { ...request, headers: request.headers.filter((_, j) => j !== i) }), step }
    if (request.http === '1.0') yield { exchange: withRequest(at, { ...request, http: '1.1' }), step }
    if (request.chunked) yield { exchange: withRequest(at, { ...request, chunked: false }), step }
  }
}

/** Takes away what does not matter for a finding. */
export async function shrink (ways: Ways, finding: Finding, aliasOf: () => string): Promise<Finding> {
  let best = finding
  let tries = 0
  for (let smaller = true; smaller && tries < SHRINK_TRIES_MAX;) {
    smaller = false
    for (const candidate of simpler(best.exchange, best.step)) {
      if (tries++ >= SHRINK_TRIES_MAX) break
      const again = (await runExchange(ways, candidate.exchange, aliasOf())).find(one => kindOf(one) === kindOf(finding))
      if (again === undefined) continue
      best = again
      smaller = true
      break
    }
  }
  return best
}

const requestLine = ({ request, version }: Step): string => {
  const headers = request.headers.map(([name, value]) => `${name}: ${value.length > 60 ? `${value.slice(0, 40)}...` : value}`).join(', ')
  return `${version === null ? '' : '(changed) '}${request.method}${request.http === '1.0' ? ' HTTP/1.0' : ''}${request.body === null ? '' : ` ${request.chunked ? 'chunked ' : ''}body of ${request.body.length}`}${headers === '' ? '' : ` {${headers}}`}`
}

/** A finding in one line. */
export function lineOf (finding: Finding): string {
  const { exchange: { resource, mode, steps, id }, step, field, direct, cached } = finding
  const traits = [resource.kind, resource.framing, `etag ${resource.etag}`, resource.lastModified ? 'last-modified' : 'no last-modified', resource.ranges ? 'ranges' : 'no ranges', `${resource.status}`, `${resource.bytes} bytes`, ...resource.headers.map(([name, value]) => `${name}: ${value}`), ...(resource.varies === null ? [] : [`Vary: ${resource.varies}`])]
  return `${field}: direct ${direct}, cached ${cached}; ${steps.slice(0, step + 1).map(requestLine).join(', then ')}; ${mode}; ${targetOf(resource, 'ALIAS')} [${traits.join(', ')}] (${id})`
}

/** All exchanges, a few at a time. */
export async function runAll (ways: Ways, exchanges: readonly Exchange[], sideBySide: number): Promise<Report[]> {
  const groups = new Map<string, { times: number, first: Finding }>()
  const queue = [...exchanges]
  await Promise.all(Array.from({ length: sideBySide }, async () => {
    for (let exchange = queue.shift(); exchange !== undefined; exchange = queue.shift()) {
      for (const finding of await runExchange(ways, exchange, exchange.id)) {
        const known = groups.get(kindOf(finding))
        if (known === undefined) groups.set(kindOf(finding), { times: 1, first: finding })
        else known.times++
      }
    }
  }))
  const reports: Report[] = []
  let aliases = 0
  for (const [kind, { times, first }] of groups) {
    reports.push({ kind, times, line: lineOf(await shrink(ways, first, () => `s${aliases++}`)) })
  }
  return reports.sort((a, b) => b.times - a.times)
}
