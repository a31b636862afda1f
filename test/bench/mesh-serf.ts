/** Serf from Debian as a peer: agents on loopback with the LAN profile, asked over their RPC (msgpack over TCP). */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

const RPC_PORT = 7373
const START_TIMEOUT_MS = 60_000

type Value = string | number | boolean | null | Value[] | { [key: string]: Value }

function encode (value: Value): Buffer {
  if (typeof value === 'boolean') return Buffer.from([value ? 0xc3 : 0xc2])
  if (typeof value === 'number') {
    const bytes = Buffer.alloc(5, 0xd2)
    bytes.writeInt32BE(value, 1)
    return bytes
  }
  if (typeof value === 'string') {
    const head = Buffer.alloc(3, 0xda)
    head.writeUInt16BE(Buffer.byteLength(value), 1)
    return Buffer.concat([head, Buffer.from(value)])
  }
  if (value === null) return Buffer.from([0xc0])
  if (Array.isArray(value)) return Buffer.concat([Buffer.from([0x90 | value.length]), ...value.map(encode)])
  const entries = Object.entries(value)
  return Buffer.concat([Buffer.from([0x80 | entries.length]), ...entries.flatMap(([key, item]) => [encode(key), encode(item)])])
}

const textOf = (value: Value | undefined): string => typeof value === 'string' ? value : JSON.stringify(value)

/** Reads values one after the other. @throws RangeError when the bytes do not hold a whole one yet */
class Reader {
  readonly #bytes: Buffer
  at = 0

  constructor (bytes: Buffer) {
    this.#bytes = bytes
  }

  #take (count: number): Buffer {
    if (this.at + count > this.#bytes.length) throw new RangeError('more bytes are needed')
    this.at += count
    return this.#bytes.subarray(this.at - count, this.at)
  }

  #uint (size: number): number {
    const bytes = this.#take(size)
    return size === 8 ? Number(bytes.readBigUInt64BE()) : bytes.readUIntBE(0, size)
  }

  #list (count: number): Value[] {
    return Array.from({ length: count }, () => this.read())
  }

  #map (count: number): Value {
    return Object.fromEntries(Array.from({ length: count }, () => [textOf(this.read()), this.read()]))
  }

  read (): Value {
    const tag = this.#uint(1)
    if (tag < 0x80) return tag
    if (tag < 0x90) return this.#map(tag & 0x0f)
    if (tag < 0xa0) return this.#list(tag & 0x0f)
    if (tag < 0xc0) return this.#take(tag & 0x1f).toString()
    if (tag >= 0xe0) return tag - 256
    switch (tag) {
      case 0xc0: return null
      case 0xc2: return false
      case 0xc3: return true
      case 0xc4: case 0xd9: return this.#take(this.#uint(1)).toString()
      case 0xc5: case 0xda: return this.#take(this.#uint(2)).toString()
      case 0xc6: case 0xdb: return this.#take(this.#uint(4)).toString()
      case 0xca: return this.#take(4).readFloatBE()
      case 0xcb: return this.#take(8).readDoubleBE()
      case 0xcc: return this.#uint(1)
      case 0xcd: return this.#uint(2)
      case 0xce: return this.#uint(4)
      case 0xcf: return this.#uint(8)
      case 0xd0: return this.#take(1).readInt8()
      case 0xd1: return this.#take(2).readInt16BE()
      case 0xd2: return this.#take(4).readInt32BE()
      case 0xd3: return Number(this.#take(8).readBigInt64BE())
      case 0xdc: return this.#list(this.#uint(2))
      case 0xde: return this.#map(this.#uint(2))
      case 0xdf: return this.#map(this.#uint(4))
      default: throw new Error(`Serf sent a msgpack tag 0x${tag.toString(16)} that is not known here`)
    }
  }
}

const isObject = (value: Value): value is { [key: string]: Value } => typeof value === 'object' && value !== null && !Array.isArray(value)

/** One RPC connection: every object that is no header goes to `onBody`. */
class Rpc {
  readonly #socket: Socket
  #seq = 0
  #rest = Buffer.alloc(0)

  constructor (socket: Socket, onBody: (body: { [key: string]: Value }) => void) {
    this.#socket = socket
    socket.on('error', () => undefined)
    socket.on('data', data => {
      this.#rest = Buffer.concat([this.#rest, data])
      for (;;) {
        const reader = new Reader(this.#rest)
        let value: Value
        try {
          value = reader.read()
        } catch (error) {
          if (error instanceof RangeError) return
          throw error
        }
        this.#rest = this.#rest.subarray(reader.at)
        if (!isObject(value)) continue
        if ('Seq' in value && 'Error' in value) {
          if (value['Error'] !== '') throw new Error(`Serf: ${textOf(value['Error'])}`)
        } else {
          onBody(value)
        }
      }
    })
  }

  send (command: string, body: Value | null): void {
    const head = encode({ Command: command, Seq: this.#seq++ })
    this.#socket.write(body === null ? head : Buffer.concat([head, encode(body)]))
  }

  close (): void {
    this.#socket.destroy()
  }
}

async function open (host: string): Promise<Socket> {
  for (const end = performance.now() + START_TIMEOUT_MS; ;) {
    const socket = connect(RPC_PORT, host)
    try {
      await once(socket, 'connect')
      return socket
    } catch (cause) {
      if (performance.now() > end) throw new Error(`no Serf agent answers at ${host}:${RPC_PORT}; is it installed (apt-get install serf)?`, { cause })
      await sleep(50)
    }
  }
}

export interface SerfCluster {
  readonly size: number
  /** Agent `by` says `payload`, as a user event that is not held back to be coalesced. */
  say (by: number, payload: string): void
  close (): Promise<void>
}

/** Agents that all know each other. @param onEvent told as each agent hears of an event */
export async function startSerf (size: number, onEvent: (agent: number, payload: string) => void): Promise<SerfCluster> {
  const net = `127.${1 + Math.floor(Math.random() * 250)}.${Math.floor(Math.random() * 250)}`
  const addressOf = (n: number): string => `${net}.${n + 1}`
  process.setMaxListeners(0)
  const processes: ChildProcess[] = []
  const connections: Rpc[] = []
  const members = new Map<number, number>()
  const start = (n: number): void => {
    const child = spawn('serf', ['agent', `-node=s${n}`, `-bind=${addressOf(n)}:7946`, `-rpc-addr=${addressOf(n)}:${RPC_PORT}`, '-profile=lan', '-log-level=err', ...(n === 0 ? [] : [`-join=${addressOf(0)}`])], { stdio: 'ignore' })
    child.once('error', () => undefined)
    processes.push(child)
    process.once('exit', () => { child.kill('SIGKILL') })
  }
  const close = async (): Promise<void> => {
    for (const rpc of connections) rpc.close()
    await Promise.all(processes.map(async child => {
      if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return
      const gone = once(child, 'exit')
      child.kill('SIGKILL')
      await gone
    }))
  }
  try {
    for (let n = 0; n < size; n++) {
      start(n)
      const rpc = new Rpc(await open(addressOf(n)), body => {
        if (Array.isArray(body['Members'])) members.set(n, body['Members'].length)
        if (body['Event'] === 'user') onEvent(n, textOf(body['Payload']))
      })
      rpc.send('handshake', { Version: 1 })
      rpc.send('stream', { Type: 'user' })
      connections.push(rpc)
    }
    for (const end = performance.now() + START_TIMEOUT_MS; ![...members.values()].every(count => count === size) || members.size < size;) {
      if (performance.now() > end) throw new Error(`Serf's agents do not know each other after ${START_TIMEOUT_MS} ms`)
      for (const rpc of connections) rpc.send('members', null)
      await sleep(500)
    }
  } catch (error) {
    await close()
    throw error
  }
  return {
    size,
    say: (by, payload) => { connections[by]?.send('event', { Name: 'capacity', Payload: payload, Coalesce: false }) },
    close
  }
}
