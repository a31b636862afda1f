import type { Logger } from 'pino'
import type { Caller, CallOptions, CallPeer, Methods } from './peers.ts'
import type { MethodName } from '../protocol/wire/codec.ts'
import type { Calendar } from './calendar/calendar.ts'
import type { Told } from './calendar/told.ts'
import type { Gateway } from './gateway/gateway.ts'
import type { Lessor } from './lessor/lessor.ts'
import type { Copies } from './master/copies.ts'
import { InvalidInputError, MusubiError } from '../protocol/core/errors.ts'
import { copyProblem } from '../protocol/core/verify/request.ts'
import type { SiteAd } from '../protocol/wire/gen/types.ts'
import { filled } from '../protocol/wire/filled.ts'
import { isGateway } from '../protocol/mesh/roles.ts'
import type { SiteCaches } from './cache/site.ts'
import type { Cordon } from './cordon.ts'
import type { CallContext, Mesh, MeshLog } from '../protocol/mesh/mesh.ts'

/** Structured log lines of the mesh go to the process's log. */
export const logFor = (log: Logger): MeshLog => (level, text, data) => { log[level](data, text) }

/** Only a policy that says something of times has it, and an earlier release never. */
const MAYBE = 'lending'

/** The mesh's call, with every nested part of the reply checked to be there, but for what may be left out. */
export function callPeerOf (mesh: Pick<Mesh, 'call' | 'describe'>): CallPeer {
  return async <M extends MethodName>(peer: string, method: M, request: Methods[M]['request'], options?: CallOptions) => {
    const reply: object = await mesh.call(peer, method, request, options)
    filled(Object.fromEntries(Object.entries(reply).filter(([name, value]) => name !== MAYBE || value !== null)), `reply to ${method} from ${mesh.describe(peer)}`)
    return reply as Methods[M]['reply']
  }
}

export function callerOf ({ peerId, role }: Pick<CallContext, 'peerId' | 'role'>): Caller {
  return role.kind === 'host'
    ? { peerId, site: role.site, host: role.host, gateway: isGateway(role) }
    : { peerId, site: null, host: role.name, gateway: false }
}

export interface ServeDeps {
  site: string
  lessor: Lessor
  gateway: Gateway | null
  calendar?: Pick<Calendar, 'own'>
  /** left out on a host that is no gateway */
  told?: Told
  /** left out on a host that is no gateway */
  caches?: SiteCaches
  /** of the decisions of masters of this site */
  copies: Pick<Copies, 'keep'>
  cordon?: Cordon
  callerOf: (context: CallContext) => Caller
  /** what this agent knows of sites, for searches of peers */
  sites: () => SiteAd[]
}

/**
 * Which peer may ask what: gateways (of any admitted site) ask gateways; hosts listen only to
 * gateways of their own site. What is asked is checked by who answers.
 */
export function serveAgent (mesh: Mesh, { site, lessor, gateway, calendar, told, caches, copies, cordon, callerOf: who, sites }: ServeDeps): void {
  const refuse = (caller: Caller, what: string): never => {
    throw new MusubiError('FORBIDDEN', `${caller.host} of ${caller.site ?? 'the coordinators'} may not ${what} here`)
  }
  const fromMaster = (context: CallContext): Caller => {
    const caller = who(context)
    return caller.gateway ? caller : refuse(caller, 'negotiate')
  }
  const fromOwnGateway = (context: CallContext, what = 'change leases of a host'): Caller => {
    const caller = who(context)
    return caller.gateway && caller.site === site ? caller : refuse(caller, what)
  }
  if (gateway !== null) {
    mesh.serve('extend', (r, c) => gateway.extend(r, fromMaster(c)))
    // a grant comes only with the first keep-alives of a new master
    mesh.serve('keepAlive', (r, c) => gateway.keepAlive({ ...r, grant: r.grant === null ? null : filled(r.grant, 'keepAlive.grant') }, fromMaster(c)))
    mesh.serve('request', (r, c) => gateway.request(filled(r, 'request'), fromMaster(c)))
    mesh.serve('quote', (r, c) => gateway.quote(filled(r, 'quote'), fromMaster(c)))
    mesh.serve('commit', (r, c) => gateway.commit(filled(r, 'commit'), fromMaster(c)))
    mesh.serve('activate', (r, c) => gateway.activate(filled(r, 'activate'), fromMaster(c)))
    mesh.serve('release', (r, c) => gateway.release(filled(r, 'release'), fromMaster(c)))
    mesh.serve('status', (r, c) => gateway.status(r, fromMaster(c)))
    mesh.serve('search', () => ({ sites: sites() }))
  }
  if (calendar !== undefined) mesh.serve('hostCalendar', (r, c) => { fromOwnGateway(c, 'read the calendar of a host'); return calendar.own(r.leases, r.quotaOf) })
  if (told !== undefined) mesh.serve('calendar', (r, c) => told.answer(r, fromMaster(c)))
  if (caches !== undefined) mesh.serve('cache', (r, c) => caches.answer(r, fromMaster(c)))
  // who may be master of a site's clusters is that site's affair
  mesh.serve('claim', (r, c) => lessor.claim(r, fromOwnGateway(c, 'claim clusters')))
  mesh.serve('copy', (r, c) => {
    const caller = fromOwnGateway(c, 'leave copies')
    const problem = copyProblem(r)
    if (problem !== null) throw new InvalidInputError(`a copy of cluster ${r.clusterId.slice(0, 64)} from ${caller.host} is refused: ${problem}`)
    return copies.keep(r, caller)
  })
  mesh.serve('hold', (r, c) => lessor.hold(filled(r, 'hold'), fromOwnGateway(c).host))
  mesh.serve('hostCommit', (r, c) => { fromOwnGateway(c); return lessor.commit(r) })
  mesh.serve('hostExtend', (r, c) => { fromOwnGateway(c); return lessor.extend(r) })
  mesh.serve('hostCurtail', (r, c) => { fromOwnGateway(c); return lessor.curtail(r) })
  mesh.serve('hostRestore', (r, c) => { fromOwnGateway(c); return lessor.restore(r) })
  mesh.serve('hostKeepAlive', (r, c) => { fromOwnGateway(c); return lessor.keepAlive(r) })
  mesh.serve('hostActivate', (r, c) => { fromOwnGateway(c); return lessor.activate(filled(r, 'activate')) })
  mesh.serve('hostRelease', (r, c) => { fromOwnGateway(c); return lessor.release(r) })
  mesh.serve('hostStatus', (r, c) => { fromOwnGateway(c); return lessor.status(r.clusterId) })
  if (cordon !== undefined) {
    mesh.serve('hostCordon', async (r, c) => {
      fromOwnGateway(c)
      await cordon.set(r.cordoned, r.reason)
      return { cordoned: r.cordoned }
    })
  }
}
