import { pino, type Logger } from 'pino'

/** Structured log to stdout: constant messages, data as keys (systemd and the lab keep it). */
export function createLogger (level: string, base: Record<string, string>): Logger {
  return pino({ level, base, timestamp: pino.stdTimeFunctions.isoTime }, pino.destination({ fd: 1, sync: false }))
}
