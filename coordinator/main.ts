import { join } from 'node:path'
import { loadCoordinatorConfig, type CoordinatorConfig } from './config.ts'
import { createRegistry } from './registry.ts'
import { addCoordinatorRoutes } from './api/routes.ts'
import { MusubiError } from '../protocol/core/errors.ts'
import { createLogger } from '../protocol/log.ts'
import { loadFederation } from '../protocol/mesh/federation.ts'
import { loadOrCreateKey, peerIdOf } from '../protocol/mesh/identity.ts'
import { createMesh, type MeshLog } from '../protocol/mesh/mesh.ts'
import { createRecords } from '../protocol/mesh/records.ts'
import { createApi, listenTcp, listenUnix, type Api } from '../protocol/rest/server.ts'
import { untilStopped, type Notifier } from '../protocol/process.ts'
import { VERSION } from '../protocol/version.ts'
import { openLevelStore } from '../store/level.ts'

const keyFileOf = (config: CoordinatorConfig): string => join(config.stateDir, 'key')

/** `musubi coordinator init`: makes the key, once. */
export async function initCoordinator (configPath: string): Promise<{ peerId: string, keyFile: string }> {
  const config = await loadCoordinatorConfig(configPath)
  const keyFile = keyFileOf(config)
  return { peerId: peerIdOf(await loadOrCreateKey(keyFile)), keyFile }
}

/**
 * `musubi coordinator run`: hears what gateways advertise, keeps it, answers searches, until SIGTERM.
 *
 * @param notifier tells the service manager; given by the caller, because a coordinator starts no processes
 */
export async function runCoordinator (configPath: string, notifier: Notifier): Promise<void> {
  const config = await loadCoordinatorConfig(configPath)
  const log = createLogger(config.logLevel, { coordinator: config.name })
  const started = performance.now()
  const key = await loadOrCreateKey(keyFileOf(config))
  const federation = await loadFederation(config.federation)
  const role = federation.roleOf(peerIdOf(key))
  if (role?.kind !== 'coordinator') {
    throw new MusubiError('NOT_A_MEMBER', `this key (${peerIdOf(key)}) is no coordinator in ${config.federation}`, { hint: `add it there under coordinators as ${config.name}` })
  }
  const store = await openLevelStore(join(config.stateDir, 'store'))
  const meshLog: MeshLog = (level, text, data) => { log[level](data, text) }
  const mesh = await createMesh({ key, roster: federation, listen: config.listen, bootstrap: federation.members, log: meshLog })
  const registry = await createRegistry({ store, now: () => Date.now() })
  const records = createRecords({ mesh, epoch: registry.epoch, log: meshLog })
  const unfollow = registry.follow(records, log)

  const makeApi = async (): Promise<Api> => {
    const api = await createApi({ title: 'Musubi coordinator', description: `repository of sites ${config.name}`, logger: log })
    addCoordinatorRoutes(api, {
      sites: () => registry.sites(),
      status: () => ({
        name: config.name, peerId: mesh.peerId, version: VERSION, addresses: mesh.addresses(), sites: registry.sites().length,
        peers: mesh.connected().map(peerId => ({ peerId, name: mesh.describe(peerId).split(' (')[0] ?? peerId })),
        epoch: registry.epoch, uptimeMs: Math.round(performance.now() - started)
      })
    })
    return api
  }
  mesh.serve('search', () => ({ sites: registry.ads() }))
  await mesh.start()
  const local = await makeApi()
  await listenUnix(local, join(config.runDir, 'coordinator.sock'))
  const remote = await makeApi()
  const { http } = config
  await listenTcp(remote, http.host, http.port)
  await notifier.ready(`coordinator ${config.name}`)
  log.info({ peerId: mesh.peerId, http, addresses: mesh.addresses() }, 'coordinator is up')
  await untilStopped(log, async () => {
    await notifier.stopping()
    await Promise.all([local.close(), remote.close()])
    unfollow()
    records.stop()
    await mesh.close()
    await store.close()
  })
}
