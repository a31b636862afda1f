import { InvalidInputError } from '../../core/errors.ts'

const PORT = /^(?<host>.*\/tcp\/)(?<port>\d{1,5})$/

/** The same address, one port higher; port 0 takes a free one anyway. */
function nextPort (address: string): string {
  const { host, port } = PORT.exec(address)?.groups ?? {}
  if (host === undefined || port === undefined) throw new InvalidInputError(`'${address}' is not an address of the form /ip4/ADDRESS/tcp/PORT`)
  if (Number(port) >= 65_535) throw new InvalidInputError(`there is no port above that of '${address}' for joins`, 'set joinListen')
  return `${host}${port === '0' ? 0 : Number(port) + 1}`
}

/**
 * Where invited members join, and what tokens say: one port above the mesh where nothing else is set,
 * also behind a forwarded port. @throws InvalidInputError
 */
export function joinAddresses ({ listen, announce, joinListen }: { readonly listen: readonly string[], readonly announce?: readonly string[], readonly joinListen?: readonly string[] }): { listen: string[], announce: string[] } {
  return { listen: joinListen === undefined ? listen.map(nextPort) : [...joinListen], announce: (announce ?? []).map(nextPort) }
}
