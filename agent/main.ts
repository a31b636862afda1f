import { join } from 'node:path'
import { loadAgentConfig } from './config.ts'
import { startAgent } from './agent.ts'
import { createRealDrivers } from './drivers/registry.ts'
import { declareLost } from './lost-ledger.ts'
import { createServices } from './services/select.ts'
import { createLogger } from '../protocol/log.ts'
import { untilStopped } from '../protocol/process.ts'
import { describeError } from '../protocol/core/errors.ts'
import { loadOrCreateKey, peerIdOf } from '../protocol/mesh/identity.ts'

const keyFileOf = (stateDir: string): string => join(stateDir, 'key')

/** `musubi agent run`: runs until SIGTERM or SIGINT; guests, tunnels and caches go on without it. */
export async function runAgent (configPath: string): Promise<void> {
  const config = await loadAgentConfig(configPath)
  const log = createLogger(config.logLevel, { host: config.name, site: config.site })
  const agent = await startAgent(config, keyFileOf(config.stateDir), log, error => {
    // It would run on without ending any lease. The supervisor starts it again, from what is on the disk; nodes outlive it.
    log.fatal({ error: describeError(error) }, 'this agent can keep no promise any more and ends')
    process.exit(1)
  })
  await untilStopped(log, () => agent.stop())
}

/** `musubi agent init`: makes the key, once. */
export async function initAgent (configPath: string): Promise<{ peerId: string, keyFile: string }> {
  const config = await loadAgentConfig(configPath)
  const keyFile = keyFileOf(config.stateDir)
  return { peerId: peerIdOf(await loadOrCreateKey(keyFile)), keyFile }
}

/** `musubi agent reset`: declares the ledger lost, so that the next start may remove what it does not ask for. */
export async function resetAgent (configPath: string): Promise<{ stateDir: string }> {
  const { stateDir } = await loadAgentConfig(configPath)
  await declareLost(stateDir)
  return { stateDir }
}

/** `musubi agent doctor`: what this host lacks for its roles, each with what mends it. */
export async function doctor (configPath: string): Promise<string[]> {
  const config = await loadAgentConfig(configPath)
  if (config.drivers === 'fake') return []
  const { drivers } = createRealDrivers(config, createServices({ dir: join(config.runDir, 'services') }))
  const found = await Promise.all(Object.values(drivers).map(async driver => {
    try {
      return (await driver.probe(AbortSignal.timeout(30_000))).map(p => `${driver.kind}: ${p}`)
    } catch (error) {
      return [`${driver.kind}: ${describeError(error)}`]
    }
  }))
  return found.flat()
}
