/** What steps are about, in words: which link, entry or chain, and what of it. Pure. */
import type { Step } from './steps.ts'

/** A namespace that is made anew is told as such; its parts in some detail. */
const MAX_PHRASES = 12

const LINK = /^link (?:add|set|delete)\b.*?\b(?:name|dev) (\S+)(?: (.*))?$/
const ADDRESS = /^address (?:replace|delete) (\S+) dev (\S+)$/
const NEIGHBOUR = /^neighbour (?:replace|delete) (\S+) .*?dev (\S+)|^neighbour delete (\S+) dev (\S+)$/
const ENTRY = /^fdb \S+ (\S+) dev (\S+)/

const add = (to: Map<string, string[]>, what: string, detail: string): void => { to.set(what, [...to.get(what) ?? [], ...(detail === '' ? [] : [detail])]) }

function readIp (line: string, found: Map<string, string[]>): void {
  const [, link, change = ''] = LINK.exec(line) ?? []
  const [, address, at] = ADDRESS.exec(line) ?? []
  const neighbour = NEIGHBOUR.exec(line)
  if (link !== undefined) add(found, `link ${link}`, line.startsWith('link set') ? change : line.startsWith('link delete') ? 'removed' : 'made')
  else if (address !== undefined) add(found, `link ${at ?? ''}`, `address ${address}`)
  else if (neighbour !== null) add(found, `neighbours of ${neighbour[2] ?? neighbour[4] ?? ''}`, neighbour[1] ?? neighbour[3] ?? '')
}

function readStep (step: Step, found: Map<string, string[]>): void {
  switch (step.do) {
    case 'netns-add': add(found, `namespace ${step.ns}`, 'made'); return
    case 'netns-delete': add(found, `namespace ${step.ns}`, 'removed'); return
    case 'ip': for (const line of step.lines) readIp(line, found); return
    case 'bridge':
      for (const line of step.lines) {
        const [, mac = '', link = ''] = ENTRY.exec(line) ?? []
        add(found, `forwarding entries of ${link}`, mac)
      }
      return
    case 'nft':
      for (const [, table = '', chain = ''] of step.text.matchAll(/^(?:add|delete) chain \S+ (\S+) (\S+)/gm)) add(found, `chain ${table} ${chain}`, '')
      // the last chains of a table go with it
      for (const [, table = ''] of step.text.matchAll(/^delete table \S+ (\S+)$/gm)) add(found, `table ${table}`, 'removed')
      return
    case 'vlan': add(found, `link ${step.name}`, `made, 802.1Q id ${step.id} on ${step.trunk}`); return
    case 'no-ipv6': add(found, step.links === null ? 'links' : `links ${step.links.join(' ')}`, 'IPv6 off'); return
    case 'silent-ipv6': add(found, `link ${step.link}`, 'IPv6 without address')
  }
}

/**
 * What a pass is about to mend: what people read in logs and `detail`.
 *
 * @returns such as `link wan0m in mz-000101: mtu 1500, master br0`, at most a dozen
 */
export function describeSteps (steps: readonly Step[]): string[] {
  const phrases: string[] = []
  const spaces = [...new Set(steps.map(({ ns }) => ns))]
  for (const space of spaces) {
    const found = new Map<string, string[]>()
    for (const step of steps) if (step.ns === space) readStep(step, found)
    for (const [what, details] of found) {
      const few = [...new Set(details)]
      const shown = few.length > 4 ? [...few.slice(0, 3), `${few.length - 3} more`] : few
      phrases.push(`${what}${space === null || what === `namespace ${space}` ? '' : ` in ${space}`}${shown.length === 0 ? '' : `: ${shown.join(', ')}`}`)
    }
  }
  return phrases.length > MAX_PHRASES ? [...phrases.slice(0, MAX_PHRASES - 1), `and ${phrases.length - MAX_PHRASES + 1} more`] : phrases
}
