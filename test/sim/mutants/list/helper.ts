import type { Mutant } from '../mutant.ts'

/** Bugs in what a host really runs, and in who may tell its helper. */
export const helperMutants: readonly Mutant[] = [
  {
    name: 'fence-dropped', file: 'protocol/core/fence/step.ts',
    find: 'if (event.counter < seen) return stale(event, seen)', replace: 'if (event.counter < 0) return stale(event, seen)',
    why: 'a command that was decided earlier, and arrives later, is obeyed'
  },
  {
    name: 'fence-never-expires', file: 'protocol/core/fence/step.ts',
    find: "if (record.state === 'granted' && now >= record.endMs + END_GUARD_MS) {", replace: "if (record.state === 'granted' && now < 0) {",
    why: 'what runs goes on beyond its end when the agent is away'
  },
  {
    name: 'vacated-unseen', file: 'agent/lessor/removal.ts',
    find: 'const gone = clusterIds.filter(id => objects.left(id).length === 0 && fencing.left(id).length === 0 && ', replace: 'const gone = clusterIds.filter(id => ',
    why: 'what ended counts as gone while it runs'
  },
  {
    name: 'gone-without-fencing', file: 'agent/lessor/removal.ts',
    find: '    await fencing.off(clusterIds)\n', replace: '',
    why: 'a command that was under way starts what has been handed on'
  },
  {
    name: 'shrunk-node-runs-on', file: 'agent/lessor/objects.ts',
    find: 'return new Set(parts.filter(part => !active.has(part.leaseId)).map(', replace: 'return new Set(parts.filter(part => !active.has(part.leaseId)).slice(0, 0).map(',
    why: 'a node whose lease was given back goes on running'
  },
  {
    name: 'share-handed-on-at-once', file: 'protocol/core/lease/term.ts',
    find: '  checkGone(committed, turn)\n', replace: '',
    why: 'two things run on one share: the former is not gone yet'
  }
]
