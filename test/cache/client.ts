/**
 * The node of the differential test: sends the exchanges of a seed both ways and prints one JSON object a line for each kind of
 * difference. usage: client.ts SEED COUNT HOST DIRECTPORT CACHEDPORT
 */
import { runAll } from './both-ways.ts'
import { makeExchanges } from './exchanges.ts'
import { makeResources } from './resources.ts'

const SIDE_BY_SIDE = 4
const [seed, count, host = '', directPort, cachedPort] = process.argv.slice(2)
const exchanges = makeExchanges(Number(seed), Number(count), makeResources(Number(seed)))
for (const report of await runAll({ host, directPort: Number(directPort), cachedPort: Number(cachedPort) }, exchanges, SIDE_BY_SIDE)) process.stdout.write(`${JSON.stringify(report)}\n`)
process.stdout.write(`${JSON.stringify({ requests: exchanges.reduce((sum, exchange) => sum + exchange.steps.length, 0) })}\n`)
process.exit(0)
