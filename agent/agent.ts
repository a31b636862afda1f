import { randomUUID } from 'node:crypto'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Logger } from 'pino'
import { createAvailability, HELPER_ASK_MS, HELPER_FIRST_MS } from './availability.ts'
import { createBootClock } from './system/boot-clock.ts'
import { createCalendar } from './calendar/calendar.ts'
import { createTold } from './calendar/told.ts'
import { createDrain } from './calendar/drain.ts'
import { hostCapacity, retainLimitsOf, trunkOf, tunnelEndpointOf, type AgentConfig } from './config.ts'
import { helpless, makeView, shutOut, unkept } from './api/view/own.ts'
import { addAgentRoutes } from './api/routes.ts'
import { createCordon, createHostCordon } from './cordon.ts'
import { createCaches } from './cache/fleet.ts'
import { createRetainedStores } from './cache/retained.ts'
import { createSiteCaches } from './cache/site.ts'
import { createDiagnose } from './diagnose/diagnose.ts'
import { createDirectory } from './directory.ts'
import { createEventLog } from './events.ts'
import { kindsOf } from './drivers/registry.ts'
import { tunnelAddressFor } from './drivers/network/address.ts'
import { createGateway, type Gateway } from './gateway/gateway.ts'
import { newsOf } from './gateway-news.ts'
import { createInventory, type HostInventory } from './inventory/inventory.ts'
import { createHelperClient } from './helper/client/client.ts'
import { createRemoteHost } from './helper/client/remote.ts'
import { createLessor, type Lessor } from './lessor/lessor.ts'
import { createBuilder, type Builder } from './master/build.ts'
import { createCopies, type Copy } from './master/copies.ts'
import { factsFrom } from './images/facts.ts'
import { openImageStore } from './images/store.ts'
import { createMaster, type Master } from './master/master.ts'
import { createProbe, noProbe } from './master/probe.ts'
import { quarantineAfterLoss, refuseLostLedger } from './lost-ledger.ts'
import { openMembership } from './membership.ts'
import { createPlanner, type Planner } from './quote/planner.ts'
import { createPolicy, type Policy } from './policy/policy.ts'
import { createQuotaShares } from './policy/shares.ts'
import { createPolicyView } from './policy/view.ts'
import { createReconciler, type Reconciler } from './reconcile/reconciler.ts'
import { createNotifier } from './services/notify.ts'
import { bootId } from './services/proc.ts'
import { loadIdentity } from './site/identity.ts'
import { createSiteIssuer, type SiteIssuer } from './site/issuer.ts'
import { callerOf, callPeerOf, logFor, serveAgent } from './serve.ts'
import { createWanRates } from './tunnel/rates.ts'
import { createTunnels, type Tunnels } from './tunnel/tunnels.ts'
import { describeError, MusubiError } from '../protocol/core/errors.ts'
import { MASTERLESS_MS, PUBLISH_COALESCE_MS } from '../protocol/core/limits.ts'
import type { GatewayTruth } from '../protocol/core/verify/document.ts'
import { isGateway as isGatewayRole } from '../protocol/mesh/roles.ts'
import { createMesh } from '../protocol/mesh/mesh.ts'
import { chainFromText, chainToText } from '../protocol/mesh/trust/base64.ts'
import { readGrant, signGrant } from '../protocol/mesh/trust/grant.ts'
import type { Trust } from '../protocol/mesh/trust/trust.ts'
import { lendingOf } from '../protocol/policy/lending.ts'
import { createPreempt } from '../protocol/policy/preempt.ts'
import { priceOf, quotasOf, ruleFor } from '../protocol/policy/rules.ts'
import { createApi, listenUnix } from '../protocol/rest/server.ts'
import { openLedger, type Ledger } from '../store/ledger.ts'
import { openLevelStore } from '../store/level.ts'

export interface Agent { stop (): Promise<void> }

const TICK_MS = 1_000
const GATEWAY_TICK_MS = 5_000
const COPIES_TICK_MS = 60_000
const RETAINED_TICK_MS = 15_000

/**
 * Everything of one host, wired: store and ledger first, then drivers, mesh, API, and the loops.
 * A disk that fails later does not end it: it refuses what it cannot write, and goes on when it can.
 */
export async function startAgent (config: AgentConfig, log: Logger): Promise<Agent> {
  await mkdir(config.stateDir, { recursive: true, mode: 0o700 })
  const started = performance.now()
  const now = (): number => Date.now()
  const monotonic = (): number => performance.now()
  const identity = await loadIdentity(config)
  const store = await openLevelStore(join(config.stateDir, 'store'))
  const membership = await openMembership(identity, config.stateDir, store, log, now)
  const { key, trust } = membership
  const total = await hostCapacity(config)
  const ledger = await openLedger({
    store, clock: { wall: now, sinceBoot: createBootClock(), bootId: bootId() }, host: config.name, capacity: total,
    ...(config.segmentIds === undefined ? {} : { slice: config.segmentIds }),
    // gateways give out ids and lend quotas, of which others may still have some
    ...(config.segmentIds === undefined && !config.roles.includes('gateway') ? {} : { quarantineUntilMs: await quarantineAfterLoss(store, config.stateDir, now()) })
  })
  /** what promises are counted by; certificates and records of others go by the wall clock */
  const ledgerNow = (): number => ledger.now()
  const epoch = await ledger.nextEpoch()
  const events = createEventLog(now)

  // what needs privileges is done by another process; it may come and go while this one runs
  const helper = createHelperClient({ socketPath: config.helper.socket, ledgerMs: ledgerNow, log })
  const host = createRemoteHost(helper, kindsOf(config))
  await refuseLostLedger(store, config.stateDir, host.observers, () => helper.ready(new AbortController().signal))
  const { details, fence } = host
  const reconciler: Reconciler = createReconciler({
    drivers: host.observers, hands: host.hands, desired: () => lessor.desired(), leaveAlone: () => lessor.undecided(), log, monotonic, fence: { fence, tenancy: () => lessor.tenancy() },
    onChange: o => { events.add('object', `${o.kind} ${o.name}: ${o.state}${o.error === '' ? '' : ` (${o.error})`}`) }
  })
  const gatewayTruth: GatewayTruth = {
    isGatewayOf: (peer, site, name, chain) => isGatewayBy(trust, peer, site, name, chain),
    tunnelAddressFor
  }
  const cordon = await createCordon(store, config.name, () => { directory.changed() })
  const availability = createAvailability({
    host: config.name, cordon, helper, monotonic,
    onChange: why => {
      log[why === null ? 'info' : 'warn']({ why: why ?? '' }, why === null ? 'new leases are taken again' : 'no new leases are taken')
      events.add('host.availability', why === null ? 'the helper answers: new leases are taken' : `no new leases are taken: ${why}`)
      directory.changed()
    }
  })
  const lessor: Lessor = createLessor({
    site: config.site, host: config.name, isGateway: config.roles.includes('gateway'), ...trunkOf(config), ledger, reconciler: () => reconciler, details, events, now: ledgerNow, monotonic, sleep: ms => sleep(ms), cordon: availability, policy: { check: ask => { policy.check(ask) } }, fence,
    signGrant: grant => signGrant(key, trust.own().chain, grant),
    tunnels: { news: (gateway, site) => tunnels?.truth.news(gateway, site) ?? newsOf(trust, gateway, site, null), own: () => tunnels?.truth.own() ?? {} },
    truth: { ...gatewayTruth, peer: trust.peerId, underlayAddress: config.underlayAddress, tunnelEndpoint: tunnelEndpointOf(config), heardKeys: peer => tunnels?.heardKeys(peer) ?? null, addressOf: name => directory.siteHosts().find(h => h.host === name)?.underlayAddress ?? null }
  })

  const mesh = await createMesh({
    key, trust, listen: config.listen, peers: membership.peers, reachable: config.reachable, relay: config.relay, relays: () => directory.relays(), log: logFor(log),
    ...(config.announce === undefined ? {} : { announce: config.announce })
  })
  let found: HostInventory | null = null
  const directory = createDirectory({ mesh, epoch, config, ledger, total, now, log, cordoned: () => cordon.get().cordoned, blind: () => availability.blind() !== null, inventory: () => found === null ? null : { inventory: found, features: found.features }, rule: () => policy.get().document.default ?? {}, tunnel: () => tunnels?.tracks() ?? [] })
  const call = callPeerOf(mesh)
  const isGateway = config.roles.includes('gateway')
  const policy: Policy = await createPolicy({
    site: config.site, host: config.name, store, records: directory.records, roleOf: peer => mesh.roleOf(peer), tells: isGateway, now: ledgerNow, log,
    onChange: () => {
      countQuotas()
      directory.changed()
    }
  })
  const quotaPercent = (): number => trust.own().quotaPercent
  countQuotas()
  const issuer: SiteIssuer = await createSiteIssuer({
    config, stateDir: config.stateDir, key, store, trustStore: membership.trustStore, trust, mesh, log, now,
    hostNames: () => directory.hosts().map(h => ({ name: h.host, peerId: h.peerId, roles: h.roles, alive: h.state !== 'dead' }))
  })
  const tunnels: Tunnels | null = isGateway
    ? await createTunnels({
      config, store, records: directory.records, trust, events, log, now, documents: () => ledger.activeDocuments().map(({ document }) => document), helperTracks: () => host.tunnelTracks(),
      observe: async signal => await host.observers.tunnel?.observe(signal) ?? [], advertise: () => { directory.changed() }, trigger: () => { reconciler.trigger() }
    })
    : null
  const copies = createCopies({
    call, log, table: ledger.table<Copy>('copy'), now: ledgerNow,
    targets: () => directory.hosts().filter(h => h.state !== 'dead' && h.peerId !== mesh.peerId).map(h => ({ host: h.host, peer: h.peerId, gateway: h.roles.includes('gateway') }))
  })
  const calendar = createCalendar({
    site: config.site, peer: mesh.peerId, ledger, call, refusal: () => cordon.get().cordoned ? `cordoned${cordon.get().reason === '' ? '' : `: ${cordon.get().reason}`}` : availability.blind(),
    hosts: () => directory.siteHosts(), lends: isGateway
  })
  const wanRates = createWanRates(now)
  const factsOf = factsFrom(openImageStore(config.imageStore))
  const gateway = isGateway ? makeGateway() : null
  const { master, builder } = isGateway ? makeMaster() : { master: null, builder: null }

  /** Other hosts lend what gateways ask them for: quotas are counted by gateways. */
  function countQuotas (): void {
    if (isGateway) ledger.setQuotas(quotasOf(policy.get().document, config.site, trust.own().quotaPercent))
  }

  /** What a site is asked for per vCPU and hour, thousandths. */
  function priceMilli (masterSite: string): number {
    return masterSite === config.site ? 0 : priceOf(ruleFor(policy.get().document, masterSite)) ?? config.priceMilli
  }

  function makeGateway (): Gateway {
    return createGateway({
      site: config.site, call, store, events, log, now: ledgerNow, newId: randomUUID, calendar, cordon: availability, policy, quota: masterSite => masterSite !== config.site,
      shares: createQuotaShares({ ledger: () => ledger.state(), now: ledgerNow, call, gateways: () => directory.siteHosts().filter(({ peer, roles }) => peer !== mesh.peerId && roles.includes('gateway')).map(({ host: name, peer, underlayAddress }) => ({ host: name, peer, underlayAddress })) }),
      priceMilli, quotes: { ledger: () => ledger.state(), priceMilli },
      preempt: createPreempt(() => policy.get().document, config.site, ledgerNow),
      siteHosts: () => directory.siteHosts(),
      facts: async () => ({
        host: config.name, peer: mesh.peerId, underlayAddress: config.underlayAddress, tunnelPublicKey: await keyForOffers(),
        tunnelEndpoint: tunnelEndpointOf(config), tunnelAddress: tunnelAddressFor(mesh.peerId),
        chain: chainToText(trust.own().chain)
      }),
      holderOf: (grant, of) => {
        const { epoch: granted, holder } = readGrant(grant, of, trust, now())
        return { epoch: granted, peer: holder }
      }
    })
  }

  async function keyForOffers (): Promise<string> {
    if (tunnels === null) throw new MusubiError('NOT_A_GATEWAY', 'this host is no gateway')
    return await tunnels.currentKey()
  }

  function makeMaster (): { master: Master, builder: Builder } {
    const realImages = config.drivers === 'real'
    const b = createBuilder({ stateDir: config.stateDir, imageStore: config.imageStore, site: config.site, peerId: mesh.peerId, realImages })
    const m = createMaster({
      site: config.site, peer: mesh.peerId, call, sites: () => directory.knownSites(), store, events, log, now: ledgerNow, monotonic, newId: randomUUID,
      builder: b, image: factsOf, probe: realImages ? createProbe((vni, address, size) => helper.call('segment-ping', { vni, address, ...(size === undefined ? {} : { size }) }), log) : noProbe, truth: gatewayTruth, copies,
      heardMs: id => Math.max(ledger.heardMs(id) ?? 0, gateway?.heardMs(id) ?? 0) || null,
      jitterMs: () => Math.random() * MASTERLESS_MS / 4
    })
    return { master: m, builder: b }
  }

  const retained = isGateway && config.drivers === 'real' ? createRetainedStores({ site: config.site, host: config.name, helper, events, limits: retainLimitsOf(config) }) : null
  function makePlanner (): Planner | null {
    return !isGateway ? null : createPlanner({
      site: config.site, call, sites: () => directory.knownSites(), now: ledgerNow, newId: randomUUID, rttMs: peer => mesh.rttMs(peer), sentMbit: peer => wanRates.of(tunnelAddressFor(peer)), image: factsOf
    })
  }

  const siteCaches = createSiteCaches({ site: config.site, helper, masterSite: id => gateway?.list().find(record => record.clusterId === id)?.masterSite ?? null })
  serveAgent(mesh, { lessor, gateway, calendar, ...gateway === null ? {} : { caches: siteCaches, told: createTold({ site: config.site, now: ledgerNow, calendar, noticed: masterSite => gateway.noticed(masterSite), retained: () => retained?.figures() ?? [], lending: masterSite => lendingOf(policy.get().document, config.site, masterSite, ledgerNow()) }) }, copies, cordon, site: config.site, callerOf: ctx => callerOf(ctx), sites: () => directory.siteAds() })
  const problems: string[] = []
  const view = makeView({ config, mesh, directory, ledger, reconciler, events, gateway, builder, epoch, total, started, issuer, cordon, problems: () => [...helpless(helper.problem(), availability.blind()), ...unkept(ledger), ...membership.problems(), ...issuer.problems(), ...shutOut(mesh), ...tunnels?.problems() ?? [], ...problems] })
  const api = await createApi({ title: 'Musubi agent', description: `agent of host ${config.name} at site ${config.site}`, logger: log })
  const gateways = (): string[] => directory.siteHosts().filter(h => h.roles.includes('gateway')).map(h => h.host)
  const cordonHost = createHostCordon({ host: config.name, isGateway, cordon, call, hosts: () => directory.hosts().filter(h => h.state !== 'dead'), gateways })
  addAgentRoutes(api, {
    view, events, master, gateways, policy: isGateway ? createPolicyView({ site: config.site, policy, ledger: () => ledger.state(), quotaPercent, records: () => gateway?.list() ?? [] }) : null, tunnels, issuer: isGateway ? issuer : null,
    planner: makePlanner(),
    retained, caches: master === null ? null : createCaches({ call, document: name => master.record(name).document, setBudget: (name, change) => master.cacheBudget(name, change) }),
    diagnose: config.drivers === 'fake' ? null : createDiagnose({
      site: config.site, host: config.name, helper, documents: () => ledger.activeDocuments().map(({ document }) => document), skews: id => masterSkew(ledger, gateway, id)
    }),
    calendar: {
      site: config.site, host: config.name, isGateway, gateways, calendar,
      drain: createDrain({ site: config.site, host: config.name, isGateway, calendar, call, hosts: () => directory.hosts().filter(h => h.state !== 'dead'), cordonHost })
    },
    cordonHost
  })

  await mesh.start()
  membership.follow(mesh)
  // a helper that is there answers at once: what is said first is not that nothing is free
  await helper.ready(AbortSignal.timeout(HELPER_FIRST_MS)).catch(() => undefined)
  const unheard = availability.blind() !== null
  directory.start()
  await availability.tick() // what is advertised from now on is told anew when it changes
  if (unheard && availability.blind() === null) directory.changed() // also that the first answer came after what was said first
  await issuer.start()
  await reconciler.look() // what runs here is known before anybody is told of it; its repair goes on meanwhile
  await gateway?.start()
  await master?.resume() // a question about a cluster of an earlier process is not answered with "not found"
  await listenUnix(api, join(config.runDir, 'agent.sock'))
  const stopLoops = startLoops()
  const notifier = createNotifier()
  await notifier.ready(`${config.roles.join(',')} of ${config.site}`)
  log.info({ peerId: mesh.peerId, epoch, roles: config.roles, addresses: mesh.addresses(), ms: Math.round(performance.now() - started) }, 'agent is up')
  // who is revoked loses its tunnel with the next pass, which is now
  const stopRevoked = trust.onRevoked(() => { reconciler.trigger() })
  const lookAtKeys = (): void => { tunnels?.tick().catch((error: unknown) => { log.warn({ error: describeError(error) }, 'the keys of tunnels could not be looked at') }) }
  const stopHelper = helper.onConnect(() => {
    reconciler.trigger()
    lookAtKeys()
    void probeDrivers()
  })
  void probeDrivers()
  lookAtKeys()
  const stopInventory = readInventory()

  async function probeDrivers (): Promise<void> {
    // without the helper that is the problem, and told as such
    const found = await helper.call('probe', {}).catch(() => null)
    if (found === null) return
    const before = new Set(problems)
    problems.splice(0, problems.length, ...found.map(({ kind, problem }) => `${kind}: ${problem}`))
    for (const problem of problems) if (!before.has(problem)) log.warn({ problem }, 'this host lacks something')
  }

  /** What the machine has: read beside the rest, as some tools take their time. */
  function readInventory (): () => void {
    const inventory = createInventory({ privileged: signal => helper.call('inventory', {}, { signal }), ...(config.accelerator === undefined ? {} : { accelerator: config.accelerator }) })
    const take = (read: HostInventory): void => { found = read; directory.changed() }
    inventory.read(AbortSignal.timeout(60_000)).then(take, (error: unknown) => { log.warn({ error: describeError(error) }, 'cannot read what this host has') })
    return inventory.watch(undefined, take)
  }

  function startLoops (): () => void {
    const every = (ms: number, what: string, work: () => Promise<void>): NodeJS.Timeout => {
      let busy = false
      let told = ''
      return setInterval(() => {
        if (busy) return
        busy = true
        work().then(() => { told = '' }, (error: unknown) => {
          // What fails every second is news once.
          if (told !== describeError(error)) log.warn({ error: describeError(error) }, what)
          told = describeError(error)
        }).finally(() => { busy = false })
      }, ms)
    }
    // a moment later: whoever waits for a promise does not wait for its advert, nor does the next step of the same negotiation
    let advert: NodeJS.Timeout | null = null
    const advertise = (): void => {
      advert = null
      directory.changed()
    }
    const ends = [
      ledger.onChange(() => { advert ??= setTimeout(advertise, PUBLISH_COALESCE_MS) }),
      ledger.onFailure(failure => {
        log.error({ error: describeError(failure) }, 'the ledger cannot be written: nothing is promised until it can')
        events.add('ledger.failed', describeError(failure))
      }),
      ledger.onRecovered(() => {
        log.info({}, 'the ledger was read from the disk and goes on')
        events.add('ledger.recovered', 'the ledger can be written again')
        directory.changed()
        reconciler.trigger() // what was in doubt is now as the disk says
      })
    ]
    const timers = [
      every(HELPER_ASK_MS, 'the helper could not be asked', () => availability.tick()),
      every(TICK_MS, 'the ledger could not be ticked', () => lessor.tick()),
      // in a loop of its own: a removal that hangs must not keep leases from ending
      every(TICK_MS, 'ended clusters could not be vacated', () => lessor.vacate()),
      every(RETAINED_TICK_MS, 'stores of ended clusters could not be looked at', () => retained?.tick() ?? Promise.resolve()),
      every(COPIES_TICK_MS, 'old copies could not be dropped', () => copies.tick()),
      every(GATEWAY_TICK_MS, 'the keys of tunnels could not be looked at', () => tunnels?.tick() ?? Promise.resolve()),
      every(GATEWAY_TICK_MS, 'the gateway could not be ticked', async () => {
        wanRates.note(reconciler.states().find(({ kind }) => kind === 'tunnel')?.detail)
        countQuotas() // a renewed certificate may give another share
        await gateway?.tick()
      })
    ]
    return () => {
      for (const end of ends) end()
      timers.forEach(clearInterval)
      if (advert !== null) clearTimeout(advert)
    }
  }

  return {
    async stop () {
      stopLoops()
      await notifier.stopping()
      await api.close()
      await master?.stop()
      await gateway?.close()
      await reconciler.stop()
      stopInventory()
      stopHelper()
      availability.close()
      stopRevoked()
      tunnels?.stop()
      policy.stop()
      await issuer.stop()
      await directory.leave()
      await membership.stop()
      directory.stop()
      await mesh.close()
      helper.close()
      await ledger.close()
      await store.close()
    }
  }
}

/** Whether a peer is the gateway that it is said to be: by what is known of it, or by the certificates that come with the claim. */
function isGatewayBy (trust: Trust, peer: string, site: string, name: string, claimed: readonly string[]): boolean {
  try {
    const role = trust.roleOf(peer) ?? trust.admit(peer, chainFromText(claimed)).role
    return role.kind === 'host' && role.site === site && role.host === name && isGatewayRole(role)
  } catch {
    return false
  }
}

/** How far the clock of a cluster's master is ahead of this host's, where it is another site's. */
function masterSkew (ledger: Ledger, gateway: Gateway | null, clusterId: string): Array<{ site: string, ms: number }> {
  const site = ledger.documents.get(clusterId)?.document.masterSite
  const behindMs = gateway?.skewMs(clusterId) ?? null
  return site === undefined || behindMs === null ? [] : [{ site, ms: -behindMs }]
}
