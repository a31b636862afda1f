/** The text format of Prometheus, version 0.0.4. */

export type Sample = readonly [labels: Readonly<Record<string, string>>, value: number]

const escaped = (text: string): string => text.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n')

/** One family: its help, its type, its samples. Pure. */
export function family (name: string, type: 'counter' | 'gauge', help: string, samples: readonly Sample[]): string[] {
  return [`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`, ...samples.map(([labels, value]) => {
    const inner = Object.entries(labels).map(([label, text]) => `${label}="${escaped(text)}"`).join(',')
    return `${name}${inner === '' ? '' : `{${inner}}`} ${value}`
  })]
}
