import type { Driver } from '../driver.ts'

/** Figures of one domain, as its hypervisor counts them. */
export interface DomainStats {
  /** bytes that reached the node through its network card since it was started */
  rxBytes: number
  /** bytes that the node sent since it was started */
  txBytes: number
  /** the hypervisor's word: `running`, `shut off`, `crashed`, ... */
  state: string
}

/** Runs nodes: domains that start by `apply` and boot from the network. */
export interface ComputeDriver extends Driver<'domain'> {
  /** Figures of every domain of ours, by object name. */
  stats (signal?: AbortSignal): Promise<Record<string, DomainStats>>
  /** The end of the serial console's log (at most `maxBytes`, default 64 KiB); empty when there is none. */
  consoleLog (name: string, maxBytes?: number): Promise<string>
}
