/**
 * The two classes of requests, as data: the same rules are rendered into nginx's configuration and
 * evaluated here for tests and tools. A request is **static** when every rule accepts it; anything
 * that is not positively known to be safe to share is **dynamic**.
 *
 * - static: fetched once from the gateway's own address, stored, served to all nodes;
 * - dynamic: sent on with the node's own address, never stored.
 */
export type RequestClass = 'static' | 'dynamic'

/** One condition: the nginx variable it looks at, and what its value must match. */
export interface ClassRule {
  /** suffix of the nginx variable that holds the verdict */
  name: string
  /** nginx expression, made of variables only */
  source: string
  /** regular expression in the subset that PCRE and JavaScript read alike */
  accept: RegExp
}

/**
 * Headers whose mere presence makes a request dynamic: they carry somebody's identity, ask for a
 * fresh answer, switch the protocol, or announce a body. Lower case, as in `$http_*` with dashes.
 */
export const DYNAMIC_HEADERS = [
  'authorization', 'cookie', 'proxy-authorization', 'cache-control', 'pragma', 'expect', 'upgrade',
  'transfer-encoding', 'x-http-method-override'
] as const

export const CLASS_RULES: readonly ClassRule[] = [
  { name: 'method', source: '$request_method', accept: /^(GET|HEAD)$/ },
  // Raw as sent: the decoded form would let two spellings of a path share one verdict. Only what is
  // named by a digest (64 hex digits) can live without revalidation, so nothing else is static. No
  // query, no dot segment, and of escapes only the colon of `sha256:`.
  {
    name: 'path',
    source: '$request_uri',
    accept: /^\/images\/(?!.{512})(?!(?:.*\/)?\.)(?=.*[0-9a-f]{64})(?:[A-Za-z0-9._:@+~\/-]|%3[Aa])+$/
  },
  { name: 'headers', source: DYNAMIC_HEADERS.map(header => `$http_${header.replaceAll('-', '_')}`).join(''), accept: /^$/ },
  { name: 'length', source: '$http_content_length', accept: /^0?$/ },
  // Several ranges at once: nginx would answer with the whole object, the frontend need not.
  { name: 'range', source: '$http_range', accept: /^(bytes=(\d+-\d*|-\d+))?$/ }
]

/** A request as its sender wrote it; header names in lower case. */
export interface RequestHead {
  method: string
  /** request target exactly as sent */
  target: string
  headers: Readonly<Record<string, string>>
}

/** The class of a request, by the rules that nginx gets. */
export function classify (request: RequestHead): RequestClass {
  const accepted = CLASS_RULES.every(rule => rule.accept.test(valueOf(rule.source, request)))
  return accepted ? 'static' : 'dynamic'
}

/** Evaluates an nginx expression of variables for one request. */
function valueOf (source: string, request: RequestHead): string {
  return source.replaceAll(/\$([a-z_]+)/g, (_, variable: string) => {
    if (variable === 'request_method') return request.method
    if (variable === 'request_uri') return request.target
    return request.headers[variable.slice('http_'.length).replaceAll('_', '-')] ?? ''
  })
}
