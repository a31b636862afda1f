/**
 * A schedule as people read it: one line for each thing that happened, in columns of what, cluster and
 * details; who prints it puts time and host before. Ids are cut to what tells them apart, and what says
 * nothing new is left out.
 */
import type { HostFacts, LeaseFacts, Observation } from './observation.ts'

/** `host` is '' for what is of no host. */
export interface Line { host: string, text: string }

export interface History {
  /** @returns what tells of it; nothing for what changes nothing that is shown */
  lines (observation: Observation): Line[]
}

const DETAIL = 220

const column = (host: string, what: string, cluster: string, detail: string): Line =>
  ({ host, text: `${what.padEnd(24)} ${cluster.padEnd(8)} ${detail.length > DETAIL ? `${detail.slice(0, DETAIL)}...` : detail}`.trimEnd() })

const field = (value: unknown, name: string): unknown => typeof value === 'object' && value !== null ? (value as Record<string, unknown>)[name] : undefined
const text = (value: unknown, name: string): string => {
  const found = field(value, name)
  return typeof found === 'string' ? found : typeof found === 'number' || typeof found === 'boolean' ? String(found) : ''
}
const list = (value: unknown, name: string): readonly unknown[] => {
  const found = field(value, name)
  return Array.isArray(found) ? found : []
}
const short = (id: string): string => id.slice(0, 8)
/** An offer's id is a UUID, with a number for a further placement; a lease's has one more number. */
const part = (id: string): string => `${id.slice(0, 4)}${id.slice(36)}`
const resources = (value: unknown): string => {
  const of = (name: string, unit: string): string => Number(text(value, name)) > 0 ? `${text(value, name)}${unit}` : ''
  return [of('vcpus', 'C'), of('memoryMib', 'M'), of('diskMib', 'D'), of('volumes', 'V')].filter(one => one !== '').join(' ')
}

/** What of a question tells it apart from others. */
function questionText (method: string, request: unknown): string {
  const offer = text(request, 'offerId')
  const common = `${offer === '' ? '' : `offer ${part(offer)} `}${text(request, 'epoch') === '' ? '' : `epoch ${text(request, 'epoch')}`}`.trim()
  const ids = list(request, 'leaseIds').map(id => part(String(id))).join(',')
  switch (method) {
    case 'request': return `${list(request, 'nodes').length} nodes ${list(request, 'volumes').length} volumes${field(request, 'frontend') === true ? ' frontend' : ''}${field(request, 'grow') === true ? ' more' : ''} key ${short(text(request, 'key'))} ${common}`
    case 'hold': return `${list(request, 'items').map(item => `${text(item, 'name')} [${resources(field(item, 'resources'))}]`).join(', ')} ${common}`
    case 'extend':
    case 'hostCurtail': return `until ${text(request, 'endMs')} notice ${text(request, 'seq')}`
    case 'hostRestore': return `notice ${text(request, 'seq')}`
    case 'hostExtend': return `until ${text(request, 'endMs')} ${common}`
    case 'activate':
    case 'hostActivate': return `${list(request, 'receipts').length} receipts, document ${text(field(request, 'document'), 'version')} ${common}`
    case 'release':
    case 'hostRelease': return `${ids === '' ? '' : `leases ${ids} `}${common} (${text(request, 'reason')})`
    case 'claim': return `${common}${field(request, 'force') === true ? ' by force' : ''}`
    case 'keepAlive': return `${common}${field(request, 'grant') === null ? '' : ' with its grant'}`
    case 'hostKeepAlive': return `${common} holder ${text(request, 'holder')}`
    default: return common
  }
}

function answerText (method: string, reply: unknown): string {
  const receipts = list(reply, 'receipts').map(receipt => `${part(text(receipt, 'leaseId'))}:${text(receipt, 'token')}`).join(' ')
  switch (method) {
    case 'request': return `offer ${part(text(reply, 'offerId'))} segment ${text(reply, 'segmentId')} ${list(reply, 'held').map(held => `${text(held, 'name')}@${text(held, 'host')}:${text(held, 'token')}`).join(' ')} for ${text(reply, 'ttlMs')} ms`
    case 'release':
    case 'hostRelease': return `${text(reply, 'ended')} ended`
    case 'keepAlive':
    case 'hostKeepAlive': return `${text(reply, 'state')} epoch ${text(reply, 'epoch')}`
    case 'claim': return `epoch ${text(reply, 'epoch')}`
    default: return receipts
  }
}

const leaseText = (lease: LeaseFacts): string => `${lease.kind} ${lease.name}`

/** What has become of a host since it was last told. */
function hostLines (before: HostFacts | undefined, now: HostFacts): Line[] {
  const lines: Line[] = []
  const say = (what: string, cluster: string, detail: string): void => { lines.push(column(now.host, what, cluster, detail)) }
  const old = new Map((before?.leases ?? []).map(lease => [lease.id, lease]))
  const groups = new Map<string, { what: string, cluster: string, names: string[] }>()
  const group = (what: string, lease: LeaseFacts, detail: string): void => {
    const key = `${what} ${lease.clusterId} ${detail}`
    const found = groups.get(key)
    if (found === undefined) groups.set(key, { what, cluster: short(lease.clusterId), names: [detail, leaseText(lease)] })
    else found.names.push(leaseText(lease))
  }
  for (const lease of now.leases) {
    const known = old.get(lease.id)
    old.delete(lease.id)
    if (known === lease || (known !== undefined && known.state === lease.state && known.endMs === lease.endMs && known.vacated === lease.vacated)) continue
    if (known?.state !== lease.state) group(known === undefined ? lease.state : `${known.state} -> ${lease.state}`, lease, lease.state === 'ended' ? `(${lease.endReason})` : lease.segmentId > 0 ? `segment ${lease.segmentId}` : '')
    else group(known.endMs !== lease.endMs ? 'another end' : 'gone from the host', lease, known.endMs === lease.endMs ? '' : String(lease.endMs))
  }
  for (const lease of old.values()) group('forgotten', lease, '')
  for (const { what, cluster, names } of groups.values()) say(what, cluster, names.filter(name => name !== '').join(', '))
  const running = new Map((before?.running ?? []).map(one => [one.resource, one]))
  for (const one of now.running) {
    if (running.get(one.resource) === undefined) say('RUNS', short(one.clusterId), `${one.resource} counter ${one.counter}`)
    running.delete(one.resource)
  }
  for (const one of running.values()) say('stopped', short(one.clusterId), one.resource)
  for (const { clusterId, epoch, holder } of now.epochs) {
    const known = before?.epochs.find(one => one.clusterId === clusterId)
    if (known?.epoch !== epoch && epoch > 1) say('epoch', short(clusterId), `${epoch} of ${holder}`)
  }
  if (before !== undefined && before.failed !== now.failed) say(now.failed ? 'ledger FAILED' : 'ledger works again', '', '')
  if (before !== undefined && before.up && !now.up) say('down', '', `counter ${now.counter}`)
  return lines
}

export function createHistory (): History {
  const hosts = new Map<string, HostFacts>()
  return {
    lines (observation) {
      const one = (host: string, what: string, cluster: string, detail: string): Line[] => [column(host, what, short(cluster), detail)]
      switch (observation.type) {
        case 'host': {
          const before = hosts.get(observation.facts.host)
          hosts.set(observation.facts.host, observation.facts)
          return hostLines(before, observation.facts)
        }
        case 'call': return one(observation.from, `-> ${observation.to} ${observation.method}`, text(observation.request, 'clusterId'), `#${observation.id}${observation.forged ? ' FORGED' : ''} ${questionText(observation.method, observation.request)}`)
        case 'arrive': return observation.copy === 1 ? [] : one(observation.to, `.. ${observation.from} ${observation.method}`, '', `#${observation.id} once more, copy ${observation.copy}`)
        case 'answer': return one(observation.caller.host, `<- ${observation.from === observation.caller.host ? observation.to : observation.from} ${observation.method}`, text(observation.request, 'clusterId'), `#${observation.id} ${observation.error === null ? answerText(observation.method, observation.reply) : `${observation.error.code}: ${observation.error.message}`}`)
        case 'decision': return one(observation.host, 'on its disk', observation.clusterId, observation.record === null ? 'forgotten' : `${text(observation.record, 'state')} epoch ${text(observation.record, 'epoch')}${field(observation.record, 'amendment') === null ? '' : `, ${text(field(observation.record, 'amendment'), 'kind')} ${text(field(observation.record, 'amendment'), 'state')}`}`)
        case 'command': return one(observation.host, `tells helper: ${observation.command}`, observation.clusterId, `${observation.resource} counter ${observation.counter}`)
        case 'helper': return one(observation.host, `helper: ${observation.command}`, observation.clusterId, `${observation.resource} counter ${observation.counter}${observation.accepted ? '' : ` REFUSED ${observation.why}`}`)
        case 'crash': return one(observation.host, observation.how === 'kill' ? 'KILLED' : 'POWER LOST', '', `${observation.at}${observation.lostBatches > 0 ? `, ${observation.lostBatches} batches lost` : ''}`)
        case 'boot': return one(observation.host, observation.newBoot ? 'boots' : 'agent is up', '', observation.bootId)
        case 'disk-lost': return one(observation.host, 'DISK LOST', '', '')
        case 'disk-failing': return one(observation.host, observation.errno === null ? 'disk works again' : 'DISK FAILS', '', observation.errno ?? '')
        case 'clock-jump': return one(observation.host, 'CLOCK JUMPS', '', `by ${observation.byMs} ms`)
        case 'partition': return one('', 'NETWORK', '', observation.what)
        case 'operator': return one(observation.host, `operator: ${observation.action}`, observation.clusterId, `${observation.detail}${observation.refused === '' ? '' : `, refused ${observation.refused}`}`)
        case 'heal': return one('', '=== the faults end ===', '', '')
      }
    }
  }
}
