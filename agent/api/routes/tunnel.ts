import { RotationSchema, RotateBodySchema, TunnelSchema } from '../../../protocol/network-api.ts'
import type { Api } from '../../../protocol/rest/server.ts'
import type { Tunnels } from '../../tunnel/tunnels.ts'

/** The tunnel to other sites, and the exchange of its keys. */
export function addTunnelRoutes (api: Api, tunnels: () => Pick<Tunnels, 'show' | 'rotate'>): void {
  api.get('/v1/tunnel', { schema: { summary: 'the tunnel of this gateway: interfaces, keys, other gateways', response: { 200: TunnelSchema } } }, () => tunnels().show())
  api.post('/v1/tunnel/rotations', { schema: { summary: 'exchange the keys of this gateway for new ones; it goes on in the background', body: RotateBodySchema, response: { 202: RotationSchema } } }, async (request, reply) => {
    return await reply.status(202).send(await tunnels().rotate(request.body.force === true))
  })
}
