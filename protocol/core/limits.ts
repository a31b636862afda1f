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
/** Connections that are being set up; each holds a socket and a handshake for DIAL_TIMEOUT_MS at most. */
export const MAX_PENDING_CONNECTIONS = 256
/** Of those from one address: somebody who only opens connections leaves room for others. */
export const MAX_PENDING_PER_ADDRESS = 32
export const MAX_CONNECTIONS = 512
/** With one peer: both sides may dial at once, through a relay and directly. */
export const MAX_CONNECTIONS_PER_PEER = 6
/** With another site, whose key can make any number of gateways; real sites have a few. */
export const MAX_CONNECTIONS_PER_SITE = 64
/** Streams that one peer may open on a connection: a few for each protocol. */
export const MAX_STREAMS_PER_CONNECTION = 32
/** A peer whose connections were closed for what it sent is not let in again for so long. */
export const SHUT_OUT_MS = 10_000

// --- trust ----------------------------------------------------------------
/** One signed envelope; a host certificate with slice and roles takes about 350 bytes. */
export const MAX_CERTIFICATE_BYTES = 2048
/** Host, issuer, site: a chain cannot be longer. */
export const MAX_CHAIN = 3
/** The frame before admission is read from anybody: a chain and its framing, nothing more. */
export const MAX_HELLO_BYTES = MAX_CHAIN * MAX_CERTIFICATE_BYTES + 1024
/** Checked members that are remembered; the longest unused go first. */
export const MAX_MEMBERS_KEPT = 8192
/** Their ids, 16 bytes each, fit one message. */
export const MAX_REVOCATIONS = 8192
/** Of one site's hosts, by its key, and by each of its issuers; the latest stay. */
export const MAX_REVOCATIONS_PER_SITE = 256
/** New ones that are taken of one signer in NEW_REVOCATIONS_MS: whoever starts with nothing gets a whole share at once. */
export const MAX_NEW_REVOCATIONS = 256
export const NEW_REVOCATIONS_MS = 600_000
/** Invitations of one issuer that wait to be used. */
export const MAX_INVITATIONS = 1024
export const INVITATION_TTL_MS = 3_600_000
export const INVITATION_TTL_MAX_MS = 30 * 24 * 3_600_000
/** The listener for joining serves anybody: few at a time, and not for long. */
export const MAX_JOIN_CONNECTIONS = 16
export const JOIN_TIMEOUT_MS = 10_000
export const MAX_JOIN_BYTES = 64 * 1024
/** A site's policy as JSON; it travels in one record. Some 300 sites with rules of their own. */
export const MAX_POLICY_BYTES = 24 * 1024
/** Weekly windows of one rule: two for each day of the week, and some. */
export const MAX_POLICY_WINDOWS = 16
/** The largest number in a quota: sums over every lease of a ledger stay exact. */
export const MAX_POLICY_QUOTA = 2 ** 40
/** Per vCPU and hour, in the unit of the federation. */
export const MAX_POLICY_PRICE = 1_000_000
/** Of who has no rule about it, and of the own site. */
export const DEFAULT_PRIORITY = 50
export const OWN_PRIORITY = 100
/** A token is read by people and from command lines: a secret, ids and a few addresses. */
export const MAX_TOKEN_CHARACTERS = 2048
/** After so many wrong proofs a token is worth nothing: guessing 32 bytes is hopeless, trying is not innocent. */
export const MAX_WRONG_PROOFS = 5
/** A host that joins tries again while the listener is busy with others. */
export const JOIN_PATIENCE_MS = 30_000
/** Peers and their addresses that are remembered over a restart: more than enough to find the mesh again. */
export const MAX_PEERS_KEPT = 256
/** An exported coordinator: MAX_REVOCATIONS revocations and MAX_RECORDS sites take about 10 MiB. */
export const MAX_EXPORT_BYTES = 32 * 1024 * 1024
/** The audit log starts a new file at this size ... */
export const AUDIT_FILE_BYTES = 10 * 1024 * 1024
/** ... and keeps so many old ones: years of admissions. */
export const AUDIT_FILES_KEPT = 4

// --- relay ----------------------------------------------------------------
/** Gateways that one relay serves; each holds one of its MAX_CONNECTIONS, so most stay for others. */
export const MAX_RELAY_RESERVATIONS = 128
/**
 * Relayed connections at the same time through one relay. They have no time or byte limit, as only
 * members get here and a control connection lives for months; this and RELAY_BUFFER_BYTES bound what
 * they can cost.
 */
export const MAX_RELAYED_CONNECTIONS = 256
/** Of those from one member: its neighbours and the lenders of some clusters. */
export const MAX_RELAYED_FROM_PEER = 64
/** And to one gateway: half of the relay's. */
export const MAX_RELAYED_TO_PEER = 128
/** Streams on a connection to or from a relay: one for each that is relayed, beside those of the protocols. */
export const MAX_STREAMS_OF_RELAY = MAX_RELAYED_TO_PEER + MAX_STREAMS_PER_CONNECTION
/** Bytes that may wait in a relay for the slower side, each way. */
export const RELAY_BUFFER_BYTES = 256 * 1024
/** Largest answer to a reservation: addresses of the relay and a signed voucher. */
export const MAX_RELAY_MESSAGE_BYTES = 8 * 1024

// --- gossip ---------------------------------------------------------------
export const HEARTBEAT_MS = 45_000
/** A record outlives two lost heartbeats and their jitter. */
export const RECORD_TTL_MS = 150_000
export const PUBLISH_COALESCE_MS = 200
export const MAX_RECORDS = 4096
/** Gateways of one site in the directory: its key can make any number of them, and each takes the place of another. */
export const MAX_GATEWAYS_PER_SITE = 32
/** New records of one author that are taken per minute: changes of two kinds, each coalesced over PUBLISH_COALESCE_MS. */
export const MAX_RECORDS_PER_MINUTE = 600
/** Epochs and sequence numbers go no further, so that nobody makes a member count beyond what numbers can hold. */
export const MAX_VERSION = 2 ** 48
/** Gossip that one neighbour may pass on per second, and at once: thousands of records after a start, then heartbeats and changes. */
export const GOSSIP_PER_SECOND = 500
export const GOSSIP_BURST = 2_000
/** Who goes so far beyond that is cut off: gossip remembers every message for a while, looked at or not. */
export const GOSSIP_EXCESS = 1_000
/** Forged or malformed messages per minute from one peer before its connections are closed; an honest one sends none. */
export const MAX_OFFENCES_PER_MINUTE = 8
/** Suspicions of one member that are looked at per minute: all its neighbours in a site that loses power, several times. */
export const MAX_SUSPICIONS_PER_MINUTE = 120
/** Peers that are asked at the same time whether they are there. */
export const MAX_PROBES = 16
/** Peers of whom offences and suspicions are counted. */
export const MAX_COUNTED_PEERS = 1024

// --- search ---------------------------------------------------------------
/** Names in one list of a search: more than a cluster can span is not a filter any more. */
export const MAX_SEARCH_NAMES = 32
/** Sites in an answer that says no limit; each carries its hosts' free capacity, some kilobytes. */
export const DEFAULT_SEARCH_LIMIT = 100
/** A million of the federation's unit per vCPU and hour, in thousandths; fits 32 bits. */
export const MAX_PRICE_MILLI = 1_000_000_000
/** Features that a site advertises; a host has about ten, and its site's record must stay small. */
export const MAX_FEATURES = 64

// --- leases ---------------------------------------------------------------
/** Time to live of a hold (T_hold). */
export const HOLD_TTL_MS = 30_000
/** Longest time to live of a hold that a host or a gateway agrees to: time for people to look at what they are offered. */
export const MAX_HOLD_TTL_MS = 10 * HOLD_TTL_MS
/** For how long a plan is held whose user says nothing of it. */
export const PLAN_HOLD_MS = 120_000
/** Offers to one site that a gateway has held for longer than HOLD_TTL_MS: further ones are held for that long, and say so. */
export const MAX_LONG_HOLDS_PER_SITE = 16
/** Clusters that one master has held for its users at once: what they hold, nobody else gets. */
export const MAX_HELD_CLUSTERS = 8
/** A committed lease that nobody activates ends after this (T_activate). */
export const ACTIVATE_TTL_MS = 120_000
/** Stated bound on the rate error of a host's monotonic clock (500 ppm). */
export const CLOCK_RATE_ERROR = 0.0005
/** How far the ledger clock is pulled towards the wall clock: as much as the kernel slews (adjtime, 500 ppm). */
export const CLOCK_SLEW = 0.0005
/**
 * What a master takes off a hold's time to live: both ends measure it on a ledger clock, each off by
 * the rate of its crystal and by its slew.
 */
export const HOLD_MARGIN = 2 * (CLOCK_RATE_ERROR + CLOCK_SLEW)
/** A difference to the wall clock beyond this is a jump: no new promises until it is settled. */
export const CLOCK_JUMP_MS = 60_000
/** Clocks of master and lender further apart than this (after half a round trip at most): no offers. */
export const MAX_CLOCK_SKEW_MS = 30_000
/** How often a master tells its lenders that it is there. */
export const KEEP_ALIVE_MS = 20_000
/** Not heard from for this long: shown as masterless, and may be adopted. */
export const MASTERLESS_MS = 90_000
/** An advance reservation is confirmed by its master in this time before its start (T_confirm). */
export const CONFIRM_MS = 600_000
/** How long a question for a calendar may take; it is a hint, and whoever creates a cluster waits for it. */
export const CALENDAR_DEADLINE_MS = 5_000
/** Sites that a master asks for their calendars; of the others it takes what they advertise. */
export const MAX_CALENDAR_SITES = 64
/** Hosts of a site in one calendar, ... */
export const MAX_CALENDAR_HOSTS = 1024
/** ... their changes of what is free together, in some 40 bytes each within MAX_MESSAGE_BYTES, ... */
export const MAX_CALENDAR_STEPS = 4096
/** ... and leases of one host, in some 250 bytes each. */
export const MAX_CALENDAR_LEASES = 512
/** Times at which a site says that it lends: two years of a window for each day, and some; in some 16 bytes each. */
export const MAX_OPEN_STRETCHES = 1024
/** Digests that a kept store tells, those of its largest objects, and that a master asks a gateway for: a node image has three files. */
export const MAX_HELD_OBJECTS = 16
/** How long a master waits to hear who has its node image: it only decides between sites that are alike. */
export const WARM_DEADLINE_MS = 2_000
/** Moments at which the placement of a cluster is tried when its earliest start is looked for. */
export const MAX_EARLIEST_TRIES = 256
/** How often the earliest start is looked for again when somebody else was faster. */
export const MAX_EARLIEST_ROUNDS = 6
/** How long a quote may take at a gateway that has to ask its hosts for their calendars first. */
export const QUOTE_DEADLINE_MS = 8_000
/** Moments at which one quote tries a placement, between a gateway's other work: with 200 nodes and 1,000 hosts a whole quote takes some 0.5 s on one core. */
export const MAX_QUOTE_TRIES = 16
/** Quotes that a gateway works on at once, ... */
export const MAX_QUOTES = 16
/** ... and that one site gets in a minute, refusals with what could be had instead among them: a plan takes up to four. */
export const MAX_QUOTES_PER_MINUTE = 30
/**
 * Requests, and extensions, that a gateway works on for another site in a minute: each has hosts hold something. A master asks a site once
 * a round and cluster, and never again what was refused so; the own site has no bound.
 */
export const MAX_REQUESTS_PER_MINUTE = 120
/** Reasons in a quote, and characters of each: who lacks what, for people. */
export const MAX_QUOTE_REASONS = 12
export const MAX_QUOTE_TEXT = 400
/** How long a refusal waits for what could be given instead: whoever is refused has others to ask. */
export const COUNTER_OFFER_MS = 2_000
/** Sites that one plan asks. */
export const MAX_PLAN_SITES = 64
/** Agents of the master's site that keep a copy of a decision. */
export const MAX_COPIES = 4
/** A decision record as JSON; it travels in one message with room for its frame. */
export const MAX_COPY_BYTES = 192 * 1024
/** Volumes that a host exports unless it is told otherwise. */
export const DEFAULT_VOLUMES = 64
/** How long a fence remembers at which counter something went; a pass of the reconciler takes less. */
export const FENCE_KEEP_MS = 3_600_000
/** More than any site's way out carries. */
export const MAX_BANDWIDTH_MBIT = 10_000_000
/** A longer round trip than the slowest satellite link has is no limit of a placement any more. */
export const MAX_PLACEMENT_RTT_MS = 60_000
/** Entries of a ledger's history in one answer; each has some 300 bytes. */
export const MAX_HISTORY_ANSWERED = 1_000
/** Placements that a gateway tries for a request: a host that refuses, or does not answer, is left out of the next. */
export const MAX_PLACEMENTS = 3
/** Clusters that one gateway keeps records of; each has a lease in its own ledger, which takes no more either. */
export const MAX_GATEWAY_RECORDS = 1024
/** Questions about one cluster that wait for the one before: a master has few under way, repetitions included. */
export const MAX_WAITING_PER_CLUSTER = 16
/** And for all clusters of a gateway. */
export const MAX_WAITING = 2048
/** Calls to hosts that a gateway has under way; beyond it new questions are refused as BUSY. */
export const MAX_HOST_CALLS = 8192
/** Clusters that a gateway tidies up after at the same time: hosts that do not answer take a whole deadline. */
export const MAX_TIDIED = 64
/** Clusters that a gateway looks at for their masters at the same time: each host is asked once for each, and answers its gateway MAX_IN_FLIGHT_PER_PEER questions at a time, leases before all. */
export const MAX_LOOKS = 128
/** How often a gateway looks whether hosts still have what it has a record of, while the master is not heard of. */
export const PROBE_MS = 300_000
/** A host answers a hold after one write; a gateway that waits longer could not try another placement in the master's time. */
export const HOLD_DEADLINE_MS = 5_000
/** Commit, activation, extension and keep-alive at a host. */
export const HOST_DEADLINE_MS = 8_000
/** How long a gateway's activation waits for the segment and the cache of its site, before other hosts start nodes. */
export const WAY_READY_MS = 5_000
export const HOST_STATUS_DEADLINE_MS = 3_000
/** A host confirms a release when its objects are gone, not before. */
export const HOST_RELEASE_DEADLINE_MS = 90_000
export const MAX_HOLDS_PER_PEER = 64
export const MAX_LEASES_PER_HOST = 1024
/** Live leases on one host for one peer: its largest cluster nearly twice, and half of the host stays for others. */
export const MAX_LEASES_PER_PEER = MAX_LEASES_PER_HOST / 2
export const MIN_TERM_MS = 60_000
/** Running clusters that get notice for one request at most; beyond it there is no such room. */
export const MAX_NOTICED_PER_REQUEST = 16
/** Notices that wait for their end at one gateway, for all that one site has asked for. */
export const MAX_NOTICES_PER_SITE = 32
/** Notices that one cluster has at most, each with an earlier end and for a site of a higher priority than the one before. */
export const MAX_NOTICES_PER_CLUSTER = 4
/** Notices that one site lets a cluster have and gives back within `GIVEN_BACK_MS`: then it is left alone by that site for the rest of that time. */
export const MAX_GIVEN_BACK = 8
export const GIVEN_BACK_MS = 3_600_000
/** What could be had by notice is told from so long after it on: a master has to look, to ask and to be answered. */
export const NOTICE_MARGIN_MS = 15_000
/** No notice is shorter than the shortest lease and this: the clock of a host may be ahead of its gateway's, and refuses less. */
export const NOTICE_SLACK_MS = 10_000
/** What others got notice for lapses so long before its start: a gateway looks for it, and their hosts are told, by then. */
export const NOTICE_RETURN_MS = 40_000
export const MAX_TERM_MS = 366 * 24 * 3_600_000
/** A start so far in the past is a mistake, not a slow network or a second attempt. */
export const MAX_PAST_START_MS = 3_600_000
/** Epochs go no further: 32 bits on the wire. */
export const MAX_EPOCH = 0xffff_ffff
/** Extensions of one cluster that a host remembers to answer repeated questions; one is under way at a time. */
export const MAX_EXTENSIONS_KEPT = 32
/** Events in a ledger's log of promises: months of a host with some clusters a day, about 5 MiB. */
export const MAX_HISTORY_KEPT = 10_000
/** How old the ledger clock's mark on the disk may be, when nothing else is written: it bounds what slewing is lost in a crash. */
export const CLOCK_MARK_MS = 60_000
/** How often a ledger whose disk has failed is opened again. */
export const LEDGER_RETRY_MS = 3_000
/** How long an idempotency key answers the same after its lease has ended. */
export const REPLAY_KEEP_MS = 24 * 3_600_000

// --- clusters -------------------------------------------------------------
export const MAX_NODES_PER_CLUSTER = 200
export const MAX_VOLUMES_PER_CLUSTER = 64
export const MAX_VCPUS_PER_NODE = 256
export const MAX_MEMORY_MIB_PER_NODE = 4 * 1024 * 1024
export const MAX_VOLUME_MIB = 16 * 1024 * 1024
/** Each is a byte of every address there, and a gateway with its certificates in the document: 64 of them take half of MAX_MESSAGE_BYTES. */
export const MAX_SITES_PER_CLUSTER = 64
/** Stations of a segment whose addresses are known: nodes, a gateway for each site, the frontend. */
export const MAX_SEGMENT_MEMBERS = MAX_NODES_PER_CLUSTER + MAX_SITES_PER_CLUSTER + 1
/**
 * Frames per second that one node may have copied to everybody: a node that boots sends some tens in all, an
 * interactive one a few. Each is copied to every host of the site and to every other site, so 200 of 300 bytes
 * from one node among ten sites are 4 Mbit/s of the gateway's WAN.
 */
export const FLOOD_PER_SECOND = 200
/** At once: all nodes of a large cluster that ask for one name in the same moment. */
export const FLOOD_BURST = 400
/** The same for all that comes to a gateway through one port, whatever the hosts behind it let through: ten nodes at their limit. */
export const PORT_FLOOD_PER_SECOND = 2_000
export const PORT_FLOOD_BURST = 4_000
export const MAX_SPEC_BYTES = 256 * 1024
/** Path prefixes of one sort that a cache is told of: each is tried against every request. */
export const MAX_CACHE_PREFIXES = 64
export const MAX_CACHE_PREFIX_CHARACTERS = 256
/** Indexes of repositories that a cache follows. */
export const MAX_CACHE_INDEXES = 16
/** What a document says of caches, as text: it is the smaller part of MAX_MESSAGE_BYTES. */
export const MAX_CACHE_TERMS_CHARACTERS = 16 * 1024
/** Objects of a cache's store in one answer: with the longest paths they fit MAX_MESSAGE_BYTES, asked for in pages. */
export const CACHE_LIST_MAX = 250
/** Objects of one part of a preheat order, likewise. */
export const PREHEAT_PART_MAX = 250
/** Questions of masters about caches that a gateway answers at once: each may read a store, and leases come first. */
export const MAX_CACHE_ASKS = 8
/** Orders that one cache has at once: PREHEAT_OBJECTS_MAX objects in parts. */
export const CACHE_ORDERS_MAX = 256
/** A terabit a second: more than any way between sites carries. */
export const MAX_CACHE_RATE_KBIT = 1_000_000_000
/** A petabyte. */
export const MAX_CACHE_BUDGET_BYTES = 1e15
/** How long the store of a cache may be asked to outlive its cluster: nginx takes what it keeps for fresh that long. */
export const MIN_CACHE_RETAIN_MS = 60_000
export const MAX_CACHE_RETAIN_MS = 365 * 86_400_000
/** Stores of ended clusters on one gateway, whatever their size: their records are read in each pass. */
export const RETAINED_STORES_MAX = 64
export const MAX_VNI = 0xff_ffff
/** Clusters that one master keeps alive; each has a loop, a status and up to a message's worth of record. */
export const MAX_CLUSTERS = 256
/** Ended clusters that one master keeps for people to look at. */
export const MAX_ENDED_KEPT = 500

// --- inventory ------------------------------------------------------------
/** Lists of a host's inventory: together at their longest they fit half of MAX_RECORD_BYTES. */
export const MAX_INVENTORY_DISKS = 32
export const MAX_INVENTORY_VOLUME_GROUPS = 16
export const MAX_INVENTORY_NICS = 32
export const MAX_INVENTORY_NUMA_NODES = 16
export const MAX_INVENTORY_NIC_ADDRESSES = 4
/** Largest file of the kernel's that is read: modules.dep of a distribution has about 1 MiB. */
export const MAX_SYSTEM_FILE_BYTES = 8 * 1024 * 1024
export const INVENTORY_INTERVAL_MS = 60_000
/** One tool of the inventory; `vgs` may wait for a lock. */
export const INVENTORY_TOOL_TIMEOUT_MS = 10_000

// --- processes ------------------------------------------------------------
export const COMMAND_TIMEOUT_MS = 30_000
export const COMMAND_MAX_OUTPUT_BYTES = 8 * 1024 * 1024
/** Namespaces that one process looks into, most of whose time is its start; a gateway has tens. */
export const SPACES_PER_LOOK = 64
/** Netlink messages of one namespace: 4,096 flood entries are 350 kB, all else some 10 kB. */
export const SPACE_MAX_BYTES = 512 * 1024
/** What one process prints of all its namespaces, two characters a byte; the rest is asked for again. Within COMMAND_MAX_OUTPUT_BYTES. */
export const SPACES_MAX_OUTPUT_BYTES = 6 * 1024 * 1024
/** Netlink messages of the host's own namespace: each member of each segment with nodes there has some 450 bytes of entries. */
export const HOST_SPACE_MAX_BYTES = 24 * 1024 * 1024
/** Members of all segments of a host together, so that they fit `HOST_SPACE_MAX_BYTES`: one segment too many is refused, and takes none of the others along. */
export const MAX_HOST_MEMBERS = 40_000
/** The kernel answers in less than a millisecond for each; on a crowded machine, or one that changes links, it may be seconds. */
export const SPACES_TIMEOUT_MS = 10_000
export const RECONCILE_INTERVAL_MS = 5_000
export const RECONCILE_RETRY_MS = 1_000
export const API_BODY_BYTES = 1024 * 1024
export const MAX_EVENTS_KEPT = 2_000
/** Of one event: refusals of some sites; what other sites write stands in it, and all are kept in memory. */
export const MAX_EVENT_CHARACTERS = 8_000

// --- helper ---------------------------------------------------------------
/** Largest question to the helper: the frontend of a cluster of MAX_NODES_PER_CLUSTER nodes takes some 40 KiB. */
export const HELPER_REQUEST_BYTES = 1024 * 1024
/** Largest answer: what a host of some thousand objects has, with their figures. */
export const HELPER_REPLY_BYTES = 16 * 1024 * 1024
/** Calls under way over all connections: a pass of the reconciler has 4 of a kind, a status one per object. */
export const HELPER_MAX_CALLS = 64
/** One agent, and people with `musubi host owned`. */
export const HELPER_MAX_CONNECTIONS = 8
/** A connection without a call; an agent looks every RECONCILE_INTERVAL_MS. */
export const HELPER_IDLE_MS = 60_000
/** From the first byte of a frame to its last, on a socket of the same machine. */
export const HELPER_FRAME_MS = 10_000
/** How long it may take to find out who has connected: one start of a small program, on a busy machine. */
export const HELPER_CREDENTIALS_MS = 10_000
/** Longest time that a caller may give a call; an apply on a slow host takes 90 s at most. */
export const HELPER_DEADLINE_MAX_MS = 180_000
/** How often the helper looks for what has outlived its lease; well within the guard. */
export const HELPER_TICK_MS = 2_000
/**
 * How long a gateway goes on forwarding a segment when the keeper of its forwarding lease is dead. Three renewals may fail in a
 * row, as on a host that swaps; and nodes bear it (TCP, iSCSI) when another gateway takes over after that.
 */
export const FORWARD_LIFETIME_MS = 10_000
/** How often that keeper renews ... */
export const FORWARD_RENEW_MS = 3_000
/** ... and how often it looks whether it was told something new: what is taken back ends within that, also without a helper. */
export const FORWARD_LOOK_MS = 1_000
/** Longest term that a host takes for one: the longest of a lease, and a day. */
export const FORWARD_TERM_MAX_MS = MAX_TERM_MS + 86_400_000
/** Between the end of one gateway's term and the beginning of another's: what two looks at a clock and a step of 10 ms differ by, many times over. */
export const FORWARD_GUARD_MS = 1_000
/**
 * How long hosts let answers of a frontend's DHCP server through when nobody learns from them any more: five looks of the
 * keeper that does. What a client is given meanwhile it cannot use before it asks again.
 */
export const SNOOP_AWAKE_MS = 5_000
/** Answers of DHCP that are read per second and segment of a host: 256 nodes that start at once get two each; the rest is asked for again. */
export const SNOOP_ANSWERS_PER_SECOND = 500
/** ... and at once. */
export const SNOOP_ANSWERS_BURST = 1_000
/** Between the ledger's clock, by which leases end, and that of the boot: less is no news. */
export const FORWARD_CLOCK_OFF_MS = 1_000
/** An agent's ledger clock that differs by more is taken over: both are slewed alike, so it was set anew. */
export const HELPER_CLOCK_OFF_MS = 1_000
/** The helper's record starts a new file at this size ... */
export const HELPER_RECORD_BYTES = 8 * 1024 * 1024
/** ... and keeps so many old ones: some 100,000 deeds. */
export const HELPER_RECORDS_KEPT = 3
/** Names in one question what to keep, and lines in one answer of what is there. */
export const HELPER_MAX_NAMES = 4096
/** Records of a fence: what is there, and what went within FENCE_KEEP_MS. */
export const FENCE_MAX_RECORDS = 4 * HELPER_MAX_NAMES
/** Highest counter of a ledger that a fence hears of: 2,000 changes a second for 4,000 years, and far from where numbers end. */
export const FENCE_COUNTER_MAX = 2 ** 48
/** A counter further above all that were seen is none of the same ledger: 50 days of 1,000 changes a second that nobody told. */
export const FENCE_COUNTER_STEP = 2 ** 32

// --- tunnels --------------------------------------------------------------
/** Longest time for which a tunnel key may be set to live, hours: a year. Whoever wants no exchange asks for none. */
export const TUNNEL_KEY_MAX_HOURS = 366 * 24

// --- diagnosis ------------------------------------------------------------
/** Hosts of the site and endpoints that one diagnosis pings; each costs a few programs. */
export const DIAGNOSE_MAX_REMOTES = 32
/** Nodes that one diagnosis asks for an answer, at most two of each host: to tell hosts apart, not nodes. */
export const DIAGNOSE_MAX_NODES = 32
/** Pings of one question; they are 0.2 s apart. */
export const DIAGNOSE_MAX_PINGS = 50
/** A diagnosis ends by then, also where nothing answers. Within HELPER_DEADLINE_MAX_MS. */
export const DIAGNOSE_MS = 60_000
/** Of one capture, as a pcap file; in base64 it fits HELPER_REPLY_BYTES twice. */
export const CAPTURE_MAX_BYTES = 4 * 1024 * 1024
export const CAPTURE_MAX_FRAMES = 10_000
export const CAPTURE_MAX_SECONDS = 120
