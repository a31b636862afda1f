/** REST resources of the network of clusters: its diagnosis, and the tunnels between sites. */
import Type, { type Static } from 'typebox'
import { DIAGNOSE_MAX_PINGS } from './core/limits.ts'

const text = (description: string) => Type.String({ description, maxLength: 4096 })
const count = (description: string) => Type.Number({ description, minimum: 0 })

// --- diagnosis of segments ---------------------------------------------------------------------------
const EndName = Type.String({ minLength: 1, maxLength: 64, pattern: '^[A-Za-z0-9][A-Za-z0-9._-]*$', description: 'a node, a gateway, or a site' })
const MaybeText = Type.Union([Type.String(), Type.Null()])
const RttSchema = Type.Union([Type.Object({ min: count('ms'), avg: count('ms'), max: count('ms') }), Type.Null()], { description: 'null: nothing was answered' })

export const PingBodySchema = Type.Object({
  from: EndName, to: EndName, cluster: Type.Optional(Type.String({ maxLength: 64, description: 'name or id; needed where several clusters have both' })),
  path: Type.Optional(Type.Boolean({ description: 'each hop in turn' })),
  count: Type.Optional(Type.Integer({ minimum: 1, maximum: DIAGNOSE_MAX_PINGS, description: 'pings of each' })),
  size: Type.Optional(Type.Integer({ minimum: 84, maximum: 9_000, description: 'of the IP packet, not to be broken up' }))
}, { additionalProperties: false })
export type PingBody = Static<typeof PingBodySchema>

export const HopSchema = Type.Object({
  hop: text('what it is'), site: text('site'), host: text('host'), interface: text('link on the asking host, or at the far end'), from: text('address'), to: text('address'), port: Type.Union([Type.Number(), Type.Null()], { description: 'UDP' }),
  rttMs: Type.Union([Type.Number(), Type.Null()]), sent: count('pings'), received: count('answers'), largestBytes: Type.Union([Type.Number(), Type.Null()], { description: 'largest size that passes, bytes of IP' }),
  ok: Type.Boolean(), why: text('what is wrong')
})
export type HopResource = Static<typeof HopSchema>

export const PingResultSchema = Type.Object({
  cluster: text('cluster'), from: text('from'), to: text('to'), askedBy: text('gateway whose namespace the pings leave'), bytes: count('size'), ok: Type.Boolean(),
  ends: Type.Array(Type.Object({ name: text('member'), site: text('site'), address: text('on the segment'), sent: count('pings'), received: count('answers'), rttMs: RttSchema, toldMtu: Type.Union([Type.Number(), Type.Null()]), why: text('what was said') })),
  hops: Type.Array(HopSchema), stopsAt: MaybeText, why: text('what is wrong')
})
export type PingResource = Static<typeof PingResultSchema>

export const DiagnosisSchema = Type.Object({
  cluster: text('cluster'), site: text('site'), host: text('host'), gateway: Type.Boolean({ description: 'whether this host is the gateway of its site' }), ok: Type.Boolean({ description: 'no fault; there may be warnings' }),
  findings: Type.Array(Type.Object({
    code: text('for programs'), severity: Type.Union([Type.Literal('fault'), Type.Literal('warning')]), where: text('part of the way'), site: MaybeText, interface: MaybeText, address: MaybeText,
    port: Type.Union([Type.Number(), Type.Null()], { description: 'UDP' }), bytes: Type.Union([Type.Number(), Type.Null()], { description: 'size that passes, or that was found' }), what: text('what is wrong'), try: text('what to try')
  }), { description: 'nearest first' }),
  seen: Type.Array(Type.String(), { description: 'what was looked at, for people' })
})
export type DiagnosisResource = Static<typeof DiagnosisSchema>

// --- the tunnel between sites --------------------------------------------------------------------------
const MaybeNumber = (description: string) => Type.Union([Type.Number(), Type.Null()], { description })
const TrackFields = { track: count('0 or 1'), publicKey: text('WireGuard key'), endpoint: text('where others send to, `address:port`; two with a comma between them'), draining: Type.Boolean({ description: 'it is about to be given up' }) }

export const TunnelSchema = Type.Object({
  host: text('this gateway'), site: text('its site'), address: text('inside tunnels'), endpoint: text('on the underlay, of track 0'),
  state: Type.Union([Type.Literal('none'), Type.Literal('ok'), Type.Literal('changing')], { description: 'none: no cluster needs it' }), mtu: MaybeNumber('of its interfaces, bytes'),
  epoch: count('keys made under a smaller one are exchanged'), exchanging: Type.Boolean(), keyAgeMs: MaybeNumber('of the oldest own key'), keyMaxAgeMs: count('older keys are exchanged'),
  tracks: Type.Array(Type.Object({ ...TrackFields, interface: text('WireGuard interface'), epoch: count('under which the key was made'), madeMs: count('Unix ms'), mode: text('kernel, userspace, down'), pid: MaybeNumber('of wireguard-go') }), { description: 'own keys' }),
  gateways: Type.Array(Type.Object({
    site: text('site'), host: text('gateway'), address: text('inside tunnels'), heard: Type.Boolean({ description: 'its record is here now, and lists its keys' }),
    keyFrom: Type.Union([Type.Literal('record'), Type.Literal('document')], { description: 'whose word on its keys counts' }), tracks: Type.Array(Type.Object(TrackFields)),
    sessions: Type.Array(Type.Object({
      track: count('0 or 1'), inUse: Type.Boolean({ description: 'traffic goes there' }), publicKey: text('its key'), endpoint: Type.Union([Type.String(), Type.Null()]), handshakeAgeMs: MaybeNumber('since the last handshake'),
      rxBytes: count('received'), txBytes: count('sent'), pathMtu: MaybeNumber('largest packet on the underlay, bytes')
    }))
  }), { description: 'of clusters that this host is a gateway of' }),
  waiting: Type.Array(Type.String(), { description: 'what the exchange waits for' }), missing: Type.Array(Type.String(), { description: 'what the next pass does' }), problems: Type.Array(Type.String())
})
export type TunnelResource = Static<typeof TunnelSchema>

export const RotateBodySchema = Type.Object({ force: Type.Optional(Type.Boolean({ description: 'also where gateways would not hear of the new key' })) }, { additionalProperties: false })
export const RotationSchema = Type.Object({ epoch: count('keys made under a smaller one go'), unheard: Type.Array(Type.Object({ site: text('site'), host: text('gateway') }), { description: 'gateways that will not hear of it now' }) })
export type RotationResource = Static<typeof RotationSchema>
