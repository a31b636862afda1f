import { EMULATOR } from '../drivers/compute/accelerator.ts'
import { CommandError, run } from '../exec.ts'
import { VGS_FIELDS } from './hardware.ts'
import type { Source } from './source.ts'
import { plain, type Parsed } from './text.ts'
import { describeError } from '../../protocol/core/errors.ts'
import { INVENTORY_TOOL_TIMEOUT_MS } from '../../protocol/core/limits.ts'

/** What of a host only root may look at. */
export interface Privileged {
  /** what `vgs` prints, as JSON text */
  volumeGroups: Parsed<string>
  /** null: guests run on KVM; else why they do not */
  kvmRefusal: string | null
  /** null: network devices of user space can be made; else the code of the error */
  tunRefusal: string | null
}

export interface PrivilegedOptions {
  source: Source
  /** instead of real child processes */
  run?: typeof run
  emulator: () => boolean | Promise<boolean>
  /** what the configuration fixes: `tcg` is believed, `kvm` still has to open */
  accelerator?: 'kvm' | 'tcg'
  runsGuests: (signal: AbortSignal) => Promise<boolean>
}

/** Asks what needs privileges, and nothing else; every question ends in an answer unless the signal aborts. */
export async function readPrivileged (options: PrivilegedOptions, signal: AbortSignal): Promise<Privileged> {
  const [volumeGroups, kvmRefusal, tunRefusal] = await Promise.all([
    listVolumeGroups(options.run ?? run, signal), whyNoKvm(options, signal), options.source.refusal('/dev/net/tun')
  ])
  return { volumeGroups, kvmRefusal, tunRefusal }
}

async function listVolumeGroups (start: typeof run, signal: AbortSignal): Promise<Parsed<string>> {
  try {
    // without locks: looking must neither wait for a change nor hold one up
    const { stdout } = await start('vgs', ['--readonly', '--reportformat', 'json', '--units', 'b', '--nosuffix', '--options', VGS_FIELDS], { signal, timeoutMs: INVENTORY_TOOL_TIMEOUT_MS })
    return { value: stdout }
  } catch (error) {
    return { reason: plain(error instanceof CommandError ? error.message : describeError(error), 200) }
  }
}

async function whyNoKvm ({ source, emulator, accelerator, runsGuests }: PrivilegedOptions, signal: AbortSignal): Promise<string | null> {
  if (accelerator === 'tcg') return 'the configuration says tcg'
  const refusal = await source.refusal('/dev/kvm')
  if (refusal === 'ENOENT') return '/dev/kvm is missing'
  if (refusal !== null) return `/dev/kvm does not open for reading and writing: ${refusal}`
  if (!await emulator()) return `${EMULATOR} is not installed`
  if (accelerator === 'kvm') return null
  try {
    // that it opens proves little: guests may still hang on it
    return await runsGuests(signal) ? null : 'no guest ran to its end on /dev/kvm'
  } catch (error) {
    return `cannot try a guest on /dev/kvm: ${plain(describeError(error), 160)}`
  }
}
