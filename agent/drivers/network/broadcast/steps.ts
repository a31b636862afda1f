import { isIPv4 } from 'node:net'
import type { LinkPlan, SpacePlan } from '../plan.ts'
import type { LinkState, SpaceState } from '../observe/observed.ts'
import type { Step } from '../steps.ts'

const NONE: ReadonlyMap<string, string> = new Map()

function forwardLines (want: SpacePlan, keep: ReadonlyMap<string, LinkState>, have: SpaceState): string[] {
  const gone: string[] = []
  const made: string[] = []
  for (const link of want.links) {
    const isVxlan = link.vxlan !== undefined
    if (!isVxlan && link.master === undefined) continue
    // entries go with a link, and with its membership in a bridge
    const stays = keep.has(link.name) && (isVxlan || (keep.get(link.name)?.master === link.master && keep.has(link.master ?? '')))
    const present = (stays ? have.forwards.get(link.name) : undefined) ?? NONE
    const wanted = new Map(want.forwards.filter((one) => one.link === link.name).map(({ mac, remote }) => [mac, remote ?? 'sticky']))
    for (const [mac, remote] of present) if (!wanted.has(mac)) gone.push(`fdb delete ${mac} dev ${link.name} ${isVxlan ? `dst ${remote}` : 'master'}`)
    // sticky: a frame that comes by another port with that MAC does not move it
    for (const [mac, remote] of wanted) if (present.get(mac) !== remote) made.push(`fdb replace ${mac} dev ${link.name} ${isVxlan ? `dst ${remote}` : 'master static sticky'}`)
  }
  // first what goes: a MAC that moves to another port is one entry of the bridge
  return [...gone.sort(), ...made]
}

/**
 * What makes a bridge know its members, after its links are there and up; none when it knows them.
 *
 * @param keep links that were there before and stay
 * @param changed links that this pass changes: with its MAC, its addresses or its IPv6 a bridge forgets its neighbours
 */
export function answerSteps (want: SpacePlan, keep: ReadonlyMap<string, LinkState>, have: SpaceState, ns: string | null, changed: ReadonlySet<string>): Step[] {
  const steps: Step[] = []
  const forwards = forwardLines(want, keep, have)
  if (forwards.length > 0) steps.push({ do: 'bridge', ns, lines: forwards })
  const bridges = want.links.filter(({ kind }) => kind === 'bridge')
  for (const bridge of bridges) steps.push(...neighbourSteps(bridge, want, keep, have, ns, changed.has(bridge.name)))
  return steps
}

function neighbourSteps (bridge: LinkPlan, want: SpacePlan, keep: ReadonlyMap<string, LinkState>, have: SpaceState, ns: string | null, changed: boolean): Step[] {
  const { name } = bridge
  const present = (keep.has(name) ? have.neighbours.get(name) : undefined) ?? NONE
  const wanted = new Map(want.neighbours.filter(({ link }) => link === name).map(({ address, mac }) => [address, mac]))
  const gone = [...present.keys()].filter((address) => !wanted.has(address)).map((address) => `neighbour delete ${address} dev ${name}`)
  const missing = [...wanted].filter(([address, mac]) => changed || present.get(address) !== mac)
  const speaks = bridge.ipv6 === 'silent' && missing.some(([address]) => !isIPv4(address))
  const steps: Step[] = []
  // some may have gone with what was changed
  if (gone.length > 0) steps.push({ do: 'ip', ns, lines: gone, lenient: true })
  if (speaks) steps.push({ do: 'ip', ns, lines: [`link set dev ${name} addrgenmode none`] }, { do: 'silent-ipv6', ns, link: name })
  if (missing.length > 0) steps.push({ do: 'ip', ns, lines: missing.map(([address, mac]) => `neighbour replace ${address} lladdr ${mac} nud permanent dev ${name}`) })
  return steps
}
