import { chmod, mkdir, readdir, stat, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { generateKeyPair, privateKeyToProtobuf } from '@libp2p/crypto/keys'
import { peerIdFromString } from '@libp2p/peer-id'
import { checkPeerId, createKey, loadOrCreateKey, peerIdOf, sign, verify } from '../../../protocol/mesh/identity.ts'

const bytes = new TextEncoder().encode('a promise')

t.test('the first start makes a key that only its owner can read; later starts use it', async t => {
  const path = join(t.testdir(), 'state', 'agent.key')
  const key = await loadOrCreateKey(path)
  t.equal((await stat(path)).mode & 0o777, 0o600)
  t.equal((await stat(join(path, '..'))).mode & 0o777, 0o700)
  t.equal(peerIdOf(await loadOrCreateKey(path)), peerIdOf(key))
  t.strictSame(await readdir(join(path, '..')), ['agent.key'], 'no draft is left')
})

t.test('processes that start at once agree on one key', async t => {
  const path = join(t.testdir(), 'agent.key')
  const keys = await Promise.all(Array.from({ length: 12 }, async () => await loadOrCreateKey(path)))
  t.equal(new Set(keys.map(peerIdOf)).size, 1)
  t.strictSame(await readdir(join(path, '..')), ['agent.key'])
})

t.test('a key that others can read is refused, with the way to mend it', async t => {
  const path = join(t.testdir(), 'agent.key')
  await loadOrCreateKey(path)
  for (const mode of [0o640, 0o604, 0o660]) {
    await chmod(path, mode)
    await t.rejects(loadOrCreateKey(path), { code: 'KEY_NOT_PRIVATE', hint: `chmod 600 ${path}` }, mode.toString(8))
  }
  await chmod(path, 0o600)
  await t.resolves(loadOrCreateKey(path))
})

t.test('what is no key is refused and stays as it is', async t => {
  const folder = t.testdir()
  const cases: Array<[string, Uint8Array]> = [
    ['empty', new Uint8Array()],
    ['garbage', new Uint8Array(64).fill(7)],
    ['long', new Uint8Array(5000)],
    ['other type', privateKeyToProtobuf(await generateKeyPair('secp256k1'))]
  ]
  for (const [name, content] of cases) {
    const path = join(folder, name)
    await writeFile(path, content, { mode: 0o600 })
    await t.rejects(loadOrCreateKey(path), { code: 'BAD_KEY' }, name)
    t.equal((await stat(path)).size, content.length)
  }
  await mkdir(join(folder, 'folder'), { mode: 0o700 })
  await t.rejects(loadOrCreateKey(join(folder, 'folder')), { code: 'BAD_KEY' })
  await symlink('nowhere', join(folder, 'dangling'))
  await t.rejects(loadOrCreateKey(join(folder, 'dangling')), 'a dangling link is not followed into a new key')
})

t.test('signatures are those of libp2p, and hold for nothing else', async t => {
  const key = await createKey()
  const other = await createKey()
  const signature = sign(key, bytes)
  t.ok(verify(peerIdOf(key), bytes, signature))
  t.ok(await peerIdFromString(peerIdOf(key)).publicKey?.verify(bytes, signature), 'libp2p agrees')
  t.ok(verify(peerIdOf(key), bytes, await key.sign(bytes)), 'and the other way round')
  t.notOk(verify(peerIdOf(other), bytes, signature), 'another peer')
  t.notOk(verify(peerIdOf(key), bytes.slice(1), signature), 'other bytes')
  t.notOk(verify(peerIdOf(key), bytes, signature.slice(1)), 'a cut signature')
  t.notOk(verify('not a peer', bytes, signature))
  t.notOk(verify('QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG', bytes, signature), 'a PeerId without an inlined key')
})

t.test('a PeerId is checked by its form', async t => {
  checkPeerId(peerIdOf(await createKey()), 'here')
  for (const text of ['', 'x', 'QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG']) {
    t.throws(() => { checkPeerId(text, 'host a/b') }, { code: 'INVALID_INPUT', message: /^host a\/b: / })
  }
})
