/**
 * The verbs of the helper: what may be asked, by whom, in which form, and what comes back. Both ends
 * take it from here; only the helper's end is to be relied on.
 */
import Type, { type Static, type TSchema } from 'typebox'
import { Compile } from 'typebox/compile'
import { InvalidInputError } from '../../../protocol/core/errors.ts'
import { KIND_ORDER, type ObjectKind } from '../../../protocol/core/desired.ts'
import type { FenceRecord } from '../../../protocol/core/fence/fence.ts'
import { CAPTURE_MAX_FRAMES, CAPTURE_MAX_SECONDS, DIAGNOSE_MAX_PINGS, DIAGNOSE_MS, FENCE_COUNTER_MAX, HELPER_DEADLINE_MAX_MS, HELPER_MAX_NAMES, MAX_CACHE_RATE_KBIT, PREHEAT_PART_MAX } from '../../../protocol/core/limits.ts'
import type { Privileged } from '../../inventory/privileged.ts'
import type { Echo, SegmentFacts } from '../../diagnose/facts.ts'
import type { ObservedObject } from '../../drivers/driver.ts'
import type { PublicTrack } from '../../drivers/network/tunnel/driver.ts'
import { CAPTURE_PROTOCOLS, type Captured } from '../../drivers/network/diagnose/capture.ts'
import type { Owned, Swept } from '../owned/owned.ts'
import type { ObjectPage, Purged } from '../../drivers/cache/store.ts'
import type { RetainedStore } from '../../drivers/cache/retained/retained.ts'
import { FetchPath, Ipv4, Ipv6, Label, SPECS, Vni } from './specs.ts'

const closed = { additionalProperties: false } as const
const KIND = `(${KIND_ORDER.join('|')})`
/** As drivers take them: they become names of files, domains and services. */
const NAME = '[A-Za-z0-9][A-Za-z0-9._-]{0,127}'
const Kind = Type.Unsafe<ObjectKind>(Type.Union(KIND_ORDER.map(kind => Type.Literal(kind))))
const Name = Type.String({ pattern: `^${NAME}$`, maxLength: 128 })
const Resource = Type.String({ pattern: `^${KIND} ${NAME}$`, maxLength: 160 })
const ClusterId = Type.String({ pattern: '^[A-Za-z0-9][A-Za-z0-9-]{0,63}$', maxLength: 64 })
const Counter = Type.Integer({ minimum: 0, maximum: FENCE_COUNTER_MAX })
const Ms = Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER })
const Order = Type.Object({ clusterId: ClusterId, counter: Counter }, closed)
const Claim = Type.Object({ clusterId: ClusterId, counter: Counter, endMs: Ms }, closed)
const Nothing = Type.Object({}, closed)

const ApplyByKind = Object.fromEntries(KIND_ORDER.map(kind => [kind, Type.Object({
  kind: Type.Literal(kind), name: Name, spec: SPECS[kind],
  /** null for what the clusters of a host share, and for nothing else */
  claim: Type.Union([Claim, Type.Null()])
}, closed)])) as unknown as { [K in ObjectKind]: TSchema }

const OrderName = Type.String({ pattern: '^[a-z0-9][a-z0-9-]{0,63}$', maxLength: 64 })
/** What may be asked of a cache, without its name: masters of other sites ask the same of a gateway. */
export const CACHE_ASKS = {
  'cache-preheat': Type.Object({
    order: OrderName, rateKbitPerS: Type.Optional(Type.Integer({ minimum: 1, maximum: MAX_CACHE_RATE_KBIT })),
    objects: Type.Array(Type.Object({
      path: FetchPath, port: Type.Optional(Type.Integer({ minimum: 1, maximum: 65_535 })), sizeBytes: Type.Optional(Ms), sha256: Type.Optional(Type.String({ pattern: '^[0-9a-f]{64}$', maxLength: 64 }))
    }, closed), { minItems: 1, maxItems: PREHEAT_PART_MAX })
  }, closed),
  'cache-cancel': Type.Object({ order: OrderName }, closed),
  'cache-list': Type.Object({ prefix: Type.Optional(FetchPath), after: Type.Optional(Type.String({ pattern: '^(?!.*/\\.\\.(/|$))/[A-Za-z0-9._:@+~/=?&%-]{0,511} [0-9]{1,5} (listed|named|validated)$', maxLength: 540 })) }, closed),
  'cache-purge': Type.Object({ prefix: Type.Optional(FetchPath), refetch: Type.Optional(Type.Boolean()) }, closed)
} as const

/** `change`: only the agent's user may ask; `clean`: also root; `read`: likewise; `watch`: only root, as it shows what guests say. */
export type Access = 'read' | 'clean' | 'change' | 'watch'

interface Verb { access: Access, params: TSchema, deadlineMs: number }

const LOOK_MS = 30_000
const DEED_MS = 90_000

export const VERBS = {
  /** who answers; with the agent's ledger clock, by which its claims are to be judged */
  hello: { access: 'read', params: Type.Object({ ledgerMs: Type.Optional(Ms) }, closed), deadlineMs: 10_000 },
  noop: { access: 'read', params: Nothing, deadlineMs: 10_000 },
  /** what drivers cannot do here */
  probe: { access: 'read', params: Nothing, deadlineMs: 60_000 },
  observe: { access: 'read', params: Type.Object({ kind: Kind }, closed), deadlineMs: LOOK_MS },
  apply: { access: 'change', params: Type.Union(KIND_ORDER.map(kind => ApplyByKind[kind])), deadlineMs: DEED_MS },
  remove: { access: 'change', params: Type.Object({ kind: Kind, name: Name, claim: Type.Union([Order, Type.Null()]) }, closed), deadlineMs: DEED_MS },
  'fence-grant': { access: 'change', params: Type.Object({ resource: Resource, claim: Claim }, closed), deadlineMs: 10_000 },
  'fence-revoke': { access: 'change', params: Type.Object({ resource: Resource, ...Order.properties }, closed), deadlineMs: 10_000 },
  'fence-gone': { access: 'change', params: Type.Object({ resource: Resource, counter: Counter }, closed), deadlineMs: 10_000 },
  'fence-records': { access: 'read', params: Nothing, deadlineMs: 10_000 },
  /** figures of one object */
  detail: { access: 'read', params: Type.Object({ kind: Kind, name: Name }, closed), deadlineMs: LOOK_MS },
  /** public halves of this gateway's tunnel keys; one is made on first use */
  'tunnel-tracks': { access: 'change', params: Nothing, deadlineMs: LOOK_MS },
  /** whether somebody on a segment answers; `size`: of the inner IP packet, not to be broken up */
  'segment-ping': { access: 'change', params: Type.Object({ vni: Vni, address: Ipv4, size: Type.Optional(Type.Integer({ minimum: 68, maximum: 9_000 })) }, closed), deadlineMs: 10_000 },
  /** what there is of a segment, by its object's name or its cluster's; it sends some packets to members of it */
  'segment-look': { access: 'read', params: Type.Object({ name: Name, gatewayAddress: Type.Optional(Ipv4) }, closed), deadlineMs: DIAGNOSE_MS },
  /** pings of a member; `largest`: also the largest size up to `bytes` that passes */
  'segment-echo': {
    access: 'read', deadlineMs: DIAGNOSE_MS, params: Type.Object({
      name: Name, where: Type.Union([Type.Literal('segment'), Type.Literal('tunnel'), Type.Literal('underlay')]), address: Type.Union([Ipv4, Ipv6]),
      bytes: Type.Integer({ minimum: 84, maximum: 9_000 }), count: Type.Integer({ minimum: 1, maximum: DIAGNOSE_MAX_PINGS }), largest: Type.Boolean()
    }, closed)
  },
  /** objects to fetch before nodes ask; another order of that name goes */
  'cache-preheat': { access: 'change', params: Type.Object({ name: Name, ...CACHE_ASKS['cache-preheat'].properties }, closed), deadlineMs: LOOK_MS },
  'cache-cancel': { access: 'change', params: Type.Object({ name: Name, ...CACHE_ASKS['cache-cancel'].properties }, closed), deadlineMs: LOOK_MS },
  'cache-list': { access: 'read', params: Type.Object({ name: Name, ...CACHE_ASKS['cache-list'].properties }, closed), deadlineMs: DEED_MS },
  'cache-purge': { access: 'change', params: Type.Object({ name: Name, ...CACHE_ASKS['cache-purge'].properties }, closed), deadlineMs: DEED_MS },
  /** stores of caches whose clusters are over */
  'cache-retained': { access: 'read', params: Nothing, deadlineMs: LOOK_MS },
  /** those of one site's clusters, or all of them */
  'cache-forget': { access: 'change', params: Type.Object({ owner: Type.Optional(Label) }, closed), deadlineMs: DEED_MS },
  /** frames of guests, as a pcap file */
  'segment-capture': {
    access: 'watch', deadlineMs: HELPER_DEADLINE_MAX_MS, params: Type.Object({
      kind: Type.Literal('segment'), name: Name, port: Type.Union([Type.Literal('node'), Type.Literal('site'), Type.Literal('wan')]),
      count: Type.Integer({ minimum: 1, maximum: CAPTURE_MAX_FRAMES }), seconds: Type.Integer({ minimum: 1, maximum: CAPTURE_MAX_SECONDS }), snapBytes: Type.Integer({ minimum: 64, maximum: 9_216 }),
      filter: Type.Object({
        host: Type.Optional(Type.Union([Ipv4, Ipv6])), port: Type.Optional(Type.Integer({ minimum: 1, maximum: 65_535 })),
        proto: Type.Optional(Type.Unsafe<typeof CAPTURE_PROTOCOLS[number]>(Type.Union(CAPTURE_PROTOCOLS.map(proto => Type.Literal(proto)))))
      }, closed)
    }, closed)
  },
  /** of the inventory only what nobody else may read */
  inventory: { access: 'read', params: Nothing, deadlineMs: LOOK_MS },
  owned: { access: 'read', params: Nothing, deadlineMs: LOOK_MS },
  /** removes what neither the fence nor whoever asks wants to keep */
  sweep: { access: 'clean', params: Type.Object({ keep: Type.Array(Resource, { maxItems: HELPER_MAX_NAMES }), dryRun: Type.Boolean() }, closed), deadlineMs: HELPER_DEADLINE_MAX_MS }
} as const satisfies Record<string, Verb>

export type VerbName = keyof typeof VERBS
export type FixedParams = { [V in Exclude<VerbName, 'apply'>]: Static<(typeof VERBS)[V]['params']> }
export interface ApplyParams { kind: ObjectKind, name: string, spec: unknown, claim: Static<typeof Claim> | null }
export type ParamsOf<V extends VerbName> = V extends 'apply' ? ApplyParams : V extends keyof FixedParams ? FixedParams[V] : never

export interface HelperHello {
  version: string
  /** of this process: records and looks of another one do not count */
  instance: string
  bootId: string
  roles: string[]
  kinds: ObjectKind[]
  /** its ledger clock, Unix ms */
  ledgerMs: number
}

export interface VerbResults {
  hello: HelperHello
  noop: null
  probe: Array<{ kind: ObjectKind, problem: string }>
  observe: ObservedObject[]
  apply: null
  remove: null
  'fence-grant': null
  'fence-revoke': null
  'fence-gone': null
  'fence-records': FenceRecord[]
  detail: Record<string, unknown>
  'tunnel-tracks': PublicTrack[]
  'segment-ping': { ok: boolean, why: string }
  'segment-look': SegmentFacts
  'segment-echo': { echo: Echo, largestBytes: number | null }
  'segment-capture': Captured
  'cache-preheat': null
  'cache-cancel': null
  'cache-list': ObjectPage
  'cache-purge': Purged & { orders: string[] }
  'cache-retained': RetainedStore[]
  'cache-forget': { stores: number, bytes: number }
  inventory: Privileged
  owned: Owned
  sweep: Swept
}

export const isVerb = (verb: string): verb is VerbName => Object.hasOwn(VERBS, verb)

interface Validator { Check (value: unknown): boolean, Errors (value: unknown): Array<{ instancePath: string, message: string }> }
const compiled = new Map<string, Validator>()

function validator (key: string, schema: TSchema): Validator {
  let found = compiled.get(key)
  if (found === undefined) compiled.set(key, found = Compile(schema))
  return found
}

const kindOf = (params: unknown): ObjectKind | null => {
  const kind = typeof params === 'object' && params !== null && 'kind' in params ? params.kind : null
  return KIND_ORDER.find(known => known === kind) ?? null
}

/** Parameters of a verb that are as they must be. @throws InvalidInputError naming the first field that is not, never its value */
export function checkParams<V extends VerbName> (verb: V, params: unknown): ParamsOf<V> {
  // by its kind: the errors of a union would tell of all six
  const kind = verb === 'apply' ? kindOf(params) : null
  const check = kind === null ? validator(verb, VERBS[verb].params) : validator(`apply ${kind}`, ApplyByKind[kind])
  if (check.Check(params)) return params as ParamsOf<V>
  const [problem] = check.Errors(params)
  // paths hold the names of fields, which an asker chooses
  const at = (problem?.instancePath ?? '').slice(0, 100).replaceAll(/[^A-Za-z0-9/._-]/g, '?')
  throw new InvalidInputError(`${verb}: ${at === '' ? '' : `${at} `}${(problem?.message ?? 'is not valid').slice(0, 200)}`, 'agent and helper must be of one release: restart both')
}

/** The kind and name that a resource of the fence stands for. */
export function partsOf (resource: string): { kind: ObjectKind, name: string } {
  const at = resource.indexOf(' ')
  return { kind: resource.slice(0, at) as ObjectKind, name: resource.slice(at + 1) }
}

// --- messages -------------------------------------------------------------------------------------

const Id = Type.Integer({ minimum: 1, maximum: Number.MAX_SAFE_INTEGER })
const RequestSchema = Type.Object({ id: Id, verb: Type.String({ pattern: '^[a-z][a-z-]{0,31}$', maxLength: 32 }), params: Type.Unknown(), deadlineMs: Type.Integer({ minimum: 1, maximum: HELPER_DEADLINE_MAX_MS }) }, closed)
const CancelSchema = Type.Object({ cancel: Id }, closed)
const ErrorSchema = Type.Object({ code: Type.String({ pattern: '^[A-Z][A-Z0-9_]{0,63}$' }), message: Type.String({ maxLength: 8192 }), hint: Type.Optional(Type.String({ maxLength: 8192 })), retryable: Type.Boolean() }, closed)
const ReplySchema = Type.Union([Type.Object({ id: Id, result: Type.Unknown() }, closed), Type.Object({ id: Type.Union([Id, Type.Null()]), error: ErrorSchema }, closed)])

export type HelperRequest = Static<typeof RequestSchema>
export type HelperReply = Static<typeof ReplySchema>
export type WireError = Static<typeof ErrorSchema>

export const readRequest = (message: unknown): HelperRequest | null => validator('#request', RequestSchema).Check(message) ? message as HelperRequest : null
export const readCancel = (message: unknown): number | null => validator('#cancel', CancelSchema).Check(message) ? (message as Static<typeof CancelSchema>).cancel : null
export const readReply = (message: unknown): HelperReply | null => validator('#reply', ReplySchema).Check(message) ? message as HelperReply : null

/** The id of a message that is no request otherwise, for the answer that says so. */
export function idOf (message: unknown): number | null {
  const id = typeof message === 'object' && message !== null && 'id' in message ? message.id : null
  return typeof id === 'number' && Number.isSafeInteger(id) && id > 0 ? id : null
}
