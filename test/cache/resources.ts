/**
 * What the frontend of the differential test has: resources of every kind that an HTTP server may show, made from a seed, so
 * that the program that serves them and the one that asks for them agree without a word.
 */
import { createHash } from 'node:crypto'
import { gzipSync } from 'node:zlib'
import { createPrng, hash32 } from '../sim/kernel/prng.ts'
import type { Prng } from '../sim/kernel/prng.ts'

/** `digest`: named by its SHA-256; `file`: a path that a profile declares; `dynamic`: what a program answers. */
export type ResourceKind = 'digest' | 'file' | 'dynamic'

export interface Resource {
  name: string
  kind: ResourceKind
  /** as a request line has it, `/@/` standing for the alias segment that makes a key of its own */
  template: string
  bytes: number
  /** how the end of the body is told; `close`: by the end of the connection */
  framing: 'length' | 'chunked' | 'close'
  etag: 'strong' | 'weak' | 'none'
  lastModified: boolean
  /** answers ranges; only with framing `length` */
  ranges: boolean
  status: number
  headers: ReadonlyArray<readonly [string, string]>
  /** header of the request whose value is part of the body, as `Vary` then says */
  varies: string | null
  /** its validators stay the same when it changes: whoever stores it in spite of its headers shows old bytes */
  liesAboutChange: boolean
  /** the request is the body: method, target, headers, digest of what was sent */
  echoes: boolean
}

/** Prefix of the paths that a profile declares as files which are checked at each request. */
export const FILES_PREFIX = '/install/'
const EPOCH_S = 1_600_000_000

const PLAIN: Omit<Resource, 'name' | 'kind' | 'template' | 'bytes'> = {
  framing: 'length', etag: 'strong', lastModified: true, ranges: true, status: 200, headers: [], varies: null, liesAboutChange: false, echoes: false
}

/** Responses that must never be stored although their request looks harmless. */
const PRIVATE: ReadonlyArray<ReadonlyArray<readonly [string, string]>> = [
  [['Cache-Control', 'no-store']], [['Cache-Control', 'private']], [['Cache-Control', 'private, max-age=600']], [['Pragma', 'no-cache'], ['Cache-Control', 'no-cache, no-store']],
  [['Set-Cookie', 'session=1; Path=/']], [['Set-Cookie', 'a=1'], ['Set-Cookie', 'b=2']], [['Vary', '*']], [['CACHE-CONTROL', 'No-Store']], [['Expires', '0'], ['Cache-Control', 'no-store']]
]
/** Odd, legal headers of responses that must come through as they are. */
const ODD: ReadonlyArray<ReadonlyArray<readonly [string, string]>> = [
  [], [], [], [['X-Accel-Redirect', '/elsewhere']], [['X-Accel-Expires', '3600']], [['X-Accel-Buffering', 'no']], [['Cache-Control', 'max-age=3600']], [['Cache-Control', 'public, max-age=0, must-revalidate']],
  [['Expires', 'Thu, 01 Dec 1994 16:00:00 GMT']], [['Link', '</a>; rel=preload'], ['Link', '</b>; rel=preload']], [['x-lower-case', 'yes']], [['X-Empty', '']],
  [['Content-Disposition', 'attachment; filename="a b.rpm"']], [['Age', '17']], [['Via', '1.1 somebody']], [['Warning', '110 - "stale"']], [['Content-Language', 'ja']], [['Status', '200']], [['Refresh', '5']]
]

function fileOf (chance: Prng, i: number): Resource {
  const path = chance.pick([`RPMS/pkg-${i}-1.0.x86_64.rpm`, `images/stage2-${i}.img`, `RPMS/libstdc++-${i}.rpm`, `RPMS/libstdc%2B%2B-${i}.rpm`, `RPMS/a~b_${i}:1.rpm`, `RPMS/b%20c-${i}.rpm`, `repodata/${i}/primary.xml.gz`])
  const framing = chance.chance(0.75) ? 'length' : chance.pick(['chunked', 'close'] as const)
  const secret = chance.chance(0.3)
  return {
    ...PLAIN,
    name: `f${i}`,
    kind: 'file',
    template: `${FILES_PREFIX}@/${path}`,
    bytes: chance.pick([0, 1, 777, 4096, 20_000, 65_537]),
    framing,
    ranges: framing === 'length' && chance.chance(0.85),
    etag: chance.pick(['strong', 'strong', 'weak', 'none'] as const),
    lastModified: chance.chance(0.75),
    headers: secret ? chance.pick(PRIVATE) : chance.pick(ODD),
    liesAboutChange: secret,
    varies: chance.chance(0.15) ? chance.pick(['Accept-Encoding', 'User-Agent', 'Accept-Language']) : null
  }
}

function statusOf (chance: Prng, i: number): Resource {
  const status = chance.pick([404, 403, 500, 503, 301, 302, 307, 204, 410, 401])
  const more: Array<readonly [string, string]> = status === 401 ? [['WWW-Authenticate', 'Basic realm="frontend"']] : status === 503 ? [['Retry-After', '7']] : []
  if (status >= 301 && status <= 307) more.push(['Location', chance.pick(['/elsewhere', 'http://10.42.0.1:8080/elsewhere', 'http://mirror.example.org/x', '../up'])])
  return { ...PLAIN, name: `s${i}`, kind: 'file', template: `${FILES_PREFIX}@/RPMS/status-${i}.rpm`, bytes: status === 204 ? 0 : 300, status, headers: more, ranges: false, etag: 'none', lastModified: chance.chance(0.3), framing: chance.pick(['length', 'length', 'chunked'] as const) }
}

function dynamicOf (chance: Prng, i: number): Resource {
  const template = chance.pick([`/ks.cfg?mac=02:00:00:00:00:${i}&a=@/`, `/cgi-bin/@/boot?n=${i}`, `/sbin/@/kickstart.cgi?arch=x86_64&np=${i}`, `/@/who/${i}`, `/@/a%2fb;v=${i}?x=%20y`])
  const echoes = chance.chance(0.6)
  return {
    ...PLAIN, name: `d${i}`, kind: 'dynamic', template, bytes: chance.pick([0, 900, 30_000]), ranges: chance.chance(0.3), echoes,
    framing: chance.pick(['length', 'length', 'chunked', 'close'] as const), etag: chance.pick(['strong', 'none', 'none'] as const), lastModified: chance.chance(0.2),
    headers: chance.chance(0.3) ? chance.pick(PRIVATE) : chance.pick(ODD), liesAboutChange: chance.chance(0.5)
  }
}

function digestOf (chance: Prng, i: number): Resource {
  const draft: Resource = {
    ...PLAIN, name: `o${i}`, kind: 'digest', template: '', bytes: chance.pick([1, 5_000, 65_536, 300_001, 3_000_000]), etag: chance.pick(['strong', 'weak', 'none'] as const), lastModified: chance.chance(0.6),
    headers: chance.pick(ODD), framing: chance.chance(0.85) ? 'length' : 'chunked'
  }
  const whole = { ...draft, ranges: draft.framing === 'length' }
  return { ...whole, template: `/images/@/${createHash('sha256').update(bodyOf(whole, 0, '')).digest('hex')}/${chance.pick(['root', 'initrd.img', 'a+b.rpm'])}` }
}

/** All resources of a seed, by name. */
export function makeResources (seed: number): Resource[] {
  const chance = createPrng(seed).fork('resources')
  return [
    ...Array.from({ length: 40 }, (_, i) => fileOf(chance, i)), ...Array.from({ length: 14 }, (_, i) => statusOf(chance, i)),
    ...Array.from({ length: 24 }, (_, i) => dynamicOf(chance, i)), ...Array.from({ length: 16 }, (_, i) => digestOf(chance, i))
  ]
}

/** The request target of a resource under an alias: the same resource, a key of its own in any store. */
export const targetOf = (resource: Resource, alias: string): string => resource.template.replace('@/', `x-${alias}/`)

/** Alias and resource of a target as it arrived. */
export function resourceFinder (resources: readonly Resource[]): (target: string) => { resource: Resource, alias: string } | null {
  const byTemplate = new Map(resources.map(resource => [resource.template, resource]))
  return target => {
    const alias = /x-([a-z0-9]+)\//.exec(target)?.[1]
    const resource = byTemplate.get(target.replace(/x-[a-z0-9]+\//, '@/'))
    return alias === undefined || resource === undefined ? null : { resource, alias }
  }
}

const bodies = new Map<string, Buffer>()

/** The body: decided by name, version and what it varies with. Of another version also the length is another. */
export function bodyOf (resource: Resource, version: number, variant: string): Buffer {
  const key = `${resource.name} ${version} ${variant}`
  const known = bodies.get(key)
  if (known !== undefined) return known
  const bytes = resource.bytes === 0 ? 0 : resource.bytes + version
  const block = Buffer.alloc(65_521)
  const chance = createPrng(hash32(key))
  for (let i = 0; i + 4 <= block.length; i += 4) block.writeUInt32LE(chance.bits(), i)
  const plain = Buffer.alloc(bytes, bytes === 0 ? undefined : block)
  const body = resource.varies === 'Accept-Encoding' && variant.includes('gzip') ? gzipSync(plain) : plain
  if (bodies.size > 500) bodies.clear()
  bodies.set(key, body)
  return body
}

export interface Validators { etag: string | null, lastModified: string | null }

/** What a resource's validators are at a version. */
export function validatorsOf (resource: Resource, version: number, variant = ''): Validators {
  const seen = resource.liesAboutChange ? 0 : version
  const tag = `"${resource.name}-${seen}${variant === '' ? '' : `-${hash32(variant)}`}"`
  return {
    etag: resource.etag === 'none' ? null : resource.etag === 'weak' ? `W/${tag}` : tag,
    lastModified: resource.lastModified ? new Date((EPOCH_S + seen * 60) * 1000).toUTCString() : null
  }
}
