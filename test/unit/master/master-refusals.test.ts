/** What a master makes of offers and refusals that its view of a site did not let it expect. */
import t from 'tap'
import { MusubiError, NoCapacityError } from '../../../protocol/core/errors.ts'
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
