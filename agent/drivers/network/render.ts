import { VXLAN_FIXED } from './plan.ts'
import type { FilterChain } from './filter.ts'
import type { LinkPlan, SegmentPlan, SpacePlan } from './plan.ts'

const indent = (lines: readonly string[]): string[] => lines.map((line) => `  ${line}`)

function linkLine (link: LinkPlan): string {
  const { name, kind, mtu, mac, master, lower, address, alias, vxlan, vlan, suppress, ipv6 } = link
  return [
    `link ${name} ${kind}`, `mtu ${mtu}`,
    ...(lower === undefined ? [] : [`over ${lower} passthru`]),
    ...(vxlan === undefined ? [] : [`id ${vxlan.id} local ${vxlan.local} port ${vxlan.port} ${VXLAN_FIXED}`]),
    ...(vlan === undefined ? [] : [`802.1Q id ${vlan.id} on ${vlan.trunk}`]),
    ...(mac === undefined ? [] : [`mac ${mac}`]), ...(address === undefined ? [] : [`address ${address}`]), ...(alias === undefined ? [] : [`alias ${alias}`]),
    ...(master === undefined ? [] : [`port of ${master}`]), ...(suppress === true ? ['neigh_suppress'] : []),
    ...(ipv6 === 'silent' ? ['IPv6 without address'] : [])
  ].join(', ')
}

/** Keys of the kernel that a link needs set. */
function sysctls (links: readonly LinkPlan[]): string[] {
  return links.flatMap(({ name, ipv6 }) => (ipv6 === 'silent' ? ['accept_ra = 0', 'autoconf = 0', 'disable_ipv6 = 0'] : ['disable_ipv6 = 1']).map((setting) => `net.ipv6.conf.${name}.${setting}`))
}

const chainLines = ({ family, table, name, base, rules, gate, learned, ways = [] }: FilterChain): string[] => [
  ...(gate === undefined ? [] : [`set ${family} ${table} ${gate}: ports that may forward, each for some seconds`]),
  ...(learned === undefined ? [] : [`set ${family} ${table} ${learned}: MAC and address as the frontend's DHCP server gives them, each for as long as it says`]),
  `chain ${family} ${table} ${name}: ${base === null ? `for ${ways.join(', ')}` : `${base}, policy accept`}`,
  ...indent(rules)
]

function spaceLines ({ links, forwards, neighbours, chains }: SpacePlan): string[] {
  return [
    ...links.map(linkLine),
    ...links.flatMap(({ name, vxlan }) => (vxlan?.remotes ?? []).map((remote) => `flood ${name} to ${remote}`)),
    ...forwards.map(({ link, mac, remote }) => `forward ${mac} by ${link}${remote === null ? ', sticky' : ` to ${remote}`}`),
    ...neighbours.map(({ link, address, mac }) => `neighbour ${address} is ${mac} on ${link}`),
    ...sysctls(links).map((line) => `sysctl ${line}`),
    ...chains.flatMap(chainLines)
  ]
}

/** A plan as text for people and for comparison: the same plan gives the same text, one fact a line. */
export function renderPlan (plan: SegmentPlan): string {
  const { host, cluster, veth, tapBridge } = plan
  return [
    `VNI ${plan.vni}`,
    'namespace of the host',
    ...indent(spaceLines(host)),
    ...(tapBridge === null ? [] : [`  taps on ${tapBridge}`]),
    ...(cluster === null ? [] : [`namespace ${cluster.namespace}`, ...indent([...spaceLines(cluster), ...(veth ? ['host0 is the other end of the veth of the host'] : [])])])
  ].map((line) => `${line}\n`).join('')
}
