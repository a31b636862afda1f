import { networkInterfaces } from 'node:os'
import { join } from 'node:path'
import { describeError } from '../../protocol/core/errors.ts'
import { loadAgentConfig, type AgentConfig } from '../config.ts'
import { createRealDrivers, helperRunDir } from '../drivers/registry.ts'
import { run } from '../exec.ts'
import { parseProcessor } from '../inventory/hardware.ts'
import { createInventory } from '../inventory/inventory.ts'
import { kernelParts } from '../inventory/kernel.ts'
import { createSource } from '../inventory/source.ts'
import { createServices } from '../services/select.ts'
import { tryKernel } from './attempts.ts'
import { examineHelper } from './helper.ts'
import { judge, type Facts } from './judge.ts'
import type { DriverProblem } from './probes.ts'
import { neededPrograms } from './programs.ts'
import { makeReport, type DoctorReport } from './report.ts'

export { doctorText } from './report.ts'
export type { DoctorReport } from './report.ts'

const DOCTOR_TIMEOUT_MS = 120_000
const PROBE_TIMEOUT_MS = 30_000
/** Where Debian has programs for root; a shell that `su` opened does not look there. */
const SYSTEM_DIRS = ['/usr/sbin', '/sbin'] as const

/**
 * `musubi agent doctor`: what this host lacks for its roles, each with what mends it. Looks and tries,
 * changes nothing: what has to be tried is tried in namespaces that end with the try.
 *
 * @throws InvalidInputError when the configuration is not valid
 */
export async function doctor (configPath: string): Promise<DoctorReport> {
  const config = await loadAgentConfig(configPath)
  if (config.drivers === 'fake') {
    return makeReport(config.name, config.roles, [{ role: 'host', severity: 'note', what: 'this agent only pretends to lend (drivers: fake), so nothing was checked', mend: `${configPath}: drivers: real` }])
  }
  const path = process.env.PATH
  const foldersOffPath = SYSTEM_DIRS.filter(dir => !(path ?? '').split(':').includes(dir))
  try {
    // an agent that systemd starts finds what is there, so the tries must as well
    process.env.PATH = [path ?? '', ...foldersOffPath].filter(one => one !== '').join(':')
    return judge(config, configPath, { ...await examine(config, AbortSignal.timeout(DOCTOR_TIMEOUT_MS)), pathLacks: await neededFrom(path ?? '', foldersOffPath) })
  } finally {
    if (path === undefined) delete process.env.PATH
    else process.env.PATH = path
  }
}

/** Those of the folders that have a needed program which nothing before them has. */
async function neededFrom (path: string, folders: readonly string[]): Promise<string[]> {
  const needed: string[] = []
  for (const dir of folders) {
    const missing = new Set(await installed([path, ...needed].join(':'), false))
    if ((await installed(dir, true)).some(program => missing.has(program))) needed.push(dir)
  }
  return needed
}

/** Needed programs that this search path has, or has not. */
async function installed (path: string, wanted: boolean): Promise<string[]> {
  const source = createSource('/', path)
  const programs = neededPrograms()
  const found = await Promise.all(programs.map(async program => await source.program(program) !== null))
  return programs.filter((_, index) => found[index] === wanted)
}

async function examine (config: AgentConfig, signal: AbortSignal): Promise<Omit<Facts, 'pathLacks'>> {
  const source = createSource('/')
  const root = process.getuid?.() === 0
  const programs = new Set(await installed(process.env.PATH ?? '', true))
  const reader = createInventory({ stateDir: join(config.helper.stateDir, 'compute'), ...(config.accelerator === undefined ? {} : { accelerator: config.accelerator }) })
  const [inventory, evidence, cpu, { namespaces, tried }, problems, systemd, userspace, helper] = await Promise.all([
    reader.read(signal),
    source.kernelEvidence(),
    run('lscpu', ['--json'], { signal }).then(({ stdout }) => parseProcessor(stdout), () => null),
    root ? tryKernel(programs, signal) : { namespaces: null, tried: new Map<never, never>() },
    root ? askDrivers(config, signal) : [],
    source.exists('/run/systemd/system'),
    source.program('wireguard-go'),
    examineHelper(config, signal)
  ])
  signal.throwIfAborted()
  return {
    inventory,
    cpuVirtualization: cpu !== null && 'value' in cpu ? cpu.value.virtualization : '',
    root,
    systemd,
    programs,
    namespaces,
    kernel: { parts: kernelParts(evidence), tried, userspaceWireguard: userspace !== null },
    problems,
    addresses: Object.values(networkInterfaces()).flatMap(link => link ?? []).filter(({ family }) => family === 'IPv4').map(({ address }) => address),
    foreignTarget: systemd && await succeeds('systemctl', ['is-active', '--quiet', 'tgt.service'], signal),
    helper
  }
}

async function askDrivers (config: AgentConfig, signal: AbortSignal): Promise<DriverProblem[]> {
  const { drivers } = createRealDrivers(config, createServices({ dir: join(helperRunDir(config), 'services') }))
  const found = await Promise.all(Object.values(drivers).map(async driver => {
    try {
      const problems = await driver.probe(AbortSignal.any([signal, AbortSignal.timeout(PROBE_TIMEOUT_MS)]))
      return problems.map(problem => ({ kind: driver.kind, problem }))
    } catch (error) {
      return [{ kind: driver.kind, problem: describeError(error) }]
    }
  }))
  return found.flat()
}

async function succeeds (file: string, args: readonly string[], signal: AbortSignal): Promise<boolean> {
  return await run(file, args, { signal }).then(() => true, () => false)
}
