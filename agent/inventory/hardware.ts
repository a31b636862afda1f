import Type, { type Static } from 'typebox'
import { MAX_INVENTORY_DISKS, MAX_INVENTORY_VOLUME_GROUPS } from '../../protocol/core/limits.ts'
import type { Disk, VolumeGroup } from '../../protocol/wire/types.ts'
import { countList, parseJson, plain, shape, wholeNumber, type Parsed } from './text.ts'

/** Columns that `parseDisks` needs of `lsblk --json --bytes --nodeps`. */
export const LSBLK_COLUMNS = 'NAME,TYPE,SIZE,MODEL,ROTA,TRAN'
/** Fields that `parseVolumeGroups` needs of `vgs`. */
export const VGS_FIELDS = 'vg_name,vg_size,vg_free'

const MAX_UINT32 = 0xffff_ffff
/** Levels of lscpu's own tree, which releases from 2.39 on print. */
const LSCPU_DEPTH = 6
/** Type `disk` for lsblk, but memory or a part of another machine's disk that may vanish with its user. */
const NO_DISK = /^(zram|ram|nbd|loop|fd|rbd|drbd)\d/

export interface Processor {
  model: string
  architecture: string
  sockets: number
  /** of all sockets */
  cores: number
  /** that are online: what guests can be given */
  threads: number
  /** `vmx` or `svm`: the processor can run guests; empty when it says neither */
  virtualization: '' | 'vmx' | 'svm'
}

interface Field { field: string, data?: string | null | undefined, children?: unknown }

const isField = shape(Type.Object({ field: Type.String(), data: Type.Optional(Type.Union([Type.String(), Type.Null()])), children: Type.Optional(Type.Unknown()) }))
const isLscpu = shape(Type.Object({ lscpu: Type.Array(Type.Unknown()) }))

/** Reads `lscpu --json`, in the flat form and in the nested one. */
export function parseProcessor (text: string): Parsed<Processor> {
  const parsed = parseJson(text, isLscpu, 'lscpu')
  if ('reason' in parsed) return parsed
  const fields = new Map<string, string>()
  const walk = (list: readonly unknown[], depth: number): void => {
    for (const one of list) {
      if (!isField(one)) continue
      const { field, data, children }: Field = one
      const name = field.replace(/:$/, '')
      if (typeof data === 'string' && !fields.has(name)) fields.set(name, data)
      if (Array.isArray(children) && depth < LSCPU_DEPTH) walk(children, depth + 1)
    }
  }
  walk(parsed.value.lscpu, 0)
  const count = (name: string): number => Math.min(wholeNumber(fields.get(name)) ?? 0, MAX_UINT32)
  const online = countList(fields.get('On-line CPU(s) list') ?? '') ?? 0
  const threads = online === 0 ? count('CPU(s)') : online
  if (threads === 0) return { reason: 'lscpu names no processor' }
  const sockets = count('Socket(s)')
  const flags = ` ${fields.get('Flags') ?? ''} `
  return {
    value: {
      model: plain(fields.get('Model name') ?? '', 64),
      architecture: plain(fields.get('Architecture') ?? '', 32),
      sockets,
      cores: Math.min(sockets * count('Core(s) per socket'), MAX_UINT32),
      threads,
      virtualization: flags.includes(' vmx ') ? 'vmx' : flags.includes(' svm ') ? 'svm' : ''
    }
  }
}

/** MemTotal of `/proc/meminfo`, or of a NUMA node's `meminfo`, in MiB. */
export function parseMemoryMib (text: string): number | null {
  const match = /^(?:Node \d+ )?MemTotal:\s+(\d{1,15}) kB$/m.exec(text.slice(0, 4096))
  return match === null ? null : Math.min(Math.floor(Number(match[1]) / 1024), MAX_UINT32)
}

const Amount = Type.Union([Type.Integer({ minimum: 0 }), Type.String({ maxLength: 20 })])
const OptionalText = Type.Optional(Type.Union([Type.String(), Type.Null()]))
const BlockDevice = Type.Object({
  name: Type.String(), type: Type.String(), size: Amount, model: OptionalText, tran: OptionalText,
  rota: Type.Optional(Type.Union([Type.Boolean(), Type.String(), Type.Null()]))
})
const isBlockDevice = shape(BlockDevice)
const isLsblk = shape(Type.Object({ blockdevices: Type.Array(Type.Unknown()) }))

/** Reads `lsblk --json --bytes --nodeps`: disks with a medium, by name. `left` is how many more there are. */
export function parseDisks (text: string): Parsed<{ disks: Disk[], left: number }> {
  const parsed = parseJson(text, isLsblk, 'lsblk')
  if ('reason' in parsed) return parsed
  const all = parsed.value.blockdevices.filter(isBlockDevice).flatMap(device => diskOf(device) ?? []).sort((a, b) => byName(a.name, b.name))
  return { value: { disks: all.slice(0, MAX_INVENTORY_DISKS), left: Math.max(0, all.length - MAX_INVENTORY_DISKS) } }
}

function diskOf (device: Static<typeof BlockDevice>): Disk | null {
  const sizeBytes = wholeNumber(device.size)
  if (device.type !== 'disk' || sizeBytes === null || sizeBytes === 0 || NO_DISK.test(device.name)) return null
  return {
    name: plain(device.name, 32),
    sizeBytes,
    model: plain(device.model ?? '', 64),
    // releases before 2.33 print "1"
    rotational: device.rota === true || device.rota === '1',
    transport: plain(device.tran ?? '', 16)
  }
}

const isGroup = shape(Type.Object({ vg_name: Type.String({ minLength: 1 }), vg_size: Amount, vg_free: Amount }))
const isVgs = shape(Type.Object({ report: Type.Array(Type.Object({ vg: Type.Optional(Type.Array(Type.Unknown())) })) }))

/** Reads `vgs --reportformat json --units b --nosuffix`. `left` is how many more there are. */
export function parseVolumeGroups (text: string): Parsed<{ volumeGroups: VolumeGroup[], left: number }> {
  const parsed = parseJson(text, isVgs, 'vgs')
  if ('reason' in parsed) return parsed
  const all = parsed.value.report.flatMap(report => report.vg ?? []).filter(isGroup).flatMap(group => {
    const [sizeBytes, freeBytes] = [wholeNumber(group.vg_size), wholeNumber(group.vg_free)]
    return sizeBytes === null || freeBytes === null ? [] : [{ name: plain(group.vg_name, 128), sizeBytes, freeBytes }]
  }).sort((a, b) => byName(a.name, b.name))
  return { value: { volumeGroups: all.slice(0, MAX_INVENTORY_VOLUME_GROUPS), left: Math.max(0, all.length - MAX_INVENTORY_VOLUME_GROUPS) } }
}

/** The first thing that looks like a version in what `--version` printed, e.g. `9.0.0`; empty when there is none. */
export function parseVersion (text: string): string {
  return /\b\d{1,4}(?:\.\d{1,6}){1,3}\b/.exec(text.slice(0, 1024))?.[0] ?? ''
}

/** PRETTY_NAME of `/etc/os-release`, empty when it has none. */
export function parseOs (text: string): string {
  const value = /^PRETTY_NAME=(.*)$/m.exec(text.slice(0, 16_384))?.[1] ?? ''
  return plain(value.trim().replace(/^(["'])(.*)\1$/, '$2').replace(/\\(.)/g, '$1'), 64)
}

/** sda before sdb before sdaa, vda2 before vda10. */
export function byName (a: string, b: string): number {
  return a.localeCompare(b, 'en', { numeric: true })
}
