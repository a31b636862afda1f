/**
 * A process that starts a pod or a lab and then does as told, for tests of what outlives it.
 *   lab-starter.ts pod DIR [keep]          prints {pid} of the pod's init, then waits to be killed
 *   lab-starter.ts lab [keep]              prints {dir}; with keep it ends by itself, else it waits
 */
import { setInterval } from 'node:timers'
import { startLab } from '../../lab/lab.ts'
import { startPod } from '../../lab/pod.ts'
import { withSignals } from '../../lab/signals.ts'

const [what, ...rest] = process.argv.slice(2)
const keep = rest.includes('keep')
const print = (value: unknown): void => { process.stdout.write(`${JSON.stringify(value)}\n`) }
const waitFor = async (signal: AbortSignal): Promise<void> => {
  const alive = setInterval(() => undefined, 60_000)
  await new Promise<void>(resolve => { signal.addEventListener('abort', () => { resolve() }, { once: true }) })
  clearInterval(alive)
}

if (what === 'pod') {
  const pod = await startPod({ name: 'starter', dir: rest[0] ?? '', keep })
  await pod.spawn(['sleep', '600'], { log: `${rest[0] ?? ''}.log` })
  print({ pid: pod.pid, keeper: pod.keeper.pid })
  setInterval(() => undefined, 60_000)
} else {
  await withSignals(async signal => {
    const host = { name: 'solo-1', roles: ['gateway', 'compute'] as const, vcpus: 2, memoryMiB: 1024, diskMiB: 100 }
    await using lab = await startLab({ sites: [{ name: 'solo', hosts: [host] }], rttMs: 4, drivers: 'fake', keep, signal })
    print({ dir: lab.dir })
    if (!keep) await waitFor(signal)
  })
}
