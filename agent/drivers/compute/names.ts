import { createHash } from 'node:crypto'
import { MAX_MEMORY_MIB_PER_NODE, MAX_VCPUS_PER_NODE, MAX_VOLUMES_PER_CLUSTER } from '../../../protocol/core/limits.ts'
import { PREFIX } from '../../../protocol/core/desired.ts'
import type { DomainSpec } from '../../../protocol/core/desired.ts'
import { InvalidInputError } from '../../../protocol/core/errors.ts'

/** XML namespace of the element that marks a domain as ours. */
export const METADATA_NAMESPACE = 'urn:musubi:1'

/** Room for 8 digits of the cluster, a dot, and a host name of 63; libvirt shortens names itself where a path is bounded. */
const OBJECT_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,71}$/
const LINK_NAME = new RegExp(`^${PREFIX}[A-Za-z0-9-]{1,${15 - PREFIX.length}}$`)
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/
const MAC = /^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$/
const IQN = /^iqn\.[0-9]{4}-[0-9]{2}\.[a-z0-9.-]+(:[A-Za-z0-9._:-]+)?$/
const ADDRESS = /^[0-9a-fA-F.:]{2,45}$/
/** virtio-blk has room for 20 bytes of serial number, by which the guest finds the disk. */
const VOLUME_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,19}$/

/** Whether the driver takes this name; others cannot exist as domains of ours. */
export function isObjectName (name: string): boolean {
  return OBJECT_NAME.test(name)
}

/** Name of the object's domain in libvirt. @throws InvalidInputError for names that libvirt, files or a command line could misread */
export function domainName (name: string): string {
  if (!isObjectName(name)) {
    throw new InvalidInputError(`${JSON.stringify(name)} cannot name a domain`, 'use letters, digits, dot, dash and underscore, at most 72')
  }
  return `${PREFIX}-${name}`
}

/** The object that a libvirt name stands for; null for names that are not of our form. */
export function objectName (domain: string): string | null {
  const name = domain.slice(PREFIX.length + 1)
  return domain.startsWith(`${PREFIX}-`) && isObjectName(name) ? name : null
}

/** Prefix of the usage of all of one domain's secrets; `:` cannot occur in an object name. */
export function secretUsagePrefix (name: string): string {
  return `${domainName(name)}:`
}

/** The libvirt secret that holds the CHAP password of one volume of one domain. */
export function secretOf (name: string, volume: string): { uuid: string, usage: string } {
  const usage = secretUsagePrefix(name) + volume
  const hex = createHash('sha256').update(usage).digest('hex')
  // version 8 (own scheme), variant 10: derived from the name, so that defining it again replaces it
  const uuid = `${hex.slice(0, 8)}-${hex.slice(8, 12)}-8${hex.slice(13, 16)}-a${hex.slice(17, 20)}-${hex.slice(20, 32)}`
  return { uuid, usage }
}

/** iSCSI name under which the domain logs in to its volumes. */
export function initiatorName (uuid: string): string {
  return `iqn.2026-11.org.musubi:node.${uuid}`
}

/** @throws InvalidInputError naming the first field that libvirt or the kernel would refuse or misread */
export function checkDomainSpec (spec: DomainSpec): void {
  const bad = (what: string, value: unknown, why: string): never => {
    throw new InvalidInputError(`node ${spec.node}: ${what} ${JSON.stringify(value)} ${why}`)
  }
  if (!UUID.test(spec.uuid)) bad('uuid', spec.uuid, 'is not a lower-case UUID')
  for (const [of, { mac, bridge, tap }] of [['', spec], ['local ', spec.local ?? spec]] as const) {
    if (!MAC.test(mac)) bad(`${of}mac`, mac, 'is not a lower-case unicast MAC address')
    if (!LINK_NAME.test(bridge)) bad(`${of}bridge`, bridge, 'is not the name of a bridge of ours')
    if (!LINK_NAME.test(tap)) bad(`${of}tap`, tap, `is not a link name of at most 15 characters that begins with ${PREFIX}`)
  }
  if (spec.local !== undefined && (spec.local.mac === spec.mac || spec.local.tap === spec.tap)) bad('second card', spec.local, 'has the MAC or the tap of the first')
  whole('vcpus', spec.vcpus, 1, MAX_VCPUS_PER_NODE)
  whole('memoryMiB', spec.memoryMiB, 32, MAX_MEMORY_MIB_PER_NODE)
  if (spec.volumes.length > MAX_VOLUMES_PER_CLUSTER) bad('volumes', spec.volumes.length, `are more than ${MAX_VOLUMES_PER_CLUSTER}`)
  const seen = new Set<string>()
  for (const volume of spec.volumes) {
    if (!VOLUME_NAME.test(volume.name)) bad('volume', volume.name, 'must be 1 to 20 letters, digits, dots, dashes or underscores')
    if (seen.has(volume.name)) bad('volume', volume.name, 'is named twice')
    seen.add(volume.name)
    if (!IQN.test(volume.iqn)) bad(`iqn of volume ${volume.name}`, volume.iqn, 'is not an iSCSI qualified name')
    if (!ADDRESS.test(volume.portalAddress)) bad(`portal of volume ${volume.name}`, volume.portalAddress, 'is not an IP address')
    whole(`portal port of volume ${volume.name}`, volume.portalPort, 1, 65_535)
  }

  function whole (what: string, value: number, least: number, most: number): void {
    if (!Number.isSafeInteger(value) || value < least || value > most) bad(what, value, `is not a whole number from ${least} to ${most}`)
  }
}
