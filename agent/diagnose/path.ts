import type { Echo, SegmentFacts } from './facts.ts'
import { quoted } from './findings.ts'
import type { Member } from './members.ts'
import type { HopResource } from '../../protocol/network-api.ts'

export type EchoWhere = 'segment' | 'tunnel' | 'underlay'
/** Asks somebody from this gateway; `bytes` of IP that must not be broken up; the largest size is looked for up to that. */
export type Ask = (where: EchoWhere, address: string, bytes: number) => Promise<{ echo: Echo, largestBytes: number | null }>

const FULL = 1500
type Hop = Omit<HopResource, 'rttMs' | 'sent' | 'received' | 'largestBytes' | 'ok' | 'why'>

const NOT_ASKED = { rttMs: null, sent: 0, received: 0, largestBytes: null } as const

async function asked (hop: Hop, ask: Ask, where: EchoWhere, address: string, wanted: number): Promise<HopResource> {
  const { echo, largestBytes } = await ask(where, address, wanted)
  const ok = largestBytes !== null && largestBytes >= wanted
  const why = ok ? '' : largestBytes === null ? `no answer from ${address}${quoted(echo.why)}` : `only ${largestBytes} of ${wanted} bytes pass${echo.toldMtu === null ? ', and nobody says so' : ` (MTU ${echo.toldMtu} was told)`}`
  return { ...hop, rttMs: echo.rttMs?.avg ?? null, sent: echo.sent, received: echo.received, largestBytes, ok, why }
}

/** A place of this host, as its links say. */
function local (hop: Hop, facts: SegmentFacts, names: readonly string[]): HopResource {
  const bad = facts.links.filter(({ name }) => names.includes(name)).flatMap(({ name, want, have }) =>
    have === null ? [`${name} is not there`] : !have.up ? [`${name} is down`] : want.master !== null && have.master !== want.master ? [`${name} is not at ${want.master}`] : have.mtu < want.mtu ? [`${name} has MTU ${have.mtu}, not ${want.mtu}`] : [])
  const mtu = Math.min(...facts.links.filter(({ name, have }) => names.includes(name) && have !== null).map(({ have }) => have?.mtu ?? FULL), FULL)
  return { ...hop, ...NOT_ASKED, largestBytes: mtu, ok: bad.length === 0, why: bad.join(', ') }
}

/** Host bridge, in-site VXLAN and the node itself, of a member at this gateway's site: outwards from the gateway. */
async function nearHops (member: Member, facts: SegmentFacts, ask: Ask): Promise<HopResource[]> {
  const vni6 = facts.vni.toString(16).padStart(6, '0')
  const hops: HopResource[] = []
  const own = member.underlayAddress === facts.site.localAddress
  if (own) {
    const names = [`mzb${vni6}`, `mzh${vni6}`, 'host0']
    if (facts.links.some(({ name }) => name === `mzb${vni6}`)) hops.push(local({ hop: 'host bridge', site: member.site, host: member.host, interface: `mzb${vni6}`, from: '', to: '', port: null }, facts, names))
  } else if (facts.trunk !== null) {
    hops.push(local({ hop: 'in-site VLAN', site: member.site, host: member.host, interface: facts.trunk.nic, from: facts.site.localAddress, to: member.underlayAddress, port: null }, facts, ['site0m']))
  } else {
    const mtu = facts.reach.find(({ what, address }) => what === 'site-host' && address === member.underlayAddress)?.wantBytes ?? FULL
    hops.push(local({ hop: 'in-site VXLAN', site: member.site, host: member.host, interface: 'site0', from: facts.site.localAddress, to: member.underlayAddress, port: facts.site.port }, facts, ['site0', 'site0m']))
    hops.push(await asked({ hop: 'underlay', site: member.site, host: member.host, interface: facts.underlay?.link ?? '', from: facts.site.localAddress, to: member.underlayAddress, port: null }, ask, 'underlay', member.underlayAddress, mtu))
  }
  hops.push(await asked({ hop: 'node', site: member.site, host: member.host, interface: own ? '' : `${facts.trunk === null ? 'mzs' : 'mzv'}${vni6}`, from: '', to: member.address, port: own || facts.trunk !== null ? null : facts.site.port }, ask, 'segment', member.address, FULL))
  return hops
}

/** Underlay, tunnel, far gateway and the member itself: outwards from this gateway. */
async function farHops (member: Member, gateway: Member, facts: SegmentFacts, ask: Ask): Promise<HopResource[]> {
  const peer = facts.tunnel?.peers.find(({ site }) => site === member.site)
  const reach = facts.reach.find(({ what, site }) => what === 'endpoint' && site === member.site)
  const hops: HopResource[] = []
  const base = { site: member.site, host: gateway.host }
  if (reach !== undefined) {
    const { address, port, wantBytes, echo, largestBytes } = reach
    const ok = largestBytes !== null && largestBytes >= wantBytes
    const why = ok ? '' : largestBytes === null ? `no answer from ${address}${quoted(echo.why)}` : `only ${largestBytes} of ${wantBytes} bytes pass`
    hops.push({ hop: 'underlay', ...base, interface: facts.underlay?.link ?? '', from: facts.site.localAddress, to: address, port, rttMs: echo.rttMs?.avg ?? null, sent: echo.sent, received: echo.received, largestBytes, ok, why })
  }
  if (peer !== undefined && facts.tunnel !== null) {
    const { interface: name, wantMtu, wantAddress } = facts.tunnel
    hops.push(await asked({ hop: 'tunnel', ...base, interface: name, from: wantAddress, to: peer.address, port: reach?.port ?? null }, ask, 'tunnel', peer.address, wantMtu))
  }
  hops.push(await asked({ hop: 'far gateway', ...base, interface: 'wan0', from: '', to: gateway.address, port: 4789 }, ask, 'segment', gateway.address, FULL))
  if (member.kind === 'node') hops.push(await asked({ hop: 'far node', site: member.site, host: member.host, interface: '', from: '', to: member.address, port: null }, ask, 'segment', member.address, FULL))
  return hops
}

/**
 * Each hop between two members, in order. All are asked by the gateway that this runs on, outwards in
 * both directions: what a gateway reaches towards each end, the ends reach through it.
 *
 * @param self the site of this gateway
 * @returns hops from `from` to `to`
 */
export async function pathHops ({ from, to, self, gateways, facts, ask }: { from: Member, to: Member, self: string, gateways: readonly Member[], facts: SegmentFacts, ask: Ask }): Promise<HopResource[]> {
  const outwards = async (member: Member): Promise<HopResource[]> => {
    if (member.site === self) return member.kind === 'node' ? await nearHops(member, facts, ask) : []
    const gateway = gateways.find(({ site }) => site === member.site)
    return gateway === undefined ? [] : await farHops(member, gateway, facts, ask)
  }
  // one after the other: what one loses is not the other's load
  const back = (await outwards(from)).reverse()
  const own = gateways.find(({ site }) => site === self)
  const middle = local({ hop: 'gateway', site: self, host: own?.host ?? '', interface: 'br0', from: '', to: own?.address ?? '', port: null }, facts, ['br0', ...from.site === to.site ? [] : ['wan0', 'wan0m']])
  const on = from.address === to.address ? [] : await outwards(to)
  return [...back, { ...middle, why: facts.namespace?.state === 'ok' ? middle.why : `namespace ${facts.namespace?.name ?? ''} is ${facts.namespace?.state ?? 'missing'}`, ok: middle.ok && facts.namespace?.state === 'ok' }, ...on]
}

/** Where a way stops: of the hops that fail, the nearest to the gateway that asked. */
export function stopOf (hops: readonly HopResource[]): HopResource | null {
  const middle = hops.findIndex(({ hop }) => hop === 'gateway')
  const byDistance = hops.map((hop, i) => ({ hop, distance: Math.abs(i - middle) })).sort((a, b) => a.distance - b.distance)
  return byDistance.find(({ hop }) => !hop.ok)?.hop ?? null
}
