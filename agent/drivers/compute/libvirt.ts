import { copyFile, mkdir, open, rm, stat, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { ConflictError } from '../../../protocol/core/errors.ts'
import type { DomainSpec } from '../../../protocol/core/desired.ts'
import { run, runJson } from '../../exec.ts'
import { fingerprint } from '../../fingerprint.ts'
import type { ObservedObject } from '../driver.ts'
import { chooseAccelerator } from './accelerator.ts'
import type { ComputeDriver, DomainStats } from './driver.ts'
import { domainName, isObjectName, secretOf, secretUsagePrefix } from './names.ts'
import { probeLibvirt } from './probe.ts'
import { createVirsh } from './virsh.ts'
import type { DomainMark, KnownDomain } from './virsh.ts'
import { renderDomainXml, renderSecretXml } from './xml.ts'
import type { Accelerator } from './xml.ts'

export interface LibvirtDriverOptions {
  /** console logs and what has to be passed to virsh as files; needs no care between starts */
  stateDir: string
  /** libvirt's connection URI on this host, default `qemu:///system` */
  uri?: string
  /** instead of finding out whether KVM works */
  accelerator?: Accelerator
}

/** A console log beyond this is moved to `.1`; nodes that wait for an answer write some MiB a day. */
const CONSOLE_MAX_BYTES = 4 * 1024 * 1024
const CONSOLE_READ_BYTES = 64 * 1024
const REMOVE_ATTEMPTS = 3

/**
 * Nodes as persistent libvirt domains named `mz-<object name>`, which any libvirt tool sees.
 *
 * Everything needed to find them again is in the domain's metadata: the driver keeps no state.
 * Domains are defined first and undefined last, so that after a crash between any two steps
 * `observe` still lists whatever is left. They do not start by themselves with the host: the agent
 * starts them once their segment is there.
 */
export function createLibvirtDriver (options: LibvirtDriverOptions): ComputeDriver {
  const { stateDir, uri = 'qemu:///system' } = options
  const virsh = createVirsh(uri)
  const consoleFile = (domain: string): string => join(stateDir, 'console', `${domain}.log`)
  let chosen: Accelerator | undefined = options.accelerator
  let files = 0

  async function withFile<T> (text: string, use: (file: string) => Promise<T>): Promise<T> {
    const dir = join(stateDir, 'virsh')
    // what a killed agent left may hold a password
    if (files === 0) await rm(dir, { recursive: true, force: true })
    await mkdir(dir, { recursive: true, mode: 0o700 })
    const file = join(dir, `${process.pid}-${++files}`)
    try {
      await writeFile(file, text, { mode: 0o600 })
      return await use(file)
    } finally {
      await rm(file, { force: true })
    }
  }

  /** The object's domain; null when there is none. @throws ConflictError when somebody else's has its name */
  async function look (name: string, signal: AbortSignal): Promise<KnownDomain | null> {
    const domain = domainName(name)
    const known = (await virsh.domains(signal)).find(d => d.domain === domain)
    if (known !== undefined) return known
    if ((await virsh.stats(signal)).has(domain)) {
      throw new ConflictError(`libvirt has a domain ${domain} that Musubi did not make`, `rename it: virsh domrename ${domain} NEW-NAME`)
    }
    return null
  }

  async function destroy (domain: string, signal: AbortSignal): Promise<void> {
    try {
      await virsh.change(['destroy', '--domain', domain], signal)
    } catch (error) {
      // it may have ended by itself between the look and the call
      const state = (await virsh.stats(signal)).get(domain)?.state
      if (state !== undefined && state !== 'shut off') throw error
    }
  }

  async function setSecrets (name: string, spec: DomainSpec, signal: AbortSignal): Promise<void> {
    for (const volume of spec.volumes) {
      const { uuid } = secretOf(name, volume.name)
      await withFile(renderSecretXml(name, volume.name), file => virsh.change(['secret-define', '--file', file], signal))
      // not as an argument: everybody on the host can read those
      await withFile(volume.chap.secret, file =>
        virsh.change(['secret-set-value', '--secret', uuid, '--file', file, '--plain'], signal))
    }
  }

  async function dropSecrets (name: string, keep: readonly string[], signal: AbortSignal): Promise<void> {
    const kept = new Set(keep.map(volume => secretOf(name, volume).uuid))
    for (const line of (await virsh.call(['secret-list'], signal)).split('\n')) {
      const [uuid, , usage] = line.trim().split(/\s+/)
      if (uuid === undefined || usage === undefined || !usage.startsWith(secretUsagePrefix(name)) || kept.has(uuid)) continue
      await virsh.change(['secret-undefine', '--secret', uuid], signal)
    }
  }

  async function start (domain: string, signal: AbortSignal): Promise<void> {
    await mkdir(join(stateDir, 'console'), { recursive: true })
    try {
      await virsh.change(['start', '--domain', domain], signal)
    } catch (error) {
      // libvirt may still have been at work on a start whose caller was killed
      const state = (await virsh.stats(signal)).get(domain)?.state
      if (state === undefined || !isRunning(state)) throw error
    }
  }

  async function undefine (domain: string, signal: AbortSignal): Promise<void> {
    try {
      await virsh.change(['undefine', '--domain', domain, '--nvram', '--managed-save', '--snapshots-metadata', '--checkpoints-metadata'], signal)
    } catch (error) {
      // a domain whose definition is gone already vanishes with its process
      if ((await virsh.stats(signal)).has(domain)) throw error
    }
  }

  async function remove (name: string, signal: AbortSignal): Promise<void> {
    const domain = domainName(name)
    let known = await lookUnlessForeign(name, signal)
    if (known === 'foreign') return
    await dropSecrets(name, [], signal)
    // more than once only when libvirt was still at work on a call whose caller was killed
    for (let attempt = 0; known !== null && known !== 'foreign' && attempt < REMOVE_ATTEMPTS; attempt++) {
      if (known.state !== 'shut off') await destroy(domain, signal)
      await removeLogs(domain)
      await undefine(domain, signal)
      known = await lookUnlessForeign(name, signal)
    }
    if (known !== null && known !== 'foreign') throw new ConflictError(`domain ${domain} comes back after every removal`, 'see what else starts it')
    await removeLogs(domain)
  }

  async function removeLogs (domain: string): Promise<void> {
    await rm(consoleFile(domain), { force: true })
    await rm(`${consoleFile(domain)}.1`, { force: true })
  }

  async function lookUnlessForeign (name: string, signal: AbortSignal): Promise<KnownDomain | null | 'foreign'> {
    try {
      return await look(name, signal)
    } catch (error) {
      if (error instanceof ConflictError) return 'foreign'
      throw error
    }
  }

  /** Every start begins with a pause: libvirt may be at work on one whose caller was killed, and have ended it by now. */
  async function resume ({ domain, mark }: KnownDomain, signal: AbortSignal): Promise<void> {
    try {
      await virsh.change(['resume', '--domain', domain], signal)
    } catch (error) {
      const now = await look(mark.name, signal)
      if (now === null || !isRunning(now.state)) throw error
    }
  }

  /** Brings a domain of the right spec to work without a restart where that is possible; false: it needs one. */
  async function mend (known: KnownDomain, signal: AbortSignal): Promise<boolean> {
    const links = await listLinks(signal)
    if (problemOf(known, links) === null) return true
    const cards = cardsOf(known.mark)
    if (!cards.every(({ tap }) => links.has(tap))) return false
    if (known.state === 'paused') await resume(known, signal)
    else if (!isRunning(known.state)) return false
    // the bridge was made anew under a running guest
    for (const { tap, bridge } of cards) await run('ip', ['link', 'set', 'dev', tap, 'master', bridge, 'up'], { signal })
    return true
  }

  return {
    kind: 'domain',

    async probe (signal) {
      return await probeLibvirt(virsh, uri, signal)
    },

    async observe (signal) {
      const [domains, links] = await Promise.all([virsh.domains(signal), listLinks(signal)])
      await Promise.all(domains.map(d => boundLog(consoleFile(d.domain))))
      return domains.map((known): ObservedObject => {
        const problem = problemOf(known, links)
        const { state, rxBytes, txBytes, mark } = known
        return {
          kind: 'domain',
          name: mark.name,
          fingerprint: mark.fingerprint,
          healthy: problem === null,
          detail: { state, rxBytes, txBytes, tap: mark.tap, bridge: mark.bridge, ...(mark.localTap === '' ? {} : { localTap: mark.localTap }), ...(problem === null ? {} : { problem }) }
        }
      })
    },

    async apply (name, spec, signal) {
      const domain = domainName(name)
      chosen ??= await chooseAccelerator(stateDir, signal)
      const xml = renderDomainXml(name, spec, { accelerator: chosen, consoleLog: consoleFile(domain) })
      const known = await look(name, signal)
      if (known !== null && known.mark.fingerprint === fingerprint(spec) && await mend(known, signal)) return
      if (known !== null && known.state !== 'shut off') await destroy(domain, signal)
      // libvirt takes a name for one UUID only
      if (known !== null && known.mark.uuid !== spec.uuid) await remove(name, signal)
      await withFile(xml, file => virsh.change(['define', '--file', file], signal))
      await setSecrets(name, spec, signal)
      await dropSecrets(name, spec.volumes.map(v => v.name), signal)
      await start(domain, signal)
    },

    async remove (name, signal) {
      if (isObjectName(name)) await remove(name, signal)
    },

    async stats (signal) {
      const entries = (await virsh.domains(signal)).map(({ mark, rxBytes, txBytes, state }): [string, DomainStats] =>
        [mark.name, { rxBytes, txBytes, state }])
      return Object.fromEntries(entries)
    },

    async consoleLog (name, maxBytes = CONSOLE_READ_BYTES) {
      return isObjectName(name) ? await tail(consoleFile(domainName(name)), maxBytes) : ''
    }
  }
}

interface Link { master: string | null, up: boolean }

/** Network links of this process's namespace, by name. */
async function listLinks (signal: AbortSignal): Promise<Map<string, Link>> {
  const rows = await runJson('ip', ['-json', 'link', 'show'], { signal }) as Array<{ ifname?: string, master?: string, flags?: string[] }> | null
  return new Map((rows ?? []).map(row => [row.ifname ?? '', { master: row.master ?? null, up: row.flags?.includes('UP') ?? false }]))
}

function isRunning (state: string): boolean {
  return state === 'running' || state === 'blocked'
}

/** Why the node cannot work, in words; null when it can. */
function problemOf ({ state, mark }: { state: string, mark: DomainMark }, links: ReadonlyMap<string, Link>): string | null {
  if (!isRunning(state)) return `the domain is ${state}`
  for (const { tap, bridge } of cardsOf(mark)) {
    const link = links.get(tap)
    if (link === undefined) return `its tap ${tap} is gone`
    if (link.master !== bridge) return `its tap ${tap} is not a port of ${bridge}`
    if (!link.up) return `its tap ${tap} is down`
  }
  return null
}

const cardsOf = ({ tap, bridge, localTap, localBridge }: DomainMark): Array<{ tap: string, bridge: string }> => [{ tap, bridge }, ...localTap === '' ? [] : [{ tap: localTap, bridge: localBridge }]]

/** QEMU appends to the log as long as it runs, hence copy and cut instead of rename. */
async function boundLog (file: string): Promise<void> {
  const size = (await stat(file).catch(() => null))?.size ?? 0
  if (size <= CONSOLE_MAX_BYTES) return
  await copyFile(file, `${file}.1`)
  await truncate(file, 0)
}

async function tail (file: string, maxBytes: number): Promise<string> {
  const handle = await open(file, 'r').catch(() => null)
  if (handle === null) return ''
  try {
    const { size } = await handle.stat()
    const length = Math.min(size, maxBytes)
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(length), 0, length, size - length)
    return buffer.subarray(0, bytesRead).toString('utf8')
  } finally {
    await handle.close()
  }
}
