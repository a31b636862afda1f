import { stat } from 'node:fs/promises'
import { run } from '../exec.ts'

/** What a service of Type=notify tells systemd. Without systemd every call does nothing. */
export interface Notifier {
  /** The service is up; from now on the watchdog is fed until `stopping`. */
  ready (status?: string): Promise<void>
  /** One line for `systemctl status`. */
  status (text: string): Promise<void>
  stopping (): Promise<void>
}

/** Half of what the unit's WatchdogSec gives, as sd_watchdog_enabled(3) advises; null without a watchdog. */
export function watchdogIntervalMs (env: NodeJS.ProcessEnv, pid: number): number | null {
  const micros = Number(env['WATCHDOG_USEC'])
  const owner = env['WATCHDOG_PID']
  if (!Number.isFinite(micros) || micros <= 0 || (owner !== undefined && Number(owner) !== pid)) return null
  return Math.max(1, Math.floor(micros / 2000))
}

/**
 * Feeds a watchdog when it is called and the threads that files are read by answer: with all of them
 * in a disk that hangs, timers still run, and nothing else does.
 *
 * @param feed tells the service manager
 * @param ask resolves or rejects when a file was looked at
 * @returns to be called time and again; while an answer is awaited it does nothing
 */
export function createFeeder (feed: () => void, ask: () => Promise<unknown> = () => stat('/')): () => void {
  let asked = false
  return () => {
    if (asked) return
    asked = true
    ask().catch(() => undefined).finally(() => {
      asked = false
      feed()
    })
  }
}

/**
 * sd_notify(3) by the program `systemd-notify`, because Node has no Unix datagram sockets. The unit
 * needs NotifyAccess=all: the message comes from a child. Costs a fork of some milliseconds per
 * message, so status lines are for changes of state, not for figures.
 *
 * The variables are taken out of the environment: programs that the caller starts must not talk to
 * systemd in its name. A message that cannot be sent is no failure of the service: if it matters,
 * systemd's own time-out speaks.
 */
export function createNotifier (env: NodeJS.ProcessEnv = process.env): Notifier {
  const socket = env['NOTIFY_SOCKET']
  const intervalMs = watchdogIntervalMs(env, process.pid)
  for (const variable of ['NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID']) Reflect.deleteProperty(env, variable)
  let timer: NodeJS.Timeout | undefined

  async function send (...assignments: string[]): Promise<void> {
    if (socket === undefined || socket === '') return
    try {
      await run('systemd-notify', assignments, { env: { NOTIFY_SOCKET: socket }, timeoutMs: 5_000 })
    } catch { /* see above */ }
  }

  const oneLine = (text: string): string => `STATUS=${text.replaceAll(/\s+/g, ' ').slice(0, 200)}`
  return {
    async ready (status) {
      await send('READY=1', ...(status === undefined ? [] : [oneLine(status)]))
      if (socket === undefined || intervalMs === null || timer !== undefined) return
      timer = setInterval(createFeeder(() => { void send('WATCHDOG=1') }), intervalMs)
      timer.unref()
    },
    async status (text) {
      await send(oneLine(text))
    },
    async stopping () {
      clearInterval(timer)
      await send('STOPPING=1')
    }
  }
}
