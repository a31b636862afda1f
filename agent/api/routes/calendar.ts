import Type from 'typebox'
import type { Calendar, HostReply } from '../../calendar/calendar.ts'
import type { Drain } from '../../calendar/drain.ts'
import { CalendarQuerySchema, type CalendarHostResource, CalendarSchema, DrainBodySchema, DrainSchema } from '../../../protocol/calendar-api.ts'
import { InvalidInputError, MusubiError } from '../../../protocol/core/errors.ts'
import type { Api } from '../../../protocol/rest/server.ts'

export interface CalendarRouteDeps {
  site: string
  host: string
  isGateway: boolean
  gateways: () => string[]
  calendar: Pick<Calendar, 'own' | 'hosts'>
  drain: Drain
}

const ByName = Type.Object({ name: Type.String({ maxLength: 64 }) })
/** Shown when nobody says how long: a day. */
const DEFAULT_SPAN_MS = 24 * 3_600_000

/** What of a host's calendar lies in [fromMs, untilMs). */
function inSpan (host: string, reply: HostReply | null, error: string, fromMs: number, untilMs: number): CalendarHostResource {
  if (reply === null) return { host, error, takesLeases: false, why: '', steps: [], leases: [], leftOut: 0 }
  const { takesLeases, why, steps, leases, leftOut } = reply
  const inside = steps.filter((step, i) => step.atMs < untilMs && (steps[i + 1]?.atMs ?? Infinity) > fromMs)
  return { host, error, takesLeases, why, leftOut, steps: inside.map(({ atMs, free }) => ({ atMs, free })), leases: leases.filter(lease => lease.startMs < untilMs && lease.endMs > fromMs) }
}

/** What is promised when, and how to empty a host. */
export function addCalendarRoutes (api: Api, { site, host, isGateway, gateways, calendar, drain }: CalendarRouteDeps): void {
  api.get('/v1/calendar', { schema: { summary: 'what this host, or with `site` every host of this site, has promised when', querystring: CalendarQuerySchema, response: { 200: CalendarSchema } } }, async request => {
    const { query } = request
    if (query.site !== undefined && query.site !== site) throw new InvalidInputError(`this agent is of site ${site}: the calendar of site ${query.site} is its own affair`, `ask at ${query.site}; whether something fits there: musubi cluster create --dry-run --start TIME`)
    if (query.site !== undefined && !isGateway) throw new MusubiError('NOT_A_GATEWAY', 'this host is no gateway: it knows its own calendar only', { hint: `leave --site out, or run it on ${gateways().join(' or ') || 'a gateway of this site'}` })
    const own = calendar.own(true)
    const fromMs = query.fromMs ?? own.nowMs
    const untilMs = query.untilMs ?? fromMs + DEFAULT_SPAN_MS
    if (untilMs <= fromMs) throw new InvalidInputError('untilMs must be later than fromMs')
    const answers = query.site === undefined ? [{ host, reply: own, error: '' }] : await calendar.hosts(true)
    return { site, nowMs: own.nowMs, fromMs, untilMs, hosts: answers.map(one => inSpan(one.host, one.reply, one.error, fromMs, untilMs)).sort((a, b) => a.host < b.host ? -1 : 1) }
  })
  api.get('/v1/hosts/:name/drain', { schema: { summary: 'what a host still has, and until when; changes nothing', params: ByName, response: { 200: DrainSchema } } }, request => drain.look(request.params.name))
  api.post('/v1/hosts/:name/drain', { schema: { summary: 'cordon a host, and say what it still has and until when', params: ByName, body: DrainBodySchema, response: { 200: DrainSchema } } }, request => drain.begin(request.params.name, request.body.reason ?? ''))
}
