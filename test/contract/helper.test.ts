/** The drivers' contract through the helper's socket, with pretended drivers: nothing of it is lost on the way. */
import t from 'tap'
import type { SpecByKind, ObjectKind } from '../../protocol/core/desired.ts'
import { startBench } from '../helper-bench.ts'
import { SAMPLES } from '../helper-samples.ts'
import { driverContract } from './driver.ts'
import { driverOverSocket } from './helper-driver.ts'

/** The same object, wanted otherwise. */
const CHANGES: { [K in ObjectKind]: Partial<SpecByKind[K]> } = {
  volume: { sizeMiB: 128 }, tunnel: { peers: [] }, segment: { compute: false }, frontend: { nodes: [] }, cache: { maxSizeMiB: 2048 }, domain: { memoryMiB: 1024 }
}

for (const { kind, name, spec } of SAMPLES) {
  t.test(`${kind}: the contract holds through the socket`, async t => {
    const bench = await startBench(t)
    await driverContract(t, {
      make: () => driverOverSocket(bench.client(), kind) as never,
      specs: {
        name, spec, changed: { ...spec, ...CHANGES[kind] },
        ...(kind === 'tunnel' ? {} : { second: { name: `89abcdef.${kind}`, spec } })
      },
      breaks: {
        'it stops working': async broken => {
          const object = (await bench.objects.list(kind)).find(one => one.name === broken)
          if (object !== undefined) await bench.objects.put(kind, { ...object, healthy: false })
        },
        'it vanishes': async broken => { await bench.objects.delete(kind, broken) }
      },
      leftovers: async () => await bench.standing()
    })
  })
}
