import type { Command } from 'commander'
import { addSearch } from './search.ts'
import { call, events } from '../client.ts'
import { agentEndpoint, untilInterrupted, wantsJson } from '../context.ts'
import { show } from '../output.ts'
import { statusText } from '../render.ts'
import type { AgentStatus, EventResource } from '../../protocol/api.ts'

export function addViewCommands (program: Command): void {
  addSearch(program, 'the view of this agent', agentEndpoint)

  program.command('events').description('what happened here, and with --follow what happens')
    .option('-F, --follow', 'go on until Ctrl-C')
    .addHelpText('after', '\nExamples:\n  musubi events\n  musubi events -F --json')
    .action(async (o: { follow?: boolean }, command: Command) => {
      const json = wantsJson(command)
      const print = (e: EventResource): void => { process.stdout.write(json ? `${JSON.stringify(e)}\n` : `${new Date(e.time).toISOString()}  ${e.type.padEnd(16)} ${e.message}\n`) }
      const endpoint = agentEndpoint(command)
      if (o.follow !== true) { for (const e of await call<EventResource[]>(endpoint, 'GET', '/v1/events')) print(e); return }
      for await (const e of events<EventResource>(endpoint, '/v1/events/stream', untilInterrupted())) print(e)
    })
}

export function addAgentViews (agent: Command): void {
  agent.command('status').description('identity, certificate, peers, capacity and objects of the running agent')
    .addHelpText('after', '\nExamples:\n  musubi agent status\n  musubi agent status --json | jq .certificate.notAfterMs')
    .action(async (_o: object, command: Command) => { show(await call<AgentStatus>(agentEndpoint(command), 'GET', '/v1/status'), wantsJson(command), statusText) })
}
