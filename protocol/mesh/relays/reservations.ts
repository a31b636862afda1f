import type { Connection, Stream } from '@libp2p/interface'
import { lpStream } from '@libp2p/utils'
import protobuf from 'protobufjs/minimal.js'
import { errorCode, InvalidInputError, MusubiError } from '../../core/errors.ts'
import { MAX_RELAY_MESSAGE_BYTES } from '../../core/limits.ts'
import { HOP_PROTOCOL, RELAY_CHECK_MS, RELAY_RENEW_MS, RELAY_RETRY_MS, RELAY_TIMEOUT_MS, RELAYS_KEPT } from '../constants.ts'

/** HopMessage { type: RESERVE } */
const RESERVE = Uint8Array.of(8, 0)
const TYPE = 1
const STATUS_FIELD = 5
const TYPE_STATUS = 2
const STATUS_OK = 100
/** What relays say, for people. */
const REFUSALS: Readonly<Record<number, string>> = { 200: 'it has no place left', 201: 'it has no place left', 202: 'it does not relay for this host' }

/** Status of a HopMessage; its other fields do not matter here. @throws InvalidInputError */
export function hopStatus (bytes: Uint8Array): number {
  const reader = protobuf.Reader.create(bytes)
  let type = -1
  let status = 0
  try {
    while (reader.pos < reader.len) {
      const tag = reader.uint32()
      if (tag === TYPE << 3) type = reader.uint32()
      else if (tag === STATUS_FIELD << 3) status = reader.uint32()
      else reader.skipType(tag & 7)
    }
  } catch (cause) {
    throw new MusubiError('INVALID_INPUT', 'the answer of a relay cannot be read', { cause })
  }
  if (type !== TYPE_STATUS) throw new InvalidInputError('the answer of a relay is none')
  return status
}

/**
 * Asks the relay at the other end for a reservation: as long as the connection lasts, others reach
 * us through it. Asking again does no harm.
 *
 * @throws MusubiError RELAY_REFUSED; Error when there is no answer in time
 */
export async function reserve (connection: Connection): Promise<void> {
  const signal = AbortSignal.timeout(RELAY_TIMEOUT_MS)
  const stream: Stream = await connection.newStream(HOP_PROTOCOL, { signal })
  try {
    const wire = lpStream(stream, { maxDataLength: MAX_RELAY_MESSAGE_BYTES })
    await wire.write(RESERVE, { signal })
    const status = hopStatus((await wire.read({ signal })).subarray())
    if (status !== STATUS_OK) throw new MusubiError('RELAY_REFUSED', `the relay refused: ${REFUSALS[status] ?? `status ${status}`}`, { retryable: true })
    await stream.close({ signal })
  } catch (error) {
    stream.abort(error instanceof Error ? error : new Error('no reservation'))
    throw error
  }
}

interface Reservation { readonly connection: Connection, renewAtMs: number }

export interface ReservationsOptions {
  /** direct connections to members that relay, the best first */
  relays (): Promise<Connection[]>
  /** connects to members that are said to relay, as too few relays are connected */
  seek (missing: number): void
  /** addresses at which a relay is reached, without PeerId */
  addressesOf (connection: Connection): string[]
  /** told when the addresses have changed */
  onChange (addresses: readonly string[]): void
  onFailure (peerId: string, error: unknown): void
}

/** Keeps reservations with a few relays; one that is lost is replaced at once. */
export class Reservations {
  readonly #options: ReservationsOptions
  readonly #held = new Map<string, Reservation>()
  readonly #retryAtMs = new Map<string, number>()
  #addresses: readonly string[] = []
  #timer: NodeJS.Timeout | null = null
  #stopped = false
  #checking = false
  #again = false

  constructor (options: ReservationsOptions) {
    this.#options = options
  }

  /** Multiaddrs without our PeerId: `/ip4/10.1.2.3/tcp/4001/p2p/RELAY/p2p-circuit`. */
  get addresses (): readonly string[] {
    return this.#addresses
  }

  start (): void {
    this.check()
  }

  stop (): void {
    this.#stopped = true
    if (this.#timer !== null) clearTimeout(this.#timer)
  }

  /** Something has changed: a relay came or went. */
  check (): void {
    if (this.#stopped) return
    if (this.#checking) {
      this.#again = true
      return
    }
    this.#checking = true
    void this.#pass().finally(() => {
      this.#checking = false
      if (this.#stopped) return
      if (this.#timer !== null) clearTimeout(this.#timer)
      this.#timer = setTimeout(() => { this.check() }, this.#again ? 0 : RELAY_CHECK_MS)
      this.#again = false
    })
  }

  async #pass (): Promise<void> {
    for (const [peerId, { connection }] of this.#held) if (connection.status !== 'open') this.#held.delete(peerId)
    this.#tell()
    const connections = await this.#options.relays()
    await Promise.all([...this.#held.values()].map(async ({ connection, renewAtMs }) => {
      if (renewAtMs <= performance.now()) await this.#reserve(connection)
    }))
    for (const connection of connections) {
      const peerId = connection.remotePeer.toString()
      if (this.#held.size >= RELAYS_KEPT) break
      if (this.#held.has(peerId) || (this.#retryAtMs.get(peerId) ?? 0) > performance.now()) continue
      await this.#reserve(connection)
    }
    for (const [peerId, atMs] of this.#retryAtMs) if (atMs <= performance.now()) this.#retryAtMs.delete(peerId)
    if (this.#held.size < RELAYS_KEPT) this.#options.seek(RELAYS_KEPT - this.#held.size)
  }

  async #reserve (connection: Connection): Promise<void> {
    const peerId = connection.remotePeer.toString()
    try {
      await reserve(connection)
      this.#held.set(peerId, { connection, renewAtMs: performance.now() + RELAY_RENEW_MS })
    } catch (error) {
      this.#held.delete(peerId)
      // a connection that broke tells nothing about the relay
      this.#retryAtMs.set(peerId, performance.now() + (errorCode(error) === 'RELAY_REFUSED' ? RELAY_RETRY_MS : RELAY_CHECK_MS / 2))
      if (!this.#stopped) this.#options.onFailure(peerId, error)
    }
    this.#tell()
  }

  #tell (): void {
    const addresses = [...this.#held.values()].flatMap(({ connection }) => this.#options.addressesOf(connection))
    if (addresses.join() === this.#addresses.join()) return
    this.#addresses = addresses
    this.#options.onChange(addresses)
  }
}
