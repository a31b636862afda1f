import type { LeaseFacts } from '../../observation.ts'
import type { Invariant } from '../invariant.ts'
import { type LeaseChange, type World, leaseText, violated } from '../model.ts'

/** Own reading of the protocol: from where to where a lease may go in one change; '' is "not there". */
const MOVES = new Set([' held', 'held committed', 'committed active', 'held ended', 'committed ended', 'active ended', 'held held', 'committed committed', 'active active', 'ended ended', 'ended '])

const same = (a: LeaseFacts, b: LeaseFacts): boolean =>
  a.offerId === b.offerId && a.clusterId === b.clusterId && a.kind === b.kind && a.name === b.name && a.segmentId === b.segmentId && a.masterSite === b.masterSite &&
  a.requester === b.requester && a.startMs === b.startMs && a.ttlMs === b.ttlMs && a.heldToken === b.heldToken &&
  a.resources.vcpus === b.resources.vcpus && a.resources.memoryMib === b.resources.memoryMib && a.resources.diskMib === b.resources.diskMib &&
  a.resources.volumes === b.resources.volumes && a.resources.bandwidthMbit === b.resources.bandwidthMbit

/** A lease moves along the protocol's states only, what it is about never changes, and every change has a token of its own, above all before it. */
export function leaseTable (world: World): Invariant {
  const NAME = 'lease-table'
  /** by host: highest token that any lease or extension has carried */
  const highest = new Map<string, number>()
  /** of the observation that is being worked in */
  const tokens: number[] = []

  function moved ({ host, before, after, reread }: LeaseChange): void {
    const from = before?.state ?? ''
    const to = after?.state ?? ''
    const fail: (why: string) => never = why => violated(world, NAME, host.name, `${leaseText(after ?? (before as LeaseFacts))} ${why}`)
    if (before !== null && after !== null && !same(before, after)) fail('is about something else than before')
    if (reread) return // what may be lost or come to light is judged by `promise-kept`
    if (!MOVES.has(`${from} ${to}`)) fail(`went from "${from}" to "${to}"`)
    if (before === null || after === null) return
    if (after.token <= before.token) fail(`changed without a new token: ${before.token}, then ${after.token}`)
    if (from === 'ended' && (after.endMs !== before.endMs || after.endedMs !== before.endedMs || (before.vacated && !after.vacated))) fail('changed after its end')
    if (from === to && after.commitToken !== before.commitToken) fail('has another commit token')
    if (from === 'held' && to === 'committed' && after.commitToken !== after.token) fail(`was committed with the commit token ${after.commitToken}, its token is ${after.token}`)
    if (from === 'held' && to === 'held' && after.noticeSeq === before.noticeSeq) fail('was written again while it was held')
    if (to === 'active' && from === 'committed' && after.endMs !== before.endMs) fail('has another end by being activated')
  }

  return {
    name: NAME,
    lease (change) {
      const { host, after, before, reread } = change
      moved(change)
      if (after === null) return
      const top = highest.get(host.name) ?? 0
      if (!reread && after.token <= top && before?.token !== after.token) violated(world, NAME, host.name, `${leaseText(after)} got the token ${after.token}, and ${top} was given out before`)
      if (after.token > (host.facts?.counter ?? 0)) violated(world, NAME, host.name, `${leaseText(after)} has the token ${after.token}, the ledger's counter is ${host.facts?.counter ?? 0}`)
      tokens.push(after.token)
    },
    extension (host, before, after, reread) {
      if (after === null) return
      if (!reread && before !== null && after.token <= before.token) violated(world, NAME, host.name, `the extension ${after.offerId} changed without a new token`)
      tokens.push(after.token)
    },
    host (host, _before, reread) {
      if (tokens.length === 0 && !reread) return
      let top = reread ? host.facts?.counter ?? 0 : highest.get(host.name) ?? 0
      for (const token of tokens) if (token > top) top = token
      highest.set(host.name, top)
      tokens.length = 0
    }
  }
}
