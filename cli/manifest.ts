/** What is to be fetched before nodes ask, out of what people have: a manifest, an access log, a mirror. */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { readdir, readFile, stat } from 'node:fs/promises'
import { join, relative, sep } from 'node:path'
import type { CachedObjectResource, PreheatObjectResource } from '../protocol/cache-api.ts'
import { InvalidInputError } from '../protocol/core/errors.ts'
import { PREHEAT_PART_MAX } from '../protocol/core/limits.ts'

/** As the fetcher of a cache holds at most. */
const OBJECTS_MAX = 50_000
const INPUT_BYTES_MAX = 64 * 1024 * 1024
/** Bytes of one question's objects: within a message between sites, with room for its frame. */
const PART_BYTES_MAX = 64 * 1024
const PATH = /^(?!.*\/\.\.(\/|$))\/(?:[A-Za-z0-9._:@+~/=?&-]|%[0-9A-Fa-f]{2}){0,511}$/

/** A file, or with `-` standard input. @throws InvalidInputError */
export async function readInput (file: string): Promise<string> {
  const text = file === '-' ? await fromStdin() : await readFile(file, 'utf8').catch((error: unknown) => { throw new InvalidInputError(`${file} cannot be read: ${error instanceof Error ? error.message : String(error)}`) })
  if (text.length > INPUT_BYTES_MAX) throw new InvalidInputError(`${file} is larger than ${INPUT_BYTES_MAX} bytes`)
  return text
}

async function fromStdin (): Promise<string> {
  let text = ''
  process.stdin.setEncoding('utf8')
  for await (const chunk of process.stdin as AsyncIterable<string>) {
    text += chunk
    if (text.length > INPUT_BYTES_MAX) throw new InvalidInputError(`standard input is larger than ${INPUT_BYTES_MAX} bytes`)
  }
  return text
}

function checked (objects: readonly PreheatObjectResource[], what: string): PreheatObjectResource[] {
  if (objects.length === 0) throw new InvalidInputError(`${what} names no object that could be fetched`)
  if (objects.length > OBJECTS_MAX) throw new InvalidInputError(`${what} names ${objects.length} objects, at most ${OBJECTS_MAX} are fetched at once`)
  const wrong = objects.find(({ path }) => !PATH.test(path))
  if (wrong !== undefined) throw new InvalidInputError(`${what}: ${JSON.stringify(wrong.path)} is no path on a frontend`)
  return [...objects]
}

/** `{"objects": [{path, size, sha256}]}`, as caches read them; size and digest may be missing. @throws InvalidInputError naming the object */
export function fromManifest (text: string): PreheatObjectResource[] {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    throw new InvalidInputError('the manifest is no JSON')
  }
  const list = typeof value === 'object' && value !== null && 'objects' in value ? value.objects : null
  if (!Array.isArray(list)) throw new InvalidInputError('the manifest has no list "objects"', 'such as {"objects": [{"path": "/install/a.rpm", "size": 1234, "sha256": "..."}]}')
  return checked(list.map((entry: unknown, i): PreheatObjectResource => {
    const { path, size, sha256, port } = (typeof entry === 'object' && entry !== null ? entry : {}) as Record<string, unknown>
    if (typeof path !== 'string') throw new InvalidInputError(`object ${i + 1} of the manifest has no path`)
    if (size !== undefined && !(typeof size === 'number' && Number.isSafeInteger(size) && size >= 0)) throw new InvalidInputError(`the size of ${path} in the manifest is no number of bytes`)
    if (sha256 !== undefined && !(typeof sha256 === 'string' && /^[0-9a-f]{64}$/.test(sha256))) throw new InvalidInputError(`the sha256 of ${path} in the manifest is none`)
    return { path, ...typeof port === 'number' ? { port } : {}, ...size === undefined ? {} : { sizeBytes: size }, ...sha256 === undefined ? {} : { sha256 } }
  }), 'the manifest')
}

/** `nginx` and Apache, common and combined: ADDRESS - USER [TIME] "GET /path HTTP/1.1" 200 ... */
const COMBINED = /^\S+ \S+ .*?\[[^\]]*\] "GET (\S+) HTTP\/[\d.]+" (\d{3}) /

/** Objects that were asked for with success, the most asked first. Lines of another form are passed over. @throws InvalidInputError when none is left */
export function fromAccessLog (text: string): PreheatObjectResource[] {
  const counts = new Map<string, number>()
  for (const line of text.split('\n')) {
    const path = line.startsWith('{') ? ofCacheLine(line) : ofCombinedLine(line)
    if (path !== null && PATH.test(path)) counts.set(path, (counts.get(path) ?? 0) + 1)
  }
  const ranked = [...counts].sort(([a, n], [b, m]) => m - n || (a < b ? -1 : 1))
  return checked(ranked.slice(0, OBJECTS_MAX).map(([path]) => ({ path })), 'the log')
}

function ofCombinedLine (line: string): string | null {
  const [, path, status] = COMBINED.exec(line) ?? []
  return status === '200' || status === '206' ? path ?? null : null
}

/** The log of a cache's engine: what it kept, asked for by nodes. */
function ofCacheLine (line: string): string | null {
  try {
    const { method, target, status, asked, node, class: kind } = JSON.parse(line) as Record<string, unknown>
    const kept = kind !== 'dynamic' && method === 'GET' && (status === 200 || status === 206) && typeof asked === 'number' && asked > 0 && node !== '127.0.0.1'
    return kept && typeof target === 'string' ? target : null
  } catch {
    return null
  }
}

/** Files of a mirror with their digests, under the paths that nodes ask for. @param prefix where the mirror is on the frontend. @throws InvalidInputError */
export async function fromMirror (dir: string, prefix: string): Promise<PreheatObjectResource[]> {
  if (!PATH.test(prefix)) throw new InvalidInputError(`--prefix must be a path on the frontend such as /install/, not "${prefix}"`)
  const entries = await readdir(dir, { recursive: true, withFileTypes: true }).catch((error: unknown) => { throw new InvalidInputError(`${dir} cannot be read: ${error instanceof Error ? error.message : String(error)}`) })
  const files = entries.filter(entry => entry.isFile()).map(entry => join(entry.parentPath, entry.name)).sort()
  if (files.length > OBJECTS_MAX) throw new InvalidInputError(`${dir} has ${files.length} files, at most ${OBJECTS_MAX} are fetched at once`, 'name a folder of it')
  const objects: PreheatObjectResource[] = []
  for (const file of files) {
    const hash = createHash('sha256')
    for await (const chunk of createReadStream(file) as AsyncIterable<Buffer>) hash.update(chunk)
    objects.push({ path: `${prefix.replace(/\/$/, '')}/${relative(dir, file).split(sep).join('/')}`, sizeBytes: (await stat(file)).size, sha256: hash.digest('hex') })
  }
  return checked(objects, dir)
}

/** Objects in the parts that one question takes. */
export function partsOf (objects: readonly PreheatObjectResource[]): PreheatObjectResource[][] {
  const parts: PreheatObjectResource[][] = []
  let bytes = Infinity
  for (const object of objects) {
    const size = JSON.stringify(object).length + 1
    if (bytes + size > PART_BYTES_MAX || (parts.at(-1)?.length ?? 0) >= PREHEAT_PART_MAX) {
      parts.push([])
      bytes = 0
    }
    parts.at(-1)?.push(object)
    bytes += size
  }
  return parts
}

/** A manifest of what nodes asked for, the most asked first, as other caches and other clusters take it. */
export function exportManifest (objects: readonly CachedObjectResource[], all: boolean): { objects: Array<{ path: string, port?: number, size?: number, sha256?: string }> } {
  const best = new Map<string, CachedObjectResource>()
  for (const object of objects) {
    const known = best.get(`${object.port}${object.path}`)
    // of one path under several classes: what says most of it
    if (known === undefined || (known.sha256 === null && object.sha256 !== null)) best.set(`${object.port}${object.path}`, { ...object, asked: object.asked + (known?.asked ?? 0) })
    else known.asked += object.asked
  }
  return {
    objects: [...best.values()].filter(({ asked, path }) => (all || asked > 0) && PATH.test(path)).sort((a, b) => b.asked - a.asked || (a.path < b.path ? -1 : 1))
      .map(({ path, port, sizeBytes, sha256 }) => ({ path, ...port === 80 ? {} : { port }, ...sizeBytes === null ? {} : { size: sizeBytes }, ...sha256 === null ? {} : { sha256 } }))
  }
}
