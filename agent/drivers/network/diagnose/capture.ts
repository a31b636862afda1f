import { clusterNamespace, hostBridgeName, type SegmentSpec } from '../../../../protocol/core/desired.ts'
import { ConflictError, InvalidInputError } from '../../../../protocol/core/errors.ts'
import { CAPTURE_MAX_BYTES } from '../../../../protocol/core/limits.ts'
import { runOutside } from '../../../services/outside.ts'
import { hostVxlanName, INNER, vlanName } from '../names.ts'

/** Where frames are taken: the bridge that nodes are at, the way to other hosts of the site, the way to other sites. */
export type CapturePort = 'node' | 'site' | 'wan'
export const CAPTURE_PROTOCOLS = ['tcp', 'udp', 'icmp', 'icmp6', 'arp', 'ip', 'ip6'] as const

export interface CaptureRequest {
  port: CapturePort
  /** frames; it ends with them */
  count: number
  /** it ends then with what there is */
  seconds: number
  /** bytes kept of each frame */
  snapBytes: number
  filter: { host?: string, port?: number, proto?: typeof CAPTURE_PROTOCOLS[number] }
}

export interface Captured {
  /** named namespace; null: the host's own */
  space: string | null
  link: string
  frames: number
  /** a pcap file, base64 */
  pcap: string
}

/** Of a pcap file, and of each frame in it (https://www.tcpdump.org/manpages/pcap-savefile.5.html). */
const FILE_HEADER_BYTES = 24
const FRAME_HEADER_BYTES = 16
/** Start and end of the program, beyond the time that it takes frames. */
const SLACK_MS = 15_000

/** Where frames of a segment are to be had on this host. @throws ConflictError when it has no such place */
export function captureLink ({ vni, gateway, compute, site }: SegmentSpec, port: CapturePort): { space: string | null, link: string } {
  const space = gateway === undefined ? null : clusterNamespace(vni)
  if (port === 'wan') {
    if (gateway?.tunnel == null) throw new ConflictError(`segment of VNI ${vni} has no way to other sites on this host`, 'run it on a gateway of a cluster of several sites; or --port site')
    return { space, link: INNER.wanVxlan }
  }
  if (port === 'site' && site.trunk !== undefined) return { space, link: space === null ? vlanName(vni) : INNER.sitePort }
  if (port === 'site') return { space, link: space === null ? hostVxlanName(vni) : INNER.siteVxlan }
  return compute ? { space: null, link: hostBridgeName(vni) } : { space, link: INNER.bridge }
}

/** The words of a filter: none of them is anybody's free text. */
export function filterWords ({ proto, host, port }: CaptureRequest['filter']): string[] {
  return [...(proto === undefined ? [] : [[proto]]), ...(host === undefined ? [] : [['host', host]]), ...(port === undefined ? [] : [['port', String(port)]])].flatMap((words, i) => i === 0 ? words : ['and', ...words])
}

/**
 * Takes frames, by tcpdump. What it brings has a bound before it starts: frames times bytes of each.
 * Nothing is put into promiscuous mode: a bridge and a VXLAN see all of a segment's frames that pass.
 *
 * @throws InvalidInputError when more than CAPTURE_MAX_BYTES could come; ConflictError; CommandError
 */
export async function capture (spec: SegmentSpec, { port, count, seconds, snapBytes, filter }: CaptureRequest, signal: AbortSignal): Promise<Captured> {
  const most = FILE_HEADER_BYTES + count * (snapBytes + FRAME_HEADER_BYTES)
  if (most > CAPTURE_MAX_BYTES) throw new InvalidInputError(`${count} frames of ${snapBytes} bytes may be ${most} bytes; at most ${CAPTURE_MAX_BYTES} are taken`, 'fewer frames (--count), or less of each (--snap)')
  const { space, link } = captureLink(spec, port)
  const { stdout } = await runOutside('timeout', [
    // at the end of its time it writes what it has, which is a success
    '--preserve-status', '--signal=INT', '--kill-after=5', String(seconds),
    'tcpdump', '--no-promiscuous-mode', '--immediate-mode', '-n', '-i', link, '-s', String(snapBytes), '-c', String(count), '-w', '-', ...filterWords(filter)
  ], { signal, timeoutMs: seconds * 1000 + SLACK_MS, binary: true, ...(space === null ? {} : { netns: space }) })
  const bytes = Buffer.from(stdout, 'latin1')
  return { space, link, frames: framesIn(bytes), pcap: bytes.toString('base64') }
}

/** Frames of a pcap file of this machine's byte order. */
export function framesIn (pcap: Buffer): number {
  let frames = 0
  for (let at = FILE_HEADER_BYTES; at + FRAME_HEADER_BYTES <= pcap.length; frames++) at += FRAME_HEADER_BYTES + pcap.readUInt32LE(at + 8)
  return frames
}
