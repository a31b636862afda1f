import type { Logger } from 'pino'
import type { DriverSet } from '../../reconcile/reconciler.ts'
import { describeError } from '../../../protocol/core/errors.ts'
import { KIND_ORDER, type ObjectKind } from '../../../protocol/core/desired.ts'
import type { FenceRecord } from '../../../protocol/core/fence/fence.ts'
import { END_GUARD_MS } from '../../../protocol/core/lease/lease.ts'
import type { Fence } from './store.ts'
import type { Hands } from '../hands.ts'
import { isShared } from './permits.ts'
import { partsOf } from '../wire/verbs.ts'

export interface ExpiryDeps {
  fence: Fence
  hands: Hands
  drivers: DriverSet
  /** ledger clock, Unix ms */
  now: () => number
  log: Logger
  /** whether an agent is connected: then what clusters share is its affair */
  attended: () => boolean
  /** told of everything that is removed */
  removed: (record: FenceRecord, work: () => Promise<void>) => Promise<void>
}

const REMOVE_MS = 90_000
const OBSERVE_MS = 30_000

/**
 * Ends what has outlived its lease, whether or not an agent is there: nothing runs after its end and
 * the guard. What was revoked before its end is the agent's to remove.
 *
 * @returns a round; rounds must not overlap
 */
export function createExpiry ({ fence, hands, drivers, now, log, attended, removed }: ExpiryDeps): () => Promise<void> {
  let told = ''

  const rank = ({ resource }: FenceRecord): number => KIND_ORDER.indexOf(partsOf(resource).kind)
  const over = (record: FenceRecord): boolean => record.state === 'revoking' && now() >= record.endMs + END_GUARD_MS && drivers[partsOf(record.resource).kind] !== undefined

  async function removeOne (record: FenceRecord): Promise<void> {
    await removed(record, async () => {
      await hands.remove(partsOf(record.resource), { clusterId: record.clusterId, counter: record.counter }, AbortSignal.timeout(REMOVE_MS))
    })
  }

  /** Against the order of creation; what fails is tried in the next round, and keeps nobody waiting. */
  async function removeAll (records: readonly FenceRecord[]): Promise<ObjectKind[]> {
    const kinds = new Set<ObjectKind>()
    const failures: string[] = []
    for (const record of [...records].sort((a, b) => rank(b) - rank(a))) {
      try {
        await removeOne(record)
        kinds.add(partsOf(record.resource).kind)
      } catch (error) {
        failures.push(`${record.resource}: ${describeError(error)}`)
      }
    }
    const news = failures.join('; ')
    if (news !== '' && news !== told) log.error({ failures }, 'cannot end what has outlived its lease')
    told = news
    return [...kinds]
  }

  /** The tunnel serves all clusters: when the last of them has ended unseen it goes as well. */
  async function removeShared (): Promise<void> {
    if (attended() || fence.records().some(record => record.state !== 'gone')) return
    for (const kind of KIND_ORDER.filter(isShared)) {
      if (drivers[kind] === undefined) continue
      for (const { name } of await hands.observe(kind, AbortSignal.timeout(OBSERVE_MS))) {
        await hands.remove({ kind, name }, null, AbortSignal.timeout(REMOVE_MS))
        log.info({ object: `${kind} ${name}` }, 'removed with the last cluster')
      }
    }
  }

  return async () => {
    await fence.tick().catch((error: unknown) => { log.error({ error: describeError(error) }, 'the fence cannot be written') })
    const records = fence.records().filter(over)
    if (records.length === 0) return
    for (const kind of await removeAll(records)) {
      // looking settles it: what is not there is free for others
      const seen = new Set((await hands.observe(kind, AbortSignal.timeout(OBSERVE_MS))).map(object => object.name))
      for (const record of records) {
        const parts = partsOf(record.resource)
        if (parts.kind === kind && !seen.has(parts.name)) await hands.gone(parts, record.counter)
      }
    }
    await removeShared()
  }
}
