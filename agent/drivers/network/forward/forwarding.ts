import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { rm } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { clusterNamespace, PREFIX, type SegmentSpec } from '../../../../protocol/core/desired.ts'
import { FORWARD_LIFETIME_MS, FORWARD_LOOK_MS, FORWARD_RENEW_MS, FORWARD_TERM_MAX_MS } from '../../../../protocol/core/limits.ts'
import { createBootClock } from '../../../system/boot-clock.ts'
import { run } from '../../../exec.ts'
import { fingerprint } from '../../../fingerprint.ts'
import type { ServiceManager, ServiceSpec } from '../../../services.ts'
import { keeperArgv } from '../../../services/keepers.ts'
import { bootId } from '../../../services/proc.ts'
import { createTurns } from '../../../turns.ts'
import { FORWARD_SET, INNER, MSS_TABLE } from '../names.ts'
import { readIfThere, writeWhole } from '../records.ts'
import { closeText, openText } from './gate.ts'
import { nextTerms, parseTerms, renderTerms, type ForwardTerm } from './terms.ts'

/** Service that renews the forwarding leases of a host. */
export const FORWARD_SERVICE = `${PREFIX}-forward`

const KEEPER = fileURLToPath(new URL('./keeper.pl', import.meta.url))
/** It goes on over upgrades: another program under the same name is another service. What it has opened stays open for longer than its start takes. */
const KEEPER_PRINT = fingerprint(readFileSync(KEEPER, 'utf8'))
/** It reads a folder of root's, enters namespaces, writes to a set in them, and is ahead of a busy host. It opens no network socket and hears nobody. */
const CAPABILITIES = ['net_admin', 'sys_admin', 'dac_read_search', 'sys_nice'] as const
const KERNEL_TIMEOUT_MS = 10_000

/**
 * Until when this host may forward a segment, by its object's name: milliseconds since boot; null when nothing
 * was promised.
 */
export type TermOf = (name: string) => number | null

/** Whether a segment of a gateway forwards, as data for doctor. */
export interface ForwardLook { unit: string, keeper: boolean, leftMs: number | null }

/** The forwarding leases of this host: who has promised what is asked at every call. */
export interface Forwarding {
  /** What is recorded of this host's segments; `sync` goes by what was said last. */
  know (specs: ReadonlyMap<string, SegmentSpec>): void
  /** This segment is gone, and not only its record. */
  forget (name: string): void
  /** Writes down for the keeper what stands now, and closes at once what does not stand any more. */
  sync (signal: AbortSignal): Promise<void>
  /** `sync`, and the keeper runs, or does not when there is nothing to keep. */
  settle (signal: AbortSignal): Promise<void>
  /** Lets a segment forward from now on, if it may; the keeper goes on with that. @param isOpen it does already, as far as is known */
  open (name: string, isOpen: boolean, signal: AbortSignal): Promise<void>
  /** Whether a segment has a term that has not run out. */
  mayForward (name: string): boolean
  /** For a keeper that is there and does not do its work; `settle` starts another, and what it opened stays open meanwhile. */
  stopKeeper (): Promise<void>
  /** Whether the keeper runs as it should. */
  keeperRuns (): Promise<boolean>
}

/** Whether a segment has two sides that frames may cross between. */
export const hasGate = ({ gateway }: SegmentSpec): boolean => gateway !== undefined && gateway.tunnel !== null

const fileIn = (stateDir: string): string => join(stateDir, 'forwarding')

/** The keeper's service. @param file that it reads */
function keeperService (file: string): ServiceSpec {
  return { argv: [...keeperArgv('forward', CAPABILITIES), 'perl', KEEPER, file, MSS_TABLE, FORWARD_SET, INNER.wanPort, ...[FORWARD_LIFETIME_MS, FORWARD_RENEW_MS, FORWARD_LOOK_MS].map(String)], env: { MZ_KEEPER: KEEPER_PRINT }, cwd: '/', keeper: true, confined: { capabilities: CAPABILITIES } }
}

async function runsAsWanted (services: ServiceManager, file: string): Promise<boolean> {
  const status = await services.status(FORWARD_SERVICE)
  return status.running && status.fingerprint === fingerprint(keeperService(file))
}

/** What somebody sees who changes nothing: whether the keeper runs, and how much of the term is left. */
export async function lookAtForwarding (stateDir: string, services: ServiceManager, namespace: string): Promise<ForwardLook> {
  const file = fileIn(stateDir)
  const term = parseTerms(await readIfThere(file) ?? '', bootId()).find((one) => one.namespace === namespace)
  return { unit: `musubi-svc-${FORWARD_SERVICE}`, keeper: await runsAsWanted(services, file), leftMs: term === undefined ? null : term.untilMs - createBootClock()() }
}

/**
 * @param options.stateDir folder of the file that the keeper reads
 * @param options.term without it every segment forwards as long as it is there: nothing is promised to anybody
 */
export function createForwarding (options: { stateDir: string, services: ServiceManager, term?: TermOf, now?: () => number }): Forwarding {
  const { services, now = createBootClock() } = options
  const term: TermOf = options.term ?? (() => now() + 2 * FORWARD_TERM_MAX_MS)
  const file = fileIn(options.stateDir)
  const boot = bootId()
  const turns = createTurns()
  /** null: it does not forward, whatever was promised */
  const known = new Map<string, string | null>()

  /** A segment whose record was lost goes on while its term lasts, until it is made again or removed. */
  const wishes = (held: readonly ForwardTerm[]): ForwardTerm[] => [
    ...[...known].flatMap(([holder, namespace]) => namespace === null ? [] : [{ holder, namespace }]), ...held.filter(({ holder }) => !known.has(holder))
  ].flatMap(({ holder, namespace }) => {
    const untilMs = term(holder)
    return untilMs === null ? [] : [{ namespace, holder, untilMs }]
  })
  const kernel = async (namespace: string, input: string, signal: AbortSignal, okCodes: readonly number[] = []): Promise<void> => {
    await run('nft', ['-f', '-'], { netns: namespace, input, signal, timeoutMs: KERNEL_TIMEOUT_MS, okCodes })
  }

  /** @returns what stands */
  async function write (signal: AbortSignal): Promise<ForwardTerm[]> {
    return await turns('', async () => {
      const text = await readIfThere(file)
      const held = parseTerms(text ?? '', boot)
      const next = nextTerms(held, wishes(held), now())
      const wanted = next.length === 0 ? null : renderTerms(boot, next)
      if (wanted === null) {
        if (text !== null) await rm(file, { force: true })
      } else if (wanted !== text) await writeWhole(file, wanted)
      const over = held.filter((one) => !next.some(({ namespace, holder }) => namespace === one.namespace && holder === one.holder))
      // 1: neither namespace nor set is there any more; 255: no namespace
      for (const { namespace } of over) await kernel(namespace, closeText, signal, [1, 255])
      return next
    })
  }

  return {
    know (specs) {
      known.clear()
      for (const [name, spec] of specs) known.set(name, hasGate(spec) ? clusterNamespace(spec.vni) : null)
    },
    forget (name) { known.set(name, null) },
    async sync (signal) { await write(signal) },
    async settle (signal) {
      if ((await write(signal)).length > 0) await services.ensure(FORWARD_SERVICE, keeperService(file))
      else await services.stop(FORWARD_SERVICE)
    },
    async stopKeeper () { await services.stop(FORWARD_SERVICE) },
    async open (name, isOpen, signal) {
      const namespace = known.get(name) ?? null
      const held = parseTerms(await readIfThere(file) ?? '', boot).find((one) => one.namespace === namespace && one.holder === name)
      const leftMs = Math.min(FORWARD_LIFETIME_MS, (held?.untilMs ?? 0) - now())
      if (namespace !== null && leftMs >= 1) await kernel(namespace, openText(leftMs, isOpen), signal)
    },
    mayForward: (name) => (known.get(name) ?? null) !== null && (term(name) ?? 0) > now(),
    keeperRuns: async () => await runsAsWanted(services, file)
  }
}
