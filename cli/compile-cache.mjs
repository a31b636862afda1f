// Plain JavaScript: what strips types from TypeScript takes 8 MiB, and is not loaded for what is kept
// here. To be imported before all else; the launcher does it even before the program.
import { lstatSync, mkdirSync } from 'node:fs'
import { enableCompileCache, flushCompileCache } from 'node:module'
import { homedir } from 'node:os'
import { join } from 'node:path'

/** A daemon that is killed must have written its cache before; by then all that it needs is loaded. */
const FLUSH_AFTER_MS = 20_000

/** systemd's CacheDirectory=, else where caches are kept. */
function cacheFolder (uid) {
  const given = process.env.CACHE_DIRECTORY?.split(':')[0] ?? ''
  if (given.startsWith('/')) return join(given, 'compiled')
  const home = process.env.XDG_CACHE_HOME ?? ''
  return join(home.startsWith('/') ? home : uid === 0 ? '/var/cache' : join(homedir(), '.cache'), 'musubi', 'compiled')
}

/**
 * Keeps the modules that are loaded from now on in compiled form between starts: about half of the
 * CPU time of a start goes into reading TypeScript and JavaScript. What lies there is run, so the
 * folder must be this user's own and writable by nobody else. Without such a folder, or with
 * NODE_DISABLE_COMPILE_CACHE, everything works as before, only slower.
 */
function keepCompiled () {
  // coverage is imprecise with it; NODE_COMPILE_CACHE is obeyed by Node.js itself
  if (process.env.NODE_V8_COVERAGE !== undefined || process.env.NODE_COMPILE_CACHE !== undefined) return
  try {
    const uid = process.getuid?.() ?? -1
    const folder = cacheFolder(uid)
    mkdirSync(folder, { recursive: true, mode: 0o700 })
    const found = lstatSync(folder)
    if (!found.isDirectory() || found.uid !== uid || (found.mode & 0o022) !== 0) return
    enableCompileCache(folder)
    setTimeout(flushCompileCache, FLUSH_AFTER_MS).unref()
  } catch {
    // a read-only or full disk must not keep a command from running
  }
}

keepCompiled()
