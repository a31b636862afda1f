/** A client that writes the bytes of a request as they are and reads answers strictly: it mends nothing for either side. */
import { connect } from 'node:net'
import type { Socket } from 'node:net'

export interface RawAnswer {
  status: number
  version: string
  /** as they came, in order */
  headers: Array<[string, string]>
  body: Buffer
  framing: 'length' | 'chunked' | 'close' | 'none'
  /** statuses of 1xx answers before it */
  interim: number[]
}

/** What was wrong with an answer, in words; never thrown for what the server said in good form. */
export class AnswerError extends Error {
  override readonly name = 'AnswerError'
}

const ANSWER_TIMEOUT_MS = 20_000

/** One connection: answers are read in the order of the requests. */
export class RawConnection {
  #socket: Socket
  #chunks: Buffer[] = []
  #ended = false
  #error: Error | null = null
  #wake: (() => void) | null = null

  constructor (host: string, port: number) {
    this.#socket = connect({ host, port, noDelay: true, allowHalfOpen: true })
    this.#socket.on('data', chunk => { this.#chunks.push(chunk); this.#wake?.() })
    this.#socket.on('end', () => { this.#ended = true; this.#wake?.() })
    this.#socket.on('close', () => { this.#ended = true; this.#wake?.() })
    this.#socket.on('error', error => { this.#error = error; this.#ended = true; this.#wake?.() })
  }

  send (bytes: Buffer | string): void {
    this.#socket.write(bytes)
  }

  close (): void {
    this.#socket.destroy()
  }

  /** Waits for more bytes. @returns false when none will come */
  async #more (): Promise<boolean> {
    const had = this.#chunks.length
    if (this.#ended) return false
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => reject(new AnswerError('no answer in time')), ANSWER_TIMEOUT_MS)
      this.#wake = () => { clearTimeout(timer); this.#wake = null; resolve() }
    })
    return this.#chunks.length > had || !this.#ended
  }

  #joined (): Buffer {
    const all = this.#chunks.length === 1 ? this.#chunks[0] ?? Buffer.alloc(0) : Buffer.concat(this.#chunks)
    this.#chunks = [all]
    return all
  }

  /** Takes bytes off the front. */
  #take (bytes: number): Buffer {
    const all = this.#joined()
    this.#chunks = [all.subarray(bytes)]
    return all.subarray(0, bytes)
  }

  async #line (what: string): Promise<string> {
    for (;;) {
      const end = this.#joined().indexOf('\n')
      if (end >= 0) return this.#take(end + 1).toString('latin1').replace(/\r?\n$/, '')
      if (!await this.#more()) throw new AnswerError(`the connection ended in ${what}${this.#error === null ? '' : ` (${this.#error.message})`}`)
    }
  }

  async #bytes (count: number): Promise<Buffer> {
    let had = this.#chunks.reduce((sum, chunk) => sum + chunk.length, 0)
    while (had < count) {
      const seen = this.#chunks.length
      if (!await this.#more()) throw new AnswerError(`the body ended after ${had} of ${count} bytes`)
      had += this.#chunks.slice(seen).reduce((sum, chunk) => sum + chunk.length, 0)
    }
    return this.#take(count)
  }

  /** Reads at least so many bytes of whatever comes, and leaves. */
  async abort (afterBytes: number): Promise<void> {
    while (this.#chunks.reduce((sum, chunk) => sum + chunk.length, 0) < afterBytes && await this.#more()) { /* reading on */ }
    this.close()
  }

  /** @throws AnswerError when what comes is no complete HTTP answer */
  async read (method: string): Promise<RawAnswer> {
    const interim: number[] = []
    for (;;) {
      const first = await this.#line('the status line')
      const match = /^(HTTP\/\d\.\d) (\d{3})(?: .*)?$/.exec(first)
      if (match === null) throw new AnswerError(`no status line: ${JSON.stringify(first.slice(0, 80))}`)
      const headers: Array<[string, string]> = []
      for (let line = await this.#line('the headers'); line !== ''; line = await this.#line('the headers')) {
        const colon = line.indexOf(':')
        if (colon < 1) throw new AnswerError(`no header: ${JSON.stringify(line.slice(0, 80))}`)
        headers.push([line.slice(0, colon), line.slice(colon + 1).trim()])
      }
      const status = Number(match[2])
      if (status >= 100 && status < 200) { interim.push(status); continue }
      return { status, version: match[1] ?? '', headers, interim, ...await this.#body(method, status, headers) }
    }
  }

  async #body (method: string, status: number, headers: ReadonlyArray<readonly [string, string]>): Promise<Pick<RawAnswer, 'body' | 'framing'>> {
    const valueOf = (name: string): string | undefined => headers.find(([key]) => key.toLowerCase() === name)?.[1]
    if (method === 'HEAD' || status === 204 || status === 304) return { body: Buffer.alloc(0), framing: 'none' }
    if (/chunked/i.test(valueOf('transfer-encoding') ?? '')) {
      const parts: Buffer[] = []
      for (;;) {
        const size = /^([0-9a-f]+)(?:;.*)?$/i.exec((await this.#line('a chunk')).trim())?.[1]
        if (size === undefined) throw new AnswerError('a chunk without a size')
        if (Number.parseInt(size, 16) === 0) break
        parts.push(await this.#bytes(Number.parseInt(size, 16)))
        if (await this.#line('a chunk') !== '') throw new AnswerError('a chunk longer than its size')
      }
      while (await this.#line('the trailers') !== '') { /* none of interest */ }
      return { body: Buffer.concat(parts), framing: 'chunked' }
    }
    const length = valueOf('content-length')
    if (length !== undefined) return { body: Buffer.from(await this.#bytes(Number(length))), framing: 'length' }
    while (await this.#more()) { /* until the end */ }
    if (this.#error !== null) throw new AnswerError(`the connection broke: ${this.#error.message}`)
    const body = this.#joined()
    this.#chunks = []
    return { body: Buffer.from(body), framing: 'close' }
  }
}
