import type { CallPeer } from './peers.ts'
import type { CordonResource } from '../protocol/api.ts'
import { MusubiError, NotFoundError } from '../protocol/core/errors.ts'
import type { Store } from '../store/store.ts'

export interface CordonState { cordoned: boolean, reason: string }

/** Whether this host takes new leases; what it has promised stays. */
export interface Cordon {
  get (): CordonState
  /** Resolves when it is on the disk. */
  set (cordoned: boolean, reason: string): Promise<void>
  /** @throws MusubiError HOST_CORDONED */
  check (): void
}

const KEY = 'cordon'
const MAX_REASON = 200

/**
 * @param host the own one, for messages
 * @param onChange told of every change, e.g. to advertise it
 */
export async function createCordon (store: Store, host: string, onChange: (state: CordonState) => void = () => undefined): Promise<Cordon> {
  let state = await store.get<CordonState>(KEY) ?? { cordoned: false, reason: '' }
  return {
    get: () => state,
    async set (cordoned, reason) {
      const next = { cordoned, reason: cordoned ? reason.slice(0, MAX_REASON) : '' }
      if (next.cordoned === state.cordoned && next.reason === state.reason) return
      await store.put(KEY, next, { sync: true })
      state = next
      onChange(next)
    },
    check () {
      if (state.cordoned) throw new MusubiError('HOST_CORDONED', `host ${host} takes no new leases${state.reason === '' ? '' : `: ${state.reason}`}`, { hint: `take it back into use with: musubi host uncordon ${host}` })
    }
  }
}

export interface CordonHostDeps {
  host: string
  isGateway: boolean
  cordon: Cordon
  call: CallPeer
  hosts: () => ReadonlyArray<{ host: string, peerId: string }>
  /** names of the site's gateways, for the error that sends people there */
  gateways: () => readonly string[]
}

/** Cordons the own host, or from a gateway any host of the site. @throws NotFoundError, MusubiError NOT_A_GATEWAY, UnreachableError */
export function createHostCordon (deps: CordonHostDeps): (host: string, cordoned: boolean, reason: string) => Promise<CordonResource> {
  return async (host, cordoned, reason) => {
    if (host === deps.host) {
      await deps.cordon.set(cordoned, reason)
      return { host, cordoned }
    }
    const known = deps.hosts()
    const found = known.find(h => h.host === host)
    if (found === undefined) throw new NotFoundError(`this site has no host "${host}"`, known.length === 0 ? 'see: musubi host list' : `it has ${known.map(h => h.host).slice(0, 20).join(', ')}`)
    if (!deps.isGateway) {
      const gateways = deps.gateways()
      throw new MusubiError('NOT_A_GATEWAY', 'this host is no gateway: it can cordon itself only', { hint: `run it on ${gateways.length === 0 ? 'a gateway of this site' : gateways.join(' or ')}, or on ${host} itself` })
    }
    const reply = await deps.call(found.peerId, 'hostCordon', { cordoned, reason })
    return { host, cordoned: reply.cordoned }
  }
}
