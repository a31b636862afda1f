import { join } from 'node:path'
import { clusterNamespace } from '../../../protocol/core/desired.ts'
import { networksOverlap } from '../../../protocol/core/addresses.ts'
import { ConflictError, errorCode, type MusubiError } from '../../../protocol/core/errors.ts'
import { CommandError, run } from '../../exec.ts'
import { fingerprint } from '../../fingerprint.ts'
import { createForwarding, hasGate, type TermOf } from './forward/forwarding.ts'
import { hasIpv6, listNamespaces, readBridgeVlans, readHost, runSteps } from './host.ts'
import { DEFAULT_UNDERLAY_MTU, INNER, IPV6_MIN_MTU, nameOfAlias, orphanName, vniOfChain, vniOfHostLink, vniOfOrphan } from './names.ts'
import { parseCounters } from './observed.ts'
import { checkSegment, planSegment } from './plan.ts'
import { createRecords } from './records.ts'
import { describeSteps } from './repairs.ts'
import { readSpaces } from './spaces.ts'
import { tunnelMtuOf } from './tunnel/names.ts'
import { removalSteps, segmentSteps } from './steps.ts'
import { bridgeProblem, checkTrunk, nicProblem, trunkProblem, type Trunk } from './vlan/trunk.ts'
import type { SegmentSpec } from '../../../protocol/core/desired.ts'
import type { Driver, ObservedObject } from '../driver.ts'
import type { LinkState, SpaceState } from './observed.ts'
import type { Observed } from './steps.ts'
import type { ServiceManager } from '../../services.ts'
import { createTurns } from '../../turns.ts'

/** Bytes of inner frames through a segment's inter-site port, since the port was made. */
export interface SegmentCounters {
  wanRxBytes: number
  wanTxBytes: number
  /** both the VXLAN and its bridge port are up */
  wanUp: boolean
}

export interface SegmentDriver extends Driver<'segment'> {
  /** null when this host has no inter-site port of that segment */
  counters (name: string, signal?: AbortSignal): Promise<SegmentCounters | null>
  /** The terms of forwarding leases have changed: what may not forward any more ends, what may is prolonged. */
  syncForwarding (signal: AbortSignal): Promise<void>
  /** name of the cluster's namespace on this host; null when it is not the gateway */
  clusterNamespace (name: string): Promise<string | null>
}

/** The link of the host that has an address of a segment's underlay. */
const underlayOf = (host: SpaceState, localAddress: string): LinkState | undefined => host.links.find(({ ipv4 }) => ipv4.some((address) => address.split('/')[0] === localAddress))

/** What keeps a segment from working on this host whatever is made of it. @throws ConflictError naming link and address */
function checkUnderlay (name: string, { site, gateway }: SegmentSpec, host: SpaceState): void {
  const link = underlayOf(host, site.localAddress)
  if (link === undefined) return
  if (link.mtu < IPV6_MIN_MTU) throw new ConflictError(`segment ${name}: ${link.name}, which has ${site.localAddress}, has MTU ${link.mtu}, and ${IPV6_MIN_MTU} are needed`, `ip link set ${link.name} mtu 1500, if its switch takes that`)
  const within = gateway === undefined ? undefined : link.ipv4.find((address) => networksOverlap(gateway.address, address))
  if (within !== undefined) throw new ConflictError(`segment ${name}: its network (${gateway?.address ?? ''}) overlaps ${within} of ${link.name}, the underlay`, 'give the cluster another spec.network.cidr')
}
/** See `vlanRefusal`. */
const REFUSALS: ReadonlySet<string> = new Set(['VLAN_ID_IN_USE', 'TRUNK_MISSING', 'TRUNK_REFUSED', 'NO_VLAN'])

/** The MTU of the link that carries in-site frames. */
function underlayMtu (host: SpaceState, localAddress: string): number {
  const link = underlayOf(host, localAddress)
  return link === undefined || Number.isNaN(link.mtu) ? DEFAULT_UNDERLAY_MTU : link.mtu
}

const known = (cluster: Observed['cluster'] | MusubiError | undefined): Observed['cluster'] => cluster === undefined || cluster instanceof Error ? null : cluster

/** The name that a segment's bridge carries, for segments whose record is lost. */
function nameOnHost (vni: number, host: SpaceState, cluster: Observed['cluster']): string | null {
  const inner = cluster === null || cluster === 'broken' ? [] : cluster.links.filter(({ name }) => name === INNER.bridge)
  const links = [...host.links.filter(({ name }) => vniOfHostLink(name) === vni), ...inner]
  return links.map(({ alias }) => nameOfAlias(alias)).find((name) => name !== null) ?? null
}

const isOpen = (cluster: Observed['cluster']): boolean => cluster !== null && cluster !== 'broken' && cluster.open.has(INNER.wanPort)

const isEmpty = (vni: number, { host, cluster }: Observed): boolean => cluster === null &&
  !host.links.some(({ name }) => vniOfHostLink(name) === vni) && !host.chains.some(({ name }) => vniOfChain(name) === vni)

/**
 * Segments: bridges, VXLAN ports and their filters in the kernel. What runs is the keeper of the host's forwarding leases.
 * @param options.stateDir folder for records of what was asked for
 * @param options.services runs the keeper
 * @param options.term until when a segment may forward; without it as long as it is there
 * @param options.trunk NIC and ids that segments may use inside the site; without it they go by VXLAN
 */
export function createSegmentDriver (options: { stateDir: string, services: ServiceManager, term?: TermOf, trunk?: Trunk }): SegmentDriver {
  const trunk = options.trunk ?? null
  const forwarding = createForwarding(options)
  /** what the records say was told to `forwarding` * @param options.trunk NIC and ids that segments may use inside the site; without it they go by VXLAN
 */
  let told = false
  const records = createRecords<SegmentSpec>(join(options.stateDir, 'segments'))
  // one change at a time: two segments share the nftables tables of the host
  const turns = createTurns()
  const exclusive = async <T>(work: () => Promise<T>): Promise<T> => await turns('', work)

  const allRecords = async (): Promise<Map<string, SegmentSpec>> => {
    const all = await records.all()
    forwarding.know(all)
    told = true
    return all
  }
  const readAll = async (signal: AbortSignal): Promise<{ host: SpaceState, clusters: Map<number, string> }> => {
    const [host, clusters] = await Promise.all([readHost(signal), listNamespaces()])
    return { host, clusters }
  }
  /** What is in clusters' namespaces; an error for one that did not let itself be read. */
  const readClusters = async (vnis: readonly number[], clusters: Map<number, string>, signal: AbortSignal): Promise<Map<number, Observed['cluster'] | MusubiError>> => {
    const spaces = await readSpaces(vnis.map((vni) => clusters.get(vni)).filter((name) => name !== undefined), signal)
    return new Map(vnis.map((vni) => [vni, spaces.get(clusters.get(vni) ?? '') ?? null]))
  }
  const readOne = async (vni: number, signal: AbortSignal): Promise<Observed> => {
    const { host, clusters } = await readAll(signal)
    const cluster = (await readClusters([vni], clusters, signal)).get(vni) ?? null
    if (cluster instanceof Error) throw cluster
    return { host, cluster }
  }
  /** VNIs of everything of ours on the host. */
  const present = (host: SpaceState, clusters: Map<number, string>): Set<number> => new Set([
    ...clusters.keys(),
    ...host.links.map(({ name }) => vniOfHostLink(name)).filter((vni) => vni !== null),
    ...host.chains.map(({ name }) => vniOfChain(name)).filter((vni) => vni !== null)
  ])

  const removeVni = async (vni: number, signal: AbortSignal): Promise<void> => {
    await runSteps(removalSteps(vni, await readOne(vni, signal)), signal)
    // lenient steps may have left something: say so rather than forget it
    if (!isEmpty(vni, await readOne(vni, signal))) throw new ConflictError(`segment ${vni}: links or namespace could not be removed`, 'see `ip link`, `ip netns`; the next pass tries again')
  }

  /** VNI of a name whose record is lost, or null. */
  const findVni = async (name: string, signal: AbortSignal): Promise<number | null> => {
    const orphan = vniOfOrphan(name)
    if (orphan !== null) return orphan
    const { host, clusters } = await readAll(signal)
    const vnis = [...present(host, clusters)]
    const seen = await readClusters(vnis, clusters, signal)
    for (const vni of vnis) {
      if (nameOnHost(vni, host, known(seen.get(vni))) === name) return vni
    }
    return null
  }

  return {
    kind: 'segment',

    async probe (signal) {
      const missing: string[] = []
      // in a namespace without a name, which ends with the command
      const attempt = async (what: string, argv: readonly string[], input: string): Promise<void> => {
        try {
          await run('unshare', ['--net', ...argv], { signal, input })
        } catch (error) {
          missing.push(`${what}: ${error instanceof CommandError ? error.message : String(error)}`)
        }
      }
      await attempt('cannot make segments', ['ip', '-batch', '-'], [
        'link add name b type bridge', 'link add name x type vxlan id 1 dstport 4789 df unset udpcsum',
        'link add name m link x type macvlan mode passthru', 'link set dev m master b', 'link set dev m type bridge_slave neigh_suppress on', 'link add name v type veth peer name w'
      ].map((line) => `${line}\n`).join(''))
      if (trunk !== null) {
        const host = await readHost(signal)
        const vlans = await readBridgeVlans(host, [trunk.nic], signal)
        const { from, to } = trunk.ids
        const problem = nicProblem(trunk.nic, from, host) ?? bridgeProblem(trunk.nic, from, host, vlans) ?? bridgeProblem(trunk.nic, to, host, vlans)
        if (problem !== null) missing.push(`${problem.message} (${problem.hint ?? ''})`)
        await attempt('cannot make VLANs', ['ip', '-batch', '-'], 'link add name v type veth peer name w\nlink add link v name x type vlan id 1\n')
      }
      await attempt('cannot filter segments', ['nft', '-f', '-'], [
        'add table bridge t', 'add chain bridge t c { type filter hook prerouting priority -310; policy accept; }',
        'add rule bridge t c ether type ip tcp flags & syn == syn tcp option maxseg size > 1330 tcp option maxseg size set 1330',
        'add chain bridge t p { type filter hook prerouting priority -330; policy accept; }', 'add rule bridge t p ether type arp iifname . arp saddr ether . arp saddr ip != { "a" . 02:00:00:00:00:01 . 10.0.0.1 } drop',
        'add rule bridge t p icmpv6 type nd-router-advert drop', 'add rule bridge t p iifname "a" limit rate over 200/second burst 400 packets drop',
        'add set bridge t s { type ifname; flags timeout; }', 'add chain bridge t f { type filter hook forward priority -200; policy accept; }', 'add rule bridge t f iifname "a" iifname != @s drop', 'add element bridge t s { "a" timeout 9990ms }',
        'add table inet t', 'add chain inet t c { type filter hook input priority -10; policy accept; }', 'add rule inet t c udp dport 4789 @th,96,24 1 drop'
      ].map((line) => `${line}\n`).join(''))
      return missing
    },

    async observe (signal) {
      const [specs, { host, clusters }, ipv6] = await Promise.all([allRecords(), readAll(signal), hasIpv6()])
      const keeper = ![...specs.keys()].some((name) => forwarding.mayForward(name)) || await forwarding.keeperRuns()
      const nameByVni = new Map([...specs].map(([name, { vni }]) => [vni, name]))
      const objects: ObservedObject[] = []
      const vnis = [...new Set([...nameByVni.keys(), ...present(host, clusters)])]
      const [seen, vlans] = await Promise.all([readClusters(vnis, clusters, signal), readBridgeVlans(host, [...specs.values()].flatMap(({ site }) => site.trunk ?? []), signal)])
      for (const vni of vnis) {
        const found = seen.get(vni) ?? null
        const unread = found instanceof Error ? found : null
        const observed: Observed = { host, cluster: known(found) }
        const name = nameByVni.get(vni) ?? nameOnHost(vni, host, observed.cluster) ?? orphanName(vni)
        const spec = specs.get(name)
        const steps = spec === undefined || unread !== null ? null : segmentSteps(planSegment(name, spec, underlayMtu(host, spec.site.localAddress), ipv6, tunnelMtuOf(host.links)), observed)
        const missing: string[] = steps === null ? ['record'] : describeSteps(steps)
        // a keeper that has died is missed before its segments are: they go on for some seconds
        const lapsed = spec !== undefined && forwarding.mayForward(name) && steps !== null && !(keeper && isOpen(observed.cluster))
        if (lapsed) missing.push(keeper ? 'forwarding lease' : 'keeper of the forwarding lease')
        const problem = unread ?? (spec === undefined ? null : trunkProblem(spec, host, vlans))
        objects.push({
          kind: 'segment',
          name,
          fingerprint: spec === undefined ? null : fingerprint(spec),
          healthy: missing.length === 0 && steps !== null && problem === null,
          detail: { vni, namespace: clusters.get(vni) ?? null, ...(problem === null ? {} : { problem: problem.message }), ...(unread !== null ? {} : { missing }) }
        })
      }
      return objects
    },

    async apply (name, spec, signal) {
      checkSegment(name, spec)
      checkTrunk(spec, trunk)
      await exclusive(async () => {
        const specs = await allRecords()
        for (const [other, { vni, site }] of specs) {
          if (other !== name && vni === spec.vni) throw new ConflictError(`segment ${name}: VNI ${vni} is ${other}'s on this host`, `remove ${other} first`)
          if (other !== name && site.segmentId === spec.site.segmentId) throw new ConflictError(`segment ${name}: segment id ${spec.site.segmentId} is ${other}'s on this host`, `remove ${other} first`)
        }
        const before = specs.get(name)
        let observed = await readOne(spec.vni, signal)
        checkUnderlay(name, spec, observed.host)
        // before anything is touched
        const problem = trunkProblem(spec, observed.host, await readBridgeVlans(observed.host, [spec.site.trunk ?? ''], signal))
        if (problem !== null) throw problem
        if (before !== undefined && before.vni !== spec.vni) {
          await removeVni(before.vni, signal)
          observed = await readOne(spec.vni, signal)
        }
        await records.put(name, spec)
        const steps = segmentSteps(planSegment(name, spec, underlayMtu(observed.host, spec.site.localAddress), await hasIpv6(), tunnelMtuOf(observed.host.links)), observed)
        const isNew = before === undefined && isEmpty(spec.vni, observed)
        await runSteps(steps, signal).catch(async (error: unknown) => {
          // what only the making of the sub-interface tells: nothing half-done stays of a segment that was not there
          if (isNew && REFUSALS.has(errorCode(error))) {
            await removeVni(spec.vni, signal)
            await records.delete(name)
          }
          throw error
        })
        await allRecords()
        // a lease that has run out beside a keeper: somebody has stopped that one, or it hangs
        if (before !== undefined && steps.length === 0 && forwarding.mayForward(name) && !isOpen(observed.cluster)) await forwarding.stopKeeper()
        await forwarding.settle(signal)
        if (hasGate(spec)) await forwarding.open(name, signal)
      })
    },

    async remove (name, signal) {
      await exclusive(async () => {
        const vni = (await records.get(name))?.vni ?? await findVni(name, signal)
        if (vni !== null) await removeVni(vni, signal)
        await records.delete(name)
        await allRecords()
        forwarding.forget(name)
        await forwarding.settle(signal)
      })
    },

    async counters (name, signal = AbortSignal.timeout(10_000)) {
      const spec = await records.get(name)
      if (spec?.gateway === undefined || spec.gateway.tunnel === null) return null
      const ns = clusterNamespace(spec.vni)
      if (!(await listNamespaces()).has(spec.vni)) return null
      const read = async (link: string): Promise<ReturnType<typeof parseCounters>> => {
        const { stdout } = await run('ip', ['-n', ns, '-json', '-statistics', 'link', 'show', 'dev', link], { signal, okCodes: [1] })
        return stdout.trim() === '' ? null : parseCounters(JSON.parse(stdout))
      }
      const [vxlan, port] = [await read(INNER.wanVxlan), await read(INNER.wanPort)]
      if (vxlan === null) return null
      return { wanRxBytes: vxlan.rxBytes, wanTxBytes: vxlan.txBytes, wanUp: vxlan.up && port?.up === true }
    },

    async syncForwarding (signal) {
      if (!told) await allRecords()
      await forwarding.sync(signal)
    },

    async clusterNamespace (name) {
      const spec = await records.get(name)
      return spec?.gateway === undefined ? null : clusterNamespace(spec.vni)
    }
  }
}
