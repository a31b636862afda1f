import { dirname, join } from 'node:path'
import { Command } from 'commander'
import t from 'tap'
import { run } from '../../../agent/exec.ts'
import { addCacheCommands } from '../../../cli/commands/cache.ts'
import { addClusterCommands } from '../../../cli/commands/cluster.ts'
import { addCoordinatorCommands } from '../../../cli/commands/coordinator.ts'
import { addDaemonCommands } from '../../../cli/commands/daemons.ts'
import { addHostCommands } from '../../../cli/commands/host.ts'
import { addLeaseCommands } from '../../../cli/commands/lease.ts'
import { addSegmentCommands } from '../../../cli/commands/segment.ts'
import { addSiteCommands } from '../../../cli/commands/site.ts'
import { addViewCommands } from '../../../cli/commands/views.ts'
import { bashCompletion } from '../../../cli/completion.ts'

const CLI = join(dirname(dirname(dirname(import.meta.dirname))), 'cli', 'main.ts')
function tree (): Command {
  const program = new Command('musubi').option('--json')
  for (const add of [addClusterCommands, addDaemonCommands, addSiteCommands, addHostCommands, addCoordinatorCommands, addLeaseCommands, addSegmentCommands, addCacheCommands, addViewCommands]) add(program)
  return program
}
const leaves = (command: Command, path: string[] = []): Array<{ path: string, command: Command }> => command.commands.flatMap(sub =>
  sub.commands.length > 0 ? leaves(sub, [...path, sub.name()]) : [{ path: [...path, sub.name()].join(' '), command: sub }])

function helpOf (command: Command): string {
  let text = ''
  command.configureOutput({ writeOut: words => { text += words } })
  command.outputHelp()
  return text
}

t.test('every command says what it does and shows an example', t => {
  const all = leaves(tree())
  for (const wanted of [
    'agent join', 'agent run', 'agent status', 'agent doctor', 'site init', 'site key', 'site invite', 'site invitations', 'site withdraw', 'site revoke', 'site policy get', 'site policy set', 'site policy check', 'site policy diff',
    'host list', 'host show', 'host cordon', 'host uncordon', 'coordinator init', 'coordinator run', 'coordinator status', 'coordinator invite', 'coordinator sites', 'coordinator revoke', 'coordinator export', 'coordinator import', 'search',
    'host drain', 'lease list', 'lease calendar', 'lease show', 'lease history', 'lease revoke', 'lease fsck', 'cluster plan', 'cluster accept', 'cluster extend', 'cluster scale', 'cluster retry', 'cluster adopt', 'segment list', 'segment ping', 'segment doctor', 'segment capture',
    'cache status', 'cache preheat', 'cache budget', 'cache list', 'cache purge', 'cache export', 'cache retained purge'
  ]) t.ok(all.some(({ path }) => path === wanted), `there is musubi ${wanted}`)
  for (const { path, command } of all) {
    const help = helpOf(command)
    t.ok(command.description().length > 10, `${path} is described`)
    t.match(help, /Examples?:\n/, `${path} has an example`)
    for (const [, line = ''] of help.matchAll(/^ {2}musubi (.*)$/gm)) t.ok(all.some(other => line.startsWith(other.path)), `an example of ${path} is a command: ${line}`)
  }
  t.end()
})

t.test('completion follows the tree, at every depth', async t => {
  const script = bashCompletion(tree())
  const complete = async (...words: string[]): Promise<string[]> => {
    const line = ['musubi', ...words]
    const { stdout } = await run('bash', ['-c', `${script}\nCOMP_WORDS=(${line.map(w => `'${w}'`).join(' ')}); COMP_CWORD=${line.length - 1}; _musubi; printf '%s\\n' "\${COMPREPLY[@]}"`])
    return stdout.split('\n').filter(word => word !== '')
  }
  t.same(await complete('si'), ['site'])
  t.same(await complete('site', 'in'), ['init', 'invite', 'invitations'])
  t.same((await complete('site', 'policy', '')).filter(w => !w.startsWith('-')), ['get', 'set', 'check', 'diff'])
  t.same(await complete('site', 'policy', 'set', '--f'), ['--file'])
  t.same(await complete('host', 'cordon', 'tokyo-2', '--'), ['--reason'])
  t.same(await complete('lease', ''), ['list', 'calendar', 'show', 'history', 'revoke', 'fsck'])
  t.same(await complete('lease', 'revoke', 'demo', '--'), ['--reason', '--yes'])
  t.same(await complete('cluster', 'plan', '--h'), ['--hold'])
  t.same(await complete('cluster', 'ac'), ['accept'])
  t.same(await complete('segment', ''), ['list', 'plan', 'ping', 'doctor', 'capture'])
  t.same(await complete('segment', 'ping', 'a', 'b', '--p'), ['--path'])
  t.same(await complete('cache', ''), ['status', 'preheat', 'budget', 'retained', 'list', 'purge', 'export'])
  t.same((await complete('cache', 'retained', '')).filter(w => !w.startsWith('-')), ['purge'])
  t.same(await complete('cache', 'preheat', 'demo', '--m'), ['--manifest', '--mirror'])
  t.same(await complete('cluster', 'adopt', 'demo', '--f'), ['--force'])
  t.same(await complete('no', 'such', 'sit'), ['site'], 'what is no command does not get in the way')
})

t.test('musubi completion prints it', async t => {
  const { stdout } = await run(process.execPath, [CLI, 'completion'], { env: { NODE_OPTIONS: '' } })
  t.match(stdout, /complete -o default -F _musubi musubi/)
  t.match(stdout, /"site policy"\) words="get set check diff"/)
})
