import type { Details } from '../../details.ts'
import type { Observers } from '../../reconcile/reconciler.ts'
import { KIND_ORDER, type ObjectKind } from '../../../protocol/core/desired.ts'
import type { Fence } from '../fence/store.ts'
import type { PublicTrack } from '../../drivers/network/tunnel/driver.ts'
import type { Hands } from '../hands.ts'
import { resourceOf } from '../fence/permits.ts'
import type { HelperClient } from './client.ts'
import { createRemoteFence } from './fence.ts'

/** The host as an agent without privileges has it: everything is asked of the helper. */
export interface RemoteHost {
  observers: Observers
  hands: Pick<Hands, 'apply' | 'remove'>
  fence: Fence
  details: Details
  /** Public halves of this gateway's tunnel keys. @throws MusubiError HELPER_UNREACHABLE */
  tunnelTracks (): Promise<PublicTrack[]>
}

/** @param kinds that this host has drivers for */
export function createRemoteHost (client: HelperClient, kinds: readonly ObjectKind[]): RemoteHost {
  const fence = createRemoteFence(client)
  return {
    fence,
    observers: Object.fromEntries(KIND_ORDER.filter(kind => kinds.includes(kind)).map(kind => [kind, {
      kind, observe: async (signal: AbortSignal) => await client.call('observe', { kind }, { signal })
    }])),
    hands: {
      async apply ({ kind, name, spec }, claim, signal) {
        const send = (): Promise<unknown> => client.call('apply', { kind, name, spec, claim }, { signal })
        if (claim === null) await send()
        else await fence.order(resourceOf({ kind, name }), send, { resource: resourceOf({ kind, name }), state: 'granted', ...claim })
      },
      async remove ({ kind, name }, order, signal) {
        const claim = order === null ? null : { clusterId: order.clusterId, counter: order.counter }
        const send = (): Promise<unknown> => client.call('remove', { kind, name, claim }, { signal })
        if (claim === null) await send()
        else await fence.order(resourceOf({ kind, name }), send, { resource: resourceOf({ kind, name }), state: 'revoking', ...claim, endMs: 0 })
      }
    },
    // for people only: what cannot be asked is left out
    details: { of: async (kind, name) => await client.call('detail', { kind, name }).catch(() => ({})) },
    tunnelTracks: () => client.call('tunnel-tracks', {})
  }
}
