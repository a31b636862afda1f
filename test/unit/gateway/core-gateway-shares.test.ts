/** A gateway whose share of a quota does not suffice leases the rest on the ledgers of other gateways of its site. */
import assert from 'node:assert/strict'
import fc from 'fast-check'
import t from 'tap'
import { type Resources, add, clampToZero, fits, subtract, sum, zero } from '../../../protocol/core/capacity.ts'
import { MusubiError } from '../../../protocol/core/errors.ts'
import type { SiteView } from '../../../protocol/core/gateway/events.ts'
import { allHeld } from '../../../protocol/core/gateway/record.ts'
import { divideShare, isLent, lentInAll } from '../../../protocol/core/gateway/shares.ts'
import type { Request } from '../../../protocol/core/messages.ts'
import { CLUSTER, GatewayBench, HOUR, OTHER } from '../../model/gateway-bench.ts'

const lost = (): MusubiError => new MusubiError('UNREACHABLE', 'no answer', { retryable: true })
const full = (host: string): MusubiError => new MusubiError('QUOTA_EXCEEDED', `gateway ${host} lends no more`, { retryable: true })
const has = (nodes: number, vcpus = 100): Resources => ({ ...zero(), vcpus, memoryMib: 100_000, nodes })

/** A gateway with a small share and two others that lend: they are no other hosts of the bench, as nothing else is there. */
class Bench extends GatewayBench {
  own = has(1, 2)
  lends: Record<string, Resources> = { 'tokyo-8': has(1, 2), 'tokyo-9': has(9) }

  constructor () {
    super()
    this.quota = true
    for (const name of ['tokyo-8', 'tokyo-9']) this.hosts.set(`peer-${name}`, { peer: `peer-${name}`, leases: new Map(), holds: new Map(), extensions: new Map(), epoch: 0, holder: '', tokens: 0 })
  }

  override view (): SiteView {
    const { hosts, ...view } = super.view()
    const lenders = Object.entries(this.lends).map(([host, free]) => ({ host, peer: `peer-${host}`, underlayAddress: `192.0.2.9${host.slice(-1)}`, free }))
    return { ...view, hosts: hosts.filter(({ host }) => host < 'tokyo-8'), share: { own: this.own, lenders } }
  }

  /** Live shares: `host nodes vcpus`. */
  shares (): string[] {
    const record = this.record()
    return record === undefined ? [] : allHeld(record).filter(held => held.kind === 'quota').map(held => `${held.host} ${held.name} ${held.resources.nodes ?? 0} ${held.resources.vcpus}`).sort()
  }

  quotas (): string[] { return this.leases().filter(line => line.includes(' quota ')) }
}

const size = fc.nat(6)
const some: fc.Arbitrary<Resources> = fc.record({ vcpus: size, memoryMib: size, diskMib: size, volumes: size, bandwidthMbit: size, nodes: size })
const overdrawn: fc.Arbitrary<Resources> = some.map(free => ({ ...free, vcpus: free.vcpus - 2 }))

t.test('a share is divided exactly when all have enough of every dimension, and nobody lends more than it has', t => {
  const seen = { divided: 0, alone: 0, none: 0 }
  fc.assert(fc.property(some, overdrawn, fc.array(overdrawn, { maxLength: 4 }), (need, own, lenders) => {
    const all = lentInAll({ own, lenders: lenders.map((free, i) => ({ host: `g${i}`, peer: `p${i}`, underlayAddress: '', free })) })
    const divided = divideShare(need, own, lenders)
    assert.equal(divided !== null, fits(need, all))
    if (divided === null) { seen.none++; return }
    const parts = [...divided.parts]
    assert.deepEqual(subtract(add(divided.own, sum(parts.map(([, part]) => part))), need), { ...zero(), nodes: 0 })
    for (const [i, part] of parts) assert.ok(fits(part, clampToZero(lenders[i] ?? zero())) && !fits(part, zero()), 'within what it has, and not nothing')
    const left = subtract(need, divided.own)
    const one = lenders.some(free => fits(left, clampToZero(free)))
    assert.ok(!one || parts.length <= 1, 'one where one will do')
    if (fits(need, own)) { seen.alone++; assert.equal(parts.length, 0) } else seen.divided++
  }), { numRuns: 5000, seed: 30 })
  for (const [what, times] of Object.entries(seen)) t.ok(times > 50, `${what}: ${times}`)
  t.end()
})

t.test('what the own share lacks is held, committed, activated and released at another gateway, and the master hears nothing of it', t => {
  const b = new Bench()
  const offer = b.offer()
  t.same(b.shares(), ['tokyo-1 quota 1 2', 'tokyo-9 tokyo-1 2 4'], 'one that has enough, rather than two')
  t.same(offer.held.filter(held => held.kind === 'quota').map(held => held.host), ['tokyo-1'])
  t.same(b.offer(), offer, 'asked again, it is the same')
  const receipts = b.commit(offer.offerId)
  t.same(receipts.map(receipt => receipt.leaseId).sort(), offer.held.map(held => held.leaseId).sort(), 'nor in the receipts')
  const from = b.asked.length
  b.settle(b.activating(b.document([offer]), receipts))
  t.same(b.asked.slice(from).map(({ peer, ask }) => `${peer.slice(5)} ${ask.method}`).slice(0, 3), ['tokyo-9 hostCommit', 'tokyo-1 hostActivate', 'tokyo-9 hostActivate'], 'what it counts is counted before anything runs')
  t.same(b.quotas(), ['tokyo-1 quota active', 'tokyo-9 quota active'])
  b.settle(b.extending())
  b.commit('ext-1')
  t.ok([...b.host('tokyo-9').leases.values()].every(lease => lease.endMs === b.record()?.endMs), 'all parts have the later end')
  b.fate = peer => peer === 'peer-tokyo-2' ? lost() : null
  t.throws(() => b.settle(b.releasing()), { code: 'UNREACHABLE' })
  t.same(b.quotas(), ['tokyo-1 quota active', 'tokyo-9 quota active'], 'given back when nothing of it runs')
  b.fate = () => null
  b.tick(60_000)
  t.same([b.leases(), b.record()], [[], undefined])
  t.end()
})

t.test('the ledger of the lender decides: another division, or a refusal with what is missing in all', t => {
  const b = new Bench()
  b.lends['tokyo-8'] = has(2, 4)
  b.fate = (peer, ask) => peer === 'peer-tokyo-8' && ask.method === 'hold' ? full('tokyo-8') : null
  b.offer()
  t.same(b.shares(), ['tokyo-1 quota 1 2', 'tokyo-9 tokyo-1 2 4'])
  t.same(b.leases().filter(line => line.startsWith('tokyo-8')), [])

  const none = new Bench()
  none.fate = (peer, ask) => ask.method === 'hold' && peer === 'peer-tokyo-9' ? full('tokyo-9') : null
  t.throws(() => none.offer(), { code: 'QUOTA_EXCEEDED', message: /site tokyo lends no more to site tsukuba with tokyo-8, tokyo-9: needs 6 vCPU, 4 free; needs 3 nodes, 2 free/ })
  t.same([none.leases(), none.record()], [[], undefined], 'nothing is left')

  const own = new Bench()
  own.fate = (peer, ask) => ask.method === 'hold' && peer === 'peer-tokyo-1' && ask.request.items.some(item => item.kind === 'quota') ? full('tokyo-1') : null
  own.offer()
  t.same(own.shares(), ['tokyo-9 tokyo-1 3 6'], 'and the own ledger too: others lend all of it')

  const down = new Bench()
  down.fate = peer => peer === 'peer-tokyo-9' ? lost() : null
  t.throws(() => down.offer(), { code: 'QUOTA_EXCEEDED' }, 'the part of one that is down cannot be had')
  down.lends['tokyo-8'] = has(2, 4)
  down.tick(60_000)
  t.equal(down.offer({ key: 'k2', sentMs: down.now }).held.length, 5)
  t.end()
})

t.test('a cluster that runs goes on without the gateway that lends to it; its part is released when it is back', t => {
  const b = new Bench()
  const { offer, receipts } = b.active()
  b.fate = peer => peer === 'peer-tokyo-9' ? lost() : null
  const version = { version: 2 }
  b.settle(b.activating(b.document([offer], version), receipts))
  t.equal(b.state(), 'active', 'the next document needs nothing of it')
  b.tick(120_000)
  t.equal(b.state(), 'active')
  t.throws(() => b.settle(b.extending()), { code: 'UNREACHABLE' }, 'but no later end is promised')
  t.throws(() => b.settle(b.releasing()), { code: 'UNREACHABLE' })
  t.same(b.leases(), ['tokyo-9 quota active'])
  b.fate = () => null
  b.tick(60_000)
  t.same([b.leases(), b.record()], [[], undefined])
  t.end()
})

t.test('a gateway that has lost what it lent is not named to the master as a host of the cluster', t => {
  const b = new Bench()
  b.active()
  const lender = b.hosts.get('peer-tokyo-9')
  t.equal([...lender?.leases.values() ?? []].filter(lease => lease.state === 'active').length, 1)
  for (const lease of lender?.leases.values() ?? []) lease.state = 'ended'
  b.settle(b.alive())
  t.match(b.settle(b.alive()), { reply: { state: /^active$/ } })
  t.end()
})

const HIGH = 'c2000000-0000-4000-8000-000000000000'
const MINUTE = 60_000

/** A cluster that runs on a quota of which another gateway has lent a part, and one of a higher priority that stands after it. */
class NoticeBench extends Bench {
  constructor () {
    super()
    this.active()
    this.byNotice = { clusters: [{ clusterId: CLUSTER, cluster: 'demo', site: 'tsukuba', priority: 10, noticeMs: 10 * MINUTE, seq: 0 }], hosts: this.view().hosts }
  }

  high (): { offerId: string } {
    const asking = this.asking({ clusterId: HIGH, cluster: 'high', masterSite: 'osaka', startMs: this.now + 15 * MINUTE, endMs: this.now + 2 * HOUR, key: `h${this.now}` })
    const answer = this.settle({ ...asking, view: { ...asking.view, hosts: asking.view.hosts.map(host => ({ ...host, free: { ...host.free, vcpus: 0 } })) } }, OTHER)
    if (answer.method !== 'request') throw new Error(answer.method)
    return answer.reply
  }

  withdraw (): void {
    this.settle({ method: 'release', request: { clusterId: HIGH, reason: 'given up', offerId: '', leaseIds: [], epoch: 1 } }, OTHER)
    this.tick(1000)
  }

  lose (name: string): void { this.fate = peer => peer === `peer-${name}` ? lost() : null }
  notice (): string { return this.record()?.notice?.state ?? '' }
}

t.test('notice to a cluster whose quota another gateway lends: that one is not asked, and its part is given back with the rest', t => {
  const b = new NoticeBench()
  const [before, from] = [b.ends(), b.asked.length]
  b.high()
  t.same(b.shares(), ['tokyo-1 quota 1 2', 'tokyo-9 tokyo-1 2 4'])
  t.same([b.notice(), b.ends()], ['given', ['tokyo-1 900000', 'tokyo-2 900000', 'tokyo-3 900000', 'tokyo-9 3600000']])
  t.ok(b.leases().includes('tokyo-9 quota held'), 'a part of what the other borrows is lent as well')
  b.withdraw()
  t.same([b.notice(), b.ends()], ['', before])
  t.same(b.asked.slice(from).filter(({ peer, ask }) => peer === 'peer-tokyo-9' && /Curtail|Restore/.test(ask.method)), [])

  const ends = new NoticeBench()
  ends.high()
  for (let i = 0; i < 3; i++) ends.tick(5 * MINUTE)
  t.same([ends.state(), ends.ends()], ['', []], 'also what is lent')
  t.end()
})

t.test('a lender that is down keeps nobody from notice, nor a cluster that runs from its former end', t => {
  const b = new NoticeBench()
  const before = b.ends()
  b.own = has(9)
  b.lose('tokyo-9')
  b.high()
  t.same([b.notice(), b.ends()], ['given', ['tokyo-1 900000', 'tokyo-2 900000', 'tokyo-3 900000', 'tokyo-9 3600000']], 'the gateway itself as well')
  b.withdraw()
  t.same([b.notice(), b.ends()], ['', before])
  b.tick(16 * MINUTE)
  t.equal(b.state(), 'active', 'nobody has taken anything from it')

  const over = new NoticeBench()
  over.own = has(9)
  over.high()
  over.lose('tokyo-9')
  for (let i = 0; i < 3; i++) over.tick(5 * MINUTE)
  t.same([over.state(), over.ends()], ['releasing', ['tokyo-9 3600000']], 'nothing runs after its end')
  over.fate = () => null
  over.tick(MINUTE)
  t.same([over.state(), over.ends()], ['', []])
  t.end()
})

t.test('a host that lends and runs a part hears of the notice', t => {
  const b = new Bench()
  b.lends = { 'tokyo-3': has(9) }
  b.active()
  t.same(b.shares(), ['tokyo-1 quota 1 2', 'tokyo-3 tokyo-1 2 4'])
  b.byNotice = { clusters: [{ clusterId: CLUSTER, cluster: 'demo', site: 'tsukuba', priority: 10, noticeMs: 10 * MINUTE, seq: 0 }], hosts: b.view().hosts }
  NoticeBench.prototype.high.call(b)
  t.same(b.ends(), ['tokyo-1 900000', 'tokyo-2 900000', 'tokyo-3 900000'], 'all that it has of the cluster')
  t.end()
})

t.test('growth borrows too, and a shrink gives all shares of its offer back', t => {
  const b = new Bench()
  b.own = has(9)
  const { offer, receipts } = b.active()
  t.same(b.shares(), ['tokyo-1 quota 3 6'])
  b.own = zero()
  const grow = (key: string): Partial<Request> => ({ key, grow: true, nodes: [{ name: 'demo-tokyo-004', vcpus: 1, memoryMib: 1024 }], sentMs: b.now })
  const more = b.offer(grow('g1'))
  t.same(more.held.map(held => held.kind), ['node'], 'all of its share is lent by another')
  t.same(b.shares(), ['tokyo-1 quota 3 6', 'tokyo-8 tokyo-1 1 1'])
  const grown = b.commit(more.offerId)
  b.settle(b.activating(b.document([offer, more], { version: 2 }), [...receipts, ...grown]))
  t.same(b.quotas(), ['tokyo-1 quota active', 'tokyo-8 quota active'])
  b.settle(b.releasing({ leaseIds: more.held.map(held => held.leaseId) }))
  t.same(b.quotas(), ['tokyo-1 quota active'])
  t.end()
})

t.test('wherever it stops, nothing is lent at any gateway in the end that no master has', t => {
  for (let after = 1; after < 60; after++) {
    for (const powerLost of [false, true]) {
      const b = new Bench()
      b.crashAfter = after
      let done = false
      try {
        const { offerId } = b.active().offer
        done = offerId !== ''
        b.crashAfter = Infinity
      } catch (error) {
        if (error instanceof MusubiError) throw error
        b.crash(powerLost)
      }
      // the master lets go of whatever it was; holds that nobody remembers end by themselves
      b.tick(10_000)
      b.settle(b.releasing())
      b.tick(60_000)
      const remembered = b.leases().filter(line => !line.endsWith(' held'))
      t.same(remembered, [], `after ${after} effects${powerLost ? ' and without power' : ''}`)
      if (done) { t.ok(after > 20); t.end(); return }
    }
  }
  t.fail('it never came to its end')
  t.end()
})

t.test('a gateway knows what others lend by kind and host', t => {
  t.same([isLent({ kind: 'quota', peer: 'a' }, { peer: 'b' }), isLent({ kind: 'quota', peer: 'b' }, { peer: 'b' }), isLent({ kind: 'node', peer: 'a' }, { peer: 'b' })], [true, false, false])
  t.end()
})
