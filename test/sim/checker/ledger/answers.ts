import type { Invariant } from '../invariant.ts'
import { type HostModel, type World, field, isOwnGateway, listOf, numberOf, textOf, violated } from '../model.ts'

/** Refusals that say nothing about what was asked: the same question may be answered later. */
const PASSING = new Set(['LEDGER_FAILED', 'STORE_WRITE_FAILED', 'STORE_CLOSED', 'BUSY', 'UNREACHABLE', 'DEADLINE', 'TIMEOUT'])

interface Given { hash: string, leases: string[], text: string }

/** The same idempotency key gets the same answer for as long as the lease exists, also after a crash, and another question under it gets none. */
export function answers (world: World): Invariant {
  const NAME = 'same-key-same-answer'
  const given = new Map<string, Given>()

  const receiptsText = (reply: unknown): string => listOf(reply, 'receipts').map(receipt => `${textOf(receipt, 'leaseId')}:${numberOf(receipt, 'token')}`).join(' ')
  const idsOf = (list: readonly unknown[]): string[] => list.map(one => textOf(one, 'leaseId'))
  const withoutTimes = (request: unknown): string => JSON.stringify({ ...(request as object), sentMs: 0, epoch: 0, masterPeer: '' })
  /** of an offer: each lease at the host that holds it */
  const allOffered = (held: readonly string[]): boolean => held.every(one => {
    const [host = '', id = ''] = one.split(' ')
    const lease = world.hosts.get(host)?.leases.get(id)
    return lease !== undefined && lease.there && lease.facts.state !== 'ended' && !lease.lost
  })
  const isLost = (host: HostModel, ids: readonly string[]): boolean => ids.some(id => host.leases.get(id)?.lost === true)
  const allLive = (host: HostModel, ids: readonly string[]): boolean => ids.every(id => {
    const lease = host.leases.get(id)
    return lease !== undefined && lease.there && lease.facts.state !== 'ended'
  })

  function judge (host: HostModel, key: string, next: Given, question: string): void {
    const before = given.get(key)
    if (before === undefined || isLost(host, before.leases)) { given.set(key, next); return }
    if (before.hash !== question) violated(world, NAME, host.name, `${key} was asked with another content, and was answered`)
    if (before.text !== next.text) violated(world, NAME, host.name, `${key} was answered ${next.text}, before it was ${before.text}`)
  }

  function refused (host: HostModel, key: string, question: string, code: string, message: string): void {
    const before = given.get(key)
    if (before === undefined || PASSING.has(code) || code === 'STALE_EPOCH' || before.hash !== question || isLost(host, before.leases)) return
    if (allLive(host, before.leases)) violated(world, NAME, host.name, `${key} was answered before, and is refused now though its leases live: ${code}: ${message}`)
  }

  return {
    name: NAME,
    answer (host, { id, method, request, reply, error, caller }) {
      if (error?.code === 'INTERNAL' && world.calls.get(id)?.forged === false) violated(world, 'never-falls-over', host.name, `${method} by ${caller.host} failed: ${error.message}`)
      const clusterId = textOf(request, 'clusterId')
      if (method === 'hold') {
        const key = `hold ${textOf(request, 'key')} on ${host.name}`
        const question = withoutTimes(request)
        if (error !== null) { if (isOwnGateway(host, caller)) refused(host, key, question, error.code, error.message); return }
        judge(host, key, { hash: question, leases: idsOf(listOf(request, 'items')), text: `${receiptsText(reply)} segment ${numberOf(reply, 'segmentId')}` }, question)
      } else if (method === 'hostExtend') {
        const key = `extension ${textOf(request, 'key')} on ${host.name}`
        const question = withoutTimes(request)
        const ids = listOf(request, 'leaseIds').filter(id => typeof id === 'string')
        if (error !== null) { if (isOwnGateway(host, caller) && error.code !== 'INVALID_INPUT') refused(host, key, question, error.code, error.message); return }
        judge(host, key, { hash: question, leases: ids, text: receiptsText(reply) }, question)
      } else if (method === 'hostCommit') {
        const key = `commit of ${textOf(request, 'offerId')} of ${clusterId} on ${host.name}`
        // An extension ends for another one while its leases live on.
        if (error !== null) { if (isOwnGateway(host, caller) && !host.extensions.has(`${clusterId}/${textOf(request, 'offerId')}`)) refused(host, key, '', error.code, error.message); return }
        judge(host, key, { hash: '', leases: idsOf(listOf(reply, 'receipts')), text: receiptsText(reply) }, '')
      } else if (method === 'request' && error === null) {
        const key = `request ${textOf(request, 'key')} of ${clusterId} by ${caller.peerId} on ${host.name}`
        const held = listOf(reply, 'held')
        const before = given.get(key)
        if (before !== undefined && !allOffered(before.leases)) given.delete(key)
        const asked = JSON.stringify([field(request, 'nodes'), field(request, 'volumes'), field(request, 'frontend'), numberOf(request, 'startMs'), numberOf(request, 'endMs'), field(request, 'grow')])
        judge(host, key, {
          hash: asked, leases: held.map(one => `${textOf(one, 'host')} ${textOf(one, 'leaseId')}`),
          text: `${textOf(reply, 'offerId')} segment ${numberOf(reply, 'segmentId')} ${held.map(one => `${textOf(one, 'leaseId')}@${textOf(one, 'host')}:${numberOf(one, 'token')}`).join(' ')}`
        }, asked)
      }
    },
    diskLost ({ host }) {
      for (const key of [...given.keys()]) if (key.endsWith(` on ${host}`)) given.delete(key)
    }
  }
}
