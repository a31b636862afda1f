import { createHash } from 'node:crypto'

/** 100.64.0.0/10, shared address space (RFC 6598): clashes with no site's own private ranges. */
const RANGE_BASE = 0x64400000
const RANGE_MASK = 0x003fffff

/**
 * A gateway's address inside the tunnels, the same wherever it is computed.
 * 22 bits of SHA-256: 100 gateways clash with probability 0.1 %; who joins gateways checks for that.
 *
 * @param peerId libp2p PeerId of the gateway's agent
 * @returns IPv4 address without prefix length
 */
export function tunnelAddressFor (peerId: string): string {
  const word = createHash('sha256').update('musubi tunnel address\0').update(peerId).digest().readUInt32BE(0) & RANGE_MASK
  // neither the network's nor the broadcast address of the range
  const host = word === 0 ? 1 : word === RANGE_MASK ? RANGE_MASK - 1 : word
  const address = RANGE_BASE + host
  return [24, 16, 8, 0].map((shift) => String((address >>> shift) & 0xff)).join('.')
}
