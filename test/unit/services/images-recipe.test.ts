import t from 'tap'
import { decodeManifest, digestHex, encodeManifest, manifestDigest } from '../../../agent/images/manifest.ts'
import type { ImageManifest } from '../../../agent/images/manifest.ts'
import { NODE_RECIPE, moduleFiles, recipeHash, withoutRootPassword } from '../../../agent/images/recipe.ts'

t.test('a recipe hash follows every input', t => {
  const files = new Map([['initrd/init', 'x'], ['overlay/a', 'y']])
  const hash = recipeHash(NODE_RECIPE, files)
  t.match(hash, /^[0-9a-f]{64}$/)
  t.equal(recipeHash({ ...NODE_RECIPE }, new Map([...files].reverse())), hash, 'order of files does not matter')
  t.not(recipeHash({ ...NODE_RECIPE, cmdline: 'other' }, files), hash)
  t.not(recipeHash(NODE_RECIPE, new Map([...files, ['initrd/init', 'z']])), hash)
  t.not(recipeHash(NODE_RECIPE, new Map([...files, ['overlay/b', '']])), hash)
  t.end()
})

t.test('modules load once, dependencies first', t => {
  t.strictSame(moduleFiles('insmod /m/virtio_ring.ko \ninsmod /m/virtio.ko \nbuiltin af_packet\ninsmod /m/virtio_ring.ko \ninsmod /m/net.ko opt=1\n\n'),
    ['/m/virtio_ring.ko', '/m/virtio.ko', '/m/net.ko'])
  t.end()
})

t.test('only the password of root goes', t => {
  t.equal(withoutRootPassword('daemon:*:1:0\nroot:*:19000:0:99999:7:::\nsshd:!:1\n'), 'daemon:*:1:0\nroot::19000:0:99999:7:::\nsshd:!:1\n')
  t.end()
})

const MANIFEST: ImageManifest = {
  format: 1,
  recipe: 'r',
  suite: 'bookworm',
  kernelRelease: '6.1',
  cmdline: 'quiet',
  files: (['vmlinuz', 'initrd.img', 'root.squashfs'] as const).map((name, index) => ({ name, sizeBytes: index, sha256: String(index).repeat(64) }))
}

t.test('a manifest survives its encoding, whatever the order of its keys', t => {
  const encoded = encodeManifest(MANIFEST)
  t.strictSame(decodeManifest(encoded), MANIFEST)
  t.equal(encodeManifest(Object.fromEntries(Object.entries(MANIFEST).reverse()) as unknown as ImageManifest), encoded)
  t.match(manifestDigest(encoded), /^sha256:[0-9a-f]{64}$/)
  t.equal(digestHex(manifestDigest(encoded)).length, 64)
  t.end()
})

t.test('a manifest that does not fit is refused by what does not fit', t => {
  const refused = (value: unknown, message: RegExp): void => {
    t.throws(() => decodeManifest(typeof value === 'string' ? value : JSON.stringify(value)), { code: 'INVALID_INPUT', message })
  }
  const [kernel, initrd, root] = MANIFEST.files
  refused('{', /no JSON/)
  refused([], /no object/)
  refused({ ...MANIFEST, format: 2 }, /format 2 is not known/)
  refused({ ...MANIFEST, files: undefined }, /names no files/)
  refused({ ...MANIFEST, files: [kernel, initrd] }, /must name root\.squashfs once/)
  refused({ ...MANIFEST, files: [kernel, initrd, root, root] }, /must name root\.squashfs once/)
  refused({ ...MANIFEST, files: [{ ...kernel, name: '../x' }] }, /unknown file "\.\.\/x"/)
  refused({ ...MANIFEST, files: [{ ...kernel, sha256: 'abc' }] }, /sha256 of vmlinuz .* malformed/)
  refused({ ...MANIFEST, files: [{ ...kernel, sizeBytes: -1 }] }, /size of vmlinuz .* malformed/)
  refused({ ...MANIFEST, cmdline: 'a\nb' }, /"cmdline" .* one line/)
  t.end()
})
