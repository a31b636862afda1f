/** What crosses sites when known nodes are asked for 10,000 times, and how often one broadcast is copied. */
import { ipv6Of } from '../../agent/drivers/network/broadcast/entries.ts'
import { FLOOD_PER_SECOND } from '../../protocol/core/limits.ts'
import { ALL, arp, ethernet, send, shout, solicitation } from '../host/frames.ts'
import { counted } from '../host/network-lab.ts'
import { type Figure, round } from './figures.ts'
import { addNode, nodeAddressOf, nodeMacOf, nodeSpace, segmentsOf, startSites, tunnelOf, tunnelsOf } from './network-sites.ts'
import type { Sites } from './network-sites.ts'

const VNI = 0x301
const SITES = 3
const QUESTIONS = 10_000
const BROADCASTS = 100
const PORT = 7005
const SPACE = nodeSpace(VNI)

/** Counts what leaves by the tunnel; `@th` begins at the outer UDP header, after which come VXLAN (64 bits) and the frame. */
const crossings = (far: readonly string[]): string => `table inet wan {
  chain c {
    type filter hook output priority 0;
    oifname "mzwg*" udp dport 4789 @th,224,16 0x0806 counter comment "arp"
    oifname "mzwg*" udp dport 4789 @th,224,16 0x86dd @th,288,8 58 @th,560,8 135-136 counter comment "nd"
    oifname "mzwg*" udp dport 4789 @th,416,16 ${PORT} counter comment "copies"
${far.map((address, i) => `    oifname "mzwg*" ip daddr ${address} udp dport 4789 @th,416,16 ${PORT} counter comment "copy-${i}"`).join('\n')}
  }
}
`
const answers = (family: string, match: string, comment: string): string => `table ${family} answers {\n  chain c {\n    type filter hook input priority 0;\n    ${match} counter comment "${comment}"\n  }\n}\n`
const ANSWERS = answers('arp', 'arp operation reply', 'arp-answers') + answers('ip6', 'icmpv6 type nd-neighbor-advert', 'nd-answers')

const value = (figure: string, amount: number, limit: number, samples: number, note: string): Figure => ({
  bench: 'network', figure, value: round(amount), unit: 'frames', better: 'lower', peer: null, peerValue: null, limit, ratio: limit === 0 ? null : round(amount / limit), samples, p50: round(amount), p99: round(amount), note
})

async function start (): Promise<Sites> {
  const sites = await startSites(SITES)
  try {
    const [tunnels, segments] = [await tunnelsOf(sites), segmentsOf(SITES, VNI)]
    for (const [site, pod] of sites.pods.entries()) {
      await pod.apply('tunnel', 'wg', tunnels[site])
      await pod.apply('segment', `c${VNI}`, segments[site])
      await addNode(pod, VNI, site)
      const far = sites.pods.keys().filter(other => other !== site).map(tunnelOf).toArray()
      await pod.ok('nft -f -', { input: crossings(far) })
      await pod.ok('nft -f -', { netns: SPACE, input: ANSWERS })
    }
    return sites
  } catch (error) {
    await sites.stop()
    throw error
  }
}

async function sum (sites: Sites, comment: string, netns?: string): Promise<number> {
  const each = await Promise.all(sites.pods.map(async pod => await counted(pod, comment, netns)))
  return each.reduce((a, b) => a + b, 0)
}

async function * questions (): AsyncGenerator<Figure> {
  const sites = await start()
  try {
    const each = Math.ceil(QUESTIONS / SITES)
    const sent = await Promise.all(sites.pods.map(async (pod, site) => {
      const [mac, own] = [nodeMacOf(site), nodeAddressOf(site)]
      const others = [...sites.pods.keys()].filter(other => other !== site)
      const [linkLocal = ''] = ipv6Of(VNI, mac)
      const frames = others.flatMap(other => [
        ethernet(ALL, mac, '0806', arp(1, mac, own, nodeAddressOf(other))),
        solicitation(mac, linkLocal, ipv6Of(VNI, nodeMacOf(other))[0] ?? '')
      ])
      return await send(pod, SPACE, frames, each, FLOOD_PER_SECOND * 0.8)
    }))
    const asked = sent.reduce((a, b) => a + b, 0)
    const answered = await sum(sites, 'arp-answers', SPACE) + await sum(sites, 'nd-answers', SPACE)
    yield value('arp-frames-per-10000', await sum(sites, 'arp') + await sum(sites, 'nd'), 0, asked, `${asked} questions, half ARP and half ND, over ${SITES} sites; ${answered} answers at home`)
  } finally {
    await sites.stop()
  }
}

async function * copies (): AsyncGenerator<Figure> {
  const sites = await start()
  try {
    const [first] = sites.pods
    await first?.run(process.execPath, ['-e', shout(PORT, BROADCASTS)], { netns: SPACE })
    const far = first === undefined ? [] : await Promise.all([0, 1].map(async i => await counted(first, `copy-${i}`)))
    yield value('bum-copies', await sum(sites, 'copies') / BROADCASTS / (SITES - 1), 1, BROADCASTS, `for each broadcast and other site, over ${SITES} sites; to each of them ${far.join(' and ')} of ${BROADCASTS}`)
  } finally {
    await sites.stop()
  }
}

export const benches: Record<string, () => AsyncIterable<Figure>> = { 'arp-frames-per-10000': questions, 'bum-copies': copies }
