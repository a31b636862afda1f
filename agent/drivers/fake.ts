import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { ObjectKind, SpecByKind } from '../../protocol/core/desired.ts'
import { fingerprint } from '../fingerprint.ts'
import type { ComputeDriver, DomainStats } from './compute/driver.ts'
import type { Driver, ObservedObject } from './driver.ts'

/** One object of the pretended host. */
export interface FakeObject {
  name: string
  fingerprint: string
  healthy: boolean
  spec: unknown
}

/** The pretended host: whoever opens the same store sees the same objects. */
export interface FakeStore {
  list (kind: ObjectKind): Promise<FakeObject[]>
  put (kind: ObjectKind, object: FakeObject): Promise<void>
  delete (kind: ObjectKind, name: string): Promise<void>
}

/** A pretended host in memory: lives as long as the caller keeps it. */
export function createMemoryFakeStore (): FakeStore {
  const objects = new Map<string, FakeObject>()
  const key = (kind: ObjectKind, name: string): string => `${kind} ${name}`
  return {
    list (kind) {
      return Promise.resolve([...objects].filter(([k]) => k.startsWith(`${kind} `)).map(([, object]) => structuredClone(object)))
    },
    put (kind, object) {
      objects.set(key(kind, object.name), structuredClone(object))
      return Promise.resolve()
    },
    delete (kind, name) {
      objects.delete(key(kind, name))
      return Promise.resolve()
    }
  }
}

/** A pretended host in a directory: survives the process, a file per object, replaced as a whole. */
export function createDirectoryFakeStore (dir: string): FakeStore {
  const folder = (kind: ObjectKind): string => join(dir, kind)
  const file = (kind: ObjectKind, name: string): string => join(folder(kind), `${encodeURIComponent(name)}.json`)
  return {
    async list (kind) {
      await mkdir(folder(kind), { recursive: true })
      const names = await readdir(folder(kind))
      const objects: FakeObject[] = []
      for (const name of names.filter(n => n.endsWith('.json')).sort()) {
        const text = await readFile(join(folder(kind), name), 'utf8').catch(() => null)
        if (text !== null) objects.push(JSON.parse(text) as FakeObject)
      }
      return objects
    },
    async put (kind, object) {
      await mkdir(folder(kind), { recursive: true })
      const temporary = `${file(kind, object.name)}.${process.pid}.tmp`
      await writeFile(temporary, JSON.stringify(object))
      await rename(temporary, file(kind, object.name))
    },
    async delete (kind, name) { await rm(file(kind, name), { force: true }) }
  }
}

export interface FakeDriverOptions {
  /** the pretended host; give the same one again to "restart" */
  store?: FakeStore
  /** shorthand for a store in this directory */
  dir?: string
  /** what `probe` answers */
  problems?: readonly string[]
  /** how long each apply and remove takes, default 0 ms */
  latencyMs?: number
  /** throws to make a call fail before it changes anything */
  onCall?: (verb: 'observe' | 'apply' | 'remove', name: string) => void
}

/** A driver that only pretends: it keeps objects in memory or in a directory and touches nothing else. */
export function createFakeDriver<K extends ObjectKind> (kind: K, options: FakeDriverOptions = {}): Driver<K> {
  const store = fakeStore(options)
  const begin = async (verb: 'observe' | 'apply' | 'remove', name: string, signal: AbortSignal): Promise<void> => {
    signal.throwIfAborted()
    options.onCall?.(verb, name)
    if (verb !== 'observe' && (options.latencyMs ?? 0) > 0) await delay(options.latencyMs, undefined, { signal })
  }
  return {
    kind,
    probe () { return Promise.resolve([...options.problems ?? []]) },
    async observe (signal) {
      await begin('observe', '', signal)
      return (await store.list(kind)).map((object): ObservedObject => ({
        kind, name: object.name, fingerprint: object.fingerprint, healthy: object.healthy, detail: { fake: true }
      }))
    },
    async apply (name: string, spec: SpecByKind[K], signal: AbortSignal) {
      await begin('apply', name, signal)
      await store.put(kind, { name, fingerprint: fingerprint(spec), healthy: true, spec })
    },
    async remove (name, signal) {
      await begin('remove', name, signal)
      await store.delete(kind, name)
    }
  }
}

/** The fake of the compute driver: domains that "run" and have moved no byte. */
export function createFakeComputeDriver (options: FakeDriverOptions = {}): ComputeDriver {
  const store = fakeStore(options)
  return {
    ...createFakeDriver('domain', { ...options, store }),
    async stats () {
      const entries = (await store.list('domain')).map((object): [string, DomainStats] =>
        [object.name, { rxBytes: 0, txBytes: 0, state: object.healthy ? 'running' : 'shut off' }])
      return Object.fromEntries(entries)
    },
    consoleLog () { return Promise.resolve('') }
  }
}

function fakeStore (options: FakeDriverOptions): FakeStore {
  return options.store ?? (options.dir === undefined ? createMemoryFakeStore() : createDirectoryFakeStore(options.dir))
}
