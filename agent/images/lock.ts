import { createHash } from 'node:crypto'
import { realpath } from 'node:fs/promises'
import { createServer } from 'node:net'
import type { Server } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

const POLL_MS = 300

/**
 * Runs `work` while no other process on this machine (same network namespace) builds into `dir`.
 * The lock is an abstract unix socket: the kernel gives it up however its holder ends, so there is
 * no stale lock to judge. Ends with the signal while it waits.
 */
export async function withBuildLock<T> (dir: string, signal: AbortSignal, onWait: () => void, work: () => Promise<T>): Promise<T> {
  const name = `\0musubi-image-${createHash('sha256').update(await realpath(dir)).digest('hex').slice(0, 32)}`
  let server = await tryListen(name)
  if (server === null) onWait()
  while (server === null) {
    await sleep(POLL_MS, undefined, { signal })
    server = await tryListen(name)
  }
  try {
    return await work()
  } finally {
    const held = server
    await new Promise<void>(resolve => { held.close(() => { resolve() }) })
  }
}

async function tryListen (name: string): Promise<Server | null> {
  return await new Promise((resolve, reject) => {
    const server = createServer(socket => { socket.destroy() })
    server.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EADDRINUSE') resolve(null)
      else reject(error)
    })
    server.listen(name, () => { resolve(server) })
  })
}
