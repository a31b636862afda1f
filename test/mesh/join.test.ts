import { spawn, type ChildProcess } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { join as joinPath } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { noise } from '@chainsafe/libp2p-noise'
import { privateKeyToProtobuf } from '@libp2p/crypto/keys'
import { tcp } from '@libp2p/tcp'
import { lpStream } from '@libp2p/utils'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p, type Libp2p } from 'libp2p'
import t, { type Test } from 'tap'
import { JOIN_TIMEOUT_MS, MAX_JOIN_BYTES, MAX_JOIN_CONNECTIONS } from '../../protocol/core/limits.ts'
import { createKey, peerIdOf, type NodeKey } from '../../protocol/mesh/identity.ts'
import { authoriseHosts, authoriseSites, coordinatorAuthority, siteAuthority } from '../../protocol/mesh/join/authority.ts'
import { createInvitations } from '../../protocol/mesh/join/invitations.ts'
import { createJoinListener, JOIN_PROTOCOL } from '../../protocol/mesh/join/listener.ts'
import { hmac, replyBytes, requestBytes } from '../../protocol/mesh/join/proof.ts'
import { redeem } from '../../protocol/mesh/join/redeem.ts'
import { encodeToken, parseToken } from '../../protocol/mesh/join/token.ts'
import type { Invitations, JoinListener, Redeemed, RedeemOptions } from '../../protocol/mesh/join/types.ts'
import { readChain, readMember, type Chain } from '../../protocol/mesh/trust/certificate.ts'
import { decode, encode, type wire } from '../../protocol/wire/codec.ts'
import { invitationStore } from '../../store/invitations.ts'
import { createMemoryStore } from '../../store/memory.ts'
import { createKit } from '../trust-kit.ts'
import type { IssuerConfig } from './issuer.ts'

const kit = await createKit({
  coordinators: ['main'],
  sites: [{ name: 'tokyo', hosts: [{ name: 'gw1', roles: ['gateway'], segmentIds: { from: 1000, to: 1999 } }] }, { name: 'osaka', hosts: [{ name: 'gw1', roles: ['gateway'] }] }]
})
const { federation } = kit
const gw1 = kit.member('tokyo/gw1')
const loopback = (): string => `127.${1 + Math.floor(Math.random() * 250)}.${Math.floor(Math.random() * 250)}`
const HOST = { kind: 'host', site: 'tokyo', roles: ['compute'], ttlMs: 600_000 } as const

interface Issuer { invitations: Invitations, listener: JoinListener, log: string[], network: string, invite: (part?: Partial<Parameters<Invitations['invite']>[0]>) => Promise<string> }
interface IssuerPart { authorise?: (request: wire.JoinRequest) => Promise<Chain>, timeoutMs?: number, kind?: 'site', now?: () => number, announce?: string[] }

async function issuer (t: Test, part: IssuerPart = {}): Promise<Issuer> {
  const network = loopback()
  const log: string[] = []
  const now = part.now ?? Date.now
  const invitations = await createInvitations({ store: invitationStore(createMemoryStore()), now, randomBytes: size => Uint8Array.from(randomBytes(size)) })
  const hosts = authoriseHosts(siteAuthority({ site: 'tokyo', federation, siteKey: kit.siteKeys.get('tokyo')!, siteChain: kit.siteChains.get('tokyo')!, issuer: null, now, taken: () => null }))
  const sites = authoriseSites(coordinatorAuthority({ coordinatorKey: kit.coordinatorKey, federation, now }))
  const listener = createJoinListener({
    key: gw1.key, federation, listen: [`/ip4/${network}.1/tcp/0`], invitations, authorise: part.authorise ?? (part.kind === 'site' ? sites : hosts), now,
    peers: () => kit.members.map(({ peerId, chain }) => ({ peerId, chain, addresses: [`/ip4/${network}.1/tcp/4001`] })),
    log: (level, text, data) => { log.push(`${level} ${text} ${JSON.stringify(data)} ${String(data.err)}`) },
    ...(part.timeoutMs === undefined ? {} : { timeoutMs: part.timeoutMs }), ...(part.announce === undefined ? {} : { announce: part.announce })
  })
  await listener.start()
  t.teardown(async () => { await listener.stop() })
  return { invitations, listener, log, network, invite: async (part = {}) => await listener.token(await invitations.invite({ ...HOST, ...part })) }
}
const join = async (token: string, part: Partial<RedeemOptions> = {}): Promise<Redeemed> => await redeem(token, { key: await createKey(), name: 'a1', now: Date.now, ...part })

/** A caller that keeps to no rule: libp2p without our code. */
async function stranger (t: Test, key?: NodeKey): Promise<Libp2p> {
  const node = await createLibp2p({ privateKey: key ?? await createKey(), transports: [tcp()], connectionEncrypters: [noise()], streamMuxers: [yamux()], connectionMonitor: { enabled: false } })
  t.teardown(async () => { await node.stop() })
  return node
}
function signed (token: wire.Token, caller: string, part: Partial<wire.JoinRequest> = {}, secret: Uint8Array = token.secret): wire.JoinRequest {
  const plain: wire.JoinRequest = { tokenId: token.id, kind: token.kind, subject: caller, name: 'a1', roles: [], segmentIds: null, addresses: [], proof: new Uint8Array(), subjectSignature: new Uint8Array(), ...part }
  return { ...plain, proof: hmac(secret, requestBytes(plain, token.issuer, caller)) }
}
async function say (node: Libp2p, token: wire.Token, bytes: Uint8Array): Promise<wire.JoinReply> {
  const stream = await node.dialProtocol(multiaddr(`${token.addresses[0] ?? ''}/p2p/${token.issuer}`), JOIN_PROTOCOL)
  const frames = lpStream(stream)
  await frames.write(bytes)
  return decode('JoinReply', (await frames.read({ signal: AbortSignal.timeout(5000) })).subarray())
}
const portOf = (token: wire.Token): number => Number(token.addresses[0]?.split('/').at(-1))
async function until (what: () => boolean | Promise<boolean>, ms = 10_000): Promise<boolean> {
  const end = Date.now() + ms
  while (!await what()) {
    if (Date.now() > end) return false
    await sleep(20)
  }
  return true
}
async function refused (host: string, port: number): Promise<boolean> {
  const socket = connect({ host, port })
  return await new Promise(resolve => {
    socket.once('error', () => { resolve(true) }).once('connect', () => {
      socket.destroy()
      resolve(false)
    })
  })
}

t.test('a host joins its site with a token, once', async t => {
  const { invite, listener, log, invitations } = await issuer(t)
  const text = await invite()
  const key = await createKey()
  const joined = await join(text, { key })
  if (joined.kind !== 'host') throw new Error('no host')
  const { credentials } = joined
  t.match(readMember(credentials.chain, federation), { peerId: peerIdOf(key), role: { kind: 'host', site: 'tokyo', host: 'a1', roles: ['compute'] } })
  t.equal(credentials.federation, federation)
  t.strictSame(credentials.peers.map(({ peerId }) => peerId), kit.members.map(({ peerId }) => peerId), 'and hears whom to connect to')
  t.strictSame(await join(text, { key }), joined, 'again: the same')
  await t.rejects(join(text), { code: 'TOKEN_USED', hint: /new token/, message: /said by the issuer at \/ip4\/127/ })
  t.match(listener.counts(), { OK: 2, TOKEN_USED: 1 })
  const { secret } = parseToken(text)
  for (const form of ['hex', 'base64', 'base64url'] as const) {
    for (const said of [...log, JSON.stringify(invitations.list()), JSON.stringify(listener.counts()), JSON.stringify(joined)]) t.notOk(said.includes(Buffer.from(secret).toString(form).slice(0, 20)), 'the secret is nowhere')
  }
  t.ok(log.length >= 3, 'there was something to look through')
})

t.test('a site joins the federation, with its site key', async t => {
  const { invite } = await issuer(t, { kind: 'site' })
  const text = await invite({ kind: 'site', site: '', roles: [] })
  const siteKey = await createKey()
  await t.rejects(join(text), { code: 'TOKEN_WRONG_KIND', hint: /musubi site init/ })
  const caller = await createKey()
  const token = parseToken(text)
  const node = await stranger(t, caller)
  t.match(await say(node, token, encode('JoinRequest', signed(token, peerIdOf(caller), { subject: peerIdOf(siteKey), name: 'kyoto' }))), { failure: { code: 'INVALID_INPUT', message: /has not signed/ } }, 'not in the name of a key that one has not')
  const joined = await join(text, { name: 'kyoto', siteKey })
  if (joined.kind !== 'site') throw new Error('no site')
  t.match(readChain(joined.siteChain, federation).certificates, [{ kind: 'site', site: 'kyoto', subject: peerIdOf(siteKey) }])
  t.match(joined, { federation, site: 'kyoto' })
  await t.rejects(join(text, { name: 'kyoto', siteKey: await createKey() }), { code: 'TOKEN_USED' })
  t.strictSame(await join(text, { name: 'kyoto', siteKey }), joined, 'also from another host of the site')
})

t.test('it listens only while somebody may come', async t => {
  const clock = { aheadMs: 0 }
  const { invite, listener, invitations, network } = await issuer(t, { now: () => Date.now() + clock.aheadMs })
  t.strictSame(listener.addresses(), [])
  const first = parseToken(await invite())
  const port = portOf(first)
  t.notOk(await refused(`${network}.1`, port))
  await invitations.withdraw(first.id)
  t.ok(await until(async () => await refused(`${network}.1`, port)), 'withdrawn: closed')
  t.strictSame(listener.addresses(), [])
  const second = parseToken(await invite({ ttlMs: 2000 }))
  t.equal(portOf(second), port, 'the port stays, for tokens that name it')
  t.notOk(await refused(`${network}.1`, port))
  t.ok(await until(async () => await refused(`${network}.1`, port)), 'expired: closed by itself')
  const third = await invite()
  await join(third)
  t.notOk(await refused(`${network}.1`, port), 'used: open, as the answer may have been lost')
  clock.aheadMs = 700_000
  await listener.refresh()
  t.ok(await refused(`${network}.1`, port))
  await t.rejects(join(third), { code: 'UNREACHABLE', message: new RegExp(`${network}\\.1/tcp/${port}: nobody listens there`), hint: /daemon running/ })
})

t.test('tokens that are not good', async t => {
  const { invite, invitations, listener } = await issuer(t)
  const text = await invite()
  const token = parseToken(text)
  await t.rejects(join(text.slice(0, -5)), { message: /cut or changed/ })
  await t.rejects(join(encodeToken({ ...token, id: randomBytes(16).toString('base64url') })), { code: 'TOKEN_UNKNOWN' })
  await t.rejects(join(encodeToken({ ...token, issuer: kit.member('osaka/gw1').peerId })), { code: 'UNREACHABLE', message: /another peer answers there/ }, 'wrong issuer')
  await t.rejects(join(encodeToken({ ...token, federation: peerIdOf(await createKey()) })), { code: 'BAD_REPLY', hint: /not of the federation/ }, 'wrong federation')
  await t.rejects(join(encodeToken({ ...token, expiresMs: Date.now() - 1 })), { code: 'TOKEN_EXPIRED', hint: /compare the clocks/ }, 'known here, without asking')
  await t.rejects(join(text, { key: gw1.key }), { code: 'INVALID_INPUT', message: /this very host/ })
  await t.rejects(join(text, { name: 'A 1' }), { code: 'INVALID_INPUT' })
  await t.rejects(join(text, { roles: ['gateway'] }), { code: 'TOKEN_USED' }, 'the wrong federation had used it')
  const fresh = await invite()
  await t.rejects(join(fresh, { roles: ['gateway'] }), { code: 'ROLE_NOT_INVITED', hint: /musubi site invite --role compute,gateway/ })
  await t.rejects(join(fresh, { siteKey: await createKey() }), { code: 'TOKEN_WRONG_KIND' })
  t.ok(await join(fresh, { name: 'a2' }), 'and it is still good')
  const early = parseToken(await invite())
  await t.rejects(join(encodeToken(early), { name: 'a3', now: () => Date.now() - 3_600_000 }), { code: 'CERTIFICATE_NOT_YET_VALID', hint: /clocks/ }, 'a clock that is an hour behind')
  await invitations.withdraw(parseToken(await invite()).id)
  t.match(listener.counts(), { TOKEN_UNKNOWN: 1, TOKEN_USED: 1, ROLE_NOT_INVITED: 1 })
})

t.test('whoever guesses burns the token', async t => {
  const { invite, invitations, listener } = await issuer(t)
  const token = parseToken(await invite())
  const other = parseToken(await invite())
  const codes: string[] = []
  for (let i = 0; i < 7; i++) await join(encodeToken({ ...token, secret: Uint8Array.from(randomBytes(32)) })).catch((error: unknown) => { codes.push((error as { code: string }).code) })
  t.strictSame(codes, [...Array<string>(5).fill('BAD_PROOF'), 'TOKEN_BURNT', 'TOKEN_BURNT'])
  t.match(listener.counts(), { BAD_PROOF: 5, TOKEN_BURNT: 2 })
  await invitations.withdraw(other.id)
  t.ok(await until(async () => await refused(token.addresses[0]?.split('/')[2] ?? '', portOf(token))), 'and nobody is awaited any more')
  const lone = parseToken(await invite())
  for (let i = 0; i < 5; i++) await t.rejects(join(encodeToken({ ...lone, secret: Uint8Array.from(randomBytes(32)) })), { code: 'BAD_PROOF' }, 'answered, though the sockets close after the last')
})

t.test('an issuer that does not know the token is not believed', async t => {
  const chain = kit.member('osaka/gw1').chain
  const answers: Array<[string, (request: wire.JoinRequest, token: wire.Token, caller: string) => wire.JoinReply]> = [
    ['no proof that it knows', () => ({ failure: null, chain: [...chain], peers: [], proof: new Uint8Array(32) })],
    ['a certificate for somebody else', (request, token, caller) => {
      const reply: wire.JoinReply = { failure: null, chain: [...chain], peers: [], proof: new Uint8Array() }
      return { ...reply, proof: hmac(token.secret, replyBytes(reply, request, token.issuer, caller)) }
    }],
    ['certificates that do not hold', (request, token, caller) => {
      const reply: wire.JoinReply = { failure: null, chain: [chain[0] ?? new Uint8Array()], peers: [], proof: new Uint8Array() }
      return { ...reply, proof: hmac(token.secret, replyBytes(reply, request, token.issuer, caller)) }
    }]
  ]
  const network = loopback()
  for (const [index, [why, answer]] of answers.entries()) {
    const address = `/ip4/${network}.${index + 1}/tcp/4002`
    const key = await createKey()
    const token: wire.Token = { id: randomBytes(16).toString('base64url'), kind: 'host', issuer: peerIdOf(key), addresses: [address], secret: Uint8Array.from(randomBytes(32)), federation, expiresMs: Date.now() + 60_000, site: 'tokyo' }
    const node = await createLibp2p({ privateKey: key, addresses: { listen: [address] }, transports: [tcp()], connectionEncrypters: [noise()], streamMuxers: [yamux()], connectionMonitor: { enabled: false } })
    t.teardown(async () => { await node.stop() })
    await node.handle(JOIN_PROTOCOL, async (stream, connection) => {
      const frames = lpStream(stream)
      const request = decode('JoinRequest', (await frames.read()).subarray())
      await frames.write(encode('JoinReply', answer(request, token, connection.remotePeer.toString())))
    })
    await t.rejects(join(encodeToken(token)), { code: 'BAD_REPLY', message: new RegExp(why) }, why)
  }
})

t.test('frames that are none', async t => {
  const { invite, listener } = await issuer(t, { timeoutMs: 2500 })
  const text = await invite()
  const token = parseToken(text)
  const caller = await createKey()
  const target = multiaddr(`${token.addresses[0] ?? ''}/p2p/${token.issuer}`)
  const send = async (bytes: Uint8Array, half = false): Promise<void> => {
    const node = await stranger(t)
    const stream = await node.dialProtocol(target, JOIN_PROTOCOL)
    const closed = new Promise(resolve => { stream.addEventListener('close', resolve, { once: true }) })
    try {
      for (let at = 0; at < bytes.length; at += 16_384) if (!stream.send(bytes.subarray(at, at + 16_384))) break
      if (half) await stream.close()
    } catch {
      // it was closed while we spoke
    }
    await closed
    await node.stop()
  }
  const varint = (value: number): number[] => value < 128 ? [value] : [(value & 127) | 128, ...varint(Math.floor(value / 128))]
  await send(Uint8Array.from(varint(MAX_JOIN_BYTES + 1)))
  await send(Uint8Array.from([...varint(2 ** 31), ...new Uint8Array(200_000)]))
  await send(Uint8Array.from([...varint(100), 1, 2, 3]), true)
  await send(Uint8Array.from([...varint(100), 1, 2, 3]))
  await send(Uint8Array.from(Array<number>(20).fill(255)))
  await send(Uint8Array.from([...varint(50), ...randomBytes(50)]))
  const counts = listener.counts()
  t.equal(Object.values(counts).reduce((a, b) => a + b, 0), 6, 'each is counted')
  t.ok((counts.BAD_FRAME ?? 0) >= 3 && (counts.TOO_SLOW ?? 0) >= 1, JSON.stringify(counts))
  const node = await stranger(t, caller)
  t.match(await say(node, token, encode('JoinRequest', signed(token, peerIdOf(caller), { name: 'x'.repeat(60_000) }))), { failure: { code: 'INVALID_INPUT' } })
  await t.rejects(node.dialProtocol(multiaddr(target), '/musubi/rpc/1'), 'no other protocol')
  t.ok(await join(text), 'it serves on')
})

const socketsTo = async (host: string, port: number, count: number, localAddress: string): Promise<Socket[]> => await Promise.all(Array.from({ length: count }, async () => {
  const socket = connect({ host, port, localAddress })
  socket.on('error', () => undefined)
  await Promise.race([once(socket, 'connect'), once(socket, 'close')])
  return socket
}))

t.test('200 half-open connections', async t => {
  const { invite, network } = await issuer(t, { timeoutMs: 5000 })
  const text = await invite()
  const port = portOf(parseToken(text))
  const crowd = await socketsTo(`${network}.1`, port, 200, `${network}.66`)
  t.teardown(() => { for (const socket of crowd) socket.destroy() })
  const waiting = (): number => crowd.filter(({ readyState }) => readyState === 'open').length
  t.ok(await until(() => waiting() <= MAX_JOIN_CONNECTIONS / 2), 'few are kept waiting, the others are gone')
  t.ok(await join(text), 'who comes from another address is served')
  t.ok(waiting() > 0, 'beside them')
  const both = [...await socketsTo(`${network}.1`, port, 100, `${network}.67`), ...await socketsTo(`${network}.1`, port, 100, `${network}.68`)]
  t.teardown(() => { for (const socket of both) socket.destroy() })
  t.ok(await join(await invite(), { name: 'a2' }), 'with every place taken, after they have timed out')
  t.ok(await until(() => [...crowd, ...both].every(socket => socket.destroyed), JOIN_TIMEOUT_MS), 'none of them is left')
  const [next] = await socketsTo(`${network}.1`, port, 1, `${network}.66`)
  await sleep(500)
  t.equal(next?.readyState, 'open', 'their address has its share again')
  next?.destroy()
})

t.test('connections that say nothing end', async t => {
  const { invite } = await issuer(t, { timeoutMs: 1000 })
  const text = await invite()
  const token = parseToken(text)
  const connections = await Promise.all(Array.from({ length: 6 }, async () => await (await stranger(t)).dial(multiaddr(`${token.addresses[0] ?? ''}/p2p/${token.issuer}`))))
  t.ok(await until(() => connections.every(({ status }) => status !== 'open')), 'closed by the listener')
  t.ok(await join(text))
})

t.test('of many addresses the one that answers is taken', async t => {
  const { invite, network } = await issuer(t)
  const token = parseToken(await invite())
  // 192.0.2.0/24 leads nowhere; the port is another's
  const addresses = ['/ip4/192.0.2.1/tcp/4002', `/ip4/${network}.9/tcp/1`, ...token.addresses]
  const begun = Date.now()
  t.ok(await join(encodeToken({ ...token, addresses })))
  t.ok(Date.now() - begun < 4500, 'without waiting for the first')
  await t.rejects(join(encodeToken({ ...token, addresses: [`/ip4/${network}.9/tcp/1`, `/ip4/${network}.9/tcp/2`] })), { code: 'UNREACHABLE', message: /tcp\/1: nobody listens there; .*tcp\/2: nobody/ })
  const gone = new AbortController()
  gone.abort(new Error('stopped by the user'))
  await t.rejects(join(encodeToken({ ...token, addresses: ['/ip4/192.0.2.1/tcp/4002'] }), { signal: gone.signal }), /stopped by the user/)
})

interface Child { process: ChildProcess, line: string, ended: Promise<unknown> }
async function startIssuer (config: IssuerConfig): Promise<Child> {
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => name !== 'NODE_OPTIONS'))
  const child = spawn(process.execPath, ['--no-warnings', joinPath(import.meta.dirname, 'issuer.ts'), JSON.stringify(config)], { stdio: ['ignore', 'pipe', 'ignore'], env, timeout: 60_000, killSignal: 'SIGKILL' })
  const ended = once(child, 'close')
  const [line] = await once(createInterface({ input: child.stdout }), 'line') as [string]
  return { process: child, line, ended }
}

t.test('killed amid a join, an issuer gives the same host the same certificate, and no other host any', async t => {
  const network = loopback()
  const secretOf = (key: NodeKey): string => Buffer.from(privateKeyToProtobuf(key)).toString('base64')
  for (const [index, die] of (['after-sync', 'before-sync'] as const).entries()) {
    const config: IssuerConfig = {
      folder: joinPath(t.testdir(), `db-${die}`), key: secretOf(gw1.key), siteKey: secretOf(kit.siteKeys.get('tokyo')!),
      siteChain: kit.siteChains.get('tokyo')!.map(bytes => Buffer.from(bytes).toString('base64')), federation, listen: `/ip4/${network}.${index + 1}/tcp/4002`, invite: true, die
    }
    const first = await startIssuer(config)
    const token = first.line
    const key = await createKey()
    await t.rejects(join(token, { key }), { code: 'UNREACHABLE', hint: /run the same command again/ }, `${die}: no answer`)
    await first.ended
    t.equal(first.process.signalCode, 'SIGKILL')
    const second = await startIssuer({ ...config, invite: false, die: 'never' })
    if (die === 'after-sync') await t.rejects(join(token, { name: 'b1' }), { code: 'TOKEN_USED' }, 'another host')
    const joined = await join(token, { key })
    t.match(joined, { kind: 'host' }, `${die}: the same host`)
    t.strictSame(await join(token, { key }), joined)
    await t.rejects(join(token, { name: 'b1' }), { code: 'TOKEN_USED' })
    second.process.kill('SIGKILL')
    await second.ended
  }
})
