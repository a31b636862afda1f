/**
 * Nodes that install: each a curl in a namespace of its own that keeps one connection for all it fetches. All of them wait at a
 * gate until the last one stands there, so that starting processes is not what is measured.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { run } from '../../../agent/exec.ts'
import type { LabNode } from '../cache-lab.ts'
import type { InstallObject } from './workload.ts'

/** `args`: lines of curl's configuration, for this download alone. */
export interface Download { url: string, bytes: number, sha256: string | null, args?: readonly string[] }

export interface Errand {
  node: LabNode
  downloads: readonly Download[]
  /** after the gate opened */
  delayMs?: number
  /** lines of curl's configuration for all downloads */
  args?: readonly string[]
  /** curl may end so, and then nothing of it is checked: it was told to give up */
  givesUp?: boolean
  /** begins anew, some times, when it did not get all: as installers do */
  retries?: boolean
}

export interface Run {
  seconds: number
  /** what went wrong, one line for each node that did not get all, whole */
  failures: string[]
  connections: number
}

const TIMEOUT_S = 1_800
const TRIES = 6

export const downloadsOf = (base: string, objects: readonly InstallObject[]): Download[] => objects.map(({ path, bytes, sha256 }) => ({ url: `${base}${path}`, bytes, sha256 }))

/** Checks digests: of `sampled`, each download by the one node whose turn it is. */
async function checkDigests (files: ReadonlyMap<string, string>): Promise<string[]> {
  if (files.size === 0) return []
  const { stdout } = await run('sha256sum', ['-b', ...files.keys()], { timeoutMs: 600_000 })
  return stdout.trim().split('\n').filter(line => files.get(line.slice(66)) !== line.slice(0, 64)).map(line => `other bytes than the frontend's in ${line.slice(66)}`)
}

interface Started { open: () => void, finished: Promise<Pick<Run, 'failures' | 'connections'>>, files: ReadonlyMap<string, string> }

async function startNode (dir: string, errand: Errand, index: number, nodes: number): Promise<Started> {
  const files = new Map<string, string>()
  const config: string[] = []
  for (const [i, { url, sha256, args = [] }] of errand.downloads.entries()) {
    const sampled = sha256 !== null && errand.givesUp !== true && args.length === 0 && i % nodes === index
    const file = sampled ? join(dir, `${index}-${i}`) : '/dev/null'
    if (sampled) files.set(file, sha256)
    if (i > 0) config.push('next')
    // what begins anew does so at the first thing that fails
    else if (errand.retries === true) config.push('fail-early')
    config.push('silent', 'show-error', 'http1.1', 'write-out = "%{http_code} %{size_download} %{num_connects}\\n"', `max-time = ${TIMEOUT_S}`, `url = "${url}"`, `output = "${file}"`, ...args, ...errand.args ?? [])
  }
  const path = join(dir, `node${index}.conf`)
  await writeFile(path, `${config.join('\n')}\n`)
  const wait = errand.delayMs === undefined ? '' : `sleep ${errand.delayMs / 1000};`
  const fetch = errand.retries === true ? `for _ in $(seq ${TRIES}); do curl -q -K "$1" && exit; sleep 1; done; exit 1` : 'exec curl -q -K "$1"'
  const child = spawn('ip', ['netns', 'exec', errand.node.namespace, 'sh', '-c', `echo at the gate; read _; ${wait} ${fetch}`, 'sh', path], { stdio: ['pipe', 'pipe', 'pipe'] })
  let [out, errors] = ['', '']
  const gate = Promise.withResolvers<undefined>()
  child.stdout.on('data', (chunk: Buffer) => { out += String(chunk); if (out.includes('at the gate\n')) gate.resolve(undefined) })
  child.stderr.on('data', (chunk: Buffer) => { errors = `${errors}${String(chunk)}`.slice(-400) })
  const closed = once(child, 'close') as Promise<[number | null]>
  await gate.promise
  const finish = async (): Promise<Pick<Run, 'failures' | 'connections'>> => {
    const [code] = await closed
    // of several tries the last one counts
    const lines = out.split('\n').slice(1, -1).slice(-errand.downloads.length).map(line => line.split(' ').map(Number))
    const connections = lines.reduce((sum, [, , connects = 0]) => sum + connects, 0)
    if (errand.givesUp === true) return { failures: [], connections }
    const wrong = errand.downloads.flatMap(({ url, bytes, args = [] }, i) => {
      const [status = 0, got = 0] = lines[i] ?? []
      return status === (args.some(arg => arg.startsWith('range')) ? 206 : 200) && got === bytes ? [] : [`${url}: status ${status}, ${got} of ${bytes} bytes`]
    })
    if (code !== 0 && wrong.length === 0) wrong.push(`curl ended with ${String(code)}: ${errors.trim()}`)
    return { failures: wrong.length === 0 ? [] : [`${errand.node.namespace}: ${wrong[0] ?? ''}${wrong.length > 1 ? `, and ${wrong.length - 1} more` : ''} (${errors.trim().slice(0, 200)})`], connections }
  }
  return { open: () => child.stdin.end('\n'), finished: finish(), files }
}

/**
 * All errands at once. @returns the time from the opened gate to the end of the last one, digests not included
 * @param dir of these nodes alone; emptied afterwards
 */
export async function runNodes (dir: string, errands: readonly Errand[], atGate: () => Promise<void> = () => Promise.resolve()): Promise<Run> {
  await mkdir(dir, { recursive: true })
  const nodes: Started[] = []
  for (const [index, errand] of errands.entries()) nodes.push(await startNode(dir, errand, index, errands.length))
  await atGate()
  const begun = performance.now()
  for (const node of nodes) node.open()
  const results = await Promise.all(nodes.map(async ({ finished }) => await finished))
  const seconds = (performance.now() - begun) / 1000
  const failures = results.flatMap(result => result.failures)
  // who has not got all is known already, and its files need not be there
  if (failures.length === 0) for (const { files } of nodes) failures.push(...(await checkDigests(files)).slice(0, 1))
  await rm(dir, { recursive: true, force: true })
  return { seconds, failures, connections: results.reduce((sum, result) => sum + result.connections, 0) }
}

/** Where this node's kickstart is, and what it must begin with. */
export const macOf = (index: number): string => `02:00:00:01:${(index >> 8).toString(16).padStart(2, '0')}:${(index & 0xff).toString(16).padStart(2, '0')}`

/** Fetches one node's kickstart and looks whether it is its own. @returns what is wrong with it */
export async function kickstartFailure (node: LabNode, url: string, mac: string): Promise<string | null> {
  const { stdout } = await run('curl', ['-sS', '-m', '60', url], { netns: node.namespace, timeoutMs: 70_000, okCodes: [28, 52, 56] })
  return stdout.startsWith(`# for ${mac} at ${node.address}\n`) ? null : `${node.namespace} got the kickstart of another: ${JSON.stringify(stdout.slice(0, 60))}`
}
