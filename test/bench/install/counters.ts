/** Bytes at the site's port towards the frontend, all of them and those that went past the cache. */
import { run, runJson } from '../../../agent/exec.ts'
import { LAB_SPEC, SITE } from '../cache-lab.ts'

const TABLE = 'lab_count'

/** Single frames are counted, whoever receives them: what the kernel puts together has fewer headers. */
export async function countSingleFrames (): Promise<void> {
  for (const link of ['wan0', 'wan0m']) await run('ethtool', ['-K', link, 'gro', 'off'], { netns: SITE })
}

/** Counts what the frontend sends to the nodes' own addresses: static fetches of a cache go to its own. */
export async function countDirect (): Promise<void> {
  await run('nft', ['-f', '-'], {
    netns: SITE,
    input: `table bridge ${TABLE} {
  counter direct { }
  chain c {
    type filter hook prerouting priority -400; policy accept;
    iifname "wan0m" ip saddr ${LAB_SPEC.frontendAddress} ip daddr != ${LAB_SPEC.ownAddress} counter name direct
  }
}
`
  })
}

/** Of each frame, which an interface counts and a filter does not. */
const ETHERNET_HEADER_BYTES = 14

/** Bytes to nodes' own addresses so far, as the interface counts them. */
export async function directBytes (): Promise<number> {
  const { nftables } = await runJson('nft', ['-j', 'list', 'counter', 'bridge', TABLE, 'direct'], { netns: SITE }) as { nftables: Array<{ counter?: { bytes: number, packets: number } }> }
  const counter = nftables.find(one => one.counter !== undefined)?.counter
  return counter === undefined ? 0 : counter.bytes + counter.packets * ETHERNET_HEADER_BYTES
}
