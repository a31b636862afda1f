import { access, lchown, mkdir, readFile, readdir, rm, rmdir } from 'node:fs/promises'
import { join } from 'node:path'
import { frontendNamespace } from '../../../protocol/core/desired.ts'
import type { FrontendSpec } from '../../../protocol/core/desired.ts'
import { ConflictError, InvalidInputError, NotFoundError } from '../../../protocol/core/errors.ts'
import { run } from '../../exec.ts'
import { fingerprint } from '../../fingerprint.ts'
import { IMAGE_FILES } from '../../images/manifest.ts'
import { openImageStore } from '../../images/store.ts'
import type { StoredImage } from '../../images/store.ts'
import type { ServiceManager, ServiceSpec } from '../../services.ts'
import type { Driver, ObservedObject } from '../driver.ts'
import { putFile, putTree, staleFiles } from './files.ts'
import type { FileContent } from './files.ts'
import { ensureLinks, frontendNamespaces, linkFaults, removeLinks } from './links.ts'
import { boundLog, readTail } from './logs.ts'
import { parsePhases } from './phases.ts'
import type { NodePhases } from './phases.ts'
import { IPXE_DIR, checkFrontendSpec, imagePath, renderDnsmasq, renderNginx, renderNodeFiles } from './render.ts'

const PROGRAMS = ['/usr/sbin/dnsmasq', '/usr/sbin/nginx', `${IPXE_DIR}/undionly.kpxe`]

export interface FrontendDriverOptions {
  /** state of this driver is kept in its folder `frontends`, which may lie beside that of others */
  stateDir: string
  imageStoreDir: string
  services: ServiceManager
}

export interface FrontendDriver extends Driver<'frontend'> {
  readonly kind: 'frontend'
  /** How far each node of this frontend came in its latest boot. @throws NotFoundError */
  phases (name: string): Promise<Record<string, NodePhases>>
  /** Network namespace in which the frontend runs. @throws NotFoundError */
  namespace (name: string): Promise<string>
}

interface FrontendRecord { fingerprint: string, spec: FrontendSpec }

/**
 * The built-in frontend: a namespace `mzf-<vni>` on the cluster's bridge with dnsmasq (DHCP, DNS,
 * TFTP) and nginx (HTTP). All state lies in `<stateDir>/frontends/<name>`; its record is the first thing
 * written and the last one removed, so that `observe` knows of everything that was ever begun.
 */
export function createFrontendDriver (options: FrontendDriverOptions): FrontendDriver {
  const { services } = options
  const images = openImageStore(options.imageStoreDir)
  const stateDir = join(options.stateDir, 'frontends')

  const folder = (name: string): string => {
    if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/.test(name)) throw new InvalidInputError(`${JSON.stringify(name)} is no name of a frontend`)
    return join(stateDir, name)
  }
  const recordFile = (name: string): string => join(folder(name), 'record.json')
  const readRecord = async (name: string): Promise<FrontendRecord | null> => {
    const text = await readFile(recordFile(name), 'utf8').catch(() => null)
    if (text === null) return null
    try {
      return JSON.parse(text) as FrontendRecord
    } catch {
      // damaged from outside: the namespace is then reported, and removed, by its own name
      return null
    }
  }
  /** The frontend on a segment, by its record. */
  const ownerOf = async (vni: number, butFor?: string): Promise<string | null> => {
    for (const name of await readdir(stateDir).catch(() => [])) {
      if (name !== butFor && (await readRecord(name))?.spec.vni === vni) return name
    }
    return null
  }
  const needRecord = async (name: string): Promise<FrontendRecord> => {
    const record = await readRecord(name)
    if (record === null) throw new NotFoundError(`no frontend ${name} on this host`)
    return record
  }

  const faults = async (name: string, spec: FrontendSpec, signal: AbortSignal): Promise<string[]> => {
    const image = await images.get(spec.image.digest).catch(() => null)
    if (image === null) return [`image ${spec.image.digest} is missing`]
    const layout = planLayout(folder(name), spec, image)
    const found = await linkFaults(spec, signal)
    found.push(...(await staleFiles(layout.dir, layout.files)).map(path => `${path} is not current`))
    for (const [service, wanted] of layout.services) {
      const status = await services.status(service)
      if (!status.running) found.push(`${service} does not run`)
      else if (status.fingerprint !== fingerprint(wanted)) found.push(`${service} runs with another configuration`)
    }
    return found
  }

  return {
    kind: 'frontend',

    async probe () {
      const missing: string[] = []
      for (const program of PROGRAMS) {
        if (!await access(program).then(() => true, () => false)) missing.push(`${program} is missing`)
      }
      return missing
    },

    async observe (signal) {
      const observed: ObservedObject[] = []
      const known = new Set<string>()
      for (const entry of await readdir(stateDir, { withFileTypes: true }).catch(() => [])) {
        if (!entry.isDirectory()) continue
        const record = await readRecord(entry.name)
        if (record === null) {
          // removal, or the very first step, was cut short
          observed.push({ kind: 'frontend', name: entry.name, fingerprint: null, healthy: false, detail: { faults: ['it has no record'] } })
          continue
        }
        const { spec } = record
        known.add(frontendNamespace(spec.vni))
        await boundLogs(folder(entry.name))
        const wrong = await faults(entry.name, spec, signal)
        observed.push({
          kind: 'frontend',
          name: entry.name,
          fingerprint: record.fingerprint,
          healthy: wrong.length === 0,
          detail: { namespace: frontendNamespace(spec.vni), cluster: spec.cluster, nodes: spec.nodes.length, faults: wrong }
        })
      }
      for (const namespace of await frontendNamespaces()) {
        if (!known.has(namespace)) observed.push({ kind: 'frontend', name: namespace, fingerprint: null, healthy: false, detail: { namespace, faults: ['it has no record'] } })
      }
      return observed
    },

    async apply (name, spec, signal) {
      checkFrontendSpec(spec)
      const dir = folder(name)
      const other = await ownerOf(spec.vni, name)
      if (other !== null) throw new ConflictError(`frontend ${name}: segment ${spec.vni} already has the frontend ${other}`)
      const before = await readRecord(name)
      const wanted = fingerprint(spec)
      // every byte is read once, when an image is first served; later passes trust the store
      const image = before?.spec.image.digest === spec.image.digest
        ? await images.get(spec.image.digest)
        : await images.verify(spec.image.digest, signal)
      if (before !== null && before.spec.vni !== spec.vni) await tearDown(before.spec.vni, services, signal)
      await putFile(join(dir, 'record.json'), { text: JSON.stringify({ fingerprint: wanted, spec } satisfies FrontendRecord) }, { durable: true })

      const layout = planLayout(dir, spec, image)
      await prepareFolders(layout.nginxDir)
      await putTree(layout.www, subTree(layout.files, 'www'))
      for (const [path, content] of layout.files) if (!path.startsWith('www/')) await putFile(join(dir, path), content)
      await ensureLinks(spec, async () => {
        for (const service of layout.services.keys()) await services.stop(service)
      }, signal)
      for (const [service, unit] of layout.services) await services.ensure(service, unit)
    },

    async remove (name, signal) {
      const dir = folder(name)
      const record = await readRecord(name)
      const stray = /^mzf-([0-9a-f]{6})$/.exec(name)?.[1]
      const vni = record?.spec.vni ?? (stray === undefined ? null : Number.parseInt(stray, 16))
      // a namespace is a stray only while no frontend has it
      if (vni !== null && (record !== null || await ownerOf(vni) === null)) await tearDown(vni, services, signal)
      // the record goes last
      for (const entry of await readdir(dir).catch(() => [])) {
        if (entry !== 'record.json') await rm(join(dir, entry), { recursive: true, force: true })
      }
      await rm(dir, { recursive: true, force: true })
      // the last one turns off the light
      await rmdir(stateDir).catch(() => undefined)
    },

    async phases (name) {
      const { spec } = await needRecord(name)
      const layout = planPaths(folder(name))
      return parsePhases(spec.nodes, {
        dnsmasq: await readTail(layout.dnsmasqLog),
        nginx: await readTail(layout.phasesLog)
      }, Date.now())
    },

    async namespace (name) {
      return frontendNamespace((await needRecord(name)).spec.vni)
    }
  }
}

const serviceNames = (vni: number): { dnsmasq: string, nginx: string } => {
  const base = frontendNamespace(vni)
  return { dnsmasq: `${base}-dnsmasq`, nginx: `${base}-nginx` }
}

async function tearDown (vni: number, services: ServiceManager, signal: AbortSignal): Promise<void> {
  const names = serviceNames(vni)
  await services.stop(names.nginx)
  await services.stop(names.dnsmasq)
  await removeLinks(frontendNamespace(vni), signal)
}

interface Layout {
  dir: string
  nginxDir: string
  www: string
  dnsmasqLog: string
  phasesLog: string
  /** by path relative to `dir` */
  files: Map<string, FileContent>
  services: Map<string, ServiceSpec>
}

const planPaths = (dir: string): Pick<Layout, 'dir' | 'nginxDir' | 'www' | 'dnsmasqLog' | 'phasesLog'> => {
  const nginxDir = join(dir, 'nginx')
  return { dir, nginxDir, www: join(dir, 'www'), dnsmasqLog: join(dir, 'dnsmasq.log'), phasesLog: join(nginxDir, 'phases.log') }
}

/** Nodes make the daemons write: they must not fill the disk. A log that cannot be bounded now is tried again at the next look. */
async function boundLogs (dir: string): Promise<void> {
  const { nginxDir, dnsmasqLog, phasesLog } = planPaths(dir)
  for (const path of [dnsmasqLog, phasesLog, join(nginxDir, 'error.log')]) await boundLog(path).catch(() => undefined)
}

/** Everything that a frontend consists of on disk and as processes; no effects. */
function planLayout (dir: string, spec: FrontendSpec, image: StoredImage): Layout {
  const paths = planPaths(dir)
  const dnsmasqConf = renderDnsmasq(spec, paths)
  const nginxConf = renderNginx(paths)
  const files = new Map<string, FileContent>([['dnsmasq.conf', { text: dnsmasqConf }], ['nginx.conf', { text: nginxConf }]])
  for (const [path, text] of renderNodeFiles(spec, image.manifest)) files.set(`www/${path}`, { text })
  for (const name of IMAGE_FILES) files.set(`www${imagePath(image.manifest, name)}`, { link: image.paths[name] })
  const names = serviceNames(spec.vni)
  const netns = frontendNamespace(spec.vni)
  // the digest of the configuration makes a changed one restart its daemon
  const services = new Map<string, ServiceSpec>([
    [names.dnsmasq, {
      argv: ['/usr/sbin/dnsmasq', `--conf-file=${join(dir, 'dnsmasq.conf')}`],
      netns,
      env: { TZ: 'UTC', MUSUBI_CONFIG: fingerprint(dnsmasqConf) }
    }],
    [names.nginx, {
      // no process of nginx is root: it may bind port 80 and read files wherever the image store is, no more
      argv: ['/usr/bin/setpriv', '--reuid=www-data', '--regid=www-data', '--clear-groups',
        '--inh-caps=-all,+net_bind_service,+dac_read_search', '--ambient-caps=-all,+net_bind_service,+dac_read_search',
        '--bounding-set=-all,+net_bind_service,+dac_read_search', '--no-new-privs',
        '/usr/sbin/nginx', '-e', join(paths.nginxDir, 'error.log'), '-c', join(dir, 'nginx.conf')],
      netns,
      env: { MUSUBI_CONFIG: fingerprint(nginxConf) }
    }]
  ])
  return { ...paths, files, services }
}

function subTree (files: ReadonlyMap<string, FileContent>, folder: string): Map<string, FileContent> {
  return new Map([...files].filter(([path]) => path.startsWith(`${folder}/`)).map(([path, content]) => [path.slice(folder.length + 1), content]))
}

/** nginx runs as www-data and writes only here. */
async function prepareFolders (nginxDir: string): Promise<void> {
  await mkdir(join(nginxDir, 'tmp'), { recursive: true, mode: 0o755 })
  const { stdout } = await run('id', ['-u', 'www-data'])
  const { stdout: group } = await run('id', ['-g', 'www-data'])
  for (const path of [nginxDir, join(nginxDir, 'tmp')]) await lchown(path, Number(stdout), Number(group))
}
