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
/** What a stream may hold for a reader that is behind: a window, and the one granted while that was on its way. */
export const MAX_READ_BUFFER_BYTES = 2 * MAX_STREAM_WINDOW_BYTES
/** Calls to one peer that wait for a free place in flight; more fail at once as BUSY. */
export const MAX_WAITING_CALLS_PER_PEER = 2048

/** Neighbours that a member keeps in each scope; a random graph of this degree stays connected. */
export const SCOPE_DEGREE = 8
/** New connections of a scope begun at the same time. */
export const DIALS_AT_ONCE = 3
/** Neighbours of a scope that we have chosen ourselves, however many have chosen us. */
export const OWN_CHOICE_MIN = 3
export const RECONNECT_MIN_MS = 250
export const RECONNECT_MAX_MS = 15_000
/** How often open connections are held against certificates that end. */
export const MEMBERSHIP_CHECK_MS = 15_000
/** How often the set of neighbours is looked at when nothing happens. */
export const NEIGHBOUR_CHECK_MS = 2_000

/** What a relay answers to: reservations, and connections to who has one. */
export const HOP_PROTOCOL = '/libp2p/circuit/relay/0.2.0/hop'
/** Relays that a gateway holds reservations with: one may die and it is still reached. */
export const RELAYS_KEPT = 2
/** One relay's share of a dial, while there are others to try. */
export const RELAY_DIAL_MS = 1_500
/** A reservation lasts as long as its connection; so often it is asked for again, in case the relay has forgotten it. */
export const RELAY_RENEW_MS = 10 * 60_000
/** How often reservations are looked at when nothing happens. */
export const RELAY_CHECK_MS = 2_000
/** Asking for a reservation; a relay that is slower is not a good one. */
export const RELAY_TIMEOUT_MS = 5_000
/** A relay that refused is asked again after this. */
export const RELAY_RETRY_MS = 15_000
/** A relayed connection is left to settle before the first attempt to replace it by a direct one. */
export const DIRECT_FIRST_MS = 200
/** First and longest wait between further attempts to replace a relayed connection by a direct one. */
export const DIRECT_RETRY_MIN_MS = 5_000
export const DIRECT_RETRY_MAX_MS = 5 * 60_000
/** Two hosts that accept no connection agree on a moment to dial each other. */
export const PUNCH_PROTOCOL = '/musubi/punch/1'
export const PUNCH_TIMEOUT_MS = 8_000
/** Dials of one try: where unasked packets are refused aloud, only those that cross get through. */
export const PUNCH_ATTEMPTS = 3
/** A relayed connection stays so long beside its direct successor: the other side must have seen that one. */
export const RELAY_LINGER_MS = 1_000

/**
 * libp2p's own monitor closes connections that do not answer, and fails the calls on them. It is for
 * lines that are gone for good: shorter times took a host whose cores were busy for a dead one.
 */
export const PING_INTERVAL_MS = 10_000
export const PING_TIMEOUT_MIN_MS = 10_000
export const PING_TIMEOUT_MAX_MS = 20_000

/** Members that each member watches in each scope; as many watch it. */
export const WATCHED_PEERS = 2
/** How often a watched peer has to show that it is there. */
export const WATCH_SITE_MS = 2_000
export const WATCH_DIRECTORY_MS = 6_000
/** How long a peer is given to answer whether it is there. */
export const PROBE_TIMEOUT_MS = 2_500
/** How often failure detection looks at its clock; a later look than this does not make peers older. */
export const LIVENESS_TICK_MS = 250
/** A lost connection makes a suspect after `graceMs`, a suspect is dead after `suspicionMs` without a word of it. */
export const LIVENESS_SITE = { graceMs: 750, suspicionMs: 4_000 }
/** Between sites: a line that is down for some seconds kills nobody; a dead site is known within 30 s. */
export const LIVENESS_DIRECTORY = { graceMs: 2_000, suspicionMs: 12_000 }
/** Each refutation doubles the grace, so many times. A lost one is left to others then: they may reach it where we cannot. */
export const MAX_STRIKES = 4
/** How far the version that an accuser names may be ahead of what is known here; honest ones differ by a few. */
export const SUSPICION_WINDOW = 64
/** Dead members are shown for this long after their last record has run out. */
export const DEAD_SHOWN_MS = 3_600_000

/** After the first connection of a scope the own records are said again: gossip forms its mesh within some seconds. */
export const INTRODUCE_MS = [1_500, 5_000]
/** How often gossip looks after its mesh and offers what it has. */
export const GOSSIP_HEARTBEAT_MS = 2_000
/** How long gossip knows a message again. */
export const SEEN_TTL_MS = 30_000
/** One gossip RPC may carry several records. */
export const MAX_GOSSIP_RPC_BYTES = 2 * 1024 * 1024
/** A record may not claim a longer life than this. */
export const RECORD_TTL_MAX_MS = 10 * 60_000
/** A record that is over can be passed for new until its own date is too old: its life, and clocks that differ by 5 min either way. */
export const FLOOR_KEEP_MS = RECORD_TTL_MAX_MS + 2 * 5 * 60_000
/** Time between two comparisons with a random peer. */
export const SYNC_INTERVAL_MS = 10_000
/** Records that one digest may name: about 80 bytes each. */
export const SYNC_DIGEST_RECORDS = 1024
/** Bytes of records in one message of a comparison; leaves room for ids, suspicions and framing. */
export const SYNC_RECORD_BYTES = 144 * 1024
/** Suspicions that one comparison carries, at most; about 250 bytes each. */
export const SYNC_SUSPICIONS = 32
/** Comparisons in a row with one peer while each still brings something. */
export const SYNC_ROUNDS_MAX = 32
/** Messages with revocations in a row to or from one peer; what is left follows at the next comparison. */
export const REVOCATION_ROUNDS_MAX = 64
/** Revocations younger than this are gossiped; older ones come in bulk after a start. */
export const REVOCATION_URGENT_MS = 600_000
/** New revocations are collected for so long before some peers are asked to compare. */
export const REVOCATION_PUSH_DELAY_MS = 100
export const REVOCATION_PUSHED_TO = 2
/** Peers that are told of a goodbye directly, beside the gossip that may lose it. */
export const TOLD_OF_LEAVING = 2
