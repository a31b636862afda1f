/** etcd from Debian as a peer: nodes on loopback with data on the disk that is given, asked over the JSON form of its API. */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { Agent, request } from 'node:http'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { freePort } from '../free-port.ts'

const START_TIMEOUT_MS = 30_000
const TTL_S = 30

export interface Etcd {
  /** of the leader: no request is passed on */
  readonly url: string
  readonly version: string
  close (): Promise<void>
}

const base64 = (text: string): string => Buffer.from(text).toString('base64')

/** One client with one connection that stays open. @throws Error with what etcd answered */
export class EtcdClient {
  readonly #url: URL
  readonly #agent = new Agent({ keepAlive: true, maxSockets: 1 })

  constructor (url: string) {
    this.#url = new URL(url)
  }

  async post<T> (path: string, body: object): Promise<T> {
    const payload = JSON.stringify(body)
    return await new Promise<T>((resolve, reject) => {
      const req = request({ agent: this.#agent, host: this.#url.hostname, port: this.#url.port, path, method: 'POST', headers: { 'content-type': 'application/json', 'content-length': Buffer.byteLength(payload) } }, response => {
        let text = ''
        response.setEncoding('utf8').on('data', (chunk: string) => { text += chunk }).on('error', reject).on('end', () => {
          if (response.statusCode === 200) resolve(JSON.parse(text) as T)
          else reject(new Error(`etcd answered ${path} with ${response.statusCode ?? '?'}: ${text.slice(0, 200)}`))
        })
      })
      req.on('error', reject)
      req.end(payload)
    })
  }

  /** What stands for hold, commit and release: a lease, a key bound to it if nobody has it, the end of both. */
  async cycle (key: string, value: string): Promise<void> {
    const { ID } = await this.post<{ ID: string }>('/v3/lease/grant', { TTL: TTL_S })
    const { succeeded } = await this.post<{ succeeded?: boolean }>('/v3/kv/txn', {
      compare: [{ key: base64(key), target: 'CREATE', result: 'EQUAL', create_revision: 0 }],
      success: [{ request_put: { key: base64(key), value: base64(value), lease: ID } }]
    })
    if (succeeded !== true) throw new Error(`etcd has ${key} already`)
    await this.post('/v3/lease/revoke', { ID })
  }

  close (): void {
    this.#agent.destroy()
  }
}

interface Status { version?: string, leader?: string, header?: { member_id?: string } }

/** @param dir where it keeps its data  @throws Error when it does not come up */
export async function startEtcd (nodes: number, dir: string): Promise<Etcd> {
  const address = `127.${1 + Math.floor(Math.random() * 250)}.${Math.floor(Math.random() * 250)}.1`
  const ports: Array<{ name: string, client: string, peer: string }> = []
  for (let n = 0; n < nodes; n++) ports.push({ name: `e${n}`, client: `http://${address}:${await freePort(address)}`, peer: `http://${address}:${await freePort(address)}` })
  const processes = ports.map(({ name, client, peer }): ChildProcess => spawn('etcd', [
    '--name', name, '--data-dir', join(dir, `etcd${nodes}-${name}`), '--listen-client-urls', client, '--advertise-client-urls', client,
    '--listen-peer-urls', peer, '--initial-advertise-peer-urls', peer, '--initial-cluster', ports.map(p => `${p.name}=${p.peer}`).join(), '--initial-cluster-state', 'new', '--logger', 'zap', '--log-level', 'error'
  ], { stdio: ['ignore', 'ignore', 'inherit'] }))
  const shoot = (): void => { for (const child of processes) child.kill('SIGKILL') }
  for (const child of processes) child.once('error', () => undefined)
  process.once('exit', shoot)
  const close = async (): Promise<void> => {
    process.removeListener('exit', shoot)
    await Promise.all(processes.map(async child => {
      if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return
      const gone = once(child, 'exit')
      child.kill('SIGKILL')
      await gone
    }))
  }
  for (const end = performance.now() + START_TIMEOUT_MS; ;) {
    for (const { client: url } of ports) {
      const client = new EtcdClient(url)
      const status = await client.post<Status>('/v3/maintenance/status', {}).catch(() => null)
      client.close()
      if (status?.leader !== undefined && status.leader === status.header?.member_id) return { url, version: status.version ?? '?', close }
    }
    if (performance.now() > end) {
      await close()
      throw new Error(`no etcd of ${nodes} nodes within ${START_TIMEOUT_MS} ms; is it installed (apt-get install etcd-server)?`)
    }
    await sleep(100)
  }
}
