/**
 * True time and the order of everything that happens. One event at a time; after each, every promise
 * that can settle has settled before the next begins.
 */

export interface Timer { cancelled: boolean }

interface Entry extends Timer { at: number, order: number, run: () => void }

export interface Kernel {
  /** true time, ms from the beginning of the run */
  now (): number
  /** Runs `work` at a moment of true time, now at the earliest; what is due at once runs in the order of the calls. */
  at (trueMs: number, work: () => void): Timer
  after (delayMs: number, work: () => void): Timer
  /**
   * Works events off until `untilMs` of true time, or until nothing is left, or `stop` is called.
   *
   * @throws what an event throws
   */
  run (untilMs: number): Promise<void>
  stop (): void
  /** Called between an event and the next, when everything that follows from it at once has happened. */
  afterEach (work: () => void): void
  /** events run so far, whatever they changed */
  steps (): number
}

const before = (a: Entry, b: Entry): boolean => a.at < b.at || (a.at === b.at && a.order < b.order)

/** A binary heap by (time, order). */
function createHeap (): { push (entry: Entry): void, pop (): Entry | undefined, first (): Entry | undefined } {
  const heap: Entry[] = []
  return {
    first: () => heap[0],
    push (entry) {
      let i = heap.length
      heap.push(entry)
      while (i > 0) {
        const parent = (i - 1) >> 1
        const other = heap[parent] as Entry
        if (!before(entry, other)) break
        heap[i] = other
        i = parent
      }
      heap[i] = entry
    },
    pop () {
      const top = heap[0]
      const last = heap.pop()
      if (top === undefined || last === undefined || heap.length === 0) return top
      let i = 0
      for (;;) {
        let child = 2 * i + 1
        if (child >= heap.length) break
        if (child + 1 < heap.length && before(heap[child + 1] as Entry, heap[child] as Entry)) child++
        if (!before(heap[child] as Entry, last)) break
        heap[i] = heap[child] as Entry
        i = child
      }
      heap[i] = last
      return top
    }
  }
}

export function createKernel (): Kernel {
  const heap = createHeap()
  let nowMs = 0
  let order = 0
  let steps = 0
  let stopped = false
  let between = (): void => undefined

  const at = (trueMs: number, run: () => void): Timer => {
    const entry: Entry = { at: Math.max(nowMs, trueMs), order: order++, run, cancelled: false }
    heap.push(entry)
    return entry
  }
  return {
    now: () => nowMs,
    at,
    after: (delayMs, work) => at(nowMs + delayMs, work),
    /*
     * A tick that is asked for by a microtask runs when the queue of microtasks is empty: Node runs
     * all of these, then looks for ticks (lib/internal/process/task_queues.js,
     * processTicksAndRejections). Nothing that runs here uses ticks, timers or I/O of its own, so
     * between two events every promise that can settle has settled, at a fraction of setImmediate's cost.
     */
    run: untilMs => new Promise<void>((resolve, reject) => {
      stopped = false
      const step = (): void => {
        try {
          between()
          let entry = heap.first()
          while (entry?.cancelled === true) {
            heap.pop()
            entry = heap.first()
          }
          if (stopped || entry === undefined || entry.at > untilMs) {
            if (!stopped) nowMs = Math.max(nowMs, untilMs)
            resolve()
            return
          }
          heap.pop()
          nowMs = entry.at
          steps++
          entry.run()
        } catch (error) {
          reject(error instanceof Error ? error : new Error(String(error)))
          return
        }
        queueMicrotask(next)
      }
      const next = (): void => { process.nextTick(step) }
      next()
    }),
    stop () { stopped = true },
    afterEach (work) { between = work },
    steps: () => steps
  }
}
