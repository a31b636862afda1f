/**
 * The network between processes: calls take time and get lost, doubled, held up and overtaken, links
 * fail one way or both ways. Who calls is proved, as the mesh proves it; everything else is as sent.
 */
import { MusubiError, UnreachableError } from '../../../protocol/core/errors.ts'
import type { Kernel } from './kernel.ts'
import type { Prng } from './prng.ts'
import type { Caller } from '../observation.ts'

export interface Endpoint {
  readonly peer: string
  readonly host: string
  readonly site: string
  readonly gateway: boolean
  /** the process that would answer now; null when there is none */
  process (): Process | null
}

/** One life of a process. */
export interface Process {
  dead: () => boolean
  /** @throws MusubiError as a refusal */
  serve (method: string, request: unknown, caller: Caller): Promise<unknown>
}

export interface Weather {
  /** share of messages that get lost, doubled, held up for long */
  loss: number
  duplicate: number
  holdUp: number
  /** longest that one is held up, ms */
  holdUpMs: number
}

export interface Wire {
  /** a call leaves */
  called (call: Envelope): void
  arrived (call: Envelope, copy: number): void
  answered (call: Envelope, copy: number, reply: unknown, error: MusubiError | null): void
  /** the caller learns what became of its call: an answer, a refusal, or silence */
  settled (call: Envelope): void
  /** something changed at a process by a message */
  fault (kind: 'lost' | 'duplicated' | 'held up' | 'came again, late' | 'blocked' | 'timed out'): void
}

export interface Envelope {
  readonly id: number
  readonly from: Endpoint
  readonly to: Endpoint
  readonly caller: Caller
  readonly method: string
  readonly request: unknown
  readonly forged: boolean
  /** One more copy of it arrives so much later, ms; whoever has sent it waits for it no longer than for the others. */
  again (afterMs: number): void
}

export interface Network {
  /** One call of a process, as the mesh makes it. Never settles when the process dies first. */
  call (from: Endpoint, dead: () => boolean, peer: string, method: string, request: unknown, deadlineMs: number, forged?: boolean): Promise<unknown>
  /** One way only; `from` and `to` are sites or hosts. */
  block (from: string, to: string): void
  unblock (from: string, to: string): void
  /** All links work, nothing gets lost. */
  heal (): void
  weather: Weather
}

export interface NetworkOptions {
  kernel: Kernel
  chance: Prng
  endpoints: ReadonlyMap<string, Endpoint>
  /** one way, ms */
  latencyMs: (from: Endpoint, to: Endpoint) => number
  wire: Wire
}

export const FAIR: Weather = { loss: 0, duplicate: 0, holdUp: 0, holdUpMs: 0 }

/** Plain data as the other end of a wire has it: a copy of its own. */
export function copyOf<T> (value: T): T {
  if (typeof value !== 'object' || value === null) return value
  if (Array.isArray(value)) {
    const list: unknown[] = new Array(value.length)
    for (let i = 0; i < value.length; i++) list[i] = copyOf(value[i])
    return list as T
  }
  if (value instanceof Uint8Array) return value.slice() as T
  const out: Record<string, unknown> = {}
  for (const key in value) out[key] = copyOf(value[key])
  return out as T
}

const caller = ({ peer, site, host, gateway }: Endpoint): Caller => ({ peerId: peer, site, host, gateway })

export function createNetwork ({ kernel, chance, endpoints, latencyMs, wire }: NetworkOptions): Network {
  const blocked = new Set<string>()
  let ids = 0

  const isBlocked = (from: Endpoint, to: Endpoint): boolean => blocked.size > 0 && (
    blocked.has(`${from.site}>${to.site}`) || blocked.has(`${from.host}>${to.host}`) || blocked.has(`${from.host}>${to.site}`) || blocked.has(`${from.site}>${to.host}`))

  /** Delays of the copies that arrive: none when it is lost. */
  function copies (from: Endpoint, to: Endpoint): number[] {
    if (from === to) return [0.01]
    const { loss, duplicate, holdUp, holdUpMs } = network.weather
    if (isBlocked(from, to)) { wire.fault('blocked'); return [] }
    if (loss > 0 && chance.chance(loss)) { wire.fault('lost'); return [] }
    const delay = (): number => {
      const usual = latencyMs(from, to)
      if (holdUp === 0 || !chance.chance(holdUp)) return usual
      wire.fault('held up')
      return usual + chance.between(0, holdUpMs)
    }
    if (duplicate === 0 || !chance.chance(duplicate)) return [delay()]
    wire.fault('duplicated')
    return [delay(), delay() + chance.between(0, holdUpMs)]
  }

  const network: Network = {
    weather: { ...FAIR },
    block (from, to) { blocked.add(`${from}>${to}`) },
    unblock (from, to) { blocked.delete(`${from}>${to}`) },
    heal () {
      blocked.clear()
      network.weather = { ...FAIR }
    },
    call: (from, dead, peer, method, request, deadlineMs, forged = false) => new Promise((resolve, reject) => {
      if (dead()) return
      const to = endpoints.get(peer)
      if (to === undefined) {
        kernel.after(0.01, () => { if (!dead()) reject(new UnreachableError(`no peer ${peer} is known`)) })
        return
      }
      let arrivals = 0
      const call: Envelope = {
        id: ++ids, from, to, caller: caller(from), method, request: copyOf(request), forged,
        again (afterMs) { wire.fault('came again, late'); kernel.after(afterMs, () => { arrive(++arrivals) }) }
      }
      wire.called(call)
      let settled = false
      const deadline = kernel.after(deadlineMs, () => {
        if (settled || dead()) return
        settled = true
        wire.settled(call)
        wire.fault('timed out')
        reject(new UnreachableError(`${to.site}/${to.host} did not answer ${method} within ${deadlineMs} ms`))
      })
      const settle = (work: () => void): void => {
        if (settled || dead()) return
        settled = true
        wire.settled(call)
        deadline.cancelled = true
        work()
      }
      const answer = (copy: number, reply: unknown, error: MusubiError | null): void => {
        wire.answered(call, copy, reply, error)
        for (const delay of copies(to, from)) {
          kernel.after(delay, () => {
            settle(() => {
              if (error === null) resolve(reply)
              // As on the wire: code, text, hint, and whether to try again.
              else reject(new MusubiError(error.code, error.message, { retryable: error.retryable, ...(error.hint === undefined ? {} : { hint: error.hint }) }))
            })
          })
        }
      }
      const arrive = (copy: number): void => {
        const process = to.process()
        if (process === null || process.dead()) {
          // The machine says so, or nobody does.
          if (chance.chance(0.7)) {
            for (const delay of copies(to, from)) kernel.after(delay, () => { settle(() => { reject(new UnreachableError(`cannot reach ${to.site}/${to.host}`)) }) })
          }
          return
        }
        wire.arrived(call, copy)
        process.serve(method, call.request, call.caller).then(
          reply => { if (!process.dead()) answer(copy, copyOf(reply), null) },
          (error: unknown) => {
            if (process.dead()) return
            answer(copy, undefined, error instanceof MusubiError ? error : new MusubiError('INTERNAL', `${to.host} failed at ${method}: ${error instanceof Error ? error.stack ?? error.message : String(error)}`))
          }
        )
      }
      for (const delay of copies(from, to)) {
        const copy = ++arrivals
        kernel.after(delay, () => { arrive(copy) })
      }
    })
  }
  return network
}
