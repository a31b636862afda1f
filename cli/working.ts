/** Between two changes of the line, ms. */
const TICK_MS = 500

/** Says on a terminal that something is under way, and for how long; the line is gone when it has ended. */
export async function working<T> (what: string, work: () => Promise<T>): Promise<T> {
  const { stderr } = process
  if (!stderr.isTTY) return await work()
  const startMs = performance.now()
  const tell = (): void => { stderr.write(`\r${what}, ${Math.round((performance.now() - startMs) / 1000)}s `) }
  tell()
  const timer = setInterval(tell, TICK_MS)
  try {
    return await work()
  } finally {
    clearInterval(timer)
    stderr.write('\r\x1b[K')
  }
}
