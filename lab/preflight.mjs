#!/usr/bin/env node
// Makes a fresh clone runnable, then runs it: npm packages, Debian packages, /dev/net/tun. Plain
// JavaScript with Node's own modules, because it starts on whatever Node the machine has (>= 18).
// It talks on stderr: stdout belongs to what it starts.
//
//   node lab/preflight.mjs [--check] demo|test|bench|test:vm [arguments...]
import { spawn, spawnSync } from 'node:child_process'
import { accessSync, closeSync, constants, existsSync, mkdirSync, openSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs'
import { constants as osConstants } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const TREE = dirname(dirname(fileURLToPath(import.meta.url)))
const SYSTEM_PATH = ['/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin']
const POLICY_FILE = '/usr/sbin/policy-rc.d'
const POLICY_MARK = '# musubi preflight, pid '
const NODE_MIN = [22, 18]

/** What each target starts, and whether nothing of it works without root. */
export const TARGETS = {
  demo: { script: 'lab/demo.ts', root: true },
  test: { script: 'test/run.ts', root: false },
  bench: { script: 'test/bench/main.ts', root: true },
  'test:vm': { script: 'test/vm/main.ts', root: true }
}

const ALL = ['demo', 'test', 'bench']
const AND_VM = [...ALL, 'test:vm']
/** A program (looked up in PATH) or a file, the Debian package that brings it, and who needs it. */
export const REQUIREMENTS = [
  { needs: 'ip', package: 'iproute2', targets: ALL },
  { needs: 'nft', package: 'nftables', targets: ALL },
  { needs: 'ethtool', package: 'ethtool', targets: ALL },
  { needs: 'ping', package: 'iputils-ping', targets: ALL },
  { needs: 'ps', package: 'procps', targets: AND_VM },
  { needs: 'mount', package: 'mount', targets: AND_VM },
  { needs: 'unshare', package: 'util-linux', targets: AND_VM },
  { needs: 'modprobe', package: 'kmod', targets: AND_VM },
  { needs: 'hostname', package: 'hostname', targets: ALL },
  { needs: '/usr/bin/python3', package: 'python3', targets: ALL },
  { needs: 'perl', package: 'perl', targets: ALL },
  { needs: 'curl', package: 'curl', targets: ALL },
  { needs: 'ssh', package: 'openssh-client', targets: ALL },
  { needs: 'wg', package: 'wireguard-tools', targets: ALL },
  { needs: 'wireguard-go', package: 'wireguard-go', targets: ALL },
  { needs: 'nginx', package: 'nginx', targets: ALL },
  { needs: 'dnsmasq', package: 'dnsmasq-base', targets: ALL },
  { needs: '/usr/lib/ipxe/undionly.kpxe', package: 'ipxe', targets: ALL },
  { needs: '/usr/lib/ipxe/qemu/pxe-virtio.rom', package: 'ipxe-qemu', targets: ALL },
  { needs: 'libvirtd', package: 'libvirt-daemon', targets: ALL },
  // its unit, for the test with a real systemd; the package is installed without starting it
  { needs: '/lib/systemd/system/libvirtd.service', package: 'libvirt-daemon-system', targets: ['test'] },
  { needs: 'virsh', package: 'libvirt-clients', targets: ALL },
  { needs: 'qemu-system-x86_64', package: 'qemu-system-x86', targets: AND_VM },
  { needs: '/usr/lib/x86_64-linux-gnu/qemu/block-iscsi.so', package: 'qemu-block-extra', targets: ALL },
  { needs: 'qemu-img', package: 'qemu-utils', targets: ALL },
  { needs: 'tgtd', package: 'tgt', targets: ALL },
  { needs: 'mmdebstrap', package: 'mmdebstrap', targets: AND_VM },
  { needs: '/usr/share/keyrings/debian-archive-keyring.gpg', package: 'debian-archive-keyring', targets: AND_VM },
  { needs: 'mksquashfs', package: 'squashfs-tools', targets: AND_VM },
  { needs: 'cpio', package: 'cpio', targets: AND_VM },
  { needs: 'zstd', package: 'zstd', targets: AND_VM },
  { needs: 'iperf3', package: 'iperf3', targets: ['test', 'bench'] },
  { needs: 'busybox', package: 'busybox', targets: ['test'] },
  { needs: 'tcpdump', package: 'tcpdump', targets: ['test'] },
  { needs: 'serf', package: 'serf', targets: ['bench'] },
  { needs: 'etcd', package: 'etcd-server', targets: ['bench'] },
  { needs: 'openvpn', package: 'openvpn', targets: ['bench'] },
  { needs: 'tincd', package: 'tinc', targets: ['bench'] },
  { needs: 'supernode', package: 'n2n', targets: ['bench'] },
  { needs: 'squid', package: 'squid', targets: ['bench'] },
  { needs: '/usr/lib/ganeti/iallocators/hail', package: 'ganeti-htools', targets: ['bench'] },
  { needs: '/usr/lib/python3/dist-packages/scipy/optimize/_milp.py', package: 'python3-scipy', targets: ['bench'] },
  { needs: 'systemd-nspawn', package: 'systemd-container', targets: ['test'] }
]

/** What the user can mend; ends the program with its text and exit code 1. */
export class PreflightError extends Error {
  name = 'PreflightError'
}

/** Splits argv: `--check`, the target, and what goes to the target. */
export function parseArguments (argv) {
  const rest = argv[0] === '--' ? argv.slice(1) : [...argv]
  const check = rest[0] === '--check'
  if (check) rest.shift()
  const [target, ...args] = rest
  if (target === undefined || !Object.hasOwn(TARGETS, target)) {
    throw new PreflightError(`usage: node lab/preflight.mjs [--check] ${Object.keys(TARGETS).join('|')} [arguments...]`)
  }
  return { check, target, args: args[0] === '--' ? args.slice(1) : args }
}

/** Requirements of a target that `has` does not find. */
export function missingRequirements (requirements, target, has) {
  return requirements.filter(r => r.targets.includes(target) && !has(r.needs))
}

/** The packages of requirements, each once, sorted. */
export function packagesOf (requirements) {
  return [...new Set(requirements.map(r => r.package))].sort()
}

/** The command that brings packages, as a person would type it. */
export function installCommand (packages) {
  return `apt-get update && apt-get install -y --no-install-recommends ${packages.join(' ')}`
}

/**
 * Whether the installed packages are those of the lock file. `hidden` is npm's own record of what
 * it put into node_modules; packages for other systems are not in it.
 */
export function npmPackagesMatch (lock, hidden) {
  if (hidden === null) return false
  const installed = hidden.packages ?? {}
  return Object.entries(lock.packages ?? {}).every(([path, wanted]) => {
    if (path === '' || wanted.link === true) return true
    const found = installed[path]
    return found === undefined ? wanted.optional === true || wanted.peer === true : found.version === wanted.version
  })
}

/** True when `[major, minor]` of a version is at least the wanted one. */
export function versionAtLeast (version, [major, minor]) {
  const [a = 0, b = 0] = version.replace(/^v/, '').split('.').map(Number)
  return a > major || (a === major && b >= minor)
}

const say = line => { process.stderr.write(`${line}\n`) }
const isRoot = () => process.getuid?.() === 0

function onMachine (needs) {
  if (needs.startsWith('/')) return existsSync(needs)
  return [...(process.env.PATH ?? '').split(delimiter), ...SYSTEM_PATH].some(dir => {
    try {
      accessSync(join(dir, needs), constants.X_OK)
      return dir !== ''
    } catch {
      return false
    }
  })
}

function readJson (path) {
  try {
    return JSON.parse(readFileSync(path, 'utf8'))
  } catch {
    return null
  }
}

/** Runs a command with its output on our stderr; its exit code, 127 when it does not exist. */
function runVisibly (file, args, env = {}) {
  const { status, signal, error } = spawnSync(file, args, { stdio: ['ignore', 2, 2], cwd: TREE, env: { ...process.env, ...env } })
  if (error !== undefined) return 127
  // Ctrl-C reaches the child as well; go the same way it went.
  if (signal !== null) throw new PreflightError(`${file} was stopped by ${signal}`)
  return status
}

const modernNode = () => {
  const path = join(TREE, 'node_modules', '.bin', 'node')
  if (!existsSync(path)) return null
  const { stdout, status } = spawnSync(path, ['--version'], { encoding: 'utf8' })
  return status === 0 && versionAtLeast(stdout.trim(), NODE_MIN) ? realpathSync(path) : null
}

function npmPackagesReady () {
  const lock = readJson(join(TREE, 'package-lock.json'))
  if (lock === null) throw new PreflightError('package-lock.json is missing or damaged; restore it: git checkout package-lock.json')
  return npmPackagesMatch(lock, readJson(join(TREE, 'node_modules', '.package-lock.json'))) && modernNode() !== null
}

function installNpmPackages () {
  say('preflight: installing npm packages (npm ci), about a minute')
  const npm = process.env.npm_execpath
  const args = ['ci', '--include=dev', '--no-audit', '--no-fund', '--loglevel=error']
  const status = npm === undefined || !npm.endsWith('.js') ? runVisibly('npm', args) : runVisibly(process.execPath, [npm, ...args])
  if (status === 127) throw new PreflightError('npm is not installed; install it: apt-get install npm')
  if (status !== 0) throw new PreflightError(`npm ci failed with exit code ${status}; see its messages above`)
  if (!npmPackagesReady()) throw new PreflightError(`npm ci brought no Node ${NODE_MIN.join('.')} into node_modules/.bin; are install scripts switched off (npm config get ignore-scripts)?`)
}

/** Keeps Debian from starting the daemons it installs, which would take ports and do nothing for us. */
function withoutDaemons (task) {
  if (existsSync(POLICY_FILE)) {
    const pid = new RegExp(`^${POLICY_MARK}(\\d+)$`, 'm').exec(readFileSync(POLICY_FILE, 'utf8'))?.[1]
    // Ours, of a preflight that was killed: without removing it no daemon of this machine would ever start.
    if (pid !== undefined && !existsSync(`/proc/${pid}`)) rmSync(POLICY_FILE)
  }
  const ours = !existsSync(POLICY_FILE)
  if (ours) writeFileSync(POLICY_FILE, `#!/bin/sh\n${POLICY_MARK}${process.pid}\nexit 101\n`, { mode: 0o755 })
  // While apt runs we wait in spawnSync: the default action of a signal would skip the clean-up.
  const ignore = () => undefined
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(name, ignore)
  try {
    return task()
  } finally {
    if (ours) rmSync(POLICY_FILE, { force: true })
    for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.off(name, ignore)
  }
}

function installDebianPackages (packages) {
  if (!existsSync('/etc/debian_version') || !onMachine('apt-get')) {
    throw new PreflightError(`these programs are missing, and this is no Debian to install them on; their Debian packages: ${packages.join(' ')}`)
  }
  if (!isRoot()) throw new PreflightError(`Debian packages are missing; install them as root:\n  ${installCommand(packages)}`)
  say(`preflight: installing Debian packages: ${packages.join(' ')}`)
  const env = { DEBIAN_FRONTEND: 'noninteractive', NEEDRESTART_MODE: 'l' }
  const common = ['-qq', '-o', 'DPkg::Lock::Timeout=120', '-o', 'Dpkg::Use-Pty=0']
  const status = withoutDaemons(() => {
    // A stale list may still do: what is really missing shows when installing.
    if (runVisibly('apt-get', [...common, 'update'], env) !== 0) say('preflight: apt-get update failed; trying with the lists that are there')
    return runVisibly('apt-get', [...common, 'install', '-y', '--no-install-recommends', ...packages], env)
  })
  if (status !== 0) throw new PreflightError(`apt-get install failed with exit code ${status}; try by hand:\n  ${installCommand(packages)}`)
}

/** Problem with /dev/net/tun in words, or null. With `mend` it is made when it is missing. */
function tunProblem (mend) {
  const path = '/dev/net/tun'
  if (!existsSync(path) && mend) {
    spawnSync('modprobe', ['-q', 'tun'])
    if (!existsSync(path)) {
      mkdirSync(dirname(path), { recursive: true })
      spawnSync('mknod', ['-m', '0600', path, 'c', '10', '200'])
    }
  }
  if (!existsSync(path)) return `${path} is missing${mend ? ' and cannot be made here' : '; a run makes it where that is allowed'}; virtual machines need it (in a container: --device /dev/net/tun --cap-add NET_ADMIN)`
  try {
    closeSync(openSync(path, 'r+'))
    return null
  } catch (error) {
    return `${path} cannot be opened (${error.code}); is the kernel module there (modprobe tun), and is the device allowed in this container?`
  }
}

/** Everything that is not as it should be, as lines; installs nothing. */
function report (target) {
  const lines = []
  if (process.platform !== 'linux') lines.push(`${process.platform} is not Linux`)
  if (!isRoot()) lines.push(TARGETS[target].root ? 'not root' : 'not root: tests that need it are skipped')
  if (!npmPackagesReady()) lines.push('npm packages are missing or old: npm ci')
  const missing = missingRequirements(REQUIREMENTS, target, onMachine)
  if (missing.length > 0) lines.push(`missing: ${missing.map(r => r.needs).join(', ')}\n  ${installCommand(packagesOf(missing))}`)
  const tun = isRoot() ? tunProblem(false) : null
  if (tun !== null) lines.push(tun)
  return lines
}

function prepare (target) {
  if (process.platform !== 'linux') throw new PreflightError(`Musubi runs on Linux, not on ${process.platform}`)
  if (!isRoot() && TARGETS[target].root) {
    throw new PreflightError(`npm run ${target} makes network namespaces and virtual machines: run it as root (sudo npm run ${target})`)
  }
  if (!npmPackagesReady()) installNpmPackages()
  const missing = missingRequirements(REQUIREMENTS, target, onMachine)
  if (missing.length > 0) {
    if (!isRoot()) {
      say(`preflight: not root, so tests that need these are skipped: ${missing.map(r => r.needs).join(', ')}`)
    } else {
      installDebianPackages(packagesOf(missing))
      const still = missingRequirements(REQUIREMENTS, target, onMachine)
      if (still.length > 0) throw new PreflightError(`still missing after the installation: ${still.map(r => `${r.needs} (${r.package})`).join(', ')}`)
    }
  }
  if (!isRoot()) return
  const tun = tunProblem(true)
  if (tun !== null) throw new PreflightError(tun)
}

/** Starts the target and ends as it ends. */
function start (target, args) {
  const node = modernNode()
  if (node === null) throw new PreflightError('node_modules/.bin/node is missing; run: npm ci')
  const argv = [node, join(TREE, TARGETS[target].script), ...args]
  // Should this process be killed, the target is told to clean up.
  const [file, ...rest] = onMachine('setpriv') ? ['setpriv', '--pdeathsig', 'TERM', '--', ...argv] : argv
  const child = spawn(file, rest, { stdio: 'inherit', cwd: TREE, env: { ...process.env, PATH: `${join(TREE, 'node_modules', '.bin')}${delimiter}${process.env.PATH ?? SYSTEM_PATH.join(delimiter)}` } })
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(name, () => { child.kill(name) })
  child.once('error', error => {
    say(`preflight: ${file}: ${error.message}`)
    process.exit(1)
  })
  child.once('exit', (code, signal) => { process.exit(code ?? 128 + (osConstants.signals[signal] ?? 0)) })
}

function main () {
  try {
    const { check, target, args } = parseArguments(process.argv.slice(2))
    if (check) {
      const lines = report(target)
      for (const line of lines) say(line)
      if (lines.length === 0) say('nothing is missing')
      process.exitCode = lines.length === 0 ? 0 : 1
      return
    }
    prepare(target)
    start(target, args)
  } catch (error) {
    if (!(error instanceof PreflightError)) throw error
    say(`preflight: ${error.message}`)
    process.exitCode = 1
  }
}

if (process.argv[1] !== undefined && existsSync(process.argv[1]) && realpathSync(process.argv[1]) === realpathSync(fileURLToPath(import.meta.url))) main()
