import t from 'tap'
import { parsePhases } from '../../../agent/drivers/boot/phases.ts'

const NODES = [{ name: 'c1-tokyo-001', mac: '02:6d:7a:00:01:01' }, { name: 'c1-tokyo-002', mac: '02:6d:7a:00:01:02' }]
const NOW = Date.UTC(2026, 10, 22, 14)
/** 2026-11-22 13:20:SS.mmm */
const at = (seconds: number): number => Date.UTC(2026, 10, 22, 13, 20) + Math.round(seconds * 1000)
const line = (seconds: number, mac: string, phase: string, reason = ''): string =>
  JSON.stringify({ at: at(seconds) / 1000, mac, phase, reason, from: '10.42.1.1' }) + '\n'
const ack = (second: string, mac: string): string =>
  `Nov 22 13:20:${second} dnsmasq-dhcp[34]: DHCPACK(eth0) 10.42.1.1 ${mac} c1-tokyo-001\n`
const [first, second] = ['02:6d:7a:00:01:01', '02:6d:7a:00:01:02']

t.test('a boot from address to ready, times in ms', t => {
  const phases = parsePhases(NODES, {
    dnsmasq: 'Nov 22 13:20:29 dnsmasq[34]: started, version 2.90 cachesize 150\n' + ack('32', first) + ack('39', first),
    nginx: line(32.4, '02-6d-7a-00-01-01', 'script') + line(40.25, first, 'boot') + line(44.5, first, 'image') + line(51.125, first, 'ready')
  }, NOW)
  t.strictSame(phases, {
    'c1-tokyo-001': { dhcp: at(32.4), boot: at(40.25), image: at(44.5), ready: at(51.125) },
    'c1-tokyo-002': {}
  })
  t.end()
})

t.test('an address alone is known to the second', t => {
  t.strictSame(parsePhases(NODES, { dnsmasq: ack('35', second), nginx: '' }, NOW)['c1-tokyo-002'], { dhcp: at(35) })
  t.end()
})

t.test('the script tells when the address came, unless it came much later', t => {
  const dhcp = (script: number): number | undefined =>
    parsePhases(NODES, { dnsmasq: ack('35', first), nginx: line(script, first, 'script') }, NOW)['c1-tokyo-001']?.dhcp
  t.equal(dhcp(35.7), at(35.7))
  t.equal(dhcp(47), at(35.999))
  t.end()
})

t.test('a second boot hides what the first one reported', t => {
  const before = line(10, first, 'script') + line(11, first, 'boot') + line(12, first, 'image') + line(13, first, 'ready') + line(14, first, 'failed', 'late')
  t.strictSame(
    parsePhases(NODES, { dnsmasq: ack('10', first) + ack('40', first), nginx: before + line(40.5, first, 'script') + line(45, first, 'boot') }, NOW)['c1-tokyo-001'],
    { dhcp: at(40.5), boot: at(45) })
  t.end()
})

t.test('a failure comes with its reason, cleaned of all but plain words', t => {
  const failed = (reason: string): unknown => parsePhases(NODES, { dnsmasq: '', nginx: line(3, first, 'failed', reason) }, NOW)['c1-tokyo-001']
  t.strictSame(failed('root-digest-mismatch'), { failed: at(3), reason: 'root-digest-mismatch' })
  t.strictSame(failed('\u001b[2Jx y'), { failed: at(3), reason: '2Jxy' })
  t.strictSame(failed(''), { failed: at(3), reason: 'unknown' })
  t.end()
})

t.test('half lines, other lines and strangers are passed over', t => {
  const nginx = '{"at":12\nnull\n[]\n{"at":"x","mac":"a","phase":"boot"}\n' + line(5, '02:ff:ff:ff:ff:ff', 'ready')
  t.strictSame(parsePhases(NODES, { dnsmasq: 'Nov 22 13:2\nXyz 22 13:20:01 dnsmasq-dhcp[1]: DHCPACK(eth0) 10.0.0.1 02:6d:7a:00:01:01\n', nginx }, NOW), { 'c1-tokyo-001': {}, 'c1-tokyo-002': {} })
  t.end()
})

t.test('a lease of December read in January is of last year', t => {
  const log = `Dec 31 23:59:58 dnsmasq-dhcp[34]: DHCPACK(eth0) 10.42.1.1 ${first} c1-tokyo-001\n`
  t.strictSame(parsePhases(NODES, { dnsmasq: log, nginx: '' }, Date.UTC(2027, 0, 1, 0, 1))['c1-tokyo-001'], { dhcp: Date.UTC(2026, 11, 31, 23, 59, 58) })
  t.end()
})
