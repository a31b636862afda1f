/** One line of a benchmark's output; ratio is against `peerValue` or `limit`. */
export interface Figure {
  bench: string
  figure: string
  value: number
  unit: string
  better: 'lower' | 'higher'
  peer: string | null
  peerValue: number | null
  limit: number | null
  ratio: number | null
  samples: number
  p50: number
  p99: number
  /** what the figure is not, or leaves out */
  note?: string
}

export interface BenchOptions {
  full?: boolean
  /** without what the figures are held against, where that takes longest */
  alone?: boolean
}
export type Bench = (options?: BenchOptions) => AsyncIterable<Figure> | Iterable<Figure>

/** Four digits: more is noise. */
export const round = (value: number): number => Number(value.toPrecision(4))

export function percentile (samples: readonly number[], part: number): number {
  const sorted = [...samples].sort((a, b) => a - b)
  return round(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))] ?? 0)
}

/** p50 and p99 of samples as a figure has them. */
export function spread (samples: readonly number[]): Pick<Figure, 'samples' | 'p50' | 'p99'> {
  return { samples: samples.length, p50: percentile(samples, 0.5), p99: percentile(samples, 0.99) }
}

/** A figure without a peer; `ratio` is against its limit when it has one. */
export function alone (figure: Pick<Figure, 'bench' | 'figure' | 'value' | 'unit' | 'better'> & { limit?: number }, samples: readonly number[]): Figure {
  const limit = figure.limit ?? null
  return { ...figure, value: round(figure.value), peer: null, peerValue: null, limit, ratio: limit === null ? null : round(figure.value / limit), ...spread(samples) }
}
