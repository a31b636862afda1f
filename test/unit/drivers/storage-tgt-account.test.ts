import { mkdtemp, rm } from 'node:fs/promises'
import { createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { accountRequest, newTgtAccount } from '../../../agent/drivers/storage/tgt-account.ts'

const account = { user: 'abc', secret: 'secretword' }
const signal = (): AbortSignal => AbortSignal.timeout(20_000)

/** Something that listens as a tgtd would. @returns its path */
async function pretend (t: Test, onSocket: (socket: Socket) => void): Promise<string> {
  // a path of a socket has 107 bytes
  const dir = await mkdtemp(join(tmpdir(), 'mzt-'))
  const path = join(dir, 's')
  const sockets: Socket[] = []
  const server = createServer(socket => {
    sockets.push(socket)
    socket.on('error', () => undefined)
    onSocket(socket)
  })
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
    return rm(dir, { recursive: true })
  })
  await new Promise<void>(resolve => { server.listen(path, resolve) })
  return path
}

function answer (code: number): Buffer {
  const reply = Buffer.alloc(8)
  reply.writeUInt32LE(code, 0)
  reply.writeUInt32LE(8, 4)
  return reply
}

t.test('the message is the one that tgtadm 1.0.85 writes', t => {
  // strace -x tgtadm --lld iscsi --mode account --op new --user abc --password secretword
  const header = `0700000000000000${Buffer.from('iscsi').toString('hex')}${'00'.repeat(59)}95000000ffffffff${'00'.repeat(8)}${'ff'.repeat(8)}${'00'.repeat(24)}`
  t.equal(accountRequest('abc', 'secretword', 'LE').toString('hex'), header + Buffer.from('user=abc,password=secretword\0').toString('hex'))
  t.equal(accountRequest('abc', 'secretword', 'BE').subarray(0, 8).toString('hex'), '0000000700000000')
  t.end()
})

t.test('all of it arrives, and a good answer ends the call', async t => {
  let got = Buffer.alloc(0)
  const path = await pretend(t, socket => {
    socket.on('data', part => {
      got = Buffer.concat([got, Buffer.from(part)])
      if (got.length === 149) socket.write(answer(0))
    })
  })
  await newTgtAccount(path, account, 20_000, signal())
  t.strictSame(got, accountRequest('abc', 'secretword'))
})

t.test('refusals, silence and aborts are errors without the secret', async t => {
  const refusing = await pretend(t, socket => { socket.once('data', () => { socket.end(answer(22)) }) })
  const fails = async (path: string, why: RegExp): Promise<void> => {
    const error: unknown = await newTgtAccount(path, account, 300, signal()).then(() => null, (thrown: unknown) => thrown)
    t.match(error, { code: 'ACCOUNT_FAILED', retryable: true, message: why })
    t.notMatch(String(error), 'secretword')
  }
  await fails(refusing, /CHAP user abc: error 22/)
  await fails(await pretend(t, socket => { socket.once('data', () => { socket.end() }) }), /without an answer/)
  await fails(await pretend(t, () => undefined), /abort|time/i)
  await fails(`${refusing}-none`, /ENOENT/)
  await t.rejects(newTgtAccount(refusing, account, 300, AbortSignal.abort(new Error('stopped'))), { message: 'stopped' })
})
