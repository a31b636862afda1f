import { table } from '../output.ts'
import type { RotationResource, TunnelResource } from '../../protocol/network-api.ts'

const UNITS = [[86_400_000, 'd'], [3_600_000, 'h'], [60_000, 'min'], [1_000, 's']] as const
const span = (ms: number | null): string => {
  if (ms === null) return '-'
  const [size, unit] = UNITS.find(([size]) => ms >= 2 * size) ?? [1_000, 's']
  return `${Math.round(ms / size)} ${unit}`
}
const bytes = (value: number | null): string => value === null ? '-' : String(value)

export function tunnelText (tunnel: TunnelResource): string {
  const { tracks, gateways } = tunnel
  const rows = gateways.flatMap(({ site, host, address, heard, keyFrom, tracks: theirs, sessions }) => {
    const state = `${heard ? 'heard' : 'not heard'}, key from ${keyFrom}${theirs.some(({ draining }) => draining) ? ', exchanging' : ''}`
    if (sessions.length === 0) return [[site, host, address, '-', '', '-', '-', '-', state]]
    return sessions.map(one => [site, host, address, String(one.track), one.inUse ? 'in use' : '', one.endpoint ?? '-', span(one.handshakeAgeMs), bytes(one.pathMtu), state])
  })
  return [
    `Tunnel of ${tunnel.host} (${tunnel.site}), ${tunnel.address}: ${tunnel.state === 'none' ? 'no cluster needs it' : `${tunnel.state}, MTU ${bytes(tunnel.mtu)}`}`,
    `Keys of epoch ${tunnel.epoch}${tunnel.exchanging ? ', being exchanged' : ''}; the oldest is ${span(tunnel.keyAgeMs)} old, exchanged after ${span(tunnel.keyMaxAgeMs)}`, '',
    table(['track', 'interface', 'mode', 'endpoint', 'epoch', 'key', ''], tracks.map(one => [String(one.track), one.interface === '' ? '-' : one.interface, one.mode === '' ? '-' : one.mode, one.endpoint, String(one.epoch), one.publicKey, one.draining ? 'given up' : ''])),
    ...gateways.length === 0 ? [] : ['', table(['site', 'gateway', 'address', 'track', '', 'endpoint', 'handshake', 'path', ''], rows)],
    ...tunnel.waiting.map(line => `waits: ${line}`), ...tunnel.missing.map(line => `next: ${line}`), ...tunnel.problems.map(line => `! ${line}`)
  ].join('\n')
}

export const rotationText = ({ epoch, unheard }: RotationResource): string => [
  `The keys are exchanged for those of epoch ${epoch}; follow it with: musubi tunnel show`,
  ...unheard.map(({ site, host }) => `! ${host} of ${site} will not hear of it now: the tunnel to it ends after 24 hours, until it does`)
].join('\n')
