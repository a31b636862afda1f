import Type, { type Static } from 'typebox'
import { Settings } from 'typebox/system'
import { Errors } from 'typebox/value'
import { cidrProblem, networksOverlap } from './network/addresses.ts'
import { cacheSectionSchema, readCacheSection, type CacheTerms } from './cache/terms.ts'
import { parseDuration } from './notation/duration.ts'
import { InvalidInputError } from './errors.ts'
import { DEFAULT_LOCAL_CIDR } from './network/local.ts'
import { placementSectionSchema, readPlacementSection, type PlacementTerms } from './placement/terms.ts'
import {
  MAX_MEMORY_MIB_PER_NODE, MAX_NODES_PER_CLUSTER, MAX_TERM_MS, MAX_VCPUS_PER_NODE, MAX_VOLUME_MIB,
  MAX_VOLUMES_PER_CLUSTER, MIN_TERM_MS
} from './limits.ts'

/** Names end up in host names, `<cluster>-<site>-<nnn>`, which DNS bounds at 63. */
export const MAX_CLUSTER_NAME = 20
/** A node below this does not unpack the image; refused early rather than found out at boot. */
export const MIN_MEMORY_MIB_PER_NODE = 128
export const MIN_VOLUME_MIB = 1
const LABEL = '^[a-z]([a-z0-9-]*[a-z0-9])?$'
/** More problems than this in one spec help nobody. */
const MAX_PROBLEMS = 200

const closed = { additionalProperties: false } as const

/** A cluster as a user writes it, in YAML or JSON. */
export const clusterSpecSchema = Type.Object({
  apiVersion: Type.Literal('musubi/v1'),
  kind: Type.Literal('Cluster'),
  metadata: Type.Object({
    name: Type.String({ maxLength: MAX_CLUSTER_NAME, pattern: LABEL, description: 'lower-case letters, digits and dashes; part of every node name' })
  }, closed),
  spec: Type.Object({
    network: Type.Optional(Type.Object({
      cidr: Type.Optional(Type.String({ description: 'private IPv4 network of the segment, /16 or larger; default 10.42.0.0/16' })),
      local: Type.Optional(Type.Union([Type.Boolean(), Type.Object({ cidr: Type.String() }, closed)], { description: `true: at every site a second segment that does not leave it, with the network ${DEFAULT_LOCAL_CIDR}; {cidr: ...}: with that network; default false` })),
      antiSpoof: Type.Optional(Type.Boolean({ description: 'false: nodes may send with addresses that are none of theirs, as guests and containers in them do; default true' }))
    }, closed)),
    frontend: Type.Optional(Type.Object({
      mode: Type.Optional(Type.Literal('builtin'))
    }, closed)),
    cache: Type.Optional(cacheSectionSchema),
    placement: Type.Optional(placementSectionSchema),
    image: Type.Optional(Type.String({ pattern: '^(default|sha256:[0-9a-f]{64})$', description: '`default`, or the digest of an image manifest' })),
    nodes: Type.Object({
      count: Type.Integer({ minimum: 1, maximum: MAX_NODES_PER_CLUSTER }),
      vcpus: Type.Optional(Type.Integer({ minimum: 1, maximum: MAX_VCPUS_PER_NODE, description: 'per node; default 1' })),
      memoryMiB: Type.Optional(Type.Integer({ minimum: MIN_MEMORY_MIB_PER_NODE, maximum: MAX_MEMORY_MIB_PER_NODE, description: 'per node; default 768' }))
    }, closed),
    volumes: Type.Optional(Type.Array(Type.Object({
      name: Type.String({ maxLength: MAX_CLUSTER_NAME, pattern: LABEL }),
      sizeMiB: Type.Integer({ minimum: MIN_VOLUME_MIB, maximum: MAX_VOLUME_MIB }),
      node: Type.Integer({ minimum: 1, description: 'number of the node that uses it, from 1' })
    }, closed), { maxItems: MAX_VOLUMES_PER_CLUSTER })),
    start: Type.Optional(Type.String({ description: 'when the leases begin: ISO 8601 with a zone, such as 2026-12-01T08:00+09:00; default now' })),
    end: Type.Optional(Type.String({ description: 'when they end, likewise; instead of a term' })),
    term: Type.Optional(Type.String({ description: 'how long the leases run: 90m, 2h, 1d12h or ISO 8601 (PT90M); default 2h' }))
  }, closed)
}, closed)

export type ClusterSpecInput = Static<typeof clusterSpecSchema>

/** A checked spec with every default filled in. */
export interface ClusterSpec {
  name: string
  cidr: string
  /** a node sends from its own MAC and IPv4 address only; one of an earlier release has none of this, and means it */
  antiSpoof: boolean
  /** network of the second segment of every site, which does not leave it; absent: there is none */
  localCidr?: string
  frontend: { mode: 'builtin' }
  /** `default` or `sha256:<hex>` */
  image: string
  nodes: { count: number, vcpus: number, memoryMiB: number }
  /** `node` is the number of the node that uses the volume, from 1 */
  volumes: Array<{ name: string, sizeMiB: number, node: number }>
  /** how long; of one with `endMs` and no `startMs`: not known yet */
  termMs: number
  /** Unix ms, as the specification says; whoever asks may say otherwise. Absent: now */
  startMs?: number
  /** Unix ms; absent: `termMs` says it */
  endMs?: number
  /** what is asked of the caches; absent: nothing, and in a record of an earlier release */
  cache?: CacheTerms
  /** where its nodes may go; absent: as `docs/cluster-spec.md` says of the defaults, and in a record of an earlier release */
  placement?: PlacementTerms
}

export const specDefaults = { cidr: '10.42.0.0/16', antiSpoof: true, image: 'default', vcpus: 1, memoryMiB: 768, term: '2h' } as const

/**
 * `2026-12-01T08:00+09:00`, `2026-11-30T23:00:00Z` in Unix ms; null when it is none, such as 30 February, or has no zone: the same
 * text means another moment at another site.
 */
export function parseMoment (text: string): number | null {
  const fields = /^(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d)(?::(\d\d))?(?:Z|[+-](\d\d):(\d\d))$/.exec(text)
  if (fields === null) return null
  const parts: Array<string | undefined> = fields.slice(1)
  const [year = 0, month = 0, day = 0, hour = 0, minute = 0, second = 0, zoneHour = 0, zoneMinute = 0] = parts.map(part => Number(part ?? 0))
  // Date makes 2 March of 30 February
  const daysInMonth = new Date(Date.UTC(year, month, 0)).getUTCDate()
  const exists = month >= 1 && month <= 12 && day >= 1 && day <= daysInMonth && hour < 24 && minute < 60 && second < 60 && zoneHour < 15 && zoneMinute < 60
  const ms = exists ? Date.parse(text) : NaN
  return Number.isNaN(ms) ? null : ms
}

/** Edit distance, for "did you mean". */
function distance (a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      const swap = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1)
      next.push(Math.min(swap, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1))
    }
    row = next
  }
  return row[b.length] ?? 0
}

/** The known name nearest to a mistyped one, or null when none is near. */
export function nearest (wrong: string, known: readonly string[]): string | null {
  const ranked = known
    .map(name => ({ name, far: distance(wrong.toLowerCase(), name.toLowerCase()) }))
    .sort((a, b) => a.far - b.far || (a.name < b.name ? -1 : 1))
  const best = ranked[0]
  return best !== undefined && best.far <= Math.max(2, Math.floor(best.name.length / 2)) ? best.name : null
}

const steps = (pointer: string): string[] => pointer.split('/').slice(1).map(part => part.replaceAll('~1', '/').replaceAll('~0', '~'))

/** `/spec/volumes/0/name` as people write it: `spec.volumes[0].name`. */
const readable = (parts: readonly string[]): string =>
  parts.map((part, i) => /^\d+$/.test(part) ? `[${part}]` : i === 0 ? part : `.${part}`).join('')

/** Field names that the schema knows at a place. */
function knownFields (parts: readonly string[]): string[] {
  let schema: { properties?: unknown, items?: unknown } = clusterSpecSchema
  for (const part of parts) {
    const properties = (schema.properties ?? {}) as Record<string, object>
    schema = (/^\d+$/.test(part) ? schema.items as object | undefined : properties[part]) ?? {}
  }
  return Object.keys(schema.properties ?? {})
}

const show = (value: unknown): string => {
  const text = JSON.stringify(value) as string | undefined ?? String(value)
  return text.length > 60 ? `${text.slice(0, 57)}...` : text
}

function valueAt (input: unknown, parts: readonly string[]): unknown {
  return parts.reduce<unknown>((at, part) => at !== null && typeof at === 'object' ? (at as Record<string, unknown>)[part] : undefined, input)
}

/** Everything that is wrong with the form, one line each. */
function problemsOfForm (input: unknown): string[] {
  const before = Settings.Get().maxErrors
  Settings.Set({ maxErrors: MAX_PROBLEMS })
  try {
    const errors = Errors(clusterSpecSchema, input)
    // of a union each way in which it does not fit is an error too: the union's own says it all
    const unions = errors.filter(({ keyword }) => keyword === 'anyOf').map(({ instancePath }) => instancePath)
    return errors.filter(({ keyword, instancePath }) => keyword === 'anyOf' || !unions.some(union => instancePath === union || instancePath.startsWith(`${union}/`))).flatMap(error => {
      const parts = steps(error.instancePath)
      const at = readable(parts)
      const here = at === '' ? 'the document' : at
      switch (error.keyword) {
        case 'boolean': return [] // the echo of additionalProperties below
        case 'anyOf': return [`${here}: must be ${parts.at(-1) === 'preheat' ? 'false or {manifest: PATH, rate: 50Mbit/s}' : 'true, false or {cidr: NETWORK}'}, not ${show(valueAt(input, parts))}`]
        case 'additionalProperties': return error.params.additionalProperties.map(field => {
          const known = knownFields(parts)
          const near = nearest(field, known)
          return `${readable([...parts, field])}: unknown field; ${near === null ? `known here: ${known.join(', ')}` : `did you mean "${near}"?`}`
        })
        case 'required': return error.params.requiredProperties.map(field => `${readable([...parts, field])}: is required`)
        case 'const': return [`${here}: must be ${show(error.params.allowedValue)}, not ${show(valueAt(input, parts))}`]
        case 'pattern': return [`${here}: ${show(valueAt(input, parts))} ${parts.at(-1) === 'image' ? 'must be "default" or sha256:<64 hex digits>' : 'must be a DNS label: lower-case letters, digits and dashes, a letter first, no dash last'}`]
        default: return [`${here}: ${error.message}, not ${show(valueAt(input, parts))}`]
      }
    })
  } finally {
    Settings.Set({ maxErrors: before })
  }
}

/** The network of the second segment as asked for, null without one. */
const localCidrOf = ({ spec: { network: { local = false } = {} } }: ClusterSpecInput): string | null => local === false ? null : local === true ? DEFAULT_LOCAL_CIDR : local.cidr

/** What a well-formed spec can still have wrong. */
function problemsOfMeaning (input: ClusterSpecInput): string[] {
  const { spec } = input
  const problems: string[] = []
  const cidr = spec.network?.cidr
  const badCidr = cidr === undefined ? null : cidrProblem(cidr)
  if (badCidr !== null) problems.push(`spec.network.cidr: ${badCidr}`)
  const local = localCidrOf(input)
  const badLocal = local === null ? null : cidrProblem(local)
  const main = cidr ?? specDefaults.cidr
  if (badLocal !== null) problems.push(`spec.network.local.cidr: ${badLocal}`)
  else if (local !== null && networksOverlap(main, local)) problems.push(`spec.network.local: its network ${local} overlaps ${main} of spec.network.cidr; give it another: local: {cidr: 172.20.0.0/16}`)
  if (spec.term !== undefined) {
    const term = parseDuration(spec.term)
    if (term === null) problems.push(`spec.term: ${show(spec.term)} is not a duration such as 90m, 2h or PT90M`)
    else if (term < MIN_TERM_MS || term > MAX_TERM_MS) problems.push(`spec.term: ${show(spec.term)} is outside ${MIN_TERM_MS / 1000} s to ${MAX_TERM_MS / 86_400_000} days`)
  }
  if (spec.end !== undefined && spec.term !== undefined) problems.push('spec.end: spec.term says how long it lasts already; give one of the two')
  for (const field of ['start', 'end'] as const) {
    const text = spec[field]
    if (text !== undefined && parseMoment(text) === null) problems.push(`spec.${field}: ${show(text)} is not a time with a zone such as 2026-12-01T08:00+09:00 or 2026-11-30T23:00Z`)
  }
  if (spec.cache !== undefined) problems.push(...readCacheSection(spec.cache).problems)
  if (spec.placement !== undefined) problems.push(...readPlacementSection(spec.placement, spec.nodes.count).problems)
  const seen = new Map<string, number>()
  for (const [i, volume] of (spec.volumes ?? []).entries()) {
    const first = seen.get(volume.name)
    if (first === undefined) seen.set(volume.name, i)
    else problems.push(`spec.volumes[${i}].name: ${show(volume.name)} is already the name of spec.volumes[${first}]`)
    if (volume.node > spec.nodes.count) problems.push(`spec.volumes[${i}].node: there is no node ${volume.node}, only ${spec.nodes.count}`)
  }
  return problems
}

/**
 * Checks a spec as users write it and fills in the defaults.
 *
 * @param input plain data (YAML or JSON is parsed elsewhere)
 * @throws InvalidInputError with every problem found, one a line
 */
export function parseClusterSpec (input: unknown): ClusterSpec {
  const form = problemsOfForm(input)
  const problems = form.length > 0 ? form : problemsOfMeaning(input as ClusterSpecInput)
  if (problems.length > 0) {
    throw new InvalidInputError(`the cluster spec has ${problems.length === 1 ? 'a problem' : `${problems.length} problems`}:\n${problems.join('\n')}`)
  }
  const { metadata, spec } = input as ClusterSpecInput
  const local = localCidrOf(input as ClusterSpecInput)
  const startMs = spec.start === undefined ? null : parseMoment(spec.start)
  const endMs = spec.end === undefined ? null : parseMoment(spec.end)
  return {
    name: metadata.name,
    cidr: spec.network?.cidr ?? specDefaults.cidr,
    antiSpoof: spec.network?.antiSpoof ?? specDefaults.antiSpoof,
    ...(local === null ? {} : { localCidr: local }),
    frontend: { mode: spec.frontend?.mode ?? 'builtin' },
    image: spec.image ?? specDefaults.image,
    nodes: { count: spec.nodes.count, vcpus: spec.nodes.vcpus ?? specDefaults.vcpus, memoryMiB: spec.nodes.memoryMiB ?? specDefaults.memoryMiB },
    volumes: (spec.volumes ?? []).map(({ name, sizeMiB, node }) => ({ name, sizeMiB, node })),
    termMs: parseDuration(spec.term ?? specDefaults.term) ?? 0,
    ...startMs === null ? {} : { startMs },
    ...endMs === null ? {} : { endMs },
    ...(spec.cache === undefined ? {} : { cache: readCacheSection(spec.cache).terms }),
    ...(spec.placement === undefined ? {} : { placement: readPlacementSection(spec.placement, spec.nodes.count).terms })
  }
}
