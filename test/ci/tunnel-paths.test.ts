import t from 'tap'
import { setTimeout as sleep } from 'node:timers/promises'
import { counted } from '../host/network-lab.ts'
import { addVxlan, answers, INNER, otherSide, settle, startPings, startTunnelLab, TUNNELS, V4, V6 } from '../host/tunnel-lab.ts'
import type { Side } from '../host/tunnel-lab.ts'
import type { Pod } from '../host/network-pod.ts'

t.setTimeout(240_000)

/** Sends so many UDP datagrams from an address of this pod. */
async function send (from: Pod, source: string, to: string, port: number, first: number, count: number): Promise<void> {
  const family = to.includes(':') ? 'udp6' : 'udp4'
  const script = `const s = require('node:dgram').createSocket('${family}'); const m = Buffer.alloc(148); m[0] = ${first}; s.bind(0, '${source}', async () => { for (let i = 0; i < ${count}; i++) await new Promise((r) => s.send(m, ${port}, '${to}', r)); s.close() })`
  const { exitCode, stderr } = await from.run(process.execPath, ['-e', script])
  if (exitCode !== 0) throw new Error(stderr)
}

t.test('tunnels over all sorts of paths', { skip: process.getuid?.() === 0 ? false : 'needs root' }, async (t) => {
  const lab = await startTunnelLab()
  t.teardown(async () => { await lab.stop() })
  const { gateways: { a, b }, router } = lab
  await settle(lab)
  await addVxlan(lab)
  t.ok(await answers(a, INNER.b), 'over IPv4')

  /** What a side has found of the way to the other, once it is that. */
  const path = async (side: Side, wanted: number): Promise<{ pathMtu: unknown, mtu: unknown, problems: unknown }> => {
    let last: { pathMtu: unknown, mtu: unknown, problems: unknown } = { pathMtu: null, mtu: null, problems: null }
    for (let i = 0; i < 150; i++) {
      const { detail, healthy } = await lab.pass(side)
      const [peer] = detail.peers as Array<{ pathMtu?: unknown }>
      last = { pathMtu: peer?.pathMtu, mtu: detail.mtu, problems: detail.problems ?? [] }
      if (peer?.pathMtu === wanted && healthy) break
      await sleep(100)
    }
    return last
  }
  const forget = async (): Promise<void> => {
    for (const pod of [a, b]) {
      await pod.ok('ip route flush cache')
      await pod.ok('ip -6 route flush cache')
    }
  }
  const width = async (bytes: number): Promise<void> => {
    await router.ok(`ip link set dev to-b mtu ${bytes}`)
    await b.ok(`ip link set dev eth0 mtu ${bytes}`)
    await forget()
  }

  await t.test('the largest packet that passes is found, and the tunnel keeps within it', async (t) => {
    for (const pod of [a, router]) await pod.ok(`ip link set dev ${pod === a ? 'eth0' : 'to-a'} mtu 9000`)
    for (const [bytes, mtu] of [[1500, 1420], [1280, 1216], [1400, 1328], [9000, 1550]] as const) {
      await width(bytes)
      t.strictSame(await path('a', bytes), { pathMtu: bytes, mtu, problems: [] }, `${bytes} over IPv4`)
      t.equal((await a.run('ping', ['-n', '-c', '1', '-W', '2', '-M', 'do', '-s', String(mtu - 28), TUNNELS.b])).exitCode, 0, `${mtu} bytes pass inside`)
    }
  })

  await t.test('a black hole is named with both addresses and the size that failed', async (t) => {
    await width(1500)
    await router.ok('nft -f -', { input: 'table inet hole {\n  chain c {\n    type filter hook forward priority 0;\n    meta length > 1350 counter drop\n  }\n}\n' })
    const found = await path('a', 1350)
    t.strictSame([found.pathMtu, found.mtu], [1350, 1280])
    t.match(found.problems, [/packets of 1351 bytes from 10\.77\.1\.1 to 10\.77\.2\.1 \(site b\) vanish .* 1350 bytes pass/])
    t.equal((await a.run('ping', ['-n', '-c', '1', '-W', '2', '-M', 'do', '-s', String(1280 - 28), TUNNELS.b])).exitCode, 0, 'what the tunnel takes passes')
    await router.ok('nft delete table inet hole')
    await forget()
    t.strictSame(await path('a', 1500), { pathMtu: 1500, mtu: 1420, problems: [] }, 'and it is over when it is over')
  })

  await t.test('where nobody answers pings outside, what passes inside is measured', async (t) => {
    await router.ok('nft -f -', { input: 'table inet mute {\n  chain c {\n    type filter hook forward priority 0;\n    icmp type { echo-request, echo-reply } drop\n    meta length > 1399 drop\n  }\n}\n' })
    let detail: Record<string, unknown> = {}
    for (let i = 0; i < 100 && detail.pathMtuBy !== 'tunnel'; i++) {
      detail = ((await lab.pass('a')).detail.peers as Array<Record<string, unknown>>)[0] ?? {}
      await sleep(200)
    }
    t.equal(detail.pathMtuBy, 'tunnel')
    // WireGuard fills packets up to 16 bytes
    t.ok(Number(detail.pathMtu) > 1399 - 16 && Number(detail.pathMtu) <= 1399, String(detail.pathMtu))
    await router.ok('nft delete table inet mute')
    await forget()
  })

  await t.test('a gateway that changes its address is followed', async (t) => {
    const stop = await startPings(a, INNER.b)
    await a.ok(`ip address delete ${V4.a}/24 dev eth0`)
    await a.ok('ip address add 10.77.1.77/24 dev eth0')
    await a.run('ip', ['route', 'replace', 'default', 'via', '10.77.1.254'])
    await lab.pass('a')
    t.ok(await answers(a, INNER.b), 'from its new address')
    t.ok(await answers(b, INNER.a), 'and towards it')
    const { sent, lost } = await stop()
    t.comment(`lost ${lost.length} of ${sent}`)
    t.ok(sent > 50)
    const { detail, healthy } = await lab.pass('b')
    t.match((detail.peers as Array<{ endpoint: string }>)[0]?.endpoint, /^10\.77\.1\.77:/, 'the other side knows')
    t.ok(healthy, 'and does not go back')
    await a.ok('ip address delete 10.77.1.77/24 dev eth0')
    await a.ok(`ip address add ${V4.a}/24 dev eth0`)
    await a.run('ip', ['route', 'replace', 'default', 'via', '10.77.1.254'])
    await lab.pass('a')
    // who is spoken to learns of it with the next word of the one who has moved
    t.ok(await answers(a, INNER.b), 'and back again')
  })

  await t.test('one side behind NAT, with nothing forwarded to it', async (t) => {
    await router.ok('nft -f -', { input: 'table ip nat {\n  chain post {\n    type nat hook postrouting priority 100;\n    oifname "to-b" masquerade\n  }\n  chain through {\n    type filter hook forward priority 0;\n    iifname "to-b" ct state new drop\n  }\n}\n' })
    // both start anew; b believes that a is where nobody forwards anything
    lab.hosts.a = '10.77.2.254'
    for (const side of ['a', 'b'] as const) await lab.gateways[side].remove('tunnel', 'wg')
    await lab.pass('b')
    await settle(lab, 'b')
    t.ok(await answers(a, INNER.b), 'it opens the way')
    t.ok(await answers(b, INNER.a), 'which works both ways')
    const stop = await startPings(a, INNER.b)
    lab.epochs.b++
    await settle(lab, 'b')
    const { lost } = await stop()
    t.strictSame(lost, [], 'keys are exchanged as well')
    await router.ok('nft delete table ip nat')
    lab.hosts.a = V4.a
  })

  await t.test('over IPv6', async (t) => {
    lab.hosts.a = V6.a
    lab.hosts.b = V6.b
    for (const side of ['a', 'b'] as const) await lab.pass(side)
    await settle(lab)
    t.ok(await answers(a, INNER.b))
    t.match(((await lab.pass('a')).detail.peers as Array<{ endpoint: string }>)[0]?.endpoint, `[${V6.b}]:5182`)
    for (const [bytes, mtu] of [[1280, 1200], [1500, 1420]] as const) {
      await width(bytes)
      t.strictSame(await path('a', bytes), { pathMtu: bytes, mtu, problems: [] }, `${bytes}`)
    }
    const stop = await startPings(b, INNER.a)
    lab.epochs.a++
    await settle(lab)
    t.strictSame((await stop()).lost, [], 'keys are exchanged as well')
  })

  await t.test('strangers get little, and peers are not hindered', async (t) => {
    for (const [source, to] of [['10.77.1.254', V4.b], ['fd77:1::fe', V6.b]] as const) {
      const before = await b.ok('nft -j list table inet mz_tunnel')
      const dropped = (json: string): number => (JSON.parse(json) as { nftables: Array<{ rule?: { chain: string, expr: Array<{ counter?: { packets: number } }> } }> }).nftables
        .reduce((sum, { rule }) => sum + (rule?.chain === 'wireguard' ? rule.expr.reduce((n, { counter }) => n + (counter?.packets ?? 0), 0) : 0), 0)
      await send(router, source, to, 51_820, 7, 100)
      const odd = dropped(await b.ok('nft -j list table inet mz_tunnel')) - dropped(before)
      t.equal(odd, 100, 'what begins no conversation is dropped')
      await send(router, source, to, 51_820, 1, 1_000)
      const flood = dropped(await b.ok('nft -j list table inet mz_tunnel')) - dropped(before) - odd
      t.ok(flood > 500 && flood < 1_000, `${flood} of 1000 handshakes in a row are dropped, not all`)
    }
    const { exitCode } = await a.run('ping', ['-n', '-q', '-f', '-c', '3000', INNER.b])
    t.equal(exitCode, 0)
    t.ok(await answers(a, INNER.b))
  })

  await t.test('what is meant for the tunnel never leaves by another link', async (t) => {
    const leaks = 'table inet leak {\n  chain c {\n    type filter hook prerouting priority -300;\n    udp dport 4789 counter comment "leaked"\n  }\n}\n'
    await router.ok('nft -f -', { input: leaks })
    const out = (await a.ok(`ip route get ${TUNNELS.b}`)).includes('mzwg1') ? 'mzwg1' : 'mzwg0'
    await a.ok(`ip route delete ${TUNNELS.b} dev ${out}`)
    await a.run('ping', ['-n', '-c', '3', '-i', '0.1', '-W', '1', INNER.b])
    t.equal(await counted(router, 'leaked'), 0)
    await a.ok('nft delete table inet mz_tunnel')
    await a.run('ping', ['-n', '-c', '3', '-i', '0.1', '-W', '1', INNER.b])
    t.ok(await counted(router, 'leaked') > 0, 'it is the filter that keeps it in')
    t.equal((await a.observe('tunnel'))[0]?.healthy, false)
    t.ok((await lab.pass('a')).healthy, 'both are mended')
    t.ok(await answers(a, INNER.b))
  })

  await t.test('nothing is left', async (t) => {
    for (const side of ['a', 'b'] as const) {
      const pod = lab.gateways[otherSide(side)]
      await pod.remove('tunnel', 'wg')
      t.strictSame(await pod.observe('tunnel'), [])
      t.notMatch(await pod.ok('ip link show'), /mzwg/)
      t.notMatch(await pod.ok('nft list ruleset'), /mz_/)
    }
  })
})
