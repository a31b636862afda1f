import { IN_SITE_VLAN, judgeTrunk, vlanSilent } from './judge-trunk.ts'
import { judgeTunnel } from './judge-tunnel.ts'
import type { AnswerFact, ForwardFact, LinkFact, SegmentFacts, SnoopFact } from './facts.ts'
import { found, quoted, type Finding } from './findings.ts'

/** What is known besides the host's own look. */
export interface Beside {
  /** of others on the segment, asked from the gateway's namespace; empty on other hosts */
  answers: readonly AnswerFact[]
  /** how far the clocks of other sites are ahead of this host's, ms, where it was measured */
  skews: ReadonlyArray<{ site: string, ms: number }>
}

/** Bytes of IP that every hop of a segment carries. */
const FULL = 1500
const REPAIRED = 'the next pass of the agent mends it; if it does not: musubi agent status, journalctl -u musubi-agent'
const where = (space: string | null, name: string): string => space === null ? name : `${name} in namespace ${space}`
const showLink = (space: string | null, name: string): string => `ip ${space === null ? '' : `-n ${space} `}link show ${name}`

/** What is wrong with one link; null when it is as it should be. A link that is missing is told once, not as its parts. */
function judgeLink ({ space, name, role, want, have }: LinkFact): Finding | null {
  const at = { where: role, interface: where(space, name) }
  if (have === null) return found('link-missing', { ...at, what: `${where(space, name)} is not there`, try: REPAIRED })
  if (have.kind !== want.kind || (want.vxlan !== null && (have.vxlan?.id !== want.vxlan.id || have.vxlan.port !== want.vxlan.port || have.vxlan.local !== want.vxlan.local))) {
    const of = (vxlan: LinkFact['want']['vxlan']): string => vxlan === null ? '' : ` with id ${vxlan.id} from ${vxlan.local}:${vxlan.port}`
    return found('link-wrong', { ...at, address: want.vxlan?.local ?? null, port: want.vxlan?.port ?? null, what: `${where(space, name)} is ${have.kind === '' ? 'another link' : `a ${have.kind}${of(have.vxlan)}`}, not a ${want.kind}${of(want.vxlan)}`, try: REPAIRED })
  }
  if (want.vlan !== undefined && (have.vlan?.id !== want.vlan.id || have.vlan.nic !== want.vlan.nic)) {
    return found('link-wrong', { ...at, what: `${where(space, name)} is VLAN ${have.vlan?.id ?? 0} on ${have.vlan?.nic ?? ''}, not VLAN ${want.vlan.id} on ${want.vlan.nic}`, try: REPAIRED })
  }
  if (!have.up) return found('link-down', { ...at, what: `${where(space, name)} is down`, try: `${showLink(space, name).replace('show', 'set')} up; ${REPAIRED}` })
  if (want.master !== null && have.master !== want.master) return found('link-loose', { ...at, what: `${where(space, name)} is ${have.master === null ? 'at no bridge' : `at ${have.master}`}, not at ${want.master}`, try: REPAIRED })
  if (have.mtu < want.mtu) return found('mtu-lowered', { ...at, bytes: have.mtu, what: `${where(space, name)} has MTU ${have.mtu}, not ${want.mtu}: larger packets are lost in it`, try: `${showLink(space, name).replace('show', 'set')} mtu ${want.mtu}; ${REPAIRED}` })
  if (want.address !== null && !have.addresses.includes(want.address)) return found('address-missing', { ...at, address: want.address, what: `${where(space, name)} does not have the address ${want.address}`, try: REPAIRED })
  return null
}

/** Whether what is wrong with a link comes from another: a port went with its VXLAN, a bridge takes the least MTU of its ports. */
function follows ({ space, name, want, have }: LinkFact, all: readonly LinkFact[]): boolean {
  const near = all.filter(other => other.space === space && other.name !== name)
  if (have === null) return want.kind === 'macvlan' && near.some(other => other.have === null && [name.slice(0, -1), name.replace(/^mzm/, 'mzs')].includes(other.name))
  return want.kind === 'bridge' && have.mtu < want.mtu && near.some(other => other.have !== null && other.have.master === name && other.have.mtu === have.mtu)
}

function judgeObjects (facts: SegmentFacts): Finding[] {
  const { namespace, site, underlay } = facts
  const findings: Finding[] = []
  if (underlay === null) {
    findings.push(found('underlay-address', { where: 'underlay', address: site.localAddress, what: `no link of this host has the underlay address ${site.localAddress}`, try: 'underlayAddress in the configuration, and: ip address' }))
  } else if (!underlay.up) {
    findings.push(found('underlay-down', { where: 'underlay', interface: underlay.link, address: site.localAddress, what: `${underlay.link}, which has the underlay address ${site.localAddress}, is down`, try: `ip link set ${underlay.link} up` }))
  } else if (underlay.mtu < 1280) {
    findings.push(found('underlay-mtu', { where: 'underlay', interface: underlay.link, address: site.localAddress, bytes: underlay.mtu, what: `${underlay.link} has MTU ${underlay.mtu}; less than 1280 carries no tunnel`, try: `ip link set ${underlay.link} mtu 1500` }))
  }
  findings.push(...judgeTrunk(facts))
  // a VLAN's id is one of another kind
  for (const { space, link, id, port } of facts.trunk === null ? facts.idUsers : []) {
    findings.push(found('id-in-use', { where: 'in-site VXLAN', interface: where(space, link), port, what: `in-site id ${id} of this segment is also that of ${where(space, link)} at port ${port}: of two with one id and port the kernel lets only one be made`, try: `who made it: ${showLink(space, link).replace('link', '-details link')}; remove it, or take its id out of segmentIds of the gateway` }))
  }
  if (namespace !== null && namespace.state !== 'ok') {
    const what = { missing: 'is not there', broken: 'has a name that leads nowhere', unread: 'could not be looked into' }[namespace.state]
    findings.push(found('namespace', { where: 'gateway', interface: namespace.name, what: `the cluster's namespace ${namespace.name} ${what}`, try: `ip netns; ${REPAIRED}` }))
  }
  for (const link of facts.links) {
    // without its namespace none of its links is there
    if ((link.space !== null && namespace?.state !== 'ok') || follows(link, facts.links) || (link.want.vlan !== undefined && facts.trunk?.problem != null)) continue
    const finding = judgeLink(link)
    if (finding !== null) findings.push(finding)
  }
  for (const { space, link, missing } of facts.floods) {
    findings.push(found('fdb-missing', { where: link.startsWith('wan') ? 'inter-site VXLAN' : 'in-site VXLAN', interface: where(space, link), address: missing[0] ?? null, port: link.startsWith('wan') ? 4789 : site.port, what: `${where(space, link)} has no forwarding entry for ${missing.join(', ')}: frames to nobody it knows do not get there`, try: `bridge ${space === null ? '' : `-n ${space} `}fdb show dev ${link}; ${REPAIRED}` }))
  }
  for (const { space, table, name, state } of facts.chains) {
    if (state === 'ok' || (space !== null && namespace?.state !== 'ok')) continue
    const effect = table.endsWith('_guard')
      ? (state === 'missing' ? 'anybody on the underlay can write into the segment' : `members may be shut out: ${[...site.remoteAddresses, ...facts.tunnel?.peers.map(peer => peer.address) ?? []].join(', ') || 'there are no others'}`)
      : 'TCP is not kept to sizes that fit, and is fragmented outside'
    findings.push(found('chain', { where: 'filters', interface: where(space, `${table} ${name}`), what: `nftables chain ${where(space, `${table} ${name}`)} is ${state}: ${effect}`, try: `nft list chain ${table} ${name}; ${REPAIRED}` }))
  }
  if (facts.forwarding !== null) findings.push(...judgeForwarding(facts.forwarding))
  if (facts.snoop != null) findings.push(...judgeSnoop(facts.snoop, facts.name))
  return findings
}

/** Nothing else is wrong when the term of a lease is over: that is what ends with it. */
function judgeForwarding ({ space, port, open, unit, keeper, leftMs }: ForwardFact): Finding[] {
  const at = { where: 'forwarding lease', interface: where(space, port) }
  const isPromised = leftMs !== null && leftMs > 0
  if (open && keeper && isPromised) return []
  const effect = open ? 'frames between this site and others pass for some seconds more' : 'no frame passes between this site and others'
  const why = !isPromised
    ? (leftMs === null ? 'this gateway was promised no term for it' : `its term ended ${Math.round(-leftMs / 1000)} s ago`)
    : keeper ? `${unit} runs and has not renewed it` : `${unit}, which renews it, does not run as it should`
  const next = !isPromised
    ? 'has the lease of the cluster ended? musubi lease list; musubi host owned'
    : keeper ? `systemctl restart ${unit}; its last words: journalctl -u musubi-helper, and its log; nft list set bridge mz_mss forward in ${space}; ${REPAIRED}` : `systemctl status ${unit}; ${REPAIRED}`
  return [found(open ? 'forward-ending' : 'forward-lapsed', { ...at, severity: open ? 'warning' : 'fault', what: `the forwarding lease of ${where(space, port)} ${open ? 'is about to run out' : 'has run out'}: ${why}; ${effect}`, try: next })]
}

/** A node without an address may only ask for one. */
function judgeSnoop ({ unit, keeper, nodes, learned }: SnoopFact, name: string): Finding[] {
  const at = { where: 'addresses by DHCP', interface: null }
  if (!keeper) return [found('snoop-stopped', { ...at, what: `${unit}, which learns the addresses that the frontend gives, does not run as it should: nodes of this host get no answer from it, and keep what they have until their lease ends`, try: `systemctl status ${unit}; ${REPAIRED}` })]
  if (learned >= nodes) return []
  return [found('no-lease', { ...at, severity: 'warning', what: `${nodes - learned} of the ${nodes} nodes of this host have no address from the frontend: they may send nothing but their asking for one`, try: `musubi segment capture ${name} --port node; is the frontend's DHCP server up, and does a node use an address that it was not given?` })]
}

function judgeInSite (facts: SegmentFacts): Finding[] {
  return facts.reach.filter(({ what }) => what === 'site-host').flatMap(({ address, port, echo, udp, largestBytes, wantBytes }): Finding[] => {
    const at = { where: 'in-site VXLAN', interface: facts.underlay?.link ?? null, address, port }
    if (udp === 'blocked') return [found('udp-blocked-here', { ...at, what: `this host's own filter drops what it sends to ${address}, UDP ${port}`, try: 'nft list ruleset, chains of the hook output' })]
    if (udp === 'refused') return [found('udp-refused', { ...at, what: `nobody listens at ${address}, UDP ${port}: that host carries no segment at the moment`, try: 'on that host: musubi agent status, musubi agent doctor' })]
    if (echo.received === 0) return [found('underlay-silent', { ...at, what: `${address}, a host of this site, does not answer pings from ${facts.site.localAddress}${quoted(echo.why)}`, try: `is it up? ping ${address}; it may also be that it answers no pings` })]
    if (largestBytes !== null && largestBytes < wantBytes) return [found('black-hole', { ...at, bytes: largestBytes, what: `packets of more than ${largestBytes} bytes do not get from ${facts.site.localAddress} to ${address}, though ${facts.underlay?.link ?? 'the link'} has MTU ${wantBytes}${echo.toldMtu === null ? ', and nobody says so (a black hole)' : ''}`, try: `the MTU of every switch and host between them; until then: ip link set ${facts.underlay?.link ?? 'LINK'} mtu ${largestBytes}` })]
    return []
  })
}

/** What others answer on the segment, where nothing nearer explains it already. */
function judgeAnswers (facts: SegmentFacts, { answers }: Beside, before: readonly Finding[]): Finding[] {
  const findings: Finding[] = []
  const told = (address: string): boolean => address !== '' && before.some(finding => finding.address === address)
  const broken = before.some(({ code }) => ['namespace', 'link-missing', 'link-down', 'link-loose', 'link-wrong', 'address-missing', 'udp-dropped-here'].includes(code))
  // an MTU that is wrong here says why full size passes nowhere
  const narrow = before.some(({ code }) => code === 'mtu-lowered')
  const tunnelBroken = broken || before.some(({ where, site }) => where === 'tunnel' && site === null)
  /** something nearer explains all that is wrong with another site */
  const known = (site: string): boolean => tunnelBroken || before.some(finding => finding.site === site || (finding.code === 'fdb-missing' && finding.address === facts.tunnel?.peers.find(peer => peer.site === site)?.address))
  const gateways = answers.filter(({ kind }) => kind === 'gateway')
  for (const { name, site, address, largestBytes } of gateways) {
    if (known(site)) continue
    const at = { where: 'far gateway', site, interface: 'wan0', address, port: 4789 }
    const wanted = facts.tunnel?.peers.find(peer => peer.site === site)
    if (largestBytes === null) findings.push(found('far-gateway-silent', { ...at, what: `the gateway of ${site} (${name}, ${address} on the segment) does not answer, though the tunnel to it works${wanted === undefined ? '' : ` (${wanted.address})`}: its namespace, its bridge, its VXLAN port 4789 or the entry for this gateway is missing there`, try: `on ${name}: musubi segment doctor ${facts.cluster}` }))
    else if (largestBytes < FULL && !narrow) findings.push(found('segment-size', { ...at, bytes: largestBytes, what: `only packets of up to ${largestBytes} bytes get to the gateway of ${site} (${address}), not 1500`, try: `on ${name}: musubi segment doctor ${facts.cluster}` }))
  }
  const nodes = answers.filter(({ kind }) => kind === 'node')
  for (const host of new Set(nodes.map(node => `${node.site}/${node.host}`))) {
    const here = nodes.filter(node => `${node.site}/${node.host}` === host)
    const [first] = here
    const far = gateways.some(({ site }) => site === first?.site)
    if (first === undefined || broken || told(first.underlayAddress) || (far && (known(first.site) || findings.some(({ site }) => site === first.site)))) continue
    const silent = here.filter(({ largestBytes }) => largestBytes === null)
    const names = silent.map(({ name, address }) => `${name} (${address})`).join(', ')
    const at = { where: far ? 'far host' : 'node', site: far ? first.site : null, interface: far ? null : 'site0', address: first.address, port: first.underlayAddress === '' || facts.trunk !== null ? null : facts.site.port }
    const underlay = facts.reach.find(({ what, address }) => what === 'site-host' && address === first.underlayAddress)
    if (silent.length === here.length && !far && facts.trunk !== null) {
      if (!before.some(finding => finding.where === IN_SITE_VLAN)) findings.push(vlanSilent(facts, first.host, names, first.underlayAddress))
    } else if (silent.length === here.length && underlay !== undefined) {
      findings.push(found('in-site-silent', { ...at, where: 'in-site VXLAN', address: first.underlayAddress, what: `no node on ${first.host} answers: ${names}. ${first.underlayAddress} answers pings on the underlay, so UDP ${facts.site.port} is dropped between ${facts.site.localAddress} and it or by its own filter, or the nodes are not up`, try: `on ${first.host}: musubi segment doctor ${facts.cluster}; nft list ruleset | grep ${facts.site.port}; virsh list` }))
    } else if (silent.length > 0) {
      findings.push(found('node-silent', { ...at, severity: 'warning', what: `${names} on ${first.host} ${silent.length === 1 ? 'does' : 'do'} not answer, though the way there works as far as can be seen`, try: `is it up? musubi cluster show ${facts.cluster}; on ${first.host}: musubi segment doctor ${facts.cluster}` }))
    }
    const small = narrow ? undefined : here.find(({ largestBytes }) => largestBytes !== null && largestBytes < FULL)
    if (small !== undefined) findings.push(found('segment-size', { ...at, address: small.address, bytes: small.largestBytes, what: `only packets of up to ${small.largestBytes ?? 0} bytes get to ${small.name} (${small.address}), not 1500`, try: `the MTU of its interface, and on ${first.host}: musubi segment doctor ${facts.cluster}` }))
  }
  return findings
}

function judgeBridge ({ bridge, site, trunk, cluster }: SegmentFacts, before: readonly Finding[]): Finding[] {
  if (bridge === null || before.length > 0) return []
  const at = { where: 'gateway', interface: bridge.link, address: bridge.address, port: trunk === null ? site.port : null }
  if (!bridge.answered && trunk !== null) return [found('gateway-silent', { ...at, what: `the gateway's address ${bridge.address} gives no answer to ARP from ${bridge.link}: the switch does not carry VLAN ${site.segmentId} between ${trunk.nic} and the gateway, or its namespace is gone`, try: `on the gateway: musubi segment doctor ${cluster}; VLAN ${site.segmentId}, tagged, at the switch's ports of both` })]
  if (!bridge.answered) return [found('gateway-silent', { ...at, what: `the gateway's address ${bridge.address} gives no answer to ARP from ${bridge.link}, though ${site.remoteAddresses.join(', ')} ${site.remoteAddresses.length === 1 ? 'answers' : 'answer'} on the underlay: UDP ${site.port} is dropped on the way or by the gateway's filter, or its namespace is gone`, try: `on the gateway: musubi segment doctor ${cluster}; nft list ruleset | grep ${site.port}` })]
  if (bridge.largestBytes !== null && bridge.largestBytes < FULL) return [found('segment-size', { ...at, bytes: bridge.largestBytes, what: `a frame of 1500 bytes does not get from ${bridge.link} to the gateway (${bridge.address}), a small one does`, try: 'the MTU of every switch between the hosts of this site: 1550 bytes, or fragments that are not dropped' })]
  return []
}

/**
 * What is wrong with a segment, from what was seen of it: nearest first, and what follows from
 * something nearer is left out. Pure.
 */
export function judge (facts: SegmentFacts, beside: Beside): Finding[] {
  const findings = judgeObjects(facts)
  for (const { chain, handle, hook, port, rule } of facts.drops) {
    findings.push(found('udp-dropped-here', { where: port === facts.site.port ? 'in-site VXLAN' : 'tunnel', interface: chain, port, what: `this host's own filter drops UDP ${port} (${hook === '' ? 'a chain' : `hook ${hook}`}): ${chain}${handle === null ? '' : ` handle ${handle}`}: ${rule}`, try: handle === null ? `nft add rule ${chain} udp dport ${port} accept` : `nft delete rule ${chain} handle ${handle}, or accept UDP ${port} before it` }))
  }
  // without the underlay nothing else can work
  if (findings.some(({ code }) => code === 'underlay-address' || code === 'underlay-down')) return findings
  findings.push(...judgeInSite(facts))
  // a tunnel whose port is shut by this host itself has no other fault that could be told
  if (!findings.some(({ code, where }) => code === 'udp-dropped-here' && where === 'tunnel')) findings.push(...judgeTunnel(facts, beside.skews))
  findings.push(...judgeAnswers(facts, beside, findings), ...judgeBridge(facts, findings))
  return findings
}
