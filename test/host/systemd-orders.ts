/**
 * What an agent asks of a helper, asked by hand: run as the agent's user with a list of verbs and
 * parameters as JSON; prints the list of results.
 */
import { pino } from 'pino'
import { createHelperClient } from '../../agent/helper/client/client.ts'
import type { ParamsOf, VerbName } from '../../agent/helper/wire/verbs.ts'

const [, , socketPath = '', text = '[]'] = process.argv
const client = createHelperClient({ socketPath, log: pino({ level: 'silent' }), persistent: false })
const results: unknown[] = []
for (const [verb, params] of JSON.parse(text) as Array<[VerbName, ParamsOf<VerbName>]>) results.push(await client.call(verb, params))
client.close()
process.stdout.write(JSON.stringify(results))
