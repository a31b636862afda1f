/** The demo as a user runs it, with two nodes; its numbers are asserted for sense, not for time. */
import t from 'tap'
import type { DemoResult } from '../../lab/demo/result.ts'
import { rmSync } from 'node:fs'
import { directBytes, LABS, labTraces, runDemo } from '../demo-process.ts'

t.setTimeout(600_000)
t.teardown(() => { rmSync(LABS, { recursive: true, force: true }) })

t.test('wrong options are refused with one message and exit code 2', async t => {
  for (const [args, expected] of [[['--nodes', '0'], /--nodes must be a whole number from 2 to 8/], [['--nodez', '3'], /nodez/], [['--image', 'sha256:12'], /--image must be sha256/]] as const) {
    const { code, err, out } = await runDemo(args)
    t.equal(code, 2, args.join(' '))
    t.match(err, expected)
    t.equal(out, '')
  }
})

t.test('an image that is not in the store is refused, and nothing stays behind', async t => {
  const { code, out } = await runDemo(['--json', '--nodes', '2', '--image', `sha256:${'0'.repeat(64)}`])
  t.equal(code, 1)
  const result = JSON.parse(out) as DemoResult
  t.equal(result.ok, false)
  t.match(result.error?.code, 'IMAGE_UNKNOWN')
  t.same(result.leftovers, [])
})

t.test('a real cluster of two nodes over two sites', async t => {
  const { code, out, err } = await runDemo(['--json', '--nodes', '2'])
  const result = JSON.parse(out) as DemoResult
  if (code !== 0) t.comment(err)
  t.equal(code, 0)
  t.equal(result.ok, true, result.error?.message ?? 'ok')
  t.same(result.sites.map(s => [s.name, s.hosts.length, s.nodes]), [['tokyo', 3, 1], ['tsukuba', 2, 1]])
  t.equal(result.nodes.length, 2)
  for (const node of result.nodes) {
    t.equal(node.ready, true, `${node.name} is ready`)
    const { leased, dhcp, boot, image, ready } = node.phases
    const order = [leased, dhcp, boot, image, ready].map(Number)
    t.same(order, [...order].sort((a, b) => a - b), `${node.name} went through its phases in order: ${order.join(' ')}`)
    t.ok(order.every(ms => ms > 0), 'every phase has its time')
    t.match(node.name, new RegExp(`^demo-${node.site}-00[12]$`), 'the name tells the site')
  }
  t.equal(new Set(result.nodes.map(n => n.ip)).size, 2)
  t.ok(result.wan.bytes > 10_000_000, `an image crossed the WAN: ${result.wan.bytes}`)
  t.ok(result.wan.bytes - directBytes(result.wan) < result.wan.bytesWithoutCache * 1.1, `the cache costs next to nothing with one far node: ${result.wan.bytes} of ${result.wan.bytesWithoutCache}`)
  t.equal(result.lease.sites, 2)
  t.equal(result.lease.holds, 7, 'two nodes, frontend, volume, a segment at each site, and what the far site lends of its quota')
  t.ok(result.lease.negotiateMs >= result.lease.rttMs, 'no negotiation is faster than the round trip')
  t.ok(result.lease.rttMs >= 15, `the injected delay is there: ${result.lease.rttMs} ms`)
  t.ok(result.segment.vni > 0 && result.segment.vni < 2 ** 24)
  t.not(result.segment.ids.tokyo, result.segment.ids.tsukuba, 'each site has its own segment id')
  t.equal(result.segment.mtuInner, 1500)
  t.ok(Number(result.segment.firstPingMs) > 0)
  t.match(result.crossSite, { pingOk: true, dfPing1472Ok: true, httpOk: true, problems: [] })
  t.match(result.volume, { host: 'tokyo-3', writeReadOk: true })
  t.match(result.volume?.iqn, /^iqn\.2026-11\.org\.musubi:/)
  t.same(result.leftovers, [])
  t.same(await labTraces(), [])
  t.ok(result.timings.labUpMs > 0 && result.timings.createMs > 0 && result.timings.deleteMs > 0)
})
