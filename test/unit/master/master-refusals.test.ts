/** What a master makes of offers and refusals that its view of a site did not let it expect. */
import t from 'tap'
import { MusubiError, NoCapacityError } from '../../../protocol/core/errors.ts'
import type { SiteAnswer } from '../../../protocol/core/gateway/events.ts'
import type { MasterEffect, MasterEvent } from '../../../protocol/core/master/events.ts'
import { emptyMaster } from '../../../protocol/core/master/machine.ts'
import { advance } from '../../../protocol/core/master/step.ts'
import { spec } from '../../model/fixtures.ts'
import { ID, T0, World } from '../../model/master.ts'

const HOUR = 3_600_000

t.test('an offer above the price that a cluster allows is refused, whatever the site has advertised', t => {
  const placed = (priceMilli: number | undefined): { state: string, sites: string[], error: string } => {
    const world = new World({ tokyo: 1, osaka: 4, ueno: 4 })
    const known = world.known()
    world.known = () => known.map(site => ({ ...site, priceMilli: site.site === 'ueno' ? 400 : 100 }))
    world.twist = (site, ask) => {
      if (site !== 'osaka' || ask.method !== 'request') return null
      const answer = world.lender(site).answer(structuredClone(ask))
      return answer.method === 'request' ? { ...answer, reply: { ...answer.reply, ...priceMilli === undefined ? {} : { priceMilli } } } : answer
    }
    world.create({ nodes: { count: 3, vcpus: 1, memoryMiB: 768 }, placement: { maxPriceMilli: 500 } })
    world.settle()
    const { state, offers, error } = world.record()
    return { state, sites: offers.map(({ site }) => site).sort(), error: error?.message ?? '' }
  }
  t.match(placed(500), { state: 'active', sites: ['osaka', 'tokyo'] })
  t.match(placed(undefined), { sites: ['osaka', 'tokyo'] }, 'an earlier release says none')
  t.match(placed(501), { state: 'active', sites: ['tokyo', 'ueno'] })
  t.end()
})

t.test('an offer that its master refuses is given back at once, by its name, and the round goes on with who has not answered', t => {
  const known = new World({ tokyo: 1, osaka: 4, ueno: 4 })
  const machine = emptyMaster('tokyo')
  const wanted = spec({ nodes: { count: 5, vcpus: 1, memoryMiB: 768 }, placement: { maxPriceMilli: 500 } })
  const submit = (event: MasterEvent): MasterEffect[] => advance(machine, event, T0)
  submit({ type: 'create', cluster: { id: ID, spec: wanted, vni: 7, imageDigest: 'd', startMs: T0, endMs: T0 + wanted.termMs } })
  const asked = submit({ type: 'looked', clusterId: ID, id: '00000000-0000-4000-8000-000000000001', sites: known.known().map(site => ({ ...site, priceMilli: 100 })) }).filter(effect => effect.effect === 'call')
  const sites = known.known().map(({ site, peer }) => ({ site, call: asked.find(one => one.peer === peer) })).flatMap(({ site, call }) => call === undefined ? [] : [{ site, call }])
  t.ok(sites.length >= 2)
  const answerOf = ({ site, call }: typeof sites[number], priceMilli: number): SiteAnswer => {
    const answer = known.lender(site).answer(structuredClone(call.ask))
    return answer.method === 'request' ? { ...answer, reply: { ...answer.reply, priceMilli } } : answer
  }
  const dear = sites.find(({ site }) => site !== 'tokyo')
  const others = sites.filter(one => one !== dear)
  if (dear === undefined) throw new Error('no other site is asked')
  const offer = answerOf(dear, 501)
  const given = submit({ type: 'reply', callId: dear.call.callId, answer: offer }).filter(effect => effect.effect === 'call')
  t.match(given, [{ peer: dear.call.peer, ask: { method: 'release', request: { clusterId: ID, offerId: offer.method === 'request' ? offer.reply.offerId : '', leaseIds: [] } } }])
  // its confirmation does not end the round for who has not answered
  t.equal(submit({ type: 'reply', callId: given[0]?.callId ?? 0, answer: { method: 'release', reply: { site: dear.site, ended: 1 } } }).find(effect => effect.effect === 'look'), undefined)
  t.notOk(machine.records.get(ID)?.asked.some(({ site }) => site === dear.site), 'it has let go')
  const back = others.flatMap(one => submit({ type: 'reply', callId: one.call.callId, answer: answerOf(one, 0) })).filter(effect => effect.effect === 'call')
  t.same(back.map(({ ask }) => ask.method), others.map(() => 'release'), 'the others let go for the next round')
  t.same(back.flatMap(({ callId, peer }) => submit({ type: 'reply', callId, answer: { method: 'release', reply: { site: peer, ended: 1 } } })).filter(effect => effect.effect === 'look').length, 1)
  t.end()
})

t.test('an offer without a name, or under that of what the cluster has, gives nothing back', t => {
  const run = (offerId: (real: string) => string): Array<{ site: string, offerId: string }> => {
    const world = new World({ tokyo: 1, osaka: 4 })
    const released: Array<{ site: string, offerId: string }> = []
    let twisted = 0
    let has = ''
    world.create({ nodes: { count: 2, vcpus: 1, memoryMiB: 768 } })
    world.settle()
    has = world.record().offers.find(({ site }) => site === 'osaka')?.offerId ?? ''
    world.twist = (site, ask) => {
      if (ask.method === 'release') released.push({ site, offerId: ask.request.offerId })
      if (site !== 'osaka' || ask.method !== 'request') return null
      twisted++
      const answer = world.lender(site).answer(structuredClone(ask))
      return answer.method === 'request' ? { ...answer, reply: { ...answer.reply, held: [], offerId: offerId(has) } } : answer
    }
    world.submit({ type: 'grow', clusterId: ID, count: 3, id: '00000000-0000-4000-8000-00000000000a' })
    world.settle()
    t.same([world.record().state, twisted], ['active', 1])
    return released.filter(one => one.offerId === '' || one.offerId === has)
  }
  t.same(run(() => ''), [])
  t.same(run(has => has), [])
  t.end()
})

t.test('where the earliest start is looked for, who has refused is not looked at again: for policy at once, for room when its calendar is no help', t => {
  const machine = emptyMaster('tokyo')
  const wanted = spec({ nodes: { count: 3, vcpus: 1, memoryMiB: 768 } })
  const sites = new World({ tokyo: 1, osaka: 4, ueno: 4 }).known()
  let ids = 0
  const submit = (event: MasterEvent): MasterEffect[] => advance(machine, event, T0)
  const lookOf = (effects: readonly MasterEffect[]): readonly string[] | null => effects.flatMap(effect => effect.effect === 'look' ? [effect.without] : [])[0] ?? null
  let without = lookOf(submit({ type: 'create', cluster: { id: ID, spec: wanted, vni: 7, imageDigest: 'd', startMs: T0, endMs: T0 + wanted.termMs, earliest: { fromMs: T0, latestMs: T0 + HOUR } } }))
  /** Every site of a round refuses. */
  const round = (error: (site: string) => MusubiError): readonly string[] | null => {
    const left = without ?? []
    const calls = submit({ type: 'looked', clusterId: ID, id: `00000000-0000-4000-8000-${String(++ids).padStart(12, '0')}`, sites: sites.filter(({ site }) => !left.includes(site)), startMs: T0 + 1000 }).filter(effect => effect.effect === 'call')
    return without = calls.map(call => lookOf(submit({ type: 'failed', callId: call.callId, error: error(call.peer) }))).find(look => look !== null) ?? null
  }
  t.same(without, [])
  const full = (): MusubiError => new NoCapacityError('no room')
  t.same(round(full), [], 'somebody may have been faster')
  t.same(round(full), ['osaka'], 'again: another bound, of which its calendar says nothing')
  t.same(round(peer => peer.includes('ueno') ? new MusubiError('POLICY_DENIED', 'no') : full()), ['osaka', 'ueno'])
  t.end()
})
