/**
 * Every bound of the system, in one place. Units are in the names.
 * A reason stands where the figure is not obvious.
 */

// --- wire -----------------------------------------------------------------
/** Largest framed message; a cluster document of some hundred nodes fits four times. */
export const MAX_MESSAGE_BYTES = 256 * 1024
/** Largest gossiped record: one per peer is kept, so this bounds the view's memory. */
export const MAX_RECORD_BYTES = 32 * 1024
/** Requests one peer may have under way on its stream; more are refused as BUSY. */
export const MAX_IN_FLIGHT_PER_PEER = 256
export const RPC_DEADLINE_MS = 10_000
export const RPC_DEADLINE_MAX_MS = 120_000
export const DIAL_TIMEOUT_MS = 5_000
/** Inbound connections per second from one address; sites often sit behind one NAT. */
export const INBOUND_CONNECTIONS_PER_SECOND = 100
export const MAX_PENDING_CONNECTIONS = 64
export const MAX_CONNECTIONS = 512

// --- gossip ---------------------------------------------------------------
export const HEARTBEAT_MS = 20_000
/** A record outlives two lost heartbeats and their jitter. */
export const RECORD_TTL_MS = 65_000
export const PUBLISH_COALESCE_MS = 200
export const MAX_RECORDS = 4096

// --- leases ---------------------------------------------------------------
/** Time to live of a hold (T_hold). */
export const HOLD_TTL_MS = 30_000
/** A committed lease that nobody activates ends after this (T_activate). */
export const ACTIVATE_TTL_MS = 120_000
/** Stated bound on the rate error of a host's monotonic clock (500 ppm). */
export const CLOCK_RATE_ERROR = 0.0005
export const MAX_HOLDS_PER_PEER = 64
export const MAX_LEASES_PER_HOST = 1024
/** Live leases on one host for one peer: its largest cluster nearly twice, and half of the host stays for others. */
export const MAX_LEASES_PER_PEER = MAX_LEASES_PER_HOST / 2
export const MIN_TERM_MS = 60_000
export const MAX_TERM_MS = 366 * 24 * 3_600_000
/** How long an idempotency key answers the same after its lease has ended. */
export const REPLAY_KEEP_MS = 24 * 3_600_000

// --- clusters -------------------------------------------------------------
export const MAX_NODES_PER_CLUSTER = 200
export const MAX_VOLUMES_PER_CLUSTER = 64
export const MAX_VCPUS_PER_NODE = 256
export const MAX_MEMORY_MIB_PER_NODE = 4 * 1024 * 1024
export const MAX_VOLUME_MIB = 16 * 1024 * 1024
export const MAX_SITES_PER_CLUSTER = 32
export const MAX_SPEC_BYTES = 256 * 1024
export const MAX_VNI = 0xff_ffff
/** Clusters that one master keeps alive; each has a loop, a status and up to a message's worth of record. */
export const MAX_CLUSTERS = 256
/** Ended clusters that one master keeps for people to look at. */
export const MAX_ENDED_KEPT = 500

// --- processes ------------------------------------------------------------
export const COMMAND_TIMEOUT_MS = 30_000
export const COMMAND_MAX_OUTPUT_BYTES = 8 * 1024 * 1024
export const RECONCILE_INTERVAL_MS = 5_000
export const RECONCILE_RETRY_MS = 1_000
export const API_BODY_BYTES = 1024 * 1024
export const MAX_EVENTS_KEPT = 2_000
