import { createHash } from 'node:crypto'
import { chmod, chown, mkdir, rename, rm, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { encodeManifest, manifestDigest } from '../../../agent/images/manifest.ts'
import type { ImageManifest } from '../../../agent/images/manifest.ts'
import { openImageStore } from '../../../agent/images/store.ts'

const CONTENT = { vmlinuz: 'a kernel', 'initrd.img': 'an initrd', 'root.squashfs': 'a root system' } as const

async function putImage (dir: string, cmdline: string): Promise<string> {
  const manifest: ImageManifest = {
    format: 1,
    recipe: '0'.repeat(64),
    suite: 'bookworm',
    kernelRelease: '6.1',
    cmdline,
    files: Object.entries(CONTENT).map(([name, text]) => ({
      name: name as keyof typeof CONTENT, sizeBytes: text.length, sha256: createHash('sha256').update(text).digest('hex')
    }))
  }
  const encoded = encodeManifest(manifest)
  const digest = manifestDigest(encoded)
  const image = join(dir, digest.slice('sha256:'.length))
  await mkdir(image)
  await writeFile(join(image, 'manifest.json'), encoded)
  for (const [name, text] of Object.entries(CONTENT)) await writeFile(join(image, name), text)
  return digest
}

const fileOf = (dir: string, digest: string, name: string): string => join(dir, digest.slice('sha256:'.length), name)

t.test('lists, gets and verifies what is there', async t => {
  const dir = t.testdir({ 'building-77': { image: {} }, 'recipe-00': 'x' })
  const store = openImageStore(dir)
  t.strictSame(await store.list(), [])
  const digests = [await putImage(dir, 'quiet'), await putImage(dir, 'loud')].sort()
  t.strictSame((await store.list()).map(image => image.digest), digests)
  const image = await store.verify(digests[0] ?? '')
  t.equal(image.manifest.files.length, 3)
  t.equal(image.paths['root.squashfs'], fileOf(dir, image.digest, 'root.squashfs'))
})

t.test('a folder that is not there yet is an empty store', async t => {
  const store = openImageStore(join(t.testdir(), 'later'))
  t.strictSame(await store.list(), [])
  await t.rejects(store.get(`sha256:${'0'.repeat(64)}`), { code: 'IMAGE_UNKNOWN', hint: /store is empty/ })
})

t.test('an unknown digest is refused, and those that exist are named', async t => {
  const dir = t.testdir()
  const digest = await putImage(dir, 'quiet')
  const unknown = `sha256:${'1'.repeat(64)}`
  await t.rejects(openImageStore(dir).verify(unknown), { name: 'UnknownImageError', code: 'IMAGE_UNKNOWN', message: new RegExp(unknown), hint: new RegExp(digest) })
})

t.test('what is no digest never becomes a path', async t => {
  const store = openImageStore(t.testdir())
  for (const bad of ['', 'sha256:', 'sha256:../../etc', 'md5:00', `sha256:${'A'.repeat(64)}`]) {
    await t.rejects(store.get(bad), { code: 'INVALID_INPUT' }, bad)
  }
})

t.test('a damaged file is named with what was expected and found', async t => {
  const dir = t.testdir()
  const digest = await putImage(dir, 'quiet')
  const store = openImageStore(dir)
  const root = fileOf(dir, digest, 'root.squashfs')
  await writeFile(root, 'a root sYstem')
  await t.rejects(store.verify(digest), {
    name: 'CorruptImageError', code: 'IMAGE_CORRUPT', file: root,
    message: /root\.squashfs is damaged: expected sha256 [0-9a-f]{64}, found sha256 [0-9a-f]{64}/
  })
  await writeFile(root, 'short')
  await t.rejects(store.verify(digest), { message: /expected 13 bytes, found 5 bytes/ })
  await rm(root)
  await t.rejects(store.verify(digest), { message: /expected 13 bytes, found no file/ })
  t.equal((await store.get(digest)).digest, digest, 'get reads no files')
})

t.test('a changed manifest is no longer that image', async t => {
  const dir = t.testdir()
  const digest = await putImage(dir, 'quiet')
  await writeFile(fileOf(dir, digest, 'manifest.json'), '{}')
  await t.rejects(openImageStore(dir).get(digest), { code: 'IMAGE_CORRUPT', message: new RegExp(`expected ${digest}`) })
  t.strictSame(await openImageStore(dir).list(), [])
})

t.test('an image that others can change is not served, nor a link', { skip: process.getuid?.() !== 0 ? 'needs root to give files away' : false }, async t => {
  const stranger = 64_321
  for (const [what, spoil] of [
    ['a file of somebody else', async image => { await chown(join(image, 'vmlinuz'), stranger, stranger) }],
    ['a manifest of somebody else', async image => { await chown(join(image, 'manifest.json'), stranger, stranger) }],
    ['a folder of somebody else', async image => { await chown(image, stranger, stranger) }],
    ['a file that all can write', async image => { await chmod(join(image, 'initrd.img'), 0o666) }],
    ['a link to what is sound', async image => {
      await rename(join(image, 'vmlinuz'), join(image, 'kernel'))
      await symlink(join(image, 'kernel'), join(image, 'vmlinuz'))
    }]
  ] as ReadonlyArray<[string, (image: string) => Promise<void>]>) {
    const dir = t.testdir()
    const store = openImageStore(dir)
    const digest = await putImage(dir, 'quiet')
    await store.verify(digest)
    await spoil(join(dir, digest.slice('sha256:'.length)))
    await t.rejects(store.get(digest), { code: 'IMAGE_UNSAFE', hint: /chown -R root:/ }, what)
    await t.rejects(store.verify(digest), { code: 'IMAGE_UNSAFE' }, what)
  }
  const dir = t.testdir()
  const digest = await putImage(dir, 'quiet')
  await chown(dir, stranger, stranger)
  await t.rejects(openImageStore(dir).get(digest), { code: 'IMAGE_UNSAFE' }, 'a store of somebody else')
})
