/**
 * Writes `gen/` from musubi.proto: `npm run codegen`, or with `--check` only says whether the
 * committed files still fit the contract. The same input always gives the same bytes.
 */
// first: what pbjs writes for a uint64 depends on it
import './numbers.ts'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import protobuf from 'protobufjs'
import cli from 'protobufjs-cli'

const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url))
const PROTO = here('./musubi.proto')
const NAMESPACE = 'musubi.v1'
const BANNER = '// Generated from musubi.proto by `npm run codegen`. Do not edit.\n'

/** Scalars that the contract uses; anything else is refused, so that no codec is left unchecked. */
const SCALARS: Readonly<Record<string, string>> = { string: 'string', bool: 'boolean', uint32: 'number', uint64: 'number', bytes: 'Uint8Array' }

/** The static codecs: encode and decode only; conversion and checks are codec.ts. */
async function codecs (): Promise<string> {
  const args = ['-t', 'static-module', '-w', 'esm', '--root', 'musubi', '--force-number', '--no-comments', '--no-create',
    '--no-convert', '--no-verify', '--no-delimited', '--no-typeurl', '--no-service', '-p', here('.'), PROTO]
  const output = await new Promise<string>((resolve, reject) => {
    cli.pbjs.main(args, (error, text) => {
      if (error === null && text !== undefined) resolve(text)
      else reject(error ?? new Error('pbjs wrote nothing'))
    })
  })
  const body = output.split('\n').filter(line => !line.startsWith('/*eslint')).map(line => line.trimEnd()).join('\n')
  return `${BANNER}${body.trimEnd()}\n`
}

function messagesOf (root: protobuf.Root): protobuf.Type[] {
  const namespace = root.lookup(NAMESPACE)
  if (!(namespace instanceof protobuf.Namespace)) throw new Error(`musubi.proto has no package ${NAMESPACE}`)
  return namespace.nestedArray.map(entry => {
    if (!(entry instanceof protobuf.Type)) throw new Error(`${entry.fullName}: only messages at the top level are supported`)
    return entry
  })
}

function fieldType (field: protobuf.Field): { plain: string, wire: string } {
  if (field.map) throw new Error(`${field.fullName}: maps are not supported`)
  const scalar = SCALARS[field.type]
  const base = scalar ?? field.type
  const plain = field.repeated ? `${base}[]` : scalar === undefined ? `${base} | null` : base
  return { plain, wire: field.type }
}

/** Of proto3: protobufjs has a oneof of one member for it. */
function isOptional (field: protobuf.Field): boolean {
  const optional = field.options?.proto3_optional === true
  if (optional && SCALARS[field.type] === undefined) throw new Error(`${field.fullName}: only scalars can be optional`)
  return optional
}

function interfaceOf (message: protobuf.Type): string {
  const fields = message.fieldsArray.map(field => `  ${field.name}${isOptional(field) ? '?' : ''}: ${fieldType(field).plain}\n`)
  return `export interface ${message.name} {\n${fields.join('')}}\n`
}

function schemaOf (message: protobuf.Type): string {
  const fields = message.fieldsArray.map(field => {
    const oneof = isOptional(field) ? ', optional: true' : field.partOf === null ? '' : `, oneof: '${field.partOf.name}'`
    return `    { name: '${field.name}', id: ${field.id}, type: '${fieldType(field).wire}', repeated: ${field.repeated}${oneof} }`
  })
  return `  ${message.name}: [\n${fields.join(',\n')}\n  ]`
}

/** Every member of Call's oneof is a method; its reply is the member of the same name in Reply. */
function methodsOf (root: protobuf.Root): Array<{ name: string, request: string, reply: string }> {
  const reply = root.lookupType(`${NAMESPACE}.Reply`)
  return root.lookupType(`${NAMESPACE}.Call`).fieldsArray.filter(field => field.partOf !== null).map(field => {
    const answer = reply.fields[field.name]
    if (answer === undefined) throw new Error(`Reply has no member ${field.name}, as Call has`)
    return { name: field.name, request: field.type, reply: answer.type }
  })
}

function types (root: protobuf.Root): string {
  const messages = messagesOf(root)
  const methods = methodsOf(root)
  return [
    BANNER,
    '// Plain data: every field is present, an optional one where it was read; a nested message that is not set is null.\n\n',
    messages.map(interfaceOf).join('\n'),
    '\nexport interface Messages {\n', ...messages.map(({ name }) => `  ${name}: ${name}\n`), '}\n',
    '\nexport interface Methods {\n', ...methods.map(({ name, request, reply }) => `  ${name}: { request: ${request}, reply: ${reply} }\n`), '}\n',
    '\nexport interface Field { readonly name: string, readonly id: number, readonly type: string, readonly repeated: boolean, readonly oneof?: string, readonly optional?: true }\n',
    `\nexport const METHODS: readonly (keyof Methods)[] = [${methods.map(({ name }) => `'${name}'`).join(', ')}]\n`,
    '\nexport const SCHEMA: { readonly [name in keyof Messages]: readonly Field[] } = {\n',
    messages.map(schemaOf).join(',\n'),
    '\n}\n'
  ].join('')
}

function declarations (root: protobuf.Root): string {
  return [
    BANNER,
    "import type { Reader, Writer } from 'protobufjs/minimal.js'\n\n",
    '/** What the static code offers; fields hold default values through their prototype. */\n',
    'interface StaticCodec {\n',
    '  encode (message: object, writer?: Writer): Writer\n',
    '  decode (reader: Reader | Uint8Array, length?: number): object\n',
    '}\n\n',
    'export declare const musubi: {\n  v1: {\n',
    ...messagesOf(root).map(({ name }) => `    ${name}: StaticCodec\n`),
    '  }\n}\n'
  ].join('')
}

/** File name in `gen/` -> text. */
export async function generate (): Promise<Map<string, string>> {
  const { root } = protobuf.parse(await readFile(PROTO, 'utf8'))
  root.resolveAll()
  return new Map([['musubi.js', await codecs()], ['musubi.d.ts', declarations(root)], ['types.ts', types(root)]])
}

/** Names of the files in `gen/` that differ from what the contract gives now. */
export async function staleFiles (): Promise<string[]> {
  const stale: string[] = []
  for (const [name, text] of await generate()) {
    const found = await readFile(here(`./gen/${name}`), 'utf8').catch(() => null)
    if (found !== text) stale.push(name)
  }
  return stale
}

if (process.argv[1] !== undefined && fileURLToPath(import.meta.url) === process.argv[1]) {
  const { values } = parseArgs({ options: { check: { type: 'boolean', default: false } } })
  if (values.check) {
    const stale = await staleFiles()
    if (stale.length > 0) {
      process.stderr.write(`protocol/wire/gen is stale: ${stale.join(', ')} (run npm run codegen)\n`)
      process.exitCode = 1
    }
  } else {
    await mkdir(here('./gen'), { recursive: true })
    for (const [name, text] of await generate()) await writeFile(here(`./gen/${name}`), text)
  }
}
