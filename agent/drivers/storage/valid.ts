import { isIPv4 } from 'node:net'
import type { VolumeSpec } from '../../../protocol/core/desired.ts'
import { InvalidInputError } from '../../../protocol/core/errors.ts'
import { MAX_VOLUME_MIB } from '../../../protocol/core/limits.ts'

/** RFC 3720 allows 223 bytes. */
const IQN_MAX = 223
const IQN = /^iqn\.\d{4}-(?:0[1-9]|1[0-2])\.[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?:[a-z0-9][a-z0-9.:-]*$/
/** Some initiators take no less than 12 and no more than 16; ours takes what fits a line of argv. */
const SECRET = /^[\x21-\x7e]{8,128}$/
const USER = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/
const ALLOWED_MAX = 1024

/** Names become file names. @throws InvalidInputError */
export function assertVolumeName (name: string): void {
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/.test(name)) {
    throw new InvalidInputError(`volume name ${JSON.stringify(name)} is not allowed`, 'letters, digits, dots and dashes, at most 128')
  }
}

/** Checks what ends in the argv of the target server, also when it comes from an admitted peer. @throws InvalidInputError */
export function assertVolume (name: string, spec: VolumeSpec): void {
  const refuse = (what: string): never => { throw new InvalidInputError(`volume ${name}: ${what}`) }
  if (!Number.isInteger(spec.sizeMiB) || spec.sizeMiB < 1 || spec.sizeMiB > MAX_VOLUME_MIB) refuse(`size ${spec.sizeMiB} MiB is not between 1 and ${MAX_VOLUME_MIB}`)
  if (spec.iqn.length > IQN_MAX || !IQN.test(spec.iqn)) refuse(`${JSON.stringify(spec.iqn)} is no iSCSI qualified name (iqn.YYYY-MM.domain:name)`)
  if (!isIPv4(spec.portalAddress)) refuse(`portal address ${JSON.stringify(spec.portalAddress)} is no IPv4 address`)
  if (spec.portalAddress === '0.0.0.0') refuse('a portal on all addresses is not allowed')
  if (!USER.test(spec.chap.user)) refuse('the CHAP user is not 1 to 128 letters, digits, dots and dashes')
  if (!SECRET.test(spec.chap.secret)) refuse('the CHAP secret is not 8 to 128 printable characters without blanks')
  if (spec.allow.length > ALLOWED_MAX) refuse(`more than ${ALLOWED_MAX} initiators`)
  for (const address of spec.allow) {
    if (!isIPv4(address)) refuse(`initiator ${JSON.stringify(address)} is no IPv4 address`)
  }
}
