import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { mkdir, open, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { CacheSpec } from '../../protocol/core/desired.ts'
import { clusterNamespace } from '../../protocol/core/desired.ts'
import { run, runJson } from '../../agent/exec.ts'
import { ip, joinGateways } from './cache-wan.ts'

/** What the cache of these labs is asked to be. */
export const LAB_SPEC: CacheSpec = {
  cluster: 'lab',
  vni: 0x00ca5e,
  frontendAddress: '10.42.0.1',
  ownAddress: '10.42.255.2',
  bridgeMac: '02:00:00:00:b1:01',
  ports: [80, 8080],
  maxSizeMiB: 2048
}
export const SITE = clusterNamespace(LAB_SPEC.vni)
export const FRONTEND = 'fe'
const MASTER = 'mz-master'

export interface LabNode { namespace: string, address: string }

/** One line of the frontend's log. */
export interface OriginRequest { from: string, port: number, method: string, target: string, status: number, range: string }

export interface Curl { status: number, bytes: number, firstByteS: number, totalS: number, exitCode: number }

export interface CacheLab {
  dir: string
  nodes: LabNode[]
  /** puts a file of random bytes under a digest name; returns its path on the frontend and its digest */
  publish (bytes: number): Promise<{ path: string, sha256: string, file: string }>
  get (node: LabNode, url: string, args?: readonly string[]): Promise<Curl>
  /** the body as text */
  text (node: LabNode, url: string, args?: readonly string[]): Promise<string>
  /** bytes received so far on the segment's port towards the frontend */
  wanBytes (): Promise<number>
  /** what the frontend's file server was asked since the last call */
  originRequests (): Promise<OriginRequest[]>
  /** limits the path from the frontend, in Mbit/s; null lifts it */
  limitWan (mbitPerS: number | null): Promise<void>
  /** delay between the gateways, there and back; only of a lab that was made with `delayed` */
  setRtt (rttMs: number): Promise<void>
  close (): Promise<void>
}

export interface CacheLabOptions {
  /** the path between the gateways has a delay that can be set, see cache-wan.ts */
  delayed?: boolean
  /** script, with arguments, that serves the frontend's port 8080; must answer `/` with 200 */
  program?: readonly string[]
  /** more lines for the server block of the frontend's nginx on port 80 */
  locations?: string
}

const WHO_ASKED = [join(import.meta.dirname, 'cache-origin.ts'), LAB_SPEC.frontendAddress, '8080'] as const

/** One end of the tunnel: VXLAN made in the gateway's own namespace, moved to the cluster's. */
async function tunnelEnd (gateway: string, cluster: string, local: string, remote: string): Promise<void> {
  await ip(gateway, `
    link add wan0 type vxlan id ${LAB_SPEC.vni} local ${local} dstport 4789 df unset
    link set wan0 netns ${cluster}`)
  await run('bridge', ['-n', cluster, 'fdb', 'append', '00:00:00:00:00:00', 'dev', 'wan0', 'dst', remote])
  await ip(cluster, `
    link add wan0m link wan0 type macvlan mode passthru
    link set wan0 up
    link set wan0m master br0 up`)
  await run('nft', ['-f', '-'], {
    netns: cluster,
    input: 'table bridge lab_mss { chain c { type filter hook postrouting priority 0; oifname "wan0m" tcp flags & syn == syn tcp option maxseg size > 1330 tcp option maxseg size set 1330; }; }\n'
  })
}

/**
 * A far site with `nodeCount` nodes, a tunnel, and a frontend at the other end, all in network
 * namespaces of the calling pod: the frontend behind a bridge, VXLAN between two gateways, the
 * cluster's namespace as the segment driver leaves it, nodes behind `host0`.
 */
export async function createCacheLab (dir: string, nodeCount: number, { delayed = false, program = WHO_ASKED, locations = '' }: CacheLabOptions = {}): Promise<CacheLab> {
  const children: ChildProcess[] = []
  const nodes = Array.from({ length: nodeCount }, (_, i): LabNode => ({ namespace: `n${i + 1}`, address: `10.42.1.${i + 1}` }))
  await ip('', ['gwa', 'gwb', MASTER, SITE, FRONTEND, 'hb', ...nodes.map(node => node.namespace)].map(name => `netns add ${name}`).join('\n'))
  for (const name of ['gwa', 'gwb', MASTER, SITE, FRONTEND, 'hb']) await ip(name, 'link set lo up')
  const wan = await joinGateways(dir, delayed)
  await ip(MASTER, `
    link add br0 address 02:00:00:00:a1:01 type bridge mcast_snooping 0
    link set br0 up
    link add fe0 type veth peer name eth0 netns ${FRONTEND}
    link set fe0 master br0 up`)
  await ip(FRONTEND, `addr add ${LAB_SPEC.frontendAddress}/16 dev eth0\nlink set eth0 up`)
  await ip(SITE, `
    link add br0 address ${LAB_SPEC.bridgeMac} type bridge mcast_snooping 0
    addr add ${LAB_SPEC.ownAddress}/16 dev br0
    link set br0 up
    link add host0 type veth peer name mzh netns hb
    link set host0 master br0 up`)
  await tunnelEnd('gwa', MASTER, '10.98.0.1', '10.98.0.2')
  await tunnelEnd('gwb', SITE, '10.98.0.2', '10.98.0.1')
  await ip('hb', `link add br0 type bridge mcast_snooping 0
    link set br0 up
    link set mzh master br0 up
    ${nodes.map(node => `link add ${node.namespace} type veth peer name eth0 netns ${node.namespace}\nlink set ${node.namespace} master br0 up`).join('\n')}`)
  for (const node of nodes) await ip(node.namespace, `addr add ${node.address}/16 dev eth0\nlink set eth0 up`)

  const www = join(dir, 'www')
  const log = join(dir, 'origin.log')
  await mkdir(join(www, 'images'), { recursive: true })
  await writeFile(join(dir, 'origin.conf'), originConf(dir, locations))
  const start = (argv: readonly string[]): void => {
    children.push(spawn('ip', ['netns', 'exec', FRONTEND, ...argv], { stdio: ['ignore', 'inherit', 'inherit'] }))
  }
  start(['nginx', '-c', join(dir, 'origin.conf'), '-p', dir, '-e', join(dir, 'origin.err')])
  start([process.execPath, ...program])

  let logRead = 0
  let marks = 0
  const curl = async (node: LabNode, url: string, args: readonly string[]): Promise<{ stdout: string, exitCode: number }> =>
    await run('curl', ['-sS', '-m', '60', ...args, url.startsWith('/') ? `http://${LAB_SPEC.frontendAddress}${url}` : url], { netns: node.namespace, timeoutMs: 70_000, okCodes: Array.from({ length: 100 }, (_, i) => i) })

  const lab: CacheLab = {
    dir,
    nodes,
    async publish (bytes) {
      const hash = createHash('sha256')
      const temporary = join(www, 'new')
      const file = await open(temporary, 'w')
      for (let left = bytes; left > 0; left -= 1024 * 1024) {
        const chunk = randomBytes(Math.min(left, 1024 * 1024))
        hash.update(chunk)
        await file.write(chunk)
      }
      await file.close()
      const sha256 = hash.digest('hex')
      await mkdir(join(www, 'images', sha256))
      await run('mv', [temporary, join(www, 'images', sha256, 'root')])
      return { path: `/images/${sha256}/root`, sha256, file: join(www, 'images', sha256, 'root') }
    },
    async get (node, url, args = []) {
      const format = '%{http_code} %{size_download} %{time_starttransfer} %{time_total}'
      const { stdout, exitCode } = await curl(node, url, ['-o', '/dev/null', '-w', format, ...args])
      const [status = 0, bytes = 0, firstByteS = 0, totalS = 0] = stdout.trim().split(' ').map(Number)
      return { status, bytes, firstByteS, totalS, exitCode }
    },
    async text (node, url, args = []) {
      return (await curl(node, url, args)).stdout
    },
    async wanBytes () {
      const links = await runJson('ip', ['-json', '-s', '-n', SITE, 'link', 'show', 'dev', 'wan0m']) as Array<{ stats64: { rx: { bytes: number } } }>
      return links[0]?.stats64.rx.bytes ?? 0
    },
    async originRequests () {
      // its one process writes in order: with this line in the log, all before it are
      const mark = `/mark-${marks++}`
      await run('curl', ['-sS', '-m', '10', '-o', '/dev/null', `http://${LAB_SPEC.frontendAddress}${mark}`], { netns: FRONTEND })
      for (let tries = 0; tries < 100; tries++) {
        const fresh = (await readFile(log, 'utf8')).slice(logRead)
        if (fresh.includes(`"${mark}"`) && fresh.endsWith('\n')) {
          logRead += fresh.length
          return fresh.split('\n').filter(line => line !== '').map(line => JSON.parse(line) as OriginRequest).filter(request => request.target !== mark)
        }
        await delay(20)
      }
      throw new Error('the log of the lab\'s frontend does not grow')
    },
    limitWan: async mbitPerS => await wan.limit(mbitPerS),
    setRtt: async rttMs => await wan.setRtt(rttMs),
    async close () {
      wan.close()
      for (const child of children) child.kill('SIGKILL')
      await delay(50)
    }
  }
  const first = nodes[0]
  for (let tries = 0; first !== undefined && tries < 50; tries++) {
    const ready = await Promise.all([lab.get(first, '/who'), lab.get(first, `http://${LAB_SPEC.frontendAddress}:8080/`)])
    if (ready.every(answer => answer.status === 200)) return lab
    await delay(100)
  }
  await lab.close()
  throw new Error('the frontend of the cache lab does not answer')
}

function originConf (dir: string, locations: string): string {
  return `daemon off; user root; worker_processes 1; pid ${dir}/origin.pid; error_log ${dir}/origin.err;
events { worker_connections 1024; }
http {
  log_format origin escape=json '{"from":"$remote_addr","port":$remote_port,"method":"$request_method","target":"$request_uri","status":$status,"range":"$http_range"}';
  access_log ${dir}/origin.log origin;
  client_body_temp_path ${dir}/o1; proxy_temp_path ${dir}/o2; fastcgi_temp_path ${dir}/o3; uwsgi_temp_path ${dir}/o4; scgi_temp_path ${dir}/o5;
  keepalive_requests 100000;
  default_type application/octet-stream;
  server {
    listen ${LAB_SPEC.frontendAddress}:80;
    root ${dir}/www;
    location = /who { return 200 "$remote_addr"; }
    ${locations}
  }
}
`
}
