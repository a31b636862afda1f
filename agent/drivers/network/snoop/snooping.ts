import { readFileSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { isIPv4 } from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { clusterNamespace, PREFIX, type SegmentSpec } from '../../../../protocol/core/desired.ts'
import { SNOOP_AWAKE_MS } from '../../../../protocol/core/limits.ts'
import { run } from '../../../exec.ts'
import { fingerprint } from '../../../fingerprint.ts'
import type { ServiceManager, ServiceSpec } from '../../../services.ts'
import { keeperArgv } from '../../../services/keepers.ts'
import { MSS_TABLE } from '../names.ts'
import { readIfThere, writeWhole } from '../records.ts'
import { LEARNED_PREFIX, SNOOP_GROUP, snoops } from './rules.ts'

/** Service that learns addresses on a host. */
export const SNOOP_SERVICE = `${PREFIX}-snoop`

const KEEPER = fileURLToPath(new URL('./keeper.pl', import.meta.url))
/** It goes on over upgrades: another program under the same name is another service. */
const KEEPER_PRINT = fingerprint(readFileSync(KEEPER, 'utf8'))
/** It reads a folder of root's, enters namespaces, hears the kernel's log and writes to sets in them, and is ahead of a busy host. */
const CAPABILITIES = ['net_admin', 'sys_admin', 'dac_read_search', 'sys_nice'] as const
const LIST_TIMEOUT_MS = 10_000

/** An address that a member has until the frontend's lease ends. */
export interface Learned { mac: string, address: string, leftSeconds: number }
/** What was learnt of one segment: in the host's own namespace, and in the cluster's. */
export interface LearnedOf { host: Learned[], cluster: Learned[] }
export const NOTHING_LEARNED: LearnedOf = { host: [], cluster: [] }

/** What somebody sees who changes nothing. */
export interface SnoopLook { unit: string, keeper: boolean, learned: LearnedOf }

/** Learning of addresses on this host. */
export interface Snooping {
  /** Writes down for the keeper what it is to learn, and has it run, or not when there is nothing. */
  settle (specs: ReadonlyMap<string, SegmentSpec>): Promise<void>
  /** The keeper lets go of all namespaces; `settle` brings it back. What was learnt stays. */
  pause (): Promise<void>
  /** Whether it runs as it should; true when there is nothing to learn. */
  keeperRuns (specs: ReadonlyMap<string, SegmentSpec>): Promise<boolean>
  /** What is in the sets now, by VNI; no program is started when nothing is to be learnt. */
  learned (specs: ReadonlyMap<string, SegmentSpec>, signal: AbortSignal): Promise<ReadonlyMap<number, LearnedOf>>
}

const HEAD = 'musubi-snoop 1'
const fileIn = (stateDir: string): string => join(stateDir, 'snooping')
const hex6 = (vni: number): string => vni.toString(16).padStart(6, '0')

/**
 * The file that the keeper reads: a line for each namespace of each segment, with the frontend, the addresses that no
 * node gets, and the MACs to learn of. Empty when there is nothing to learn. Pure.
 */
export function renderSnooping (specs: readonly SegmentSpec[]): string {
  const lines = specs.filter(snoops).flatMap(({ vni, known, compute, gateway }) => {
    const members = known?.members ?? []
    const frontend = members.find(({ role }) => role === 'frontend')
    const barred = members.flatMap(({ address }) => address ?? [])
    const macs = members.filter(({ address }) => address === null).map(({ mac }) => mac)
    if (frontend === undefined || frontend.address === null) return []
    const rest = `${hex6(vni)} ${frontend.mac} ${frontend.address} ${barred.join(',')} ${macs.join(',')}`
    return [...(compute ? [`- ${rest}`] : []), ...(gateway === undefined ? [] : [`${clusterNamespace(vni)} ${rest}`])]
  })
  return lines.length === 0 ? '' : [HEAD, ...lines.sort()].map((line) => `${line}\n`).join('')
}

const LINE = /^(-|mz-[0-9a-f]{6}) ([0-9a-f]{6}) ([0-9a-f]{2}(?::[0-9a-f]{2}){5}) (\S+) (\d{1,12})$/

/** What `keeper.pl list` prints, by VNI; lines that are not as they should be count for nothing. Pure. */
export function parseLearned (text: string): Map<number, LearnedOf> {
  const found = new Map<number, LearnedOf>()
  for (const line of text.split('\n')) {
    const [, place, vni, mac, address, seconds] = LINE.exec(line) ?? []
    if (vni === undefined || mac === undefined || address === undefined || !isIPv4(address)) continue
    const key = Number.parseInt(vni, 16)
    const of = found.get(key) ?? { host: [], cluster: [] }
    of[place === '-' ? 'host' : 'cluster'].push({ mac, address, leftSeconds: Number(seconds) })
    found.set(key, of)
  }
  return found
}

const argvOf = (mode: 'keep' | 'list', file: string): string[] => [KEEPER, mode, file, MSS_TABLE, LEARNED_PREFIX, String(SNOOP_GROUP), String(SNOOP_AWAKE_MS)]

function keeperService (file: string): ServiceSpec {
  return { argv: [...keeperArgv('snoop', CAPABILITIES), 'perl', ...argvOf('keep', file)], env: { MZ_KEEPER: KEEPER_PRINT }, cwd: '/', keeper: true, confined: { capabilities: CAPABILITIES } }
}

async function runsAsWanted (services: ServiceManager, file: string): Promise<boolean> {
  const status = await services.status(SNOOP_SERVICE)
  return status.running && status.fingerprint === fingerprint(keeperService(file))
}

async function list (file: string, signal: AbortSignal): Promise<Map<number, LearnedOf>> {
  return parseLearned((await run('perl', argvOf('list', file), { signal, timeoutMs: LIST_TIMEOUT_MS })).stdout)
}

/** What is learnt of one segment, and whether its keeper runs; null when nothing is to be learnt. */
export async function lookAtSnooping (stateDir: string, services: ServiceManager, spec: SegmentSpec, signal: AbortSignal): Promise<SnoopLook | null> {
  if (!snoops(spec)) return null
  const file = fileIn(stateDir)
  return { unit: `musubi-svc-${SNOOP_SERVICE}`, keeper: await runsAsWanted(services, file), learned: (await list(file, signal)).get(spec.vni) ?? NOTHING_LEARNED }
}

/** @param options.stateDir folder of the file that the keeper reads */
export function createSnooping ({ stateDir, services }: { stateDir: string, services: ServiceManager }): Snooping {
  const file = fileIn(stateDir)
  const any = (specs: ReadonlyMap<string, SegmentSpec>): boolean => [...specs.values()].some(snoops)
  return {
    async settle (specs) {
      const wanted = renderSnooping([...specs.values()])
      const text = await readIfThere(file)
      if (wanted === '') {
        // nothing was ever learnt here, in nearly all cases
        if (text === null) return
        await services.stop(SNOOP_SERVICE)
        await rm(file, { force: true })
        return
      }
      if (wanted !== text) await writeWhole(file, wanted)
      await services.ensure(SNOOP_SERVICE, keeperService(file))
    },
    async pause () {
      if (await readIfThere(file) !== null) await services.stop(SNOOP_SERVICE)
    },
    keeperRuns: async (specs) => !any(specs) || await runsAsWanted(services, file),
    learned: async (specs, signal) => any(specs) ? await list(file, signal) : new Map()
  }
}
