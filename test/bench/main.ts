/** `npm run bench -- NAME [--full]`: prints one JSON object a line for each figure. */
import { parseArgs } from 'node:util'

/** Loaded only when asked for: some benches re-run their file inside a pod. */
const BENCHES: Record<string, () => Promise<Record<string, (options?: { full?: boolean }) => AsyncIterable<object>>>> = {
  mesh: async () => (await import('./mesh.ts')).benches,
  cache: async () => (await import('./cache.ts')).benches
}

const { values, positionals } = parseArgs({ args: process.argv.slice(2), allowPositionals: true, options: { full: { type: 'boolean' }, help: { type: 'boolean', short: 'h' } } })
const names = positionals.length === 0 ? Object.keys(BENCHES) : positionals
const unknown = names.filter(n => BENCHES[n] === undefined)
if (values.help === true || unknown.length > 0) {
  process.stderr.write(`${unknown.length > 0 ? `there is no bench ${unknown.join(', ')}\n` : ''}npm run bench -- [${Object.keys(BENCHES).join('|')} ...] [--full]\n`)
  process.exit(unknown.length > 0 ? 2 : 0)
}
for (const name of names) {
  for (const bench of Object.values(await BENCHES[name]?.() ?? {})) {
    for await (const figure of bench({ full: values.full === true })) process.stdout.write(`${JSON.stringify(figure)}\n`)
  }
}
process.exit(0)
