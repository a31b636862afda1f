import { createHash } from 'node:crypto'
import { createSocket } from 'node:dgram'
import type { RemoteInfo } from 'node:dgram'

/**
 * A client of TFTP for tests, strict about where packets come from:
 * `tftp-client.ts ADDRESS NAME [mode=octet] [blksize=..] [windowsize=..] [timeout=..] [tsize=0] [lose=N] [leave=N] [write=1]`.
 * `lose`: every N-th packet of data is taken for lost; `leave`: goes away after so many blocks. Prints what it saw as JSON.
 */
export interface TftpSeen {
  bytes: number
  sha256: string
  /** what the other end said, as `code text`; `silent` when it said nothing for long; null: all came */
  error: string | null
  granted: Record<string, string>
  /** source ports of all that came */
  ports: number[]
  /** packets that came from elsewhere than the first one */
  strange: number
  repeated: number
}

const [address = '', name = '', ...rest] = process.argv.slice(2)
const given = Object.fromEntries(rest.map(pair => pair.split('='))) as Record<string, string>
const { mode = 'octet', lose = '0', leave = '0', write, ...options } = given
const SILENCE_MS = 1_500
const SILENCES_MAX = 12

const socket = createSocket('udp4')
const hash = createHash('sha256')
const seen: TftpSeen = { bytes: 0, sha256: '', error: null, granted: {}, ports: [], strange: 0, repeated: 0 }
const fields = [name, mode, ...Object.entries(options).flat()].map(field => `${field}\0`).join('')
let last = Buffer.concat([Buffer.from([0, write === undefined ? 1 : 2]), Buffer.from(fields, 'latin1')])
let peer: number | null = null
let block = 0
let packets = 0
let silences = 0
let inWindow = 0
let timer = setTimeout(silent, SILENCE_MS)

function finish (error: string | null): void {
  clearTimeout(timer)
  seen.error = error
  seen.sha256 = hash.digest('hex')
  process.stdout.write(`${JSON.stringify(seen)}\n`)
  socket.close()
}

function say (): void {
  socket.send(last, peer ?? 69, address)
}

function silent (): void {
  if (++silences > SILENCES_MAX) { finish('silent'); return }
  inWindow = 0
  say()
  timer = setTimeout(silent, SILENCE_MS)
}

function acknowledge (): void {
  inWindow = 0
  last = Buffer.from([0, 4, block >> 8 & 255, block & 255])
  say()
}

socket.on('message', (packet, from: RemoteInfo) => {
  if (!seen.ports.includes(from.port)) seen.ports.push(from.port)
  if (from.address !== address || (peer !== null && from.port !== peer)) { seen.strange++; return }
  peer = from.port
  const code = packet.readUInt16BE(0)
  if (code === 5) { finish(`${packet.readUInt16BE(2)} ${packet.toString('latin1', 4, packet.length - 1)}`); return }
  if (code === 6 && block === 0) {
    const texts = packet.toString('latin1', 2).split('\0')
    for (let i = 0; i + 1 < texts.length; i += 2) seen.granted[texts[i] ?? ''] = texts[i + 1] ?? ''
    silences = 0
    acknowledge()
    return
  }
  if (code !== 3) return
  if (lose !== '0' && ++packets % Number(lose) === 0) return
  const number = packet.readUInt16BE(2)
  if (number !== (block + 1 & 0xffff)) {
    const behind = (block - number & 0xffff) < 0x8000
    if (behind) seen.repeated++
    // a gap: what came in order is told, once
    else if (inWindow > 0) acknowledge()
    return
  }
  clearTimeout(timer)
  silences = 0
  timer = setTimeout(silent, SILENCE_MS)
  block++
  inWindow++
  const data = packet.subarray(4)
  hash.update(data)
  seen.bytes += data.length
  const size = Number(seen.granted['blksize'] ?? 512)
  if (leave !== '0' && block === Number(leave)) { finish('left'); return }
  if (data.length < size) { acknowledge(); setTimeout(() => { finish(null) }, 50); return }
  if (inWindow >= Number(seen.granted['windowsize'] ?? 1)) acknowledge()
})
say()
