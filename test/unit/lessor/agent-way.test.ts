/** A gateway answers an activation when nodes of its site can go through it, or when waiting is of no use. */
import t from 'tap'
import { wayReady, type WayDeps } from '../../../agent/lessor/way.ts'
import { WAY_READY_MS } from '../../../protocol/core/limits.ts'
import type { MemberSite } from '../../../protocol/core/messages.ts'

type Shown = ReturnType<WayDeps['shown']>

const member = (site: string, host: string, cache: boolean): MemberSite => ({ site, cache, gateway: { host } }) as unknown as MemberSite
const DOCUMENT = { id: 'c1', sites: [member('tokyo', 'tokyo-1', false), member('tsukuba', 'tsukuba-1', true)] }

/** @param at what is shown after so many ms  @returns how long it waited, ms */
async function waited (host: string, at: (ms: number) => Shown): Promise<number> {
  let ms = 0
  await wayReady({ site: host.slice(0, -2), host, shown: () => at(ms), monotonic: () => ms, sleep: more => { ms += more; return Promise.resolve() } }, DOCUMENT)
  return ms
}

t.test('it waits for segment and cache, and for nothing else', async t => {
  const made = (segment: number, cache: number) => (ms: number): Shown => [
    ...ms >= segment ? [{ kind: 'segment', state: 'ok' } as const] : [{ kind: 'segment', state: 'pending' } as const],
    ...ms >= cache ? [{ kind: 'cache', state: 'ok' } as const] : [],
    { kind: 'domain', state: 'pending' }
  ]
  t.equal(await waited('tsukuba-1', made(500, 1_500)), 1_500)
  t.equal(await waited('tsukuba-1', made(2_000, 0)), 2_000)
  t.equal(await waited('tsukuba-1', made(0, 0)), 0, 'what is there is not waited for')
})

t.test('it does not wait in vain', async t => {
  t.equal(await waited('tsukuba-1', () => []), WAY_READY_MS, 'never for long')
  t.equal(await waited('tsukuba-1', ms => [{ kind: 'segment', state: 'ok' }, { kind: 'cache', state: ms >= 300 ? 'failed' : 'pending' }]), 300, 'what cannot be made')
})

t.test('only where there is a cache, and only its gateway', async t => {
  t.equal(await waited('tokyo-1', () => []), 0)
  t.equal(await waited('tsukuba-2', () => []), 0)
})
