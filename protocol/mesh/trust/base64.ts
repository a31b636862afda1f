import type { Chain } from './certificate.ts'

/** Bytes as they stand in JSON files, stores and cluster documents. */
export const toBase64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64')
/** Characters that are not base64 are left out, as Buffer does it: check the shape before. */
export const fromBase64 = (text: string): Uint8Array<ArrayBuffer> => Uint8Array.from(Buffer.from(text, 'base64'))

export const chainToText = (chain: Chain): string[] => chain.map(toBase64)
export const chainFromText = (texts: readonly string[]): Uint8Array[] => texts.map(fromBase64)
