import type { Logger } from 'pino'
import type { CallPeer } from '../peers.ts'
import { createSight } from '../calendar/sight.ts'
import type { FactsOf } from '../images/facts.ts'
import type { EventLog } from '../events.ts'
import { outlookOf } from '../quote/outlook.ts'
import { createAdoption, notMaster, type AdoptionDeps } from './adopt.ts'
import type { Builder } from './build.ts'
import { cacheFigures, type CacheFigures } from './caches.ts'
import type { Copies } from './copies.ts'
import { createNegotiator, type Negotiator } from './negotiator.ts'
import type { Probe } from './probe.ts'
import { clusterRecord, isEnded, newNotes, shownState, type ClusterNotes, type ClusterRecord } from './record.ts'
import { termOf, type When } from './term.ts'
import { clusterView } from './view.ts'
import { createWatcher } from './watch.ts'
import type { ClusterResource } from '../../protocol/api.ts'
import type { BudgetChange } from '../../protocol/core/cache/budget.ts'
import { ConflictError, describeError, InvalidInputError, NoCapacityError, NotFoundError } from '../../protocol/core/errors.ts'
import { MAX_CLUSTERS, MAX_HELD_CLUSTERS, MAX_SITES_PER_CLUSTER } from '../../protocol/core/limits.ts'
import { vnisOf } from '../../protocol/core/network/local.ts'
import type { KnownSite } from '../../protocol/core/master/events.ts'
import type { MasterRecord } from '../../protocol/core/master/record.ts'
import { parseClusterSpec, type ClusterSpec } from '../../protocol/core/spec.ts'
import type { GatewayTruth } from '../../protocol/core/verify/document.ts'
import type { Store } from '../../store/store.ts'

export interface MasterDeps {
  site: string
  /** PeerId of this host */
  peer: string
  call: CallPeer
  sites: () => KnownSite[]
  store: Store
  events: EventLog
  log: Logger
  /** ledger clock, Unix ms */
  now: () => number
  monotonic: () => number
  newId: () => string
  builder: Builder
  /** what is known of an image before it is used; absent: no site is asked whether it has it */
  image?: FactsOf
  probe: Probe
  /** what is known of gateways whatever offers say */
  truth: GatewayTruth
  /** copies of decision records at other hosts of the site; absent: none are made, and nothing can be adopted */
  copies?: Pick<Copies, 'send' | 'list' | 'drop'>
  /** when the master of a cluster was last heard of here; see adopt.ts */
  heardMs?: AdoptionDeps['heardMs']
  jitterMs?: AdoptionDeps['jitterMs']
}

/** Whether, and how, a new cluster waits for its user when all sites hold it. */
export interface HeldFor {
  /** sites hold it so long, and it is accepted or lapses; absent: it is decided by itself */
  holdMs?: number
  /** names of sites, beside the own one; empty: all */
  only?: readonly string[]
}

export interface Master {
  /** @throws InvalidInputError for a specification, a time or a hold that cannot be; NoCapacityError when this master has enough of them */
  create (spec: unknown, when?: When, held?: HeldFor): Promise<ClusterResource>
  /** Takes what sites hold for its user; what was taken already is so. @throws MusubiError HOLD_LAPSED; ConflictError when nothing is held for its user */
  accept (nameOrId: string): Promise<ClusterResource>
  /** Where, and when, it would go; holds nothing. @throws NoCapacityError with what would fit instead */
  plan (spec: unknown, when?: When): Promise<{ explanation: string }>
  /** What sites in view have free in the whole of [startMs, endMs), as their calendars say; one that does not answer is left out. */
  freeIn (startMs: number, endMs: number): Promise<readonly KnownSite[]>
  /** Clusters of this master, and those of its site that have none. */
  list (): ClusterResource[]
  /** Figures of the caches of its active clusters, by class and node. */
  caches (): CacheFigures[]
  /** By name (the latest of that name) or id. @throws NotFoundError */
  get (nameOrId: string): ClusterResource
  record (nameOrId: string): ClusterRecord
  remove (nameOrId: string): Promise<ClusterResource>
  /** Lets a cluster last `termMs` from now, a reservation from its start. @throws MusubiError with every refusal and its site */
  extend (nameOrId: string, termMs: number): Promise<ClusterResource>
  /** More nodes, or fewer: then those with the highest numbers go. @throws ConflictError when only nodes with volumes are left to go */
  scale (nameOrId: string, count: number): Promise<ClusterResource>
  /** Another WAN budget of its caches; what is fetched before nodes ask follows it in some seconds. @throws InvalidInputError, ConflictError */
  cacheBudget (nameOrId: string, change: BudgetChange): Promise<void>
  /** Asks anew for a cluster that failed, with the same spec, from its start on where that is to come. @throws ConflictError when it has not */
  retry (nameOrId: string): Promise<ClusterResource>
  /** Becomes master of a cluster of the site; see adopt.ts for what `force` risks. */
  adopt (nameOrId: string, options: { force: boolean }): Promise<ClusterResource>
  /** Takes up what an earlier process left, in any state. */
  resume (): Promise<void>
  stop (): Promise<void>
}

const NOTES = 'cluster-notes/'
/** Retries, keep-alives and terms are looked at this often. */
const TICK_MS = 250
const ADOPT_TICK_MS = 5_000

/** The master of clusters, as the API shows it: the negotiator decides, this adds specs, images, keys and what is seen. */
export function createMaster (deps: MasterDeps): Master {
  const { store, events, log, builder, copies } = deps
  const notes = new Map<string, ClusterNotes>()
  /** failures that are in the log */
  const told = new Set<string>()
  const timers: NodeJS.Timeout[] = []
  const sight = createSight({ site: deps.site, call: deps.call, sites: deps.sites, now: deps.now, ...deps.image === undefined ? {} : { image: deps.image } })
  const negotiator: Negotiator = createNegotiator({
    site: deps.site, call: deps.call, sites: deps.sites, sight, store, now: deps.now, newId: deps.newId, truth: deps.truth, log, events,
    rttMs: (peer, id) => watcher.rttMs(peer, id), prepare: record => builder.prepare(record), copies: record => copies?.send(record) ?? Promise.resolve(0)
  })
  const watcher = createWatcher({
    site: deps.site, call: deps.call, events, log, now: deps.now, monotonic: deps.monotonic, probe: deps.probe,
    get: id => negotiator.get(id), notesOf, keep: keepNotes
  })
  const adoption = copies === undefined ? null : createAdoption({
    site: deps.site, peer: deps.peer, call: deps.call, copies, known: id => negotiator.get(id), own: () => negotiator.records(), adopt: record => negotiator.adopt(record), heardMs: deps.heardMs ?? (() => null),
    now: deps.now, jitterMs: deps.jitterMs ?? (() => 0), events, log
  })

  function notesOf (id: string): ClusterNotes {
    const found = notes.get(id) ?? newNotes(id)
    notes.set(id, found)
    return found
  }

  /** For people only: not waited for, and a full disk shows in what is decided soon enough. */
  function keepNotes (of: ClusterNotes): void {
    store.put(NOTES + of.id, of).catch((error: unknown) => { log.warn({ error: describeError(error) }, 'what is seen of a cluster could not be kept') })
  }

  /** Once it is committed: before that it would be in the way of what is measured. */
  function measure (id: string): void {
    void watcher.measure(deps.sites().filter(s => s.site !== deps.site).map(s => s.peer), id).then(ms => {
      notesOf(id).rttMs = ms
      keepNotes(notesOf(id))
    })
  }

  negotiator.onChange((id, record) => {
    if (record === undefined) {
      notes.delete(id)
      watcher.forget(id)
      store.delete(NOTES + id).catch(() => undefined)
    } else if (record.state === 'active') watcher.watch(id)
    else if (record.state === 'preparing' && record.document === null) measure(id)
    else if (isEnded(shownState(record, 'building', deps.now()))) {
      watcher.forget(id)
      builder.forget(record).catch((error: unknown) => { log.warn({ cluster: record.name, error: describeError(error) }, 'its keys could not be removed') })
    }
    if (record?.state === 'failed' && !told.has(id)) {
      told.add(id)
      log.error({ cluster: record.name, error: record.error?.message }, 'cluster failed')
    }
    if (record === undefined) told.delete(id)
  })

  const shown = (record: MasterRecord): ClusterRecord => clusterRecord(record, notesOf(record.id), deps.now())
  const view = (record: MasterRecord): ClusterResource => clusterView(shown(record), watcher.statuses(record.id), { contacts: negotiator.contacts(record.id), now: deps.now() })
  const masterless = (record: MasterRecord): ClusterResource => clusterView({ ...clusterRecord(record, newNotes(record.id), deps.now()), state: 'masterless' }, [])
  const current = (record: MasterRecord): MasterRecord => negotiator.get(record.id) ?? record

  function find (nameOrId: string): MasterRecord | undefined {
    const ended = ({ state }: MasterRecord): number => Number(state === 'ended' || state === 'failed' || state === 'superseded')
    return negotiator.get(nameOrId) ?? negotiator.records().filter(r => r.name === nameOrId).sort((a, b) => ended(a) - ended(b) || b.createdMs - a.createdMs)[0]
  }

  function own (nameOrId: string): MasterRecord {
    const found = find(nameOrId)
    if (found !== undefined) return found
    if (adoption?.find(nameOrId) !== undefined) throw notMaster(nameOrId)
    throw new NotFoundError(`there is no cluster "${nameOrId}" here`, 'see: musubi cluster list; a cluster is shown at the site that is its master')
  }

  /** Nodes go to these sites only, as far as its specification lets them. @throws InvalidInputError when no site is left */
  function among (spec: ClusterSpec, only: readonly string[]): ClusterSpec {
    if (only.length === 0) return spec
    const named = [...new Set([deps.site, ...only])].sort()
    const onlySites = spec.placement?.onlySites?.filter(site => named.includes(site)) ?? named
    if (onlySites.length === 0) throw new InvalidInputError(`cluster ${spec.name}: none of ${only.slice(0, MAX_SITES_PER_CLUSTER).join(', ')} is among the sites that its specification allows`, 'see spec.placement.onlySites')
    return { ...spec, placement: { ...spec.placement, onlySites } }
  }

  async function ask (asked: ClusterSpec, when: When, { holdMs, only = [] }: HeldFor = {}): Promise<ClusterResource> {
    const spec = among(asked, only)
    const term = termOf(spec, when, deps.now()) // before an image is read from end to end
    if (holdMs !== undefined && holdMs >= term.endMs - term.startMs) throw new InvalidInputError(`cluster ${spec.name}: it is to be held for ${holdMs / 1000} s and to last ${(term.endMs - term.startMs) / 1000} s`, 'a hold is shorter than the term')
    const imageDigest = await builder.imageFor(spec)
    const alive = negotiator.records().filter(r => !isEnded(shownState(r, 'building', deps.now())))
    const same = alive.find(r => r.name === spec.name)
    if (same !== undefined) throw new ConflictError(`cluster ${spec.name} exists already (${shown(same).state})`, `choose another name, or: musubi cluster delete ${spec.name}`)
    if (alive.length >= MAX_CLUSTERS) throw new NoCapacityError(`this master looks after ${alive.length} clusters and takes no more`, 'delete one: musubi cluster list; or ask at another gateway')
    const held = alive.filter(r => r.hold !== undefined && (r.state === 'negotiating' || r.state === 'offered'))
    if (holdMs !== undefined && held.length >= MAX_HELD_CLUSTERS) throw new NoCapacityError(`this master holds ${held.length} clusters for its users, and no more at a time`, `accept one, or give one back: musubi cluster delete ${held[0]?.name ?? 'NAME'}`)
    const id = deps.newId()
    const { startMs, endMs, earliest } = termOf(spec, when, deps.now())
    const vni = builder.vniFor(id, new Set(negotiator.records().flatMap(r => vnisOf({ vni: r.vni, ...(r.spec.localCidr === undefined ? {} : { localCidr: r.spec.localCidr }) }))))
    // when it is, the record says
    const lasting: ClusterSpec = { ...spec, termMs: endMs - startMs }
    delete lasting.startMs
    delete lasting.endMs
    const record = await negotiator.create({ id, spec: lasting, vni, imageDigest, startMs, endMs, ...earliest === undefined ? {} : { earliest }, ...holdMs === undefined ? {} : { holdMs } })
    return view(record)
  }

  async function remove (nameOrId: string): Promise<ClusterResource> {
    const record = own(nameOrId)
    if (record.state === 'ended' || record.state === 'releasing') return view(record)
    const seen = notesOf(record.id)
    const startedMs = deps.now()
    await negotiator.remove(record.id, 'deleted by the user')
    seen.deleteStartedMs = startedMs
    keepNotes(seen)
    return view(current(record))
  }

  /** Of the nodes that could go, those with the highest numbers. */
  function toGo (record: MasterRecord, count: number): string[] {
    const document = record.document
    if (document === null) throw new ConflictError(`cluster ${record.name} is ${shown(record).state}: it cannot be changed`)
    const plain = document.nodes.filter(node => !document.volumes.some(volume => volume.node === node.name)).sort((a, b) => b.index - a.index)
    const surplus = document.nodes.length - count
    if (plain.length < surplus) {
      throw new ConflictError(`cluster ${record.name} cannot shrink to ${count} nodes: ${document.nodes.length - plain.length} of its nodes have volumes, whose data would be lost`, 'delete the cluster, or keep at least those nodes')
    }
    return plain.slice(0, surplus).map(node => node.name)
  }

  return {
    create: async (input, when = {}, held = {}) => await ask(parseClusterSpec(input), when, held),
    async accept (nameOrId) {
      const record = own(nameOrId)
      await negotiator.accept(record.id)
      return view(current(record))
    },
    async plan (input, when = {}) {
      const spec = parseClusterSpec(input)
      const { placed, noStart, nearest, startMs } = await outlookOf(sight, deps.site, spec, when, deps.now(), (await deps.image?.(spec.image))?.digest ?? '')
      const all = 'see what is free: musubi search; what each site would answer: musubi cluster plan'
      if ('refusal' in placed || noStart !== null) {
        const why = [noStart, 'refusal' in placed ? placed.refusal : null].filter(text => text !== null).join('; ')
        throw new NoCapacityError(`cluster ${spec.name}: ${why}`, nearest === '' ? all : `${nearest}; ${all}`)
      }
      const left = placed.left.slice(0, MAX_SITES_PER_CLUSTER).map(({ site, reason }) => `  ${site}: ${reason}`)
      const without = left.length === 0 ? '' : `\nand not to\n${left.join('\n')}${placed.left.length > left.length ? `\n  and ${placed.left.length - left.length} more sites` : ''}`
      const from = startMs > deps.now() ? ` from ${new Date(startMs).toISOString()} on` : ''
      return { explanation: `cluster ${spec.name} would go${from} to\n${placed.why.map(w => `  ${w}`).join('\n')}${without}\n(a dry run: nothing is held, and no site was asked whether it lends: musubi cluster plan)` }
    },
    freeIn: (startMs, endMs) => sight.freeIn(startMs, endMs),
    list () {
      const mine = negotiator.records().filter(r => r.state !== 'ended').map(record => ({ record, resource: view(record) }))
      const others = (adoption?.masterless() ?? []).filter(r => mine.every(one => one.record.id !== r.id)).map(record => ({ record, resource: masterless(record) }))
      return [...mine, ...others].sort((a, b) => a.record.createdMs - b.record.createdMs).map(one => one.resource)
    },
    caches: () => negotiator.records().flatMap(({ id, state, document }) => state === 'active' && document !== null ? cacheFigures(document, watcher.statuses(id)) : []),
    get (nameOrId) {
      const silent = find(nameOrId) === undefined ? adoption?.masterless().find(r => r.id === nameOrId || r.name === nameOrId) : undefined
      return silent === undefined ? view(own(nameOrId)) : masterless(silent)
    },
    record: nameOrId => shown(own(nameOrId)),
    remove,
    async extend (nameOrId, termMs) {
      const record = own(nameOrId)
      await negotiator.extend(record.id, Math.max(deps.now(), record.startMs) + termMs)
      return view(current(record))
    },
    async scale (nameOrId, count) {
      const record = own(nameOrId)
      const nodes = record.document?.nodes.length ?? record.spec.nodes.count
      if (count > nodes) await negotiator.grow(record.id, count)
      else if (count < nodes) await negotiator.shrink(record.id, toGo(record, count))
      return view(current(record))
    },
    async cacheBudget (nameOrId, change) {
      await negotiator.budget(own(nameOrId).id, change)
    },
    async retry (nameOrId) {
      const record = own(nameOrId)
      if (record.state !== 'failed') throw new ConflictError(`cluster ${record.name} is ${shown(record).state}: only a failed one is asked for again`)
      const resource = await ask(record.spec, { ...record.startMs > deps.now() ? { startMs: record.startMs } : {}, ...record.earliest === undefined ? {} : { earliest: true } })
      await negotiator.remove(record.id, 'asked for again')
      return resource
    },
    async adopt (nameOrId, options) {
      if (adoption === null) throw new NotFoundError('this host keeps no copies of clusters', 'ask another gateway of the master\'s site')
      return view(await adoption.adopt(nameOrId, options))
    },
    async resume () {
      for await (const { value } of store.iterate<ClusterNotes>(NOTES)) notes.set(value.id, { ...newNotes(value.id), ...value })
      await negotiator.start()
      for (const record of negotiator.records()) if (record.state === 'active') watcher.watch(record.id)
      timers.push(setInterval(() => {
        negotiator.tick().catch((error: unknown) => { log.debug({ error: describeError(error) }, 'the records of clusters cannot be written yet') })
      }, TICK_MS).unref())
      if (adoption !== null) {
        timers.push(setInterval(() => {
          adoption.tick().catch((error: unknown) => { log.warn({ error: describeError(error) }, 'copies could not be looked through') })
        }, ADOPT_TICK_MS).unref())
      }
    },
    async stop () {
      timers.forEach(clearInterval)
      await watcher.stop()
      await negotiator.close()
    }
  }
}
