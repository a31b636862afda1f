import { createHash } from 'node:crypto'
import { canonicalJson } from '../fingerprint.ts'

/**
 * Everything that decides what a node image contains, as plain data. Its hash finds an image that
 * was already built; whatever changes here or in the folders `initrd/` and `overlay/` makes a new one.
 */
export interface Recipe {
  /** grows when the steps of the build change without the data below changing */
  revision: number
  suite: string
  kernelPackage: string
  busyboxPackage: string
  packages: readonly string[]
  pathExclude: readonly string[]
  /** loaded by the initrd, dependencies first */
  initrdModules: readonly string[]
  /** kept in the root image for modprobe */
  rootModules: readonly string[]
  maskedUnits: readonly string[]
  enabledUnits: readonly string[]
  /** not part of the boot: `musubi-late.service` starts them when the node is ready */
  lateUnits: readonly string[]
  /** udev rules that stay; every rule costs start-up time on an emulated processor */
  udevRules: readonly string[]
  cmdline: string
  squashfs: readonly string[]
}

export const NODE_RECIPE: Recipe = {
  revision: 1,
  suite: 'bookworm',
  kernelPackage: 'linux-image-cloud-amd64',
  busyboxPackage: 'busybox-static',
  // usr-is-merged spares the full perl that usrmerge would pull in
  packages: ['usr-is-merged', 'systemd-sysv', 'udev', 'kmod', 'iproute2', 'iputils-ping', 'curl', 'openssh-server', 'busybox'],
  pathExclude: [
    '/usr/share/doc/*', '/usr/share/man/*', '/usr/share/info/*', '/usr/share/locale/*', '/usr/share/lintian/*',
    '/usr/share/bash-completion/*', '/usr/share/zsh/*', '/usr/share/zoneinfo/*', '/usr/lib/udev/hwdb.d/*', '/usr/lib/udev/hwdb.bin',
    '/usr/lib/x86_64-linux-gnu/gconv/*', '/usr/lib/systemd/catalog/*'
  ],
  initrdModules: ['virtio_pci', 'virtio_net', 'virtio_blk', 'loop', 'squashfs', 'overlay'],
  rootModules: [
    'virtio_pci', 'virtio_net', 'virtio_blk', 'virtio_scsi', 'sd_mod', 'virtio_console', 'virtio_rng', 'virtio_balloon',
    'loop', 'squashfs', 'overlay', 'xfs', 'vfat', 'nfsv4', 'nfsd', '8021q', 'bridge', 'tun', 'dm_mod', 'iscsi_tcp'
  ],
  maskedUnits: [
    'apt-daily.timer', 'apt-daily-upgrade.timer', 'dpkg-db-backup.timer', 'e2scrub_all.timer', 'e2scrub_reap.service', 'fstrim.timer',
    'getty@tty1.service', 'serial-getty@ttyS0.service', 'console-getty.service', 'getty.target',
    'systemd-udev-trigger.service', 'systemd-hwdb-update.service', 'systemd-journal-flush.service', 'systemd-journal-catalog-update.service',
    'systemd-update-utmp.service', 'systemd-update-utmp-runlevel.service', 'systemd-update-done.service', 'systemd-firstboot.service',
    'systemd-machine-id-commit.service', 'systemd-sysusers.service', 'systemd-repart.service', 'systemd-random-seed.service',
    'systemd-binfmt.service', 'systemd-pstore.service', 'systemd-pcrphase.service', 'systemd-pcrphase-sysinit.service',
    'systemd-modules-load.service', 'systemd-remount-fs.service', 'systemd-tmpfiles-setup.service', 'systemd-tmpfiles-setup-dev.service',
    'systemd-tmpfiles-clean.timer', 'systemd-user-sessions.service', 'systemd-logind.service', 'systemd-ask-password-console.path',
    'systemd-ask-password-wall.path', 'systemd-initctl.socket', 'systemd-network-generator.service', 'kmod-static-nodes.service',
    'ldconfig.service', 'modprobe@configfs.service', 'modprobe@fuse.service', 'modprobe@drm.service', 'modprobe@efi_pstore.service',
    'dev-hugepages.mount', 'dev-mqueue.mount', 'sys-kernel-debug.mount', 'sys-kernel-tracing.mount', 'sys-kernel-config.mount',
    'sys-fs-fuse-connections.mount', 'proc-sys-fs-binfmt_misc.automount', 'cryptsetup.target', 'integritysetup.target',
    'veritysetup.target', 'remote-fs.target'
  ],
  enabledUnits: ['musubi-httpd.service', 'musubi-ready.service', 'musubi-console.service', 'musubi-late.service'],
  lateUnits: ['systemd-udevd.service', 'systemd-sysctl.service'],
  udevRules: ['50-udev-default.rules', '60-block.rules', '60-persistent-storage.rules', '80-drivers.rules', '99-systemd.rules'],
  cmdline: 'console=ttyS0 quiet loglevel=3 panic=30 mitigations=off random.trust_cpu=on no_timer_check cryptomgr.notests ' +
    'net.ifnames=0 audit=0 apparmor=0 selinux=0 systemd.show_status=0 systemd.default_timeout_start_sec=180',
  squashfs: ['-comp', 'zstd', '-Xcompression-level', '9', '-b', '128K']
}

/** Hash (hex) of a recipe together with the files that it copies in, by their relative path. */
export function recipeHash (recipe: Recipe, files: ReadonlyMap<string, string>): string {
  return createHash('sha256').update(canonicalJson({ recipe, files: Object.fromEntries(files) })).digest('hex')
}

/** Lets root log in on the console without a password; sshd still wants a key. */
export function withoutRootPassword (shadow: string): string {
  return shadow.replace(/^root:[^:]*:/m, 'root::')
}

/**
 * Module files in load order out of the output of `modprobe --show-depends`, run once per module.
 * A dependency that several modules share appears once, where it is first needed.
 */
export function moduleFiles (showDepends: string): string[] {
  const files = new Set<string>()
  for (const line of showDepends.split('\n')) {
    const [verb, file] = line.trim().split(/\s+/)
    if (verb === 'insmod' && file !== undefined) files.add(file)
  }
  return [...files]
}
