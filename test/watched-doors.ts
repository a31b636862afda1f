/**
 * The doors by which drivers reach the machine, watched: programs are not started but answered as if
 * they had done their work, and files outside of a driver's own folder are neither read nor written.
 */
import childProcess, { type ChildProcess, type SpawnOptions } from 'node:child_process'
import { AsyncLocalStorage } from 'node:async_hooks'
import { EventEmitter } from 'node:events'
import fsPromises from 'node:fs/promises'
import { mkdir, rm } from 'node:fs/promises'
import { syncBuiltinESMExports } from 'node:module'
import { join, resolve } from 'node:path'
import { PassThrough } from 'node:stream'
import { createRealDrivers } from '../agent/drivers/registry.ts'
import type { AgentConfig } from '../agent/config.ts'
import type { ServiceManager, ServiceSpec, ServiceStatus } from '../agent/services.ts'
import type { DesiredObject } from '../protocol/core/desired.ts'

/** What one driver did to the machine, or would have done. */
interface Deeds { root: string, argvs: string[][], inputs: string[], paths: Array<{ call: string, path: string }> }

export interface WatchedDoors {
  /** Drives an object that is as it should be: what it reaches is right. */
  learn (object: DesiredObject): Promise<void>
  /** Makes, looks at and removes an object. @returns what it reached that no good object does */
  drive (object: DesiredObject): Promise<string[]>
  /** As `drive`, for anything. */
  watch (work: () => Promise<unknown>): Promise<string[]>
  commands (): number
  files (): number
  close (): void
}

/** Drivers wait for what never comes here. */
const CALL_MS = 60
/** Good objects are followed as far as they get, also on a busy machine. */
const LEARN_MS = 1_500
const READS = new Set(['access', 'readFile', 'readdir', 'stat', 'lstat', 'readlink', 'realpath', 'statfs', 'opendir'])
const WRITES = ['appendFile', 'chmod', 'chown', 'copyFile', 'cp', 'lchown', 'link', 'mkdir', 'mkdtemp', 'open', 'rename', 'rm', 'rmdir', 'symlink', 'truncate', 'unlink', 'utimes', 'writeFile']
const TWO_PATHS = new Set(['copyFile', 'cp', 'link', 'rename'])
/** A pid that no process has. */
const NOBODY = 2 ** 22 + 1
const KEY = `${'A'.repeat(43)}=`

/** Enough of an answer for a driver to go on. */
function answerOf (argv: readonly string[]): string {
  const line = argv.join(' ')
  if (/^\S*wg (genkey|pubkey)/.test(line)) return `${KEY}\n`
  if (/ -json| -j /.test(line)) return '[]\n'
  if (/^\S*id /.test(line)) return '33\n'
  // a host with nothing on it, and no namespace of ours
  if (argv.some(word => word.endsWith('/network/observe/spaces.pl'))) return argv.slice(9).map(name => name === '-' ? '- read\n' : `${name} gone\n`).join('')
  return ''
}

/** What the program that does a segment's steps is told to do: it would start these programs, give them these lines, and write these keys. */
function carryOut (input: string, deeds: Deeds): void {
  const fields: string[] = []
  for (let rest = Buffer.from(input); rest.length > 0;) {
    const colon = rest.indexOf(':')
    const length = Number(rest.subarray(0, colon).toString())
    if (colon < 1 || !Number.isSafeInteger(length)) throw new Error(`the steps are no netstrings: ${rest.subarray(0, 100).toString()}`)
    fields.push(rest.subarray(colon + 1, colon + 1 + length).toString())
    rest = rest.subarray(colon + 2 + length)
  }
  for (let at = 0; at < fields.length;) {
    const verb = fields[at] ?? ''
    const [a = '', b = '', c = '', count = ''] = fields.slice(at + 1)
    if (verb === 'end') return
    if (verb === 'write') {
      deeds.paths.push({ call: 'write', path: resolve('/proc/sys/net/ipv6/conf', b) }, ...(a === '' ? [] : [{ call: 'enter', path: resolve('/run/netns', a) }]))
      at += 5
    } else if (verb === 'run') {
      deeds.argvs.push(fields.slice(at + 5, at + 5 + Number(count)))
      deeds.inputs.push(c)
      at += 5 + Number(count)
    } else throw new Error(`a step that is none: ${verb}`)
  }
}

function pretend (argv: readonly string[], options: SpawnOptions, deeds: Deeds): ChildProcess {
  deeds.argvs.push([...argv])
  const stdio = Array.isArray(options.stdio) ? options.stdio : [options.stdio, options.stdio, options.stdio]
  const stream = (n: number): PassThrough | null => stdio[n] === 'ignore' || stdio[n] === 'inherit' ? null : new PassThrough()
  const [stdin, stdout, stderr] = [stream(0), stream(1), stream(2)]
  let input = ''
  stdin?.on('data', (chunk: Buffer) => { input += chunk.toString() })
  const child = Object.assign(new EventEmitter(), { stdin, stdout, stderr, stdio: [stdin, stdout, stderr], pid: NOBODY, exitCode: null, signalCode: null, connected: false, kill: () => true, ref: () => undefined, unref: () => undefined })
  const end = (): void => {
    if (argv.some(word => word.endsWith('/run/steps.pl'))) carryOut(input, deeds)
    else deeds.inputs.push(input)
    stdout?.end(answerOf(argv))
    stderr?.end()
    child.emit('exit', 0, null)
    child.emit('close', 0, null)
  }
  setImmediate(() => {
    child.emit('spawn')
    if (stdin === null || stdin.writableFinished || stdin.readableEnded) setImmediate(end)
    else stdin.once('end', end)
  })
  return child as unknown as ChildProcess
}

/** @param dir for the drivers' folders; each has one of its own below */
export function watchDoors (dir: string): WatchedDoors {
  const current = new AsyncLocalStorage<Deeds>()
  const original = { spawn: childProcess.spawn, fs: { ...fsPromises } as Record<string, unknown> }
  let commands = 0
  let files = 0
  let turn = 0
  const known = { options: new Set<string>(), words: new Set<string>(), paths: new Set<string>() }

  const patchedSpawn = (file: string, args: readonly string[] = [], options: SpawnOptions = {}): ChildProcess => {
    const deeds = current.getStore()
    if (deeds === undefined) return original.spawn(file, [...args], options)
    commands++
    return pretend([file, ...args], options, deeds)
  }
  childProcess.spawn = patchedSpawn as typeof childProcess.spawn
  const patchable = fsPromises as unknown as Record<string, unknown>
  for (const call of [...READS, ...WRITES]) {
    const real = original.fs[call] as (...args: unknown[]) => unknown
    patchable[call] = (...args: unknown[]) => {
      const deeds = current.getStore()
      if (deeds === undefined) return real(...args)
      files++
      const paths = (TWO_PATHS.has(call) ? [args[0], args[1]] : call === 'symlink' ? [args[1]] : [args[0]]).map(path => resolve(String(path)))
      for (const path of paths) deeds.paths.push({ call, path })
      if (paths.every(path => path === deeds.root || path.startsWith(`${deeds.root}/`))) return real(...args)
      return Promise.reject(Object.assign(new Error(`${call} ${paths.join(' ')}: not here`), { code: 'ENOENT' }))
    }
  }
  syncBuiltinESMExports()

  /** Services that run when they were started; nothing is. */
  function pretendServices (deeds: Deeds): ServiceManager {
    const running = new Map<string, ServiceSpec>()
    const status = (name: string): Promise<ServiceStatus> => Promise.resolve({ name, running: running.has(name), pid: running.has(name) ? NOBODY : null, fingerprint: null })
    return {
      ensure (name, spec) {
        deeds.argvs.push(['service', name, ...spec.argv, ...Object.entries(spec.env ?? {}).map(([key, value]) => `${key}=${value}`)])
        running.set(name, spec)
        return status(name)
      },
      stop (name) {
        running.delete(name)
        return Promise.resolve()
      },
      kill: () => Promise.resolve(),
      status,
      list: () => Promise.resolve([])
    }
  }

  async function deedsOf (work: (deeds: Deeds) => Promise<unknown>): Promise<Deeds> {
    const root = join(dir, String(++turn))
    await mkdir(root, { recursive: true })
    const deeds: Deeds = { root, argvs: [], inputs: [], paths: [] }
    await current.run(deeds, () => work(deeds))
    await rm(root, { recursive: true, force: true })
    return deeds
  }

  const lifeOf = (object: DesiredObject, callMs: number) => async (deeds: Deeds): Promise<void> => {
    const { root } = deeds
    const config = {
      name: 'host', site: 'site', roles: ['gateway', 'compute', 'storage'], imageStore: join(root, 'images'), accelerator: 'tcg', drivers: 'real',
      helper: { socket: join(root, 'run', 'sock'), stateDir: join(root, 'state'), agentUser: 0 },
      inSite: { technique: 'vxlan' }, retain: { diskMiB: 1, maxDays: 1 }
    } as unknown as AgentConfig
    const { drivers, details } = createRealDrivers(config, pretendServices(deeds))
    const driver = drivers[object.kind]
    if (driver === undefined) throw new Error(`no driver for a ${object.kind}`)
    const tries: Array<(signal: AbortSignal) => Promise<unknown> | undefined> = [
      signal => driver.apply(object.name, object.spec as never, signal), signal => driver.observe(signal), () => details.phases?.(object.name), () => details.cacheStats?.(object.name),
      () => details.segmentCounters?.(object.name), signal => driver.remove(object.name, signal)
    ]
    // what fails here would fail on a host as well: what it did until then counts
    for (const one of tries) await one(AbortSignal.timeout(callMs))?.catch(() => undefined)
  }

  const generic = (deeds: Deeds, path: string): string => path.replace(deeds.root, '@')
  const inside = (deeds: Deeds, path: string): boolean => path === deeds.root || path.startsWith(`${deeds.root}/`)
  /** Namespaces and processes are named by numbers that are checked to be such. */
  const OURS = /^\/(run\/netns\/mzf?-[0-9a-f]{6}|proc\/\d+\/[a-z/]+|proc\/sys\/net\/ipv6\/conf\/(mz[a-z][0-9a-f]{6,8}|br0|host0|site0m?|wan0m?|all|default)\/(accept_ra|autoconf|disable_ipv6))$/
  const optionsOf = (deeds: Deeds): string[] => deeds.argvs.flatMap(argv => argv.filter(word => word.startsWith('-')))
  const linesOf = (deeds: Deeds): string[] => deeds.inputs.flatMap(input => input.split('\n')).filter(line => line.trim() !== '')
  const programsOf = (deeds: Deeds): string[] => deeds.argvs.map(argv => argv[0] === 'service' ? `service ${argv[2] ?? ''}` : argv[0] ?? '')
  const firstWord = (line: string): string => line.trim().split(/\s+/)[0] ?? ''
  /** a line of its own that is a key is one for `wg pubkey` */
  const isKey = (line: string): boolean => /^[A-Za-z0-9+/]{43}=$/.test(line)

  const unknown = (deeds: Deeds): string[] => [
    ...optionsOf(deeds).filter(option => !known.options.has(option)).map(option => `option ${option.slice(0, 200)}`),
    ...programsOf(deeds).filter(program => !known.options.has(program)).map(program => `program ${program}`),
    ...linesOf(deeds).filter(line => !isKey(line) && (!known.words.has(firstWord(line)) || line.split(/\s+/).some(word => word.startsWith('-') && !/^-\d+;?$/.test(word)))).map(line => `line ${line.slice(0, 200)}`),
    ...deeds.paths.filter(({ path }) => !inside(deeds, path) && !known.paths.has(path) && !OURS.test(path)).map(({ call, path }) => `${call} ${path}`)
  ]

  return {
    async learn (object) {
      const deeds = await deedsOf(lifeOf(object, LEARN_MS))
      for (const option of [...optionsOf(deeds), ...programsOf(deeds)]) known.options.add(option)
      for (const line of linesOf(deeds)) known.words.add(firstWord(line))
      for (const { path } of deeds.paths) known.paths.add(generic(deeds, path))
    },
    drive: async object => unknown(await deedsOf(lifeOf(object, CALL_MS))),
    watch: async work => unknown(await deedsOf(work)),
    commands: () => commands,
    files: () => files,
    close () {
      childProcess.spawn = original.spawn
      Object.assign(patchable, original.fs)
      syncBuiltinESMExports()
    }
  }
}
