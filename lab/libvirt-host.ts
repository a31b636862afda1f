import { createHash } from 'node:crypto'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

export interface LibvirtHostOptions {
  /** folder of the host: configuration, domains and logs of its libvirtd live below it */
  dir: string
  /** name of the host; its libvirt host UUID is derived from it and `dir` */
  name: string
  /** shared by all hosts of a machine: what QEMU can do, which takes seconds to find out; default below `dir` */
  capabilitiesDir?: string
}

export interface LibvirtHost {
  /**
   * `mount --bind source target`, in this order, in the host's own mount namespace before the start;
   * the first four targets come with Debian's packages, the last one lies in the fourth source
   */
  mounts: Array<{ source: string, target: string }>
  /** libvirtd in the foreground; answers at `qemu:///system` inside the host within about a second */
  argv: string[]
  /** the daemon's log, seen from outside the host */
  logFile: string
}

/**
 * Prepares a libvirtd for one lab host: its own configuration, state, logs and caches, so that
 * many run side by side on a machine and never see its real one.
 *
 * The host's own `/run` must be private too (the socket and the state of running domains lie there).
 * The daemon needs a mount and a PID namespace whose first process reaps orphans: without it a
 * domain takes seconds to destroy.
 */
export async function prepareLibvirtHost (options: LibvirtHostOptions): Promise<LibvirtHost> {
  const at = (...path: string[]): string => join(options.dir, 'libvirt', ...path)
  const capabilities = options.capabilitiesDir ?? at('capabilities')
  const folders = { etc: at('etc'), lib: at('lib'), log: at('log'), cache: at('cache') }
  for (const folder of [...Object.values(folders), join(folders.cache, 'qemu', 'capabilities'), capabilities]) {
    await mkdir(folder, { recursive: true })
  }
  await writeFile(join(folders.etc, 'qemu.conf'), qemuConf())
  await writeFile(join(folders.etc, 'libvirtd.conf'), libvirtdConf(hostUuid(`${options.dir}\n${options.name}`)))
  return {
    mounts: [
      { source: folders.etc, target: '/etc/libvirt' },
      { source: folders.lib, target: '/var/lib/libvirt' },
      { source: folders.log, target: '/var/log/libvirt' },
      { source: folders.cache, target: '/var/cache/libvirt' },
      // the daemon replaces these files as a whole, so that several can share the folder
      { source: capabilities, target: '/var/cache/libvirt/qemu/capabilities' }
    ],
    argv: ['libvirtd', '--config', '/etc/libvirt/libvirtd.conf', '--pid-file', '/run/libvirtd.pid'],
    logFile: join(folders.log, 'libvirtd.log')
  }
}

function qemuConf (): string {
  return [
    // everything in a lab host is root's: no second user has to reach its folders
    'user = "root"',
    'group = "root"',
    'dynamic_ownership = 0',
    'remember_owner = 0',
    'security_driver = "none"',
    // the machine may have no writable cgroups, and the lab host has its own mount namespace already
    'cgroup_controllers = [ ]',
    'namespaces = [ ]',
    // no virtlogd: QEMU writes its logs and consoles by itself
    'stdio_handler = "file"',
    ''
  ].join('\n')
}

function libvirtdConf (uuid: string): string {
  return [
    'auth_unix_ro = "none"',
    'auth_unix_rw = "none"',
    `host_uuid = "${uuid}"`,
    'log_outputs = "3:file:/var/log/libvirt/libvirtd.log"',
    ''
  ].join('\n')
}

/** Stable over restarts, different for each host: libvirt refuses two hosts with one UUID in a migration. */
function hostUuid (seed: string): string {
  const hex = createHash('sha256').update(seed).digest('hex')
  // version 8 (own scheme), variant 10: a well-formed UUID
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-8${hex.slice(13, 16)}-a${hex.slice(17, 20)}-${hex.slice(20, 32)}`
}
