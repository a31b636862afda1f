import { existsSync } from 'node:fs'
import { appendFile, mkdir, readFile, realpath, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { call } from '../cli/client.ts'
import { describeError, InvalidInputError, MusubiError } from '../protocol/core/errors.ts'
import { loadOrCreateKey, peerIdOf } from '../protocol/mesh/identity.ts'
import {
  AGENT_CONFIG, AGENT_SOCKET, agentYaml, COORDINATOR_CONFIG, COORDINATOR_HTTP_PORT, COORDINATOR_NAME, COORDINATOR_SOCKET, coordinatorYaml,
  DEFAULT_IMAGE_STORE, FEDERATION_FILE, federationYaml, KEY_FILE, placeHosts, type LabSiteSpec, type PlacedHost
} from './config.ts'
import { compareSnapshots, podNamespaces, settled, snapshotMachine, snapshotPod, survivors, ticksNow, type Snapshot } from './leftovers.ts'
import { prepareLibvirtHost } from './libvirt-host.ts'
import { startPod, WORK_TREE, type Pod } from './pod.ts'
import { processesOfPod, signalProcess, until, waitGone, type ProcessRef } from './process.ts'
import { endLab, makeLabDir, newState, removeLabDir, sweepStaleLabs, writeState } from './state.ts'
import { startWan, underlayAddress, type Wan } from './wan.ts'

/** An agent loads in about a second; a lab starts all of its agents at once on few cores. */
const DAEMON_TIMEOUT_MS = 60_000
const SETTLE_MS = 10_000
/** Longest path of a unix socket, less its terminating zero. */
const SOCKET_PATH_MAX = 107
const SUPERVISOR = join(WORK_TREE, 'lab', 'scripts', 'supervise.sh')
const DAEMON_DIR = '/run/lab-daemon'

export interface LabProgress {
  step: 'wan' | 'host' | 'libvirt' | 'daemon' | 'ready'
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
  /** Log of a host's agent, or of the coordinator, as seen from this machine */
  log (host: string): string
  /** The running agent of a host (or the coordinator); null between an end and the restart */
  agent (host: string): Promise<ProcessRef | null>
  /** kill -9; the supervisor starts it again unless it is held. @returns false when it did not run */
  killAgent (host: string): Promise<boolean>
  /** An agent that ends from now on stays down */
  holdAgent (host: string): Promise<void>
  resumeAgent (host: string): Promise<void>
  /** Waits until the host's API answers */
  waitAgent (host: string, timeoutMs?: number): Promise<void>
  /**
   * What is there that was not when the lab was ready, after giving it time to go away; once the
   * lab is stopped: what it left on the machine. Empty means clean
   */
  leftovers (options?: { settleMs?: number }): Promise<string[]>
  stop (): Promise<void>
}

/** What a daemon needs: a host's agent, or the coordinator. */
interface Daemon { name: string, pod: Pod, argv: string[], socket: string, log: string }

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
    return await buildLab(dir, placed, options, progress)
  } catch (error) {
    await endLab(dir)
    throw options.signal?.aborted === true ? options.signal.reason : error
  }
}

async function buildLab (dir: string, placed: readonly PlacedHost[], options: LabOptions, progress: (p: LabProgress) => void): Promise<Lab> {
  const { keep = false, drivers = 'real', imageStore = DEFAULT_IMAGE_STORE, logLevel = 'info', signal } = options
  const more = { keep, ...(signal === undefined ? {} : { signal }) }
  const longest = [...placed].sort((a, b) => b.name.length - a.name.length)[0]?.name ?? ''
  for (const socket of [`${dir}/${longest}${AGENT_SOCKET}`, `${dir}/${COORDINATOR_NAME}${COORDINATOR_SOCKET}`]) {
    if (Buffer.byteLength(socket) > SOCKET_PATH_MAX) throw new InvalidInputError(`${socket} is too long for a unix socket`, 'use a shorter folder or host name')
  }
  const sites = options.sites.map(site => ({ name: site.name, hosts: site.hosts.map(h => h.name) }))
  const state = await newState(dir, sites, Date.now())
  await writeState(state)
  await mkdir(imageStore, { recursive: true })
  const machineBefore = await snapshotMachine(dir)

  let writing = Promise.resolve()
  const started = async (pod: Promise<Pod>): Promise<Pod> => {
    const { name, dir: podDir, init, keeper } = await pod
    state.pods.push({ name, dir: podDir, init, keeper })
    writing = writing.then(async () => { await writeState(state) })
    await writing
    return await pod
  }
  const namespaces = new Set<string>()
  const note = async (pod: Pod): Promise<void> => { for (const name of await podNamespaces(pod)) namespaces.add(name) }

  const keyOf = async (name: string): Promise<string> => peerIdOf(await loadOrCreateKey(join(dir, name, KEY_FILE)))
  const coordinatorPeerId = await keyOf(COORDINATOR_NAME)
  const withIds = await Promise.all(placed.map(async host => ({ ...host, peerId: await keyOf(host.name) })))
  const federation = federationYaml(withIds, coordinatorPeerId)
  const configure = async (name: string, file: string, text: string): Promise<void> => {
    await mkdir(join(dir, name, 'etc', 'musubi'), { recursive: true })
    await writeFile(join(dir, name, file), text)
    await writeFile(join(dir, name, FEDERATION_FILE), federation)
  }

  progress({ step: 'wan', detail: `underlay with ${options.rttMs} ms between sites` })
  const startHost = async (host: typeof withIds[number]): Promise<{ host: LabHost, libvirt: string[] | null }> => {
    await configure(host.name, AGENT_CONFIG, agentYaml(host, { imageStore: await visibleStore(imageStore), drivers, logLevel }))
    const libvirt = drivers === 'real' && host.roles.includes('compute')
      ? await prepareLibvirtHost({ dir: join(dir, host.name), name: host.name, capabilitiesDir: join(dir, 'capabilities') })
      : null
    const pod = await started(startPod({ name: host.name, dir: join(dir, host.name), visible: [await visibleStore(imageStore)], mounts: libvirt?.mounts ?? [], ...more }))
    return { host: { ...host, pod }, libvirt: libvirt?.argv ?? null }
  }
  const startCoordinator = async (): Promise<Pod> => {
    await configure(COORDINATOR_NAME, COORDINATOR_CONFIG, coordinatorYaml(logLevel))
    return await started(startPod({ name: COORDINATOR_NAME, dir: join(dir, COORDINATOR_NAME), ...more }))
  }
  const startUnderlay = async (): Promise<Wan> => {
    const wan = await startWan({ dir: join(dir, 'wan'), sites: options.sites.map(s => s.name), rttMs: options.rttMs, ...(options.rateMbit === undefined ? {} : { rateMbit: options.rateMbit }), ...more })
    await started(Promise.resolve(wan.pod))
    return wan
  }
  const [wan, coordinatorPod, made] = await allOf([startUnderlay(), startCoordinator(), allOf(withIds.map(startHost))])
  const hosts = made.map(m => m.host)
  for (const pod of [wan.pod, coordinatorPod, ...hosts.map(h => h.pod)]) await note(pod)
  await allOf([wan.attach(coordinatorPod, null, 1), ...hosts.map(async h => await wan.attach(h.pod, h.site, h.hostIndex))])
  for (const host of hosts) progress({ step: 'host', host: host.name, detail: `${host.site}, ${host.roles.join(',')}, ${host.address}` })

  const node = await realpath(join(WORK_TREE, 'node_modules', '.bin', 'node'))
  const cli = join(WORK_TREE, 'cli', 'main.ts')
  const daemons = new Map<string, Daemon>()
  const addDaemon = (name: string, pod: Pod, kind: 'agent' | 'coordinator', config: string, socket: string): Daemon => {
    const daemon = { name, pod, argv: [node, cli, kind, 'run', '--config', config], socket: pod.path(socket), log: join(pod.dir, `${kind}.log`) }
    daemons.set(name, daemon)
    return daemon
  }
  const coordinatorDaemon = addDaemon(COORDINATOR_NAME, coordinatorPod, 'coordinator', COORDINATOR_CONFIG, COORDINATOR_SOCKET)
  await allOf([
    startDaemon(coordinatorDaemon, signal).then(() => { progress({ step: 'daemon', host: COORDINATOR_NAME, detail: 'coordinator answers' }) }),
    ...made.map(async ({ host, libvirt }) => {
      if (libvirt !== null) {
        await startLibvirt(host.pod, libvirt, signal)
        progress({ step: 'libvirt', host: host.name, detail: 'libvirtd runs' })
      }
      await startDaemon(addDaemon(host.name, host.pod, 'agent', AGENT_CONFIG, AGENT_SOCKET), signal)
      progress({ step: 'daemon', host: host.name, detail: 'agent answers' })
    })
  ])

  const snapshot = async (): Promise<Map<string, Snapshot>> => new Map(await Promise.all([
    ...made.map(async ({ host, libvirt }): Promise<[string, Snapshot]> => [host.name, await snapshotPod(host.pod, { libvirt: libvirt !== null })]),
    snapshotPod(coordinatorPod, { libvirt: false }).then((s): [string, Snapshot] => [COORDINATOR_NAME, s]),
    snapshotMachine(dir).then((s): [string, Snapshot] => ['machine', s])
  ]))
  const baseline = await snapshot()
  baseline.set('machine', machineBefore)
  state.kept = keep
  await writeState(state)
  progress({ step: 'ready', detail: `${hosts.length} hosts at ${sites.length} sites` })

  let stopped: Promise<void> | null = null
  let endedTicks: number | null = null
  const stop = async (): Promise<void> => {
    stopped ??= (async () => {
      await endLab(dir, { keepFiles: true })
      endedTicks = await ticksNow()
      await removeLabDir(dir)
    })()
    await stopped
  }
  const find = (name: string): LabHost => {
    const host = hosts.find(h => h.name === name)
    if (host === undefined) throw new InvalidInputError(`this lab has no host ${name}`, `it has ${hosts.map(h => h.name).join(', ')}`)
    return host
  }
  const daemonOf = (name: string): Daemon => daemons.get(name) ?? daemons.get(find(name).name) ?? coordinatorDaemon
  const search = async (): Promise<string[]> => {
    if (endedTicks !== null) {
      return [
        ...compareSnapshots('machine', machineBefore, await snapshotMachine(dir)),
        ...await survivors(dir, namespaces, endedTicks),
        ...(existsSync(dir) ? [`machine: folder ${dir}`] : [])
      ]
    }
    const now = await snapshot()
    return [...now].flatMap(([place, s]) => compareSnapshots(place, baseline.get(place) ?? s, s))
  }

  return {
    dir, keep, wan, hosts,
    coordinator: {
      pod: coordinatorPod, address: underlayAddress(0, 1), peerId: coordinatorPeerId, socket: coordinatorDaemon.socket,
      url: `http://${underlayAddress(0, 1)}:${COORDINATOR_HTTP_PORT}`
    },
    host: find,
    api: name => daemonOf(name).socket,
    log: name => daemonOf(name).log,
    agent: async name => await daemonProcess(daemonOf(name)),
    killAgent: async name => {
      const process = await daemonProcess(daemonOf(name))
      if (process === null || !(await signalProcess(process, 'SIGKILL'))) return false
      return await waitGone(process, 5_000)
    },
    holdAgent: async name => { await writeFile(daemonOf(name).pod.path(`${DAEMON_DIR}/hold`), '') },
    resumeAgent: async name => { await rm(daemonOf(name).pod.path(`${DAEMON_DIR}/hold`), { force: true }) },
    waitAgent: async (name, timeoutMs = DAEMON_TIMEOUT_MS) => { await waitDaemon(daemonOf(name), timeoutMs, signal) },
    leftovers: async ({ settleMs = SETTLE_MS } = {}) => await settled(search, settleMs),
    stop,
    [Symbol.asyncDispose]: async () => { if (!keep) await stop() }
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

/** The image store as pods see it: the same path, without symbolic links. */
async function visibleStore (path: string): Promise<string> {
  return await realpath(path)
}

async function startLibvirt (pod: Pod, argv: readonly string[], signal: AbortSignal | undefined): Promise<void> {
  const log = join(pod.dir, 'libvirtd.log')
  const daemon = await pod.spawn(argv, { log })
  await until(`libvirtd on ${pod.name}`, DAEMON_TIMEOUT_MS, async () => {
    if (!(await daemon.alive())) throw new MusubiError('DAEMON_FAILED', `libvirtd on ${pod.name} ended: ${await tail(log)}`)
    return existsSync(pod.path('/run/libvirt/libvirt-sock'))
  }, signal === undefined ? {} : { signal })
}

async function startDaemon (daemon: Daemon, signal: AbortSignal | undefined): Promise<void> {
  await mkdir(daemon.pod.path(DAEMON_DIR), { recursive: true })
  await appendFile(daemon.log, '')
  await daemon.pod.spawn(['/bin/sh', SUPERVISOR, DAEMON_DIR, ...daemon.argv], { log: daemon.log })
  await waitDaemon(daemon, DAEMON_TIMEOUT_MS, signal)
}

async function waitDaemon (daemon: Daemon, timeoutMs: number, signal: AbortSignal | undefined): Promise<void> {
  let last = 'no attempt was made'
  const ended = async (): Promise<number> => (await readFile(daemon.pod.path(`${DAEMON_DIR}/exits`), 'utf8').catch(() => '')).split('\n').length
  const before = await ended()
  try {
    await until(`the API of ${daemon.name}`, timeoutMs, async () => {
      // Its configuration will not get better by starting it again and again.
      if (await ended() >= before + 3) throw new MusubiError('DAEMON_FAILED', 'it ends again and again')
      if (!existsSync(daemon.socket)) return false
      return await call({ socketPath: daemon.socket, what: 'agent' }, 'GET', '/v1/status').then(() => true, (error: unknown) => {
        last = describeError(error)
        return false
      })
    }, { everyMs: 50, ...(signal === undefined ? {} : { signal }) })
  } catch (error) {
    signal?.throwIfAborted()
    throw new MusubiError('DAEMON_FAILED', `${daemon.argv.slice(1, 4).join(' ')} on ${daemon.name} did not come up (${describeError(error)}; ${last}): ${await tail(daemon.log)}`, { cause: error })
  }
}

/** The daemon that the supervisor runs now. */
async function daemonProcess (daemon: Daemon): Promise<ProcessRef | null> {
  const text = await readFile(daemon.pod.path(`${DAEMON_DIR}/pid`), 'utf8').catch(() => '')
  const inner = Number(text)
  return (await processesOfPod(daemon.pod.pid)).find(p => p.innerPid === inner) ?? null
}

async function tail (path: string): Promise<string> {
  const text = await readFile(path, 'utf8').catch(() => '')
  return text.trim() === '' ? 'its log is empty' : text.trim().split('\n').slice(-8).join('\n')
}
