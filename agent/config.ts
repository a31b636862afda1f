import { cpus, totalmem } from 'node:os'
import { statfs } from 'node:fs/promises'
import Type, { type Static } from 'typebox'
import { loadConfigFile } from '../protocol/config-file.ts'
import { InvalidInputError } from '../protocol/core/errors.ts'
import { MAX_VLAN_ID } from '../protocol/core/desired.ts'
import type { Resources } from '../protocol/core/capacity.ts'
import { isUnderlayAddress, formatEndpoints, normalAddress } from '../protocol/core/network/endpoints.ts'
import { DEFAULT_VOLUMES, MAX_BANDWIDTH_MBIT, MAX_CACHE_RETAIN_MS, TUNNEL_KEY_MAX_HOURS } from '../protocol/core/limits.ts'
import { SITE_VXLAN_PORT, WAN_VXLAN_PORT } from './drivers/network/names.ts'
import { defaultSecondPort } from './drivers/network/tunnel/names.ts'

/** As in certificates: with cluster name and number it makes a host name of at most 63. */
const Name = Type.String({ pattern: '^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$' })
const Role = Type.Union([Type.Literal('gateway'), Type.Literal('compute'), Type.Literal('storage')])
export const LogLevel = Type.Union([Type.Literal('trace'), Type.Literal('debug'), Type.Literal('info'), Type.Literal('warn'), Type.Literal('error')], { default: 'info' })

const DAY_MS = 86_400_000
const VXLAN_PORTS = [SITE_VXLAN_PORT, WAN_VXLAN_PORT]

const AgentConfigSchema = Type.Object({
  name: Name,
  site: Name,
  roles: Type.Array(Role, { minItems: 1, uniqueItems: true }),
  stateDir: Type.String({ default: '/var/lib/musubi', pattern: '^/' }),
  runDir: Type.String({ default: '/run/musubi', pattern: '^/' }),
  listen: Type.Array(Type.String({ pattern: '^/' }), { minItems: 1 }),
  /** what to tell others instead of `listen`, e.g. behind a forwarded port */
  announce: Type.Optional(Type.Array(Type.String({ pattern: '^/' }), { minItems: 1, maxItems: 8 })),
  /** gateways: where invited hosts join; default: as `listen`, one port higher */
  joinListen: Type.Optional(Type.Array(Type.String({ pattern: '^/' }), { minItems: 1, maxItems: 8 })),
  /** false: nobody can connect to this host from outside; it takes part through relays */
  reachable: Type.Boolean({ default: true }),
  /** gateways: relay for gateways that nobody can reach */
  relay: Type.Boolean({ default: false }),
  /** gateways: what the site asks per vCPU and hour, thousandths of the federation's unit */
  priceMilli: Type.Integer({ minimum: 0, maximum: 1_000_000_000, default: 0 }),
  /** gateways: what its way to other sites carries for clusters, Mbit/s; 0: it does not say, and promises none */
  wanMbit: Type.Integer({ minimum: 0, maximum: MAX_BANDWIDTH_MBIT, default: 0 }),
  /** where this host's tunnels, in-site VXLAN and iSCSI portal end */
  underlayAddress: Type.String({ format: 'ipv4' }),
  tunnelPort: Type.Integer({ minimum: 1, maximum: 65535, default: 51820 }),
  /** of the second track, while keys are exchanged; the next port unless it is given */
  tunnelSecondPort: Type.Optional(Type.Integer({ minimum: 1, maximum: 65535 })),
  /** where tunnels end instead of `underlayAddress`: one address of each IP version at most */
  tunnelAddresses: Type.Optional(Type.Array(Type.String({ minLength: 2, maxLength: 39 }), { minItems: 1, maxItems: 2 })),
  /** a tunnel key that is older is exchanged */
  tunnelKeyMaxAgeHours: Type.Integer({ minimum: 1, maximum: TUNNEL_KEY_MAX_HOURS, default: 168 }),
  imageStore: Type.String({ default: '/var/lib/musubi-images', pattern: '^/' }),
  /** gateways: what stores of caches may take that outlive their clusters; any 0: none does */
  retain: Type.Object({
    diskMiB: Type.Integer({ minimum: 0, maximum: 1024 * 1024 * 1024, default: 20 * 1024 }),
    /** of the clusters of one site; default: half of it */
    ownerDiskMiB: Type.Optional(Type.Integer({ minimum: 0, maximum: 1024 * 1024 * 1024 })),
    maxDays: Type.Integer({ minimum: 0, maximum: MAX_CACHE_RETAIN_MS / DAY_MS, default: 30 })
  }, { additionalProperties: false, default: {} }),
  /** what this host lends; read from the system when absent */
  capacity: Type.Optional(Type.Object({
    vcpus: Type.Integer({ minimum: 0, maximum: 65536 }),
    memoryMiB: Type.Integer({ minimum: 0, maximum: 64 * 1024 * 1024 }),
    diskMiB: Type.Integer({ minimum: 0, maximum: 1024 * 1024 * 1024 })
  }, { additionalProperties: false })),
  /** gateways only: ids of in-site segments that this gateway may hand out */
  segmentIds: Type.Optional(Type.Object({
    from: Type.Integer({ minimum: 1, maximum: 0xff_ffff }), to: Type.Integer({ minimum: 1, maximum: 0xff_ffff })
  }, { additionalProperties: false })),
  /** how the hosts of the site reach each other within a segment; the same at all of them */
  inSite: Type.Union([
    Type.Object({ technique: Type.Literal('vxlan') }, { additionalProperties: false }),
    Type.Object({
      technique: Type.Literal('vlan'),
      /** a NIC, bond or bridge that carries VLANs */
      trunk: Type.String({ pattern: '^[A-Za-z0-9][A-Za-z0-9._-]{0,14}$' }),
      /** what the administrator has set aside for segments on it */
      ids: Type.Object({ from: Type.Integer({ minimum: 1, maximum: MAX_VLAN_ID }), to: Type.Integer({ minimum: 1, maximum: MAX_VLAN_ID }) }, { additionalProperties: false })
    }, { additionalProperties: false })
  ], { default: { technique: 'vxlan' } }),
  accelerator: Type.Optional(Type.Union([Type.Literal('kvm'), Type.Literal('tcg')])),
  drivers: Type.Union([Type.Literal('real'), Type.Literal('fake')], { default: 'real' }),
  /** the process that holds the privileges, see agent/helper */
  helper: Type.Object({
    /** where the agent finds it; logs and records of services lie beside it */
    socket: Type.String({ default: '/run/musubi-helper/helper.sock', pattern: '^/.*/' }),
    /** what drivers keep: volumes, the tunnel's key, records */
    stateDir: Type.String({ default: '/var/lib/musubi-helper', pattern: '^/' }),
    /** whom it obeys: name or number of the user that the agent runs as */
    agentUser: Type.Union([Type.String({ pattern: '^([a-z_][a-z0-9_-]{0,31}|[0-9]{1,10})$' }), Type.Integer({ minimum: 0, maximum: 0xffff_fffe })], { default: 'musubi' })
  }, { additionalProperties: false, default: {} }),
  logLevel: LogLevel
}, { additionalProperties: false })

export type AgentConfig = Static<typeof AgentConfigSchema>

/** Loads and checks an agent's configuration. @throws InvalidInputError with every problem */
export async function loadAgentConfig (path: string): Promise<AgentConfig> {
  const config = await loadConfigFile(path, AgentConfigSchema)
  if (config.roles.includes('gateway')) {
    if (config.segmentIds === undefined) throw new InvalidInputError(`${path} is not valid:\n  segmentIds: a gateway needs a range of its own, e.g. {from: 1000, to: 1999}`)
    if (config.segmentIds.from > config.segmentIds.to) throw new InvalidInputError(`${path} is not valid:\n  segmentIds: from is above to`)
  }
  const problem = tunnelProblem(config)
  if (problem !== null) throw new InvalidInputError(`${path} is not valid:\n  ${problem}`)
  if (config.inSite.technique === 'vlan') {
    const { ids } = config.inSite
    if (ids.from > ids.to) throw new InvalidInputError(`${path} is not valid:\n  inSite.ids: from is above to`)
    const own = config.segmentIds
    if (own !== undefined && (own.from < ids.from || own.to > ids.to)) throw new InvalidInputError(`${path} is not valid:\n  segmentIds: ${own.from}..${own.to} are not within inSite.ids, ${ids.from}..${ids.to}: every id that this gateway hands out is a VLAN on ${config.inSite.trunk}`)
  }
  return config
}

/** What stores that outlive their clusters may take on this host. */
export const retainLimitsOf = ({ retain }: Pick<AgentConfig, 'retain'>): { totalBytes: number, ownerBytes: number, maxMs: number } =>
  ({ totalBytes: retain.diskMiB * 2 ** 20, ownerBytes: (retain.ownerDiskMiB ?? Math.floor(retain.diskMiB / 2)) * 2 ** 20, maxMs: retain.maxDays * DAY_MS })

/** UDP port of the second track. */
export const secondPortOf = ({ tunnelPort, tunnelSecondPort }: Pick<AgentConfig, 'tunnelPort' | 'tunnelSecondPort'>): number => tunnelSecondPort ?? defaultSecondPort(tunnelPort)

/** Where tunnels of this host end, as documents and records carry it. */
export const tunnelEndpointOf = (config: Pick<AgentConfig, 'tunnelAddresses' | 'underlayAddress' | 'tunnelPort'>): string => formatEndpoints(tunnelAddressesOf(config), config.tunnelPort)
export const tunnelAddressesOf = ({ tunnelAddresses, underlayAddress }: Pick<AgentConfig, 'tunnelAddresses' | 'underlayAddress'>): string[] =>
  (tunnelAddresses ?? [underlayAddress]).map(text => normalAddress(text)?.address ?? text)

function tunnelProblem (config: AgentConfig): string | null {
  const second = secondPortOf(config)
  if (second === config.tunnelPort) return `tunnelSecondPort: ${second} is tunnelPort`
  // VXLAN of this host's segments is received there
  for (const [field, port] of [['tunnelPort', config.tunnelPort], ['tunnelSecondPort', second]] as const) {
    if (VXLAN_PORTS.includes(port)) return `${field}: UDP ${port} is that of VXLAN on this host${config.tunnelSecondPort === undefined && field === 'tunnelSecondPort' ? '; it is the port after tunnelPort, unless it is given' : ''}`
  }
  if (config.tunnelAddresses === undefined) return null
  const addresses = tunnelAddressesOf(config)
  const bad = addresses.find(address => !isUnderlayAddress(address))
  if (bad !== undefined) return `tunnelAddresses: ${bad} is no address at which other gateways could reach this host`
  const [first, other] = addresses.map(address => address.includes(':'))
  return first === other ? `tunnelAddresses: ${addresses.join(' and ')} are of one IP version; one of each at most` : null
}

/** What the host lends: as configured, else all vCPUs, memory less 2 GiB, 80 % of the free disk. */
export async function hostCapacity (config: AgentConfig): Promise<Resources> {
  const bandwidthMbit = config.roles.includes('gateway') ? config.wanMbit : 0
  if (config.capacity !== undefined) {
    return { vcpus: config.capacity.vcpus, memoryMib: config.capacity.memoryMiB, diskMib: config.capacity.diskMiB, volumes: DEFAULT_VOLUMES, bandwidthMbit }
  }
  // volumes lie with the helper, on a disk of their own perhaps; before its first start there is no such folder
  const disk = await statfs(config.helper.stateDir).catch(() => statfs(config.stateDir))
  return {
    vcpus: cpus().length,
    memoryMib: Math.max(0, Math.floor(totalmem() / 2 ** 20) - 2048),
    diskMib: Math.floor(disk.bavail * disk.bsize * 0.8 / 2 ** 20),
    volumes: DEFAULT_VOLUMES,
    bandwidthMbit
  }
}

/** As drivers and plans want it: nothing where VXLAN carries the segments inside the site. */
export const trunkOf = ({ inSite }: AgentConfig): { trunk?: string } => inSite.technique === 'vlan' ? { trunk: inSite.trunk } : {}
