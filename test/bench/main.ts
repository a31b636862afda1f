/** `npm run bench -- NAME [--full] [--alone]`: prints one JSON object a line for each figure. */
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import type { Bench } from './figures.ts'
import { endWithSupervisor, supervise } from './supervise.ts'

/** Loaded only when asked for: some benches re-run their file inside a pod. */
const BENCHES: Readonly<Record<string, () => Promise<Readonly<Record<string, Bench>>>>> = {
  mesh: async () => ({
    ...(await import('./search.ts')).benches,
    ...(await import('./mesh.ts')).benches,
    ...(await import('./mesh-update.ts')).benches,
    ...(await import('./mesh-idle.ts')).benches,
    ...(await import('./mesh-many.ts')).benches
  }),
  calendar: async () => (await import('./calendar.ts')).benches,
  leases: async () => (await import('./leases.ts')).benches,
  helper: async () => (await import('./helper.ts')).benches,
  network: async () => (await import('./network.ts')).benches,
  cache: async () => (await import('./cache.ts')).benches,
  install: async () => (await import('./install.ts')).benches,
  placement: async () => (await import('./placement.ts')).benches
}

const { values, positionals } = parseArgs({ args: process.argv.slice(2), allowPositionals: true, options: { full: { type: 'boolean' }, alone: { type: 'boolean' }, only: { type: 'string' }, help: { type: 'boolean', short: 'h' } } })
const names = positionals.length === 0 ? Object.keys(BENCHES) : positionals
const unknown = names.filter(n => BENCHES[n] === undefined)
if (values.help === true || unknown.length > 0) {
  process.stderr.write(`${unknown.length > 0 ? `there is no bench ${unknown.join(', ')}\n` : ''}npm run bench -- [${Object.keys(BENCHES).join('|')} ...] [--only PART] [--full] [--alone]\n`)
  process.exit(unknown.length > 0 ? 2 : 0)
}
if (process.send === undefined) process.exit(await supervise(fileURLToPath(import.meta.url), process.argv.slice(2)))
endWithSupervisor()
for (const name of names) {
  const parts = await BENCHES[name]?.() ?? {}
  if (values.only !== undefined && parts[values.only] === undefined) {
    process.stderr.write(`${name} has no part ${values.only}; it has ${Object.keys(parts).join(', ')}\n`)
    process.exit(2)
  }
  for (const [part, bench] of Object.entries(parts)) {
    if (values.only !== undefined && values.only !== part) continue
    for await (const figure of bench({ full: values.full === true, alone: values.alone === true })) process.stdout.write(`${JSON.stringify(figure)}\n`)
  }
}
process.exit(0)
