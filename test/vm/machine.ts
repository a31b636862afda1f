/** One QEMU guest without a network, that ends with its last line or with this process. */
import { spawn } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { GuestImage } from './image.ts'

export interface GuestOptions {
  image: GuestImage
  packages: string
  tree: string
  /** words for `test/run.ts` */
  tests: readonly string[]
  /** for the log of the kernel */
  workDir: string
  signal: AbortSignal
  onLine: (line: string) => void
}

/** The guest's processors and memory in MiB: its files are in memory. */
const [CPUS, MEMORY_MIB] = [2, 3072]
const CMDLINE = 'console=ttyS0 quiet loglevel=3 mitigations=off no_timer_check cryptomgr.notests nokaslr random.trust_cpu=on panic=-1 audit=0 apparmor=0'

/**
 * Boots a guest and passes on what it says until it is off.
 * @returns the exit code of its tests; null when it ended without one: the last words of its kernel are passed on then
 */
export async function runGuest ({ image, packages, tree, tests, workDir, signal, onLine }: GuestOptions): Promise<number | null> {
  const log = join(workDir, 'kernel.log')
  const drive = (id: string, file: string): string[] => ['-drive', `file=${file},format=raw,if=none,id=${id},readonly=on`, '-device', `virtio-blk-pci,drive=${id},serial=${id}`]
  // ends with this process, whatever ends it
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', 'qemu-system-x86_64',
    '-accel', 'tcg,thread=multi', '-machine', 'pc', '-cpu', 'qemu64', '-smp', String(CPUS), '-m', String(MEMORY_MIB), '-nodefaults', '-no-user-config', '-no-reboot', '-display', 'none', '-nic', 'none',
    '-kernel', image.kernel, '-initrd', image.initrd, '-append', `${CMDLINE} musubi.tests=${tests.join(',')}`,
    ...drive('root', image.root), ...drive('packages', packages), ...drive('tree', tree), '-device', 'virtio-rng-pci',
    '-serial', `file:${log}`, '-device', 'virtio-serial-pci', '-chardev', 'stdio,id=console,signal=off', '-device', 'virtconsole,chardev=console'
  ], { stdio: ['ignore', 'pipe', 'pipe'] })
  const stop = (): void => { child.kill('SIGKILL') }
  signal.addEventListener('abort', stop, { once: true })
  if (signal.aborted) stop()
  const codes: number[] = []
  const take = (line: string): void => {
    const text = line.replaceAll('\r', '')
    const end = /^guest: exit code (\d+)$/.exec(text)
    if (end === null) onLine(text)
    else codes.push(Number(end[1]))
  }
  for (const stream of [child.stdout, child.stderr]) createInterface({ input: stream }).on('line', take)
  try {
    await new Promise<void>((resolve, reject) => {
      child.once('error', reject)
      child.once('close', () => { resolve() })
    })
  } finally {
    signal.removeEventListener('abort', stop)
  }
  const code = codes.at(-1) ?? null
  if (code === null && !signal.aborted) {
    const said = await readFile(log, 'utf8').catch(() => '')
    for (const line of said.trim().split('\n').slice(-20)) onLine(`kernel: ${line.trim()}`)
  }
  return code
}
