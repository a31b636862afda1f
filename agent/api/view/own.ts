/** What the agent shows of itself: put together from its parts. */
import type { Builder } from '../../master/build.ts'
import type { Cordon } from '../../cordon.ts'
import { trunkOf, type AgentConfig } from '../../config.ts'
import type { Directory } from '../../directory.ts'
import type { EventLog } from '../../events.ts'
import type { Gateway } from '../../gateway/gateway.ts'
import type { Reconciler } from '../../reconcile/reconciler.ts'
import type { SiteIssuer } from '../../site/issuer.ts'
import { metricsOf } from '../metrics/figures.ts'
import { certificateOf } from './host.ts'
import { createLeaseView } from './leases.ts'
import { segmentPlans } from './segments.ts'
import { consoleOf, type AgentView } from './view.ts'
import type { Resources } from '../../../protocol/core/capacity.ts'
import { describeError, MusubiError } from '../../../protocol/core/errors.ts'
import type { Mesh } from '../../../protocol/mesh/mesh.ts'
import { VERSION } from '../../../protocol/version.ts'
import type { Ledger } from '../../../store/ledger.ts'

/** Told when nothing can be made or removed here. */
export function helpless (away: string | null, blind: string | null): string[] {
  const why = away ?? blind
  return why === null ? [] : [`nothing is changed on this host${blind === null ? '' : ', and no new lease is taken'}: ${why}`]
}

/** Told when this host can promise nothing. */
export function unkept (ledger: Ledger): string[] {
  const failure = ledger.failure()
  return [failure === null ? null : describeError(failure), ledger.frozen()].filter(why => why !== null)
}

/** Told when nobody takes this host in: the log alone would be looked at last. */
export function shutOut (mesh: Mesh): string[] {
  const why = mesh.lastRefusal()
  return why === null || mesh.connected().length > 0 ? [] : [`no peer takes this host in: ${why}`]
}

export interface ViewParts {
  config: AgentConfig, mesh: Mesh, directory: Directory, ledger: Ledger, reconciler: Reconciler, events: EventLog
  gateway: Gateway | null, builder: Builder | null, epoch: number, total: Resources, started: number, issuer: SiteIssuer, cordon: Cordon, problems: () => string[]
}

export function makeView ({ config, mesh, directory, ledger, reconciler, events, gateway, builder, epoch, total, started, issuer, cordon, problems }: ViewParts): AgentView {
  return {
    status: () => Promise.resolve({
      name: config.name, site: config.site, roles: config.roles, peerId: mesh.peerId, version: VERSION, addresses: mesh.addresses(),
      federation: mesh.trust.federation, certificate: certificateOf(mesh.trust.own()), cordoned: cordon.get().cordoned, cordonReason: cordon.get().reason,
      peers: mesh.connected().map(peerId => ({ peerId, name: mesh.describe(peerId).split(' (')[0] ?? peerId, path: mesh.path(peerId), rttMs: mesh.rttMs(peerId) })),
      epoch, uptimeMs: Math.round(performance.now() - started), total, free: ledger.free(),
      objects: reconciler.states().map(({ kind, name, state, error }) => ({ kind, name, state, error })), problems: problems()
    }),
    hosts: () => directory.hosts(),
    host: name => directory.host(name),
    metrics: () => metricsOf({ mesh, directory, ledger, issuer, cordon, started }),
    sites: () => directory.sites(),
    segmentPlan: (name, host) => segmentPlans(ledger.documents.list().map(record => record.document), { site: config.site, ...trunkOf(config) }, name, host),
    ...createLeaseView({ host: config.name, ledger, events, skewMs: id => gateway?.skewMs(id) ?? null }),
    console: (record, node) => {
      if (builder === null) throw new MusubiError('NOT_A_GATEWAY', 'this host is no gateway')
      return consoleOf(record, node, builder.keyFile(record))
    }
  }
}
