import { once } from 'node:events'
import { createServer } from 'node:net'

/** A free port of an address of the test's own: parallel tests have others. */
export async function freePort (address: string): Promise<number> {
  const server = createServer().listen(0, address)
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  await once(server, 'close')
  return port
}
