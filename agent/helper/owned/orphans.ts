import { GUARD_TABLE, MSS_TABLE, vniOfHostLink } from '../../drivers/network/names.ts'
import { FORWARD_SERVICE } from '../../drivers/network/forward/forwarding.ts'
import { SNOOP_SERVICE } from '../../drivers/network/snoop/snooping.ts'
import { TRACKS, TUNNEL_TABLE, wgInterface, wgService } from '../../drivers/network/tunnel/names.ts'
import { hasCode } from '../../drivers/network/records.ts'
import { serviceNames as cacheServices } from '../../drivers/cache/plan.ts'
import type { ObservedObject } from '../../drivers/driver.ts'
import type { Strays } from '../../drivers/registry.ts'
import { CommandError, run, runJson } from '../../exec.ts'
import { namespaceNames } from '../../system/netns.ts'
import type { ServiceManager } from '../../services.ts'
import { runOutside } from '../../services/outside.ts'
import { clusterNamespace, PREFIX } from '../../../protocol/core/desired.ts'
import { NotFoundError } from '../../../protocol/core/errors.ts'

/** Something with our prefix that no object of ours explains. */
export interface Orphan {
  what: 'link' | 'namespace' | 'nft table' | 'service' | 'stray'
  /** as the tools name it: `mzb000001`, `inet mz_guard`, `tgtd` */
  name: string
}

export interface Surroundings {
  /** looked at when the names are known: what is made meanwhile is explained, or not among them */
  observed: () => Promise<readonly ObservedObject[]>
  services: ServiceManager
  strays: readonly Strays[]
}

/** The names that this host has, by kind of thing. */
export interface Found { links: string[], namespaces: string[], tables: string[], services: string[], strays: string[] }

const text = (value: unknown): string => typeof value === 'string' ? value : ''

/** What the objects that were seen account for. */
function explained (observed: readonly ObservedObject[]): Record<'link' | 'namespace' | 'nft table' | 'service', (name: string) => boolean> {
  const vnis = new Set(observed.filter(o => o.kind === 'segment').map(o => o.detail.vni).filter(vni => typeof vni === 'number'))
  const taps = new Set(observed.filter(o => o.kind === 'domain').flatMap(o => [text(o.detail.tap), text(o.detail.localTap)]))
  const tunnel = observed.some(o => o.kind === 'tunnel')
  const frontends = new Set(observed.filter(o => o.kind === 'frontend').map(o => text(o.detail.namespace)))
  const caches = observed.some(o => o.kind === 'cache')
  const namespaces = new Set([...vnis].map(clusterNamespace))
  for (const name of frontends) namespaces.add(name)
  const services = new Set<string>()
  if (tunnel) for (const track of TRACKS) services.add(wgService(track))
  if (vnis.size > 0) services.add(FORWARD_SERVICE)
  if (observed.some(o => o.kind === 'segment' && o.detail.learned !== undefined)) services.add(SNOOP_SERVICE)
  if (observed.some(o => o.kind === 'volume')) services.add('tgtd')
  for (const name of frontends) for (const part of ['dnsmasq', 'nginx']) services.add(`${name}-${part}`)
  if (caches) for (const vni of vnis) for (const name of Object.values(cacheServices(vni))) services.add(name)
  return {
    link: name => (tunnel && TRACKS.some(track => name === wgInterface(track))) || taps.has(name) || vnis.has(vniOfHostLink(name) ?? -1),
    namespace: name => namespaces.has(name),
    'nft table': name => (vnis.size > 0 && [`inet ${GUARD_TABLE}`, `bridge ${MSS_TABLE}`].includes(name)) || (tunnel && name === `inet ${TUNNEL_TABLE}`),
    service: name => services.has(name)
  }
}

/** Pure: which of the names that were found belong to nothing. */
export function orphansOf (found: Found, observed: readonly ObservedObject[]): Orphan[] {
  const known = explained(observed)
  const left = (what: 'link' | 'namespace' | 'nft table' | 'service', names: readonly string[]): Orphan[] => names.filter(name => !known[what](name)).sort().map(name => ({ what, name }))
  return [
    ...left('service', found.services), ...found.strays.map(name => ({ what: 'stray' as const, name })),
    ...left('link', found.links), ...left('namespace', found.namespaces), ...left('nft table', found.tables)
  ]
}

/** Looks at links, namespaces, tables, services and strays of this host. */
export async function findOrphans ({ observed, services, strays }: Surroundings, signal: AbortSignal): Promise<Orphan[]> {
  const [links, namespaces, tables, running, others] = await Promise.all([
    hostLinks(signal), hostNamespaces(), hostTables(signal), services.list(), Promise.all(strays.map(async one => (await one.list(signal)).map(name => `${one.what} ${name}`)))
  ])
  return orphansOf({ links, namespaces, tables, services: running.map(({ name }) => name), strays: others.flat() }, await observed())
}

/** Of a segment, of a machine, of the tunnel: whether or not this host has a driver for them now. */
export const isLinkOfOurs = (name: string): boolean => vniOfHostLink(name) !== null || new RegExp(`^${PREFIX}(t[0-9a-f]{8,12}|wg[0-9]+)$`).test(name)

async function hostLinks (signal: AbortSignal): Promise<string[]> {
  const rows = await unlessMissing(() => runJson('ip', ['-json', 'link', 'show'], { signal })) as Array<{ ifname?: string }> | null
  return (rows ?? []).map(({ ifname }) => ifname ?? '').filter(isLinkOfOurs)
}

async function hostNamespaces (): Promise<string[]> {
  return (await namespaceNames()).filter(name => new RegExp(`^${PREFIX}f?-[0-9a-f]{6}$`).test(name))
}

async function hostTables (signal: AbortSignal): Promise<string[]> {
  const listed = await unlessMissing(() => runJson('nft', ['-j', 'list', 'tables'], { signal })) as { nftables?: Array<{ table?: { family?: string, name?: string } }> } | null
  return (listed?.nftables ?? []).flatMap(({ table }) => table?.name?.startsWith(`${PREFIX}_`) === true ? [`${table.family ?? ''} ${table.name}`] : [])
}

/** A program that is not installed has made nothing. */
async function unlessMissing<T> (ask: () => Promise<T>): Promise<T | null> {
  try {
    return await ask()
  } catch (error) {
    if ((error instanceof CommandError && error.exitCode === undefined && error.message.includes('is not installed')) || hasCode(error, 'ENOENT')) return null
    throw error
  }
}

/** Removes one; what has gone meanwhile is no error. */
export async function removeOrphan ({ what, name }: Orphan, { services, strays }: { services: ServiceManager | null, strays: readonly Strays[] }, signal: AbortSignal): Promise<void> {
  switch (what) {
    case 'link': await run('ip', ['link', 'delete', 'dev', name], { signal, okCodes: [1] }); return
    case 'namespace': await runOutside('ip', ['netns', 'delete', name], { signal, okCodes: [1] }); return
    case 'nft table': {
      const [family = '', table = ''] = name.split(' ')
      await run('nft', ['delete', 'table', family, table], { signal })
      return
    }
    case 'service': await services?.stop(name); return
    case 'stray': {
      const owner = strays.find(one => name.startsWith(`${one.what} `))
      if (owner === undefined) throw new NotFoundError(`nobody here knows what ${name} is`)
      await owner.drop(signal)
    }
  }
}
