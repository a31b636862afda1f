import type { HelperClient } from '../helper/client/client.ts'
import type { DiagnosisResource, HopResource, PingBody, PingResource } from '../../protocol/network-api.ts'
import { hostBridgeName } from '../../protocol/core/desired.ts'
import { ConflictError, errorCode, NotFoundError } from '../../protocol/core/errors.ts'
import { DIAGNOSE_MAX_NODES } from '../../protocol/core/limits.ts'
import { LOCAL, localVniOf } from '../../protocol/core/network/local.ts'
import type { ClusterDocument } from '../../protocol/core/messages.ts'
import { localSegmentFor, objectName } from '../../protocol/core/plan.ts'
import type { AnswerFact, SegmentFacts } from './facts.ts'
import { found as finding, type Finding } from './findings.ts'
import { judge } from './judge.ts'
import { documentWith, memberCalled, membersOf, type Member } from './members.ts'
import { pathHops, stopOf, type Ask } from './path.ts'
import { cacheLines, seenLines } from './seen.ts'

const FULL = 1500
const PINGS = 2
/** More would only tell nodes apart, which is for pings. */
const NODES_PER_HOST = 2
/** The helper has HELPER_MAX_CALLS calls for all that the host does; silent ones take 2.4 s each. */
const ASKED_AT_ONCE = 12
/** Looks at one host at a time: each sends packets, and two would measure each other. */
const MAX_LOOKS = 2

/** What people ask about segments. */
export interface Diagnose {
  /** @throws NotFoundError, ConflictError, InvalidInputError, and what the helper throws */
  ping (body: PingBody): Promise<PingResource>
  /** @param cluster name or id */
  doctor (cluster: string): Promise<DiagnosisResource>
}

export interface DiagnoseDeps {
  site: string
  host: string
  helper: Pick<HelperClient, 'call'>
  /** of the clusters that are active on this host */
  documents: () => readonly ClusterDocument[]
  /** clocks of other sites of a cluster, ms ahead of this host's */
  skews: (clusterId: string) => ReadonlyArray<{ site: string, ms: number }>
}

/** `tunnel at b1 (mzwg0, 100.64.0.3, UDP 51820): no answer` */
function stopText ({ hop, host, interface: link, to, port, why }: HopResource): string {
  const place = [link, to, port === null ? '' : `UDP ${port}`].filter(word => word !== '')
  return `${hop}${host === '' ? '' : ` at ${host}`}${place.length === 0 ? '' : ` (${place.join(', ')})`}: ${why}`
}

export function createDiagnose ({ site, host, helper, documents, skews }: DiagnoseDeps): Diagnose {
  let looks = 0
  const bounded = async <T>(work: () => Promise<T>): Promise<T> => {
    if (looks >= MAX_LOOKS) throw new ConflictError(`${looks} diagnoses are under way on this host`, 'again when they have ended')
    looks++
    try {
      return await work()
    } finally {
      looks--
    }
  }
  const segmentOf = (document: ClusterDocument): string => objectName(document.id, 'segment')
  const look = async (document: ClusterDocument): Promise<SegmentFacts> => {
    const gatewayAddress = document.sites.find(one => one.site === site)?.gatewayAddress
    return await helper.call('segment-look', { name: segmentOf(document), ...(gatewayAddress === undefined ? {} : { gatewayAddress }) })
  }
  const asker = (document: ClusterDocument, count: number): Ask => async (where, address, bytes) =>
    await helper.call('segment-echo', { name: segmentOf(document), where, address, bytes, count, largest: true })

  /** The segment that does not leave this site: its links, filters and the way to the other hosts. What both segments lack is told once. */
  async function lookInside (document: ClusterDocument, told: readonly Finding[]): Promise<{ findings: Finding[], seen: string[] }> {
    if (localSegmentFor(document, { site, host }) === null) return { findings: [], seen: [] }
    const facts = await helper.call('segment-look', { name: objectName(document.id, LOCAL) }).catch((error: unknown) => {
      if (errorCode(error) === 'NOT_FOUND') return null
      throw error
    })
    if (facts === null) {
      const what = 'this host has nothing of the site-local segment of its nodes'
      return { findings: [finding('link-missing', { where: 'site-local segment', interface: hostBridgeName(localVniOf(document.vni)), what, try: 'musubi agent status; journalctl -u musubi-helper' })], seen: [] }
    }
    const isTold = (one: Finding): boolean => told.some(({ code, what }) => code === one.code && what === one.what)
    return {
      findings: judge(facts, { answers: [], skews: [] }).filter(one => !isTold(one)).map(one => ({ ...one, where: `site-local segment, ${one.where}` })),
      seen: seenLines(facts, []).filter(line => line.startsWith('segment')).map(line => line.replace('segment', 'in site'))
    }
  }

  function gatewayOf (document: ClusterDocument): Member {
    const gateways = membersOf(document).filter(({ kind }) => kind === 'gateway')
    const own = gateways.find(gateway => gateway.site === site)
    if (own?.host === host) return own
    throw new ConflictError(`${host} is not the gateway of cluster ${document.name}: it has no address on the segment`, `run it on ${own === undefined ? gateways.map(gateway => gateway.host).join(' or ') : own.host}`)
  }

  /** Far gateways and some nodes of every host, asked from the own gateway's namespace. */
  async function answers (document: ClusterDocument): Promise<AnswerFact[]> {
    const perHost = new Map<string, number>()
    const chosen = membersOf(document).filter(member => {
      if (member.kind === 'gateway') return member.site !== site
      const key = `${member.site} ${member.host}`
      const count = perHost.get(key) ?? 0
      perHost.set(key, count + 1)
      return count < NODES_PER_HOST
    }).slice(0, DIAGNOSE_MAX_NODES)
    const ask = asker(document, PINGS)
    const heard: AnswerFact[] = []
    for (let at = 0; at < chosen.length; at += ASKED_AT_ONCE) {
      heard.push(...await Promise.all(chosen.slice(at, at + ASKED_AT_ONCE).map(async member => ({ ...member, ...await ask('segment', member.address, FULL) }))))
    }
    return heard
  }

  return {
    ping: async ({ from, to, cluster, path, count, size }) => await bounded(async () => {
      const document = documentWith(documents(), [from, to], cluster)
      const [a, b] = [memberCalled(document, from), memberCalled(document, to)]
      const own = gatewayOf(document)
      const base = { cluster: document.name, from: a.name, to: b.name, askedBy: own.host, bytes: size ?? FULL }
      if (path === true) {
        const facts = await look(document)
        const hops = await pathHops({ from: a, to: b, self: site, gateways: membersOf(document).filter(({ kind }) => kind === 'gateway'), facts, ask: asker(document, count ?? 3) })
        const stop = stopOf(hops)
        return { ...base, ok: stop === null, ends: [], hops, stopsAt: stop === null ? null : stop.hop, why: stop === null ? '' : stopText(stop) }
      }
      // the own end of the way is this gateway itself; what is neither here is asked, both of them
      const targets = [a, b].filter((member, i, all) => !(member.kind === 'gateway' && member.site === site) && (member.site !== site || all.every(other => other.site === site)) && all.findIndex(other => other.address === member.address) === i)
      const ends = await Promise.all(targets.map(async member => {
        const { echo } = await helper.call('segment-echo', { name: segmentOf(document), where: 'segment', address: member.address, bytes: size ?? FULL, count: count ?? 5, largest: false })
        return { name: member.name, site: member.site, address: member.address, sent: echo.sent, received: echo.received, rttMs: echo.rttMs, toldMtu: echo.toldMtu, why: echo.why }
      }))
      const silent = ends.filter(({ sent, received }) => received < sent || sent === 0)
      return { ...base, ok: silent.length === 0, ends, hops: [], stopsAt: null, why: silent.map(({ name, sent, received }) => `${name}: ${received} of ${sent} answered`).join(', ') }
    }),

    doctor: async cluster => await bounded(async () => {
      const found = documents().filter(({ id, name }) => id === cluster || name === cluster)
      const [document, ...others] = found
      if (document === undefined) throw new NotFoundError(`no cluster "${cluster}" runs on this host`, `it carries ${documents().map(({ name }) => name).join(', ') || 'none'}; on the gateway of its site: musubi segment doctor ${cluster}`)
      if (others.length > 0) throw new ConflictError(`several clusters here are called "${cluster}"`, `say which, by id: ${found.map(({ id }) => id).join(', ')}`)
      const facts = await look(document)
      const heard = facts.namespace?.state === 'ok' ? await answers(document) : []
      const before = judge(facts, { answers: heard, skews: skews(document.id) })
      const inside = await lookInside(document, before)
      const findings = [...before, ...inside.findings]
      return { cluster: document.name, site, host, gateway: facts.namespace !== null, ok: findings.every(({ severity }) => severity !== 'fault'), findings, seen: [...seenLines(facts, heard), ...inside.seen, ...cacheLines(document, site)] }
    })
  }
}
