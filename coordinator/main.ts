import { join } from 'node:path'
import { addAdmissionRoutes, addReadRoutes, refuseAdmissionRoutes } from './api/routes.ts'
import { openAudit } from './audit.ts'
import { loadCoordinatorConfig } from './config.ts'
import { startCoordinator } from './coordinator.ts'
import { establish, identityFiles, openIdentity } from './identity.ts'
import { exportCoordinator, importCoordinator, type Exported, type ImportOptions, type Imported } from './transfer.ts'
import { asOwnerOf } from '../protocol/as-owner.ts'
import { createLogger } from '../protocol/log.ts'
import { createApi, listenTcp, listenUnix, type Api } from '../protocol/rest/server.ts'
import { untilStopped, type Notifier } from '../protocol/process.ts'

const now = (): number => Date.now()
const socketOf = (runDir: string): string => join(runDir, 'coordinator.sock')

export interface Initialised {
  readonly name: string
  readonly federation: string
  readonly peerId: string
  /** files */
  readonly coordinatorKey: string
  readonly nodeKey: string
  readonly notAfterMs: number
  /** false: it was there before */
  readonly made: boolean
}

/** `musubi coordinator init`: makes keys and certificate, once; what is there stays. @throws as `establish` */
export async function initCoordinator (configPath: string, name: string | undefined): Promise<Initialised> {
  const config = await loadCoordinatorConfig(configPath)
  const files = identityFiles(config.stateDir)
  const { identity, made } = await asOwnerOf(config.stateDir, async () => {
    const done = await establish(config, name, now())
    if (done.made) await openAudit(config.stateDir, { now }).write('init', { name: done.identity.name, federation: done.identity.federation })
    return done
  })
  return { name: identity.name, federation: identity.federation, peerId: identity.peerId, coordinatorKey: files.coordinatorKey, nodeKey: files.nodeKey, notAfterMs: identity.member.notAfterMs, made }
}

/** `musubi coordinator export`. @param options.askRunning asks the coordinator behind a socket for its state */
export async function exportFrom (configPath: string, { askRunning, ...options }: { out: string, passphraseFile: string | undefined, askRunning: (socketPath: string) => Promise<unknown> }): Promise<Exported> {
  const config = await loadCoordinatorConfig(configPath)
  return await exportCoordinator(config, { ...options, now, askRunning: () => askRunning(socketOf(config.runDir)) })
}

/** `musubi coordinator import`. */
export async function importTo (configPath: string, options: Omit<ImportOptions, 'now'>): Promise<Imported> {
  return await importCoordinator(await loadCoordinatorConfig(configPath), { ...options, now })
}

/**
 * `musubi coordinator run`: admits sites, hears what gateways advertise, keeps it, answers searches,
 * until SIGTERM.
 *
 * @param notifier tells the service manager; given by the caller, because a coordinator starts no processes
 */
export async function runCoordinator (configPath: string, notifier: Notifier): Promise<void> {
  const config = await loadCoordinatorConfig(configPath)
  const { identity, renewed } = await openIdentity(config, now())
  const log = createLogger(config.logLevel, { coordinator: identity.name })
  if (renewed) log.info({ until: new Date(identity.member.notAfterMs).toISOString() }, 'renewed the own certificate')
  const coordinator = await startCoordinator(config, identity, log)

  const makeApi = async (): Promise<Api> => {
    const api = await createApi({ title: 'Musubi coordinator', description: `repository of sites ${identity.name}`, logger: log })
    addReadRoutes(api, coordinator)
    return api
  }
  const local = await makeApi()
  addAdmissionRoutes(local, coordinator)
  await listenUnix(local, socketOf(config.runDir))
  const remote = await makeApi()
  refuseAdmissionRoutes(remote)
  const { http } = config
  await listenTcp(remote, http.host, http.port)
  await notifier.ready(`coordinator ${identity.name}`)
  log.info({ peerId: identity.peerId, federation: identity.federation, http, addresses: coordinator.addresses() }, 'coordinator is up')
  await untilStopped(log, async () => {
    await notifier.stopping()
    await Promise.all([local.close(), remote.close()])
    await coordinator.stop()
  })
}
