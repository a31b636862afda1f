import { once } from 'node:events'
import { createConnection } from 'node:net'
import { endianness } from 'node:os'
import { MusubiError } from '../../../protocol/core/errors.ts'

/** Sizes and offsets of `struct tgtadm_req` and `struct tgtadm_rsp`, as tgt 1.0.85 has them; a tgtd with others does not answer. */
const REQUEST_BYTES = 120
const REPLY_BYTES = 8
const AT = { mode: 0, op: 4, driver: 8, length: 72, target: 76, lun: 88 } as const
const MODE_ACCOUNT = 7
const OP_NEW = 0
const DRIVER = 'iscsi'
const NONE = 0xffff_ffff

/** One whole message as `tgtadm --lld iscsi --mode account --op new` writes it: the header, then text that ends with a zero. Pure. */
export function accountRequest (user: string, secret: string, order: 'LE' | 'BE' = endianness()): Buffer {
  const text = Buffer.from(`user=${user},password=${secret}\0`, 'latin1')
  const message = Buffer.concat([Buffer.alloc(REQUEST_BYTES), text])
  const put = (value: number, at: number): void => { if (order === 'LE') message.writeUInt32LE(value, at); else message.writeUInt32BE(value, at) }
  put(MODE_ACCOUNT, AT.mode)
  put(OP_NEW, AT.op)
  message.write(DRIVER, AT.driver, 'latin1')
  put(message.length, AT.length)
  for (const at of [AT.target, AT.lun, AT.lun + 4]) put(NONE, at)
  return message
}

/**
 * Makes an account at a tgtd over its control socket, which only root may use. `tgtadm` takes the secret as an
 * argument, and arguments of all processes can be read by every user of the host.
 *
 * @param path the control socket
 * @param timeoutMs for the whole exchange
 * @throws MusubiError ACCOUNT_FAILED; it never carries the secret
 */
export async function newTgtAccount (path: string, account: { user: string, secret: string }, timeoutMs: number, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted()
  const fail = (why: string, cause?: unknown): never => {
    throw new MusubiError('ACCOUNT_FAILED', `tgtd at ${path} did not take the CHAP user ${account.user}: ${why}`, { retryable: true, cause, hint: 'does its version match the package tgt of this host? see tgtadm --version' })
  }
  const socket = createConnection(path)
  let reply = Buffer.alloc(0)
  try {
    const within = AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)])
    socket.on('data', (part: Buffer) => {
      reply = Buffer.concat([reply, part])
      if (reply.length >= REPLY_BYTES) socket.end()
    })
    socket.write(accountRequest(account.user, account.secret))
    await once(socket, 'close', { signal: within })
  } catch (error) {
    signal.throwIfAborted()
    fail(error instanceof Error ? error.message : 'no connection', error)
  } finally {
    socket.destroy()
  }
  if (reply.length < REPLY_BYTES) fail('it closed the connection without an answer')
  const code = endianness() === 'LE' ? reply.readUInt32LE(0) : reply.readUInt32BE(0)
  if (code !== 0) fail(`error ${code}`)
}
