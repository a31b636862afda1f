import { createHash } from 'node:crypto'
import { createServer } from 'node:http'

/** A frontend's dynamic service: tells who asked, and what arrived; usage: cache-origin.ts ADDRESS PORT. */
const [address, port] = process.argv.slice(2)

const server = createServer((request, response) => {
  const hash = createHash('sha256')
  let bytes = 0
  request.on('data', (chunk: Buffer) => {
    hash.update(chunk)
    bytes += chunk.length
  })
  request.on('end', () => {
    const answer = JSON.stringify({ remote: request.socket.remoteAddress, port: request.socket.remotePort, method: request.method, url: request.url, bytes, sha256: hash.digest('hex') })
    response.writeHead(200, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(answer), etag: '"always-the-same"' })
    response.end(request.method === 'HEAD' ? '' : answer)
  })
})
server.requestTimeout = 0
server.listen(Number(port), address)
