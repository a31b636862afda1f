import type { Command } from 'commander'
import { call } from '../client.ts'
import { agentEndpoint, wantsJson } from '../context.ts'
import { show } from '../output.ts'
import { rotationText, tunnelText } from '../render/tunnel.ts'
import type { RotationResource, TunnelResource } from '../../protocol/network-api.ts'

export function addTunnelCommands (program: Command): void {
  const tunnel = program.command('tunnel').description('the encrypted tunnel to other sites, on a gateway')

  tunnel.command('show').description('interfaces and keys, other gateways, their endpoints, handshakes and paths')
    .addHelpText('after', `
"key from document" stands for a gateway that has not been heard yet: what the documents of clusters say of
its key counts until its own record is here.

Examples:
  musubi tunnel show
  musubi tunnel show --json | jq -r '.gateways[] | [.site, .heard, (.sessions[] | select(.inUse) | .handshakeAgeMs)] | @tsv'`)
    .action(async (_o: object, command: Command) => {
      show(await call<TunnelResource>(agentEndpoint(command), 'GET', '/v1/tunnel'), wantsJson(command), tunnelText)
    })

  tunnel.command('rotate').description('exchange this gateway\'s keys for new ones; nothing is lost on the way')
    .option('--force', 'also where a gateway of a cluster would not hear of the new key; its tunnel ends after 24 hours')
    .addHelpText('after', `
The wish is kept, and the exchange goes on in the background for a minute or two: follow it with
musubi tunnel show. Keys are exchanged by age as well (tunnelKeyMaxAgeHours).

Examples:
  musubi tunnel rotate
  musubi tunnel rotate --json | jq .epoch`)
    .action(async (o: { force?: boolean }, command: Command) => {
      show(await call<RotationResource>(agentEndpoint(command), 'POST', '/v1/tunnel/rotations', o.force === true ? { force: true } : {}), wantsJson(command), rotationText)
    })
}
