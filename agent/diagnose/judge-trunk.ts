import type { SegmentFacts } from './facts.ts'
import { found, type Finding } from './findings.ts'

export const IN_SITE_VLAN = 'in-site VLAN'

/** What is wrong with the NIC that carries a segment inside its site by VLAN. Pure. */
export function judgeTrunk ({ site, trunk }: SegmentFacts): Finding[] {
  if (trunk === null) return []
  const at = { where: IN_SITE_VLAN, interface: trunk.nic }
  if (trunk.problem !== null) {
    const { code, message, hint } = trunk.problem
    return [found(code.toLowerCase().replaceAll('_', '-'), { ...at, bytes: trunk.mtu, what: message, try: hint })]
  }
  if (trunk.carrier) return []
  return [found('trunk-carrier', { ...at, what: `nothing is at the other end of ${trunk.nic}: VLAN ${site.segmentId} leads nowhere`, try: `the cable and the port of the switch; ip link show ${trunk.nic}` })]
}

/** Nodes of a whole host of the site that do not answer, where all is well here: between the two is the switch. */
export function vlanSilent (facts: SegmentFacts, host: string, names: string, address: string): Finding {
  const { site, trunk, cluster } = facts
  const nic = trunk?.nic ?? ''
  return found('in-site-silent', {
    where: IN_SITE_VLAN, interface: nic, address,
    what: `no node on ${host} answers: ${names}. The switch does not carry VLAN ${site.segmentId} between ${nic} and that host, or the nodes are not up, or inSite of that host says something else`,
    try: `VLAN ${site.segmentId}, tagged, at the switch's ports of both hosts; on ${host}: musubi segment doctor ${cluster}; tcpdump -eni ${nic} vlan ${site.segmentId}; virsh list`
  })
}
