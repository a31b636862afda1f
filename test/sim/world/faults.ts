/** Faults while they last: when each comes is drawn from the seed's rates; what it hits, from what is there. */
import { MASTERLESS_MS } from '../../../protocol/core/limits.ts'
import type { Kernel } from '../kernel/kernel.ts'
import type { Prng } from '../kernel/prng.ts'
import type { Config, FaultRates } from './config.ts'
import type { Machine } from './machine.ts'
import type { Surroundings } from './surroundings.ts'

/** How often the disk of who asked fails in the moment in which it has its offers, and has to decide. */
const DECIDING = 0.03

export interface FaultsOptions {
  kernel: Kernel
  chance: Prng
  config: Config
  around: Surroundings
  machines: readonly Machine[]
  malice: () => void
  jumped: (host: string, byMs: number) => void
}

/** Schedules everything of one kind over the fault phase. */
export function poisson (kernel: Kernel, chance: Prng, per100s: number, untilMs: number, goesOn: () => boolean, work: () => void): void {
  if (per100s <= 0) return
  const next = (): void => {
    const wait = -Math.log(1 - chance.unit()) * 100_000 / per100s
    if (kernel.now() + wait < untilMs) kernel.after(wait, () => { if (goesOn()) { work(); next() } })
  }
  next()
}

export function startFaults ({ kernel, chance, config, around, machines, malice, jumped }: FaultsOptions): { diskFails: (machine: Machine) => void } {
  const { network } = around
  const sites = [...new Set(machines.map(machine => machine.site))]

  /** Often a short while, now and then longer than a master may be silent. */
  const spell = (): number => chance.chance(0.7) ? chance.between(200, 15_000) : chance.between(15_000, MASTERLESS_MS * 1.3)

  function partition (): void {
    const both = chance.chance(0.5)
    const ofSites = chance.chance(0.7) || machines.length < 2
    const names = ofSites ? sites : machines.map(machine => machine.host)
    if (names.length < 2) return
    const [a, b] = chance.shuffled(names) as [string, string]
    const group = chance.chance(0.4) ? names.filter(name => name !== a) : [b]
    around.fault(both ? 'partition' : 'one-way partition')
    around.observe({ type: 'partition', trueMs: kernel.now(), what: `${a} ${both ? '<->' : '->'} ${group.join(',')} cut` })
    for (const other of group) { network.block(a, other); if (both) network.block(other, a) }
    kernel.after(spell(), () => {
      if (around.healed()) return
      for (const other of group) { network.unblock(a, other); network.unblock(other, a) }
      around.observe({ type: 'partition', trueMs: kernel.now(), what: `${a} and ${group.join(',')} together again` })
    })
  }

  function diskError (machine: Machine): void {
    const errno = chance.chance(0.5) ? 'ENOSPC' : 'EIO'
    around.fault(errno)
    machine.disk.fail(errno)
    machine.dirty = machine.ledgerDirty = true
    around.observe({ type: 'disk-failing', trueMs: kernel.now(), host: machine.host, errno })
    kernel.after(chance.between(10, 20_000), () => {
      if (around.healed()) return
      machine.disk.fail(null)
      around.observe({ type: 'disk-failing', trueMs: kernel.now(), host: machine.host, errno: null })
    })
  }

  function clockJump (): void {
    const machine = chance.pick(machines)
    const byMs = Math.round(chance.chance(0.5) ? chance.between(-3_600_000, 3_600_000) : chance.between(-90_000, 90_000))
    around.fault('clock jump')
    machine.clock.jump(byMs)
    jumped(machine.host, byMs)
    machine.dirty = machine.ledgerDirty = true
    around.observe({ type: 'clock-jump', trueMs: kernel.now(), host: machine.host, byMs })
  }

  /** Sooner or later somebody leads a cluster whose site has another gateway. */
  function loseMaster (): void {
    if (around.healed()) return
    const leading = alive().filter(machine => machines.some(other => other !== machine && other.site === machine.site && other.gateway) && machine.life?.negotiator?.records().some(record => record.state === 'active') === true)
    if (leading.length > 0) around.crash(chance.pick(leading), 'kill', 'for long')
    else kernel.after(5_000, loseMaster)
  }
  if (config.loseMasterMs > 0) kernel.after(config.loseMasterMs, loseMaster)

  const alive = (): Machine[] => machines.filter(machine => machine.life !== null)
  const kinds: Record<keyof FaultRates, () => void> = {
    kill: () => { const list = alive(); if (list.length > 0) around.crash(chance.pick(list), 'kill', 'any moment') },
    power: () => { const list = machines.filter(machine => machine.powered); if (list.length > 0) around.crash(chance.pick(list), 'power', 'any moment') },
    partition, diskError: () => { diskError(chance.pick(machines)) }, clockJump, malice
  }
  for (const kind of Object.keys(kinds) as Array<keyof FaultRates>) poisson(kernel, chance.fork(kind), config.rates[kind], config.faultMsMax, () => !around.healed(), kinds[kind])
  return { diskFails: machine => { if (config.rates.diskError > 0 && !around.healed() && chance.chance(DECIDING)) diskError(machine) } }
}
