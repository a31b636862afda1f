import { setTimeout as sleep } from 'node:timers/promises'
import { call, type Endpoint } from '../../cli/client.ts'
import type { SiteResource } from '../../protocol/api.ts'
import { describeShortfall, fits, zero } from '../../protocol/core/capacity.ts'
import { MusubiError } from '../../protocol/core/errors.ts'
import type { Lab } from '../lab.ts'
import type { demoSites } from './sites.ts'

type LabSites = ReturnType<typeof demoSites>

const VIEW_TIMEOUT_MS = 30_000

const sumOf = <T>(all: readonly T[], of: (one: T) => number): number => all.reduce((total, one) => total + of(one), 0)

/** What a fresh site does not say of itself yet, in words; null: it is whole. A host whose helper has not answered yet lends nothing. */
function missingOf ({ name, hosts }: LabSites[number], seen: SiteResource | undefined): string | null {
  if (seen?.hosts !== hosts.length) return `${seen?.hosts ?? 0} of ${hosts.length} hosts of ${name}`
  const want = { vcpus: sumOf(hosts, h => h.vcpus), memoryMib: sumOf(hosts, h => h.memoryMiB), diskMib: sumOf(hosts, h => h.diskMiB) }
  return fits({ ...zero(), ...want }, seen.free) ? null : `less of ${name} than its hosts have: ${describeShortfall({ ...zero(), ...want }, seen.free)}`
}

/** Waits until the master's view has both sites whole and the coordinator knows them: nothing else is a fair start. @throws MusubiError VIEW with what is missing */
export async function waitForViews (lab: Lab, master: string, sites: LabSites, api: Endpoint, signal: AbortSignal): Promise<void> {
  const deadline = performance.now() + VIEW_TIMEOUT_MS
  const coordinator = { socketPath: lab.coordinator.socket, what: 'coordinator' }
  for (;;) {
    const views = await Promise.all([call<SiteResource[]>(api, 'GET', '/v1/sites'), call<SiteResource[]>(coordinator, 'GET', '/v1/sites')])
    const missing = views.flatMap((view, i) => sites.flatMap(site => {
      const what = missingOf(site, view.find(seen => seen.site === site.name))
      return what === null ? [] : [`${i === 0 ? master : 'the coordinator'} sees ${what}`]
    }))
    if (missing.length === 0) return
    if (performance.now() > deadline) throw new MusubiError('VIEW', `after ${VIEW_TIMEOUT_MS / 1000} s ${missing.join('; ')}`)
    signal.throwIfAborted()
    await sleep(100)
  }
}
