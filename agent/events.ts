import { MAX_EVENT_CHARACTERS, MAX_EVENTS_KEPT } from '../protocol/core/limits.ts'
import type { EventResource } from '../protocol/api.ts'

/** The last events of this agent, kept in memory for people; the ledger is the record that counts. */
export interface EventLog {
  add (type: string, message: string, cluster?: string): void
  list (sinceSeq?: number): EventResource[]
  /** @returns a function that ends the subscription */
  subscribe (listener: (event: EventResource) => void): () => void
}

/** @param now epoch milliseconds */
export function createEventLog (now: () => number): EventLog {
  const events: EventResource[] = []
  const listeners = new Set<(event: EventResource) => void>()
  let seq = 0
  return {
    add (type, message, cluster) {
      const event: EventResource = { seq: ++seq, time: now(), type, message: message.slice(0, MAX_EVENT_CHARACTERS), ...(cluster === undefined ? {} : { cluster }) }
      events.push(event)
      if (events.length > MAX_EVENTS_KEPT) events.shift()
      for (const listener of listeners) listener(event)
    },
    list: (sinceSeq = 0) => events.filter(e => e.seq > sinceSeq),
    subscribe (listener) {
      listeners.add(listener)
      return () => { listeners.delete(listener) }
    }
  }
}
