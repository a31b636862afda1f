import type { Command } from 'commander'
import { call } from '../client.ts'
import { agentEndpoint, confirm, wantsJson } from '../context.ts'
import { show } from '../output.ts'
import { span, wholeNumber } from '../quantity.ts'
import { clusterText } from '../render.ts'
import { clusterPath, follow, timeoutOf } from '../waiting.ts'
import type { ClusterResource } from '../../protocol/api.ts'
import { InvalidInputError } from '../../protocol/core/errors.ts'

/** What changes a cluster that is there: whether it is taken, its term, its size, its master. */
export function addAmendments (cluster: Command): void {
  cluster.command('accept <name>').description('have a cluster built that sites hold since cluster plan --hold')
    .option('--no-wait', 'return once it is decided')
    .option('--timeout <seconds>', 'how long to wait for all nodes', '1800')
    .addHelpText('after', `
It is decided now, and goes on as cluster create does, with what sites hold and at the prices that they
offered. It can be said again while it is built. What was not accepted in time is given back:
HOLD_LAPSED; then ask again.

Examples:
  musubi cluster plan -f demo.yaml --hold && musubi cluster accept demo
  musubi cluster accept demo --no-wait --json`)
    .action(async (name: string, o: { wait: boolean, timeout: string }, command: Command) => {
      const timeoutMs = timeoutOf(o.timeout)
      const accepted = await call<ClusterResource>(agentEndpoint(command), 'POST', `${clusterPath(name)}/accept`)
      show(o.wait ? await follow(command, accepted, ['ready', 'degraded', 'reserved'], timeoutMs) : accepted, wantsJson(command), clusterText)
    })

  cluster.command('extend <name>').description('let a cluster last longer')
    .requiredOption('--term <time>', 'how long from now, a reservation from its start, such as 2h or 1d12h')
    .addHelpText('after', `
Every lender holds the longer term, then all of it is committed, or nothing: the cluster keeps the end
that it had. It cannot be made shorter this way; give it back with: musubi cluster delete NAME

Examples:
  musubi cluster extend demo --term 2h
  musubi cluster extend demo --term 1d12h --json | jq .expiresAt`)
    .action(async (name: string, o: { term: string }, command: Command) => {
      const done = await call<ClusterResource>(agentEndpoint(command), 'POST', `${clusterPath(name)}/extend`, { termMs: span(o.term, '--term') })
      show(done, wantsJson(command), c => `${c.name}: until ${new Date(c.expiresAt).toISOString()}`)
    })

  cluster.command('scale <name>').description('give a cluster more nodes, or fewer')
    .requiredOption('--nodes <number>', 'how many in all')
    .option('--no-wait', 'return once the leases are there')
    .option('--timeout <seconds>', 'how long to wait for new nodes', '1800')
    .addHelpText('after', `
More: new nodes of the same shape are leased at all sites or at none, and join the segment. Fewer: the
nodes with the highest numbers are stopped and their leases given back, what they held in memory is
lost. Nodes with volumes stay.

Examples:
  musubi cluster scale demo --nodes 8
  musubi cluster scale demo --nodes 2 --no-wait`)
    .action(async (name: string, o: { nodes: string, wait: boolean, timeout: string }, command: Command) => {
      const timeoutMs = timeoutOf(o.timeout)
      const nodes = wholeNumber(o.nodes, '--nodes')
      if (nodes === 0) throw new InvalidInputError('--nodes must be at least 1', `to end it: musubi cluster delete ${name}`)
      const accepted = await call<ClusterResource>(agentEndpoint(command), 'POST', `${clusterPath(name)}/scale`, { nodes })
      const complete = (c: ClusterResource): boolean => c.nodes.length === nodes && c.nodes.every(node => node.ready)
      show(o.wait ? await follow(command, accepted, ['ready', 'degraded'], timeoutMs, complete) : accepted, wantsJson(command), clusterText)
    })

  cluster.command('retry <name>').description('ask anew for a cluster that failed, with the same specification')
    .option('--no-wait', 'return once the request is accepted')
    .option('--timeout <seconds>', 'how long to wait for all nodes', '1800')
    .addHelpText('after', '\nSites are chosen anew, under a new id. What the failed one still holds somewhere is given back.\n\nExamples:\n  musubi cluster retry demo\n  musubi cluster retry demo --no-wait --json')
    .action(async (name: string, o: { wait: boolean, timeout: string }, command: Command) => {
      const timeoutMs = timeoutOf(o.timeout)
      const accepted = await call<ClusterResource>(agentEndpoint(command), 'POST', `${clusterPath(name)}/retry`)
      show(o.wait ? await follow(command, accepted, ['ready', 'degraded', 'reserved'], timeoutMs) : accepted, wantsJson(command), clusterText)
    })

  cluster.command('adopt <name>').description('become the master of a cluster of this site whose master is gone')
    .option('--force', 'although its master is heard of, or nobody can say whether it is')
    .option('--yes', 'with --force: do not ask')
    .addHelpText('after', `
Run it on another gateway of the master's site; musubi cluster list shows what it could adopt. The
host of the frontend, the anchor, decides who is master: it grants the next epoch when it has not
heard of the present master for 90 s, and every lender obeys the highest epoch. Gateways do this by
themselves some time later. Nodes run on.

What --force risks:
  The anchor answers: the former master, should it be alive, is refused everywhere from then on
  (STALE_EPOCH), and what it was changing at that moment is undone.
  The anchor does not answer: the epoch is taken on your word alone. Should the former master live on
  behind a broken network, both hold themselves for the right one until the anchor is back, and what
  one changes the other may undo. Lenders of other sites want the signature of the anchor, and go on
  obeying the former master. Nothing is promised twice by it. Switch the former master off first.

Examples:
  musubi cluster list
  musubi cluster adopt demo
  musubi cluster adopt demo --force --yes`)
    .action(async (name: string, o: { force?: boolean, yes?: boolean }, command: Command) => {
      if (o.force === true) await confirm(`this takes cluster ${name} from its master even if that is alive, and only cut off`, o.yes)
      show(await call<ClusterResource>(agentEndpoint(command), 'POST', `${clusterPath(name)}/adopt`, { force: o.force === true }), wantsJson(command), clusterText)
    })
}
