import type { DomainSpec } from '../../../protocol/core/desired.ts'
import { InvalidInputError } from '../../../protocol/core/errors.ts'
import { fingerprint } from '../../fingerprint.ts'
import { checkDomainSpec, domainName, initiatorName, METADATA_NAMESPACE, secretOf } from './names.ts'

/** What runs guests: hardware virtualisation, or QEMU's emulator. */
export type Accelerator = 'kvm' | 'tcg'

export interface DomainXmlOptions {
  accelerator: Accelerator
  /** file that receives what the guest writes to its serial console */
  consoleLog: string
}

/**
 * The LUN of a volume behind its target. tgt keeps LUN 0 for its controller, so that volumes
 * are LUN 1 everywhere.
 */
const VOLUME_LUN = 1
/** Bounds the emulator's store of translated code, which otherwise grows to an eighth of the host's memory for each guest. */
const TCG_CACHE_MIB = 256
/** How long the firmware waits before it tries the network again, when nothing answered. */
const BOOT_RETRY_MS = 1_000

/** Text for XML, in elements and in attributes of either quote. @throws InvalidInputError for characters that XML 1.0 cannot carry */
export function escapeXml (text: string): string {
  for (const char of text) {
    const code = char.codePointAt(0) ?? 0
    const allowed = code === 0x9 || code === 0xA || (code >= 0x20 && code <= 0xD7FF) || (code >= 0xE000 && code <= 0xFFFD) || code > 0xFFFF
    if (!allowed) throw new InvalidInputError(`${JSON.stringify(text)} has a character that XML cannot carry`)
  }
  return text
    .replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;').replaceAll("'", '&#39;')
    .replaceAll('\n', '&#10;').replaceAll('\t', '&#9;')
}

/**
 * The persistent domain of one node: equal arguments give equal text.
 *
 * It boots from the network through the virtio card's iPXE ROM, again and again until something
 * answers; its first serial port is both logged and open to `virsh console`. Nothing that slows
 * the start is there: no graphics, USB or balloon. Its metadata alone tell what it was made from.
 *
 * @throws InvalidInputError when the name or the spec is not fit for libvirt
 */
export function renderDomainXml (name: string, spec: DomainSpec, options: DomainXmlOptions): string {
  checkDomainSpec(spec)
  const x = escapeXml
  const kvm = options.accelerator === 'kvm'
  const log = `<log file='${x(options.consoleLog)}' append='on'/>`
  return [
    `<domain type='${kvm ? 'kvm' : 'qemu'}'>`,
    `  <name>${x(domainName(name))}</name>`,
    `  <uuid>${x(spec.uuid)}</uuid>`,
    '  <metadata>',
    `    <musubi:object xmlns:musubi='${METADATA_NAMESPACE}' name='${x(name)}' uuid='${x(spec.uuid)}' cluster='${x(spec.clusterId)}' clusterName='${x(spec.cluster)}'` +
      ` node='${x(spec.node)}' fingerprint='${fingerprint(spec)}' bridge='${x(spec.bridge)}' tap='${x(spec.tap)}'` +
      `${spec.local === undefined ? '' : ` localBridge='${x(spec.local.bridge)}' localTap='${x(spec.local.tap)}'`}/>`,
    '  </metadata>',
    `  <memory unit='MiB'>${spec.memoryMiB}</memory>`,
    `  <vcpu>${spec.vcpus}</vcpu>`,
    '  <os>',
    "    <type arch='x86_64' machine='pc'>hvm</type>",
    "    <boot dev='network'/>",
    `    <bios useserial='yes' rebootTimeout='${BOOT_RETRY_MS}'/>`,
    '  </os>',
    '  <features>',
    '    <acpi/>',
    '    <apic/>',
    ...(kvm ? [] : [`    <tcg><tb-cache unit='MiB'>${TCG_CACHE_MIB}</tb-cache></tcg>`]),
    '  </features>',
    ...cpu(kvm),
    "  <clock offset='utc'/>",
    '  <on_poweroff>destroy</on_poweroff>',
    '  <on_reboot>restart</on_reboot>',
    '  <on_crash>restart</on_crash>',
    '  <devices>',
    ...spec.volumes.flatMap((volume, index) => disk(name, spec, volume, index)),
    ...card(spec, true),
    // behind the first one, so that it is eth1 on the node
    ...(spec.local === undefined ? [] : card(spec.local, false)),
    `    <serial type='pty'>${log}<target port='0'/></serial>`,
    `    <console type='pty'>${log}<target type='serial' port='0'/></console>`,
    "    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>",
    "    <controller type='usb' model='none'/>",
    "    <memballoon model='none'/>",
    "    <video><model type='none'/></video>",
    '  </devices>',
    '</domain>',
    ''
  ].join('\n')
}

/** The libvirt secret of one volume: private, so that no client can read it back. */
export function renderSecretXml (name: string, volume: string): string {
  const { uuid, usage } = secretOf(name, volume)
  return [
    "<secret ephemeral='no' private='yes'>",
    `  <uuid>${uuid}</uuid>`,
    `  <description>CHAP password of volume ${escapeXml(volume)} (Musubi)</description>`,
    `  <usage type='iscsi'><target>${escapeXml(usage)}</target></usage>`,
    '</secret>',
    ''
  ].join('\n')
}

function cpu (kvm: boolean): string[] {
  if (kvm) return ["  <cpu mode='host-passthrough' check='none'/>"]
  return [
    "  <cpu mode='maximum' check='none'>",
    // the emulator walks page tables in software: a fifth level and nested guests only cost
    "    <feature policy='disable' name='la57'/>",
    "    <feature policy='disable' name='svm'/>",
    '  </cpu>'
  ]
}

/** A network card. @param boots without a ROM the firmware does not look for a DHCP server there */
function card ({ mac, bridge, tap }: NonNullable<DomainSpec['local']>, boots: boolean): string[] {
  const x = escapeXml
  return [
    "    <interface type='bridge'>",
    `      <mac address='${x(mac)}'/>`,
    `      <source bridge='${x(bridge)}'/>`,
    `      <target dev='${x(tap)}'/>`,
    "      <model type='virtio'/>",
    ...(boots ? [] : ["      <rom enabled='no'/>"]),
    '    </interface>'
  ]
}

/** A data disk, opened by QEMU's own initiator: the host never sees a block device. */
function disk (name: string, spec: DomainSpec, volume: DomainSpec['volumes'][number], index: number): string[] {
  const x = escapeXml
  return [
    "    <disk type='network' device='disk'>",
    "      <driver name='qemu' type='raw' cache='none' discard='unmap'/>",
    `      <auth username='${x(volume.chap.user)}'><secret type='iscsi' usage='${x(secretOf(name, volume.name).usage)}'/></auth>`,
    `      <source protocol='iscsi' name='${x(`${volume.iqn}/${VOLUME_LUN}`)}'>`,
    `        <host name='${x(volume.portalAddress)}' port='${volume.portalPort}'/>`,
    `        <initiator><iqn name='${x(initiatorName(spec.uuid))}'/></initiator>`,
    '      </source>',
    `      <target dev='${diskName(index)}' bus='virtio'/>`,
    `      <serial>${x(volume.name)}</serial>`,
    '    </disk>'
  ]
}

/** vda, vdb, ... vdz, vdaa, ... */
function diskName (index: number): string {
  const letter = (i: number): string => String.fromCharCode('a'.charCodeAt(0) + i)
  return `vd${index < 26 ? '' : letter(Math.floor(index / 26) - 1)}${letter(index % 26)}`
}
