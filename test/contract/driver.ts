import { setTimeout as delay } from 'node:timers/promises'
import type { Test } from 'tap'
import type { Driver, ObservedObject } from '../../agent/drivers/driver.ts'
import { fingerprint } from '../../agent/fingerprint.ts'
import type { ObjectKind, SpecByKind } from '../../protocol/core/desired.ts'

/** Something on the host that Musubi did not make, and that a driver must leave as it is. */
export interface ForeignObject {
  make (): Promise<void>
  /** the foreign object as text; the suite compares it before and after */
  look (): Promise<string>
  remove (): Promise<void>
}

export interface DriverContractOptions<K extends ObjectKind> {
  /** A driver as a freshly started agent makes it, over the same host state at every call. */
  make: () => Driver<K> | Promise<Driver<K>>
  specs: {
    name: string
    spec: SpecByKind[K]
    /** the same object, wanted otherwise */
    changed: SpecByKind[K]
    /** another object beside the first; left out where a host has only one of the kind */
    second?: { name: string, spec: SpecByKind[K] }
  }
  /** A value that changes when the object is made anew (pid, interface index): proves that nothing was done. */
  identity?: (name: string) => Promise<string>
  /** Ways to break the applied object behind the driver's back, by what they do. */
  breaks?: Record<string, (name: string, spec: SpecByKind[K]) => Promise<void>>
  foreign?: ForeignObject
  /** Whatever is still on the host after the last removal; must be empty. */
  leftovers?: () => Promise<string[]>
  /** When to abort calls under way, in ms after their start; more values find more crash points. */
  abortAfterMs?: readonly number[]
  /** Bound of one driver call, default 30 s. */
  callTimeoutMs?: number
}

/**
 * The suite that every driver passes, the fake included: it states what `Driver` promises.
 * It starts and ends with none of the kind's objects on the host.
 */
export async function driverContract<K extends ObjectKind> (t: Test, options: DriverContractOptions<K>): Promise<void> {
  const { make, specs, identity, leftovers } = options
  const { name, spec, changed, second } = specs
  const signal = (): AbortSignal => AbortSignal.timeout(options.callTimeoutMs ?? 30_000)
  const list = async (driver: Driver<K>): Promise<ObservedObject[]> =>
    (await driver.observe(signal())).sort((a, b) => (a.name < b.name ? -1 : 1))
  /** name, fingerprint and health of everything observed: what `diff` decides by */
  const state = async (driver: Driver<K>): Promise<Array<[string, string | null, boolean]>> =>
    (await list(driver)).map(o => [o.name, o.fingerprint, o.healthy])
  const good = (...wanted: Array<{ name: string, spec: SpecByKind[K] }>): Array<[string, string, boolean]> =>
    wanted.map(w => [w.name, fingerprint(w.spec), true] as [string, string, boolean]).sort((a, b) => (a[0] < b[0] ? -1 : 1))
  const look = async (): Promise<string> => await identity?.(name) ?? ''

  let foreignBefore = ''
  if (options.foreign !== undefined) {
    const foreign = options.foreign
    await foreign.make()
    t.teardown(async () => { await foreign.remove() })
    foreignBefore = await foreign.look()
  }
  let driver = await make()

  await t.test('says that it is usable here', async t => {
    t.strictSame(await driver.probe(signal()), [])
  })

  await t.test('observes nothing on a host without objects of ours', async t => {
    t.strictSame(await list(driver), [])
  })

  await t.test('removes an unknown name without an error', async t => {
    await driver.remove(name, signal())
    t.strictSame(await list(driver), [])
  })

  await t.test('apply creates what observe then tells, kind and fingerprint included', async t => {
    await driver.apply(name, spec, signal())
    const seen = await list(driver)
    t.equal(seen.length, 1)
    t.equal(seen[0]?.kind, driver.kind)
    t.strictSame(await state(driver), good({ name, spec }))
  })

  await t.test('a second apply does nothing', async t => {
    const before = await look()
    await driver.apply(name, spec, signal())
    t.equal(await look(), before)
    t.strictSame(await state(driver), good({ name, spec }))
  })

  await t.test('a driver made anew, as after kill -9 of the agent, observes the same and changes nothing', async t => {
    const before = await look()
    driver = await make()
    t.strictSame(await state(driver), good({ name, spec }))
    await driver.apply(name, spec, signal())
    t.equal(await look(), before)
  })

  if (second !== undefined) {
    await t.test('two objects live side by side', async t => {
      const before = await look()
      await driver.apply(second.name, second.spec, signal())
      t.strictSame(await state(driver), good({ name, spec }, second))
      t.equal(await look(), before)
    })
  }
  const others = second === undefined ? [] : [second]

  await t.test('a changed spec is applied, and back', async t => {
    await driver.apply(name, changed, signal())
    t.strictSame(await state(driver), good({ name, spec: changed }, ...others))
    await driver.apply(name, spec, signal())
    t.strictSame(await state(driver), good({ name, spec }, ...others))
  })

  for (const [what, breakIt] of Object.entries(options.breaks ?? {})) {
    await t.test(`mends: ${what}`, async t => {
      await breakIt(name, spec)
      const seen = (await list(driver)).find(o => o.name === name)
      t.not(seen?.healthy, true, 'observed as unhealthy, or not at all')
      await driver.apply(name, spec, signal())
      t.strictSame(await state(driver), good({ name, spec }, ...others))
    })
    await t.test(`removes what is broken: ${what}`, async t => {
      await breakIt(name, spec)
      await driver.remove(name, signal())
      t.strictSame(await state(driver), good(...others))
      await driver.apply(name, spec, signal())
      t.strictSame(await state(driver), good({ name, spec }, ...others))
    })
  }

  await t.test('remove removes that object only, and again without an error', async t => {
    await driver.remove(name, signal())
    t.strictSame(await state(driver), good(...others))
    await driver.remove(name, signal())
    t.strictSame(await state(driver), good(...others))
  })

  await t.test('an aborted signal ends a call, and the next one finishes the work', async t => {
    const aborted = AbortSignal.abort(new Error('stopped by the contract suite'))
    await settled(driver.observe(aborted))
    await settled(driver.apply(name, spec, aborted))
    await settled(driver.remove(name, aborted))
    for (const ms of options.abortAfterMs ?? [1, 10, 50]) {
      await settled(driver.apply(name, spec, soon(ms)))
      driver = await make()
      await driver.apply(name, spec, signal())
      t.strictSame(await state(driver), good({ name, spec }, ...others), `apply again after an end at ${ms} ms`)
      await settled(driver.remove(name, soon(ms)))
      driver = await make()
      await driver.remove(name, signal())
      t.strictSame(await state(driver), good(...others), `remove again after an end at ${ms} ms`)
      await settled(driver.apply(name, spec, soon(ms)))
      await driver.remove(name, signal())
      t.strictSame(await state(driver), good(...others), `remove after an apply that ended at ${ms} ms`)
    }
  })

  await t.test('leaves nothing behind and nothing foreign touched', async t => {
    for (const other of others) await driver.remove(other.name, signal())
    t.strictSame(await list(driver), [])
    if (leftovers !== undefined) t.strictSame(await eventually(leftovers), [])
    if (options.foreign !== undefined) t.equal(await options.foreign.look(), foreignBefore)
  })
}

/** Both ends of an aborted call are allowed: it was done already, or it says that it was not. */
async function settled (call: Promise<unknown>): Promise<void> {
  await call.then(() => undefined, () => undefined)
}

function soon (ms: number): AbortSignal {
  return AbortSignal.timeout(ms)
}

/** The kernel frees some things (links of ended processes) a moment after the call that ended them. */
async function eventually (leftovers: () => Promise<string[]>): Promise<string[]> {
  let left = await leftovers()
  for (let i = 0; i < 40 && left.length > 0; i++) {
    await delay(50)
    left = await leftovers()
  }
  return left
}
