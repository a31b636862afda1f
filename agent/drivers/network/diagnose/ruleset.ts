import { BlockList } from 'node:net'
import type { DropFact } from '../../../diagnose/facts.ts'
import { PREFIX } from '../../../../protocol/core/desired.ts'

/** Datagrams of a segment on the underlay: to this port, to or from one of these addresses. */
export interface Flow { port: number, addresses: readonly string[] }

type Fields = Record<string, unknown>
const fields = (value: unknown): Fields => (typeof value === 'object' && value !== null ? value as Fields : {})
const list = (value: unknown): unknown[] => (Array.isArray(value) ? value : [])
const text = (value: unknown): string => (typeof value === 'string' ? value : '')

/** Whether a right side of a match (a value, a range, a set, a prefix) takes a value in; null: it cannot be told. */
function takesIn (right: unknown, is: (one: unknown) => boolean | null): boolean | null {
  const set = fields(right).set
  if (set === undefined) return is(right)
  const members = Array.isArray(set) ? set.map(member => takesIn(fields(member).elem === undefined ? member : fields(fields(member).elem).val, is)) : [null]
  return members.includes(true) ? true : members.includes(null) ? null : false
}

function portIs (port: number): (one: unknown) => boolean | null {
  return one => {
    const range = list(fields(one).range).map(Number)
    const [from, to] = range
    if (from !== undefined && to !== undefined) return port >= from && port <= to
    return typeof one === 'number' ? one === port : null
  }
}

function addressIs (addresses: readonly string[]): (one: unknown) => boolean | null {
  return one => {
    const prefix = fields(fields(one).prefix)
    try {
      const within = new BlockList()
      const family = (address: string): 'ipv4' | 'ipv6' => address.includes(':') ? 'ipv6' : 'ipv4'
      if (typeof one === 'string') return addresses.includes(one)
      const [from, to] = list(fields(one).range).map(text)
      if (from !== undefined && to !== undefined) within.addRange(from, to, family(from))
      else if (typeof prefix.addr === 'string' && typeof prefix.len === 'number') within.addSubnet(prefix.addr, prefix.len, family(prefix.addr))
      else return null
      return addresses.some(address => within.check(address, family(address)))
    } catch {
      return null
    }
  }
}

/** How a rule stands to a flow: `port`: it names the port; `all`: it takes everything; `maybe`: more is asked than can be told here. */
type Grip = 'port' | 'all' | 'maybe' | 'none'

function gripOf (expressions: readonly Fields[], { port, addresses }: Flow): Grip {
  let grip: Grip = 'all'
  for (const { match } of expressions) {
    if (match === undefined) continue
    const { op, left, right } = fields(match)
    const { protocol, field } = fields(fields(left).payload)
    let found: boolean | null = null
    let named = false
    if ((protocol === 'udp' || protocol === 'th') && field === 'dport') {
      found = takesIn(right, portIs(port))
      named = true
    } else if (protocol === 'tcp' || protocol === 'icmp' || protocol === 'icmpv6') found = false
    else if ((protocol === 'ip' || protocol === 'ip6') && (field === 'saddr' || field === 'daddr')) found = takesIn(right, addressIs(addresses))
    else if ((protocol === 'ip' && field === 'protocol') || text(fields(fields(left).meta).key) === 'l4proto') found = takesIn(right, one => one === 'udp' || one === 17)
    if (op === '!=' && found !== null) found = !found
    if (found === false) return 'none'
    if (found === null) {
      if (grip === 'all') grip = 'maybe'
    } else if (named) grip = 'port'
    else if (grip === 'all') grip = 'maybe'
  }
  // an address of ours alone is as good as the port
  return grip
}

const WORDS: ReadonlyArray<readonly [string, string]> = [['drop', 'drop'], ['reject', 'reject'], ['accept', 'accept']]
const verdictOf = (expressions: readonly Fields[]): string | null => WORDS.find(([key]) => expressions.some(expression => key in expression))?.[1] ?? null

/** A rule in words, as far as they are simple ones. */
function inWords (expressions: readonly Fields[]): string {
  const value = (right: unknown): string => {
    if (typeof right !== 'object' || right === null) return String(right)
    const { set, range, prefix } = fields(right)
    if (Array.isArray(set)) return `{ ${set.map(value).join(', ')} }`
    if (Array.isArray(range)) return range.map(String).join('-')
    return prefix === undefined ? '...' : `${text(fields(prefix).addr)}/${String(fields(prefix).len)}`
  }
  return expressions.map(expression => {
    if (expression.match === undefined) return verdictOf([expression]) ?? ''
    const { op, left, right } = fields(expression.match)
    const { payload, meta } = fields(left)
    const what = payload !== undefined ? `${text(fields(payload).protocol)} ${text(fields(payload).field)}` : meta !== undefined ? text(fields(meta).key) : '...'
    return `${what} ${op === '!=' ? '!= ' : ''}${value(right)}`
  }).filter(word => word !== '').join(' ').slice(0, 200)
}

/**
 * Rules of others, in the host's own namespace, that drop what a segment sends or gets on the underlay.
 * What a rule asks beyond ports, addresses and the protocol cannot be judged here: it counts when it names the port.
 *
 * @param json as `nft -j list ruleset` prints it
 */
export function dropsOf (json: unknown, flows: readonly Flow[]): DropFact[] {
  const items = list(fields(json).nftables).map(fields)
  const found: DropFact[] = []
  for (const { chain } of items) {
    if (chain === undefined) continue
    const { family, table, name, hook, policy } = fields(chain)
    if (text(table).startsWith(`${PREFIX}_`)) continue
    const rules = items.map(({ rule }) => fields(rule)).filter(rule => rule.family === family && rule.table === table && rule.chain === name)
    for (const flow of flows) {
      const add = (handle: number | null, rule: string): void => { found.push({ chain: `${text(family)} ${text(table)} ${text(name)}`, handle, hook: text(hook), port: flow.port, rule }) }
      let decided = false
      for (const rule of rules) {
        const expressions = list(rule.expr).map(fields)
        const verdict = verdictOf(expressions)
        const grip = gripOf(expressions, flow)
        if (verdict === null || (grip !== 'port' && grip !== 'all') || (grip === 'all' && hook === undefined)) continue
        if (verdict !== 'accept') add(typeof rule.handle === 'number' ? rule.handle : null, inWords(expressions))
        decided = true
        break
      }
      if (!decided && policy === 'drop' && hook !== 'forward') add(null, 'policy drop')
    }
  }
  // tunnels and VXLAN are for this host itself
  return found.filter(({ hook }) => hook !== 'forward')
}
