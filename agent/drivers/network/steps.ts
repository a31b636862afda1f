import { clusterNamespace } from '../../../protocol/core/desired.ts'
import { answerSteps } from './broadcast/steps.ts'
import { chainKey, chainStateOf, isShared, renderChains, renderRemoval } from './filter.ts'
import { hostVethName, INNER, tapPrefix, vniOfChain, vniOfHostLink, IPV6_MIN_MTU } from './names.ts'
import { VXLAN_FIXED } from './plan.ts'
import type { LinkPlan, SegmentPlan, SpacePlan } from './plan.ts'
import type { LinkState, SpaceState } from './observe/observed.ts'

/** One command, as data; `ns` is null in the host's own namespace. */
export type Step =
  | { do: 'netns-add' | 'netns-delete', ns: string }
  /** lines of `ip -batch`; `lenient`: goes on after a failing line and calls that success */
  | { do: 'ip', ns: string | null, lines: string[], lenient?: boolean }
  /** a sub-interface of a NIC of the host, made into `ns`; a step of its own, as what the kernel says of it is put in words */
  | { do: 'vlan', ns: string | null, name: string, mtu: number, trunk: string, id: number }
  | { do: 'bridge', ns: string | null, lines: string[] }
  | { do: 'nft', ns: string | null, text: string }
  /** no IPv6 of the host's own: on one link, or (link null) on all present and future ones */
  | { do: 'no-ipv6', ns: string | null, links: string[] | null }
  /** IPv6 without an address, see `LinkPlan.ipv6`; the link has `addrgenmode none` already */
  | { do: 'silent-ipv6', ns: string | null, link: string }

/** The host, as far as one segment is concerned. */
export interface Observed {
  host: SpaceState
  /** 'broken': the name is there but leads to no namespace (half-made or half-deleted) */
  cluster: SpaceState | 'broken' | null
}

const EMPTY: SpaceState = { links: [], floods: new Map(), forwards: new Map(), neighbours: new Map(), chains: [], ways: new Map(), open: new Set() }
const NO_SPACE: SpacePlan = { links: [], forwards: [], neighbours: [], chains: [] }

/** A link that cannot be changed into what is wanted, only made again. */
function isWrong (want: LinkPlan, have: LinkState, host: SpaceState): boolean {
  if (want.kind !== have.kind) return true
  if (want.vlan !== undefined) {
    const { trunk, id } = want.vlan
    const over = have.lowerIndex === undefined ? have.lower === trunk : host.links.some(({ name, index }) => name === trunk && index === have.lowerIndex)
    return !over || have.vlan?.id !== id || have.vlan.protocol !== '802.1Q'
  }
  if (want.kind === 'macvlan') return have.macvlanMode !== 'passthru' || have.lower !== want.lower
  if (want.vxlan === undefined) return false
  return have.vxlan?.id !== want.vxlan.id || have.vxlan.local !== want.vxlan.local || have.vxlan.port !== want.vxlan.port || !have.vxlan.learning
}

/** Which links of a plan stay, which are made, which of ours go. */
interface LinkDiff { keep: Map<string, LinkState>, make: LinkPlan[], drop: string[] }

function diffLinks (want: readonly LinkPlan[], have: readonly LinkState[], host: SpaceState, isOurs: (name: string) => boolean): LinkDiff {
  const byName = new Map(have.map((link) => [link.name, link]))
  const keep = new Map<string, LinkState>()
  const drop = have.filter((link) => isOurs(link.name) && !want.some(({ name }) => name === link.name)).map(({ name }) => name)
  // a plan names lower links before their macvlans
  for (const link of want) {
    const found = byName.get(link.name)
    if (found === undefined) continue
    const lost = link.lower !== undefined && byName.has(link.lower) && !keep.has(link.lower)
    if (isWrong(link, found, host)) drop.push(link.name)
    // a macvlan goes with its lower link, nothing to delete
    else if (!lost) keep.set(link.name, found)
  }
  return { keep, make: want.filter(({ name }) => !keep.has(name)), drop }
}

function createLine (link: LinkPlan, plan: SegmentPlan): string | null {
  const base = `link add name ${link.name} mtu ${link.mtu}`
  switch (link.kind) {
    // multicast snooping without a querier loses groups, and a flat segment must carry all of them
    case 'bridge': return `${base}${link.mac === undefined ? '' : ` address ${link.mac}`} type bridge stp_state 0 forward_delay 0 mcast_snooping 0`
    case 'macvlan': return `${base} link ${link.lower ?? ''} type macvlan mode passthru`
    case 'vxlan': {
      const { id, local, port } = link.vxlan ?? { id: 0, local: '', port: 0 }
      // made from the host's namespace into the cluster's: the device lives there, its socket stays here
      const into = plan.cluster?.links.includes(link) === true ? ` netns ${plan.cluster.namespace}` : ''
      // The host's own stack sees broadcasts on it too, and would answer ARP for the bridge's address with another MAC.
      return `${base}${into} arp off type vxlan id ${id} local ${local} dstport ${port} ${VXLAN_FIXED}`
    }
    // a veth is made with its other end, a VLAN in a step of its own
    case 'veth': case 'vlan': return null
  }
}

function configLines (link: LinkPlan, have: LinkState | undefined): string[] {
  const lines: string[] = []
  const set = (differs: boolean, what: string): void => { if (differs) lines.push(`link set dev ${link.name} ${what}`) }
  set(link.alias !== undefined && have?.alias !== link.alias, `alias ${link.alias ?? ''}`)
  if (have !== undefined) {
    set(have.mtu !== link.mtu, `mtu ${link.mtu}`)
    set(link.mac !== undefined && have.mac !== link.mac, `address ${link.mac ?? ''}`)
    set(have.bridge?.stp === true, 'type bridge stp_state 0')
    set(have.bridge?.snooping === true, 'type bridge mcast_snooping 0')
    set(link.master !== undefined && have.master === link.master && have.hairpin, 'type bridge_slave hairpin off')
  }
  const joins = link.master !== undefined && have?.master !== link.master
  set(joins, `master ${link.master ?? ''}`)
  // a port's flags are those of its membership: with another bridge they begin anew
  set(link.suppress !== undefined && (joins ? false : have?.suppress === true) !== link.suppress, `type bridge_slave neigh_suppress ${link.suppress === true ? 'on' : 'off'}`)
  set(have?.up !== true, 'up')
  if (link.address !== undefined) {
    // deletion first: an older address of the same subnet is primary and takes the newer ones along
    const others = (have?.ipv4 ?? []).filter((other) => other !== link.address)
    lines.push(...others.map((other) => `address delete ${other} dev ${link.name}`))
    if (others.length > 0 || have?.ipv4.includes(link.address) !== true) lines.push(`address replace ${link.address} dev ${link.name}`)
  }
  return lines
}

function floodLines (want: readonly LinkPlan[], diff: LinkDiff, have: SpaceState): string[] {
  return want.flatMap(({ name, vxlan }) => {
    if (vxlan === undefined) return []
    const present = diff.keep.has(name) ? have.floods.get(name) ?? new Set<string>() : new Set<string>()
    const line = (verb: string, remote: string): string => `fdb ${verb} 00:00:00:00:00:00 dev ${name} dst ${remote}`
    return [
      ...vxlan.remotes.filter((remote) => !present.has(remote)).map((remote) => line('append', remote)),
      ...[...present].filter((remote) => !vxlan.remotes.includes(remote)).sort().map((remote) => line('delete', remote))
    ]
  })
}

function filterSteps (vni: number, want: SpacePlan, have: SpaceState, ns: string | null): Step[] {
  const stale = want.chains.filter((chain) => chainStateOf(chain, have) !== 'ok')
  const wanted = new Set(want.chains.map(chainKey))
  const gone = have.chains.filter((chain) => vniOfChain(chain.name) === vni && !wanted.has(chainKey(chain)))
  const steps: Step[] = []
  if (stale.length > 0) steps.push({ do: 'nft', ns, text: renderChains(stale, have) })
  // a table that has got chains just now is not empty
  if (gone.length > 0) steps.push({ do: 'nft', ns, text: renderRemoval(gone, { ...have, chains: [...have.chains, ...want.chains.map((chain) => ({ ...chain, marks: [] }))] }) })
  return steps
}

const isInner = (name: string): boolean => Object.values<string>(INNER).includes(name)

/**
 * The commands that bring one segment to its plan, in order; none when all is as it should be.
 * Filters come before links (no frame passes unguarded), flood entries and ports before `up`.
 */
export function segmentSteps (plan: SegmentPlan, observed: Observed): Step[] {
  const { vni, cluster } = plan
  const ns = cluster?.namespace ?? null
  const fresh = cluster !== null && (observed.cluster === null || observed.cluster === 'broken')
  const inner = observed.cluster === null || observed.cluster === 'broken' ? EMPTY : observed.cluster
  const host = diffLinks(plan.host.links, observed.host.links, observed.host, (name) => vniOfHostLink(name) === vni)
  const space = diffLinks(cluster?.links ?? [], inner.links, observed.host, isInner)

  // a veth is made whole or not at all: one end that is missing or wrong takes the other with it
  const outer = hostVethName(vni)
  if (plan.veth && !(host.keep.has(outer) && space.keep.has(INNER.hostPort))) {
    for (const [diff, name, wants] of [[host, outer, plan.host.links], [space, INNER.hostPort, cluster?.links ?? []]] as const) {
      if (diff.keep.delete(name)) diff.drop.push(name)
      diff.make = wants.filter((link) => !diff.keep.has(link.name))
    }
  }

  const steps: Step[] = []
  const ip = (where: string | null, lines: string[], lenient = false): void => {
    if (lines.length > 0) steps.push({ do: 'ip', ns: where, lines, ...(lenient ? { lenient } : {}) })
  }
  const deletion = (names: readonly string[]): string[] => names.map((name) => `link delete dev ${name}`)
  if (ns !== null) ip(ns, deletion(space.drop), true)
  ip(null, deletion(host.drop), true)
  if (cluster === null && observed.cluster !== null) steps.push(...namespaceRemoval(vni, observed.cluster))
  if (fresh) {
    if (observed.cluster === 'broken') steps.push({ do: 'netns-delete', ns: cluster.namespace })
    steps.push({ do: 'netns-add', ns: cluster.namespace })
  }
  // `lo` comes up after this step: while it is down, the step may have been missed
  const loopbackUp = inner.links.find(({ name }) => name === 'lo')?.up === true
  const muted = !loopbackUp || inner.links.some((link) => link.ipv6)
  if (ns !== null && muted) steps.push({ do: 'no-ipv6', ns, links: null })

  steps.push(...filterSteps(vni, plan.host, observed.host, null))
  if (ns !== null) steps.push(...filterSteps(vni, cluster ?? NO_SPACE, inner, ns))

  const create = (links: readonly LinkPlan[]): string[] => links.map((link) => createLine(link, plan)).filter((line) => line !== null)
  const innerVxlans = space.make.filter(({ kind }) => kind === 'vxlan')
  const veth = plan.veth && !host.keep.has(outer) ? [`link add name ${outer} type veth peer name ${INNER.hostPort} netns ${ns ?? ''}`] : []
  const vlans = (links: readonly LinkPlan[], where: string | null): Step[] => links.flatMap(({ name, mtu, vlan }) => vlan === undefined ? [] : [{ do: 'vlan', ns: where, name, mtu, ...vlan }])
  steps.push(...vlans(host.make, null), ...vlans(space.make, ns))
  ip(null, [...create(host.make), ...create(innerVxlans), ...veth])
  // a link that is down may come from a call that ended before this step
  const talking = observed.host.links.filter((link) => host.keep.has(link.name) && (link.ipv6 || !link.up)).map(({ name }) => name)
  const quiet = [...host.make.map(({ name }) => name), ...talking]
  if (quiet.length > 0) steps.push({ do: 'no-ipv6', ns: null, links: quiet })

  const changed = (links: readonly LinkPlan[], diff: LinkDiff): string[] => links.filter((link) => configLines(link, diff.keep.get(link.name)).length > 0).map(({ name }) => name)
  const configure = (links: readonly LinkPlan[], diff: LinkDiff): string[] => links.flatMap((link) => configLines(link, diff.keep.get(link.name)))
  const innerMade = create(space.make.filter(({ kind }) => kind !== 'vxlan'))
  const innerFloods = floodLines(cluster?.links ?? [], space, inner)
  if (ns !== null && innerFloods.length > 0) steps.push({ do: 'bridge', ns, lines: innerFloods })
  const loopback = loopbackUp ? [] : ['link set dev lo up']
  if (ns !== null) ip(ns, [...loopback, ...innerMade, ...configure(cluster?.links ?? [], space)])
  if (ns !== null) steps.push(...answerSteps(cluster ?? NO_SPACE, space.keep, inner, ns, new Set(muted ? cluster?.links.map(({ name }) => name) : changed(cluster?.links ?? [], space))))
  const hostFloods = floodLines(plan.host.links, host, observed.host)
  if (hostFloods.length > 0) steps.push({ do: 'bridge', ns: null, lines: hostFloods })
  ip(null, configure(plan.host.links, host))
  // below that the kernel has no IPv6 on a link, and begins anew with the host's settings when it grows
  const grown = plan.host.links.filter(({ name }) => (host.keep.get(name)?.mtu ?? IPV6_MIN_MTU) < IPV6_MIN_MTU).map(({ name }) => name)
  if (grown.length > 0) steps.push({ do: 'no-ipv6', ns: null, links: grown })
  steps.push(...answerSteps(plan.host, host.keep, observed.host, null, new Set([...quiet, ...changed(plan.host.links, host)])))
  // a tap may vanish at any moment, with its machine
  ip(null, strayTaps(plan, observed.host, host), true)
  return steps
}

/** Taps lose their bridge when somebody deletes it; the machines behind them run on and want it back. */
function strayTaps (plan: SegmentPlan, have: SpaceState, diff: LinkDiff): string[] {
  const bridge = plan.tapBridge
  if (bridge === null) return []
  const taps = have.links.filter((link) => link.name.startsWith(tapPrefix(plan.vni)) && (link.master !== bridge || !diff.keep.has(bridge)))
  return taps.map(({ name }) => `link set dev ${name} master ${bridge}`)
}

/** All links go by name first: a process that still holds the namespace must not keep them alive. */
function namespaceRemoval (vni: number, cluster: SpaceState | 'broken'): Step[] {
  const ns = clusterNamespace(vni)
  const links = cluster === 'broken' ? [] : cluster.links.filter(({ name }) => name !== 'lo').map(({ name }) => `link delete dev ${name}`)
  return [...(links.length > 0 ? [{ do: 'ip', ns, lines: links, lenient: true } as const] : []), { do: 'netns-delete', ns }]
}

/** The commands that leave nothing of a segment, whatever part of it is there. */
export function removalSteps (vni: number, observed: Observed): Step[] {
  const steps: Step[] = observed.cluster === null ? [] : namespaceRemoval(vni, observed.cluster)
  const links = observed.host.links.filter(({ name }) => vniOfHostLink(name) === vni)
  if (links.length > 0) steps.push({ do: 'ip', ns: null, lines: links.map(({ name }) => `link delete dev ${name}`), lenient: true })
  // the guard goes last: until then the links may still take frames
  const chains = observed.host.chains.filter(({ name }) => vniOfChain(name) === vni)
  // somebody may have taken the last segment's away, and left what leads to them
  const lonely = observed.host.chains.filter((chain) => isShared(chain) && !observed.host.chains.some(({ table, name }) => table === chain.table && (vniOfChain(name) ?? vni) !== vni))
  if (chains.length + lonely.length > 0) steps.push({ do: 'nft', ns: null, text: renderRemoval([...chains, ...lonely], observed.host) })
  return steps
}
