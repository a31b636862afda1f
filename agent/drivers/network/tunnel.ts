import { constants } from 'node:fs'
import { access, link, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { describeError, MusubiError, NotFoundError } from '../../../protocol/core/errors.ts'
import { CommandError, run, runJson } from '../../exec.ts'
import { fingerprint } from '../../fingerprint.ts'
import { silenceIpv6 } from './host.ts'
import { TUNNEL_MTU, WG_INTERFACE, WG_SERVICE } from './names.ts'
import { parseLinks, parseRoutes } from './observed.ts'
import { createRecords, hasCode, readIfThere, writeWhole } from './records.ts'
import { checkTunnel, needsSync, parseDump, renderConfig } from './wireguard.ts'
import type { TunnelSpec } from '../../../protocol/core/desired.ts'
import type { ServiceManager } from '../../services.ts'
import type { Driver } from '../driver.ts'
import type { LinkState } from './observed.ts'
import type { WireGuardState } from './wireguard.ts'

/** The host's one tunnel object. */
const NAME = 'wg'
/** A user-space WireGuard that does not answer within this hangs. */
const ANSWER_TIMEOUT_MS = 5_000
const START_TIMEOUT_MS = 10_000
const START_POLL_MS = 50

export interface TunnelDriver extends Driver<'tunnel'> {
  /** Public half of this host's key, which is made on first use; no tunnel is needed for it. */
  publicKey (signal?: AbortSignal): Promise<string>
  /** Who would carry, or carries, the tunnel here, for `doctor`; null when nothing can. User space is several times slower. */
  mode (signal?: AbortSignal): Promise<'kernel' | 'userspace' | null>
}

interface Observed {
  link: LinkState | undefined
  /** null: no interface, or one that does not answer */
  wireguard: WireGuardState | null
  /** destinations of routes on the interface */
  routes: string[]
}

/**
 * The WireGuard interface of this host: in the kernel, or wireguard-go where the kernel has none.
 *
 * @param options.stateDir folder for the private key (0600) and the record
 * @param options.services runs wireguard-go
 */
export function createTunnelDriver (options: { stateDir: string, services: ServiceManager }): TunnelDriver {
  const { stateDir, services } = options
  const records = createRecords<TunnelSpec>(join(stateDir, 'tunnels'))
  const keyFile = join(stateDir, 'wireguard.key')
  let keys: { privateKey: string, publicKey: string } | undefined

  const loadKeys = async (signal: AbortSignal): Promise<{ privateKey: string, publicKey: string }> => {
    if (keys !== undefined) return keys
    let privateKey = (await readIfThere(keyFile))?.trim()
    if (privateKey === undefined) {
      const fresh = `${keyFile}.${process.pid}`
      await writeWhole(fresh, (await run('wg', ['genkey'], { signal })).stdout)
      // of two that make a key at once the first wins: link() never replaces
      await link(fresh, keyFile).catch((error: unknown) => { if (!hasCode(error, 'EEXIST')) throw error })
      await rm(fresh, { force: true })
      privateKey = (await readIfThere(keyFile))?.trim() ?? ''
    }
    const publicKey = (await run('wg', ['pubkey'], { signal, input: `${privateKey}\n` })).stdout.trim()
    keys = { privateKey, publicKey }
    return keys
  }

  const readLink = async (signal: AbortSignal): Promise<LinkState | undefined> =>
    parseLinks(await runJson('ip', ['-json', '-details', 'address', 'show'], { signal })).find(({ name }) => name === WG_INTERFACE)

  const read = async (signal: AbortSignal): Promise<Observed> => {
    const found = await readLink(signal)
    if (found === undefined) return { link: found, wireguard: null, routes: [] }
    const [wireguard, routes] = await Promise.all([
      run('wg', ['show', WG_INTERFACE, 'dump'], { signal, timeoutMs: ANSWER_TIMEOUT_MS }).then(({ stdout }) => parseDump(stdout), (error: unknown) => {
        // exit code 1: nobody behind the interface; none: it hung, unless the program itself is missing
        if (!(error instanceof CommandError) || signal.aborted || error.message.includes('is not installed')) throw error
        return null
      }),
      // the whole table: naming an interface that goes just now would be an error
      runJson('ip', ['-json', 'route', 'show'], { signal })
    ])
    return { link: found, wireguard, routes: parseRoutes(routes, WG_INTERFACE) }
  }

  /** Lines for `ip -batch` that a working interface still needs. */
  const ipLines = (spec: TunnelSpec, { link: found, routes }: Observed): string[] => {
    const own = `${spec.address}/32`
    const wanted = spec.peers.map(({ address }) => address)
    const dev = `dev ${WG_INTERFACE}`
    return [
      ...(found?.mtu === TUNNEL_MTU ? [] : [`link set ${dev} mtu ${TUNNEL_MTU}`]),
      ...(found?.ipv4.includes(own) === true ? [] : [`address add ${own} ${dev}`]),
      ...(found?.ipv4 ?? []).filter((address) => address !== own).map((address) => `address delete ${address} ${dev}`),
      ...(found?.up === true ? [] : [`link set ${dev} up`]),
      // routes go with the link when it goes down, so they come last
      ...wanted.filter((address) => found?.up !== true || !routes.includes(address)).map((address) => `route replace ${address}/32 ${dev}`),
      ...routes.filter((address) => !wanted.includes(address)).map((address) => `route delete ${address} ${dev}`)
    ]
  }

  const tryKernel = async (signal: AbortSignal): Promise<boolean> => {
    try {
      await run('ip', ['link', 'add', 'name', WG_INTERFACE, 'mtu', String(TUNNEL_MTU), 'type', 'wireguard'], { signal })
      return true
    } catch (error) {
      if (error instanceof CommandError && /unknown device type|not supported/i.test(error.stderr)) return false
      throw error
    }
  }

  /** An interface that answers, made anew when it is missing or hangs. */
  const bringUp = async (observed: Observed, signal: AbortSignal): Promise<Observed> => {
    if (observed.wireguard !== null) return observed
    await tearDown(signal)
    if (!await tryKernel(signal)) {
      await requireUserspace()
      await services.ensure(WG_SERVICE, { argv: ['wireguard-go', '-f', WG_INTERFACE], env: { LOG_LEVEL: 'error' } })
    }
    const deadline = AbortSignal.any([signal, AbortSignal.timeout(START_TIMEOUT_MS)])
    while (!deadline.aborted) {
      const now = await read(signal)
      if (now.wireguard !== null) {
        await silenceIpv6([WG_INTERFACE])
        return now
      }
      await sleep(START_POLL_MS)
    }
    signal.throwIfAborted()
    throw new MusubiError('TUNNEL_DOWN', `${WG_INTERFACE} did not come up within ${START_TIMEOUT_MS} ms`, { retryable: true, hint: `see the log of service ${WG_SERVICE}` })
  }

  const tearDown = async (signal: AbortSignal): Promise<void> => {
    await services.stop(WG_SERVICE)
    // the interface of a wireguard-go that nobody supervises ends that process with it
    if (await readLink(signal) !== undefined) await run('ip', ['link', 'delete', 'dev', WG_INTERFACE], { signal, okCodes: [1] })
    // a killed wireguard-go leaves its socket
    for (const folder of ['/run/wireguard', '/var/run/wireguard']) await rm(join(folder, `${WG_INTERFACE}.sock`), { force: true })
  }

  const nowSeconds = (): number => Math.floor(Date.now() / 1000)

  return {
    kind: 'tunnel',

    async publicKey (signal = AbortSignal.timeout(START_TIMEOUT_MS)) {
      return (await loadKeys(signal)).publicKey
    },

    async probe (signal) {
      const problems: string[] = []
      try {
        await run('wg', ['--version'], { signal })
      } catch {
        problems.push('no tunnel to other sites: the program wg is missing (package wireguard-tools)')
      }
      if (!await hasKernel(signal)) await requireUserspace().catch((error: unknown) => { problems.push(describeError(error)) })
      return problems
    },

    async mode (signal = AbortSignal.timeout(START_TIMEOUT_MS)) {
      if (await hasKernel(signal)) return 'kernel'
      return await requireUserspace().then(() => 'userspace' as const, () => null)
    },

    async observe (signal) {
      const [spec, observed, service] = await Promise.all([records.get(NAME), read(signal), services.status(WG_SERVICE)])
      if (spec === null && observed.link === undefined && !service.running) return []
      const { link: found, wireguard } = observed
      const wanted = spec === null ? null : checkTunnel(spec)
      const healthy = wireguard !== null && wanted !== null && ipLines(wanted, observed).length === 0 &&
        !needsSync(wanted, wireguard, (await loadKeys(signal)).publicKey, wanted, nowSeconds())
      const sites = new Map(spec?.peers.map(({ publicKey, site }) => [publicKey, site]))
      return [{
        kind: 'tunnel',
        name: NAME,
        fingerprint: spec === null ? null : fingerprint(spec),
        healthy,
        detail: {
          mode: found === undefined ? 'down' : found.kind === 'wireguard' ? 'kernel' : 'userspace',
          pid: service.pid,
          peers: (wireguard?.peers ?? []).map((peer) => ({ site: sites.get(peer.publicKey) ?? null, ...peer }))
        }
      }]
    },

    async apply (name, given, signal) {
      if (name !== NAME) throw new NotFoundError(`tunnel ${name}: a host has one tunnel, named ${NAME}`)
      const spec = checkTunnel(given)
      const { privateKey, publicKey } = await loadKeys(signal)
      const applied = await records.get(NAME)
      await records.put(NAME, given)
      const observed = await bringUp(await read(signal), signal)
      if (observed.link?.ipv6 === true) await silenceIpv6([WG_INTERFACE])
      if (observed.wireguard !== null && needsSync(spec, observed.wireguard, publicKey, applied, nowSeconds())) {
        const config = join(stateDir, `${WG_INTERFACE}.conf`)
        await writeWhole(config, renderConfig(spec, privateKey))
        try {
          // names of endpoints are looked up here: twice is enough, the next pass tries again
          await run('wg', ['syncconf', WG_INTERFACE, config], { signal, env: { WG_ENDPOINT_RESOLUTION_RETRIES: '2' } })
        } finally {
          await rm(config, { force: true })
        }
      }
      const lines = ipLines(spec, observed)
      if (lines.length > 0) await run('ip', ['-batch', '-'], { signal, input: lines.map((line) => `${line}\n`).join('') })
    },

    async remove (name, signal) {
      if (name !== NAME) return
      await tearDown(signal)
      await rm(join(stateDir, `${WG_INTERFACE}.conf`), { force: true })
      await records.delete(NAME)
    }
  }
}

/** Tries it in a namespace without a name, which ends with the command. */
async function hasKernel (signal: AbortSignal): Promise<boolean> {
  try {
    await run('unshare', ['--net', 'ip', 'link', 'add', 'name', WG_INTERFACE, 'type', 'wireguard'], { signal })
    return true
  } catch (error) {
    if (error instanceof CommandError && !signal.aborted) return false
    throw error
  }
}

/** @throws MusubiError that says what a user-space tunnel lacks on this host */
async function requireUserspace (): Promise<void> {
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
