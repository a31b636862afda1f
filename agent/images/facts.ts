import type { ImageStore } from './store.ts'

/** What is looked at of an image before it is used: what would cross the WAN. */
export interface ImageFacts {
  /** `sha256:<hex>` */
  digest: string
  files: ReadonlyArray<{ sha256: string, sizeBytes: number }>
}

/** Looks an image up, `default` or its digest, without reading its files; null when there is none here, or it is damaged. */
export type FactsOf = (image: string) => Promise<ImageFacts | null>

export const factsFrom = (store: Pick<ImageStore, 'newest' | 'get'>): FactsOf => async image => {
  const found = await (image === 'default' ? store.newest() : store.get(image)).catch(() => null)
  return found === null ? null : { digest: found.digest, files: found.manifest.files }
}

export const bytesOf = ({ files }: ImageFacts): number => files.reduce((total, { sizeBytes }) => total + sizeBytes, 0)
