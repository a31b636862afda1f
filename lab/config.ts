import { join } from 'node:path'
import { stringify } from 'yaml'
import { InvalidInputError } from '../protocol/core/errors.ts'
import { WORK_TREE } from './pod.ts'
import { underlayAddress } from './wan.ts'

export type LabRole = 'gateway' | 'compute' | 'storage'

export interface LabHostSpec {
  /** unique in the lab; also the host name inside its pod */
  name: string
  roles: readonly LabRole[]
  /** what the host lends */
  vcpus: number
  memoryMiB: number
  diskMiB: number
}

export interface LabSiteSpec {
  name: string
  hosts: readonly LabHostSpec[]
}

/** Where a host's agent finds things, the same in every pod as on a real host. */
export const AGENT_CONFIG = '/etc/musubi/agent.yaml'
export const COORDINATOR_CONFIG = '/etc/musubi/coordinator.yaml'
export const STATE_DIR = '/var/lib/musubi'
export const KEY_FILE = `${STATE_DIR}/key`
export const AGENT_SOCKET = '/run/musubi/agent.sock'
export const HELPER_STATE_DIR = '/var/lib/musubi-helper'
export const HELPER_SOCKET = '/run/musubi-helper/helper.sock'
/** What agents have compiled, shared by those of a machine. */
export const AGENT_CACHE_DIR = '/var/cache/musubi-agent'
export const COORDINATOR_SOCKET = '/run/musubi-coordinator/coordinator.sock'
export const COORDINATOR_HTTP_PORT = 4180
export const MESH_PORT = 4100
export const DEFAULT_IMAGE_STORE = join(WORK_TREE, '.cache', 'musubi', 'images')
export const COORDINATOR_NAME = 'coordinator'

const SITES_MAX = 100
const HOSTS_MAX = 250
const NAME = /^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$/

const multiaddr = (address: string): string => `/ip4/${address}/tcp/${MESH_PORT}`

/** One host of a lab with its place in the underlay; sites and hosts count from 1. */
export interface PlacedHost extends LabHostSpec {
  site: string
  siteIndex: number
  hostIndex: number
  address: string
}

/** Gives every host its address. @throws InvalidInputError naming what cannot be built */
export function placeHosts (sites: readonly LabSiteSpec[]): PlacedHost[] {
  if (sites.length === 0 || sites.length > SITES_MAX) throw new InvalidInputError(`a lab has 1 to ${SITES_MAX} sites, not ${sites.length}`)
  const names = new Set<string>(['wan', COORDINATOR_NAME])
  const siteNames = new Set<string>()
  return sites.flatMap((site, s) => {
    if (!NAME.test(site.name)) throw new InvalidInputError(`${JSON.stringify(site.name)} is no site name`)
    if (siteNames.has(site.name)) throw new InvalidInputError(`site ${site.name} is named twice`)
    siteNames.add(site.name)
    if (site.hosts.length === 0 || site.hosts.length > HOSTS_MAX) throw new InvalidInputError(`site ${site.name} has ${site.hosts.length} hosts, it needs 1 to ${HOSTS_MAX}`)
    if (!site.hosts.some(host => host.roles.includes('gateway'))) throw new InvalidInputError(`site ${site.name} has no gateway`, 'a site joins by its first gateway')
    return site.hosts.map((host, h) => {
      if (!NAME.test(host.name)) throw new InvalidInputError(`${JSON.stringify(host.name)} is no host name`)
      if (names.has(host.name)) throw new InvalidInputError(`the host name ${host.name} is taken`, 'every host of a lab needs a name of its own')
      names.add(host.name)
      return { ...host, site: site.name, siteIndex: s + 1, hostIndex: h + 1, address: underlayAddress(s + 1, h + 1) }
    })
  })
}

/** Ids of in-site segments differ from site to site, so that nothing can rely on them being equal. */
export const segmentIdsOf = (siteIndex: number): { from: number, to: number } => ({ from: siteIndex * 1000, to: siteIndex * 1000 + 999 })

export interface AgentSettings { imageStore: string, drivers: 'real' | 'fake', logLevel: string }

/** agent.yaml of one host, the file that systemd's unit would use too. */
export function agentYaml (host: PlacedHost, settings: AgentSettings): string {
  return stringify({
    name: host.name,
    site: host.site,
    roles: [...host.roles],
    stateDir: STATE_DIR,
    runDir: '/run/musubi',
    helper: { socket: HELPER_SOCKET, stateDir: HELPER_STATE_DIR, agentUser: 'musubi' },
    listen: [multiaddr(host.address)],
    underlayAddress: host.address,
    imageStore: settings.imageStore,
    capacity: { vcpus: host.vcpus, memoryMiB: host.memoryMiB, diskMiB: host.diskMiB },
    ...(host.roles.includes('gateway') ? { segmentIds: segmentIdsOf(host.siteIndex) } : {}),
    // /dev/kvm may open where guests hang on it; a lab inside a virtual machine runs everywhere with TCG
    accelerator: 'tcg',
    drivers: settings.drivers,
    logLevel: settings.logLevel
  })
}

export function coordinatorYaml (logLevel: string): string {
  const address = underlayAddress(0, 1)
  return stringify({
    name: COORDINATOR_NAME,
    stateDir: STATE_DIR,
    runDir: '/run/musubi-coordinator',
    listen: [multiaddr(address)],
    http: { host: address, port: COORDINATOR_HTTP_PORT },
    logLevel
  })
}
