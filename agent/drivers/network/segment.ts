import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { clusterNamespace } from '../../../protocol/core/desired.ts'
import { networksOverlap } from '../../../protocol/core/network/addresses.ts'
import { MAX_HOST_MEMBERS } from '../../../protocol/core/limits.ts'
import { ConflictError, errorCode, type MusubiError } from '../../../protocol/core/errors.ts'
import { CommandError, run } from '../../exec.ts'
import { fingerprint } from '../../fingerprint.ts'
import { createForwarding, hasGate, type TermOf } from './forward/forwarding.ts'
import { hasIpv6, listNamespaces, readBridgeVlans, readHost, readHostAnd } from './observe/host.ts'
import { DEFAULT_UNDERLAY_MTU, INNER, IPV6_MIN_MTU, nameOfAlias, orphanName, vniOfChain, vniOfHostLink, vniOfOrphan } from './names.ts'
import { parseCounters } from './observe/observed.ts'
import { checkSegment, planSegment, withoutVlan } from './plan.ts'
import { createRecords } from './records.ts'
import { describeSteps } from './repairs.ts'
import { runSteps } from './run/run-steps.ts'
import { createSnooping, NOTHING_LEARNED } from './snoop/snooping.ts'
import { snoops } from './snoop/rules.ts'
import { tunnelMtuOf } from './tunnel/names.ts'
import { removalSteps, segmentSteps } from './steps.ts'
import { bridgeProblem, checkTrunk, nicProblem, trunkProblem, type Trunk } from './vlan/trunk.ts'
import type { SegmentSpec } from '../../../protocol/core/desired.ts'
import type { Driver, ObservedObject } from '../driver.ts'
import type { LinkState, SpaceState } from './observe/observed.ts'
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

/** What keeps a segment from working on this host whatever is made of it; null when nothing does. */
function underlayProblem (name: string, { site, gateway }: SegmentSpec, host: SpaceState): ConflictError | null {
  const link = underlayOf(host, site.localAddress)
  if (link === undefined) return null
  if (link.mtu < IPV6_MIN_MTU) return new ConflictError(`segment ${name}: ${link.name}, which has ${site.localAddress}, has MTU ${link.mtu}, and ${IPV6_MIN_MTU} are needed`, `ip link set ${link.name} mtu 1500, if its switch takes that`)
  const within = gateway === undefined ? undefined : link.ipv4.find((address) => networksOverlap(gateway.address, address))
  return within === undefined ? null : new ConflictError(`segment ${name}: its network (${gateway?.address ?? ''}) overlaps ${within} of ${link.name}, the underlay`, 'give the cluster another spec.network.cidr')
}

/** Whether a segment stays where it is: what is wrong there was wrong before, and whatever else there is to do makes it no worse. */
const isSamePlace = (before: SegmentSpec, spec: SegmentSpec): boolean => fingerprint([before.vni, before.site.segmentId, before.site.localAddress, before.site.trunk, before.gateway?.address]) === fingerprint([spec.vni, spec.site.segmentId, spec.site.localAddress, spec.site.trunk, spec.gateway?.address])

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

/** A namespace that has lost its name goes when the kernel has time for it, and its links with it: until then their VNIs are taken. */
const isLeaving = (error: unknown): boolean => error instanceof CommandError && error.message.includes('VXLAN device with the specified VNI already exists')
const LEAVING_TRIES = 10
const LEAVING_MS = 200

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
  /** what the records say was told to `forwarding` */
  let told = false
  const snooping = createSnooping(options)
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
  /** The host, and all clusters' namespaces or one; an error for one that did not let itself be read. */
  const readAll = async (signal: AbortSignal, only?: number): Promise<{ host: SpaceState, clusters: Map<number, string>, seen: Map<number, Observed['cluster'] | MusubiError> }> => {
    const clusters = new Map([...await listNamespaces()].filter(([vni]) => only === undefined || vni === only))
    const { host, spaces } = await readHostAnd([...clusters.values()], signal)
    return { host, clusters, seen: new Map([...clusters].map(([vni, name]) => [vni, spaces.get(name) ?? null])) }
  }
  const readOne = async (vni: number, signal: AbortSignal): Promise<Observed> => {
    const { host, seen } = await readAll(signal, vni)
    const cluster = seen.get(vni) ?? null
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
    const { host, clusters, seen } = await readAll(signal)
    for (const vni of present(host, clusters)) {
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
        'add table inet t', 'add chain inet t c { type filter hook input priority -10; policy accept; }', 'add rule inet t c udp dport 4789 @th,96,24 1 drop',
        'add map inet t w { typeof udp dport . @th,96,24 : verdict; }', 'add rule inet t c udp dport . @th,96,24 vmap @w'
      ].map((line) => `${line}\n`).join(''))
      await attempt('cannot learn addresses of nodes whose frontend hands them out', ['nft', '-f', '-'], [
        'add table bridge t', 'add chain bridge t c { type filter hook prerouting priority -330; policy accept; }', 'add set bridge t l { type ether_addr . ipv4_addr; flags timeout; }',
        'add rule bridge t c ether type ip udp sport 67 ether saddr . ip saddr != @l drop', 'add rule bridge t c udp sport 67 @th,64,8 2 log prefix "mz" group 28026'
      ].map((line) => `${line}\n`).join(''))
      return missing
    },

    async observe (signal) {
      const [specs, { host, clusters, seen }, ipv6] = await Promise.all([allRecords(), readAll(signal), hasIpv6()])
      const keeper = ![...specs.keys()].some((name) => forwarding.mayForward(name)) || await forwarding.keeperRuns()
      const nameByVni = new Map([...specs].map(([name, { vni }]) => [vni, name]))
      const objects: ObservedObject[] = []
      const vnis = [...new Set([...nameByVni.keys(), ...present(host, clusters)])]
      const learns = await snooping.keeperRuns(specs)
      const vlans = await readBridgeVlans(host, [...specs.values()].flatMap(({ site }) => site.trunk ?? []), signal)
      // after the neighbours: what was learnt in between is missing there, and nothing is taken away
      const learned = await snooping.learned(specs, signal)
      for (const vni of vnis) {
        const found = seen.get(vni) ?? null
        const unread = found instanceof Error ? found : null
        const observed: Observed = { host, cluster: known(found) }
        const name = nameByVni.get(vni) ?? nameOnHost(vni, host, observed.cluster) ?? orphanName(vni)
        const spec = specs.get(name)
        const steps = spec === undefined || unread !== null ? null : segmentSteps(planSegment(name, spec, underlayMtu(host, spec.site.localAddress), ipv6, tunnelMtuOf(host.links), learned.get(vni)), observed)
        const missing: string[] = steps === null ? ['record'] : describeSteps(steps)
        // a keeper that has died is missed before its segments are: they go on for some seconds
        const lapsed = spec !== undefined && forwarding.mayForward(name) && steps !== null && !(keeper && isOpen(observed.cluster))
        if (lapsed) missing.push(keeper ? 'forwarding lease' : 'keeper of the forwarding lease')
        if (spec !== undefined && snoops(spec) && !learns) missing.push('keeper that learns addresses')
        const problem = unread ?? (spec === undefined ? null : trunkProblem(spec, host, vlans) ?? underlayProblem(name, spec, host))
        objects.push({
          kind: 'segment',
          name,
          fingerprint: spec === undefined ? null : fingerprint(spec),
          healthy: missing.length === 0 && steps !== null && problem === null,
          detail: { vni, namespace: clusters.get(vni) ?? null, ...(problem === null ? {} : { problem: problem.message }), ...(unread !== null ? {} : { missing }), ...(spec !== undefined && snoops(spec) ? { learned: learned.get(vni) ?? NOTHING_LEARNED } : {}) }
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
        const count = ({ known: of }: Pick<SegmentSpec, 'known'>): number => of?.members.length ?? 0
        const others = [...specs].reduce((sum, [other, one]) => sum + (other === name ? 0 : count(one)), 0)
        if (others + count(spec) > MAX_HOST_MEMBERS && count(spec) > (before === undefined ? 0 : count(before))) throw new ConflictError(`segment ${name}: its ${count(spec)} members and the ${others} of other segments on this host are more than ${MAX_HOST_MEMBERS}`, 'remove a segment from this host first')
        let observed = await readOne(spec.vni, signal)
        const problem = trunkProblem(spec, observed.host, await readBridgeVlans(observed.host, [spec.site.trunk ?? ''], signal)) ?? underlayProblem(name, spec, observed.host)
        // before anything is touched; of one that is there the rest is done first, or a trunk that is down would keep its filters as they are
        if (problem !== null && (before === undefined || !isSamePlace(before, spec))) throw problem
        if (before !== undefined && before.vni !== spec.vni) {
          await removeVni(before.vni, signal)
          observed = await readOne(spec.vni, signal)
        }
        await records.put(name, spec)
        // a keeper has sockets in the namespace that has lost its name, and with them its links go on
        if (spec.gateway !== undefined && (observed.cluster === null || observed.cluster === 'broken')) await snooping.pause()
        const learned = snoops(spec) ? (await snooping.learned(new Map([[name, spec]]), signal)).get(spec.vni) : undefined
        const plan = planSegment(name, spec, underlayMtu(observed.host, spec.site.localAddress), await hasIpv6(), tunnelMtuOf(observed.host.links), learned)
        const whole = segmentSteps(plan, observed)
        const steps = problem !== null && whole.some((step) => step.do === 'vlan') ? segmentSteps(withoutVlan(plan), observed) : whole
        const isNew = before === undefined && isEmpty(spec.vni, observed)
        const carryOut = async (): Promise<void> => {
          let rest = steps
          for (let tries = LEAVING_TRIES; ; tries--) {
            try {
              await runSteps(rest, signal)
              return
            } catch (error) {
              if (tries === 0 || !isLeaving(error)) throw error
              await sleep(LEAVING_MS, undefined, { signal })
              rest = segmentSteps(plan, await readOne(spec.vni, signal))
            }
          }
        }
        await carryOut().catch(async (error: unknown) => {
          // what only the making of the sub-interface tells: nothing half-done stays of a segment that was not there
          if (isNew && REFUSALS.has(errorCode(error))) {
            await removeVni(spec.vni, signal)
            await records.delete(name)
          }
          throw error
        })
        await snooping.settle(await allRecords())
        // a lease that has run out beside a keeper: somebody has stopped that one, or it hangs
        if (before !== undefined && steps.length === 0 && forwarding.mayForward(name) && !isOpen(observed.cluster)) await forwarding.stopKeeper()
        await forwarding.settle(signal)
        if (hasGate(spec)) await forwarding.open(name, isOpen(observed.cluster), signal)
        if (problem !== null) throw problem
      })
    },

    async remove (name, signal) {
      await exclusive(async () => {
        const vni = (await records.get(name))?.vni ?? await findVni(name, signal)
        if (vni !== null) await removeVni(vni, signal)
        await records.delete(name)
        await snooping.settle(await allRecords())
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
