import { mkdir, readFile, readdir, readlink, rename, rm, rmdir, symlink, writeFile } from 'node:fs/promises'
import { dirname, join, relative } from 'node:path'

/** A file below a folder: its text, or where a symbolic link leads. */
export type FileContent = { text: string } | { link: string }

/** True when a file is there with just this content. */
export async function isCurrent (path: string, content: FileContent): Promise<boolean> {
  return 'link' in content
    ? await readlink(path).catch(() => null) === content.link
    : await readFile(path, 'utf8').catch(() => null) === content.text
}

/**
 * Writes a file by rename, so that a reader sees the old or the new one. Touches nothing that is current.
 *
 * @param options.durable on disk before this returns; the rest is rendered again when it is lost
 */
export async function putFile (path: string, content: FileContent, options: { durable?: boolean } = {}): Promise<void> {
  if (await isCurrent(path, content)) return
  await mkdir(dirname(path), { recursive: true, mode: 0o755 })
  const temp = `${path}.new`
  await rm(temp, { force: true })
  if ('link' in content) await symlink(content.link, temp)
  else await writeFile(temp, content.text, { mode: 0o644, flush: options.durable ?? false })
  await rename(temp, path)
}

/** Makes a folder hold exactly these files (by relative path); others are removed. */
export async function putTree (dir: string, files: ReadonlyMap<string, FileContent>): Promise<void> {
  for (const [path, content] of files) await putFile(join(dir, path), content)
  for (const entry of await readdir(dir, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name)
    if (entry.isDirectory() || files.has(relative(dir, path))) continue
    await rm(path, { force: true })
    // a folder that this leaves empty goes too; one that others are in stays
    await rmdir(entry.parentPath).catch(() => undefined)
  }
}

/** Paths of a tree that are missing or differ. */
export async function staleFiles (dir: string, files: ReadonlyMap<string, FileContent>): Promise<string[]> {
  const stale: string[] = []
  for (const [path, content] of files) if (!await isCurrent(join(dir, path), content)) stale.push(path)
  return stale
}
