import type { Mutant } from '../mutant.ts'

/** Bugs between memory and disk, and in the clock. */
export const storeMutants: readonly Mutant[] = [
  {
    name: 'ledger-without-sync', file: 'store/ledger/writer.ts',
    find: 'await store.batch(operations, { sync: true })', replace: 'await store.batch(operations, { sync: false })',
    why: 'a loss of power takes back what was answered'
  },
  {
    name: 'answer-before-write', file: 'store/ledger/writer.ts',
    find: 'waiting.push({ operations, done () { settled(); resolve() }, failed: reject })', replace: 'waiting.push({ operations, done: () => undefined, failed: () => undefined })\n        settled()\n        resolve()',
    why: 'what is answered is not on the disk yet'
  },
  {
    name: 'group-acknowledged-early', file: 'store/group-commit.ts',
    find: '        await flush(group.flatMap(write => write.operations), group.some(write => write.sync))\n        for (const write of group) write.resolve()', replace: '        const flushed = flush(group.flatMap(write => write.operations), group.some(write => write.sync))\n        for (const write of group) write.resolve()\n        await flushed',
    why: 'writers are told that their write is safe while it is under way'
  },
  {
    name: 'counter-not-kept', file: 'store/ledger/ledger.ts',
    find: 'host, counter: state.counter, clockMs', replace: 'host, counter: Math.max(0, state.counter - 8), clockMs',
    why: 'the counter on the disk is behind the one that was given out'
  },
  {
    name: 'releases-forgotten', file: 'store/ledger/ledger.ts',
    find: 'const operations = effects.map(operationOf)', replace: "const operations = effects.filter(one => one.effect !== 'lease' || one.lease.state !== 'ended').map(operationOf)",
    why: 'after a crash what was released is back'
  },
  {
    name: 'boot-not-noticed', file: 'store/ledger/ledger.ts',
    find: "if (meta !== null && bootId !== '' && meta.bootId !== bootId) await", replace: "if (meta !== null && bootId === '' && meta.bootId !== bootId) await",
    why: 'holds do not get their time again after a boot'
  },
  {
    name: 'trust-the-wall-clock', file: 'store/clock.ts',
    find: 'jump = Math.abs(off) > CLOCK_JUMP_MS ? off : 0', replace: 'jump = 0\n    at += Math.max(0, off)',
    why: 'a jump of the wall clock ends leases early'
  },
  {
    name: 'jump-accepted', file: 'store/clock.ts',
    find: 'return jump === 0 ? null', replace: 'return jump !== Number.POSITIVE_INFINITY ? null',
    why: 'new promises are made while nobody knows what time it is'
  },
  {
    name: 'clock-slews-fast', file: 'store/clock.ts',
    find: 'if (jump === 0) at += Math.max(-CLOCK_SLEW * elapsed, Math.min(CLOCK_SLEW * elapsed, off))', replace: 'if (jump === 0) at += Math.max(-0.1 * elapsed, Math.min(0.1 * elapsed, off))',
    why: 'durations are not what they are stated to be: holds end early'
  },
  {
    name: 'decision-without-sync', file: 'agent/master/negotiator.ts',
    find: 'return operation === null ? null : { operation, sync: true }', replace: 'return operation === null ? null : { operation, sync: false }',
    why: 'a master that loses power does not know what it has decided'
  },
  {
    name: 'performed-before-written', file: 'store/runner.ts',
    find: 'const done = Promise.all([last, write(writes)]).then(() => {\n        if (failure !== null) throw failure', replace: 'const done = Promise.all([last, void write(writes).catch(() => undefined)]).then(() => {\n        if (failure !== null) throw failure',
    why: 'commits leave before the decision is on the disk'
  },
  {
    name: 'goes-on-after-failed-write', file: 'store/group-commit.ts',
    find: "        failure = new MusubiError('STORE_WRITE_FAILED', `writing to the store failed: ${String(cause)}`, { cause, retryable: true })\n        for (const write of [...group, ...waiting.splice(0)]) write.reject(failure)", replace: '        for (const write of group) write.resolve()',
    why: 'a write that failed is answered as if it were on the disk'
  }
]
