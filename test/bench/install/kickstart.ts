/**
 * What tells nodes apart: a frontend's program that makes a kickstart file for whoever asks. usage: kickstart.ts ADDRESS PORT
 * Behind the frontend's web server, which says in X-Node from where the request came.
 */
import { createServer } from 'node:http'

/** Of the order of what Rocks made; nodes check this length, and that it is theirs. */
const KICKSTART_BYTES = 8_192

const [address, port] = process.argv.slice(2)
createServer((request, response) => {
  const mac = new URL(request.url ?? '/', 'http://frontend').searchParams.get('mac') ?? ''
  const text = `# for ${mac} at ${String(request.headers['x-node'])}\ninstall\nurl --url http://10.42.0.1/install\n`
  response.writeHead(200, { 'content-type': 'text/plain', 'content-length': KICKSTART_BYTES, 'cache-control': 'no-store' }).end(text.padEnd(KICKSTART_BYTES, '#\n'))
}).listen(Number(port), address)
