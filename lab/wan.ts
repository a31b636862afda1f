import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { run } from '../agent/exec.ts'
import { InvalidInputError, MusubiError, NotFoundError } from '../protocol/core/errors.ts'
import { startPod, type Pod, type SpawnedProcess } from './pod.ts'
import { until } from './process.ts'

const RELAY = join(import.meta.dirname, 'scripts', 'relay.py')
/** Debian's own: another Python that comes first in PATH may lack modules. */
const PYTHON = '/usr/bin/python3'
const DELAY_FILE = '/run/delay'
const RTT_MAX_MS = 2_000
const OFFLOADS = ['tso', 'gso', 'gro', 'tx', 'rx', 'sg']

/** Prefix length of the one underlay network of a lab. */
export const UNDERLAY_PREFIX = 16
/** Underlay address of a host; sites and hosts count from 1, the coordinator is host 1 of site 0. */
export const underlayAddress = (site: number, host: number): string => `10.99.${site}.${host}`

export interface WanOptions {
  /** folder for the files of the WAN pod */
  dir: string
  sites: readonly string[]
  /** from a host of one site to a host of another and back */
  rttMs: number
  /** cap of each site's uplink, each way; none when absent */
  rateMbit?: number
  keep?: boolean
  signal?: AbortSignal
}

export interface Wan extends AsyncDisposable {
  readonly pod: Pod
  /** how the delay is made: by the kernel, or by a relay where the kernel cannot */
  readonly method: 'netem' | 'relay'
  /** Plugs a pod into a site's LAN, or into the WAN itself (null). @returns its address */
  attach (pod: Pod, site: string | null, host: number): Promise<string>
  /** Bytes that a site's uplink carried: `rxBytes` into the site, `txBytes` out of it */
  counters (site: string): Promise<{ rxBytes: number, txBytes: number }>
  setRtt (rttMs: number): Promise<void>
  /** true cuts a site off from all others, false joins it again; its own LAN goes on */
  partition (site: string, cut: boolean): Promise<void>
  stop (): Promise<void>
}

/** A frame passes an uplink four times on the way to another site and back. */
export const uplinkDelayMs = (rttMs: number): number => rttMs / 4

/** tc arguments that give an uplink its delay and rate, for kernels with netem. */
export function netemArgs (rttMs: number, rateMbit: number | undefined): string[] {
  // The queue holds what is under way: the default of 1000 packets would cap the rate instead.
  const limit = Math.ceil(1_000 + (rateMbit ?? 10_000) * 1e3 * (rttMs + 50) / (1_500 * 8))
  return ['netem', 'delay', `${uplinkDelayMs(rttMs)}ms`, 'limit', String(limit), ...(rateMbit === undefined ? [] : ['rate', `${rateMbit}mbit`])]
}

/** tc arguments for the rate alone: 2 ms of burst, 50 ms of queue. */
export function tbfArgs (rateMbit: number): string[] {
  return ['tbf', 'rate', `${rateMbit}mbit`, 'burst', String(Math.max(65_536, Math.ceil(rateMbit * 250))), 'latency', '50ms']
}

function checkRtt (rttMs: number): void {
  if (!Number.isFinite(rttMs) || rttMs < 0 || rttMs > RTT_MAX_MS) throw new InvalidInputError(`an RTT of ${rttMs} ms is not possible here`, `between 0 and ${RTT_MAX_MS}`)
}

/** Runs lines of ip(8) in a pod's network with pids as we see them: they name where links go. */
async function ipBatch (pod: Pod, lines: readonly string[], signal?: AbortSignal): Promise<void> {
  await run('nsenter', ['-t', String(pod.pid), '-n', '--', 'ip', '-batch', '-'], { input: `${lines.join('\n')}\n`, ...(signal === undefined ? {} : { signal }) })
}

/**
 * The underlay of a lab: one bridge per site's LAN, one for the WAN, and between them uplinks with
 * delay and a rate cap, all in one pod.
 */
export async function startWan (options: WanOptions): Promise<Wan> {
  const { sites, rateMbit, signal } = options
  checkRtt(options.rttMs)
  if (rateMbit !== undefined && !(rateMbit >= 1 && rateMbit <= 100_000)) throw new InvalidInputError(`an uplink of ${rateMbit} Mbit/s is not possible here`, 'between 1 and 100000')
  if (sites.length > 250 || new Set(sites).size !== sites.length) throw new InvalidInputError('at most 250 sites, each name once')
  const common = { ...(options.keep === undefined ? {} : { keep: options.keep }), ...(signal === undefined ? {} : { signal }) }
  const pod = await startPod({ name: 'wan', dir: options.dir, ...common })
  try {
    return await buildWan(pod, options)
  } catch (error) {
    await pod.stop()
    throw error
  }
}

async function buildWan (pod: Pod, { sites, rttMs, rateMbit, signal }: WanOptions): Promise<Wan> {
  const more = signal === undefined ? {} : { signal }
  // Plain wires: no IPv6 chatter of their own, no packet filter in the way of bridged frames.
  await pod.exec(['sysctl', '-e', '-q', '-w', 'net.ipv6.conf.default.disable_ipv6=1', 'net.bridge.bridge-nf-call-iptables=0', 'net.bridge.bridge-nf-call-ip6tables=0', 'net.bridge.bridge-nf-call-arptables=0'], more)
  const bridge = (name: string): string => `link add ${name} up type bridge stp_state 0 forward_delay 0 mcast_snooping 0`
  await ipBatch(pod, [bridge('wan'), ...sites.map((_, i) => bridge(`lan${i + 1}`)), 'link add probe0 type veth peer name probe1'], signal)
  const netem = await pod.exec(['tc', 'qdisc', 'add', 'dev', 'probe0', 'root', 'netem', 'delay', '1ms'], more).then(() => true, () => false)
  await ipBatch(pod, ['link del probe0'], signal)

  const relays: SpawnedProcess[] = []
  const shape = async (link: string, args: readonly string[]): Promise<void> => {
    await pod.exec(['tc', 'qdisc', 'replace', 'dev', link, 'root', ...args], more)
  }
  const writeDelay = async (ms: number): Promise<void> => { await writeFile(pod.path(DELAY_FILE), `${uplinkDelayMs(ms)}\n`) }
  if (!netem) await writeDelay(rttMs)

  const ends = (i: number): string[] => [`u${i}l`, `u${i}w`]
  await Promise.all(sites.map(async (_, index) => {
    const i = index + 1
    if (netem) {
      await ipBatch(pod, [`link add u${i}l up master lan${i} type veth peer name u${i}w`, `link set u${i}w up master wan`], signal)
      for (const link of ends(i)) await shape(link, netemArgs(rttMs, rateMbit))
      return
    }
    await ipBatch(pod, [
      `link add u${i}l type veth peer name u${i}a`, `link add u${i}w type veth peer name u${i}b`,
      `link set u${i}l up master lan${i}`, `link set u${i}w up master wan`, `link set u${i}a up`, `link set u${i}b up`
    ], signal)
    for (const link of [`u${i}l`, `u${i}a`, `u${i}b`, `u${i}w`]) {
      await pod.exec(['ethtool', '-K', link, ...OFFLOADS.flatMap(name => [name, 'off'])], more)
    }
    if (rateMbit !== undefined) for (const link of ends(i)) await shape(link, tbfArgs(rateMbit))
    const log = join(pod.dir, `relay${i}.log`)
    relays.push(await pod.spawn([PYTHON, '-I', RELAY, `u${i}a`, `u${i}b`, DELAY_FILE], { log }))
    await until(`the delay relay of site ${i}`, 10_000, async () => (await readFile(log, 'utf8')).includes('ready'), more)
  }))

  const indexOf = (site: string): number => {
    const index = sites.indexOf(site)
    if (index < 0) throw new NotFoundError(`this lab has no site ${site}`, `it has ${sites.join(', ')}`)
    return index + 1
  }
  return {
    pod,
    method: netem ? 'netem' : 'relay',
    attach: async (host, site, number) => {
      const index = site === null ? 0 : indexOf(site)
      const address = underlayAddress(index, number)
      const port = `h${index}-${number}`
      await ipBatch(pod, [`link add ${port} type veth peer name eth0 netns ${host.pid}`, `link set ${port} up master ${index === 0 ? 'wan' : `lan${index}`}`])
      await ipBatch(host, [`addr add ${address}/${UNDERLAY_PREFIX} dev eth0`, 'link set eth0 up'])
      return address
    },
    counters: async site => {
      const { stdout } = await run('nsenter', ['-t', String(pod.pid), '-n', '--', 'ip', '-json', '-s', 'link', 'show', `u${indexOf(site)}l`])
      const [link] = JSON.parse(stdout) as Array<{ stats64?: { rx?: { bytes?: number }, tx?: { bytes?: number } } }>
      const { rx, tx } = link?.stats64 ?? {}
      if (rx?.bytes === undefined || tx?.bytes === undefined) throw new MusubiError('BAD_ANSWER', `ip shows no counters for the uplink of ${site}`)
      return { rxBytes: rx.bytes, txBytes: tx.bytes }
    },
    setRtt: async ms => {
      checkRtt(ms)
      if (netem) {
        for (const [index] of sites.entries()) for (const link of ends(index + 1)) await shape(link, netemArgs(ms, rateMbit))
        return
      }
      await writeDelay(ms)
      for (const relay of relays) relay.kill('SIGHUP')
    },
    partition: async (site, cut) => { await ipBatch(pod, [`link set u${indexOf(site)}l ${cut ? 'down' : 'up'}`]) },
    stop: async () => { await pod.stop() },
    [Symbol.asyncDispose]: async () => { await pod.stop() }
  }
}
