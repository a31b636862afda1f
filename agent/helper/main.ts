import { loadAgentConfig } from '../config.ts'
import { allowOnly } from '../system/programs.ts'
import { createNotifier } from '../services/notify.ts'
import { createLogger } from '../../protocol/log.ts'
import { untilStopped } from '../../protocol/process.ts'
import { startHelper } from './helper.ts'
import { HELPER_PROGRAMS } from './programs.ts'

/** `musubi helper run`: runs until SIGTERM or SIGINT; what it has made goes on without it. */
export async function runHelper (configPath: string): Promise<void> {
  process.title = 'musubi helper'
  // before anything else: also the question who the agent's user is goes through that door
  allowOnly(HELPER_PROGRAMS)
  process.umask(0o022)
  const config = await loadAgentConfig(configPath)
  const log = createLogger(config.logLevel, { host: config.name, part: 'helper' })
  const notifier = createNotifier()
  const helper = await startHelper(config, log)
  await notifier.ready(`${config.roles.join(',')}, for user ${config.helper.agentUser}`)
  log.info({ socket: config.helper.socket, roles: config.roles }, 'helper is up')
  await untilStopped(log, async () => {
    await notifier.stopping()
    await helper.stop()
  })
}
