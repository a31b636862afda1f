/** One volume as a network target. */
export interface ExportSpec {
  iqn: string
  /** file or device behind LUN 1 */
  path: string
  portalAddress: string
  chap: { user: string, secret: string }
  /** initiator addresses that see the target */
  allow: readonly string[]
}

/** What the target server has; secrets cannot be read back. */
export interface ExportedTarget {
  iqn: string
  ready: boolean
  /** behind LUN 1, null without it */
  path: string | null
  users: string[]
  allow: string[]
  sessions: Array<{ initiator: string, address: string }>
}

export interface ExporterState {
  targets: ExportedTarget[]
  portals: string[]
}

/** Exports volumes by iSCSI: tgt in user space now, LIO where the kernel has it. */
export interface Exporter {
  /** What is missing here, in words. */
  probe (signal: AbortSignal): Promise<string[]>
  /** null: the server does not run or does not answer */
  state (signal: AbortSignal): Promise<ExporterState | null>
  /**
   * Makes or mends the target. With `renew` the credentials are set again even if a user of that
   * name is there, because nobody can tell what its secret is.
   */
  export (spec: ExportSpec, renew: boolean, signal: AbortSignal): Promise<void>
  /** Drops sessions, then the target and its user. An unknown name is no error. */
  unexport (iqn: string, signal: AbortSignal): Promise<void>
  /** Ends everything that is not among these; with none, the server ends too. */
  keepOnly (wanted: ReadonlyArray<{ iqn: string, portalAddress: string }>, signal: AbortSignal): Promise<void>
}

/** The port of iSCSI, RFC 7143. */
export const PORTAL_PORT = 3260
