import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import type { Logger } from 'pino'
import { hostCapacity, type AgentConfig } from './config.ts'
import { consoleOf, type AgentView } from './api/view.ts'
import { addAgentRoutes } from './api/routes.ts'
import { createDetails } from './details.ts'
import { createDirectory, type Directory } from './directory.ts'
import { createEventLog, type EventLog } from './events.ts'
import { createFakeDrivers, createRealDrivers, type HostDrivers } from './drivers/registry.ts'
import { tunnelAddressFor } from './drivers/network/address.ts'
import { createGateway, type Gateway } from './gateway/gateway.ts'
import type { ProposedId } from './gateway/offer.ts'
import { createLessor, type Lessor } from './lessor.ts'
import { createBuilder, type Builder } from './master/build.ts'
import { createMaster, type Master } from './master/master.ts'
import { createProbe, noProbe } from './master/probe.ts'
import { refuseLostLedger } from './lost-ledger.ts'
import { createReconciler, type Reconciler } from './reconciler.ts'
import { createNotifier } from './services/notify.ts'
import { createServices } from './services/select.ts'
import { callerOf, callPeerOf, logFor, serveAgent } from './serve.ts'
import { describeError, MusubiError, NoCapacityError } from '../protocol/core/errors.ts'
import { allocateId } from '../protocol/core/ids.ts'
import { idUses } from '../protocol/core/lease.ts'
import type { GatewayTruth } from '../protocol/core/verify.ts'
import { isGateway as isGatewayRole, loadFederation } from '../protocol/mesh/federation.ts'
import { loadOrCreateKey, peerIdOf } from '../protocol/mesh/identity.ts'
import { createMesh, type Mesh } from '../protocol/mesh/mesh.ts'
import { createApi, listenUnix } from '../protocol/rest/server.ts'
import { VERSION } from '../protocol/version.ts'
import { createLedgerClock } from '../store/clock.ts'
import { openLedger, type Ledger } from '../store/ledger.ts'
import { openLevelStore } from '../store/level.ts'
import type { LeaseResource } from '../protocol/api.ts'

export interface Agent { stop (): Promise<void> }

const TICK_MS = 1_000
const SWEEP_MS = 10_000

const bootId = (): string => readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()

/**
 * Everything of one host, wired: store and ledger first, then drivers, mesh, API, and the loops.
 *
 * @param onFatal called when this process can keep no promise any more and must be started anew
 */
export async function startAgent (config: AgentConfig, keyFile: string, log: Logger, onFatal: (error: MusubiError) => void): Promise<Agent> {
  await mkdir(config.stateDir, { recursive: true, mode: 0o700 })
  const started = performance.now()
  const now = (): number => Date.now()
  const monotonic = (): number => performance.now()
  const key = await loadOrCreateKey(keyFile)
  const federation = await loadFederation(config.federation)
  checkIdentity(config, peerIdOf(key), federation.roleOf(peerIdOf(key)))
  const store = await openLevelStore(join(config.stateDir, 'store'))
  const total = await hostCapacity(config)
  const clock = createLedgerClock(now, monotonic)
  const ledger = await openLedger({ store, now: () => clock.now(), frozen: () => clock.frozen(), host: config.name, capacity: total, bootId: bootId(), ...(config.segmentIds === undefined ? {} : { slice: config.segmentIds }) })
  ledger.onFailure(onFatal)
  const epoch = await ledger.nextEpoch()
  const events = createEventLog(now)

  const host: HostDrivers = config.drivers === 'fake' ? createFakeDrivers(config) : createRealDrivers(config, createServices({ dir: join(config.runDir, 'services') }))
  await refuseLostLedger(store, config.stateDir, host.drivers)
  const details = createDetails(host.details, monotonic)
  const reconciler: Reconciler = createReconciler({
    drivers: host.drivers, desired: () => lessor.desired(), leaveAlone: () => lessor.undecided(), log, monotonic,
    onChange: o => { events.add('object', `${o.kind} ${o.name}: ${o.state}${o.error === '' ? '' : ` (${o.error})`}`) }
  })
  const gatewayTruth: GatewayTruth = {
    isGatewayOf: (peer, site, name) => {
      const role = federation.roleOf(peer)
      return role?.kind === 'host' && role.site === site && role.host === name && isGatewayRole(role)
    },
    tunnelAddressFor
  }
  const lessor: Lessor = createLessor({ site: config.site, host: config.name, ledger, reconciler: () => reconciler, details, events, now, truth: { ...gatewayTruth, peer: peerIdOf(key), underlayAddress: config.underlayAddress, tunnelPort: config.tunnelPort, addressOf: name => directory.siteHosts().find(h => h.host === name)?.underlayAddress ?? null } })

  const mesh = await createMesh({ key, roster: federation, listen: config.listen, bootstrap: federation.members, log: logFor(log) })
  const directory = createDirectory({ mesh, epoch, config, ledger, total, now, log })
  const call = callPeerOf(mesh)
  const isGateway = config.roles.includes('gateway')
  const gateway = isGateway ? makeGateway() : null
  const { master, builder } = isGateway ? makeMaster() : { master: null, builder: null }

  function makeGateway (): Gateway {
    const proposed = new Set<number>()
    return createGateway({
      site: config.site, call, store, events, log, now, newId: randomUUID,
      siteHosts: () => directory.siteHosts(),
      facts: async () => ({
        host: config.name, peer: mesh.peerId, underlayAddress: config.underlayAddress, tunnelPublicKey: await host.tunnelPublicKey(),
        tunnelEndpoint: `${config.underlayAddress}:${config.tunnelPort}`, tunnelAddress: tunnelAddressFor(mesh.peerId)
      }),
      proposeSegmentId: () => proposeSegmentId(config, ledger, proposed)
    })
  }

  function makeMaster (): { master: Master, builder: Builder } {
    const realImages = config.drivers === 'real'
    const b = createBuilder({ stateDir: config.stateDir, imageStore: config.imageStore, site: config.site, peerId: mesh.peerId, realImages })
    const m = createMaster({
      site: config.site, call, sites: () => directory.knownSites(), store, events, log, now, monotonic, newId: randomUUID,
      builder: b, probe: realImages ? createProbe(log) : noProbe, truth: gatewayTruth
    })
    return { master: m, builder: b }
  }

  serveAgent(mesh, { lessor, gateway, site: config.site, callerOf: ctx => callerOf(ctx), sites: () => directory.siteAds() })
  const problems: string[] = []
  const view = makeView({ config, mesh, directory, ledger, reconciler, events, builder, epoch, total, started, problems })
  const api = await createApi({ title: 'Musubi agent', description: `agent of host ${config.name} at site ${config.site}`, logger: log })
  addAgentRoutes(api, { view, events, master, gateways: () => directory.siteHosts().filter(h => h.roles.includes('gateway')).map(h => h.host) })

  await mesh.start()
  directory.start()
  await reconciler.look() // what runs here is known before anybody is told of it; its repair goes on meanwhile
  await master?.resume() // a question about a cluster of an earlier process is not answered with "not found"
  await listenUnix(api, join(config.runDir, 'agent.sock'))
  const stopLoops = startLoops()
  const notifier = createNotifier()
  await notifier.ready(`${config.roles.join(',')} of ${config.site}`)
  log.info({ peerId: mesh.peerId, epoch, roles: config.roles, addresses: mesh.addresses(), ms: Math.round(performance.now() - started) }, 'agent is up')
  void probeDrivers()

  async function probeDrivers (): Promise<void> {
    for (const driver of Object.values(host.drivers)) {
      try {
        for (const p of await driver.probe(AbortSignal.timeout(60_000))) problems.push(`${driver.kind}: ${p}`)
      } catch (error) {
        problems.push(`${driver.kind}: ${describeError(error)}`)
      }
    }
    for (const problem of problems) log.warn({ problem }, 'this host lacks something')
  }

  function startLoops (): () => void {
    const every = (ms: number, what: string, work: () => Promise<void>): NodeJS.Timeout => {
      let busy = false
      return setInterval(() => {
        if (busy) return
        busy = true
        work().catch((error: unknown) => { log.warn({ error: describeError(error) }, what) }).finally(() => { busy = false })
      }, ms)
    }
    const unsubscribe = ledger.onChange(() => { directory.changed() })
    const timers = [
      every(TICK_MS, 'the ledger could not be ticked', () => lessor.tick()),
      // in a loop of its own: a removal that hangs must not keep leases from ending
      every(TICK_MS, 'ended clusters could not be vacated', () => lessor.vacate()),
      every(SWEEP_MS, 'old offers could not be swept', () => gateway?.sweep() ?? Promise.resolve())
    ]
    return () => { unsubscribe(); timers.forEach(clearInterval) }
  }

  return {
    async stop () {
      stopLoops()
      await notifier.stopping()
      await api.close()
      await master?.stop()
      await reconciler.stop()
      directory.stop()
      await mesh.close()
      await ledger.close()
      await store.close()
    }
  }
}

function checkIdentity (config: AgentConfig, peerId: string, role: ReturnType<Mesh['roleOf']>): void {
  if (role === null) throw new MusubiError('NOT_A_MEMBER', `this host's key (${peerId}) is not in the federation file ${config.federation}`, { hint: `add it under site ${config.site} as host ${config.name}` })
  if (role.kind !== 'host' || role.site !== config.site || role.host !== config.name) {
    const who = role.kind === 'host' ? `host ${role.host} of site ${role.site}` : `coordinator ${role.name}`
    throw new MusubiError('WRONG_IDENTITY', `the federation file knows this key as ${who}, the configuration says host ${config.name} of site ${config.site}`, { hint: 'make name and site in the configuration agree with the federation file' })
  }
  const missing = config.roles.filter(r => !role.roles.includes(r))
  if (missing.length > 0) throw new MusubiError('WRONG_IDENTITY', `the federation file does not give ${config.name} the role ${missing.join(', ')}`, { hint: `add it in ${config.federation} at every member` })
}

/** Lowest id that no live lease has and that is not being proposed to another cluster at this moment. */
function proposeSegmentId (config: AgentConfig, ledger: Ledger, proposed: Set<number>): ProposedId {
  const slice = config.segmentIds
  const uses = [...idUses(ledger.state()), ...[...proposed].map(taken => ({ id: taken, untilMs: Number.POSITIVE_INFINITY }))]
  const id = slice === undefined ? null : allocateId(slice, uses, ledger.state().clockMs)
  if (id === null) throw new NoCapacityError(`gateway ${config.name} has no free segment id${slice === undefined ? '' : ` in ${slice.from}..${slice.to}`}`, 'widen segmentIds in its configuration, or wait for clusters to end')
  proposed.add(id)
  return { id, release: () => { proposed.delete(id) } }
}

interface ViewParts {
  config: AgentConfig, mesh: Mesh, directory: Directory, ledger: Ledger, reconciler: Reconciler, events: EventLog
  builder: Builder | null, epoch: number, total: { vcpus: number, memoryMib: number, diskMib: number }, started: number, problems: string[]
}

function makeView ({ config, mesh, directory, ledger, reconciler, builder, epoch, total, started, problems }: ViewParts): AgentView {
  return {
    status: () => Promise.resolve({
      name: config.name, site: config.site, roles: config.roles, peerId: mesh.peerId, version: VERSION, addresses: mesh.addresses(),
      peers: mesh.connected().map(peerId => ({ peerId, name: mesh.describe(peerId).split(' (')[0] ?? peerId })),
      epoch, uptimeMs: Math.round(performance.now() - started), total, free: ledger.free(),
      objects: reconciler.states().map(({ kind, name, state, error }) => ({ kind, name, state, error })), problems
    }),
    hosts: () => directory.hosts(),
    sites: () => directory.sites(),
    leases: all => Promise.resolve(leasesOfLedger(config, ledger, all)),
    console: (record, node) => {
      if (builder === null) throw new MusubiError('NOT_A_GATEWAY', 'this host is no gateway')
      return consoleOf(record, node, builder.keyFile(record))
    }
  }
}

function leasesOfLedger (config: AgentConfig, ledger: Ledger, all: boolean): LeaseResource[] {
  return [...ledger.state().leases.values()].filter(l => all || l.state !== 'ended').map(l => ({
    leaseId: l.id, clusterId: l.clusterId, cluster: l.cluster, host: config.name, kind: l.kind, name: l.name, state: l.state,
    resources: l.resources, startMs: l.startMs, endMs: l.endMs, token: l.token, masterSite: l.masterSite
  }))
}
