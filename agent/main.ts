import { loadAgentConfig } from './config.ts'
import { startAgent } from './agent.ts'
import { declareLost } from './lost-ledger.ts'
import { asOwnerOf } from '../protocol/as-owner.ts'
import { createLogger } from '../protocol/log.ts'
import { untilStopped } from '../protocol/process.ts'

/** `musubi agent run`: runs until SIGTERM or SIGINT; guests, tunnels and caches go on without it. */
export async function runAgent (configPath: string): Promise<void> {
  const config = await loadAgentConfig(configPath)
  const log = createLogger(config.logLevel, { host: config.name, site: config.site })
  const agent = await startAgent(config, log)
  await untilStopped(log, () => agent.stop())
}

/** `musubi agent reset`: declares the ledger lost, so that the next start may remove what it does not ask for. */
export async function resetAgent (configPath: string, longestMs?: number): Promise<{ stateDir: string }> {
  const { stateDir } = await loadAgentConfig(configPath)
  await asOwnerOf(stateDir, () => declareLost(stateDir, longestMs))
  return { stateDir }
}
