/** What is looked at, or after `waitMs` something else: the look goes on, and nobody hears of it. @param waitMs null: to its end */
export async function within<T> (look: Promise<T>, waitMs: number | null, otherwise: T): Promise<T> {
  if (waitMs === null) return await look
  const late = Promise.withResolvers<T>()
  const timer = setTimeout(() => { late.resolve(otherwise) }, waitMs)
  return await Promise.race([look, late.promise]).finally(() => { clearTimeout(timer) })
}
