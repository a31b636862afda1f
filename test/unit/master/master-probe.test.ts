/** The largest packet that crosses a segment, as its master finds it by pings. */
import t from 'tap'
import { createProbe, type SegmentPing } from '../../../agent/master/probe.ts'
import type { ClusterNotes } from '../../../agent/master/record.ts'
import type { MasterRecord } from '../../../protocol/core/master/record.ts'

const RECORD = {
  name: 'demo', vni: 7, createdMs: 1_000,
  document: { masterSite: 'tokyo', sites: [{ site: 'tokyo', gatewayAddress: '10.42.255.1' }, { site: 'tsukuba', gatewayAddress: '10.42.255.2' }] }
} as unknown as MasterRecord

async function found (ping: SegmentPing): Promise<{ mtuInner: number, firstPingMs: number | null }> {
  const notes = { mtuInner: 0, firstPingMs: null } as unknown as ClusterNotes
  await createProbe(ping, { debug: () => undefined })(RECORD, notes, () => 3_000)
  return { mtuInner: notes.mtuInner, firstPingMs: notes.firstPingMs }
}
const yes = { ok: true, why: '' }
const no = { ok: false, why: 'no answer' }

t.test('the largest size that passes counts, also when packets are lost', async t => {
  t.same(await found(() => Promise.resolve(yes)), { mtuInner: 1500, firstPingMs: 2_000 })
  t.equal((await found((_vni, _address, size = 0) => Promise.resolve(size <= 1370 ? yes : no))).mtuInner, 1370)
  let large = 0
  t.equal((await found((_vni, _address, size = 0) => Promise.resolve(size === 1500 && large++ < 2 ? no : yes))).mtuInner, 1500, 'two lost packets are no path of less')
})

t.test('only far gateways are asked, and all of them have to answer', async t => {
  const asked = new Set<string>()
  await found((_vni, address) => { asked.add(address); return Promise.resolve(yes) })
  t.same([...asked], ['10.42.255.2'])
  t.same(await found(() => Promise.reject(new Error('the helper is gone'))), { mtuInner: 0, firstPingMs: null })
})
