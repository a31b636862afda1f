/** What the test of kill -9 takes for a broken promise: each kind of it is found. */
import t from 'tap'
import type { ClusterResource, LeaseResource } from '../../../protocol/api.ts'
import { HOLD_TTL_MS } from '../../../protocol/core/limits.ts'
import { RealAgent } from '../../agents/agent.ts'
import { Book } from '../../agents/book.ts'

const agent = (name: string): RealAgent => new RealAgent({ site: 'tokyo', name, peerId: name, gateway: true, address: '127.0.0.1', dir: '/nowhere', env: {} })
const lease = (more: Partial<LeaseResource> = {}): LeaseResource => ({
  leaseId: 'l1', clusterId: 'c1c1c1c1-1', cluster: 'k1', host: 'tokyo-1', kind: 'node', name: 'k1-tokyo-001', state: 'active', segmentId: 0, startMs: 0, endMs: 10_000, formerEndMs: 0, remainsMs: 1, token: 5, masterSite: 'tokyo',
  epoch: 1, masterless: false, heardAgoMs: null, skewMs: null, resources: { vcpus: 1, memoryMib: 512, diskMib: 0, volumes: 0, bandwidthMbit: 0 }, ...more
})

function leased (): { book: Book, host: RealAgent } {
  const book = new Book()
  const host = agent('tokyo-1')
  const told = book.told('c1c1c1c1-1', 'k1', host)
  told.endMs = 10_000
  book.now(told, 'leased')
  book.hear(host, [lease()], performance.now(), performance.now())
  return { book, host }
}

t.test('after a restart', t => {
  const cases: Array<[string, LeaseResource[], RegExp | null]> = [
    ['the same', [lease()], null], ['a newer token and a later end', [lease({ token: 6, endMs: 11_000 })], null], ['nothing', [], /lost the lease/], ['only held', [lease({ state: 'held' })], /is held/],
    ['an older token', [lease({ token: 4 })], /token .* went back/], ['an earlier end', [lease({ endMs: 9_000 })], /too early/]
  ]
  for (const [what, after, broken] of cases) {
    const { book, host } = leased()
    const owed = book.owed(host)
    t.equal(owed.length, 1)
    book.compare(host, after, owed)
    if (broken === null) t.same(book.broken, [], what)
    else t.match(book.broken, [broken], what)
  }
  const { book, host } = leased()
  const owed = book.owed(host)
  for (const told of book.clusters.values()) book.now(told, 'ending')
  book.compare(host, [], owed)
  t.same(book.broken, [], 'what was deleted meanwhile is owed no more')
  t.end()
})

t.test('while everybody holds still', t => {
  const { book, host } = leased()
  const views = (holds: number): Map<string, ClusterResource> => new Map([['c1c1c1c1-1', { id: 'c1c1c1c1-1', state: 'building', lease: { sites: 1, holds, negotiateMs: 0, rttMs: 0 } } as ClusterResource]])
  t.same(book.whole(new Map([[host, [lease()]]]), views(1)), [])
  t.match(book.whole(new Map([[host, [lease()]]]), views(2)), [/1 active leases of 2/], 'a part is missing')
  t.match(book.whole(new Map([[host, [lease()]]]), new Map()), [/forgotten k1/])
  t.same(book.orphans(new Map([[host, [lease()]]]), new Map([[host, ['domain c1c1c1c1.k1-tokyo-001', 'tunnel wg']]])), [])
  for (const told of book.clusters.values()) book.now(told, 'ending')
  t.same(book.orphans(new Map([[host, [lease({ state: 'committed' })]]]), new Map([[host, ['domain c1c1c1c1.k1-tokyo-001', 'tunnel wg']]])),
    ['tokyo-1 lease node k1-tokyo-001 committed', 'tokyo-1 object domain c1c1c1c1.k1-tokyo-001', 'tokyo-1 object tunnel wg'])
  t.end()
})

t.test('a hold that does not end', t => {
  const { book, host } = leased()
  const held = lease({ leaseId: 'l2', clusterId: 'c2', state: 'held' })
  for (const atMs of [0, HOLD_TTL_MS, HOLD_TTL_MS + 30_000]) book.hear(host, [held], atMs, atMs)
  t.match(book.broken, [/should have ended by itself/])
  t.end()
})
