import { constants } from 'node:fs'
import { access, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { MusubiError } from '../../../../protocol/core/errors.ts'
import { CommandError, run, runJson } from '../../../exec.ts'
import { silenceIpv6 } from '../observe/host.ts'
import { TUNNEL_MTU, WG_INTERFACE } from '../names.ts'
import { parseLinks, parseRoutes } from '../observe/observed.ts'
import { hasCode, readIfThere } from '../records.ts'
import { localAddresses } from './locals.ts'
import { TRACKS, wgInterface, wgService } from './names.ts'
import { parseDump } from './wireguard.ts'
import type { Track } from '../../../../protocol/core/desired.ts'
import type { ServiceManager, ServiceStatus } from '../../../services.ts'
import type { LinkState } from '../observe/observed.ts'
import type { WireGuardState } from './wireguard.ts'

/** A user-space WireGuard that does not answer within this hangs. */
const ANSWER_TIMEOUT_MS = 5_000
export const START_TIMEOUT_MS = 10_000
const START_POLL_MS = 50

/** One track's interface as it is. */
export interface TrackSeen {
  link: LinkState | undefined
  /** null: no interface, or one that does not answer */
  wireguard: WireGuardState | null
  /** destinations of routes on the interface */
  routes: string[]
  service: ServiceStatus
  /** reverse path filter of the interface, 0 off, 1 strict, 2 loose; null without an interface */
  rpFilter: string | null
}

const links = async (signal: AbortSignal): Promise<LinkState[]> => parseLinks(await runJson('ip', ['-json', '-details', 'address', 'show'], { signal }))

async function askWireGuard (name: string, signal: AbortSignal): Promise<WireGuardState | null> {
  try {
    return parseDump((await run('wg', ['show', name, 'dump'], { signal, timeoutMs: ANSWER_TIMEOUT_MS })).stdout)
  } catch (error) {
    // exit code 1: nobody behind the interface; none: it hung, unless the program itself is missing
    if (!(error instanceof CommandError) || signal.aborted || error.message.includes('is not installed')) throw error
    return null
  }
}

const rpFilterFile = (name: string): string => `/proc/sys/net/ipv4/conf/${name}/rp_filter`

const rpFilterOf = async (name: string): Promise<string | null> => (await readIfThere(rpFilterFile(name)))?.trim() ?? null

/** All tracks, and the addresses of the host's own links. */
export async function readTracks (services: ServiceManager, signal: AbortSignal): Promise<{ tracks: Map<Track, TrackSeen>, locals: string[] }> {
  const json = await runJson('ip', ['-json', '-details', 'address', 'show'], { signal })
  const found = parseLinks(json)
  const isThere = (track: Track): boolean => found.some(({ name }) => name === wgInterface(track))
  // the whole table: naming an interface that goes just now would be an error
  const routes = TRACKS.some(isThere) ? await runJson('ip', ['-json', 'route', 'show'], { signal }) : []
  const tracks = new Map<Track, TrackSeen>()
  await Promise.all(TRACKS.map(async (track) => {
    const name = wgInterface(track)
    const [wireguard, service, rpFilter] = await Promise.all([isThere(track) ? askWireGuard(name, signal) : null, services.status(wgService(track)), isThere(track) ? rpFilterOf(name) : null])
    tracks.set(track, { link: found.find((one) => one.name === name), wireguard, routes: parseRoutes(routes, name), service, rpFilter })
  }))
  return { tracks, locals: localAddresses(json) }
}

async function tryKernel (name: string, signal: AbortSignal): Promise<boolean> {
  try {
    await run('ip', ['link', 'add', 'name', name, 'mtu', String(TUNNEL_MTU), 'type', 'wireguard'], { signal })
    return true
  } catch (error) {
    if (error instanceof CommandError && /unknown device type|not supported/i.test(error.stderr)) return false
    throw error
  }
}

/** An interface that answers, made anew when it is missing or hangs. @throws MusubiError TUNNEL_DOWN, NO_TUN_DEVICE, NO_WIREGUARD */
export async function bringUp (track: Track, services: ServiceManager, signal: AbortSignal): Promise<void> {
  const name = wgInterface(track)
  await tearDown(track, services, signal)
  if (!await tryKernel(name, signal)) {
    await requireUserspace()
    await services.ensure(wgService(track), { argv: ['wireguard-go', '-f', name], env: { LOG_LEVEL: 'error' } })
  }
  const deadline = AbortSignal.any([signal, AbortSignal.timeout(START_TIMEOUT_MS)])
  while (!deadline.aborted) {
    if (await askWireGuard(name, signal) !== null) {
      await settle(track)
      return
    }
    await sleep(START_POLL_MS)
  }
  signal.throwIfAborted()
  throw new MusubiError('TUNNEL_DOWN', `${name} did not come up within ${START_TIMEOUT_MS} ms`, { retryable: true, hint: `see the log of service ${wgService(track)}` })
}

/** Sets peers' endpoints to what they are: wireguard-go chooses its own address anew then. */
export async function refreshEndpoints (track: Track, state: WireGuardState, signal: AbortSignal): Promise<void> {
  const peers = state.peers.flatMap(({ publicKey, endpoint }) => (endpoint === null ? [] : ['peer', publicKey, 'endpoint', endpoint]))
  if (peers.length > 0) await run('wg', ['set', wgInterface(track), ...peers], { signal })
}

/** While keys are exchanged answers may come by the other track than questions went: the strict filter would drop them. */
export async function settle (track: Track): Promise<void> {
  await silenceIpv6([wgInterface(track)])
  try {
    await writeFile(rpFilterFile(wgInterface(track)), '2')
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw error
  }
}

export async function tearDown (track: Track, services: ServiceManager, signal: AbortSignal): Promise<void> {
  const name = wgInterface(track)
  await services.stop(wgService(track))
  // the interface of a wireguard-go that nobody supervises ends that process with it
  if ((await links(signal)).some((one) => one.name === name)) await run('ip', ['link', 'delete', 'dev', name], { signal, okCodes: [1] })
  // a killed wireguard-go leaves its socket
  for (const folder of ['/run/wireguard', '/var/run/wireguard']) await rm(join(folder, `${name}.sock`), { force: true })
}

/** Tries it in a namespace without a name, which ends with the command. */
export async function hasKernel (signal: AbortSignal): Promise<boolean> {
  try {
    await run('unshare', ['--net', 'ip', 'link', 'add', 'name', WG_INTERFACE, 'type', 'wireguard'], { signal })
    return true
  } catch (error) {
    if (error instanceof CommandError && !signal.aborted) return false
    throw error
  }
}

/** @throws MusubiError that says what a user-space tunnel lacks on this host */
export async function requireUserspace (): Promise<void> {
  try {
    await access('/dev/net/tun', constants.R_OK | constants.W_OK)
  } catch (error) {
    throw new MusubiError('NO_TUN_DEVICE', 'no tunnel to other sites: /dev/net/tun is missing or closed, and this kernel has no WireGuard', { hint: 'modprobe tun, or give this host the device', cause: error })
  }
  try {
    await run('wireguard-go', ['--version'])
  } catch (error) {
    throw new MusubiError('NO_WIREGUARD', 'no tunnel to other sites: this kernel has no WireGuard and wireguard-go is missing', { hint: 'install the package wireguard-go', cause: error })
  }
}
