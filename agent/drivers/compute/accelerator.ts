import { randomUUID } from 'node:crypto'
import { mkdir, mkdtemp, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { errorCode } from '../../../protocol/core/errors.ts'
import { run } from '../../exec.ts'
import type { Accelerator } from './xml.ts'

export const EMULATOR = 'qemu-system-x86_64'
/** Real hardware needs about 100 ms; nested emulation that only pretends to be KVM, many seconds. */
const PROBE_TIMEOUT_MS = 2_000
/** What the probe guest writes to the debug port; QEMU ends with `2 * value + 1`. */
const PROBE_VALUE = 0x10

/**
 * Chooses KVM only after a guest really ran on it in good time, else TCG.
 * That `/dev/kvm` exists, and even opens, proves nothing: it may be there and guests still hang on it.
 *
 * @param stateDir keeps the answer until the machine boots anew or QEMU changes
 */
export async function chooseAccelerator (stateDir: string, signal: AbortSignal): Promise<Accelerator> {
  if (await stat('/dev/kvm').catch(() => null) === null) return 'tcg'
  const bootId = (await readFile('/proc/sys/kernel/random/boot_id', 'utf8').catch(() => '')).trim()
  const qemu = await stat(`/usr/bin/${EMULATOR}`).catch(() => null)
  const key = `${bootId} ${qemu?.mtimeMs ?? 0}`
  const file = join(stateDir, 'accelerator')
  const [keptKey, kept] = (await readFile(file, 'utf8').catch(() => '')).split('\n')
  if (keptKey === key && (kept === 'kvm' || kept === 'tcg')) return kept
  const chosen = await kvmRunsGuests(stateDir, signal) ? 'kvm' : 'tcg'
  signal.throwIfAborted()
  await mkdir(stateDir, { recursive: true })
  // the driver and the inventory may both ask for the first time at once
  const temporary = `${file}.${randomUUID()}.tmp`
  await writeFile(temporary, `${key}\n${chosen}\n`)
  await rename(temporary, file)
  return chosen
}

/** Boots the firmware and a boot sector of six bytes on KVM, which ends QEMU with a known code. */
async function kvmRunsGuests (stateDir: string, signal: AbortSignal): Promise<boolean> {
  await mkdir(stateDir, { recursive: true })
  const dir = await mkdtemp(join(stateDir, 'kvm-probe-'))
  try {
    const image = join(dir, 'boot.img')
    await writeFile(image, bootSector())
    // `timeout` kills it surely: a QEMU that hangs in the kernel does not hear SIGTERM
    const { exitCode } = await run('timeout', ['-s', 'KILL', String(PROBE_TIMEOUT_MS / 1000), EMULATOR,
      '-accel', 'kvm', '-machine', 'pc', '-nodefaults', '-no-user-config', '-display', 'none', '-m', '16',
      '-device', 'isa-debug-exit,iobase=0xf4,iosize=1', '-drive', `file=${image.replaceAll(',', ',,')},format=raw,if=ide`, '-boot', 'c'
    ], { signal, okCodes: [2 * PROBE_VALUE + 1], timeoutMs: PROBE_TIMEOUT_MS + 1_000 })
    return exitCode === 2 * PROBE_VALUE + 1
  } catch (error) {
    if (errorCode(error) !== 'COMMAND_FAILED') throw error
    return false
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
}

/** `mov al, PROBE_VALUE; out 0xf4, al; jmp $`, with the signature of a boot sector. */
function bootSector (): Buffer {
  const sector = Buffer.alloc(512)
  Buffer.from([0xb0, PROBE_VALUE, 0xe6, 0xf4, 0xeb, 0xfe]).copy(sector)
  sector.writeUInt16LE(0xaa55, 510)
  return sector
}
