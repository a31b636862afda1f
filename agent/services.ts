/**
 * Long-running helpers of the data plane (nginx, dnsmasq, wireguard-go, tgtd). They outlive the
 * agent and are found again by name after any restart (design.md, section 7).
 */
export interface ServiceSpec {
  /** argv; runs in the foreground */
  argv: readonly string[]
  /** named network namespace to run in */
  netns?: string
  env?: Record<string, string>
  cwd?: string
  /**
   * Keeps something of the data plane alive that ends without it, so it is started again at once when
   * it fails, also while agent and helper are down: by systemd, where that runs; else the next pass does it.
   */
  keeper?: boolean
  /**
   * It talks to the kernel by netlink, reads files, and does nothing else: where systemd runs, its unit can do nothing else
   * either, beyond these capabilities (as setpriv names them) and changing its user to use them.
   */
  confined?: { capabilities: readonly string[] }
}

export interface ServiceStatus {
  name: string
  running: boolean
  pid: number | null
  /** fingerprint of the ServiceSpec it was started with */
  fingerprint: string | null
}

export interface ServiceManager {
  /** Starts it unless it already runs with the same spec; restarts it when the spec differs. */
  ensure (name: string, spec: ServiceSpec): Promise<ServiceStatus>
  /** SIGTERM, then SIGKILL after `graceMs` (default 2 s). Unknown names are no error. */
  stop (name: string, graceMs?: number): Promise<void>
  /** Sends a signal to the main process (e.g. SIGHUP to reload). */
  kill (name: string, signal: NodeJS.Signals): Promise<void>
  status (name: string): Promise<ServiceStatus>
  /** All services that this manager ever started and has not stopped. */
  list (): Promise<ServiceStatus[]>
}
