import { join } from 'node:path'
import { describeError, InvalidInputError, NotFoundError } from '../../../../protocol/core/errors.ts'
import { run } from '../../../exec.ts'
import { fingerprint } from '../../../fingerprint.ts'
import { createRecords } from '../records.ts'
import { createGreeter } from './crossed.ts'
import { createKeys } from './keys.ts'
import { bringUp, hasKernel, readTracks, refreshEndpoints, requireUserspace, settle, START_TIMEOUT_MS, tearDown } from './links.ts'
import { createLocals } from './locals.ts'
import { IPV6_MIN_MTU } from '../names.ts'
import { otherTrack, TRACKS, wgInterface } from './names.ts'
import { createPathMtu } from './path-mtu.ts'
import { dropTable, renderTable, setTable, tableShape, wantedShape } from './ports.ts'
import { decide, GRACE_MS, noteQuiet, QUIET_MS, sessionKey, SETTLE_MS, TIDY_MS } from './rotation.ts'
import { checkTunnel, endpointsOf, hostOf, setArguments, trackConfig } from './wireguard.ts'
import type { Track, TunnelSpec } from '../../../../protocol/core/desired.ts'
import type { ServiceManager } from '../../../services.ts'
import type { Driver } from '../../driver.ts'
import type { LinkState } from '../observe/observed.ts'
import type { KeyPair } from './keys.ts'
import type { TrackSeen } from './links.ts'
import type { PathMtuOptions } from './path-mtu.ts'
import type { Decision, KeyState, RotationOptions, SessionSeen } from './rotation.ts'
import type { CheckedTunnel } from './wireguard.ts'

/** The host's one tunnel object. */
const NAME = 'wg'
/** Steps of one apply: a key is made, its interface, its peers, and the same for what is given up. */
const MAX_STEPS = 8

/** An own key as peers are to know it. */
export interface PublicTrack {
  track: Track
  publicKey: string
  draining: boolean
  /** the `keyEpoch` that it was made under */
  epoch: number
  /** Unix ms, wall clock */
  madeMs: number
}

export interface TunnelDriver extends Driver<'tunnel'> {
  /** All keys that peers may use now, in the order of tracks; one is made on first use. */
  publicTracks (signal?: AbortSignal): Promise<PublicTrack[]>
  /** Who would carry, or carries, the tunnel here, for `doctor`; null when nothing can. User space is several times slower. */
  mode (signal?: AbortSignal): Promise<'kernel' | 'userspace' | null>
}

/** Everything that a pass looks at. */
interface Seen {
  nowMs: number
  keys: KeyState
  pairs: Map<Track, KeyPair>
  tracks: Map<Track, TrackSeen>
  /** before the counters were read: how long they have not changed is never overrated */
  beganMs: number
  /** an address has gone that wireguard-go may still send from */
  moved: boolean
  table: string
}

/** A record of another release may say what none would now. */
function readable (spec: TunnelSpec): CheckedTunnel | null {
  try {
    return checkTunnel(spec)
  } catch {
    return null
  }
}

/** What is still to be done, in words for `detail`, and what is needed to do it. */
interface Plan {
  decision: Decision
  /** tracks that are to have an interface after this step */
  own: Track[]
  /** what `wg set` is to be told, by track; empty where nothing differs */
  changes: Map<Track, string[]>
  mtu: number
  /** lines for `ip -batch` by track */
  lines: string[]
  todo: string[]
}

/**
 * The WireGuard interfaces of this host: in the kernel, or wireguard-go where the kernel has none.
 * One in quiet times, two while keys are exchanged.
 *
 * @param options.stateDir folder for the private keys (0600) and the record
 * @param options.services runs wireguard-go
 * @param options.rotation times of the exchange of keys, for tests
 * @param options.pathMtu how paths are probed, for tests
 */
export function createTunnelDriver (options: { stateDir: string, services: ServiceManager, rotation?: Partial<RotationOptions>, pathMtu?: Partial<PathMtuOptions> }): TunnelDriver {
  const { stateDir, services } = options
  const rotation: RotationOptions = { quietMs: QUIET_MS, graceMs: GRACE_MS, tidyMs: TIDY_MS, settleMs: SETTLE_MS, ...options.rotation }
  const records = createRecords<TunnelSpec>(join(stateDir, 'tunnels'))
  const keys = createKeys(stateDir)
  const paths = createPathMtu(options.pathMtu)
  const ownAddresses = createLocals(stateDir)
  const greeter = createGreeter()
  /** when bytes last arrived, by session */
  let quiet = new Map<string, { rxBytes: number, sinceMs: number }>()

  const read = async (signal: AbortSignal): Promise<Seen> => {
    const beganMs = Date.now()
    const [state, { tracks, locals }, table] = await Promise.all([keys.state(), readTracks(services, signal), tableShape(signal)])
    const pairs = new Map<Track, KeyPair>()
    for (const { track } of state.tracks) {
      const pair = await keys.pair(track, signal)
      if (pair !== null) pairs.set(track, pair)
    }
    const nowMs = Date.now()
    quiet = noteQuiet(quiet, new Map([...tracks].flatMap(([track, { wireguard }]) => (wireguard?.peers ?? []).map((peer): [string, number] => [sessionKey(track, peer.publicKey), peer.rxBytes]))), nowMs)
    const isUserspace = [...tracks.values()].some(({ link }) => link !== undefined && link.kind !== 'wireguard')
    return { nowMs, beganMs, keys: state, pairs, tracks, moved: await ownAddresses.look(locals) && isUserspace, table }
  }

  /** Sessions by the keys that peers have now; those of former keys do not count. */
  const sessionsOf = (spec: CheckedTunnel, seen: Seen): Map<Track, Map<string, SessionSeen>> => new Map(TRACKS.map((track) => {
    const byKey = new Map(seen.tracks.get(track)?.wireguard?.peers.map((peer) => [peer.publicKey, peer]))
    return [track, new Map(spec.peers.flatMap(({ address, tracks }) => tracks.filter((one) => one.track === track).flatMap(({ publicKey }) => {
      const peer = byKey.get(publicKey)
      const since = quiet.get(sessionKey(track, publicKey))?.sinceMs ?? seen.nowMs
      return peer === undefined ? [] : [[address, { latestHandshake: peer.latestHandshake, quietMs: seen.beganMs - since }] as const]
    })))]
  }))

  const routesOf = (spec: CheckedTunnel, seen: Seen): Map<string, Track> => new Map(spec.peers.flatMap(({ address }) =>
    TRACKS.filter((track) => { const one = seen.tracks.get(track); return one?.link?.up === true && one.routes.includes(address) }).map((track): [string, Track] => [address, track])))

  /** Lines for `ip -batch` that the interface of one track still needs, but for the routes. */
  const linkLines = (spec: CheckedTunnel, track: Track, link: LinkState | undefined, mtu: number): string[] => {
    const own = `${spec.address}/32`
    const dev = `dev ${wgInterface(track)}`
    return [
      ...(link?.mtu === mtu ? [] : [`link set ${dev} mtu ${mtu}`]),
      ...(link?.ipv4.includes(own) === true ? [] : [`address add ${own} ${dev}`]),
      ...(link?.ipv4 ?? []).filter((address) => address !== own).map((address) => `address delete ${address} ${dev}`),
      ...(link?.up === true ? [] : [`link set ${dev} up`])
    ]
  }

  /** A route is replaced, not removed and added: no packet finds none. Routes go with a link that goes down, so they come last. */
  const routeLines = (spec: CheckedTunnel, own: readonly Track[], routes: ReadonlyMap<string, Track>, seen: Seen): string[] => {
    const isThere = (address: string, track: Track): boolean => { const one = seen.tracks.get(track); return one?.link?.up === true && one.routes.includes(address) }
    const wanted = [...routes].filter(([address, track]) => !isThere(address, track)).map(([address, track]) => `route replace ${address}/32 dev ${wgInterface(track)}`)
    const strange = own.flatMap((track) => (seen.tracks.get(track)?.routes ?? []).filter((address) => !routes.has(address)).map((address) => `route delete ${address} dev ${wgInterface(track)}`))
    return [...wanted, ...strange]
  }

  const plan = (spec: CheckedTunnel, seen: Seen, applied: CheckedTunnel | null): Plan => {
    const decision = decide(seen.keys, spec.peers, spec.keyEpoch, { nowMs: seen.nowMs, sessions: sessionsOf(spec, seen), routes: routesOf(spec, seen) }, rotation)
    const own = seen.keys.tracks.map(({ track }) => track).filter((track) => track !== decision.close)
    const current = TRACKS.map((track) => seen.tracks.get(track)?.link?.mtu).find((bytes) => bytes !== undefined) ?? null
    const mtu = paths.tunnelMtu(spec.peers.map(({ address }) => address), current)
    const endpoints = endpointsOf(applied)
    const changes = new Map<Track, string[]>()
    const todo: string[] = []
    const lines: string[] = []
    for (const track of own) {
      const one = seen.tracks.get(track)
      const name = wgInterface(track)
      if (one?.wireguard == null) {
        todo.push(`${name} is not there, or does not answer`)
        continue
      }
      const config = trackConfig(spec, track, (address) => decision.alive.has(sessionKey(track, address)))
      const told = setArguments(config, one.wireguard, { publicKey: seen.pairs.get(track)?.publicKey ?? '', keyFile: keys.fileOf(track) }, endpoints, seen.nowMs / 1000)
      changes.set(track, told)
      if (told.length > 0) todo.push(`peers of ${name} differ`)
      if (one.link?.ipv6 === true || one.rpFilter !== '2') todo.push(`settings of ${name} differ`)
      lines.push(...linkLines(spec, track, one.link, mtu))
    }
    const settled = new Map([...decision.routes].filter(([, track]) => own.includes(track) && seen.tracks.get(track)?.wireguard != null))
    lines.push(...routeLines(spec, own, settled, seen))
    todo.push(...lines)
    for (const track of TRACKS) if (!own.includes(track) && (seen.tracks.get(track)?.link !== undefined || seen.tracks.get(track)?.service.running === true)) todo.push(`${wgInterface(track)} is there without a key`)
    if (decision.open !== null) todo.push(`a key for track ${decision.open} is to be made`)
    if (decision.close !== null) todo.push(`the key of track ${decision.close} is to go`)
    if (decision.draining !== (seen.keys.draining?.track ?? null)) todo.push('what is given up is to be written down')
    if (seen.moved) todo.push('an address of this host has gone: endpoints are to be set again')
    if (seen.table !== wantedShape(renderTable(spec.address, [spec.listenPort, spec.secondPort]))) todo.push('the filter of the ports differs')
    return { decision, own, changes, mtu, lines, todo }
  }

  /** One step towards the plan. @returns whether the keys or the interfaces are others now, so that all is to be decided anew */
  const step = async (spec: CheckedTunnel, seen: Seen, { decision, own, changes, lines }: Plan, signal: AbortSignal): Promise<boolean> => {
    const text = renderTable(spec.address, [spec.listenPort, spec.secondPort])
    if (seen.table !== wantedShape(text)) await setTable(text, signal)
    if (decision.draining !== (seen.keys.draining?.track ?? null)) await keys.setDraining(decision.draining === null ? null : { track: decision.draining, sinceMs: seen.nowMs })
    if (decision.open !== null) {
      await keys.open(decision.open, spec.keyEpoch, signal)
      return true
    }
    const missing = own.filter((track) => seen.tracks.get(track)?.wireguard == null)
    for (const track of missing) await bringUp(track, services, signal)
    if (missing.length > 0) return true
    for (const track of own) {
      const one = seen.tracks.get(track)
      if (one?.wireguard == null || !seen.pairs.has(track)) continue
      if (one.link?.ipv6 === true || one.rpFilter !== '2') await settle(track)
      const told = changes.get(track) ?? []
      // names of endpoints are looked up here: twice is enough, the next pass tries again
      if (told.length > 0) {
        await run('wg', ['set', wgInterface(track), ...told], { signal, env: { WG_ENDPOINT_RESOLUTION_RETRIES: '2' } })
        greeter.watch()
      }
      if (seen.moved) await refreshEndpoints(track, one.wireguard, signal)
    }
    await ownAddresses.settled()
    if (lines.length > 0) await run('ip', ['-batch', '-'], { signal, input: lines.map((line) => `${line}\n`).join('') })
    // below that the kernel has no IPv6 on a link, and begins anew with its own settings when it grows
    for (const track of own) if ((seen.tracks.get(track)?.link?.mtu ?? IPV6_MIN_MTU) < IPV6_MIN_MTU) await settle(track)
    // after the routes: until then they may have led there
    for (const track of TRACKS) {
      const one = seen.tracks.get(track)
      if (!own.includes(track) && (one?.link !== undefined || one?.service.running === true)) await tearDown(track, services, signal)
    }
    if (decision.close === null) return decision.draining !== (seen.keys.draining?.track ?? null)
    await keys.close(decision.close)
    return true
  }

  const probePaths = (spec: CheckedTunnel, seen: Seen, decision: Decision): void => {
    paths.want(spec.peers.flatMap(({ site, address, tracks }) => {
      const track = decision.routes.get(address) ?? 0
      const publicKey = tracks.find((one) => one.track === track)?.publicKey
      const peer = seen.tracks.get(track)?.wireguard?.peers.find((one) => one.publicKey === publicKey)
      // before it has answered there is nobody to measure the way to
      return peer?.endpoint == null || peer.latestHandshake === 0 ? [] : [{ site, address, remote: hostOf(peer.endpoint) }]
    }))
  }

  const detailOf = (spec: CheckedTunnel | null, seen: Seen, planned: Plan | null): Record<string, unknown> => {
    const first = seen.tracks.get(seen.keys.tracks[0]?.track ?? 0)
    const modeOf = (one: TrackSeen | undefined): string => one?.link === undefined ? 'down' : one.link.kind === 'wireguard' ? 'kernel' : 'userspace'
    const problems = paths.problems()
    return {
      mode: modeOf(first),
      pid: first?.service.pid ?? null,
      mtu: first?.link?.mtu ?? null,
      // handshakes that had crossed
      begunAnew: greeter.count(),
      // between these two the counters of peers were read, wall clock
      readMs: [seen.beganMs, seen.nowMs],
      tracks: seen.keys.tracks.map(({ track, epoch }) => ({
        track, interface: wgInterface(track), publicKey: seen.pairs.get(track)?.publicKey ?? null, epoch, draining: seen.keys.draining?.track === track,
        mode: modeOf(seen.tracks.get(track)), pid: seen.tracks.get(track)?.service.pid ?? null
      })),
      peers: TRACKS.flatMap((track) => (seen.tracks.get(track)?.wireguard?.peers ?? []).map((peer) => {
        const of = spec?.peers.find(({ tracks }) => tracks.some((one) => one.track === track && one.publicKey === peer.publicKey))
        return { site: of?.site ?? null, address: of?.address ?? null, track, inUse: of !== undefined && seen.tracks.get(track)?.routes.includes(of.address) === true, ...peer, ...(of === undefined ? {} : paths.of(of.address)) }
      })),
      waiting: planned?.decision.waiting ?? [],
      ...(problems.length === 0 ? {} : { problems }),
      ...(planned === null || planned.todo.length === 0 ? {} : { missing: planned.todo })
    }
  }

  const publicTracks = async (signal: AbortSignal = AbortSignal.timeout(START_TIMEOUT_MS)): Promise<PublicTrack[]> => {
    if ((await keys.state()).tracks.length === 0) await keys.open(0, (await records.get(NAME))?.keyEpoch ?? 0, signal)
    const { tracks, draining } = await keys.state()
    const found = await Promise.all(tracks.map(async (one) => ({ ...one, pair: await keys.pair(one.track, signal) })))
    return found.flatMap(({ track, epoch, madeMs, pair }) => (pair === null ? [] : [{ track, publicKey: pair.publicKey, draining: draining?.track === track, epoch, madeMs }]))
  }

  return {
    kind: 'tunnel',
    publicTracks,

    async probe (signal) {
      const problems: string[] = []
      try {
        await run('wg', ['--version'], { signal })
      } catch {
        problems.push('no tunnel to other sites: the program wg is missing (package wireguard-tools)')
      }
      if (!await hasKernel(signal)) await requireUserspace().catch((error: unknown) => { problems.push(describeError(error)) })
      return [...problems, ...paths.problems()]
    },

    async mode (signal = AbortSignal.timeout(START_TIMEOUT_MS)) {
      if (await hasKernel(signal)) return 'kernel'
      return await requireUserspace().then(() => 'userspace' as const, () => null)
    },

    async observe (signal) {
      const [spec, seen] = await Promise.all([records.get(NAME), read(signal)])
      const isThere = [...seen.tracks.values()].some(({ link, service }) => link !== undefined || service.running) || seen.table !== ''
      if (spec === null && !isThere) return []
      const wanted = spec === null ? null : readable(spec)
      const planned = wanted === null ? null : plan(wanted, seen, wanted)
      if (wanted !== null && planned !== null) probePaths(wanted, seen, planned.decision)
      return [{ kind: 'tunnel', name: NAME, fingerprint: spec === null ? null : fingerprint(spec), healthy: planned?.todo.length === 0, detail: detailOf(wanted, seen, planned) }]
    },

    async apply (name, given, signal) {
      if (name !== NAME) throw new NotFoundError(`tunnel ${name}: a host has one tunnel, named ${NAME}`)
      const spec = checkTunnel(given)
      const before = await records.get(NAME)
      const applied = before === null ? null : readable(before)
      await records.put(NAME, given)
      await greeter.pausedFor(async () => {
        for (let steps = 0, again = true; again && steps < MAX_STEPS; steps++) {
          const seen = await read(signal)
          const theirs = endpointsOf(spec)
          for (const { publicKey } of seen.pairs.values()) if (theirs.has(publicKey)) throw new InvalidInputError(`tunnel: a peer has the public key ${publicKey} of this gateway`)
          again = await step(spec, seen, plan(spec, seen, applied), signal)
        }
      })
    },

    async remove (name, signal) {
      if (name !== NAME) return
      paths.want([])
      greeter.stop()
      for (const track of [0, otherTrack(0)] as const) {
        await tearDown(track, services, signal)
      }
      if (await tableShape(signal) !== '') await dropTable(signal)
      await records.delete(NAME)
    }
  }
}
