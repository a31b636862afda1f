import type { Mutant } from '../mutant.ts'

/** More bugs between memory and disk, in clocks, and at the helper. */
export const diskMutants: readonly Mutant[] = [
  {
    name: 'answered-again-before-written', file: 'store/ledger/writer.ts',
    find: 'if (operations.length === 0 && draining === null) {', replace: 'if (operations.length === 0) {',
    why: 'a repeated question is answered from a write that may still fail'
  },
  {
    name: 'goes-on-from-memory', file: 'store/ledger/ledger.ts',
    find: '      install(fresh)\n', replace: '',
    why: 'after a failed write the ledger believes what its disk does not say'
  },
  {
    name: 'refused-event-kept', file: 'store/ledger/ledger.ts',
    find: '    if (!result.ok) throw result.error\n', replace: "    if (!result.ok && event.type !== 'commit') throw result.error\n    if (!result.ok) return { receipts: leasesOf(state, (event as { clusterId: string }).clusterId).map(lease => ({ leaseId: lease.id, host, token: lease.commitToken })), segmentId: 0, ended: 0, replay: true }\n",
    why: 'a commit that was refused is answered as if it were done'
  },
  {
    name: 'counter-written-now-and-then', file: 'store/ledger/ledger.ts',
    find: 'operations.push(...logged, metaRecord())', replace: 'operations.push(...logged, ...state.counter % 4 === 0 ? [metaRecord()] : [])',
    why: 'the counter on the disk is behind what was given out'
  },
  {
    name: 'frozen-extends', file: 'store/ledger/ledger.ts',
    find: '    async extend (request, requester = host) {\n      mustNotBeFrozen(request.key)\n', replace: '    async extend (request, requester = host) {\n',
    why: 'a later end is promised while nobody knows what time it is'
  },
  {
    name: 'clock-taken-anew', file: 'store/ledger/ledger.ts',
    find: 'if (mark === null || !isIdle(state)) return clock', replace: 'if (mark === null) return clock',
    why: 'an agent that starts takes a wall clock that has jumped, although it has promised something'
  },
  {
    name: 'clock-stands-still', file: 'store/clock.ts',
    find: 'return mark.atMs + Math.max(0, inputs.sinceBoot() - mark.sinceBootMs)', replace: 'return mark.atMs',
    why: 'while the agent is off the ledger clock stands still'
  },
  {
    name: 'clock-goes-back-at-boot', file: 'store/clock.ts',
    find: 'return Math.max(mark.atMs, wall)', replace: 'return wall',
    why: 'after a boot with a wrong wall clock the ledger clock goes back'
  },
  {
    name: 'clock-as-of-boot', file: 'store/clock.ts',
    find: 'return Math.max(mark.atMs, wall)', replace: 'return mark.atMs',
    why: 'the time that a machine was off is not counted'
  },
  {
    name: 'holds-begin-anew-with-the-agent', file: 'store/ledger/ledger.ts',
    find: "bootId !== '' && meta.bootId !== bootId) await", replace: "bootId !== '') await",
    why: 'a hold lasts as long as its host\'s agent goes on starting'
  },
  {
    name: 'older-document-wins', file: 'store/ledger/ledger.ts',
    find: '    if (document.version <= kept.version) throw', replace: '    if (document.version < 0) throw',
    why: 'a document that comes late takes the place of a later one'
  },
  {
    name: 'document-without-lease', file: 'store/ledger/ledger.ts',
    find: "filter(record => usageState(settled, record.document.id) === 'active').map(record", replace: "filter(record => ['active', 'committed', 'ended'].includes(usageState(settled, record.document.id))).map(record",
    why: 'what has ended is started again'
  },
  {
    name: 'lapsed-runs', file: 'agent/lessor/objects.ts',
    find: "filter(lease => lease.state === 'active').map(lease => lease.id))\n    const here", replace: "filter(lease => lease.state !== 'held').map(lease => lease.id))\n    const here",
    why: 'a node whose lease was given back is kept'
  },
  {
    name: 'end-of-shortest', file: 'agent/lessor/objects.ts',
    find: 'endMs: Math.max(lease.endMs, clusters.get(name)?.endMs ?? 0) })', replace: 'endMs: lease.endMs + 600_000 })',
    why: 'the helper is told a later end than was promised'
  },
  {
    name: 'permits-of-former-pass', file: 'agent/helper/fence/permits.ts',
    find: 'return { ...cluster, counter: tenancy.counter }', replace: 'return { ...cluster, counter: tenancy.counter + 1_000_000 }',
    why: 'a command counts as newer than what is decided after it'
  },
  {
    name: 'fence-unsynced', file: 'agent/helper/fence/store.ts',
    find: "sync: effect.record.state !== 'gone' }", replace: 'sync: false }',
    why: 'after a loss of power the fence does not know what it has seen'
  },
  {
    name: 'fence-floor-not-kept', file: 'agent/helper/fence/store.ts',
    find: '  if (floor !== undefined) state.floor =', replace: '  if (floor !== undefined && state.floor > 0) state.floor =',
    why: 'what was forgotten may come back'
  },
  {
    name: 'fence-floor-forgotten', file: 'protocol/core/fence/step.ts',
    find: '      state.floor = Math.max(state.floor, record.counter)\n', replace: '',
    why: 'what was forgotten may come back'
  },
  {
    name: 'revoke-before-grant-unfenced', file: 'protocol/core/fence/step.ts',
    find: '  if (event.counter < seen) return stale(event, seen)', replace: "  if (event.counter < seen && event.type !== 'revoke') return stale(event, seen)",
    why: 'an old revocation stops what was granted since'
  },
  {
    name: 'granted-again-in-the-same-moment', file: 'protocol/core/fence/step.ts',
    find: "  if (event.type === 'grant' && record.state === 'gone' && event.counter === seen) return stale(event, seen)\n", replace: '',
    why: 'what was decided at the moment of a revocation brings back what it took away'
  },
  {
    name: 'granted-after-end', file: 'protocol/core/fence/step.ts',
    find: "if (event.type === 'grant' && now >= event.endMs + END_GUARD_MS) return", replace: "if (event.type === 'grant' && now < 0) return",
    why: 'a command that comes after the end of its lease is obeyed'
  },
  {
    name: 'gone-without-revocation', file: 'protocol/core/fence/step.ts',
    find: 'counter: record?.counter ?? counter, endMs: Math.floor(now) }, effects)', replace: 'counter: 0, endMs: Math.floor(now) }, effects)',
    why: 'with what is gone its counter is forgotten'
  }
]
