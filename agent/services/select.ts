import { existsSync } from 'node:fs'
import type { ServiceManager } from '../services.ts'
import { createPidfileServices } from './pidfile.ts'
import { createSystemdServices } from './systemd.ts'

/** True where systemd is the init of this host (the test that sd_booted(3) makes). */
export function systemdRuns (): boolean {
  return existsSync('/run/systemd/system')
}

/**
 * The services of this host: systemd units where systemd runs, else detached processes.
 *
 * @param options.dir folder for logs and pid records; on a file system that a reboot empties
 */
export function createServices (options: { dir: string }): ServiceManager {
  return systemdRuns() ? createSystemdServices({ unitPrefix: 'musubi-svc-', dir: options.dir }) : createPidfileServices(options)
}
