/** What root asks of segments on the host itself: `musubi segment capture`. */
import { pino } from 'pino'
import { loadAgentConfig } from '../config.ts'
import { CAPTURE_PROTOCOLS, type Captured, type CaptureRequest } from '../drivers/network/diagnose/capture.ts'
import { createHelperClient } from '../helper/client/client.ts'
import { InvalidInputError } from '../../protocol/core/errors.ts'

/** @throws InvalidInputError, NotFoundError; MusubiError HELPER_UNREACHABLE, HELPER_REFUSED */
export async function takeFrames (configPath: string, name: string, { filter: { proto, ...filter }, ...request }: Omit<CaptureRequest, 'filter'> & { filter: { host?: string, port?: number, proto?: string } }): Promise<Captured> {
  const known = CAPTURE_PROTOCOLS.find(one => one === proto)
  if (proto !== undefined && known === undefined) throw new InvalidInputError(`--proto must be one of ${CAPTURE_PROTOCOLS.join(', ')}, not "${proto}"`)
  const { helper } = await loadAgentConfig(configPath)
  const client = createHelperClient({ socketPath: helper.socket, log: pino({ level: 'silent' }), persistent: false })
  try {
    return await client.call('segment-capture', { kind: 'segment', name, ...request, filter: { ...filter, ...(known === undefined ? {} : { proto: known }) } })
  } finally {
    client.close()
  }
}
