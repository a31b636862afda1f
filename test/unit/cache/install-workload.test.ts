/** The reference workload is what it says: its sizes, its digests, and indexes that lead to them. */
import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { gunzipSync } from 'node:zlib'
import t from 'tap'
import { SIZES, packageSizes, writeWorkload } from '../../bench/install/workload.ts'

t.test('sizes of packages', t => {
  const sizes = packageSizes(1)
  t.equal(sizes.length, 495)
  const total = sizes.reduce((sum, one) => sum + one, 0)
  t.ok(Math.abs(total / 900e6 - 1) < 0.001, `${total} bytes`)
  const logs = sizes.map(one => Math.log(one))
  const mean = logs.reduce((sum, one) => sum + one, 0) / logs.length
  const sigma = Math.sqrt(logs.reduce((sum, one) => sum + (one - mean) ** 2, 0) / (logs.length - 1))
  t.ok(Math.abs(sigma - SIZES.sigma) < 0.25, `spread as in the index: ${sigma}`)
  t.same(packageSizes(1), sizes, 'the same each time')
  const small = packageSizes(0.1)
  t.equal(small.length, 50)
  t.ok(Math.abs(small.reduce((sum, one) => sum + one, 0) / 9e6 - 1) < 0.01)
  t.end()
})

t.test('files, digests and indexes', async t => {
  const root = t.testdir()
  const { objects, image, bytes, manifest } = await writeWorkload(root, 0.01)
  const content = async (path: string): Promise<Buffer> => await readFile(join(root, path))
  const digest = (data: Buffer): string => createHash('sha256').update(data).digest('hex')
  t.equal(image.bytes, 2_500_000)
  t.equal(objects.reduce((sum, one) => sum + one.bytes, 0), bytes)
  for (const object of objects) t.match({ bytes: (await content(object.path)).length, sha256: digest(await content(object.path)) }, { bytes: object.bytes, sha256: object.sha256 }, object.path)
  const listed = JSON.parse(String(await content(manifest))) as { objects: Array<{ path: string, size: number, sha256: string }> }
  for (const one of listed.objects) t.ok(objects.some(object => object.path === one.path && object.bytes === one.size && object.sha256 === one.sha256), one.path)
  const primary = await content('/install/repodata/primary.xml.gz')
  t.match(String(await content('/install/repodata/repomd.xml')), digest(primary), 'the first index names the second')
  const xml = String(gunzipSync(primary))
  for (const { path, sha256 } of objects.filter(object => object.path.endsWith('.rpm'))) t.ok(xml.includes(`>${sha256}</checksum>`) && xml.includes(`href="${path.replace('/install/', '')}"`), `${path} is in the index`)
})
