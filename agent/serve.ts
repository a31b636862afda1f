import type { Logger } from 'pino'
import type { Caller, CallPeer } from './peers.ts'
import type { Gateway } from './gateway/gateway.ts'
import type { Lessor } from './lessor.ts'
import { MusubiError } from '../protocol/core/errors.ts'
import type { SiteAd } from '../protocol/wire/gen/types.ts'
import { filled } from '../protocol/wire/filled.ts'
import { isGateway } from '../protocol/mesh/roles.ts'
import type { Cordon } from './cordon.ts'
import type { CallContext, Mesh, MeshLog } from '../protocol/mesh/mesh.ts'

/** Structured log lines of the mesh go to the process's log. */
export const logFor = (log: Logger): MeshLog => (level, text, data) => { log[level](data, text) }

/** The mesh's call, with every nested part of the reply checked to be there. */
export function callPeerOf (mesh: Mesh): CallPeer {
  return async (peer, method, request, options) => {
    const reply = await mesh.call(peer, method, request, options)
    return filled(reply, `reply to ${method} from ${mesh.describe(peer)}`)
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
  cordon?: Cordon
  callerOf: (context: CallContext) => Caller
  /** what this agent knows of sites, for searches of peers */
  sites: () => SiteAd[]
}

/**
 * Which peer may ask what: gateways (of any admitted site) ask gateways; hosts listen only to
 * gateways of their own site.
 */
export function serveAgent (mesh: Mesh, { site, lessor, gateway, cordon, callerOf: who, sites }: ServeDeps): void {
  const refuse = (caller: Caller, what: string): never => {
    throw new MusubiError('FORBIDDEN', `${caller.host} of ${caller.site ?? 'the coordinators'} may not ${what} here`)
  }
  const fromMaster = (context: CallContext): Caller => {
    const caller = who(context)
    return caller.gateway ? caller : refuse(caller, 'negotiate')
  }
  const fromOwnGateway = (context: CallContext): Caller => {
    const caller = who(context)
    return caller.gateway && caller.site === site ? caller : refuse(caller, 'change leases of a host')
  }
  if (gateway !== null) {
    mesh.serve('request', (r, c) => gateway.request(filled(r, 'request'), fromMaster(c)))
    mesh.serve('commit', (r, c) => gateway.commit(filled(r, 'commit'), fromMaster(c)))
    mesh.serve('activate', (r, c) => gateway.activate(filled(r, 'activate'), fromMaster(c)))
    mesh.serve('release', (r, c) => gateway.release(filled(r, 'release'), fromMaster(c)))
    mesh.serve('status', (r, c) => gateway.status(r, fromMaster(c)))
    mesh.serve('search', () => ({ sites: sites() }))
  }
  mesh.serve('hold', (r, c) => { fromOwnGateway(c); return lessor.hold(filled(r, 'hold')) })
  mesh.serve('hostCommit', (r, c) => { fromOwnGateway(c); return lessor.commit(r) })
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
