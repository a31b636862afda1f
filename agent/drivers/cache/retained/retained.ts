/**
 * Stores of caches whose clusters are over, for later clusters of the same owner. Each has a folder below `.retained`
 * with a record, written first, and the store: as its engine left it (`raw`), or only what that was taken from it
 * (`store`). A store without a record goes, and so does a record without a store; what is half done is finished or
 * goes. Keeping is a favour: whatever fails on the way costs the store, never the removal of a cluster.
 */
import { randomUUID } from 'node:crypto'
import { lstat, mkdir, rename, rm, rmdir } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import type { CacheSpec } from '../../../../protocol/core/desired.ts'
import { keeperId } from '../../../services/keepers.ts'
import { cacheFolder, ignoreMissing } from '../folder.ts'
import type { CacheRecord } from '../folder.ts'
import { DEFAULT_LINK, sliceBytes } from '../plan.ts'
import type { Link } from '../plan.ts'
import { checkFiles, giveFiles, isAlone, isFolder, isThere, listNames, takeFiles } from './files.ts'
import { RETAIN_NOTHING, endOf, storeBytesMax, toDrop } from './policy.ts'
import type { RetainLimits } from './policy.ts'
import { readRetained, writeRetained } from './record.ts'
import type { RetainedRecord } from './record.ts'

/** A store that has outlived its cluster, as people see it. */
export interface RetainedStore {
  id: string
  /** the site for whose clusters it is */
  owner: string
  /** name of the cluster that used it last */
  cluster: string
  bytes: number
  /** 0 until it is checked */
  objects: number
  /** Unix ms */
  lastUsedMs: number
  /** when it goes at the latest, Unix ms */
  untilMs: number
  /** false: its bytes are still being compared with their digests; nobody gets it before */
  checked: boolean
  /** SHA-256 of its largest objects, at most MAX_HELD_OBJECTS; none before it is checked */
  held: string[]
}

export interface RetainedOptions {
  /** folder of the cache driver */
  stateDir: string
  /** default: nothing is kept */
  limits?: RetainLimits
  /** wall clock, Unix ms */
  now?: () => number
}

export interface Retained {
  /** Takes the store of a cache whose services have ended, where its cluster asked for that. Never fails. */
  keep (record: CacheRecord, signal: AbortSignal): Promise<void>
  /** Sets a store aside for a new cache of the same owner. @returns the link that its parts are of; undefined when there is none for it */
  claim (name: string, spec: CacheSpec): Promise<Link | undefined>
  /** Moves what was set aside into the folder of the cache, before its engine starts. @throws when it is aborted, to be called again */
  handOver (name: string, spec: CacheSpec, signal: AbortSignal): Promise<void>
  /** Finishes what was begun, compares what is new with its digests, drops what has to go. Never fails; one call at a time does something. */
  tend (): Promise<void>
  list (): Promise<RetainedStore[]>
  /** @param owner null: of everybody */
  purge (owner: string | null): Promise<{ stores: number, bytes: number }>
}

/** As no cache's folder can be named: dots are escaped in their names. */
const AREA = '.retained'
const GONE = /^gone-/

export function createRetained ({ stateDir, limits = RETAIN_NOTHING, now = Date.now }: RetainedOptions): Retained {
  const area = join(resolve(stateDir), AREA)
  /** Caches that are being made: what is set aside for them is no leftover. */
  const claiming = new Set<string>()
  let turn: Promise<unknown> = Promise.resolve()
  let tending: Promise<void> | null = null

  async function inTurn<T> (work: () => Promise<T>): Promise<T> {
    const mine = turn.then(work)
    turn = mine.catch(() => undefined)
    return await mine
  }

  const at = (id: string, ...more: string[]): string => join(area, id, ...more)

  async function records (): Promise<Array<RetainedRecord & { id: string }>> {
    const found: Array<RetainedRecord & { id: string }> = []
    for (const id of (await listNames(area)).filter(name => !GONE.test(name))) {
      const record = await readRetained(at(id))
      if (record !== null) found.push({ ...record, id })
    }
    return found
  }

  /** Out of sight at once, and then off the disk: killed in between, it goes with the next sweep. */
  async function drop (id: string): Promise<void> {
    const gone = GONE.test(id) ? id : `gone-${id}`
    if (gone !== id) await rename(at(id), at(gone))
    await rm(at(gone), { recursive: true, force: true })
  }

  async function take (id: string, record: RetainedRecord, signal?: AbortSignal): Promise<void> {
    // a process of its user could write to what is about to be believed; where a new cluster has the same number, its engine is one
    if (!await isAlone(record.engineId, signal)) throw new Error('its engine has not ended')
    const bytes = await takeFiles(at(id, 'raw'), at(id, 'store'), record.engineId)
    if (bytes === 0) await drop(id)
    else await writeRetained(at(id), { ...record, bytes })
  }

  /** Everything that a killed process has left between two steps. */
  async function sweep (): Promise<void> {
    for (const id of await listNames(area)) {
      try {
        const record = GONE.test(id) ? null : await readRetained(at(id))
        const raw = await isThere(at(id, 'raw'))
        const orphan = record === null || (!raw && !await isFolder(at(id, 'store')))
        const lost = record?.takenBy !== undefined && !claiming.has(record.takenBy) && !await isThere(cacheFolder(stateDir, record.takenBy))
        if (orphan || lost) await drop(id)
        else if (raw) await take(id, record)
      } catch {
        await drop(id).catch(() => undefined)
      }
    }
    // the last one leaves no folder behind
    await rmdir(area).catch(() => undefined)
  }

  async function check (id: string, record: RetainedRecord): Promise<void> {
    // long: others get their turns meanwhile, and leave alone what is not checked
    const found = await checkFiles(at(id, 'store'), sliceBytes(record.link), storeBytesMax(limits)).catch(() => ({ objects: 0, bytes: 0, held: [] }))
    await inTurn(async () => {
      if (await readRetained(at(id)) === null) return // purged meanwhile
      try {
        if (found.objects === 0) await drop(id)
        else await writeRetained(at(id), { ...record, ...found, checked: true })
      } catch {
        await drop(id).catch(() => undefined) // a full disk
      }
    })
  }

  async function evict (): Promise<void> {
    const free = (await records()).filter(({ takenBy }) => takenBy === undefined)
    // what is not checked yet shrinks by that, and may come to nothing: it makes nothing else go
    const waiting = free.filter(record => !record.checked && endOf(record, limits) > now() && storeBytesMax(limits) > 0)
    for (const id of toDrop(free.filter(record => !waiting.includes(record)), now(), limits)) await drop(id).catch(() => undefined)
  }

  async function tendOnce (): Promise<void> {
    await inTurn(sweep)
    await inTurn(evict)
    for (const record of (await inTurn(records)).filter(({ checked }) => !checked)) await check(record.id, record)
    await inTurn(evict)
    await inTurn(async () => { await rmdir(area).catch(() => undefined) })
  }

  return {
    async keep ({ name, spec, link }, signal) {
      claiming.delete(name)
      await inTurn(async () => {
        for (const { id, takenBy } of await records()) if (takenBy === name) await drop(id)
        const engine = join(cacheFolder(stateDir, name), 'engine')
        const engineId = keeperId('engine', spec.vni)
        const from = join(engine, 'store')
        if (spec.retain === undefined || storeBytesMax(limits) === 0) return
        const found = await lstat(from).catch(ignoreMissing)
        if (found === null || !found.isDirectory() || (await listNames(from)).length === 0) return
        const id = randomUUID()
        try {
          await mkdir(at(id), { recursive: true, mode: 0o700 })
          const lastUsedMs = now()
          const record: RetainedRecord = {
            owner: spec.retain.owner, cluster: spec.cluster, link: spec.link ?? link ?? DEFAULT_LINK, engineId, bytes: 0, objects: 0,
            lastUsedMs, untilMs: lastUsedMs + spec.retain.ms, checked: false
          }
          await writeRetained(at(id), record)
          await rename(from, at(id, 'raw'))
          await take(id, record, signal)
        } catch {
          await drop(id).catch(() => undefined)
        }
      }).catch(() => undefined)
    },

    async claim (name, spec) {
      const { retain } = spec
      if (retain === undefined) return undefined
      return await inTurn(async () => {
        if (await isThere(join(cacheFolder(stateDir, name), 'engine', 'store'))) return undefined
        const all = await records()
        const mine = all.find(({ takenBy, owner }) => takenBy === name && owner === retain.owner)
        const fits = (link: Link): boolean => spec.link === undefined || sliceBytes(spec.link) === sliceBytes(link)
        const best = mine ?? all.filter(one => one.owner === retain.owner && one.checked && one.takenBy === undefined && endOf(one, limits) > now() && fits(one.link))
          .toSorted((a, b) => b.lastUsedMs - a.lastUsedMs || b.bytes - a.bytes)[0]
        if (best === undefined) return undefined
        const { id, ...record } = best
        claiming.add(name)
        await writeRetained(at(id), { ...record, takenBy: name })
        return record.link
      }).catch(() => undefined)
    },

    async handOver (name, spec, signal) {
      await inTurn(async () => {
        for (const { id, owner } of (await records()).filter(({ takenBy }) => takenBy === name)) {
          const engine = join(cacheFolder(stateDir, name), 'engine')
          try {
            // killed after the move, or somebody was faster: what the cache has is its own
            if (owner === spec.retain?.owner && await isFolder(at(id, 'store')) && !await isThere(join(engine, 'store'))) await giveFiles(at(id, 'store'), engine, keeperId('engine', spec.vni), signal)
          } catch (error) {
            // the next pass goes on; what fails otherwise must not keep the cache from its nodes
            if (signal.aborted) throw error
          }
          await drop(id)
        }
        claiming.delete(name)
      })
    },

    async tend () {
      tending ??= tendOnce().catch(() => undefined).finally(() => { tending = null })
      await tending
    },

    async list () {
      return (await inTurn(records)).filter(({ takenBy }) => takenBy === undefined).toSorted((a, b) => b.lastUsedMs - a.lastUsedMs)
        .map(record => ({ id: record.id, owner: record.owner, cluster: record.cluster, bytes: record.bytes, objects: record.objects, lastUsedMs: record.lastUsedMs, untilMs: endOf(record, limits), checked: record.checked, held: record.held ?? [] }))
    },

    async purge (owner) {
      return await inTurn(async () => {
        const mine = (await records()).filter(record => owner === null || record.owner === owner)
        for (const { id } of mine) await drop(id)
        await rmdir(area).catch(() => undefined)
        return { stores: mine.length, bytes: mine.reduce((sum, { bytes }) => sum + bytes, 0) }
      })
    }
  }
}
