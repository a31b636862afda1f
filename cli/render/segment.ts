import { table } from '../output.ts'
import type { DiagnosisResource, HopResource, PingResource } from '../../protocol/network-api.ts'

const ms = (value: number | null): string => value === null ? '-' : `${value < 10 ? value.toFixed(2) : value.toFixed(0)} ms`
const place = ({ from, to }: HopResource): string => from === '' ? to : to === '' ? from : `${from} > ${to}`

export function pingText (ping: PingResource): string {
  const { from, to, cluster, askedBy, bytes } = ping
  if (ping.hops.length > 0) {
    const rows = ping.hops.map(hop => [hop.ok ? 'ok' : 'FAILS', hop.hop, hop.host, hop.interface, place(hop), hop.port === null ? '' : String(hop.port), ms(hop.rttMs), hop.largestBytes === null ? '-' : String(hop.largestBytes)])
    return [`${from} to ${to}, cluster ${cluster}, asked by ${askedBy}`, table(['', 'hop', 'host', 'interface', 'addresses', 'udp', 'rtt', 'bytes'], rows), ping.stopsAt === null ? 'Full size passes every hop.' : `It stops at ${ping.why}.`].join('\n')
  }
  const rows = ping.ends.map(end => [end.name, end.site, end.address, `${end.received}/${end.sent}`, ms(end.rttMs?.min ?? null), ms(end.rttMs?.avg ?? null), ms(end.rttMs?.max ?? null), end.toldMtu === null ? end.why : `MTU ${end.toldMtu} was told`])
  return [
    `${from} to ${to}, cluster ${cluster}, ${bytes} bytes, from ${askedBy}`, table(['to', 'site', 'address', 'answers', 'min', 'avg', 'max', ''], rows),
    ...ping.ok ? [] : [`Where it stops: musubi segment ping ${from} ${to} --path`]
  ].join('\n')
}

export function diagnosisText ({ cluster, site, host, gateway, ok, findings, seen }: DiagnosisResource): string {
  const told = findings.map(({ severity, where, what, try: next }) => `  ${severity.padEnd(7)}  ${where}: ${what}\n           -> ${next}`)
  return [
    `Segment of ${cluster}, from ${host} of ${site}${gateway ? ', its gateway' : ''}`, ...seen.map(line => `  ${line}`), '',
    ...told, findings.length === 0 ? 'Nothing is wrong here.' : ok ? 'There are warnings only.' : 'It does not work: the first one is the nearest.'
  ].join('\n')
}
