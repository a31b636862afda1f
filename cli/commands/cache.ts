import { setTimeout as sleep } from 'node:timers/promises'
import type { Command } from 'commander'
import { call, type Endpoint } from '../client.ts'
import { addRetainedCommands } from './cache-retained.ts'
import { agentEndpoint, confirm, untilInterrupted, wantsJson } from '../context.ts'
import { exportManifest, fromAccessLog, fromManifest, fromMirror, partsOf, readInput } from '../manifest.ts'
import { show } from '../output.ts'
import { budgetText, cachesText, deedText, objectsText, ordersByName, orderText, purgedText, type FoundObjects } from '../render/cache.ts'
import { clusterPath } from '../waiting.ts'
import type { ClusterResource } from '../../protocol/api.ts'
import type { CacheBudgetBody, CacheBudgetResource, CacheDeedResource, CachedObjectsResource, ClusterCachesResource, PreheatBody, PreheatObjectResource, PurgeBody } from '../../protocol/cache-api.ts'
import { amountBytes, rateKbit } from '../../protocol/core/cache/terms.ts'
import { InvalidInputError, MusubiError } from '../../protocol/core/errors.ts'

const POLL_MS = 1_000
/** A fetcher looks at its orders every second; an order that is not seen by then is not there. */
const SEEN_MS = 15_000

interface PreheatOptions { manifest?: string, log?: string, mirror?: string, prefix?: string, rate?: string, order: string, site?: string, cancel?: boolean, wait?: boolean }
interface ListOptions { site?: string, prefix?: string, limit?: string }

const cachePath = (name: string, what = ''): string => `${clusterPath(name)}/cache${what}`

export function addCacheCommands (program: Command): void {
  const cache = program.command('cache').description('the transparent caches of clusters, and what they saved')
  cache.command('status [cluster]').description('bytes served, fetched, saved and over the WAN; orders; budget')
    .option('--nodes', 'also by node')
    .addHelpText('after', `
At the master of the cluster, which asks the gateways now. TO NODES and FROM FRONTEND are bytes of HTTP, SAVED is the one
less the other; OVER THE WAN is packets of HTTP from the frontend. HTTPS passes a cache untouched and is told apart.

Examples:
  musubi cache status
  musubi cache status demo --nodes
  musubi cache status demo --json | jq '.[0].total.savedBytes'`)
    .action(async (name: string | undefined, o: { nodes?: boolean }, command: Command) => {
      const endpoint = agentEndpoint(command)
      const names = name === undefined ? (await call<ClusterResource[]>(endpoint, 'GET', '/v1/clusters')).filter(c => c.caches.length > 0 && c.state !== 'masterless').map(({ id }) => id) : [name]
      const found = await Promise.all(names.map(async one => await call<ClusterCachesResource>(endpoint, 'GET', cachePath(one))))
      show(found, wantsJson(command), caches => cachesText(caches, o.nodes === true))
    })

  addPreheat(cache)
  addBudget(cache)
  addRetainedCommands(cache)
  cache.command('list <cluster>').description('objects that caches have, by site and path')
    .option('--site <site>', 'of one site; default: of all sites with a cache')
    .option('--prefix <path>', 'only paths that begin so')
    .addHelpText('after', '\nSTORED is 0 B where nodes asked for what is not kept any more. A site that does not answer is named, and makes it end with 1.\n\nExamples:\n  musubi cache list demo\n  musubi cache list demo --site osaka --prefix /install/RPMS/ --json')
    .action(async (name: string, o: ListOptions, command: Command) => {
      const found = await allObjects(agentEndpoint(command), name, o)
      show(found, wantsJson(command), objectsText)
      if (found.sites.some(({ error }) => error !== '')) process.exitCode = 1
    })

  cache.command('purge <cluster>').description('removes objects from the caches; who asks for them gets them from the frontend')
    .option('--prefix <path>', 'only paths that begin so; default: all')
    .option('--site <site>', 'only there; default: all sites with a cache')
    .option('--refetch', 'orders that name what is removed fetch it again')
    .option('--yes', 'do not ask')
    .addHelpText('after', '\nWhat is kept under a name that never changes (a digest in it, or spec.cache.profile.immutable) is not asked for again: purge it when it\ndid change. Nothing else has to be purged for being out of date.\nAn order that is done does not fetch again what is removed, but with --refetch.\n\nExamples:\n  musubi cache purge demo --prefix /install/RPMS/ --yes\n  musubi cache purge demo --site osaka\n  musubi cache purge demo --prefix /install/RPMS/ --refetch --yes')
    .action(async (name: string, o: { prefix?: string, site?: string, refetch?: boolean, yes?: boolean }, command: Command) => {
      await confirm(`${o.prefix === undefined ? 'all objects' : `objects below ${o.prefix}`} of the caches of ${name}${o.site === undefined ? '' : ` at ${o.site}`} are removed, and come over the WAN again ${o.refetch === true ? 'at once where an order names them, else ' : ''}when asked for`, o.yes)
      const body: PurgeBody = { ...o.prefix === undefined ? {} : { prefix: o.prefix }, ...o.refetch === true ? { refetch: true } : {}, ...o.site === undefined ? {} : { site: o.site } }
      deed(await call<CacheDeedResource>(agentEndpoint(command), 'POST', cachePath(name, '/purge'), body), command, site => purgedText(site, { ...o, cluster: name }))
    })

  cache.command('export <cluster>').description('a manifest of what nodes asked for, the most asked first')
    .option('--site <site>', 'of one site; default: of all sites with a cache together')
    .option('--prefix <path>', 'only paths that begin so')
    .option('--all', 'also what nodes have not asked for')
    .addHelpText('after', '\nFor musubi cache preheat of another cluster, or for a frontend: see spec.cache.preheat.\n\nExamples:\n  musubi cache export demo > demo.json\n  musubi cache export demo | musubi cache preheat other --manifest - --wait')
    .action(async (name: string, o: ListOptions & { all?: boolean }, command: Command) => {
      const { objects, sites } = await allObjects(agentEndpoint(command), name, o)
      const silent = sites.filter(({ error }) => error !== '')
      for (const { site, error } of silent) process.stderr.write(`${site} is left out: ${error}\n`)
      if (silent.length > 0) process.exitCode = 1
      process.stdout.write(`${JSON.stringify(exportManifest(objects, o.all === true), null, 1)}\n`)
    })
}

function addBudget (cache: Command): void {
  cache.command('budget <cluster>').description('shows, or changes, what caches may bring over the WAN')
    .option('--rate <rate>', 'of all that is fetched before nodes ask, at one site, such as 50Mbit/s; or none')
    .option('--total <amount>', 'over the WAN at one site, such as 20GB; beyond it nothing is fetched before nodes ask; or none')
    .option('--site <site>', 'only there, where "default" is what all sites have; default: all without a value of their own')
    .addHelpText('after', `
Without --rate and --total nothing is changed. A budget stops no node: what nodes ask for comes whatever is used.
A change is part of the cluster from the moment it is told here; a site that is away gets it when it is back.

Examples:
  musubi cache budget demo
  musubi cache budget demo --rate 100Mbit/s --total 50GB
  musubi cache budget demo --site osaka --total none
  musubi cache budget demo --site osaka --total default --json`)
    .action(async (name: string, o: { rate?: string, total?: string, site?: string }, command: Command) => {
      const body: CacheBudgetBody = {
        ...o.rate === undefined ? {} : { rateKbitPerS: boundOf(o.rate, '--rate', rateKbit, '50Mbit/s', 'units are kbit/s, Mbit/s and Gbit/s') },
        ...o.total === undefined ? {} : { totalBytes: boundOf(o.total, '--total', amountBytes, '20GB', 'units are MB, GB, TB, MiB, GiB and TiB') },
        ...o.site === undefined ? {} : { site: o.site }
      }
      const path = cachePath(name, '/budget')
      const changes = o.rate !== undefined || o.total !== undefined
      const found = changes ? await call<CacheBudgetResource>(agentEndpoint(command), 'POST', path, body) : await call<CacheBudgetResource>(agentEndpoint(command), 'GET', path)
      const shown = { ...found, sites: found.sites.filter(one => o.site === undefined || one.site === o.site) }
      if (o.site !== undefined && shown.sites.length === 0) throw new MusubiError('NOT_FOUND', `cluster ${found.cluster} has no cache at site "${o.site}"`, { hint: `it has caches at ${found.sites.map(({ site }) => site).join(', ') || 'no site'}` })
      show(shown, wantsJson(command), budgetText)
    })
}

/** A bound as the API takes it. @throws InvalidInputError naming the option */
function boundOf (text: string, option: string, parse: (text: string) => number | null, example: string, hint: string): number | null | 'default' {
  if (text === 'none') return null
  if (text === 'default') return 'default'
  const value = parse(text)
  if (value === null || value < 1) throw new InvalidInputError(`${option} must be such as ${example}, or none, not "${text}"`, hint)
  return value
}

function addPreheat (cache: Command): void {
  cache.command('preheat <cluster>').description('fetches objects before nodes ask')
    .option('--manifest <file>', 'JSON, {"objects": [{path, size, sha256}]}; - is standard input')
    .option('--log <file>', 'an access log, of a cache or of nginx or Apache: what was asked for most comes first')
    .option('--mirror <dir>', 'a local mirror: sizes and digests of its files; with --prefix')
    .option('--prefix <path>', 'where that mirror is on the frontend')
    .option('--rate <rate>', 'such as 50Mbit/s; the budget of the cluster holds as well')
    .option('--order <name>', 'another order of that name is replaced', 'manual')
    .option('--site <site>', 'only there; default: all sites with a cache')
    .option('--cancel', 'takes the order away; what was fetched stays')
    .option('-w, --wait', 'follow it until all has come')
    .addHelpText('after', `
With --wait each change is told; it ends with 1 when an object did not come, or the budget has paused it.

Examples:
  musubi cache preheat demo --manifest install.json --rate 50Mbit/s --wait
  musubi cache preheat demo --log /var/log/nginx/access.log
  musubi cache preheat demo --mirror /srv/mirror/rocky9 --prefix /install/ --order rocky9
  musubi cache preheat demo --order rocky9 --cancel`)
    .action(async (name: string, o: PreheatOptions, command: Command) => {
      const endpoint = agentEndpoint(command)
      if (!/^[a-z0-9][a-z0-9-]{0,58}$/.test(o.order) || o.order === 'profile') throw new InvalidInputError(`--order must be lower-case letters, digits and dashes, and not "profile", not "${o.order}"`)
      if (o.cancel === true) { await cancel(endpoint, name, o, command); return }
      const objects = await objectsOf(o)
      const rate = o.rate === undefined ? null : rateKbit(o.rate)
      if (o.rate !== undefined && (rate === null || rate < 1)) throw new InvalidInputError(`--rate must be such as 50Mbit/s, not "${o.rate}"`, 'units are kbit/s, Mbit/s and Gbit/s')
      const parts = partsOf(objects)
      // an order of before may have had more parts
      if (await withdraw(endpoint, name, o) !== null) await untilGone(endpoint, name, o)
      let last: CacheDeedResource | null = null
      for (const [i, part] of parts.entries()) {
        const body: PreheatBody = {
          order: parts.length === 1 ? o.order : `${o.order}-p${String(i).padStart(3, '0')}`, objects: part,
          // each part is fetched at its own rate, all of them at once
          ...rate === null ? {} : { rateKbitPerS: Math.max(1, Math.floor(rate / parts.length)) }, ...o.site === undefined ? {} : { site: o.site }
        }
        last = await call<CacheDeedResource>(endpoint, 'POST', cachePath(name, '/preheat'), body)
        if (last.sites.some(({ error }) => error !== '')) break
      }
      if (last === null) return
      deed(last, command, () => `${objects.length} objects ordered as ${o.order}`, o.wait === true)
      if (o.wait === true && last.sites.every(({ error }) => error === '')) await followOrder(endpoint, name, o, objects.length, command)
    })
}

async function objectsOf ({ manifest, log, mirror, prefix }: PreheatOptions): Promise<PreheatObjectResource[]> {
  const given = [manifest, log, mirror].filter(one => one !== undefined)
  if (given.length !== 1) throw new InvalidInputError('say what to fetch: one of --manifest FILE, --log FILE, --mirror DIR')
  if (prefix !== undefined && mirror === undefined) throw new InvalidInputError('--prefix goes with --mirror')
  if (manifest !== undefined) return fromManifest(await readInput(manifest))
  if (log !== undefined) return fromAccessLog(await readInput(log))
  if (prefix === undefined) throw new InvalidInputError('--mirror needs --prefix: where it is on the frontend', 'such as --prefix /install/')
  return await fromMirror(mirror ?? '', prefix)
}

/** Names of the parts that an order has at any site. */
async function partNames (endpoint: Endpoint, name: string, { order }: PreheatOptions): Promise<string[]> {
  const { sites } = await call<ClusterCachesResource>(endpoint, 'GET', cachePath(name))
  return [...new Set(sites.flatMap(({ orders }) => orders.map(one => one.name)))].filter(one => one.replace(/-p\d{3}$/, '') === order)
}

async function withdraw (endpoint: Endpoint, name: string, o: PreheatOptions): Promise<CacheDeedResource | null> {
  let last: CacheDeedResource | null = null
  for (const order of await partNames(endpoint, name, o)) last = await call<CacheDeedResource>(endpoint, 'POST', cachePath(name, '/cancel'), { order, ...o.site === undefined ? {} : { site: o.site } })
  return last
}

/** Fetchers look every second: what an order of before has done must not be taken for this one's. */
async function untilGone (endpoint: Endpoint, name: string, o: PreheatOptions): Promise<void> {
  const deadline = Date.now() + SEEN_MS
  while (o.site === undefined && (await partNames(endpoint, name, o)).length > 0 && Date.now() < deadline) await sleep(POLL_MS)
}

async function cancel (endpoint: Endpoint, name: string, o: PreheatOptions, command: Command): Promise<void> {
  const last = await withdraw(endpoint, name, o)
  if (last === null) throw new MusubiError('NOT_FOUND', `no cache of ${name} has an order "${o.order}"`, { hint: `they are in: musubi cache status ${name}` })
  deed(last, command, () => `${o.order} is taken away`)
}

/** Tells what each site said; one that failed makes it end with 1. @param quiet with JSON: the end of the order is printed instead */
function deed (result: CacheDeedResource, command: Command, done: (site: CacheDeedResource['sites'][number]) => string, quiet = false): void {
  const json = wantsJson(command)
  const failed = result.sites.some(({ error }) => error !== '')
  if (!(quiet && json) || failed) show(result, json, value => deedText(value, done))
  if (failed) process.exitCode = 1
}

async function followOrder (endpoint: Endpoint, name: string, { order, site }: PreheatOptions, objects: number, command: Command): Promise<void> {
  const signal = untilInterrupted()
  const begun = Date.now()
  const told = new Map<string, string>()
  for (;;) {
    const status = await call<ClusterCachesResource>(endpoint, 'GET', cachePath(name))
    const sites = status.sites.filter(one => site === undefined || one.site === site).map(one => ({ site: one.site, error: one.error, order: ordersByName(one.orders).find(({ name: found }) => found === order) }))
    for (const one of sites) {
      const text = `${one.site}: ${one.error !== '' ? one.error : one.order === undefined ? 'not begun yet' : orderText(one.order)}`
      if (told.get(one.site) !== text && !wantsJson(command)) process.stderr.write(`${text}\n`)
      told.set(one.site, text)
    }
    const ended = sites.every(one => one.order !== undefined && one.order.objects >= objects && one.order.state !== 'running')
    if (ended) {
      if (wantsJson(command)) show(sites, true, () => '')
      if (sites.some(one => one.order?.state === 'paused' || (one.order?.failures ?? 0) > 0)) process.exitCode = 1
      return
    }
    if (Date.now() - begun > SEEN_MS && sites.some(one => one.order === undefined)) throw new MusubiError('TIMEOUT', `an order of ${name} is not begun: ${[...told.values()].join('; ')}`, { hint: `see musubi cache status ${name}` })
    if (signal.aborted) throw new MusubiError('INTERRUPTED', 'stopped waiting; the order goes on', { hint: `musubi cache preheat ${name} --order ${order} --cancel` })
    await sleep(POLL_MS)
  }
}

async function allObjects (endpoint: Endpoint, name: string, { site, prefix }: ListOptions): Promise<FoundObjects> {
  const objects: FoundObjects['objects'] = []
  const sites: FoundObjects['sites'] = []
  let after: string | null = null
  for (;;) {
    const query = new URLSearchParams({ ...site === undefined ? {} : { site }, ...prefix === undefined ? {} : { prefix }, ...after === null ? {} : { after } }).toString()
    const page: CachedObjectsResource = await call<CachedObjectsResource>(endpoint, 'GET', cachePath(name, `/objects${query === '' ? '' : `?${query}`}`))
    if (sites.at(-1)?.site !== page.site) sites.push({ site: page.site, error: '' })
    const last = sites.at(-1)
    if (last !== undefined && page.error !== '') last.error = page.error
    for (const object of page.objects) objects.push({ site: page.site, ...object })
    if (page.next === null) return { sites, objects }
    after = page.next
  }
}
