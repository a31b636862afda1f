import { isIPv6 } from 'node:net'
import type { Echo, UdpAnswer } from '../../../diagnose/facts.ts'
import { CommandError } from '../../../exec.ts'
import { runOutside } from '../../../services/outside.ts'

/** IP and ICMP headers, bytes. */
const overhead = (address: string): number => isIPv6(address) ? 48 : 28
/** Small enough for every link that carries IP at all (RFC 791: 68 bytes), with room for ping's time stamp. */
export const SMALL_BYTES = 84
const SPACING_MS = 200
const WAIT_MS = 1_000
/** Least time that an answer gets on a machine that has other things to do. */
const WAIT_LEAST_MS = 300
/** Start of a program in a unit of its own, on a busy machine. */
const START_MS = 5_000
/** Sizes that are tried at once: 1,416 bytes between the smallest and 1500 are told apart in four rounds. */
const SIZES_AT_ONCE = 12

export interface EchoRequest {
  /** named network namespace; the host's own without it */
  netns?: string
  address: string
  /** of the IP packet, which must not be broken up on the way */
  bytes: number
  count: number
  /** how long the last answer is waited for */
  waitMs?: number
}

/** Reads what `ping -n` prints. */
export function parseEcho (stdout: string, stderr: string, bytes: number): Echo {
  const times = [...stdout.matchAll(/ time=([\d.]+) ms/g)].map(([, ms]) => Number(ms))
  const summary = /(\d+) packets transmitted, (\d+) received/.exec(stdout)
  const all = `${stdout}\n${stderr}`
  const mtu = /mtu[ =:]+(\d+)/.exec(all)?.[1]
  const why = /icmp_seq=\d+ ((?:Destination|Frag|Time|Packet|Communication)[^\n(]*)/.exec(all)?.[1] ?? /^ping: (.+)$/m.exec(all)?.[1] ?? ''
  return {
    sent: Number(summary?.[1] ?? 0), received: Number(summary?.[2] ?? 0), bytes,
    rttMs: times.length === 0 ? null : { min: Math.min(...times), avg: Math.round(times.reduce((sum, ms) => sum + ms, 0) / times.length * 1000) / 1000, max: Math.max(...times) },
    toldMtu: mtu === undefined ? null : Number(mtu), why: why.trim().slice(0, 200)
  }
}

/** Pings; nobody's answer is an answer, too. @throws CommandError when it could not be tried */
export async function echo ({ netns, address, bytes, count, waitMs = WAIT_MS }: EchoRequest, signal: AbortSignal): Promise<Echo> {
  const argv = ['-n', '-c', String(count), '-i', String(SPACING_MS / 1000), '-W', String(waitMs / 1000), '-M', 'do', '-s', String(bytes - overhead(address)), address]
  const { stdout, stderr } = await runOutside('ping', argv, { signal, timeoutMs: START_MS + count * (SPACING_MS + waitMs), okCodes: [1, 2], ...(netns === undefined ? {} : { netns }) })
  return parseEcho(stdout, stderr, bytes)
}

/**
 * Largest size that passes, by trying several at once in ever smaller steps.
 *
 * @param passes whether a packet of that many bytes gets an answer
 * @param max the largest that is of interest
 * @returns null when not even the smallest passes
 */
export async function largestPassing (passes: (bytes: number) => Promise<boolean>, max: number): Promise<number | null> {
  if (await passes(max)) return max
  if (!await passes(SMALL_BYTES)) return null
  let low = SMALL_BYTES
  let high = max
  while (high - low > 1) {
    const step = Math.max(1, Math.ceil((high - low) / (SIZES_AT_ONCE + 1)))
    const sizes: number[] = []
    for (let size = low + step; size < high; size += step) sizes.push(size)
    const found = await Promise.all(sizes.map(async bytes => ({ bytes, ok: await passes(bytes) })))
    // a lost packet must not make it look for ever: what failed above the largest that passed is the new bound
    const best = Math.max(low, ...found.filter(({ ok }) => ok).map(({ bytes }) => bytes))
    high = Math.min(high, ...found.filter(({ ok, bytes }) => !ok && bytes > best).map(({ bytes }) => bytes))
    low = best
  }
  return low
}

/**
 * `largestPassing` by pings, for an address that has answered small ones.
 *
 * @param small its answers: how long it takes tells how long to wait for larger ones
 */
export async function largestEcho (request: Omit<EchoRequest, 'bytes' | 'count' | 'waitMs'>, max: number, small: Echo, signal: AbortSignal): Promise<number | null> {
  const waitMs = Math.min(WAIT_MS, Math.max(WAIT_LEAST_MS, Math.ceil((small.rttMs?.max ?? WAIT_MS) * 4)))
  // two of each: one that is lost for another reason must not count as a size
  return await largestPassing(async bytes => bytes === SMALL_BYTES || (await echo({ ...request, bytes, count: 2, waitMs }, signal)).received > 0, max)
}

/** One byte to a port by a connected socket; what ICMP says to it comes back as an error of the socket. */
const UDP = 'use Socket qw(:all); my ($to, $port) = @ARGV; my ($e, $i) = getaddrinfo($to, $port, {flags => AI_NUMERICHOST, socktype => SOCK_DGRAM}); $e and do { print "unreachable"; exit };' +
  ' socket(my $s, $i->{family}, SOCK_DGRAM, 0) or exit 1; connect($s, $i->{addr}) or do { print "unreachable"; exit }; $! = 0;' +
  ' for (1..3) { defined send($s, "\\0", 0) or last; vec(my $r = "", fileno($s), 1) = 1; select($r, undef, undef, 0.3) or next; recv($s, my $b, 1, 0); last if $!{ECONNREFUSED} || $!{EHOSTUNREACH} || $!{ENETUNREACH} || $!{EACCES} }' +
  ' print $!{ECONNREFUSED} ? "refused" : $!{EPERM} ? "blocked" : $!{EHOSTUNREACH} || $!{ENETUNREACH} || $!{EACCES} ? "unreachable" : "silent"'

/**
 * What comes of a datagram of one byte: a good VXLAN or WireGuard port says nothing to it, one where
 * nobody listens refuses it, and a rule of this host that drops what leaves is told by the kernel.
 */
export async function udpAnswer (address: string, port: number, signal: AbortSignal): Promise<UdpAnswer> {
  const { stdout } = await runOutside('perl', ['-e', UDP, address, String(port)], { signal, timeoutMs: START_MS + 2_000 })
  return (['refused', 'blocked', 'unreachable'] as const).find(answer => answer === stdout.trim()) ?? 'silent'
}

/**
 * One ARP question of a bridge that has no address (RFC 5227: sender 0.0.0.0), padded to a frame of
 * full size if wanted: the only thing that is answered to a host that has no address on the segment.
 */
const ARP = 'my ($dev, $mac, $ip, $bytes) = @ARGV; socket(my $s, 17, 3, unpack("S", pack("n", 0x0806))) or exit 1; my $q = pack("a16 x16", $dev); ioctl($s, 0x8933, $q) or exit 1; my $n = unpack("x16 i", $q);' +
  ' bind($s, pack("S n i S C C a8", 17, 0x0806, $n, 0, 0, 0, "")) or exit 1; my $m = pack("H12", $mac =~ s/://gr); my $t = pack("C4", split /\\./, $ip);' +
  ' my $f = pack("H12", "f" x 12) . $m . pack("n n n C C n", 0x0806, 1, 0x0800, 6, 4, 1) . $m . "\\0" x 10 . $t; $f .= "\\0" x ($bytes + 14 - length $f);' +
  // select says how much of its time is left (Linux does): a clock that needs no module
  ' for (1..3) { my $left = 0.4; defined syswrite($s, $f) or next; for (;;) { vec(my $r = "", fileno($s), 1) = 1; (my $n, $left) = select($r, undef, undef, $left); last if $n < 1;' +
  ' sysread($s, my $b, 65536); next if length $b < 42 || unpack("x20 n", $b) != 2 || substr($b, 28, 4) ne $t; print join(":", unpack("(H2)6", substr $b, 22, 6)); exit } } print "-"'

/** @param link bridge in the host's own namespace  @param bytes of the frame's payload, 46..1500  @returns MAC of who answers, null when nobody does */
export async function arpAnswer (link: string, mac: string, address: string, bytes: number, signal: AbortSignal): Promise<string | null> {
  try {
    const { stdout } = await runOutside('perl', ['-e', ARP, link, mac, address, String(bytes)], { signal, timeoutMs: START_MS + 2_000 })
    return /^[0-9a-f:]{17}$/.exec(stdout.trim())?.[0] ?? null
  } catch (error) {
    // a bridge that is down or gone: told by its link
    if (error instanceof CommandError && !signal.aborted) return null
    throw error
  }
}
