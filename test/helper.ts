/** The helper beside an agent of a test: in this process, over a real socket, so that killing agents leaves it alone. */
import { join } from 'node:path'
import { pino } from 'pino'
import { loadAgentConfig } from '../agent/config.ts'
import { startHelper, type Helper, type HelperOverrides } from '../agent/helper/helper.ts'

/** What a configuration says of a helper that lives in a folder, and obeys whoever runs this test. */
export const helperConfig = (dir: string): { socket: string, stateDir: string, agentUser: number } =>
  ({ socket: join(dir, 'helper', 'sock'), stateDir: join(dir, 'helper', 'state'), agentUser: process.getuid?.() ?? 0 })

/** Starts the helper of an agent's configuration file. */
export async function startHelperFor (configFile: string, overrides: HelperOverrides = {}): Promise<Helper> {
  return await startHelper(await loadAgentConfig(configFile), pino({ level: 'silent' }), overrides)
}
