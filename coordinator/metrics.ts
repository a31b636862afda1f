import type { CoordinatorSite, CoordinatorStatus } from '../protocol/api.ts'

/** A family of samples in the text format of Prometheus. */
export interface Metric {
  readonly name: string
  readonly help: string
  readonly type: 'counter' | 'gauge'
  readonly samples: ReadonlyArray<{ readonly labels: Readonly<Record<string, string>>, readonly value: number }>
}

/** Values of labels come from peers: nothing in them may end a line. */
const escape = (text: string): string => text.replaceAll('\\', '\\\\').replaceAll('\n', '\\n').replaceAll('"', '\\"')

function sample (name: string, labels: Readonly<Record<string, string>>, value: number): string {
  const pairs = Object.entries(labels).map(([label, text]) => `${label}="${escape(text)}"`)
  return `${name}${pairs.length === 0 ? '' : `{${pairs.join(',')}}`} ${value}`
}

/** Renders metrics as Prometheus reads them (text format 0.0.4). */
export function renderMetrics (metrics: readonly Metric[]): string {
  return metrics.map(({ name, help, type, samples }) => [`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`, ...samples.map(({ labels, value }) => sample(name, labels, value))].join('\n')).join('\n') + '\n'
}

const byCode = (counts: Readonly<Record<string, number>>, label: string, more: Readonly<Record<string, string>> = {}): Metric['samples'] =>
  Object.entries(counts).map(([code, value]) => ({ labels: { ...more, [label]: code }, value }))

const STATES: ReadonlyArray<CoordinatorSite['state']> = ['alive', 'suspect', 'dead', 'never seen', 'revoked']

/** What a coordinator tells Prometheus. */
export function coordinatorMetrics (status: CoordinatorStatus, sites: readonly CoordinatorSite[]): Metric[] {
  const paths = (path: 'direct' | 'relay'): number => status.peers.filter(peer => peer.path === path).length
  return [
    { name: 'musubi_info', help: 'What runs here.', type: 'gauge', samples: [{ labels: { name: status.name, version: status.version, peer: status.peerId, federation: status.federation }, value: 1 }] },
    { name: 'musubi_uptime_seconds', help: 'Time since the start.', type: 'gauge', samples: [{ labels: {}, value: status.uptimeMs / 1000 }] },
    { name: 'musubi_peers', help: 'Connected peers by path.', type: 'gauge', samples: (['direct', 'relay'] as const).map(path => ({ labels: { path }, value: paths(path) })) },
    { name: 'musubi_sites', help: 'Sites by state.', type: 'gauge', samples: STATES.map(state => ({ labels: { state: state.replace(' ', '-') }, value: sites.filter(site => site.state === state).length })) },
    { name: 'musubi_admission_refusals_total', help: 'Connections that were not admitted, and frames and gossip that ended one, by who refused and why.', type: 'counter', samples: [...byCode(status.refusals.us, 'code', { by: 'us' }), ...byCode(status.refusals.them, 'code', { by: 'them' })] },
    { name: 'musubi_join_answers_total', help: 'Answers to those who came with a token.', type: 'counter', samples: byCode(status.joins, 'code') },
    { name: 'musubi_records_total', help: 'Received records by what became of them.', type: 'counter', samples: byCode(status.records, 'outcome') },
    { name: 'musubi_records_not_admitted_total', help: 'Received records whose author is no member, by reason.', type: 'counter', samples: byCode(status.recordsNotAdmitted, 'code') },
    { name: 'musubi_invitations', help: 'Open invitations.', type: 'gauge', samples: [{ labels: {}, value: status.invitations }] },
    { name: 'musubi_revocations', help: 'Revocations known.', type: 'gauge', samples: [{ labels: {}, value: status.revocations }] },
    { name: 'musubi_certificate_not_after_seconds', help: 'End of the own certificate, Unix time.', type: 'gauge', samples: [{ labels: {}, value: status.certificate.expiresAt / 1000 }] }
  ]
}
