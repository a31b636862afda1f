import type { Driver } from '../../agent/drivers/driver.ts'
import type { HelperClient } from '../../agent/helper/client/client.ts'
import { resourceOf } from '../../agent/helper/fence/permits.ts'
import { errorCode } from '../../protocol/core/errors.ts'
import type { ObjectKind } from '../../protocol/core/desired.ts'

const HOUR_MS = 3_600_000
/** As a ledger counts: no two changes with the same number. */
let counter = Math.floor(Date.now() / 1_000)

/** A driver behind the helper's socket, used as an agent uses it: in the name of a cluster, and gone things are called gone. */
export function driverOverSocket<K extends ObjectKind> (client: HelperClient, kind: K): Driver<K> {
  const shared = kind === 'tunnel'
  const clusterId = 'contract'
  return {
    kind,
    async probe (signal) {
      return (await client.call('probe', {}, { signal })).filter(found => found.kind === kind).map(found => found.problem)
    },
    observe: async signal => await client.call('observe', { kind }, { signal }),
    async apply (name, spec, signal) {
      const make = async (): Promise<void> => { await client.call('apply', { kind, name, spec, claim: shared ? null : { clusterId, counter: ++counter, endMs: Date.now() + HOUR_MS } }, { signal }) }
      try {
        await make()
      } catch (error) {
        if (errorCode(error) !== 'RESOURCE_HELD') throw error
        // revoked before: it is made again only once it was seen to be gone
        await client.call('remove', { kind, name, claim: { clusterId, counter: ++counter } }, { signal })
        await client.call('observe', { kind }, { signal })
        await client.call('fence-gone', { resource: resourceOf({ kind, name }), counter }, { signal })
        await make()
      }
    },
    async remove (name, signal) {
      await client.call('remove', { kind, name, claim: shared ? null : { clusterId, counter: ++counter } }, { signal })
    }
  }
}
