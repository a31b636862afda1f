/**
 * Writes lease-states.md from the transition tables of the core: `npm run states`, or with `--check`
 * only says whether the committed page still fits them. The same tables always give the same bytes.
 */
import { readFile, writeFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { fenceTransitions, type FenceState } from '../protocol/core/fence/fence.ts'
import { gatewayTransitions, noticeTransitions, type GatewayState, type NoticeState } from '../protocol/core/gateway/record.ts'
import {
  epochTransitions, extensionTransitions, transitions as leaseTransitions, type EpochState, type ExtensionState, type LeaseState
} from '../protocol/core/lease/tables.ts'
import { masterTransitions, type MasterState } from '../protocol/core/master/record.ts'

const PAGE = fileURLToPath(new URL('./lease-states.md', import.meta.url))

/** One row of any of the tables; null is "no record". */
interface Row { from: string | null, trigger: string, to: string | null, when: string }
/** What a state is, and what OpenStack Blazar and FABRIC call what comes nearest; '' where they have nothing like it. */
interface Names { means: string, blazar: string, fabric: string }
interface Machine { title: string, source: string, words: string, rows: readonly Row[], names: Readonly<Record<string, Names>> }

// A state without a name here, or a name without a state, does not compile.
const leaseNames: Record<LeaseState, Names> = {
  held: { means: 'promised for a time to live', blazar: '`CREATING`', fabric: '`Nascent`, pending `Ticketing`' },
  committed: { means: 'promised to its end, and inert: nothing runs', blazar: '`PENDING`', fabric: '`Ticketed`' },
  active: { means: 'may run', blazar: '`ACTIVE`', fabric: '`Active`' },
  ended: { means: 'must not run any more', blazar: '`TERMINATED`', fabric: '`Closed`' }
}
const extensionNames: Record<ExtensionState, Names> = {
  held: { means: 'the later end is promised for a time to live', blazar: '`UPDATING`', fabric: '`ActiveTicketed`' },
  committed: { means: 'the leases have the later end', blazar: '`ACTIVE`', fabric: '`Active`' },
  ended: { means: 'it was given up, or its leases have ended', blazar: '', fabric: '' }
}
const epochNames: Record<EpochState, Names> = {
  known: { means: 'a number that only grows, and who has it', blazar: '', fabric: '' }
}
const gatewayNames: Record<GatewayState, Names> = {
  asking: { means: 'hosts are being asked to hold', blazar: '', fabric: '`Nascent`, pending `Ticketing`' },
  offered: { means: 'all hosts hold; the offer is with the master', blazar: '', fabric: '' },
  committed: { means: 'all hosts have committed', blazar: '', fabric: '`Ticketed`' },
  active: { means: 'all hosts have activated', blazar: '', fabric: '`Active`' },
  releasing: { means: 'hosts are told to let go until each has confirmed', blazar: '', fabric: '`CloseWait`' }
}
const noticeNames: Record<NoticeState, Names> = {
  ordered: { means: 'its hosts are being told of the earlier end', blazar: '', fabric: '' },
  given: { means: 'its leases end earlier, and what comes free can be booked', blazar: 'preemptible instances: terminated when a lease begins', fabric: '' },
  withdrawing: { means: 'its hosts are being told of the former end again', blazar: '', fabric: '' }
}
const masterNames: Record<MasterState, Names> = {
  negotiating: { means: 'sites are being asked; nothing is decided', blazar: '`CREATING`', fabric: 'slice `Nascent`' },
  offered: { means: 'all sites hold it for its user, who accepts it or gives it back; nothing is decided', blazar: '', fabric: '' },
  committing: { means: 'decided, on disk; sites are told to commit', blazar: '`CREATING`', fabric: 'slice `Configuring`' },
  preparing: { means: 'all have committed; the cluster document is made and copied', blazar: '`PENDING`', fabric: 'slice `Configuring`' },
  activating: { means: 'sites are told to activate, with the receipts of all', blazar: '`STARTING`', fabric: 'slice `Configuring`' },
  active: { means: 'runs, until its end', blazar: '`ACTIVE`; while it is extended, grown or shrunk `UPDATING`', fabric: 'slice `StableOK`' },
  releasing: { means: 'sites are told to let go until each has confirmed', blazar: '`TERMINATING`, `DELETING`', fabric: 'slice `Closing`' },
  failed: { means: 'came to nothing; whoever was asked is told to let go', blazar: '`ERROR`', fabric: 'slice `StableError`, then `Dead`' },
  ended: { means: 'nothing of it is left', blazar: '`TERMINATED`', fabric: 'slice `Dead`' },
  superseded: { means: 'another host is its master now', blazar: '', fabric: '' }
}
const fenceNames: Record<FenceState, Names> = {
  granted: { means: 'may run for one cluster', blazar: '', fabric: '' },
  revoking: { means: 'is being stopped; nobody else gets it', blazar: '', fabric: '' },
  gone: { means: 'was looked for and is not there', blazar: '', fabric: '' }
}

const machines: readonly Machine[] = [
  {
    title: 'Lease, in the ledger of a host', source: 'protocol/core/lease/tables.ts', rows: leaseTransitions, names: leaseNames,
    words: 'The only authority over what the host has promised. Every row is on the disk, synced, before anybody hears of it.'
  },
  {
    title: 'Extension, in the ledger of a host', source: 'protocol/core/lease/tables.ts', rows: extensionTransitions, names: extensionNames,
    words: 'A later end for leases that are there. Like a lease it is held first, and counts once it is committed.'
  },
  {
    title: 'Epoch, in the ledger of a host', source: 'protocol/core/lease/tables.ts', rows: epochTransitions, names: epochNames,
    words: 'Who is master of a cluster. The anchor is the host that has the lease of the frontend: its ledger alone grants a higher epoch. Blazar and FABRIC have one manager for each lease, and no take-over.'
  },
  {
    title: 'Cluster at a site, in its gateway', source: 'protocol/core/gateway/record.ts', rows: gatewayTransitions, names: gatewayNames,
    words: 'A view on what the hosts have promised, kept so that commit, activation and release find the hosts. Blazar has one manager for one site, so nothing in it corresponds; in FABRIC this is the side of the broker.'
  },
  {
    title: 'Notice of a running cluster, in its gateway', source: 'protocol/core/gateway/record.ts', rows: noticeTransitions, names: noticeNames,
    words: 'Its leases end earlier for a cluster of a higher priority. It is over with the cluster, which is released when its time has come.'
  },
  {
    title: 'Cluster, at its master', source: 'protocol/core/master/record.ts', rows: masterTransitions, names: masterNames,
    words: 'From `committing` on the record is the decision: synced before the first commit leaves. `building`, `ready` and `degraded`, which people see instead of `active`, say what the nodes do; they are no states of the protocol.'
  },
  {
    title: 'Resource, at the fence of a host', source: 'protocol/core/fence/fence.ts', rows: fenceTransitions, names: fenceNames,
    words: 'Before a domain, volume, segment or tunnel is touched. An order with an older counter than the last one seen is refused. Neither Blazar nor FABRIC has such a stage.'
  }
]

/** Rows between the same two states share an arrow. */
function diagram (rows: readonly Row[]): string {
  const arrows = new Map<string, string[]>()
  for (const { from, trigger, to } of rows) {
    const arrow = `${from ?? '[*]'} --> ${to ?? '[*]'}`
    arrows.set(arrow, [...arrows.get(arrow) ?? [], trigger])
  }
  const last = new Set(rows.flatMap(row => row.to ?? []).filter(state => !rows.some(row => row.from === state)))
  return [
    '```mermaid', 'stateDiagram-v2',
    ...[...arrows].map(([arrow, triggers]) => `  ${arrow}: ${triggers.join(', ')}`),
    ...[...last].map(state => `  ${state} --> [*]`),
    '```'
  ].join('\n')
}

const tableOf = (header: readonly string[], rows: ReadonlyArray<readonly string[]>): string =>
  [header, header.map(() => '---'), ...rows].map(cells => `| ${cells.join(' | ')} |`).join('\n')

const state = (name: string | null): string => name === null ? '-' : `\`${name}\``

function section ({ title, source, words, rows, names }: Machine): string {
  return [
    `## ${title}`, `${words} Table: \`${source}\`.`, diagram(rows),
    tableOf(['from', 'event', 'to', 'when'], rows.map(row => [state(row.from), row.trigger, state(row.to), row.when])),
    tableOf(['state', 'means', 'Blazar', 'FABRIC'], Object.entries(names).map(([name, n]) => [state(name), n.means, n.blazar === '' ? '-' : n.blazar, n.fabric === '' ? '-' : n.fabric]))
  ].join('\n\n')
}

/** Names of what is done, as others have them. */
const operations = [
  ['request, hold', 'create a lease', '`ticket`, asked of the broker'],
  ['commit', '-', '-'],
  ['activate', 'event `start_lease`', '`redeem`, asked of the aggregate manager'],
  ['extend', 'update a lease, with a later `end_date`', '`extend_ticket`, `extend_lease`: pending `ExtendingTicket`, `ExtendingLease`'],
  ['grow, shrink', 'update a lease', '`modify_lease`: pending `ModifyingLease`'],
  ['keep-alive, masterless, adopt', '-', '-'],
  ['expire', 'event `end_lease`', '`close`, by the end of the term'],
  ['release', 'delete a lease', '`relinquish`, `close`'],
  ['revoke', 'delete a lease, by an administrator', '`close`, by the aggregate manager']
]

/** The page as the tables give it now. */
export function statesPage (): string {
  return `${[
    '<!-- Written by `npm run states` from the transition tables. Do not edit. -->',
    '# States of leases',
    'The state machines that make a cluster. They are data, and the code moves along these rows and no others. `[*]` and `-` mean "no record". What the messages between them are: [ARCHITECTURE.md](ARCHITECTURE.md#lease-core).',
    'What comes nearest in OpenStack Blazar ([lease statuses](https://docs.openstack.org/blazar/latest/user/state-machines.html)) and in the control framework of FABRIC ([reservation states](https://github.com/fabric-testbed/ControlFramework/blob/main/fabric_cf/actor/core/kernel/reservation_states.py), [slice states](https://github.com/fabric-testbed/ControlFramework/blob/main/fabric_cf/actor/core/kernel/slice_state_machine.py)) stands beside each state. Neither has a hold that ends by itself, a commit of all before the start of any, or a second master, so some rows are empty.',
    ...machines.map(section),
    '## What is done', tableOf(['here', 'Blazar', 'FABRIC'], operations)
  ].join('\n\n')}\n`
}

/** Whether the committed page is what the tables give. */
export const isCurrent = async (): Promise<boolean> => await readFile(PAGE, 'utf8').catch(() => '') === statesPage()

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { values } = parseArgs({ options: { check: { type: 'boolean', default: false } } })
  if (!values.check) await writeFile(PAGE, statesPage())
  else if (!await isCurrent()) {
    process.stderr.write('docs/lease-states.md is stale (run npm run states)\n')
    process.exitCode = 1
  }
}
