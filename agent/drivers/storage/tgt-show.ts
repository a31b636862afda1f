/** One target in the listing of `tgtadm --mode target --op show`. */
export interface TgtTarget {
  tid: number
  iqn: string
  ready: boolean
  luns: Array<{ lun: number, path: string | null, online: boolean }>
  sessions: Array<{ sid: number, initiator: string, connections: Array<{ cid: number, address: string }> }>
  users: string[]
  allow: string[]
}

const SECTIONS = ['System information', 'I_T nexus information', 'LUN information', 'Account information', 'ACL information']

/**
 * Parses the listing by its indentation: target 0, section 4, entry 8, property 12, address 16.
 * Lines that fit nowhere are passed over, never an error: newer versions add some, and names of
 * initiators are chosen by the other side. A target named twice counts once, as first seen.
 */
export function parseTargets (text: string): TgtTarget[] {
  const targets: TgtTarget[] = []
  let target: TgtTarget | undefined
  let section = ''
  for (const line of text.split('\n')) {
    const depth = /^ */.exec(line)?.[0].length ?? 0
    const body = line.trim()
    const head = /^Target (\d{1,9}): (\S+)$/.exec(line)
    if (head !== null) {
      target = { tid: Number(head[1]), iqn: head[2] ?? '', ready: false, luns: [], sessions: [], users: [], allow: [] }
      section = ''
      const { tid, iqn } = target
      if (!targets.some(one => one.tid === tid || one.iqn === iqn)) targets.push(target)
    } else if (target !== undefined && depth === 4 && body.endsWith(':')) {
      section = SECTIONS.includes(body.slice(0, -1)) ? body.slice(0, -1) : ''
    } else if (target !== undefined && body !== '') {
      takeLine(target, section, depth, body)
    }
  }
  return targets
}

function takeLine (target: TgtTarget, section: string, depth: number, body: string): void {
  const { key, value } = split(body)
  if (section === 'System information' && depth === 8 && key === 'State') {
    target.ready = value === 'ready'
  } else if (section === 'Account information' && depth === 8) {
    // an account of the other direction is marked `user (outgoing)`
    if (!body.endsWith(' (outgoing)')) target.users.push(body)
  } else if (section === 'ACL information' && depth === 8) {
    target.allow.push(body)
  } else if (section === 'LUN information') {
    takeLun(target, depth, key, value)
  } else if (section === 'I_T nexus information') {
    takeSession(target, depth, key, value)
  }
}

function takeLun (target: TgtTarget, depth: number, key: string, value: string): void {
  if (depth === 8 && key === 'LUN' && /^\d{1,9}$/.test(value)) target.luns.push({ lun: Number(value), path: null, online: false })
  const lun = target.luns.at(-1)
  if (lun === undefined || depth !== 12) return
  if (key === 'Online') lun.online = value === 'Yes'
  if (key === 'Backing store path' && value !== 'None') lun.path = value
}

function takeSession (target: TgtTarget, depth: number, key: string, value: string): void {
  if (depth === 8 && key === 'I_T nexus' && /^\d{1,9}$/.test(value)) target.sessions.push({ sid: Number(value), initiator: '', connections: [] })
  const session = target.sessions.at(-1)
  if (session === undefined) return
  if (depth === 12 && key === 'Initiator') session.initiator = value.replace(/ alias: .*$/, '')
  if (depth === 12 && key === 'Connection' && /^\d{1,9}$/.test(value)) session.connections.push({ cid: Number(value), address: '' })
  const connection = session.connections.at(-1)
  if (depth === 16 && key === 'IP Address' && connection !== undefined) connection.address = value
}

function split (body: string): { key: string, value: string } {
  const at = body.indexOf(':')
  return at < 0 ? { key: body, value: '' } : { key: body.slice(0, at).trim(), value: body.slice(at + 1).trim() }
}

/** Parses `tgtadm --mode portal --op show`: `Portal: 192.0.2.1:3260,1`. */
export function parsePortals (text: string): string[] {
  return [...text.matchAll(/^Portal: (\S+),\d+$/gm)].map(match => match[1] ?? '')
}

/** Parses `tgtadm --mode account --op show`: a heading, then one name a line. */
export function parseAccounts (text: string): string[] {
  return text.split('\n').slice(1).map(line => line.trim()).filter(line => line !== '')
}
