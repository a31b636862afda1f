import { existsSync } from 'node:fs'
import { chown, mkdir, realpath, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { CommandError, type RunOptions, type RunResult } from '../agent/exec.ts'
import { describeError, InvalidInputError, MusubiError } from '../protocol/core/errors.ts'
import { loadOrCreateKey, peerIdOf } from '../protocol/mesh/identity.ts'
import {
  AGENT_CACHE_DIR, AGENT_CONFIG, AGENT_SOCKET, agentYaml, COORDINATOR_CONFIG, COORDINATOR_HTTP_PORT, COORDINATOR_NAME, COORDINATOR_SOCKET, coordinatorYaml,
  DEFAULT_IMAGE_STORE, HELPER_SOCKET, KEY_FILE, placeHosts, type LabSiteSpec, type PlacedHost
} from './config.ts'
import { joinHost, joinSite, type Joiner } from './join.ts'
import { DAEMON_TIMEOUT_MS, daemonProcess, holdDaemon, startDaemon, startLibvirt, waitDaemon, type Daemon } from './daemon.ts'
import { compareSnapshots, podNamespaces, settled, snapshotMachine, snapshotPod, survivors, ticksNow, type Snapshot } from './leftovers.ts'
import { prepareLibvirtHost } from './libvirt-host.ts'
import { AGENT_UID, AS_AGENT, startPod, WORK_TREE, type Pod } from './pod.ts'
import { signalProcess, waitGone, type ProcessRef } from './process.ts'
import { endLab, makeLabDir, newState, removeLabDir, sweepStaleLabs, writeState, type LabState } from './state.ts'
import { startWan, underlayAddress, type Wan } from './wan.ts'

const SETTLE_MS = 10_000
/** Longest path of a unix socket, less its terminating zero. */
const SOCKET_PATH_MAX = 107
/** What QEMU can do takes libvirt seconds to find out; it checks itself whether that still holds. */
const CAPABILITIES_DIR = join(WORK_TREE, '.cache', 'musubi', 'capabilities')
/** Agents read the same modules, so they share what they have compiled of them. */
const COMPILED_DIR = join(WORK_TREE, '.cache', 'musubi', 'agents')
const CLI = join(WORK_TREE, 'cli', 'main.ts')
/** What the units start: daemons run in a lab as they do on a host. */
const LAUNCHER = join(WORK_TREE, 'packaging', 'musubi')

export interface LabProgress {
  step: 'wan' | 'host' | 'libvirt' | 'join' | 'daemon' | 'ready'
  /** the host it is about; absent for the lab as a whole */
  host?: string
  detail: string
}

export interface LabOptions {
  /** folder for everything of the lab; by default a short one in the temporary folder */
  dir?: string
  sites: readonly LabSiteSpec[]
  rttMs: number
  /** cap of each site's uplink; none when absent */
  rateMbit?: number
  /** true: the lab outlives this process once it is complete; `--down` ends it */
  keep?: boolean
  drivers?: 'real' | 'fake'
  imageStore?: string
  logLevel?: string
  onProgress?: (progress: LabProgress) => void
  signal?: AbortSignal
}

export interface LabHost extends PlacedHost { pod: Pod, peerId: string }

/** A whole federation on this machine. Disposing it ends it unless it is kept. */
export interface Lab extends AsyncDisposable {
  readonly dir: string
  readonly keep: boolean
  readonly wan: Wan
  readonly hosts: readonly LabHost[]
  readonly coordinator: { pod: Pod, address: string, peerId: string, socket: string, url: string }
  host (name: string): LabHost
  /** The agent's unix socket as seen from this machine */
  api (host: string): string
  /** Runs the CLI inside a host, as its administrator would. @throws CommandError */
  musubi (host: string, args: readonly string[], options?: RunOptions): Promise<RunResult>
  /** Log of a host's agent, or of the coordinator, as seen from this machine */
  log (host: string): string
  /** The running agent of a host (or the coordinator); null between an end and the restart */
  agent (host: string): Promise<ProcessRef | null>
  /** The running helper of a host; null between an end and the restart */
  helper (host: string): Promise<ProcessRef | null>
  /** kill -9; the supervisor starts it again unless it is held. @returns false when it did not run */
  killAgent (host: string): Promise<boolean>
  killHelper (host: string): Promise<boolean>
  /** An agent that ends from now on stays down */
  holdAgent (host: string): Promise<void>
  resumeAgent (host: string): Promise<void>
  holdHelper (host: string): Promise<void>
  resumeHelper (host: string): Promise<void>
  /** Waits until the host's API answers */
  waitAgent (host: string, timeoutMs?: number): Promise<void>
  waitHelper (host: string, timeoutMs?: number): Promise<void>
  /**
   * What is there that was not when the lab was ready, after giving it time to go away; once the
   * lab is stopped: what it left on the machine. Empty means clean
   */
  leftovers (options?: { settleMs?: number }): Promise<string[]>
  stop (): Promise<void>
}

/**
 * Starts a lab: underlay, coordinator, hosts with their agents, and waits until all of them answer.
 * A failure or an abort ends everything that was started.
 *
 * @throws MusubiError naming the host that did not come up, with the end of its log
 */
export async function startLab (options: LabOptions): Promise<Lab> {
  const placed = placeHosts(options.sites)
  const swept = await sweepStaleLabs()
  const dir = await makeLabDir(options.dir)
  const progress = options.onProgress ?? (() => undefined)
  for (const old of swept) progress({ step: 'wan', detail: `removed ${old}, left by a lab that was killed` })
  try {
    const machine = await snapshotMachine(dir)
    const plan = await writeFiles({ dir, placed, progress, options })
    const parts = await startPods(plan)
    const daemons = await startDaemons(plan, parts)
    const lab = await operate(plan, parts, daemons, machine)
    plan.state.kept = lab.keep
    await writeState(plan.state)
    progress({ step: 'ready', detail: `${placed.length} hosts at ${options.sites.length} sites` })
    return lab
  } catch (error) {
    try {
      await endLab(dir)
    } catch (second) {
      throw new MusubiError('CLEANUP_FAILED', `${describeError(error)}; and cleaning up after that: ${describeError(second)}`, { cause: error, hint: `what is left is in ${dir}` })
    }
    options.signal?.throwIfAborted()
    throw error
  }
}

type NamedHost = PlacedHost & { peerId: string }

interface Draft { dir: string, placed: readonly PlacedHost[], options: LabOptions, progress: (progress: LabProgress) => void }

/** A lab of which only files exist. */
interface Plan extends Draft {
  state: LabState
  hosts: readonly NamedHost[]
  coordinatorPeerId: string
  imageStore: string
  libvirt: (host: PlacedHost) => boolean
}

/** The running pods of a lab, connected to each other. */
interface Parts { wan: Wan, coordinator: Pod, hosts: ReadonlyArray<{ host: LabHost, libvirt: readonly string[] | null }>, namespaces: Set<string> }

/** Keys, configuration files, and the state file that says whose folder this is. */
async function writeFiles (draft: Draft): Promise<Plan> {
  const { dir, placed, options } = draft
  for (const socket of [`${dir}/${COORDINATOR_NAME}${COORDINATOR_SOCKET}`, ...placed.flatMap(h => [`${dir}/${h.name}${AGENT_SOCKET}`, `${dir}/${h.name}${HELPER_SOCKET}`])]) {
    if (Buffer.byteLength(socket) > SOCKET_PATH_MAX) throw new InvalidInputError(`${socket} is too long for a unix socket`, 'use a shorter folder or host name')
  }
  const state = await newState(dir, options.sites.map(site => ({ name: site.name, hosts: site.hosts.map(h => h.name) })), Date.now())
  await writeState(state)

  const { imageStore: store = DEFAULT_IMAGE_STORE, drivers = 'real', logLevel = 'info' } = options
  await mkdir(store, { recursive: true })
  await mkdir(COMPILED_DIR, { recursive: true })
  await chown(COMPILED_DIR, AGENT_UID, AGENT_UID)
  // Without symbolic links: pods see the folder under this very path.
  const imageStore = await realpath(store)
  const keyOf = async (name: string): Promise<string> => peerIdOf(await loadOrCreateKey(join(dir, name, KEY_FILE)))
  const coordinatorPeerId = await keyOf(COORDINATOR_NAME)
  const hosts = await allOf(placed.map(async host => ({ ...host, peerId: await keyOf(host.name) })))
  const configure = async (name: string, file: string, text: string): Promise<void> => {
    await mkdir(join(dir, name, 'etc', 'musubi'), { recursive: true })
    await writeFile(join(dir, name, file), text)
  }
  await configure(COORDINATOR_NAME, COORDINATOR_CONFIG, coordinatorYaml(logLevel))
  for (const host of hosts) await configure(host.name, AGENT_CONFIG, agentYaml(host, { imageStore, drivers, logLevel }))
  return { ...draft, state, hosts, coordinatorPeerId, imageStore, libvirt: host => drivers === 'real' && host.roles.includes('compute') }
}

/** Underlay, coordinator and hosts, all at once, then the links between them. */
async function startPods (plan: Plan): Promise<Parts> {
  const { dir, options, state } = plan
  const more = { keep: options.keep ?? false, ...(options.signal === undefined ? {} : { signal: options.signal }) }
  const namespaces = new Set<string>()
  let writing = Promise.resolve()
  // Each is on record as soon as it runs: whoever ends this lab after us must find it.
  const record = async (pod: Pod): Promise<Pod> => {
    state.pods.push({ name: pod.name, dir: pod.dir, init: pod.init, keeper: pod.keeper })
    writing = writing.then(() => writeState(state))
    await writing
    for (const name of await podNamespaces(pod)) namespaces.add(name)
    return pod
  }
  const underlay = async (): Promise<Wan> => {
    const wan = await startWan({ dir: join(dir, 'wan'), sites: options.sites.map(s => s.name), rttMs: options.rttMs, ...(options.rateMbit === undefined ? {} : { rateMbit: options.rateMbit }), ...more })
    await record(wan.pod)
    return wan
  }
  const startHost = async (host: NamedHost): Promise<Parts['hosts'][number]> => {
    const libvirt = plan.libvirt(host) ? await prepareLibvirtHost({ dir: join(dir, host.name), name: host.name, capabilitiesDir: CAPABILITIES_DIR }) : null
    const pod = await record(await startPod({ name: host.name, dir: join(dir, host.name), visible: [plan.imageStore], mounts: [{ source: COMPILED_DIR, target: AGENT_CACHE_DIR }, ...libvirt?.mounts ?? []], ...more }))
    await mustBeReadable(pod)
    return { host: { ...host, pod }, libvirt: libvirt?.argv ?? null }
  }
  plan.progress({ step: 'wan', detail: `underlay with ${options.rttMs} ms between sites` })
  const [wan, coordinator, hosts] = await allOf([
    underlay(), startPod({ name: COORDINATOR_NAME, dir: join(dir, COORDINATOR_NAME), ...more }).then(record), allOf(plan.hosts.map(startHost))
  ])
  await allOf([wan.attach(coordinator, null, 1), ...hosts.map(({ host }) => wan.attach(host.pod, host.site, host.hostIndex))])
  for (const { host } of hosts) plan.progress({ step: 'host', host: host.name, detail: `${host.site}, ${host.roles.join(',')}, ${host.address}` })
  return { wan, coordinator, hosts, namespaces }
}

/** The absolute path of the Node that the work tree brings; the machine's own may be too old. */
const nodeBinary = async (): Promise<string> => await realpath(join(WORK_TREE, 'node_modules', '.bin', 'node'))

/** Agents have no right to read what is root's alone. @throws MusubiError */
async function mustBeReadable (pod: Pod): Promise<void> {
  await pod.exec([...AS_AGENT, 'test', '-r', CLI, '-a', '-x', await nodeBinary()]).catch((error: unknown) => {
    throw new MusubiError('WORK_TREE_PRIVATE', `agents run as another user, who cannot read ${WORK_TREE}`, { hint: `chmod -R go+rX ${WORK_TREE}`, cause: error })
  })
}

/** What runs in a lab: for every host its agent and its helper, and the coordinator. */
interface Daemons { main: ReadonlyMap<string, Daemon>, helpers: ReadonlyMap<string, Daemon> }

/** libvirtd, agents, helpers and the coordinator, each under its supervisor, until all of them answer. */
async function startDaemons (plan: Plan, parts: Parts): Promise<Daemons> {
  const { progress, options: { signal } } = plan
  const node = await nodeBinary()
  const daemons = new Map<string, Daemon>()
  const helpers = new Map<string, Daemon>()
  const start = async (name: string, pod: Pod, kind: Daemon['kind'], config: string, socket: string): Promise<void> => {
    const daemon: Daemon = {
      kind, name, pod, argv: [...(kind === 'agent' ? AS_AGENT : []), LAUNCHER, kind, 'run', '--config', config], socket: pod.path(socket), log: join(pod.dir, `${kind}.log`),
      ...(kind === 'agent' ? { env: { CACHE_DIRECTORY: AGENT_CACHE_DIR } } : {})
    }
    const ofKind = kind === 'helper' ? helpers : daemons
    ofKind.set(name, daemon)
    await startDaemon(daemon, signal)
    progress({ step: 'daemon', host: name, detail: `${kind} answers` })
  }
  const musubi = (pod: Pod, as: readonly string[] = AS_AGENT): Joiner => async args => await pod.exec([...as, node, CLI, ...args], { timeoutMs: DAEMON_TIMEOUT_MS, ...(signal === undefined ? {} : { signal }) }).catch((error: unknown) => {
    if (!(error instanceof CommandError)) throw error
    // its message would show the token
    throw new MusubiError('DAEMON_FAILED', `musubi ${args.slice(0, 2).join(' ')} on ${pod.name} did not come up: ${error.stderr.trim().split('\n').slice(-4).join('\n')}`)
  })
  const coordinator = musubi(parts.coordinator, [])
  await coordinator(['coordinator', 'init', '--config', COORDINATOR_CONFIG])
  await start(COORDINATOR_NAME, parts.coordinator, 'coordinator', COORDINATOR_CONFIG, COORDINATOR_SOCKET)
  const startHost = async ({ host, libvirt }: Parts['hosts'][number], joined: () => Promise<void>): Promise<void> => {
    await allOf([joined(), start(host.name, host.pod, 'helper', AGENT_CONFIG, HELPER_SOCKET), libvirt === null ? Promise.resolve() : startLibvirt(host.pod, libvirt, signal)])
    if (libvirt !== null) progress({ step: 'libvirt', host: host.name, detail: 'libvirtd runs' })
    progress({ step: 'join', host: host.name, detail: `member of ${host.site} by token` })
    await start(host.name, host.pod, 'agent', AGENT_CONFIG, AGENT_SOCKET)
  }
  // as administrators would: each site by its first gateway, then host by host
  await allOf(plan.options.sites.map(async site => {
    const hosts = parts.hosts.filter(({ host }) => host.site === site.name)
    const first = hosts.find(({ host }) => host.roles.includes('gateway'))
    if (first === undefined) return
    const gateway = musubi(first.host.pod)
    await startHost(first, async () => { await joinSite(coordinator, gateway, site.name, AGENT_CONFIG) })
    await allOf(hosts.filter(other => other !== first).map(async other => {
      await startHost(other, async () => { await joinHost(gateway, musubi(other.host.pod), other.host, AGENT_CONFIG) })
    }))
  }))
  return { main: daemons, helpers }
}

/** The lab in working order. `machine`: what the machine had before it. */
async function operate (plan: Plan, parts: Parts, { main: daemons, helpers }: Daemons, machine: Snapshot): Promise<Lab> {
  const { dir, options } = plan
  const keep = options.keep ?? false
  const hosts = parts.hosts.map(h => h.host)
  const node = await nodeBinary()
  const stranger = (name: string): InvalidInputError => new InvalidInputError(`this lab has no host ${name}`, `it has ${[...daemons.keys()].join(', ')}`)
  const daemonOf = (name: string): Daemon => {
    const daemon = daemons.get(name)
    if (daemon === undefined) throw stranger(name)
    return daemon
  }
  const helperOf = (name: string): Daemon => {
    const daemon = helpers.get(name)
    if (daemon === undefined) throw stranger(name)
    return daemon
  }
  const kill = async (daemon: Daemon): Promise<boolean> => {
    const process = await daemonProcess(daemon)
    return process !== null && signalProcess(process, 'SIGKILL') && await waitGone(process, 5_000)
  }
  const leftovers = await watchLeftovers(plan, parts, machine)
  let stopping: Promise<void> | null = null
  const stop = async (): Promise<void> => {
    stopping ??= (async () => {
      await endLab(dir, { keepFiles: true })
      await leftovers.ended()
      await removeLabDir(dir)
    })()
    await stopping
  }
  return {
    dir,
    keep,
    wan: parts.wan,
    hosts,
    coordinator: {
      pod: parts.coordinator, address: underlayAddress(0, 1), peerId: plan.coordinatorPeerId, socket: daemonOf(COORDINATOR_NAME).socket,
      url: `http://${underlayAddress(0, 1)}:${COORDINATOR_HTTP_PORT}`
    },
    host: name => {
      const host = hosts.find(h => h.name === name)
      if (host === undefined) throw stranger(name)
      return host
    },
    api: name => daemonOf(name).socket,
    musubi: async (name, args, runOptions) => await daemonOf(name).pod.exec([node, CLI, ...args], runOptions),
    log: name => daemonOf(name).log,
    agent: async name => await daemonProcess(daemonOf(name)),
    helper: async name => await daemonProcess(helperOf(name)),
    killAgent: async name => await kill(daemonOf(name)),
    killHelper: async name => await kill(helperOf(name)),
    holdAgent: async name => { await holdDaemon(daemonOf(name), true) },
    resumeAgent: async name => { await holdDaemon(daemonOf(name), false) },
    holdHelper: async name => { await holdDaemon(helperOf(name), true) },
    resumeHelper: async name => { await holdDaemon(helperOf(name), false) },
    waitHelper: async (name, timeoutMs = DAEMON_TIMEOUT_MS) => { await waitDaemon(helperOf(name), timeoutMs, options.signal) },
    waitAgent: async (name, timeoutMs = DAEMON_TIMEOUT_MS) => { await waitDaemon(daemonOf(name), timeoutMs, options.signal) },
    leftovers: async ({ settleMs = SETTLE_MS } = {}) => await settled(leftovers.search, settleMs),
    stop,
    [Symbol.asyncDispose]: async () => { if (!keep) await stop() }
  }
}

/** Compares hosts and machine with what they are now; `ended` is called when the pods are gone. */
async function watchLeftovers (plan: Plan, parts: Parts, machine: Snapshot): Promise<{ search: () => Promise<string[]>, ended: () => Promise<void> }> {
  let endedTicks: number | null = null
  const snapshot = async (): Promise<Map<string, Snapshot>> => {
    const places: Array<[string, () => Promise<Snapshot>]> = [
      ...parts.hosts.map(({ host, libvirt }): [string, () => Promise<Snapshot>] => [host.name, () => snapshotPod(host.pod, { libvirt: libvirt !== null })]),
      [COORDINATOR_NAME, () => snapshotPod(parts.coordinator, { libvirt: false })],
      ['machine', () => snapshotMachine(plan.dir)]
    ]
    return new Map(await allOf(places.map(async ([place, take]): Promise<[string, Snapshot]> => [place, await take()])))
  }
  const baseline = (await snapshot()).set('machine', machine)
  return {
    search: async () => {
      if (endedTicks === null) return [...await snapshot()].flatMap(([place, now]) => compareSnapshots(place, baseline.get(place) ?? now, now))
      return [
        ...compareSnapshots('machine', machine, await snapshotMachine(plan.dir)),
        ...await survivors(plan.dir, parts.namespaces, endedTicks),
        ...(existsSync(plan.dir) ? [`machine: folder ${plan.dir}`] : [])
      ]
    },
    ended: async () => { endedTicks = await ticksNow() }
  }
}

/** `Promise.all` that lets every task finish before it fails: what is still starting could not be ended. */
async function allOf<T extends readonly unknown[]> (tasks: readonly [...{ [K in keyof T]: Promise<T[K]> }]): Promise<T>
async function allOf<T> (tasks: ReadonlyArray<Promise<T>>): Promise<T[]>
async function allOf (tasks: ReadonlyArray<Promise<unknown>>): Promise<unknown> {
  const results = await Promise.allSettled(tasks)
  for (const result of results) if (result.status === 'rejected') throw result.reason
  return results.map(result => result.status === 'fulfilled' ? result.value : undefined)
}
