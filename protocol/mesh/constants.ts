/** Bounds and rhythms of the mesh that are not shared with other modules. Units are in the names. */

export const RPC_PROTOCOL = '/musubi/rpc/1'
/** Streams one connection may hold for calls: one is used, the others replace one that just broke. */
export const MAX_RPC_STREAMS = 4
/** Received bytes that may wait for their reader before the stream is paused. */
export const READ_HIGH_WATER_BYTES = 1024 * 1024
/** Bytes of answers that may wait for a slow peer before its next calls are read. */
export const WRITE_HIGH_WATER_BYTES = 1024 * 1024
/** Largest window of a muxed stream: what a paused stream can still receive. */
export const MAX_STREAM_WINDOW_BYTES = 1024 * 1024
/** Calls to one peer that wait for a free place in flight; more fail at once as BUSY. */
export const MAX_WAITING_CALLS_PER_PEER = 2048

/** Neighbours that a member keeps in each scope; a random graph of this degree stays connected. */
export const SCOPE_DEGREE = 8
export const RECONNECT_MIN_MS = 250
export const RECONNECT_MAX_MS = 15_000
/** How often the set of neighbours is looked at when nothing happens. */
export const NEIGHBOUR_CHECK_MS = 2_000

/**
 * A dead process is seen by its closed sockets at once; these are for the hung one. Shorter ones
 * took a host whose cores were busy for a dead one.
 */
export const PING_INTERVAL_MS = 2_000
export const PING_TIMEOUT_MIN_MS = 3_000
export const PING_TIMEOUT_MAX_MS = 6_000

/** One gossip RPC may carry several records. */
export const MAX_GOSSIP_RPC_BYTES = 2 * 1024 * 1024
/** A record may not claim a longer life than this. */
export const RECORD_TTL_MAX_MS = 10 * 60_000
/** Time between two comparisons with a random peer. */
export const SYNC_INTERVAL_MS = 10_000
/** Records that one digest may name: about 80 bytes each. */
export const SYNC_DIGEST_RECORDS = 1024
/** Bytes of records in one message of a comparison; leaves room for framing. */
export const SYNC_RECORD_BYTES = 160 * 1024
/** Comparisons in a row with one peer while each still brings something. */
export const SYNC_ROUNDS_MAX = 32
