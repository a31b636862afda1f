import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { fingerprint } from '../../../fingerprint.ts'
import type { ServiceSpec } from '../../../services.ts'
import { keeperArgv } from '../../../services/keepers.ts'
import { IPXE_DIR } from '../../boot/render.ts'
import type { CachePlan } from '../plan.ts'
import { RELAY_PORT } from './ports.ts'

const FILES = ['server.pl', 'relay.pl', 'Packets.pm', 'Transfer.pm', 'Folder.pm', 'Fetched.pm'] as const
const script = (file: typeof FILES[number]): string => fileURLToPath(new URL(`./${file}`, import.meta.url))
/** It goes on over upgrades: another program under the same name is another service. */
const PRINT = fingerprint(FILES.map(file => readFileSync(script(file), 'utf8')))

/** It may be the frontend's address (net_raw), at port 69 (net_bind_service). It reads what everybody may, and writes to its own folder. */
const SERVER_CAPABILITIES = ['net_raw', 'net_bind_service'] as const

/**
 * What serves TFTP inside the site, in the frontend's name; null when the spec wants none. A keeper: nodes boot
 * without agent and helper.
 */
export function tftpService (plan: CachePlan): ServiceSpec | null {
  const { spec, paths, namespace } = plan
  if (spec.tftp === undefined) return null
  const source = spec.tftp.relay === undefined ? ['folder', IPXE_DIR] : ['relay', spec.tftp.relay, String(RELAY_PORT)]
  return {
    argv: [...keeperArgv('tftp', SERVER_CAPABILITIES, spec.vni), 'perl', script('server.pl'), spec.frontendAddress, ...source],
    netns: namespace,
    // entered as root, below whose folders it lies: the server itself may not pass through these
    cwd: paths.tftp,
    env: { MZ_KEEPER: PRINT },
    keeper: true
  }
}

/** The relay of one cluster, at the site of its frontend. */
export interface RelayPlan {
  vni: number
  namespace: string
  /** the gateway's own address on the segment, without prefix length */
  ownAddress: string
  frontendAddress: string
  /** folder of its own, its user's (`keeperId('tftp', vni)`) */
  dir: string
}

/** What gets files from an external frontend by TFTP, at its site, and gives them to the gateways of other sites by HTTP. */
export function relayService ({ vni, namespace, ownAddress, frontendAddress, dir }: RelayPlan): ServiceSpec {
  return {
    argv: [...keeperArgv('tftp', [], vni), 'perl', script('relay.pl'), ownAddress, String(RELAY_PORT), frontendAddress],
    netns: namespace,
    cwd: dir,
    env: { MZ_KEEPER: PRINT },
    keeper: true
  }
}
