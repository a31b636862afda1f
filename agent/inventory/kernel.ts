/** What the kernel can do, from what it says about itself. Nothing is tried here, nothing is loaded. */

/**
 * - `there`: loaded or built in; `loadable`: a module of this kernel that loads when it is first used;
 * - `no`: this kernel has no such part; `unknown`: nothing here tells, only a try would.
 */
export type PartState = 'there' | 'loadable' | 'no' | 'unknown'

export interface KernelEvidence {
  /** of /sys/module and /proc/modules */
  loaded: ReadonlySet<string>
  /** of modules.builtin; null when that file is missing */
  builtIn: ReadonlySet<string> | null
  /** of modules.dep; null when that file is missing */
  loadable: ReadonlySet<string> | null
  /** false once kernel.modules_disabled is set */
  mayLoad: boolean
  /** options that are y or m; null when no configuration can be read */
  config: ReadonlyMap<string, 'y' | 'm'> | null
  /** a bridge of this host has the switch for VLAN filtering, which only kernels with that option show */
  filteringBridge: boolean
}

interface Part { module: string, option: string }

/** By the name that is used in advertisements, searches and the doctor's findings. */
export const KERNEL_PARTS = {
  bridge: { module: 'bridge', option: 'CONFIG_BRIDGE' },
  vxlan: { module: 'vxlan', option: 'CONFIG_VXLAN' },
  macvlan: { module: 'macvlan', option: 'CONFIG_MACVLAN' },
  veth: { module: 'veth', option: 'CONFIG_VETH' },
  '8021q': { module: '8021q', option: 'CONFIG_VLAN_8021Q' },
  wireguard: { module: 'wireguard', option: 'CONFIG_WIREGUARD' },
  tun: { module: 'tun', option: 'CONFIG_TUN' },
  nftables: { module: 'nf_tables', option: 'CONFIG_NF_TABLES' },
  tproxy: { module: 'nft_tproxy', option: 'CONFIG_NFT_TPROXY' },
  dm: { module: 'dm_mod', option: 'CONFIG_BLK_DEV_DM' },
  'dm-thin': { module: 'dm_thin_pool', option: 'CONFIG_DM_THIN_PROVISIONING' }
} as const satisfies Record<string, Part>

/** LIO serves iSCSI only with both. */
const LIO: readonly Part[] = [{ module: 'target_core_mod', option: 'CONFIG_TARGET_CORE' }, { module: 'iscsi_target_mod', option: 'CONFIG_ISCSI_TARGET' }]

export type KernelPart = keyof typeof KERNEL_PARTS | 'vlan-filtering' | 'lio'

/** What the evidence says about every part. */
export function kernelParts (evidence: KernelEvidence): Record<KernelPart, PartState> {
  const of = (part: Part): PartState => partState(part, evidence)
  return {
    bridge: of(KERNEL_PARTS.bridge),
    vxlan: of(KERNEL_PARTS.vxlan),
    macvlan: of(KERNEL_PARTS.macvlan),
    veth: of(KERNEL_PARTS.veth),
    '8021q': of(KERNEL_PARTS['8021q']),
    wireguard: of(KERNEL_PARTS.wireguard),
    tun: of(KERNEL_PARTS.tun),
    nftables: of(KERNEL_PARTS.nftables),
    tproxy: of(KERNEL_PARTS.tproxy),
    dm: of(KERNEL_PARTS.dm),
    'dm-thin': of(KERNEL_PARTS['dm-thin']),
    lio: worst(LIO.map(of)),
    'vlan-filtering': filteringState(evidence)
  }
}

/** Parts that can be counted on. */
export function usableParts (parts: Readonly<Record<KernelPart, PartState>>): string[] {
  return Object.entries(parts).filter(([, state]) => state === 'there' || state === 'loadable').map(([name]) => name)
}

function partState ({ module, option }: Part, { loaded, builtIn, loadable, mayLoad, config }: KernelEvidence): PartState {
  if (loaded.has(module) || builtIn?.has(module) === true || config?.get(option) === 'y') return 'there'
  if (loadable?.has(module) === true) return mayLoad ? 'loadable' : 'no'
  if (config !== null && !config.has(option)) return 'no'
  // both lists were read and neither has it, e.g. a module whose package is not installed
  if (builtIn !== null && loadable !== null) return 'no'
  return 'unknown'
}

/** An option within the bridge, no module of its own. */
function filteringState (evidence: KernelEvidence): PartState {
  if (evidence.filteringBridge) return 'there'
  const bridge = partState(KERNEL_PARTS.bridge, evidence)
  if (bridge === 'no' || bridge === 'unknown') return bridge
  if (evidence.config === null) return 'unknown'
  return evidence.config.get('CONFIG_BRIDGE_VLAN_FILTERING') === 'y' ? bridge : 'no'
}

function worst (states: readonly PartState[]): PartState {
  for (const state of ['no', 'unknown', 'loadable'] as const) if (states.includes(state)) return state
  return 'there'
}

/** The kernel takes `-` and `_` in names of modules for the same. */
const moduleName = (name: string): string => name.replaceAll('-', '_')

/** Names in the first column of /proc/modules. */
export function parseLoadedModules (text: string): string[] {
  return text.split('\n').flatMap(line => /^([\w-]{1,64}) \d/.exec(line)?.[1] ?? []).map(moduleName)
}

/** Names of the files in modules.dep or modules.builtin, which may be compressed. */
export function parseModuleFiles (text: string): Set<string> {
  return new Set([...text.matchAll(/^[^\s:]*?([\w-]{1,64})\.ko(?:\.[a-z0-9]{1,5})?(?::|$)/gm)].map(([, name = '']) => moduleName(name)))
}

/** Options that are on in a kernel configuration; null when the text is none. */
export function parseKernelConfig (text: string): Map<string, 'y' | 'm'> | null {
  const options = new Map<string, 'y' | 'm'>()
  for (const [, name = '', value] of text.matchAll(/^(CONFIG_\w{1,80})=([ym])$/gm)) options.set(name, value === 'y' ? 'y' : 'm')
  // a whole one has thousands; a cut one must not say "no" to what it does not reach
  return options.has('CONFIG_NET') && /^(?:CONFIG_|# CONFIG_)[^\n]*\n*$/m.test(text.slice(-200)) && text.endsWith('\n') ? options : null
}
