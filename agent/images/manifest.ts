import { createHash } from 'node:crypto'
import { InvalidInputError } from '../../protocol/core/errors.ts'

/** The files of every image, in the order in which a node fetches them. */
export const IMAGE_FILES = ['vmlinuz', 'initrd.img', 'root.squashfs'] as const
export type ImageFileName = typeof IMAGE_FILES[number]

export interface ImageFile {
  name: ImageFileName
  sizeBytes: number
  /** hex */
  sha256: string
}

/** What an image is. The SHA-256 of its encoded form is the digest of the image. */
export interface ImageManifest {
  format: 1
  /** `recipeHash` of what it was built from */
  recipe: string
  suite: string
  kernelRelease: string
  /** kernel arguments that every node gets; the boot script adds those of the node */
  cmdline: string
  files: ImageFile[]
}

/** The bytes that are hashed and stored; key order is fixed. */
export function encodeManifest (manifest: ImageManifest): string {
  const { format, recipe, suite, kernelRelease, cmdline, files } = manifest
  return JSON.stringify({
    format, recipe, suite, kernelRelease, cmdline,
    files: files.map(({ name, sizeBytes, sha256 }) => ({ name, sizeBytes, sha256 }))
  }, null, 2) + '\n'
}

/** `sha256:<hex>` of an encoded manifest. */
export function manifestDigest (encoded: string | Uint8Array): string {
  return `sha256:${createHash('sha256').update(encoded).digest('hex')}`
}

/** The hex part of `sha256:<hex>`. @throws InvalidInputError when it is no such digest */
export function digestHex (digest: string): string {
  const hex = /^sha256:([0-9a-f]{64})$/.exec(digest)?.[1]
  if (hex === undefined) throw new InvalidInputError(`"${digest}" is no image digest`, 'a digest is sha256: and 64 hexadecimal digits')
  return hex
}

/** Reads a stored manifest. @throws InvalidInputError naming the first thing that does not fit */
export function decodeManifest (text: string): ImageManifest {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    throw new InvalidInputError('the image manifest is no JSON')
  }
  const fields = asRecord(value, 'the image manifest')
  if (fields.format !== 1) throw new InvalidInputError(`image manifest format ${String(fields.format)} is not known here`, 'update this host')
  if (!Array.isArray(fields.files)) throw new InvalidInputError('the image manifest names no files')
  const files = fields.files.map((entry: unknown) => decodeFile(asRecord(entry, 'a file of the image manifest')))
  for (const name of IMAGE_FILES) {
    if (files.filter(file => file.name === name).length !== 1) throw new InvalidInputError(`the image manifest must name ${name} once`)
  }
  return {
    format: 1,
    recipe: asText(fields.recipe, 'recipe'),
    suite: asText(fields.suite, 'suite'),
    kernelRelease: asText(fields.kernelRelease, 'kernelRelease'),
    cmdline: asText(fields.cmdline, 'cmdline'),
    files
  }
}

function decodeFile (entry: Record<string, unknown>): ImageFile {
  const name = IMAGE_FILES.find(known => known === entry.name)
  if (name === undefined) throw new InvalidInputError(`the image manifest names an unknown file "${String(entry.name)}"`)
  const sha256 = asText(entry.sha256, `sha256 of ${name}`)
  if (!/^[0-9a-f]{64}$/.test(sha256)) throw new InvalidInputError(`the sha256 of ${name} in the image manifest is malformed`)
  if (typeof entry.sizeBytes !== 'number' || !Number.isSafeInteger(entry.sizeBytes) || entry.sizeBytes < 0) {
    throw new InvalidInputError(`the size of ${name} in the image manifest is malformed`)
  }
  return { name, sizeBytes: entry.sizeBytes, sha256 }
}

function asRecord (value: unknown, what: string): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new InvalidInputError(`${what} is no object`)
  return { ...value }
}

function asText (value: unknown, what: string): string {
  if (typeof value !== 'string' || value === '' || value.includes('\n')) throw new InvalidInputError(`"${what}" of the image manifest must be one line of text`)
  return value
}
