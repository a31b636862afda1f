/**
 * 802.1Q inside a site: on every host a sub-interface of the trunk NIC with the segment's id. The NIC, its
 * switch and a bridge that it may be are the administrator's: they are looked at, and never changed.
 */
import { MusubiError } from '../../../../protocol/core/errors.ts'
import { MAX_VLAN_ID, type SegmentSpec } from '../../../../protocol/core/desired.ts'
import { INNER_MTU, vlanName } from '../names.ts'
import type { LinkState, SpaceState } from '../observe/observed.ts'

/** What the configuration of a host says of its trunk. */
export interface Trunk { nic: string, ids: { from: number, to: number } }

/** VLANs of an administrator's bridge: per port, and under its own name of the bridge itself; ids that leave without their tag left out. */
export type BridgeVlans = ReadonlyMap<string, ReadonlySet<number>>

/** A name that the kernel and `ip -batch` take for a link, and nothing else. */
export const isLinkName = (name: string): boolean => /^[A-Za-z0-9][A-Za-z0-9._-]{0,14}$/.test(name)

export const isVlanId = (id: number): boolean => Number.isInteger(id) && id >= 1 && id <= MAX_VLAN_ID

const SHOW = (nic: string): string => `ip -details link show ${nic}`
const problem = (code: string, message: string, hint: string): MusubiError => new MusubiError(code, message, { retryable: true, hint })

/** @throws MusubiError TRUNK_MISSING: said in the same words by whoever finds out */
export const trunkMissing = (nic: string, id: number): MusubiError =>
  problem('TRUNK_MISSING', `the trunk NIC ${nic} is not on this host: VLAN ${id} of the segment has no way to the other hosts of the site`, 'ip link; is the card there, and is inSite.trunk in the configuration its name?')

export const idInUse = (nic: string, id: number, by: string): MusubiError =>
  problem('VLAN_ID_IN_USE', `VLAN ${id} on the trunk NIC ${nic} is in use by ${by}, which is not ours`, `who made it: ip -details link show type vlan, also in each of: ip netns list; remove it, or take ${id} out of segmentIds of the gateway`)

/**
 * Whether a configuration allows what a spec asks for. The helper asks this, so that an agent that was taken over
 * gets no other VLAN of the site than those that its administrator has set aside.
 *
 * @throws MusubiError TRUNK_REFUSED
 */
export function checkTrunk ({ site }: SegmentSpec, trunk: Trunk | null): void {
  const refuse = (what: string): never => { throw new MusubiError('TRUNK_REFUSED', what, { hint: 'inSite in the configuration; agent and helper read the same file, at their start' }) }
  if (site.trunk === undefined) {
    if (trunk !== null) refuse(`VXLAN is asked for inside the site, and this host's configuration has VLANs on ${trunk.nic} for that`)
    return
  }
  if (trunk === null) refuse(`VLAN ${site.segmentId} on ${site.trunk} is asked for, and this host's configuration gives the segments no trunk NIC`)
  else if (trunk.nic !== site.trunk) refuse(`VLAN ${site.segmentId} on ${site.trunk} is asked for, and the trunk NIC of this host's configuration is ${trunk.nic}`)
  else if (site.segmentId < trunk.ids.from || site.segmentId > trunk.ids.to) refuse(`VLAN ${site.segmentId} is not within ${trunk.ids.from}..${trunk.ids.to}, which this host may use on ${trunk.nic}`)
}

/** Whether the VLANs of a trunk must be known to judge it: it is a bridge that filters by them. */
export const isFiltering = (host: SpaceState, nic: string): boolean => host.links.find(({ name }) => name === nic)?.bridge?.filtering === true

/** Users of an id on a NIC, but for the segment itself. */
export function idUsersOf (host: SpaceState, { vni, site }: SegmentSpec): LinkState[] {
  return host.links.filter(({ name, vlan, lower }) => vlan?.id === site.segmentId && vlan.protocol === '802.1Q' && lower === site.trunk && name !== vlanName(vni))
}

/**
 * Why a segment cannot go over the trunk NIC as it is now; null when it can, or needs none.
 *
 * @param vlans of the administrator's bridges; null where no bridge filters by VLAN
 */
export function trunkProblem (spec: SegmentSpec, host: SpaceState, vlans: BridgeVlans | null): MusubiError | null {
  const { trunk: nic, segmentId: id } = spec.site
  if (nic === undefined) return null
  const wrong = nicProblem(nic, id, host)
  const [user] = idUsersOf(host, spec)
  return wrong ?? (user === undefined ? bridgeProblem(nic, id, host, vlans) : idInUse(nic, id, user.name))
}

/** What keeps a NIC from carrying any VLAN, said of one. */
export function nicProblem (nic: string, id: number, host: SpaceState): MusubiError | null {
  const link = host.links.find(({ name }) => name === nic)
  if (link === undefined) return trunkMissing(nic, id)
  // a NIC that belongs to a bridge or bond hands its frames there; a sub-interface on it would take them away from others
  if (link.master !== undefined) return problem('TRUNK_TAKEN', `the trunk NIC ${nic} is a port of ${link.master}: what VLAN ${id} carries belongs to ${link.master}`, `inSite.trunk: ${link.master} in the configuration`)
  if (link.mtu < INNER_MTU) return problem('TRUNK_MTU', `the trunk NIC ${nic} has MTU ${link.mtu}: full frames of ${INNER_MTU} bytes do not pass by VLAN ${id}`, `ip link set ${nic} mtu ${INNER_MTU}, and the same at its switch`)
  if (!link.up) return problem('TRUNK_DOWN', `the trunk NIC ${nic} is down: VLAN ${id} carries nothing`, `ip link set ${nic} up; ${SHOW(nic)}`)
  return null
}

/** Whether a bridge that filters by VLAN, as the administrator has set it up, carries one between itself and the switch. */
export function bridgeProblem (nic: string, id: number, host: SpaceState, vlans: BridgeVlans | null): MusubiError | null {
  if (!isFiltering(host, nic) || vlans === null) return null
  if (vlans.get(nic)?.has(id) !== true) return problem('VLAN_NOT_ALLOWED', `the bridge ${nic} filters by VLAN and does not take VLAN ${id} in itself`, `bridge vlan add dev ${nic} vid ${id} self; for good: where ${nic} is configured, all of inSite.ids`)
  const ports = host.links.filter(({ master }) => master === nic).map(({ name }) => name)
  if (!ports.some((port) => vlans.get(port)?.has(id))) return problem('VLAN_NOT_ALLOWED', `no port of the bridge ${nic} carries VLAN ${id} with its tag (${ports.length === 0 ? 'it has none' : ports.slice(0, 8).join(', ')})`, `bridge vlan add dev ${ports[0] ?? 'PORT'} vid ${id}, for the port towards the switch`)
  return null
}

type Fields = Record<string, unknown>
const fields = (value: unknown): Fields => (typeof value === 'object' && value !== null ? value as Fields : {})
const list = (value: unknown): Fields[] => (Array.isArray(value) ? value.map(fields) : [])

/** `bridge -json vlan show`: which ids each port takes with their tags. Unknown shapes read as absent. */
export function parseBridgeVlans (json: unknown): BridgeVlans {
  const found = new Map<string, Set<number>>()
  for (const { ifname, vlans } of list(json)) {
    if (typeof ifname !== 'string') continue
    const ids = found.get(ifname) ?? new Set<number>()
    for (const { vlan, vlanEnd, flags } of list(vlans)) {
      const from = Number(vlan)
      const to = vlanEnd === undefined ? from : Number(vlanEnd)
      if (!isVlanId(from) || !isVlanId(to) || (Array.isArray(flags) && flags.includes('Egress Untagged'))) continue
      for (let id = from; id <= to; id++) ids.add(id)
    }
    found.set(ifname, ids)
  }
  return found
}

/**
 * What the kernel meant by refusing a sub-interface.
 * @param stderr of `ip link add`
 * @returns null when it is none of what is known
 */
export function vlanRefusal (nic: string, id: number, stderr: string): MusubiError | null {
  if (/File exists|already exists/.test(stderr)) return idInUse(nic, id, 'a link of another network namespace')
  if (/Cannot find device/.test(stderr)) return trunkMissing(nic, id)
  if (/VLANs not supported on device/.test(stderr)) return problem('TRUNK_REFUSED', `the link ${nic} carries no VLANs, so not ${id} either`, 'inSite.trunk in the configuration: an Ethernet card, a bond or a bridge')
  if (/Unknown device type|Operation not supported/.test(stderr)) return problem('NO_VLAN', `this kernel has no 802.1Q: VLAN ${id} cannot be made on ${nic}`, 'modprobe 8021q; else another kernel (linux-image-amd64), or inSite: {technique: vxlan} at all hosts of the site')
  return null
}
