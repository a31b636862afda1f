/**
 * What a node of the original's evaluation installs, as data made from a seed, at paths as an installer's frontend has them: a
 * kickstart file of its own, an image of the installer, an index of packages, the packages.
 */
import { createHash, randomFillSync } from 'node:crypto'
import { mkdir, rename, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { createPrng } from '../../sim/kernel/prng.ts'

/**
 * Mean and deviation of the natural logarithms of the 63,440 sizes in Debian 12.15's index (main, amd64,
 * `dists/bookworm/main/binary-amd64/Packages` of 11 July 2026): a median of 82 kB, the largest of 1.5 GB.
 */
export const SIZES = { mu: 11.312, sigma: 2.083, source: 'Debian 12.15 main amd64 Packages, 63440 sizes' } as const
const SEED = 2007
const IMAGE_BYTES = 250e6
const PACKAGES = 495
const PACKAGES_BYTES = 900e6
/** Smaller ones are not in use: an RPM's own headers are of this size. */
const PACKAGE_MIN_BYTES = 2_000
const MANIFEST_PATH = '/install/musubi-manifest.json'

export interface InstallObject {
  /** on the frontend */
  path: string
  bytes: number
  sha256: string
}

export interface Workload {
  /** in the order in which nodes ask */
  objects: readonly InstallObject[]
  image: InstallObject
  bytes: number
  /** path of `{objects: [{path, size, sha256}]}` */
  manifest: string
}

/** A number of the standard normal distribution (Box and Muller). */
const normal = (unit: () => number): number => Math.sqrt(-2 * Math.log(1 - unit())) * Math.cos(2 * Math.PI * unit())

/**
 * Sizes of packages: log-normal as in SIZES, then scaled to the original's total.
 *
 * @param part both the number of packages and the size of each are this part of the original's
 */
export function packageSizes (part: number): number[] {
  const chance = createPrng(SEED).fork('packages')
  const raw = Array.from({ length: Math.round(PACKAGES * part) }, () => Math.exp(SIZES.mu + SIZES.sigma * normal(() => chance.unit())))
  const scale = PACKAGES_BYTES * part * part / raw.reduce((sum, one) => sum + one, 0)
  return raw.map(one => Math.max(PACKAGE_MIN_BYTES, Math.round(one * scale)))
}

const CHUNK_BYTES = 4 * 1024 * 1024

/** Writes a file of random bytes. @returns its digest */
async function writeRandom (path: string, bytes: number): Promise<string> {
  const hash = createHash('sha256')
  const chunk = Buffer.alloc(CHUNK_BYTES)
  await mkdir(dirname(path), { recursive: true })
  await writeFile(path, '')
  for (let left = bytes; left > 0; left -= CHUNK_BYTES) {
    const piece = randomFillSync(chunk).subarray(0, Math.min(left, CHUNK_BYTES))
    hash.update(piece)
    await writeFile(path, piece, { flag: 'a' })
  }
  return hash.digest('hex')
}

const sha256 = (data: string | Buffer): string => createHash('sha256').update(data).digest('hex')

const packageEntry = ({ path, bytes, sha256: digest }: InstallObject): string =>
  `<package type="rpm"><name>${path.split('/').at(-1)?.replace(/-1\.0-1\.x86_64\.rpm$/, '') ?? ''}</name><arch>x86_64</arch><version epoch="0" ver="1.0" rel="1"/><checksum type="sha256" pkgid="YES">${digest}</checksum><size package="${bytes}"/><location href="${path.replace('/install/', '')}"/></package>`

/** The repository's index as createrepo makes it, as far as readers of digests go. */
function primaryXml (packages: readonly InstallObject[]): Buffer {
  return gzipSync(`<?xml version="1.0" encoding="UTF-8"?>\n<metadata xmlns="http://linux.duke.edu/metadata/common" packages="${packages.length}">\n${packages.map(packageEntry).join('\n')}\n</metadata>\n`)
}

const repomdXml = (primary: Buffer): string => `<?xml version="1.0" encoding="UTF-8"?>
<repomd xmlns="http://linux.duke.edu/metadata/repo"><revision>1</revision>
<data type="primary"><checksum type="sha256">${sha256(primary)}</checksum><location href="repodata/primary.xml.gz"/><size>${primary.length}</size></data>
</repomd>
`

/**
 * Writes the files of the workload below a web server's root.
 *
 * @param part of the original's sizes and number of packages: 1, or 0.1
 */
export async function writeWorkload (root: string, part: number): Promise<Workload> {
  const random = async (path: string, bytes: number): Promise<InstallObject> => ({ path, bytes, sha256: await writeRandom(join(root, path), bytes) })
  const text = async (path: string, data: string | Buffer): Promise<InstallObject> => {
    await mkdir(dirname(join(root, path)), { recursive: true })
    // whole from the first moment on: a cache may look
    await writeFile(join(root, `${path}.new`), data)
    await rename(join(root, `${path}.new`), join(root, path))
    return { path, bytes: Buffer.byteLength(data), sha256: sha256(data) }
  }
  const image = await random('/install/images/stage2.img', Math.round(IMAGE_BYTES * part))
  const packages: InstallObject[] = []
  for (const [i, bytes] of packageSizes(part).entries()) packages.push(await random(`/install/RPMS/package${i}-1.0-1.x86_64.rpm`, bytes))
  const xml = primaryXml(packages)
  const primary = await text('/install/repodata/primary.xml.gz', xml)
  const repomd = await text('/install/repodata/repomd.xml', repomdXml(xml))
  const objects = [image, repomd, primary, ...packages]
  await text(MANIFEST_PATH, JSON.stringify({ objects: [image, ...packages].map(({ path, bytes, sha256: digest }) => ({ path, size: bytes, sha256: digest })) }))
  return { objects, image, bytes: objects.reduce((sum, one) => sum + one.bytes, 0), manifest: MANIFEST_PATH }
}
