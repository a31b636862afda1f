import { join } from 'node:path'
import type { Logger } from 'pino'
import type { AgentConfig } from '../config.ts'
import type { Details } from '../details.ts'
import { chooseAccelerator, EMULATOR } from '../drivers/compute/accelerator.ts'
import type { HostDrivers } from '../drivers/registry.ts'
import { CommandError } from '../exec.ts'
import { readPrivileged } from '../inventory/privileged.ts'
import { createSource } from '../inventory/source.ts'
import { runOutside } from '../services/outside.ts'
import { clusterNamespace, type DesiredObject } from '../../protocol/core/desired.ts'
import { describeError, InvalidInputError, NotFoundError } from '../../protocol/core/errors.ts'
import { VERSION } from '../../protocol/version.ts'
import type { HelperClock } from './fence/clock.ts'
import type { Fence } from './fence/store.ts'
import type { Hands } from './hands.ts'
import type { OwnedView } from './owned/owned.ts'
import { isShared } from './fence/permits.ts'
import type { CallContext } from './server.ts'
import { partsOf, type HelperHello, type ParamsOf, type VerbName, type VerbResults } from './wire/verbs.ts'

export interface HandlerDeps {
  config: AgentConfig
  host: HostDrivers
  hands: Hands
  fence: Fence
  clock: HelperClock
  details: Details
  owned: OwnedView
  hello: Pick<HelperHello, 'instance' | 'bootId' | 'kinds'>
  log: Logger
}

type Handler<V extends VerbName> = (params: ParamsOf<V>, call: CallContext) => Promise<VerbResults[V]>
export type Handlers = { [V in VerbName]: Handler<V> }

/** IPv4 and ICMP headers, bytes. */
const ICMP_OVERHEAD = 28
const PING_MS = 3_000

/** What all clusters share has no holder: a record of one could never be ended. @throws InvalidInputError */
function mustBeOwned (resource: string): void {
  const { kind } = partsOf(resource)
  if (isShared(kind)) throw new InvalidInputError(`a ${kind} belongs to no cluster: the fence has nothing to say of ${resource}`)
}

/** What the helper does for each verb; parameters are checked before. */
export function createHandlers ({ config, host, hands, fence, clock, details, owned, hello, log }: HandlerDeps): Handlers {
  const source = createSource('/')
  const diagnosis = (): NonNullable<HostDrivers['diagnosis']> => {
    if (host.diagnosis === undefined) throw new NotFoundError('this host has no drivers for segments', 'see drivers in its configuration')
    return host.diagnosis
  }
  const cache = (): NonNullable<HostDrivers['cache']> => {
    if (host.cache === undefined) throw new NotFoundError('this host has no real caches', 'they are on gateways; see drivers in its configuration')
    return host.cache
  }
  const accelerator = config.accelerator === undefined ? {} : { accelerator: config.accelerator }
  return {
    hello ({ ledgerMs }, { fromAgent }) {
      const off = fromAgent && ledgerMs !== undefined ? clock.follow(ledgerMs) : 0
      if (off !== 0) log.warn({ ms: Math.round(off) }, 'the clock follows that of the agent')
      return Promise.resolve({ ...hello, version: VERSION, roles: [...config.roles], ledgerMs: clock.now() })
    },
    noop: () => Promise.resolve(null),

    async probe (_params, { signal }) {
      const found = await Promise.all(Object.values(host.drivers).map(async driver => {
        try {
          return (await driver.probe(signal)).map(problem => ({ kind: driver.kind, problem }))
        } catch (error) {
          return [{ kind: driver.kind, problem: describeError(error) }]
        }
      }))
      return found.flat()
    },
    observe: ({ kind }, { signal }) => hands.observe(kind, signal),

    async apply ({ kind, name, spec, claim }, { signal }) {
      await hands.apply({ kind, name, spec } as DesiredObject, claim, signal)
      return null
    },
    async remove ({ kind, name, claim }, { signal }) {
      await hands.remove({ kind, name }, claim, signal)
      return null
    },

    async 'fence-grant' ({ resource, claim }) {
      mustBeOwned(resource)
      await fence.grant(resource, claim)
      return null
    },
    async 'fence-revoke' ({ resource, clusterId, counter }) {
      mustBeOwned(resource)
      await fence.revoke(resource, clusterId, counter)
      return null
    },
    async 'fence-gone' ({ resource, counter }) {
      await hands.gone(partsOf(resource), counter)
      return null
    },
    async 'fence-records' () {
      await fence.tick().catch(() => undefined) // a disk that takes no writes; records are what was written
      return fence.records()
    },

    detail: ({ kind, name }) => details.of(kind, name),
    'tunnel-tracks': (_params, { signal }) => host.tunnelTracks(signal),

    async 'segment-ping' ({ vni, address, size }, { signal }) {
      const whole = size === undefined ? [] : ['-M', 'do', '-s', String(size - ICMP_OVERHEAD)]
      try {
        await runOutside('ping', ['-n', '-q', '-c', '1', '-W', '1', ...whole, address], { netns: clusterNamespace(vni), timeoutMs: PING_MS, signal })
        return { ok: true, why: '' }
      } catch (error) {
        if (error instanceof CommandError && !signal.aborted) return { ok: false, why: describeError(error) }
        throw error
      }
    },

    'segment-look': ({ name, gatewayAddress }, { signal }) => diagnosis().look(name, gatewayAddress ?? null, signal),
    'segment-echo': (asked, { signal }) => diagnosis().echo(asked, signal),
    'segment-capture': ({ name, port, count, seconds, snapBytes, filter }, { signal }) => diagnosis().capture(name, { port, count, seconds, snapBytes, filter }, signal),

    async 'cache-preheat' ({ name, order, objects, rateKbitPerS }) {
      await cache().preheat(name, order, { objects, ...rateKbitPerS === undefined ? {} : { rateMbitPerS: rateKbitPerS / 1000 } })
      return null
    },
    async 'cache-cancel' ({ name, order }) {
      await cache().preheat(name, order, null)
      return null
    },
    'cache-list': ({ name, prefix, after }, { signal }) => cache().list(name, prefix ?? '', after ?? '', signal),
    'cache-purge': ({ name, prefix, refetch }, { signal }) => cache().purge(name, prefix ?? '', refetch ?? false, signal),

    async 'cache-retained' () {
      // what has to go goes; that new ones are checked takes longer than an answer
      void cache().retained.tend()
      return await cache().retained.list()
    },
    'cache-forget': ({ owner }) => cache().retained.purge(owner ?? null),

    inventory: (_params, { signal }) => readPrivileged({
      source, ...accelerator, emulator: async () => await source.program(EMULATOR) !== null,
      runsGuests: async signal => await chooseAccelerator(join(config.helper.stateDir, 'compute'), signal) === 'kvm'
    }, signal),

    owned: (_params, { signal }) => owned.list(signal),
    sweep: ({ keep, dryRun }, { signal }) => owned.sweep(new Set(keep), dryRun, signal)
  }
}
