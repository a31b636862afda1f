import { link, readdir, rm, stat } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { run } from '../../../exec.ts'
import { createRecords, hasCode, readIfThere, writeWhole } from '../records.ts'
import { TRACKS } from './names.ts'
import type { Track } from '../../../../protocol/core/desired.ts'
import type { KeyState } from './rotation.ts'

export interface Keys {
  /** What there is now; a key without a record is taken for one of the first epoch. */
  state (): Promise<KeyState>
  /** Makes a key for a track unless there is one. @param epoch that it is made under */
  open (track: Track, epoch: number, signal: AbortSignal): Promise<void>
  /** The key goes for good, and copies of it that a crash has left. */
  close (track: Track): Promise<void>
  setDraining (draining: KeyState['draining']): Promise<void>
  /** Where the private half is, if there is one. */
  fileOf (track: Track): string
  /** Both halves; null without a key on this track. */
  pair (track: Track, signal: AbortSignal): Promise<KeyPair | null>
}

export interface KeyPair { privateKey: string, publicKey: string }

const NAME = 'keys'

/**
 * The private keys of this gateway, each in a file of mode 0600: they are made here and never leave.
 * @param stateDir of the network drivers
 */
export function createKeys (stateDir: string): Keys {
  const records = createRecords<KeyState>(join(stateDir, 'tunnel-keys'))
  const fileOf = (track: Track): string => join(stateDir, track === 0 ? 'wireguard.key' : 'wireguard-1.key')
  const cache = new Map<Track, KeyPair>()

  const madeMs = async (track: Track): Promise<number | null> => {
    try {
      return Math.floor((await stat(fileOf(track))).mtimeMs)
    } catch (error) {
      if (hasCode(error, 'ENOENT')) return null
      throw error
    }
  }

  const state = async (): Promise<KeyState> => {
    const recorded = await records.get(NAME)
    const tracks: KeyState['tracks'] = []
    for (const track of TRACKS) {
      // the files say which keys there are, the record only what is known of them
      const made = await madeMs(track)
      if (made !== null) tracks.push({ track, epoch: recorded?.tracks.find((one) => one.track === track)?.epoch ?? 0, madeMs: made })
    }
    const draining = recorded?.draining ?? null
    return { tracks, draining: tracks.some(({ track }) => track === draining?.track) ? draining : null }
  }

  return {
    state,
    fileOf,

    async open (track, epoch, signal) {
      const before = await state()
      const epochs = [...before.tracks.filter((one) => one.track !== track), { track, epoch, madeMs: 0 }]
      if (!before.tracks.some((one) => one.track === track)) {
        // first the record: a key that is there without it would count as old
        await records.put(NAME, { tracks: epochs, draining: before.draining })
        cache.delete(track)
        const fresh = `${fileOf(track)}.${process.pid}`
        await writeWhole(fresh, (await run('wg', ['genkey'], { signal })).stdout)
        // of two that make a key at once the first wins: link() never replaces
        await link(fresh, fileOf(track)).catch((error: unknown) => { if (!hasCode(error, 'EEXIST')) throw error })
        await rm(fresh, { force: true })
      }
    },

    async close (track) {
      const before = await state()
      cache.delete(track)
      // of a key that was being made
      const left = (await readdir(stateDir)).filter((name) => name.startsWith(`${basename(fileOf(track))}.`))
      for (const name of left) await rm(join(stateDir, name), { force: true })
      await rm(fileOf(track), { force: true })
      await records.put(NAME, { tracks: before.tracks.filter((one) => one.track !== track), draining: before.draining?.track === track ? null : before.draining })
    },

    async setDraining (draining) {
      await records.put(NAME, { ...await state(), draining })
    },

    async pair (track, signal) {
      const known = cache.get(track)
      if (known !== undefined) return known
      const privateKey = (await readIfThere(fileOf(track)))?.trim()
      if (privateKey === undefined) return null
      const publicKey = (await run('wg', ['pubkey'], { signal, input: `${privateKey}\n` })).stdout.trim()
      const pair = { privateKey, publicKey }
      cache.set(track, pair)
      return pair
    }
  }
}
