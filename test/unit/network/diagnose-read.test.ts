/** What ping and nft print, read; sizes that pass, found; where a way stops, told. */
import t from 'tap'
import { stopOf } from '../../../agent/diagnose/path.ts'
import { captureLink, filterWords, framesIn } from '../../../agent/drivers/network/diagnose/capture.ts'
import { largestPassing, parseEcho } from '../../../agent/drivers/network/diagnose/echo.ts'
import { dropsOf } from '../../../agent/drivers/network/diagnose/ruleset.ts'
import { diagnosisText, pingText } from '../../../cli/render/segment.ts'
import type { HopResource } from '../../../protocol/network-api.ts'

t.test('ping: times, losses, what was said', t => {
  t.strictSame(parseEcho('PING 10.0.0.1\n64 bytes from 10.0.0.1: icmp_seq=1 ttl=64 time=0.5 ms\n64 bytes from 10.0.0.1: icmp_seq=2 ttl=64 time=1.5 ms\n\n--- statistics ---\n3 packets transmitted, 2 received, 33% packet loss, time 403ms\n', '', 84),
    { sent: 3, received: 2, bytes: 84, rttMs: { min: 0.5, avg: 1, max: 1.5 }, toldMtu: null, why: '' })
  t.match(parseEcho('From 10.0.0.9 icmp_seq=1 Frag needed and DF set (mtu = 1400)\n1 packets transmitted, 0 received, +1 errors', '', 1500), { toldMtu: 1400, rttMs: null, why: 'Frag needed and DF set' })
  t.match(parseEcho('1 packets transmitted, 0 received', 'ping: local error: message too long, mtu=1420\n', 1500), { toldMtu: 1420 })
  t.match(parseEcho('From 10.0.0.1 icmp_seq=1 Destination Host Unreachable\n3 packets transmitted, 0 received', '', 84), { why: 'Destination Host Unreachable' })
  t.match(parseEcho('', 'ping: connect: Network is unreachable\n', 84), { sent: 0, received: 0, why: 'connect: Network is unreachable' })
  t.end()
})

t.test('the largest size is found exactly, with few questions', async t => {
  for (const limit of [84, 85, 576, 1_240, 1_280, 1_300, 1_371, 1_499, 1_500]) {
    let asked = 0
    t.equal(await largestPassing(bytes => { asked++; return Promise.resolve(bytes <= limit) }, 1_500), limit)
    t.ok(asked < 60, `${asked} questions`)
  }
  t.equal(await largestPassing(() => Promise.resolve(false), 1_500), null)
  // losses by chance end the search all the same
  let n = 0
  const found = await largestPassing(bytes => Promise.resolve(bytes <= 1_300 && (bytes === 84 || n++ % 3 !== 0)), 1_500)
  t.ok(found !== null && found <= 1_300)
})

const match = (protocol: string, field: string, right: unknown, op = '=='): object => ({ match: { op, left: { payload: { protocol, field } }, right } })
const ruleset = (policy: string, rules: object[][], of: { table?: string, hook?: string | null } = {}): object => ({
  nftables: [
    { metainfo: {} }, { chain: { family: 'inet', table: of.table ?? 'filter', name: 'input', ...(of.hook === null ? {} : { hook: of.hook ?? 'input', policy }) } },
    ...rules.map((expr, i) => ({ rule: { family: 'inet', table: of.table ?? 'filter', chain: 'input', handle: i + 1, expr } }))
  ]
})
const FLOW = [{ port: 4790, addresses: ['10.77.0.1', '10.77.0.2'] }]

t.test('rules of others that drop a segment\'s datagrams', t => {
  const drop = { drop: null }
  const CASES: Array<[string, object, Array<Record<string, unknown>>]> = [
    ['by port', ruleset('accept', [[match('udp', 'dport', 4790), drop]]), [{ handle: 1, rule: 'udp dport 4790 drop', hook: 'input' }]],
    ['by a set with a range', ruleset('accept', [[match('udp', 'dport', { set: [22, { range: [4789, 4800] }] }), { counter: {} }, { reject: {} }]]), [{ handle: 1, rule: 'udp dport { 22, 4789-4800 } reject' }]],
    ['by th dport', ruleset('accept', [[match('th', 'dport', 4790), drop]]), [{ handle: 1 }]],
    ['by all but', ruleset('accept', [[match('udp', 'dport', 53, '!='), drop]]), [{ handle: 1, rule: 'udp dport != 53 drop' }]],
    ['of one of our hosts', ruleset('accept', [[match('ip', 'saddr', { prefix: { addr: '10.77.0.0', len: 24 } }), match('udp', 'dport', 4790), drop]]), [{ handle: 1 }]],
    ['of strangers only', ruleset('accept', [[match('ip', 'saddr', { prefix: { addr: '192.0.2.0', len: 24 } }), match('udp', 'dport', 4790), drop]]), []],
    ['of another port', ruleset('accept', [[match('udp', 'dport', 4791), drop]]), []],
    ['of TCP', ruleset('accept', [[match('tcp', 'dport', 4790), drop]]), []],
    ['after it was accepted', ruleset('drop', [[match('udp', 'dport', 4790), { accept: null }], [drop]]), []],
    ['by a last rule for all', ruleset('accept', [[match('tcp', 'dport', 22), { accept: null }], [drop]]), [{ handle: 2 }]],
    ['by policy', ruleset('drop', [[match('tcp', 'dport', 22), { accept: null }]]), [{ handle: null, rule: 'policy drop' }]],
    ['by a chain that others jump to', ruleset('', [[match('udp', 'dport', 4790), drop]], { hook: null }), [{ hook: '' }]],
    ['in the chain for what passes through', ruleset('drop', [[match('udp', 'dport', 4790), drop]], { hook: 'forward' }), []],
    ['of our own guard', ruleset('accept', [[match('udp', 'dport', 4790), drop]], { table: 'mz_guard' }), []],
    ['that cannot be understood', ruleset('accept', [[{ xt: {} }, { match: null }, drop]]), []],
    ['nothing at all', {}, []]
  ]
  for (const [label, json, wanted] of CASES) {
    const found = dropsOf(json, FLOW)
    t.match(found, wanted, label)
    t.equal(found.length, wanted.length, label)
  }
  t.end()
})

t.test('where frames are taken, and of whom', t => {
  const site = { segmentId: 7, localAddress: '10.77.0.1', remoteAddresses: [] }
  const gateway = { address: '10.42.255.1/16', bridgeMac: '02:00:00:00:00:01', tunnel: { localAddress: '100.64.0.1', remoteAddresses: [] } }
  const both = { cluster: 'c', vni: 0x101, site, compute: true, gateway }
  t.strictSame(captureLink(both, 'wan'), { space: 'mz-000101', link: 'wan0' })
  t.strictSame(captureLink(both, 'node'), { space: null, link: 'mzb000101' })
  t.strictSame(captureLink({ ...both, compute: false }, 'node'), { space: 'mz-000101', link: 'br0' })
  t.strictSame(captureLink({ cluster: 'c', vni: 0x101, site, compute: true }, 'site'), { space: null, link: 'mzs000101' })
  t.throws(() => captureLink({ ...both, gateway: { ...gateway, tunnel: null } }, 'wan'), { code: 'CONFLICT' })
  t.strictSame(filterWords({}), [])
  t.strictSame(filterWords({ host: '10.0.0.1', port: 80, proto: 'tcp' }), ['tcp', 'and', 'host', '10.0.0.1', 'and', 'port', '80'])
  const pcap = Buffer.alloc(24 + 2 * (16 + 60))
  for (const at of [24, 24 + 76]) pcap.writeUInt32LE(60, at + 8)
  t.equal(framesIn(pcap), 2)
  t.equal(framesIn(Buffer.alloc(0)), 0)
  t.end()
})

t.test('a way stops at the hop that fails nearest to the gateway', t => {
  const hop = (name: string, ok = true): HopResource => ({ hop: name, site: 's', host: 'h', interface: 'i', from: '10.0.0.1', to: '10.0.0.2', port: 1, rttMs: 0.5, sent: 1, received: 1, largestBytes: 1500, ok, why: ok ? '' : 'no answer' })
  t.equal(stopOf([hop('node'), hop('gateway'), hop('tunnel')]), null)
  t.equal(stopOf([hop('node'), hop('gateway'), hop('underlay'), hop('tunnel', false), hop('far gateway', false)])?.hop, 'tunnel')
  t.equal(stopOf([hop('node', false), hop('in-site VXLAN'), hop('gateway'), hop('tunnel')])?.hop, 'node')
  const base = { cluster: 'c1', from: 'a', to: 'b', askedBy: 'g', bytes: 1500 }
  t.match(pingText({ ...base, ok: false, ends: [], hops: [hop('gateway'), hop('tunnel', false)], stopsAt: 'tunnel', why: 'tunnel at h: no answer' }), /FAILS {2}tunnel[^]*It stops at tunnel at h: no answer\.$/)
  t.match(pingText({ ...base, ok: false, ends: [{ name: 'b', site: 's', address: '10.42.0.2', sent: 2, received: 0, rttMs: null, toldMtu: 1400, why: '' }], hops: [], stopsAt: null, why: 'x' }), /0\/2[^]*MTU 1400 was told[^]*--path/)
  t.match(diagnosisText({ cluster: 'c1', site: 's', host: 'h', gateway: true, ok: false, seen: ['underlay x'], findings: [{ code: 'x', severity: 'fault', where: 'tunnel', site: null, interface: null, address: null, port: null, bytes: null, what: 'it is gone', try: 'make it' }] }), /tunnel: it is gone\n +-> make it/)
  t.end()
})
