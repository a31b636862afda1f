import type { MethodName, Methods as WireMethods } from '../protocol/wire/codec.ts'
import type { KeepAliveRequest } from '../protocol/core/messages.ts'
import type { Filled } from '../protocol/wire/filled.ts'

type Whole = { [M in MethodName]: { request: Filled<WireMethods[M]['request']>, reply: Filled<WireMethods[M]['reply']> } }
/** Requests and replies of the lease protocol by method name, every part set but those that may be left out. */
export type Methods = Omit<Whole, 'keepAlive' | 'calendar'> & {
  keepAlive: { request: KeepAliveRequest, reply: Whole['keepAlive']['reply'] }
  calendar: { request: Whole['calendar']['request'], reply: Omit<Whole['calendar']['reply'], 'lending'> & Pick<WireMethods['calendar']['reply'], 'lending'> }
}
export type Activate = Methods['activate']['request']
export type HostStatus = Methods['hostStatus']['reply']

export interface CallOptions { deadlineMs?: number, signal?: AbortSignal }

/** Calls one peer by PeerId; calls to oneself take the same way. @throws MusubiError of the far side, UnreachableError */
export type CallPeer = <M extends MethodName>(peer: string, method: M, request: Methods[M]['request'], options?: CallOptions) => Promise<Methods[M]['reply']>

/** Who calls, as proved by the connection; `site` is null for a coordinator. */
export interface Caller { peerId: string, site: string | null, host: string, gateway: boolean }
