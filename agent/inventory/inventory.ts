import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describeError } from '../../protocol/core/errors.ts'
import { INVENTORY_INTERVAL_MS, INVENTORY_TOOL_TIMEOUT_MS, MAX_INVENTORY_NUMA_NODES } from '../../protocol/core/limits.ts'
import type { Inventory as InventoryMessage, Nic, NumaNode } from '../../protocol/wire/types.ts'
import { chooseAccelerator, EMULATOR } from '../drivers/compute/accelerator.ts'
import { CommandError, run as realRun } from '../exec.ts'
import { byName, LSBLK_COLUMNS, parseDisks, parseMemoryMib, parseOs, parseProcessor, parseVersion, parseVolumeGroups, type Processor } from './hardware.ts'
import { kernelParts, usableParts } from './kernel.ts'
import { parseNics, type FoundNic } from './links.ts'
import { readPrivileged, type Privileged } from './privileged.ts'
import { createSource } from './source.ts'
import { countList, plain, type Absent, type Parsed } from './text.ts'

/** What a host has, and what it can do, e.g. `kvm`, `wireguard`, `vlan-filtering`. */
export interface HostInventory extends InventoryMessage {
  /** only what is known to work or to load; sorted */
  features: string[]
  /** parts that could not be read, or not in full, and why */
  absent: Absent[]
}

export interface InventoryOptions {
  /** instead of real child processes */
  run?: typeof realRun
  /** the system's files are read below it, default `/` */
  root?: string
  /** keeps the answer whether KVM runs guests, until the next boot: the compute driver's folder; without it, this process remembers */
  stateDir?: string
  /** what the configuration fixes: `tcg` is believed, `kvm` still has to open */
  accelerator?: 'kvm' | 'tcg'
  /** instead of running a guest */
  runsGuests?: (signal: AbortSignal) => Promise<boolean>
  /** what needs privileges, asked of whoever has them; without it, asked here */
  privileged?: (signal: AbortSignal) => Promise<Privileged>
}

export interface InventoryReader {
  /**
   * Reads everything anew. What is missing on this host is empty, and named in `absent`.
   * @throws only when the signal aborts
   */
  read (signal: AbortSignal): Promise<HostInventory>
  /**
   * Reads every `intervalMs` and tells when something differs from what was read last, by whomever.
   * @returns what ends it
   */
  watch (intervalMs: number | undefined, onChange: (inventory: HostInventory) => void): () => void
}

/**
 * Reads what this host has from the system itself: files of the kernel and the tools that know,
 * never from a guess. Rarely changing answers are asked for again only when their program changed,
 * so that a refresh costs some milliseconds of the processor.
 */
export function createInventory (options: InventoryOptions = {}): InventoryReader {
  const { run = realRun, root = '/' } = options
  const source = createSource(root)
  const answers = new Map<string, { key: string, text: string }>()
  let last: string | null = null
  let guestsRun: boolean | null = null

  /** Output of a tool, or why there is none. With `key`, that of the last time as long as the key stays. */
  async function ask (file: string, args: readonly string[], signal: AbortSignal, key: string | null = null): Promise<Parsed<string>> {
    const known = answers.get(file)
    if (key !== null && known?.key === key) return { value: known.text }
    try {
      const { stdout } = await run(file, args, { signal, timeoutMs: INVENTORY_TOOL_TIMEOUT_MS })
      if (key !== null) answers.set(file, { key, text: stdout })
      return { value: stdout }
    } catch (error) {
      return { reason: plain(error instanceof CommandError ? error.message : describeError(error), 200) }
    }
  }

  async function version (signal: AbortSignal, ...programs: readonly string[]): Promise<Parsed<string>> {
    let reason = ''
    for (const program of programs) {
      const path = await source.program(program)
      const answer = await ask(program, ['--version'], signal, path === null ? null : await source.stamp(path))
      const found = 'value' in answer ? parseVersion(answer.value) : ''
      if (found !== '') return { value: found }
      reason ||= 'reason' in answer ? answer.reason : `${program} --version names no version`
    }
    return { reason }
  }

  async function processor (signal: AbortSignal): Promise<Parsed<Processor>> {
    const answer = await ask('lscpu', ['--json'], signal, await source.text('/sys/devices/system/cpu/online'))
    return 'reason' in answer ? answer : parseProcessor(answer.value)
  }

  async function numa (): Promise<NumaNode[]> {
    const dir = '/sys/devices/system/node'
    const names = (await source.names(dir)).filter(name => /^node\d{1,5}$/.test(name)).sort(byName)
    return await Promise.all(names.slice(0, MAX_INVENTORY_NUMA_NODES).map(async name => ({
      node: Number(name.slice(4)),
      cpus: countList(await source.text(`${dir}/${name}/cpulist`) ?? '') ?? 0,
      memoryMib: parseMemoryMib(await source.text(`${dir}/${name}/meminfo`) ?? '') ?? 0
    })))
  }

  async function withHardware ({ nic, kind }: FoundNic): Promise<Nic> {
    const dir = `/sys/class/net/${nic.name}`
    const speed = Number((await source.text(`${dir}/speed`) ?? '').trim())
    return {
      ...nic,
      // -1 or nothing while there is no link
      speedMbit: Number.isInteger(speed) && speed > 0 && speed < 0xffff_ffff ? speed : 0,
      driver: plain(await source.linkName(`${dir}/device/driver`) ?? kind ?? '', 32)
    }
  }

  async function runsGuests (signal: AbortSignal): Promise<boolean> {
    if (options.stateDir !== undefined) return await chooseAccelerator(options.stateDir, signal) === 'kvm'
    if (guestsRun !== null) return guestsRun
    const dir = await mkdtemp(join(tmpdir(), 'musubi-kvm-'))
    try {
      return guestsRun = await chooseAccelerator(dir, signal) === 'kvm'
    } finally {
      await rm(dir, { recursive: true, force: true })
    }
  }

  async function programFeatures ({ tunRefusal }: Privileged): Promise<string[]> {
    const found: string[] = []
    if (await source.program('tgtd') !== null) found.push('tgt')
    if (await source.program('wireguard-go') !== null && tunRefusal === null) found.push('wireguard-go')
    return found
  }

  async function privileged (emulator: () => Promise<boolean>, signal: AbortSignal): Promise<Privileged> {
    if (options.privileged === undefined) {
      return await readPrivileged({ source, run, emulator, runsGuests: options.runsGuests ?? runsGuests, ...(options.accelerator === undefined ? {} : { accelerator: options.accelerator }) }, signal)
    }
    try {
      return await options.privileged(signal)
    } catch (error) {
      const reason = plain(describeError(error), 200)
      return { volumeGroups: { reason }, kvmRefusal: reason, tunRefusal: reason }
    }
  }

  async function look (signal: AbortSignal): Promise<HostInventory> {
    const absent: Absent[] = []
    const part = <T>(name: string, parsed: Parsed<T>, otherwise: T): T => {
      if ('value' in parsed) return parsed.value
      absent.push({ part: name, reason: parsed.reason })
      return otherwise
    }
    const cut = (name: string, left: number): void => { if (left > 0) absent.push({ part: name, reason: `${left} more are left out` }) }
    const parse = <T>(answer: Parsed<string>, parser: (text: string) => Parsed<T>): Parsed<T> => 'reason' in answer ? answer : parser(answer.value)

    const asked = version(signal, EMULATOR)
    const [cpu, memory, nodes, lsblk, rights, links, libvirt, qemu, os, release, evidence] = await Promise.all([
      processor(signal),
      source.text('/proc/meminfo'),
      numa(),
      ask('lsblk', ['--json', '--bytes', '--nodeps', '--output', LSBLK_COLUMNS], signal),
      privileged(async () => 'value' in await asked, signal),
      ask('ip', ['-json', '-details', 'address'], signal),
      version(signal, 'libvirtd', 'virtqemud'),
      asked,
      source.text('/etc/os-release'),
      source.text('/proc/sys/kernel/osrelease'),
      source.kernelEvidence()
    ])
    const machine = part('cpu', cpu, { model: '', architecture: '', sockets: 0, cores: 0, threads: 0, virtualization: '' })
    const memoryMib = part('memory', known(parseMemoryMib(memory ?? ''), '/proc/meminfo has no MemTotal'), 0)
    const { disks, left: disksLeft } = part('disks', parse(lsblk, parseDisks), { disks: [], left: 0 })
    const { volumeGroups, left: groupsLeft } = part('volume groups', parse(rights.volumeGroups, parseVolumeGroups), { volumeGroups: [], left: 0 })
    const { nics: found, left: nicsLeft } = part('nics', parse(links, parseNics), { nics: [], left: 0 })
    const libvirtVersion = part('libvirt', libvirt, '')
    const qemuVersion = part('qemu', qemu, '')
    cut('disks', disksLeft)
    cut('volume groups', groupsLeft)
    cut('nics', nicsLeft)
    const [programs, nics] = await Promise.all([programFeatures(rights), Promise.all(found.map(withHardware))])
    const refusal = rights.kvmRefusal
    if (refusal !== null) absent.push({ part: 'kvm', reason: refusal })
    const parts = kernelParts(evidence)
    const unknown = Object.entries(parts).filter(([, state]) => state === 'unknown').map(([name]) => name)
    if (unknown.length > 0) absent.push({ part: 'features', reason: `this kernel does not tell whether it has ${unknown.join(', ')}` })
    return {
      cpuModel: machine.model,
      sockets: machine.sockets,
      cores: machine.cores,
      threads: machine.threads,
      architecture: machine.architecture,
      memoryMib,
      numa: nodes,
      disks,
      volumeGroups,
      nics,
      virtualization: refusal === null ? 'kvm' : 'tcg',
      kernel: plain(release ?? '', 64),
      libvirtVersion,
      qemuVersion,
      os: parseOs(os ?? ''),
      features: [...usableParts(parts), ...programs, ...(refusal === null ? ['kvm'] : [])].sort(),
      absent
    }
  }

  async function read (signal: AbortSignal): Promise<{ inventory: HostInventory, changed: boolean }> {
    const inventory = await look(signal)
    // what was cut off looks like something missing
    signal.throwIfAborted()
    const text = JSON.stringify(inventory)
    const changed = text !== last
    last = text
    return { inventory, changed }
  }

  return {
    async read (signal) { return (await read(signal)).inventory },

    watch (intervalMs = INVENTORY_INTERVAL_MS, onChange) {
      const stopped = new AbortController()
      let timer: NodeJS.Timeout | undefined
      const again = (): void => {
        // one after the other: a slow reading is not overtaken by the next
        timer = setTimeout(() => { void poll() }, intervalMs)
        timer.unref()
      }
      const poll = async (): Promise<void> => {
        const { inventory, changed } = await read(stopped.signal).catch(() => ({ inventory: null, changed: false }))
        if (stopped.signal.aborted) return
        again()
        if (changed && inventory !== null) onChange(inventory)
      }
      again()
      return () => {
        stopped.abort()
        clearTimeout(timer)
      }
    }
  }
}

function known<T> (value: T | null, reason: string): Parsed<T> {
  return value === null ? { reason } : { value }
}
