import type { Logger } from 'pino'
import type { CallPeer, Caller, Methods } from '../peers.ts'
import { type StoredRecord, readCopy, toStored } from './stored.ts'
import { describeError, InvalidInputError, MusubiError } from '../../protocol/core/errors.ts'
import { MAX_CLUSTERS, MAX_COPIES, MAX_COPY_BYTES } from '../../protocol/core/limits.ts'
import type { MasterRecord } from '../../protocol/core/master/record.ts'

/** A decision record of another gateway of the site, as this host keeps it. */
export interface Copy {
  clusterId: string
  epoch: number
  /** the master that sent it */
  from: string
  /** ledger clock of this host */
  receivedMs: number
  record: StoredRecord
}

/** A durable table, e.g. `ledger.table('copy')`. */
export interface CopyTable {
  get (key: string): Copy | undefined
  list (): Copy[]
  put (key: string, value: Copy): Promise<void>
  delete (key: string): Promise<void>
}

export interface CopyTarget { host: string, peer: string, gateway: boolean }

export interface CopiesDeps {
  call: CallPeer
  table: CopyTable
  /** other hosts of the own site that are there */
  targets: () => readonly CopyTarget[]
  /** ledger clock, Unix ms */
  now: () => number
  log: Logger
}

/**
 * What a successor needs, should a master be lost with its disk: its decision records at other hosts
 * of the site. Served by every host; see `adopt.ts` for who uses them.
 */
export interface Copies {
  /**
   * Has other hosts of the site keep a record, gateways first; of a cluster that is over, forget it.
   * Waits `SEND_DEADLINE_MS` at most.
   *
   * @returns how many keep it now; 0 when it is too large to be copied, or nobody is there
   */
  send (record: MasterRecord): Promise<number>
  /**
   * Keeps a copy, or forgets it when it is empty. @param caller a gateway of the own site
   *
   * @throws InvalidInputError; MusubiError STALE_EPOCH, TOO_MANY_COPIES
   */
  keep (request: Methods['copy']['request'], caller: Pick<Caller, 'peerId'>): Promise<{ epoch: number }>
  list (): Copy[]
  drop (clusterId: string): Promise<void>
  /** Forgets what has ended. */
  tick (): Promise<void>
}

/** A cluster waits for its copies before it is activated: long enough for a sync, short for people. */
const SEND_DEADLINE_MS = 3_000
const FORGOTTEN: ReadonlySet<string> = new Set(['failed', 'ended', 'superseded'])
const byText = (a: string, b: string): number => a < b ? -1 : a > b ? 1 : 0

export function createCopies ({ call, table, targets, now, log }: CopiesDeps): Copies {
  /** who has taken a copy since the start of this process, by cluster */
  const holders = new Map<string, Set<string>>()

  function chosen (clusterId: string): CopyTarget[] {
    const before = holders.get(clusterId) ?? new Set<string>()
    return targets().toSorted((a, b) => Number(before.has(b.peer)) - Number(before.has(a.peer)) || Number(b.gateway) - Number(a.gateway) || byText(a.host, b.host)).slice(0, MAX_COPIES)
  }

  return {
    async send (record) {
      const over = FORGOTTEN.has(record.state)
      const json = over ? new Uint8Array() : Buffer.from(JSON.stringify(toStored(record)))
      if (json.length > MAX_COPY_BYTES) {
        log.warn({ cluster: record.name, bytes: json.length }, 'a decision record is too large to be copied: nobody can take the cluster over')
        return 0
      }
      const answers = await Promise.all(chosen(record.id).map(async ({ host, peer }) => {
        try {
          await call(peer, 'copy', { clusterId: record.id, epoch: record.epoch, record: json }, { deadlineMs: SEND_DEADLINE_MS })
          return peer
        } catch (error) {
          log.warn({ cluster: record.name, host, error: describeError(error) }, 'a host does not keep a copy')
          return null
        }
      }))
      const taken = answers.filter(peer => peer !== null)
      if (over) holders.delete(record.id)
      else holders.set(record.id, new Set(taken))
      return over ? 0 : taken.length
    },

    async keep ({ clusterId, epoch, record: json }, caller) {
      const kept = table.get(clusterId)
      if (kept !== undefined && kept.epoch > epoch) {
        throw new MusubiError('STALE_EPOCH', `the copy of cluster ${kept.record.name} here is of epoch ${kept.epoch}, this one of ${epoch}`, { hint: 'another gateway has taken the cluster over' })
      }
      if (json.length === 0) {
        if (kept !== undefined) await table.delete(clusterId)
        return { epoch }
      }
      if (json.length > MAX_COPY_BYTES) throw new InvalidInputError(`a copy of ${json.length} bytes, at most ${MAX_COPY_BYTES} are kept`)
      const record = readCopy(json)
      if (record.id !== clusterId || record.epoch !== epoch) throw new InvalidInputError(`a copy of cluster ${clusterId.slice(0, 64)} carries the record of another, or of another epoch`)
      const version = (one: StoredRecord): number => one.document?.version ?? 0
      // Messages overtake each other: of one master the later document stays.
      if (kept?.epoch === epoch && version(kept.record) > version(record)) return { epoch }
      if (kept === undefined && table.list().length >= MAX_CLUSTERS) throw new MusubiError('TOO_MANY_COPIES', `this host keeps ${MAX_CLUSTERS} copies and takes no more`, { retryable: true })
      await table.put(clusterId, { clusterId, epoch, from: caller.peerId, receivedMs: now(), record })
      return { epoch }
    },

    list: () => table.list(),
    drop: clusterId => table.delete(clusterId),
    async tick () {
      for (const { clusterId, record } of table.list()) if (now() > record.endMs) await table.delete(clusterId)
    }
  }
}
