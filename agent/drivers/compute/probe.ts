import { constants } from 'node:fs'
import { access, open } from 'node:fs/promises'
import { describeError, errorCode } from '../../../protocol/core/errors.ts'
import { CommandError, run } from '../../exec.ts'
import { EMULATOR } from './accelerator.ts'
import type { Virsh } from './virsh.ts'

/** Where Debian and QEMU itself keep option ROMs. */
const ROM_DIRS = ['/usr/share/qemu', '/usr/lib/ipxe/qemu', '/usr/share/qemu-kvm']
/** The ROM that QEMU loads for a virtio network card. */
const ROM_FILE = 'efi-virtio.rom'

/** What is missing for domains to run here, one sentence each, with the next step. */
export async function probeLibvirt (virsh: Virsh, uri: string, signal: AbortSignal): Promise<string[]> {
  const checks = await Promise.all([
    answers(virsh, uri, signal),
    emulator(signal),
    tun(),
    rom(),
    iscsi(signal)
  ])
  signal.throwIfAborted()
  return checks.filter(problem => problem !== null)
}

async function answers (virsh: Virsh, uri: string, signal: AbortSignal): Promise<string | null> {
  try {
    await virsh.call(['uri'], signal)
    return null
  } catch (error) {
    if (await missing('virsh', signal)) return 'virsh is not installed: install libvirt-clients and libvirt-daemon-system'
    return `libvirt does not answer at ${uri}: start libvirtd (systemctl start libvirtd), or correct the URI: ${describeError(error)}`
  }
}

async function emulator (signal: AbortSignal): Promise<string | null> {
  return await missing(EMULATOR, signal) ? `${EMULATOR} is not installed: install qemu-system-x86` : null
}

async function tun (): Promise<string | null> {
  try {
    await (await open('/dev/net/tun', 'r+')).close()
    return null
  } catch (error) {
    return `/dev/net/tun cannot be opened (${describeError(error)}): run modprobe tun, or give the container this device`
  }
}

async function rom (): Promise<string | null> {
  for (const dir of ROM_DIRS) {
    if (await access(`${dir}/${ROM_FILE}`, constants.R_OK).then(() => true, () => false)) return null
  }
  return `the iPXE option ROM ${ROM_FILE} is in none of ${ROM_DIRS.join(', ')}: install ipxe-qemu`
}

/** Asks QEMU's tools to open a target on a port where nobody listens: what they say tells whether they can speak iSCSI. */
async function iscsi (signal: AbortSignal): Promise<string | null> {
  try {
    await run('qemu-img', ['info', 'iscsi://127.0.0.1:1/iqn.2026-11.org.musubi:probe/1'], { signal, timeoutMs: 5_000 })
  } catch (error) {
    if (error instanceof CommandError && error.exitCode === undefined) return 'qemu-img is not installed: install qemu-utils'
    if (error instanceof CommandError && /unknown (protocol|driver)/i.test(error.stderr)) {
      return 'QEMU cannot open iSCSI volumes: install qemu-block-extra'
    }
  }
  return null
}

async function missing (program: string, signal: AbortSignal): Promise<boolean> {
  try {
    await run(program, ['--version'], { signal, timeoutMs: 5_000 })
    return false
  } catch (error) {
    return errorCode(error) === 'COMMAND_FAILED'
  }
}
