/** What the checker is told of hosts and disks: read off processes and disks from outside. */
import type { ClusterEpoch, Extension, Lease } from '../../../protocol/core/lease/lease.ts'
import type { Kernel } from '../kernel/kernel.ts'
import { EPOCH_MS } from '../kernel/clock.ts'
import type { DiskView, HostFacts, LeaseFacts } from '../observation.ts'
import type { Machine } from './machine.ts'
import { valueOf } from './plain.ts'

/** Keys of records, as the stores have them. */
const LEASES = 'ledger/lease/'
const EXTENSIONS = 'ledger/extension/'
const MASTERS = 'ledger/master/'
const META = 'ledger/meta'

type LedgerFacts = Pick<HostFacts, 'counter' | 'clockMs' | 'leases' | 'extensions' | 'epochs'>

/** @param before what was told last, when the ledger has not changed since */
export function hostFacts (machine: Machine, kernel: Kernel, quotas: HostFacts['quotas'], jumpedMs: number, before: HostFacts | null): HostFacts {
  const { plan, life, disk, clock } = machine
  const up = life?.ready === true
  const failed = up && life.ledger.failure() !== null
  let ledger: LedgerFacts
  if (before !== null) {
    const { leases, extensions, epochs } = before
    const { counter, clockMs } = up && !failed ? life.ledger.state() : before
    ledger = { counter, clockMs, leases, extensions, epochs }
  } else if (up && !failed) {
    const state = life.ledger.state()
    ledger = {
      counter: state.counter, clockMs: state.clockMs, leases: [...state.leases.values()], extensions: [...state.extensions.values()],
      epochs: [...state.epochs.values()].map(({ clusterId, epoch, holder }) => ({ clusterId, epoch, holder }))
    }
  } else {
    const all = <T>(prefix: string): T[] => disk.entries(prefix).map(([key, bytes]) => valueOf<T>(key, bytes) as T)
    const meta = valueOf<{ counter: number, clockMs: number }>(META, disk.peek(META))
    ledger = {
      counter: meta?.counter ?? 0, clockMs: meta?.clockMs ?? 0, leases: all<Lease>(LEASES), extensions: all<Extension>(EXTENSIONS),
      epochs: all<ClusterEpoch>(MASTERS).map(({ clusterId, epoch, holder }) => ({ clusterId, epoch, holder }))
    }
  }
  return {
    site: plan.site, host: plan.host, up, failed, capacity: plan.capacity, slice: plan.slice, quotas, ...ledger,
    fence: machine.helper.records(), running: machine.helper.running(), bootId: machine.bootId,
    ledgerOffMs: up ? life.ledger.now() - EPOCH_MS - kernel.now() : null,
    wallOffMs: clock.wallOffMs(), clockErrorMs: jumpedMs + 1_000 + kernel.now() * 0.001
  }
}

export function diskViewOf (machines: ReadonlyMap<string, Machine>): DiskView {
  // eslint-disable-next-line @typescript-eslint/no-unnecessary-type-parameters -- as valueOf
  const read = <T>(host: string, key: string): T | null => valueOf<T>(key, machines.get(host)?.disk.durable(key))
  return {
    lease: (host, leaseId) => read<LeaseFacts>(host, LEASES + leaseId),
    replay: (host, key) => read(host, `ledger/replay/${key}`),
    document: (host, clusterId) => read<{ document: unknown }>(host, `ledger/table/document/${clusterId}`)?.document ?? null,
    copy: (host, clusterId) => read(host, `ledger/table/copy/${clusterId}`),
    gatewayRecord: (host, clusterId) => read(host, `offer/${clusterId}`),
    counter: host => read<{ counter: number }>(host, META)?.counter ?? 0
  }
}
