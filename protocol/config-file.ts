import { readFile, stat } from 'node:fs/promises'
import type { Static, TSchema } from 'typebox'
import { Compile } from 'typebox/compile'
import { Default } from 'typebox/value'
import { parse } from 'yaml'
import { describeError, InvalidInputError } from './core/errors.ts'
import { MAX_SPEC_BYTES } from './core/limits.ts'

interface SchemaError { instancePath: string, keyword: string, message: string, params: object }

/** One line per problem, with the path of the field; `boolean` errors repeat `additionalProperties`. */
function explain (error: SchemaError): string | null {
  if (error.keyword === 'boolean') return null
  const at = error.instancePath === '' ? '' : `${error.instancePath.slice(1).replaceAll('/', '.')}: `
  if ('additionalProperties' in error.params && Array.isArray(error.params.additionalProperties)) {
    return `${at}unknown field ${error.params.additionalProperties.map(String).join(', ')}`
  }
  return `${at}${error.message}`
}

/**
 * Checks plain data against a schema and fills its defaults.
 *
 * @param source names the origin in errors (a path, `request body`)
 * @throws InvalidInputError with every problem, one per line
 */
export function parseWith<T extends TSchema> (schema: T, data: unknown, source: string): Static<T> {
  const value: unknown = Default(schema, data ?? {})
  const validator = Compile(schema)
  if (validator.Check(value)) return value
  const problems = [...new Set([...validator.Errors(value)].map(explain).filter(line => line !== null))]
  throw new InvalidInputError(`${source} is not valid:\n${problems.map(p => `  ${p}`).join('\n')}`)
}

/** Reads a bounded YAML (or JSON) file. @throws InvalidInputError naming the file and what to do */
export async function readYamlFile (path: string): Promise<unknown> {
  let content: string
  try {
    const { size } = await stat(path)
    if (size > MAX_SPEC_BYTES) throw new InvalidInputError(`${path} has ${size} bytes; the limit is ${MAX_SPEC_BYTES}`)
    content = await readFile(path, 'utf8')
  } catch (error) {
    if (error instanceof InvalidInputError) throw error
    throw new InvalidInputError(`cannot read ${path}: ${describeError(error)}`, 'check the path and its permissions')
  }
  return parseYaml(content, path)
}

/** Parses YAML; aliases are bounded so that a small file cannot become a large value. */
export function parseYaml (content: string, source: string): unknown {
  try {
    return parse(content, { maxAliasCount: 100 }) as unknown
  } catch (error) {
    throw new InvalidInputError(`${source} is not YAML: ${describeError(error).split('\n')[0] ?? ''}`)
  }
}

/** `readYamlFile` + `parseWith`. */
export async function loadConfigFile<T extends TSchema> (path: string, schema: T): Promise<Static<T>> {
  return parseWith(schema, await readYamlFile(path), path)
}
