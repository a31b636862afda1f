import type { Command } from 'commander'
import { wantsJson } from '../context.ts'
import { show } from '../output.ts'
import { addAgentViews, addCoordinatorViews } from './views.ts'

/**
 * The daemons are subcommands of the one binary. They are loaded only when asked for, so that a
 * short command does not pay for libp2p.
 */
export function addDaemonCommands (program: Command): void {
  const agent = program.command('agent').description('the daemon of a host')
  agent.command('run').description('run in the foreground, as systemd does')
    .option('-c, --config <file>', 'configuration', '/etc/musubi/agent.yaml')
    .action(async (o: { config: string }) => { await (await import('../../agent/main.ts')).runAgent(o.config) })
  agent.command('init').description('make this host\'s key, once, and print its PeerId for the federation file')
    .option('-c, --config <file>', 'configuration', '/etc/musubi/agent.yaml')
    .action(async (o: { config: string }, command: Command) => {
      show(await (await import('../../agent/main.ts')).initAgent(o.config), wantsJson(command), r => `${r.peerId}\nkey file  ${r.keyFile}\nnext      add this PeerId to the federation file of every host, then: systemctl start musubi-agent`)
    })
  agent.command('reset').description('after the state folder was lost: let the next start remove nodes and volumes that no ledger asks for')
    .option('-c, --config <file>', 'configuration', '/etc/musubi/agent.yaml')
    .requiredOption('--yes', 'the data of those volumes is given up')
    .action(async (o: { config: string }, command: Command) => {
      show(await (await import('../../agent/main.ts')).resetAgent(o.config), wantsJson(command), r => `declared in ${r.stateDir}; next: systemctl start musubi-agent`)
    })
  agent.command('doctor').description('what this host lacks for its roles, and what mends it')
    .option('-c, --config <file>', 'configuration', '/etc/musubi/agent.yaml')
    .action(async (o: { config: string }, command: Command) => {
      const problems = await (await import('../../agent/main.ts')).doctor(o.config)
      show(problems, wantsJson(command), list => list.length === 0 ? 'Nothing is missing.' : list.map(p => `- ${p}`).join('\n'))
      if (problems.length > 0) process.exitCode = 3
    })
  addAgentViews(agent)

  const coordinator = program.command('coordinator').description('the repository of sites')
  coordinator.command('run').description('run in the foreground, as systemd does')
    .option('-c, --config <file>', 'configuration', '/etc/musubi/coordinator.yaml')
    .action(async (o: { config: string }) => {
      const { createNotifier } = await import('../../agent/services/notify.ts')
      await (await import('../../coordinator/main.ts')).runCoordinator(o.config, createNotifier())
    })
  coordinator.command('init').description('make the coordinator\'s key, once, and print its PeerId')
    .option('-c, --config <file>', 'configuration', '/etc/musubi/coordinator.yaml')
    .action(async (o: { config: string }, command: Command) => {
      show(await (await import('../../coordinator/main.ts')).initCoordinator(o.config), wantsJson(command), r => `${r.peerId}\nkey file  ${r.keyFile}`)
    })
  addCoordinatorViews(coordinator)

  const image = program.command('image').description('images that nodes boot')
  const store = '--store <dir>'
  image.command('build').description('build the default node image (Debian 12) once; it is kept by digest')
    .option(store, 'image store', '/var/lib/musubi/images')
    .action(async (o: { store: string }, command: Command) => {
      const { buildNodeImage } = await import('../../agent/images/build.ts')
      const result = await buildNodeImage({ storeDir: o.store, signal: AbortSignal.timeout(1_800_000), onProgress: step => { if (!wantsJson(command)) process.stderr.write(`${step}\n`) } })
      show(result, wantsJson(command), r => `${r.digest}${r.built ? '  built' : '  already there'}`)
    })
  image.command('list').description('images in the store')
    .option(store, 'image store', '/var/lib/musubi/images')
    .action(async (o: { store: string }, command: Command) => {
      const { openImageStore } = await import('../../agent/images/store.ts')
      const images = (await openImageStore(o.store).list()).map(({ digest, dir, manifest }) => ({ digest, dir, files: manifest.files }))
      show(images, wantsJson(command), list => list.length === 0 ? 'No image. Build one with: musubi image build' : list.map(i => i.digest).join('\n'))
    })
}
