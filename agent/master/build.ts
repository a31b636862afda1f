import { createHash, randomBytes } from 'node:crypto'
import { mkdir, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { run } from '../exec.ts'
import { openImageStore } from '../images/store.ts'
import { buildClusterDocument } from '../../protocol/core/document.ts'
import { MusubiError } from '../../protocol/core/errors.ts'
import { MAX_VNI } from '../../protocol/core/limits.ts'
import { localVniOf } from '../../protocol/core/network/local.ts'
import { documentSource } from '../../protocol/core/master/changes/growth.ts'
import type { MasterRecord } from '../../protocol/core/master/record.ts'
import type { ClusterDocument, Secret } from '../../protocol/core/messages.ts'
import type { ClusterSpec } from '../../protocol/core/spec.ts'

/** What a master adds to negotiated offers: image, VNI, keys, secrets, the cluster document. */
export interface Builder {
  /** Digest of the image that the spec names, checked file by file. @throws UnknownImageError, CorruptImageError */
  imageFor (spec: ClusterSpec): Promise<string>
  vniFor (clusterId: string, taken: ReadonlySet<number>): number
  /** The next document of a cluster, with the secrets of all its volumes; makes its keys on disk. */
  prepare (record: MasterRecord): Promise<{ document: ClusterDocument, secrets: Secret[] }>
  /** Removes what `prepare` left on disk. */
  forget (record: Pick<MasterRecord, 'id'>): Promise<void>
  keyFile (record: Pick<MasterRecord, 'id'>): string
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
  const folder = (record: Pick<MasterRecord, 'id'>): string => join(options.stateDir, 'clusters', record.id)
  const keyFile = (record: Pick<MasterRecord, 'id'>): string => join(folder(record), 'id_ed25519')

  async function newest (): Promise<string> {
    const latest = await store.newest()
    if (latest === null) {
      throw new MusubiError('NO_IMAGE', `there is no node image in ${options.imageStore}`, { hint: `build one: musubi image build --store ${options.imageStore}` })
    }
    return latest.digest
  }

  async function sshKey (record: MasterRecord): Promise<string> {
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
        if (vni > 0 && vni <= MAX_VNI && !taken.has(vni) && !taken.has(localVniOf(vni))) return vni
      }
    },

    async prepare (record) {
      const { spec, offers, version, previous } = documentSource(record)
      const known = new Map(record.secrets.map(secret => [secret.name, secret]))
      // CHAP wants 12 to 16 bytes (RFC 7143, 9.2.1: some initiators refuse more than 16).
      // One user per volume: a target daemon's accounts are global, one secret each.
      const secrets = offers.flatMap(offer => offer.held.filter(held => held.kind === 'volume').map(({ name }) =>
        known.get(name) ?? { name, user: `musubi-${record.id.slice(0, 8)}.${name}`, secret: randomBytes(8).toString('hex') }))
      const document = buildClusterDocument({
        id: record.id, name: record.name, spec, offers, masterSite: options.site, masterPeer: options.peerId, vni: record.vni, nowMs: record.createdMs,
        startMs: record.startMs, endMs: record.endMs, epoch: record.epoch, version, previous,
        sshPublicKey: previous?.sshPublicKey ?? await sshKey(record), imageDigest: record.imageDigest, hash: sha256
      })
      return { document, secrets }
    },

    async forget (record) {
      await rm(folder(record), { recursive: true, force: true })
    },

    keyFile
  }
}
