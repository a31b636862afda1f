import type { Logger } from 'pino'
import type { EventLog } from '../events.ts'
import type { CallPeer } from '../peers.ts'
import type { Copies, Copy } from './copies.ts'
import { fromStored } from './stored.ts'
import { ConflictError, describeError, errorCode, MusubiError, NotFoundError, UnreachableError } from '../../protocol/core/errors.ts'
import { KEEP_ALIVE_MS, MASTERLESS_MS } from '../../protocol/core/limits.ts'
import type { Grant } from '../../protocol/core/messages.ts'
import { type MasterRecord, type MasterState, isOver } from '../../protocol/core/master/record.ts'

export interface AdoptionDeps {
  site: string
  /** PeerId of this host */
  peer: string
  call: CallPeer
  copies: Pick<Copies, 'list' | 'drop'>
  /** what this host itself is master of */
  known: (clusterId: string) => MasterRecord | undefined
  /** all that this host is, or was, master of */
  own: () => readonly MasterRecord[]
  /** becomes the master of a cluster, or takes what the anchor said later about that, as the negotiator does it */
  adopt: (record: MasterRecord) => Promise<void>
  /** when this host last heard of the cluster's master, by its gateway or ledger; null when it has nothing of it */
  heardMs: (clusterId: string) => number | null
  /** ledger clock, Unix ms */
  now: () => number
  /** 0 up to some MASTERLESS_MS / 4: gateways of a site must not all claim at once */
  jitterMs: () => number
  events: Pick<EventLog, 'add'>
  log: Logger
}

/** Takes over clusters of the own site whose master is gone. */
export interface Adoption {
  /** Clusters of which a copy is here and whose master has not been heard of for MASTERLESS_MS. */
  masterless (): MasterRecord[]
  /** By name or id, whether or not its master is silent. */
  find (nameOrId: string): MasterRecord | undefined
  /**
   * Claims the cluster at its anchor host, whose ledger decides who is master, then takes it over.
   *
   * With `force` the anchor grants it although it has heard of the master: that one, should it still
   * run, is refused from then on. Where the anchor itself does not answer, `force` takes the epoch on
   * the operator's word alone. What that risks: should the old master or the anchor live on behind a
   * broken network, both masters hold themselves for the right one until the anchor is back, and what
   * the other has changed meanwhile may be undone; member sites that want the anchor's signature go on
   * obeying the old master. Nothing is ever promised twice by it: that is up to the lenders' ledgers.
   *
   * @throws NotFoundError; ConflictError when this host is its master; UnreachableError naming the
   * anchor; MusubiError MASTER_ALIVE, STALE_EPOCH as the anchor says
   */
  adopt (nameOrId: string, options: { force: boolean }): Promise<MasterRecord>
  /**
   * Tells anchors that the new master is there, whoever else of the site is not. Adopts by itself what has been masterless for longer than MASTERLESS_MS plus a jitter, where the anchor agrees.
   */
  tick (): Promise<void>
}

const CLAIM_DEADLINE_MS = 10_000
/** Without a grant lenders refuse all that this master says: its anchor is asked this often. */
const PROVE_MS = KEEP_ALIVE_MS / 4
/** An anchor that does not answer is asked again after this. */
const AGAIN_MS = MASTERLESS_MS / 3

/** The host whose ledger decides who is master: it has the cluster's frontend. */
export function anchorOf (record: Pick<MasterRecord, 'document' | 'name'>): { host: string, peer: string } {
  const { document } = record
  const frontend = document?.frontend
  const found = document?.sites.find(one => one.site === frontend?.site)?.hosts.find(one => one.host === frontend?.host)
  if (found === undefined) throw new ConflictError(`the copy of cluster ${record.name} does not say where its frontend is: nobody can decide who is its master`)
  return { host: found.host, peer: found.peer }
}

export function createAdoption (deps: AdoptionDeps): Adoption {
  const { call, copies, now, log, events } = deps
  /** last sign of a master that did not come with a keep-alive: what an anchor said, by cluster */
  const signs = new Map<string, number>()
  /** when it may be tried by itself, by cluster */
  const due = new Map<string, number>()
  /** when the anchor was last told of an adopted cluster */
  const renewed = new Map<string, number>()
  let busy = false

  const isOwn = (clusterId: string): boolean => { const own = deps.known(clusterId); return own !== undefined && !isOver(own.state) }
  const foreign = (): Copy[] => copies.list().filter(copy => !isOwn(copy.clusterId) && copy.record.endMs > now())
  const lastSignMs = ({ clusterId, receivedMs }: Copy): number => Math.max(receivedMs, deps.heardMs(clusterId) ?? 0, signs.get(clusterId) ?? 0)
  const isSilent = (copy: Copy): boolean => now() - lastSignMs(copy) > MASTERLESS_MS
  const pick = (nameOrId: string): Copy | undefined =>
    foreign().find(copy => copy.clusterId === nameOrId) ?? foreign().filter(copy => copy.record.name === nameOrId).sort((a, b) => b.record.createdMs - a.record.createdMs)[0]

  async function claim (copy: Copy, force: boolean): Promise<{ epoch: number, grant: Grant | null }> {
    const record = fromStored(copy.record)
    const anchor = anchorOf(record)
    const epoch = Math.max(copy.epoch, deps.known(copy.clusterId)?.epoch ?? 0) + 1
    try {
      return await call(anchor.peer, 'claim', { clusterId: copy.clusterId, epoch, force }, { deadlineMs: CLAIM_DEADLINE_MS })
    } catch (error) {
      if (errorCode(error) !== 'UNREACHABLE') throw error
      if (force) return { epoch, grant: null }
      throw new UnreachableError(`cluster ${record.name} cannot be adopted: host ${anchor.host}, which decides who is its master, does not answer: ${describeError(error)}`,
        'start that host; or, if it is lost for good: musubi cluster adopt --force (see its help for what that risks)', error)
    }
  }

  /** What it is now: the anchor's own leases tell whether it ever ran. */
  async function stateOf (record: MasterRecord): Promise<MasterState> {
    try {
      const { leaseState } = await call(anchorOf(record).peer, 'hostStatus', { clusterId: record.id }, { deadlineMs: CLAIM_DEADLINE_MS })
      if (leaseState === 'active') return 'active'
      return now() < record.startMs ? 'activating' : 'releasing'
    } catch {
      return 'active' // forced, or gone again in this moment: what runs is kept, what does not ends by itself
    }
  }

  async function take (copy: Copy, force: boolean): Promise<MasterRecord> {
    const { epoch, grant } = await claim(copy, force)
    const record = fromStored(copy.record)
    // Lenders take documents from the master that they name only.
    const document = record.document === null ? null : { ...record.document, masterPeer: deps.peer, epoch }
    const adopted: MasterRecord = { ...record, document, epoch, grant, state: await stateOf(record), error: null }
    await deps.adopt(adopted)
    due.delete(copy.clusterId)
    events.add('cluster.adopted', `${record.name}: taken over from ${copy.from}, epoch ${epoch}${grant === null ? ', without its anchor host' : ''}`, record.name)
    return deps.known(record.id) ?? adopted
  }

  /** Tried by itself: what the anchor answers says when to try again. */
  async function tryOne (copy: Copy): Promise<void> {
    try {
      await take(copy, false)
    } catch (error) {
      const code = errorCode(error)
      log.info({ cluster: copy.record.name, error: describeError(error) }, 'a cluster without master was not taken over')
      due.delete(copy.clusterId)
      if (code === 'MASTER_ALIVE' || code === 'STALE_EPOCH') signs.set(copy.clusterId, now())
      else if (code === 'NOT_FOUND') await copies.drop(copy.clusterId) // it has ended, and nobody could tell
      else due.set(copy.clusterId, now() + AGAIN_MS + deps.jitterMs())
    }
  }

  /**
   * Keep-alives reach the anchor by the gateway of its site that had the cluster from the first. That
   * one may be what was lost: then the anchor would hear nothing, and grant the cluster to the next.
   */
  async function renew (record: MasterRecord): Promise<void> {
    const unproved = record.grant === null
    if (now() - (renewed.get(record.id) ?? 0) < (unproved ? PROVE_MS : KEEP_ALIVE_MS)) return
    renewed.set(record.id, now())
    try {
      // Only a master that was forced has no grant: the anchor's answer was lost, or it was away. The operator's word still counts.
      const { grant } = await call(anchorOf(record).peer, 'claim', { clusterId: record.id, epoch: record.epoch, force: unproved }, { deadlineMs: CLAIM_DEADLINE_MS })
      if (unproved) await deps.adopt({ ...record, grant })
    } catch (error) {
      // Its word is the last one: two masters of one epoch would refuse each other for ever.
      if (unproved && errorCode(error) === 'STALE_EPOCH') await deps.adopt({ ...record, state: 'superseded' })
      log.info({ cluster: record.name, error: describeError(error) }, 'the anchor of a cluster was not reached')
    }
  }

  return {
    masterless: () => foreign().filter(isSilent).map(copy => fromStored(copy.record)),
    find (nameOrId) {
      const copy = pick(nameOrId)
      return copy === undefined ? undefined : fromStored(copy.record)
    },
    async adopt (nameOrId, { force }) {
      const copy = pick(nameOrId)
      if (copy !== undefined) return await take(copy, force)
      const own = copies.list().find(one => one.clusterId === nameOrId || one.record.name === nameOrId)
      if (own !== undefined && isOwn(own.clusterId)) throw new ConflictError(`this host is the master of cluster ${own.record.name} already`)
      throw new NotFoundError(`no copy of a cluster "${nameOrId}" is kept here`, 'copies are at hosts of the master\'s site: musubi cluster list on its other gateways')
    },
    async tick () {
      if (busy) return
      busy = true
      try {
        for (const record of deps.own()) if (record.epoch > 1 && (record.state === 'active' || (record.grant === null && record.asked.length > 0))) await renew(record)
        for (const copy of foreign()) {
          const { clusterId } = copy
          if (!isSilent(copy)) { due.delete(clusterId); continue }
          const at = due.get(clusterId) ?? now() + deps.jitterMs()
          due.set(clusterId, at)
          if (now() >= at) await tryOne(copy)
        }
      } finally {
        busy = false
      }
    }
  }
}

/** An error for a cluster that this host only keeps a copy of. */
export const notMaster = (name: string): MusubiError =>
  new ConflictError(`this host is not the master of cluster ${name}`, `ask at its master; if that is gone: musubi cluster adopt ${name}`)
