import t from 'tap'
import { planSegment } from '../../../agent/drivers/network/plan.ts'
import { learnedOfPorts, snoops } from '../../../agent/drivers/network/snoop/rules.ts'
import { parseLearned, renderSnooping } from '../../../agent/drivers/network/snoop/snooping.ts'
import { keeperArgv, keeperId } from '../../../agent/services/keepers.ts'
import { MAX_VNI } from '../../../protocol/core/limits.ts'
import type { SegmentMember, SegmentSpec } from '../../../protocol/core/desired.ts'

const members: SegmentMember[] = [
  { role: 'frontend', mac: '52:54:0a:bc:00:01', address: '10.42.0.1', where: 'host' },
  { role: 'gateway', mac: '52:54:0a:bc:ff:01', address: '10.42.255.1', where: 'host' },
  { role: 'node', mac: '52:54:0a:bc:01:01', address: null, where: 'host', tap: 'mzt000abc01' },
  { role: 'node', mac: '52:54:0a:bc:01:02', address: null, where: 'remote', via: '100.64.0.2' }
]
const spec: SegmentSpec = {
  cluster: 'c', vni: 0xabc, site: { segmentId: 7, localAddress: '192.0.2.1', remoteAddresses: [] }, compute: true,
  gateway: { address: '10.42.255.1/16', bridgeMac: '52:54:0a:bc:ff:01', tunnel: { localAddress: '100.64.0.1', remoteAddresses: ['100.64.0.2'] } },
  known: { antiSpoof: true, members }
}

t.test('the keeper is told where it is to learn of whom, and what nobody gets', (t) => {
  const rest = '000abc 52:54:0a:bc:00:01 10.42.0.1 10.42.0.1,10.42.255.1 52:54:0a:bc:01:01,52:54:0a:bc:01:02'
  t.equal(renderSnooping([spec]), `musubi-snoop 1\n- ${rest}\nmz-000abc ${rest}\n`)
  t.equal(renderSnooping([{ ...spec, compute: false }]), `musubi-snoop 1\nmz-000abc ${rest}\n`)
  const document: SegmentSpec = { ...spec, known: { antiSpoof: true, members: members.map((one, n) => ({ ...one, address: one.address ?? `10.42.1.${n}` })) } }
  t.equal(renderSnooping([document]), '', 'addresses that are known are not learnt')
  t.notOk(snoops(document))
  const unknown = { ...spec }
  delete unknown.known
  t.equal(renderSnooping([unknown]), '')
  t.end()
})

t.test('what it has learnt is read line by line', (t) => {
  const text = '- 000abc 52:54:0a:bc:01:01 10.42.9.1 120\nmz-000abc 000abc 52:54:0a:bc:01:01 10.42.9.1 119\nmz-000abc 000abc 52:54:0a:bc:01:02 10.42.9.256 119\n; 000abc x\n- 000abd 52:54:0a:bc:01:01 10.42.9.7 4294967295\n'
  t.strictSame([...parseLearned(text)], [
    [0xabc, { host: [{ mac: '52:54:0a:bc:01:01', address: '10.42.9.1', leftSeconds: 120 }], cluster: [{ mac: '52:54:0a:bc:01:01', address: '10.42.9.1', leftSeconds: 119 }] }],
    [0xabd, { host: [{ mac: '52:54:0a:bc:01:01', address: '10.42.9.7', leftSeconds: 4_294_967_295 }], cluster: [] }]
  ])
  t.end()
})

t.test('what was learnt makes neighbours, and no other rule', (t) => {
  const learned = { host: [{ mac: '52:54:0a:bc:01:01', address: '10.42.9.1', leftSeconds: 9 }], cluster: [{ mac: '52:54:0a:bc:01:02', address: '10.42.9.2', leftSeconds: 9 }, { mac: '52:54:0a:bc:01:03', address: '10.42.9.3', leftSeconds: 9 }] }
  const [before, after] = [planSegment('c', spec, 1500), planSegment('c', spec, 1500, true, undefined, learned)]
  const added = (of: 'host' | 'cluster'): string[] => (after[of]?.neighbours ?? []).map(({ address }) => address).filter((address) => before[of]?.neighbours.some((one) => one.address === address) !== true)
  t.strictSame([added('host'), added('cluster')], [['10.42.9.1'], ['10.42.9.2']], 'and of members only')
  t.strictSame([after.host.chains, after.cluster?.chains], [before.host.chains, before.cluster?.chains])
  t.strictSame([learnedOfPorts('ports_000abc'), learnedOfPorts('forward_000abc')], ['learned_000abc', null])
  t.end()
})

t.test('no two keepers are one user, nor any user of the system', (t) => {
  const all = [keeperId('forward'), keeperId('snoop'), keeperId('prober', 1), keeperId('prober', MAX_VNI)]
  t.equal(new Set(all).size, all.length)
  t.ok(all.every((id) => id >= 1_879_048_192 && id <= 2_147_483_647), 'within what systemd calls unused')
  t.strictSame(keeperArgv('prober', ['net_admin'], 5).slice(0, 3), ['setpriv', `--reuid=${keeperId('prober', 5)}`, `--regid=${keeperId('prober', 5)}`])
  t.end()
})
