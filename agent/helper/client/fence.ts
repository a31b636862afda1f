import type { FenceRecord } from '../../../protocol/core/fence/fence.ts'
import type { Fence } from '../fence/store.ts'
import type { HelperClient } from './client.ts'

export interface RemoteFence extends Fence {
  /** Sends an order about a resource by another verb; `record`: what the fence has when it is answered. */
  order (resource: string, send: () => Promise<unknown>, record: FenceRecord): Promise<void>
}

/**
 * The helper's fence as the agent has it. Orders go there; `get` and `records` answer from the last look
 * (`tick`), brought forward by what was answered since. A resource of which an order is under way, or
 * has ended without an answer, is unknown until the next look: whoever decides by it asks.
 */
export function createRemoteFence (client: Pick<HelperClient, 'call' | 'onConnect'>): RemoteFence {
  let known = new Map<string, FenceRecord>()
  /** grows with every order and every look */
  let clock = 0
  const underWay = new Map<string, number>()
  /** the last order of each resource that is not older than the last look */
  const latest = new Map<string, number>()
  // another helper, perhaps with another store
  client.onConnect(() => { known = new Map() })

  async function order (resource: string, send: () => Promise<unknown>, record: FenceRecord): Promise<void> {
    const at = ++clock
    latest.set(resource, at)
    known.delete(resource)
    underWay.set(resource, (underWay.get(resource) ?? 0) + 1)
    try {
      await send()
    } finally {
      const left = (underWay.get(resource) ?? 1) - 1
      if (left > 0) underWay.set(resource, left)
      else underWay.delete(resource)
    }
    // with another order sent since, nobody knows which of the two came last
    if (latest.get(resource) === at && !underWay.has(resource)) known.set(resource, record)
  }

  async function look (): Promise<void> {
    const since = ++clock
    let records: FenceRecord[]
    try {
      records = await client.call('fence-records', {})
    } catch (error) {
      known = new Map()
      throw error
    }
    known = new Map(records.map(record => [record.resource, record]))
    for (const [resource, at] of latest) {
      if (at > since || underWay.has(resource)) known.delete(resource)
      else latest.delete(resource)
    }
  }

  return {
    order,
    grant: (resource, { clusterId, counter, endMs }) => order(resource, () => client.call('fence-grant', { resource, claim: { clusterId, counter, endMs } }), { resource, state: 'granted', clusterId, counter, endMs }),
    // what was gone stays so: the next look tells
    revoke: (resource, clusterId, counter) => order(resource, () => client.call('fence-revoke', { resource, clusterId, counter }), { resource, state: 'revoking', clusterId, counter, endMs: 0 }),
    gone (resource, counter) {
      const clusterId = known.get(resource)?.clusterId ?? ''
      return order(resource, () => client.call('fence-gone', { resource, counter }), { resource, state: 'gone', clusterId, counter, endMs: 0 })
    },
    tick: look,
    get: resource => known.get(resource),
    records: () => [...known.values()]
  }
}
