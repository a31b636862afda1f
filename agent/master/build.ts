import { createHash, randomBytes } from 'node:crypto'
import { mkdir, readFile, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { run } from '../exec.ts'
import { openImageStore } from '../images/store.ts'
import type { ClusterRecord } from './record.ts'
import { noPhases } from './record.ts'
import { buildClusterDocument } from '../../protocol/core/document.ts'
import { MusubiError } from '../../protocol/core/errors.ts'
import { MAX_VNI } from '../../protocol/core/limits.ts'
import type { ClusterSpec } from '../../protocol/core/spec.ts'

/** What a master adds to negotiated offers: image, VNI, keys, secrets, the cluster document. */
export interface Builder {
  /** Digest of the image that the spec names, checked file by file. @throws UnknownImageError, CorruptImageError */
  imageFor (spec: ClusterSpec): Promise<string>
  vniFor (clusterId: string, taken: ReadonlySet<number>): number
  /** Fills document, secrets, keys and phases of a record; the same again after a crash. */
  prepare (record: ClusterRecord): Promise<void>
  /** Removes what `prepare` left on disk. */
  forget (record: ClusterRecord): Promise<void>
  keyFile (record: ClusterRecord): string
}

export interface BuilderOptions {
  stateDir: string
  imageStore: string
  site: string
  peerId: string
  /** false with fake drivers: no image is needed and none is looked for */
  realImages: boolean
}

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex')

export function createBuilder (options: BuilderOptions): Builder {
  const store = openImageStore(options.imageStore)
  const folder = (record: ClusterRecord): string => join(options.stateDir, 'clusters', record.id)
  const keyFile = (record: ClusterRecord): string => join(folder(record), 'id_ed25519')

  async function newest (): Promise<string> {
    const images = await store.list()
    const dated = await Promise.all(images.map(async i => ({ digest: i.digest, at: (await stat(i.dir)).mtimeMs })))
    const latest = dated.sort((a, b) => b.at - a.at)[0]
    if (latest === undefined) {
      throw new MusubiError('NO_IMAGE', `there is no node image in ${options.imageStore}`, { hint: `build one: musubi image build --store ${options.imageStore}` })
    }
    return latest.digest
  }

  async function sshKey (record: ClusterRecord): Promise<string> {
    const file = keyFile(record)
    await mkdir(folder(record), { recursive: true, mode: 0o700 })
    const existing = await readFile(`${file}.pub`, 'utf8').catch(() => null)
    if (existing !== null && existing.trim() !== '') return existing.trim()
    await rm(file, { force: true }) // a half-made pair of an earlier process
    await run('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-C', `musubi ${record.name}`, '-f', file])
    return (await readFile(`${file}.pub`, 'utf8')).trim()
  }

  return {
    async imageFor (spec) {
      if (!options.realImages) return spec.image === 'default' ? `sha256:${sha256('fake')}` : spec.image
      const digest = spec.image === 'default' ? await newest() : spec.image
      return (await store.verify(digest)).digest
    },

    vniFor (clusterId, taken) {
      for (let salt = 0; ; salt++) {
        const vni = parseInt(sha256(`${clusterId}/${salt}`).slice(0, 6), 16)
        if (vni > 0 && vni <= MAX_VNI && !taken.has(vni)) return vni
      }
    },

    async prepare (record) {
      if (record.document !== null) return
      const volumes = record.offers.flatMap(o => o.held.filter(h => h.kind === 'volume').map(h => h.name))
      // CHAP wants 12 to 16 bytes (RFC 7143, 9.2.1: some initiators refuse more than 16).
      // One user per volume: a target daemon's accounts are global, one secret each.
      record.secrets = volumes.map(name => ({ name, user: `musubi-${record.id.slice(0, 8)}.${name}`, secret: randomBytes(8).toString('hex') }))
      record.document = buildClusterDocument({
        id: record.id, name: record.name, spec: record.spec, offers: record.offers, masterSite: options.site, masterPeer: options.peerId,
        vni: record.vni, nowMs: record.createdMs, endMs: record.endMs, sshPublicKey: await sshKey(record), imageDigest: record.imageDigest, hash: sha256
      })
      for (const node of record.document.nodes) record.phases[node.name] = { ...noPhases(), leased: record.negotiateMs }
    },

    async forget (record) {
      await rm(folder(record), { recursive: true, force: true })
    },

    keyFile
  }
}
