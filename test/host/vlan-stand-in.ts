/** The driver of segments for a site with VLANs, where something else stands in for the sub-interface of the trunk NIC. */
import { hasIpv6, readHost } from '../../agent/drivers/network/observe/host.ts'
import { openText } from '../../agent/drivers/network/forward/gate.ts'
import { INNER, vlanName } from '../../agent/drivers/network/names.ts'
import { planSegment } from '../../agent/drivers/network/plan.ts'
import { runSteps } from '../../agent/drivers/network/run/run-steps.ts'
import { readSpaces } from '../../agent/drivers/network/observe/spaces.ts'
import { segmentSteps, type Observed } from '../../agent/drivers/network/steps.ts'
import { run } from '../../agent/exec.ts'
import { clusterNamespace, type SegmentSpec } from '../../protocol/core/desired.ts'
import type { LinkState, SpaceState } from '../../agent/drivers/network/observe/observed.ts'

const UNDERLAY_MTU = 1500
/** Longer than any test. */
const FORWARD_MS = 600_000

/**
 * One pass over the kernel as the driver makes it: what is there, the steps to the plan, the steps taken. The link that
 * stands in is taken for what it stands for. @returns whether there was anything to do
 */
export async function carryTagged (name: string, spec: SegmentSpec, signal: AbortSignal): Promise<boolean> {
  const { trunk = '', segmentId: id } = spec.site
  const port = spec.gateway === undefined ? vlanName(spec.vni) : INNER.sitePort
  const asVlan = (space: SpaceState): SpaceState => ({
    ...space,
    links: space.links.map((link): LinkState => {
      return link.name === port ? { ...link, kind: 'vlan', lower: trunk, lowerIndex: undefined, vlan: { id, protocol: '802.1Q' } } : link
    })
  })
  const namespace = clusterNamespace(spec.vni)
  const found = spec.gateway === undefined ? null : (await readSpaces([namespace], signal)).get(namespace) ?? null
  if (found instanceof Error || found === 'broken') throw new Error(`no namespace ${namespace}`)
  const observed: Observed = { host: asVlan(await readHost(signal)), cluster: found === null ? null : asVlan(found) }
  const steps = segmentSteps(planSegment(name, spec, UNDERLAY_MTU, await hasIpv6()), observed)
  await runSteps(steps, signal)
  // the keeper of the forwarding lease belongs to the driver itself
  if (spec.gateway?.tunnel != null && steps.length > 0) await run('nft', ['-f', '-'], { netns: namespace, input: openText(FORWARD_MS, true), signal })
  return steps.length > 0
}
