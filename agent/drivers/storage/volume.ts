import { createHash } from 'node:crypto'
import { join } from 'node:path'
import type { VolumeSpec } from '../../../protocol/core/desired.ts'
import { ConflictError, MusubiError } from '../../../protocol/core/errors.ts'
import { fingerprint } from '../../fingerprint.ts'
import type { ServiceManager } from '../../services.ts'
import type { Driver, ObservedObject } from '../driver.ts'
import { createFileBacking } from './backing.ts'
import type { Backing, BackingVolume } from './backing.ts'
import { PORTAL_PORT } from './exporter.ts'
import type { Exporter, ExporterState } from './exporter.ts'
import { createVolumeRecords } from './records.ts'
import type { VolumeRecord } from './records.ts'
import { createTgtExporter } from './tgt.ts'
import { assertVolume, assertVolumeName } from './valid.ts'

export interface VolumeDriver extends Driver<'volume'> {
  readonly kind: 'volume'
  /** Names of targets that no volume of ours stands behind. */
  strays (signal: AbortSignal): Promise<string[]>
  /** Ends those, and portals that nobody needs. */
  dropStrays (signal: AbortSignal): Promise<void>
}

export interface VolumeDriverOptions {
  /** files and records of volumes; must outlive reboots */
  stateDir: string
  services: ServiceManager
  /** control sockets, default `/run/musubi` */
  runDir?: string
  backing?: Backing
  exporter?: Exporter
}

/**
 * Volumes of this host: bytes from a `Backing`, reached through an `Exporter`. The order of steps
 * makes a crash harmless: a record comes first and goes last, and bears the fingerprint only while
 * backing and target are as the spec says.
 */
export function createVolumeDriver (options: VolumeDriverOptions): VolumeDriver {
  const { stateDir, services } = options
  const dir = join(stateDir, 'volumes')
  const backing = options.backing ?? createFileBacking({ dir })
  const exporter = options.exporter ?? createTgtExporter({ services, stateDir, runDir: options.runDir ?? '/run/musubi' })
  const records = createVolumeRecords({ dir })
  // one server, global accounts, free space: changes go one after the other
  let last: Promise<unknown> = Promise.resolve()

  async function inTurn<T> (signal: AbortSignal, task: () => Promise<T>): Promise<T> {
    const mine = last.then(() => {
      signal.throwIfAborted()
      return task()
    })
    last = mine.catch(() => undefined)
    return await mine
  }

  async function apply (name: string, spec: VolumeSpec, signal: AbortSignal): Promise<void> {
    const known = await records.all()
    const old = known.get(name)
    const next: VolumeRecord = {
      fingerprint: null,
      iqn: spec.iqn,
      sizeMiB: spec.sizeMiB,
      portalAddress: spec.portalAddress,
      user: spec.chap.user,
      allow: [...new Set(spec.allow)].sort(),
      secretDigest: createHash('sha256').update(spec.chap.secret).digest('hex')
    }
    const wanted = fingerprint(spec)
    const before = await observeAll(known, signal)
    if (before.find(one => one.name === name)?.healthy === true && old?.fingerprint === wanted) return
    assertAlone(name, next, known)
    if (old !== undefined && old.fingerprint !== null && !(await backing.list()).some(one => one.name === name)) {
      throw new ConflictError(`volume ${name}: ${backing.path(name)} is gone, and its data with it`, 'bring it back from a copy, or delete the volume')
    }
    const mending = old?.fingerprint === wanted
    if (!mending) await records.write(name, next)
    try {
      await backing.create(name, spec.sizeMiB)
    } catch (error) {
      await undo(name, old)
      throw error
    }
    // a target keeps name and size from its making; of one that was left half made nobody knows them
    if (old !== undefined && (old.fingerprint === null || old.iqn !== spec.iqn || old.sizeMiB !== spec.sizeMiB)) await exporter.unexport(old.iqn, signal)
    await exporter.export({ ...spec, allow: next.allow, path: backing.path(name) }, !mending, signal)
    await records.write(name, { ...next, fingerprint: wanted })
    await sweep(signal)
  }

  /** The backing refused, so nothing was changed: what was there before is still true. */
  async function undo (name: string, old: VolumeRecord | undefined): Promise<void> {
    if (old === undefined) await records.remove(name)
    else await records.write(name, old)
  }

  function assertAlone (name: string, next: VolumeRecord, known: ReadonlyMap<string, VolumeRecord>): void {
    for (const [other, record] of known) {
      if (other === name) continue
      if (record.iqn === next.iqn) throw new ConflictError(`volume ${name}: ${next.iqn} is the name of volume ${other} already`)
      if (record.user === next.user && record.secretDigest !== next.secretDigest) {
        throw new ConflictError(`volume ${name}: CHAP user ${next.user} has another secret with volume ${other}`, 'the target server knows one secret per user: give each volume a user of its own')
      }
    }
  }

  /** Ends targets and portals that no record names, e.g. after a change of address. */
  async function sweep (signal: AbortSignal): Promise<void> {
    await exporter.keepOnly([...(await records.all()).values()], signal)
  }

  async function remove (name: string, signal: AbortSignal): Promise<void> {
    const old = (await records.all()).get(name)
    if (old === undefined) return
    // from here on it is not what anybody's spec says
    await records.write(name, { ...old, fingerprint: null })
    await exporter.unexport(old.iqn, signal)
    await backing.remove(name)
    const rest = await records.all()
    rest.delete(name)
    await exporter.keepOnly([...rest.values()], signal)
    await records.remove(name)
  }

  async function observeAll (known: ReadonlyMap<string, VolumeRecord>, signal: AbortSignal): Promise<ObservedObject[]> {
    if (known.size === 0) return []
    const state = await exporter.state(signal)
    const stored = await backing.list()
    return [...known].sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, record]) => observed(name, record, stored.find(one => one.name === name), state))
  }

  function observed (name: string, record: VolumeRecord, stored: BackingVolume | undefined, state: ExporterState | null): ObservedObject {
    const target = state?.targets.find(one => one.iqn === record.iqn)
    const faults = [
      record.fingerprint === null ? 'half made' : '',
      stored === undefined ? 'its backing is missing' : stored.sizeMiB !== record.sizeMiB ? `its backing has ${stored.sizeMiB} MiB` : '',
      state === null ? 'the target server does not run' : target === undefined ? 'its target is missing' : '',
      target !== undefined && (!target.ready || target.path !== backing.path(name)) ? 'its disk is not attached' : '',
      target !== undefined && (target.users.length !== 1 || target.users[0] !== record.user) ? 'its CHAP user is not set' : '',
      target !== undefined && !sameSet(target.allow, record.allow) ? 'its access list differs' : '',
      state !== null && !state.portals.includes(`${record.portalAddress}:${PORTAL_PORT}`) ? `nothing listens on ${record.portalAddress}` : ''
    ].filter(fault => fault !== '')
    return {
      kind: 'volume',
      name,
      fingerprint: record.fingerprint,
      healthy: faults.length === 0,
      detail: { iqn: record.iqn, sizeMiB: record.sizeMiB, usedMiB: stored?.usedMiB ?? 0, sessions: target?.sessions ?? [], faults }
    }
  }

  return {
    kind: 'volume',
    async probe (signal) {
      const problems = await exporter.probe(signal)
      try {
        await records.check()
      } catch (error) {
        problems.push(`${dir} cannot be written: ${error instanceof Error ? error.message : String(error)}`)
      }
      return problems
    },
    async observe (signal) {
      signal.throwIfAborted()
      return await observeAll(await records.all(), signal)
    },
    async strays (signal) {
      const known = new Set([...(await records.all()).values()].map(record => record.iqn))
      return (await exporter.state(signal))?.targets.map(target => target.iqn).filter(iqn => !known.has(iqn)) ?? []
    },
    async dropStrays (signal) {
      await inTurn(signal, () => sweep(signal))
    },
    async apply (name, spec, signal) {
      assertVolumeName(name)
      assertVolume(name, spec)
      await inTurn(signal, async () => { await named(name, apply(name, spec, signal)) })
    },
    async remove (name, signal) {
      assertVolumeName(name)
      await inTurn(signal, async () => { await named(name, remove(name, signal)) })
    }
  }
}

/** Errors from below tell what failed; this adds for which volume. */
async function named (name: string, work: Promise<void>): Promise<void> {
  try {
    await work
  } catch (error) {
    if (!(error instanceof MusubiError) || error.message.includes(name)) throw error
    throw new MusubiError(error.code, `volume ${name}: ${error.message}`, { retryable: error.retryable, cause: error, ...(error.hint === undefined ? {} : { hint: error.hint }) })
  }
}

function sameSet (a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every(one => b.includes(one))
}
