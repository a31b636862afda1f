/**
 * `cycles-vs-etcd3`, `cycles-vs-etcd1`: hold, commit and release of one host per second, each step on
 * its disk before it is answered, against etcd's grant, txn and revoke; in turns, from the same process.
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { privateKeyToProtobuf } from '@libp2p/crypto/keys'
import { makeFederation } from '../agents/federation.ts'
import { percentile, round, spread, type BenchOptions, type Figure } from './figures.ts'
import type { ClientNews, ClientOrder, ClientPlan } from './lease-client.ts'
import { startEtcd, type Etcd } from './lease-etcd.ts'

const CLIENT = fileURLToPath(new URL('./lease-client.ts', import.meta.url))
const CLIENTS = [1, 16]
/** Of the 3-node figure. */
const GOAL = 2
const NOT = 'etcd replicates each step to a quorum and orders it among all keys; a host here promises only what is its own, by one process, on one disk. ' +
  'A lease of etcd has a life of its own and watchers; a cycle here checks capacity over time, quota and fencing. All on one machine, over loopback; etcd through its JSON gateway, not gRPC.'

interface Client { ask (order: ClientOrder): Promise<ClientNews>, close (): Promise<void> }

async function startClient (plan: ClientPlan): Promise<Client> {
  const child = fork(CLIENT, ['lease-client'], { execArgv: [], env: { ...process.env, NODE_OPTIONS: '' }, stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
  let answer: PromiseWithResolvers<ClientNews> | null = null
  child.on('message', (news: ClientNews) => { answer?.resolve(news) })
  child.once('exit', () => { answer?.reject(new Error('the asking process ended')) })
  const ask = async (order: ClientOrder): Promise<ClientNews> => {
    answer = Promise.withResolvers<ClientNews>()
    child.send(order)
    const news = await answer.promise
    if (news.kind === 'failed') throw new Error(news.why)
    return news
  }
  await ask({ op: 'start', plan })
  return {
    ask,
    close: async () => {
      answer = null
      const gone = once(child, 'exit')
      child.kill('SIGKILL')
      await gone
    }
  }
}

const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64')

interface Rounds { perSecond: number[], ms: number[] }

/** Compares with etcd of `nodes` nodes at 1 and at 16 clients. */
async function * cycles (nodes: number, { full = false }: BenchOptions): AsyncGenerator<Figure> {
  const [rounds, ms] = full ? [10, 3000] : [5, 1500]
  const federation = await makeFederation([{ name: 'tokyo', hosts: [{ name: 'g1', roles: ['gateway'], vcpus: 0, memoryMiB: 0, diskMiB: 0 }, { name: 'h1', roles: ['compute'], vcpus: 256, memoryMiB: 1_048_576, diskMiB: 0 }] }])
  let etcd: Etcd | null = null
  let client: Client | null = null
  try {
    const [gateway, host] = [federation.agent('g1'), federation.agent('h1')]
    await host.startHelper()
    await host.start()
    const [own, other] = [federation.kit.member('tokyo/g1'), federation.kit.member('tokyo/h1')]
    client = await startClient({
      key: base64(privateKeyToProtobuf(own.key)), federation: federation.kit.federation, chain: own.chain.map(base64), listen: `/ip4/${gateway.address}/tcp/4100`,
      host: { peerId: other.peerId, addresses: [`/ip4/${host.address}/tcp/4100`], chain: other.chain.map(base64) }
    })
    etcd = await startEtcd(nodes, federation.dir)
    const { url, version } = etcd
    for (const clients of CLIENTS) {
      const [ours, theirs]: [Rounds, Rounds] = [{ perSecond: [], ms: [] }, { perSecond: [], ms: [] }]
      const run = async (at: string | null, forMs: number, into: Rounds | null): Promise<void> => {
        const news = await client?.ask({ op: 'run', run: { etcd: at, clients, ms: forMs } })
        if (news?.kind !== 'done' || into === null) return
        into.perSecond.push(news.ms.length / news.tookMs * 1000)
        into.ms.push(...news.ms)
      }
      for (const at of [null, url]) await run(at, 1000, null)
      for (let n = 0; n < rounds; n++) {
        await run(null, ms, ours)
        await run(url, ms, theirs)
      }
      const [value, peerValue] = [percentile(ours.perSecond, 0.5), percentile(theirs.perSecond, 0.5)]
      const bench = `cycles-vs-etcd${nodes}`
      yield {
        bench, figure: `durable hold + commit + release of one host, ${clients} client${clients === 1 ? '' : 's'}`, value, unit: '1/s', better: 'higher',
        peer: `etcd ${version}, ${nodes} node${nodes === 1 ? '' : 's'} on the same disk, lease grant + txn + lease revoke, in turns`, peerValue,
        limit: nodes === 3 ? GOAL : null, ratio: round(value / peerValue), ...spread(ours.perSecond), note: NOT
      }
      yield { bench, figure: `one cycle of ours, ${clients} client${clients === 1 ? '' : 's'}`, value: percentile(ours.ms, 0.5), unit: 'ms', better: 'lower', peer: 'one of etcd', peerValue: percentile(theirs.ms, 0.5), limit: null, ratio: round(percentile(ours.ms, 0.5) / percentile(theirs.ms, 0.5)), ...spread(ours.ms) }
    }
  } finally {
    await client?.close()
    await etcd?.close()
    await federation.close()
  }
}

export const benches = {
  'cycles-vs-etcd3': (options: BenchOptions = {}) => cycles(3, options),
  'cycles-vs-etcd1': (options: BenchOptions = {}) => cycles(1, options)
}
