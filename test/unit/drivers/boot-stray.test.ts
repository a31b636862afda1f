/** Namespaces of frontends that nobody has a record of: they go, and nobody else's does under their name. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { createFrontendDriver } from '../../../agent/drivers/boot/frontend.ts'
import type { ServiceManager } from '../../../agent/services.ts'

t.test('a stray by its name, but the segment of somebody\'s frontend: nothing of that is stopped', async t => {
  const dir = t.testdir({ frontends: { 'a.boot': { 'record.json': JSON.stringify({ fingerprint: 'x', spec: { vni: 0x4d } }) } } })
  const stopped: string[] = []
  // the first thing that is taken down
  const services = { stop: (name: string) => { stopped.push(name); return Promise.reject(new Error('stopped')) } } as unknown as ServiceManager
  const driver = createFrontendDriver({ stateDir: dir, imageStoreDir: join(dir, 'images'), services })
  await driver.remove('mzf-00004d', AbortSignal.timeout(5_000))
  t.strictSame(stopped, [])
  t.ok(existsSync(join(dir, 'frontends', 'a.boot', 'record.json')))
  await t.rejects(driver.remove('mzf-00004e', AbortSignal.timeout(5_000)), { message: 'stopped' }, 'one that nobody has is taken down')
  await t.rejects(driver.remove('a.boot', AbortSignal.timeout(5_000)), { message: 'stopped' }, 'and a frontend by its own name')
})
