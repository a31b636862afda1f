/** Runs tasks of one key one after the other, those of different keys side by side. */
export function createTurns (): <T>(key: string, task: () => Promise<T>) => Promise<T> {
  const tails = new Map<string, Promise<unknown>>()
  return async (key, task) => {
    const before = tails.get(key) ?? Promise.resolve()
    const mine = before.then(task, task)
    const settled = mine.catch(() => undefined)
    tails.set(key, settled)
    try {
      return await mine
    } finally {
      // Only the last in line clears the way: whoever came behind it has put itself there.
      if (tails.get(key) === settled) tails.delete(key)
    }
  }
}
