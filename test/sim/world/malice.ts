/**
 * An admitted site that means ill. It calls in its own name, as the mesh proves names, and knows
 * everything that was ever said; as a lender it answers what it likes. Everything has the form that
 * the wire lets through.
 */
import { zero } from '../../../protocol/core/capacity.ts'
import { buildClusterDocument } from '../../../protocol/core/document.ts'
import { MusubiError } from '../../../protocol/core/errors.ts'
import { HOLD_TTL_MS } from '../../../protocol/core/limits.ts'
import type { ActivateRequest, Held, Offer, Receipt, Request } from '../../../protocol/core/messages.ts'
import { FRONTEND_RESOURCES, nodeResources, volumeResources } from '../../../protocol/core/placement/at-site.ts'
import { nodeName } from '../../../protocol/core/placement/among-sites.ts'
import { EPOCH_MS } from '../kernel/clock.ts'
import type { Kernel } from '../kernel/kernel.ts'
import { copyOf, type Endpoint, type Envelope, type Process } from '../kernel/network.ts'
import { hash128, type Prng } from '../kernel/prng.ts'
import type { Config, HostPlan } from './config.ts'
import { gatewayFacts, signGrant, type Surroundings } from './surroundings.ts'

export interface Malice {
  /** one wicked deed */
  act (): void
  /** it hears every call */
  overheard (call: Envelope): void
  /** A cluster has got another master: what the former one has said comes again, late. */
  late (clusterId: string): void
  /** A question, or a claim, was answered as it wants: an earlier one of the same cluster comes again, late. */
  overtaken (call: Envelope): void
  /** A host has taken a later document: the one before comes again. */
  outdated (clusterId: string, peer: string): void
}

const MAX_HEARD = 60
const MAX_SAID = 12
/** Earlier questions, or claims, about one cluster to one host. */
const MAX_EARLIER = 4
const OF_HOSTS = new Set(['hold', 'hostCommit', 'hostActivate', 'hostExtend', 'hostCurtail', 'hostRestore'])
const ASKED_OF_GATEWAYS = new Set(['request', 'extend', 'commit', 'activate', 'release', 'keepAlive', 'status'])
const nowMs = (kernel: Kernel): number => EPOCH_MS + Math.floor(kernel.now())

export function createMalice ({ kernel, chance, config, around, endpoints }: { kernel: Kernel, chance: Prng, config: Config, around: Surroundings, endpoints: Map<string, Endpoint> }): Malice {
  const evil = config.sites.filter(site => site.malicious).flatMap(site => site.hosts)
  const honest = config.sites.filter(site => !site.malicious).flatMap(site => site.hosts)
  const heard: Array<{ method: string, request: Record<string, unknown>, from: string, to: string }> = []
  /** first questions of gateways to hosts, by cluster */
  const said = new Map<string, typeof heard>()
  /** requests and claims as they were sent, by cluster and whom they asked */
  const sent = new Map<string, Envelope[]>()
  const keyOf = ({ method, request, to }: Envelope): string => `${method} ${(request as { clusterId: string }).clusterId} ${to.peer}`
  /** 0 to 1: how often it answers as an honest site would */
  const manners = chance.unit()

  function honestOffer (plan: HostPlan, request: Request): Offer {
    const held = (kind: string, name: string, resources: Held['resources']): Held => ({
      leaseId: around.uuid(), kind, name, host: plan.host, peer: plan.peer, underlayAddress: plan.underlayAddress, resources, token: chance.int(1, 1_000_000)
    })
    const offer: Offer = {
      offerId: around.uuid(), site: plan.site, segmentId: chance.int(1, 5000), gateway: gatewayFacts(plan), ttlMs: chance.pick([30_000, 20_000, 1, 300_000]), nowMs: nowMs(kernel),
      held: [
        ...request.nodes.map(node => held('node', node.name, nodeResources(node))), ...request.volumes.map(volume => held('volume', volume.name, volumeResources(volume))),
        ...(request.frontend ? [held('frontend', 'frontend', { ...FRONTEND_RESOURCES })] : []), held('segment', 'segment', zero()), ...(request.local === true ? [held('segment', 'local', zero())] : [])
      ],
      ...(request.local === true ? { localSegmentId: 6000 } : {})
    }
    return offer
  }

  function offerFor (plan: HostPlan, request: Request): Offer {
    const offer = honestOffer(plan, request)
    if (chance.chance(manners)) return offer
    switch (chance.int(0, 3)) {
      case 0: return { ...offer, gateway: gatewayFacts(chance.pick(honest)) }
      case 1: return { ...offer, held: offer.held.slice(1) }
      case 2: return { ...offer, held: offer.held.map(one => ({ ...one, host: chance.pick(honest).host })) }
      default: return { ...offer, site: chance.pick(honest).site }
    }
  }

  const offers = new Map<string, Offer>()

  function answer (plan: HostPlan, method: string, request: Record<string, unknown>): Promise<unknown> {
    if (!chance.chance(0.5 + manners / 2)) {
      return chance.chance(0.3) ? new Promise(() => undefined) : Promise.reject(new MusubiError(chance.pick(['CONFLICT', 'NOT_FOUND', 'STALE_EPOCH', 'NO_CAPACITY', 'X'.repeat(60)]), 'no', { retryable: chance.chance(0.5) }))
    }
    const clusterId = String(request.clusterId)
    switch (method) {
      case 'request': {
        const offer = offerFor(plan, request as unknown as Request)
        offers.set(clusterId, offer)
        return Promise.resolve(offer)
      }
      case 'commit': return Promise.resolve({ site: plan.site, receipts: (offers.get(clusterId)?.held ?? []).map((held): Receipt => ({ leaseId: held.leaseId, host: held.host, token: held.token + 1 })) })
      case 'activate': return Promise.resolve({ site: plan.site })
      case 'release': return Promise.resolve({ site: plan.site, ended: chance.int(0, 3) })
      case 'extend': return Promise.resolve({ site: plan.site, ttlMs: 30_000, nowMs: nowMs(kernel) })
      case 'keepAlive': return Promise.resolve({ site: plan.site, state: 'active', endMs: nowMs(kernel) + 60_000, epoch: chance.pick([1, 1, 99]), nowMs: nowMs(kernel) })
      default: return Promise.reject(new MusubiError('NOT_SERVED', `${method} is not served`))
    }
  }

  for (const plan of evil) {
    const process: Process = { dead: () => false, serve: (method, request) => answer(plan, method, request as Record<string, unknown>) }
    endpoints.set(plan.peer, { peer: plan.peer, host: plan.host, site: plan.site, gateway: plan.gateway, process: () => process })
  }

  const some = (method: string): (typeof heard)[number] | null => {
    const list = heard.filter(one => one.method === method)
    return list.length === 0 ? null : chance.pick(list)
  }

  function send (to: string, method: string, request: unknown): void {
    const from = endpoints.get(chance.pick(evil).peer)
    if (from === undefined) return
    around.fault('forged call')
    around.network.call(from, () => false, to, method, request, 5_000, true).catch(() => undefined)
  }

  const deeds: Array<() => void> = [
    // what was said before, once more, perhaps to somebody else
    () => {
      if (heard.length === 0) return
      const { method, request, to } = chance.pick(heard)
      send(chance.chance(0.8) ? to : chance.pick(honest).peer, method, request)
    },
    // what others were offered
    () => { const one = some('commit') ?? some('hostCommit'); if (one !== null) send(one.to, chance.pick(['commit', 'hostCommit']), { ...one.request, epoch: chance.int(1, 5) }) },
    // receipts that nobody gave
    () => {
      const one = some('activate')
      if (one === null) return
      const request = copyOf(one.request) as unknown as ActivateRequest
      request.receipts = request.receipts.map(receipt => chance.chance(0.5) ? { ...receipt, token: receipt.token + chance.int(-1, 1) } : receipt).filter(() => chance.chance(0.8))
      send(one.to, chance.pick(['activate', 'hostActivate']), request)
    },
    // the end of a cluster of others
    () => { const one = heard.length === 0 ? null : chance.pick(heard); if (one !== null) send(one.to, chance.pick(['release', 'hostRelease']), { clusterId: one.request.clusterId, reason: 'because', offerId: '', leaseIds: [], epoch: chance.int(0, 100) }) },
    // a master that nobody made one
    () => {
      const one = some('keepAlive') ?? some('request')
      const plan = chance.pick(evil)
      if (one === null) return
      const epoch = chance.int(1, 1000)
      const clusterId = String(one.request.clusterId)
      const site = chance.chance(0.5) ? plan.site : chance.pick(honest).site
      const host = chance.chance(0.5) ? plan.host : chance.pick(honest).host
      send(one.to, 'keepAlive', { clusterId, epoch, sentMs: nowMs(kernel), grant: signGrant(plan, { clusterId, epoch, holder: plan.peer, site, host, grantedMs: nowMs(kernel) }) })
    },
    () => { const one = some('hold'); if (one !== null) send(one.to, chance.pick(['hold', 'claim', 'hostKeepAlive', 'copy', 'hostExtend', 'hostCurtail', 'hostRestore']), { ...one.request, seq: nowMs(kernel), force: true, holder: chance.pick(evil).peer, epoch: chance.int(1, 9) }) },
    // a later end for others' leases
    () => { const one = some('keepAlive'); if (one !== null) send(one.to, 'extend', { key: around.uuid(), clusterId: one.request.clusterId, offerId: around.uuid(), endMs: nowMs(kernel) + 3_600_000, ttlMs: 30_000, epoch: 1, sentMs: nowMs(kernel) }) },
    // of its own, never to be used; or out of all bounds; or in the name of others
    () => {
      const plan = chance.pick(evil)
      const startMs = nowMs(kernel) + chance.pick([0, 0, 0, -3_600_000, 90_000])
      const stolen = some('request')?.request as Partial<Request> | undefined
      const request: Request = {
        key: around.uuid(), clusterId: chance.chance(0.3) && stolen?.clusterId !== undefined ? stolen.clusterId : around.uuid(), cluster: 'evil', vni: chance.int(1, 100), masterSite: chance.chance(0.2) ? chance.pick(honest).site : plan.site,
        startMs, endMs: startMs + chance.pick([60_000, 60_000, 120_000, 0, 1e15]), nodes: [{ name: 'evil-1', vcpus: chance.pick([1, 1, 2, 0, 4_000_000_000]), memoryMib: 512 }], volumes: [],
        frontend: chance.chance(0.5), holdTtlMs: chance.pick([0, 30_000, 4_000_000_000]), bandwidthMbit: chance.pick([0, 60, 60]), epoch: chance.pick([1, 1, 1, 0, 7]), sentMs: nowMs(kernel), grow: chance.chance(0.1)
      }
      const target = chance.pick(honest.filter(host => host.gateway))
      const from = endpoints.get(plan.peer)
      if (from === undefined) return
      around.fault('forged call')
      around.network.call(from, () => false, target.peer, 'request', request, 10_000, true).then(reply => {
        const offer = reply as Offer
        // The same key, and something else is asked for.
        if (chance.chance(0.3)) around.network.call(from, () => false, target.peer, 'request', { ...request, endMs: request.endMs + 30_000 }, 5_000, true).catch(() => undefined)
        if (chance.chance(0.6)) around.network.call(from, () => false, target.peer, 'commit', { clusterId: request.clusterId, offerId: offer.offerId, key: around.uuid(), epoch: 1 }, 5_000, true).catch(() => undefined)
      }).catch(() => undefined)
    }
  ]
  /** A cluster of its own, honestly held and committed at another site, and then started with what is not so. */
  async function cheat (): Promise<void> {
    const plan = chance.pick(evil)
    const target = chance.pick(honest.filter(host => host.gateway))
    const from = endpoints.get(plan.peer)
    if (from === undefined) return
    const ask = <T>(method: string, request: unknown): Promise<T> => around.network.call(from, () => false, target.peer, method, request, 10_000, true) as Promise<T>
    const lie = chance.int(0, 6)
    // Not yet, but it is started at once.
    const startMs = nowMs(kernel) + (lie === 5 ? 90_000 : 0)
    const [clusterId, name] = [around.uuid(), 'cheat']
    const asked: Request = {
      key: around.uuid(), clusterId, cluster: name, vni: chance.int(1000, 9_000_000), masterSite: plan.site, startMs, endMs: startMs + 60_000, volumes: [],
      nodes: [1, 2].slice(0, chance.int(1, 2)).map(index => ({ name: nodeName(name, target.site, index), vcpus: 1, memoryMib: 512 })),
      frontend: false, holdTtlMs: 30_000, bandwidthMbit: chance.pick([0, 60, 60]), epoch: 1, sentMs: nowMs(kernel), grow: false
    }
    const own = honestOffer(plan, { ...asked, nodes: [], frontend: true })
    around.fault('forged cluster')
    const offer = await ask<Offer>('request', asked)
    const { receipts } = lie === 0 ? { receipts: offer.held } : await ask<{ receipts: Receipt[] }>('commit', { clusterId, offerId: offer.offerId, key: asked.key, epoch: 1 })
    const of = ({ leaseId, host, token }: Receipt): Receipt => ({ leaseId, host, token })
    const document = buildClusterDocument({
      id: clusterId, name, masterSite: plan.site, masterPeer: plan.peer, vni: asked.vni, nowMs: startMs, startMs, endMs: asked.endMs, offers: [own, offer], sshPublicKey: 'ssh-ed25519 AAAA', imageDigest: `sha256:${'0'.repeat(64)}`, hash: hash128,
      spec: { name, cidr: '10.43.0.0/16', antiSpoof: true, frontend: { mode: 'builtin' }, image: 'default', nodes: { count: asked.nodes.length, vcpus: 1, memoryMiB: 512 }, volumes: [], termMs: 60_000 }
    })
    const all = [...own.held, ...receipts].map(of)
    const without = (list: readonly Receipt[]): Receipt[] => { const missing = chance.int(0, list.length - 1); return list.filter((_, index) => index !== missing) }
    const request: ActivateRequest = {
      clusterId, epoch: 1, secrets: [],
      document: lie === 1 ? { ...document, nodes: document.nodes.map(node => ({ ...node, vcpus: 4 })) } : document,
      // not its token, not of its host, not all of them
      receipts: lie === 2 ? all.map(one => ({ ...one, token: one.token + 1 })) : lie === 3 ? all.map(one => ({ ...one, host: plan.host })) : lie === 4 ? without(all) : all
    }
    await ask('activate', request)
    // Now and then it is over at once.
    if (chance.chance(0.3)) await ask('release', { clusterId, reason: 'because', offerId: '', leaseIds: [], epoch: 1 })
  }

  /** A gateway that is out of its mind: a question that it has asked already, under the same key, with another content. */
  function muddle (): void {
    const one = some(chance.pick(['hold', 'hold', 'hostExtend']))
    const from = endpoints.get(one?.from ?? '')
    const host = around.machines.get([...around.plans.values()].find(plan => plan.peer === one?.to)?.host ?? '')
    // What the host has not answered would be a new question, of which its gateway knows nothing.
    if (one === null || from === undefined || host?.life?.ready !== true || !host.life.ledger.state().replays.has(String(one.request.key))) return
    around.fault('key used twice')
    around.network.call(from, () => false, one.to, one.method, { ...one.request, endMs: Number(one.request.endMs) + 30_000 }, 5_000, true).catch(() => undefined)
  }

  const lateness = chance.fork('too late')
  const overtaking = chance.fork('overtaken')
  /** A commit that comes when its hold is over, and the host has not looked at the clock yet. */
  function tooLate (request: { clusterId: string, offerId: string, ttlMs: number, epoch: number }, from: string, to: string): void {
    kernel.after((request.ttlMs === 0 ? HOLD_TTL_MS : request.ttlMs) + lateness.between(0, 2_000), () => {
      const host = around.machines.get([...around.plans.values()].find(plan => plan.peer === to)?.host ?? '')
      const sender = endpoints.get(from)
      if (sender === undefined || host?.life?.ready !== true || around.healed()) return
      const { ledger } = host.life
      if (ledger.leases(request.clusterId).every(lease => lease.offerId !== request.offerId || lease.state !== 'held' || lease.deadlineMs >= ledger.now())) return
      around.fault('commit too late')
      around.network.call(sender, () => false, to, 'hostCommit', { clusterId: request.clusterId, offerId: request.offerId, epoch: request.epoch }, 5_000, true).catch(() => undefined)
    })
  }

  deeds.push(() => { cheat().catch(() => undefined) }, () => { cheat().catch(() => undefined) }, muddle)
  return {
    act () { if (evil.length > 0 && !around.healed()) chance.pick(deeds)() },
    overtaken (call) {
      const { key, epoch, sentMs } = call.request as { key?: string, epoch: number, sentMs?: number }
      for (const earlier of sent.get(keyOf(call)) ?? []) {
        const before = earlier.request as { key?: string, epoch: number, sentMs?: number }
        // Gateways tell questions apart by the millisecond: of two of the same one the older passes for the newer.
        if (call.method === 'request' && (before.sentMs ?? 0) >= (sentMs ?? 0)) continue
        if (call.forged || earlier.id >= call.id || around.healed() || !(call.method === 'claim' ? before.epoch < epoch : before.key !== key && earlier.from.peer === call.from.peer)) continue
        // Mostly at once, as what was got is soon decided.
        earlier.again(overtaking.chance(0.6) ? overtaking.between(0, 2 * config.wanMs + config.syncMs) : overtaking.between(0, 8_000))
      }
    },
    outdated (clusterId, peer) {
      const one = said.get(clusterId)?.find(({ method, to }) => method === 'hostActivate' && to === peer)
      const sender = endpoints.get(one?.from ?? '')
      if (one === undefined || sender === undefined || around.healed()) return
      kernel.after(chance.between(0, 5_000), () => {
        around.fault('document of before')
        around.network.call(sender, () => false, peer, one.method, one.request, 5_000, true).catch(() => undefined)
      })
    },
    late (clusterId) {
      kernel.after(chance.between(100, 20_000), () => {
        for (const { method, request, from, to } of chance.shuffled(said.get(clusterId) ?? []).slice(0, 4)) {
          const host = around.machines.get([...around.plans.values()].find(plan => plan.peer === to)?.host ?? '')
          const sender = endpoints.get(from)
          const epoch = host?.life?.ready === true ? host.life.ledger.state().epochs.get(clusterId)?.epoch ?? 0 : 0
          // Who has not heard of the new master yet is right to listen.
          if (sender === undefined || around.healed() || !(Number(request.epoch) >= 1 && Number(request.epoch) < epoch)) continue
          around.fault('late word of a former master')
          const release = { clusterId, reason: 'late', offerId: '', leaseIds: [], epoch: request.epoch }
          const [what, asked] = chance.chance(0.4) ? ['hostRelease', release] as const : [method, request] as const
          around.network.call(sender, () => false, to, what, asked, 5_000, true).catch(() => undefined)
        }
      })
    },
    overheard (call) {
      const { method, request, from, to, forged } = call
      if (!forged && (method === 'request' || method === 'claim')) {
        const list = sent.get(keyOf(call)) ?? []
        if (list.length < MAX_EARLIER) sent.set(keyOf(call), [...list, call])
      }
      if (!forged && OF_HOSTS.has(method)) {
        const { clusterId } = request as { clusterId: string }
        const list = said.get(clusterId) ?? []
        if (method === 'hold' && lateness.chance(0.5)) tooLate(request as Parameters<typeof tooLate>[0], from.peer, to.peer)
        if (list.length < MAX_SAID) said.set(clusterId, [...list, { method, request: request as Record<string, unknown>, from: from.peer, to: to.peer }])
      }
      if (evil.length === 0 || forged) return
      if (!ASKED_OF_GATEWAYS.has(method) && !method.startsWith('host') && method !== 'hold') return
      if (heard.length < MAX_HEARD) heard.push({ method, request: request as Record<string, unknown>, from: from.peer, to: to.peer })
      else heard[chance.int(0, MAX_HEARD - 1)] = { method, request: request as Record<string, unknown>, from: from.peer, to: to.peer }
    }
  }
}
