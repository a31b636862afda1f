/**
 * Checks the records of a ledger against each other, of a store that no agent has open. It guesses
 * nothing: what cannot be rebuilt from other records is told, and left to the operator.
 */
import { isValid } from '../../protocol/core/capacity.ts'
import { describeError } from '../../protocol/core/errors.ts'
import { type ClusterEpoch, type Extension, type Lease, type Replay, isLive } from '../../protocol/core/lease/lease.ts'
import { extensionId } from '../../protocol/core/lease/state.ts'
import type { Store, StoreEntry, StoreOperation } from '../store.ts'
import { type HistoryRecord, historyKey } from './history.ts'
import { type Migrations, migrated } from './migrations.ts'
import { BOOT_EPOCH, EXTENSIONS, HISTORY, LEASES, MASTERS, META, type Meta, PREFIX, REPLAYS, TABLES, put } from './records.ts'
import type { DocumentRecord } from './types.ts'

/** `repair`: what `repairLedger` would do about it; without it an operator must decide. */
export interface LedgerProblem { key: string, problem: string, repair?: string }

interface Finding extends LedgerProblem { operation?: StoreOperation }

/** The records of a ledger as they were found, each with its key. */
interface Found {
  meta: Meta | null
  leases: Map<string, Lease>
  replays: Map<string, Replay>
  extensions: Map<string, Extension>
  epochs: Map<string, ClusterEpoch>
  history: Map<string, HistoryRecord>
  documents: Map<string, DocumentRecord>
}

/** Records without which nothing that was promised is lost: a damaged one may go. */
const EXPENDABLE = [REPLAYS, HISTORY]
const KINDS: ReadonlyArray<readonly [prefix: string, kind: string, into: keyof Found]> = [
  [LEASES, 'lease', 'leases'], [REPLAYS, 'replay', 'replays'], [EXTENSIONS, 'extension', 'extensions'], [MASTERS, 'master', 'epochs'],
  [HISTORY, 'history', 'history'], [`${TABLES}document/`, 'document', 'documents']
]

async function inspect (store: Store, migrations?: Migrations): Promise<{ records: number, findings: Finding[] }> {
  const findings: Finding[] = []
  const found: Found = { meta: null, leases: new Map(), replays: new Map(), extensions: new Map(), epochs: new Map(), history: new Map(), documents: new Map() }
  let records = 0
  const damaged = (key: string, problem: string): void => {
    records++
    findings.push(EXPENDABLE.some(prefix => key.startsWith(prefix)) ? removal(key, problem, 'remove it: nothing that was promised is in it') : { key, problem })
  }
  for await (const entry of store.iterate(PREFIX, damage => { damaged(damage.key, damage.message) })) {
    records++
    try {
      sort(entry, found, findings, migrations)
    } catch (error) {
      records--
      damaged(entry.key, describeError(error))
    }
  }
  if (records === 0) return { records, findings }
  checkLeases(found, findings)
  checkFollowers(found, findings)
  return { records, findings }
}

const removal = (key: string, problem: string, repair: string): Finding => ({ key, problem, repair, operation: { type: 'delete', key } })

function sort (entry: StoreEntry<unknown>, found: Found, findings: Finding[], migrations?: Migrations): void {
  const { key } = entry
  if (key === META) found.meta = migrated(entry, 'meta', migrations) as Meta
  else if (key === BOOT_EPOCH) {
    const { epoch } = migrated(entry, 'epoch', migrations) as { epoch: number }
    if (!Number.isSafeInteger(epoch) || epoch < 0) findings.push({ key, problem: `the boot epoch ${epoch} is no number of starts` })
  } else {
    const kind = KINDS.find(([prefix]) => key.startsWith(prefix))
    if (kind !== undefined) (found[kind[2]] as Map<string, unknown>).set(key, migrated(entry, kind[1], migrations))
    else if (!key.startsWith(TABLES)) findings.push({ key, problem: 'no record of a ledger has such a key' })
  }
}

const isMoment = (value: number): boolean => Number.isSafeInteger(value) && value >= 0

function leaseProblem (key: string, lease: Lease): string | null {
  const checks: ReadonlyArray<readonly [boolean, string]> = [
    [LEASES + lease.id === key, `it is of lease ${lease.id}`],
    [['held', 'committed', 'active', 'ended'].includes(lease.state), `its state is ${lease.state}`],
    [isValid(lease.resources), 'its resources are not whole numbers'],
    [[lease.startMs, lease.endMs, lease.deadlineMs, lease.activatedMs, lease.endedMs, lease.confirmByMs].every(isMoment), 'its times are not whole numbers'],
    [lease.startMs < lease.endMs, 'it ends before it begins'],
    [lease.heldToken >= 1 && lease.heldToken <= lease.token && lease.commitToken <= lease.token, 'its tokens are out of order'],
    [lease.state === 'held' || lease.state === 'ended' || lease.commitToken > 0, 'it was never committed'],
    [lease.state !== 'active' || lease.activatedMs > 0, 'it is active and was never activated'],
    [lease.state !== 'ended' || lease.endedMs > 0, 'it has ended at no time'],
    [lease.vacated || (lease.state === 'ended' && lease.activatedMs > 0), 'it may still run and never ran']
  ]
  return checks.find(([ok]) => !ok)?.[1] ?? null
}

function checkLeases ({ meta, leases }: Found, findings: Finding[]): void {
  const tokens = new Map<number, string>()
  const ids = new Map<number, Lease>()
  let highest = 0
  for (const [key, lease] of leases) {
    const problem = leaseProblem(key, lease)
    if (problem !== null) findings.push({ key, problem })
    const twin = tokens.get(lease.token)
    if (twin !== undefined) findings.push({ key, problem: `its fencing token ${lease.token} is also that of ${twin}` })
    tokens.set(lease.token, key)
    highest = Math.max(highest, lease.token)
    if (lease.kind !== 'segment' || !isLive(lease)) continue
    const other = ids.get(lease.segmentId)
    if (other !== undefined && other.clusterId !== lease.clusterId) findings.push({ key, problem: `segment id ${lease.segmentId} is promised to cluster ${other.clusterId} too` })
    ids.set(lease.segmentId, lease)
  }
  if (meta === null) {
    if (!findings.some(one => one.key === META)) findings.push({ key: META, problem: 'it is missing: nobody knows which tokens were given out' })
    return
  }
  if (!(Number.isSafeInteger(meta.counter) && isMoment(meta.clockMs) && meta.host !== '')) findings.push({ key: META, problem: 'its counter, clock or host is malformed' })
  else if (meta.counter < highest) {
    findings.push({ key: META, problem: `its counter ${meta.counter} is behind the token ${highest}`, repair: `set the counter to ${highest}`, operation: put(META, { ...meta, counter: highest }) })
  }
}

/** Records that are there for others. */
function checkFollowers (found: Found, findings: Finding[]): void {
  const { leases, replays, extensions, epochs, history, documents, meta } = found
  const clusters = new Map<string, Lease[]>()
  for (const lease of leases.values()) clusters.set(lease.clusterId, [...clusters.get(lease.clusterId) ?? [], lease])
  // With leases that cannot be read nobody knows what belongs to them.
  if (findings.some(one => one.key.startsWith(LEASES) && !leases.has(one.key))) return
  for (const [key, replay] of replays) {
    if (REPLAYS + replay.key !== key) findings.push(removal(key, `it is the answer to ${replay.key}`, 'remove it'))
    else if (!replay.leaseIds.some(id => leases.has(LEASES + id))) findings.push(removal(key, 'it is an answer about leases that are forgotten', 'remove it'))
  }
  for (const [key, one] of extensions) {
    if (EXTENSIONS + extensionId(one.clusterId, one.offerId) !== key) findings.push({ key, problem: `it is extension ${one.offerId} of cluster ${one.clusterId}` })
    else if (!clusters.has(one.clusterId)) findings.push(removal(key, 'it extends leases that are forgotten', 'remove it'))
    else if (one.state === 'committed') {
      for (const { id } of one.leases) {
        const lease = leases.get(LEASES + id)
        if (lease !== undefined && isLive(lease) && lease.endMs < one.endMs) findings.push({ key, problem: `it is committed, and lease ${id} ends before` })
      }
    }
  }
  for (const [key, one] of epochs) {
    if (MASTERS + one.clusterId !== key) findings.push({ key, problem: `it is the master of cluster ${one.clusterId}` })
    else if (!clusters.has(one.clusterId)) findings.push(removal(key, 'it is the master of a cluster without leases', 'remove it'))
  }
  for (const [key, one] of history) {
    if (historyKey(one.seq) !== key) findings.push(removal(key, `it is number ${one.seq} of the history`, 'remove it'))
    else if (meta !== null && one.seq > meta.historySeq) findings.push(removal(key, `the history ends at ${meta.historySeq}`, 'remove it'))
  }
  for (const [key, { document }] of documents) {
    const own = clusters.get(document.id) ?? []
    if (own.every(lease => !isLive(lease) && lease.vacated)) findings.push({ key, problem: `cluster ${document.name} has no leases here any more; the agent removes what is left of it, and this` })
  }
}

/** @returns how many records there are, and what is wrong with them; reads only */
export async function checkLedger (store: Store, migrations?: Migrations): Promise<{ records: number, problems: LedgerProblem[] }> {
  const { records, findings } = await inspect(store, migrations)
  return { records, problems: findings.map(({ key, problem, repair }) => ({ key, problem, ...(repair === undefined ? {} : { repair }) })) }
}

/**
 * Does every repair that `checkLedger` offers, in one synced write.
 *
 * @returns what was repaired, and what is left for an operator
 */
export async function repairLedger (store: Store, migrations?: Migrations): Promise<{ repaired: LedgerProblem[], left: LedgerProblem[] }> {
  const { findings } = await inspect(store, migrations)
  const operations = findings.flatMap(({ operation }) => operation === undefined ? [] : [operation])
  if (operations.length > 0) await store.batch(operations, { sync: true })
  const plain = ({ key, problem, repair }: Finding): LedgerProblem => ({ key, problem, ...(repair === undefined ? {} : { repair }) })
  return { repaired: findings.filter(one => one.operation !== undefined).map(plain), left: findings.filter(one => one.operation === undefined).map(plain) }
}
