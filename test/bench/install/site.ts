/** The worker site of the reference workload: its frontend, its nodes, and what stands between them. */
import { spawn } from 'node:child_process'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { CacheDriver } from '../../../agent/drivers/cache/driver.ts'
import { LAB_SPEC, SITE, createCacheLab } from '../cache-lab.ts'
import type { CacheLab, LabNode } from '../cache-lab.ts'
import { cpuSeconds, sitePids } from '../cache-memory.ts'
import { countDirect, countSingleFrames } from './counters.ts'
import { downloadsOf, kickstartFailure, macOf, runNodes } from './node.ts'
import type { Download, Errand, Run } from './node.ts'
import { startSquid } from './squid.ts'
import { CACHE, installSpec, makeDriver, preheat, ready } from './wiring.ts'
import { writeWorkload } from './workload.ts'
import type { Workload } from './workload.ts'

export const WAN_MBIT_PER_S = 200
const FRONTEND = `http://${LAB_SPEC.frontendAddress}`
const KICKSTARTS_PROBED = 8

export interface Measured extends Run {
  /** received at the site's port towards the frontend, kickstarts taken off */
  wanBytes: number
  /** processor time of all programs in the site's namespace meanwhile, nodes not included */
  siteCpuSeconds: number
}

export interface InstallSite {
  lab: CacheLab
  workload: Workload
  driver: CacheDriver
  /** an engine with an empty store */
  cold (): Promise<void>
  /** an engine that has all of it. @returns how it got it */
  preheated (): Promise<string>
  off (): Promise<void>
  squid (): Promise<() => Promise<void>>
  /** whole installations, kickstart and all; `asNodes`: the frontend must have seen the nodes' own addresses */
  install (nodes: readonly LabNode[], options?: { asNodes?: boolean }): Promise<Measured>
  /** the same without kickstarts, from another server if `base` says so */
  fetchAll (nodes: readonly LabNode[], base?: string): Promise<Measured>
  errands (list: readonly Errand[], meanwhile?: () => Promise<void>): Promise<Measured>
  image (more?: Partial<Download>): Download
  /** what a node fetches after the image */
  rest (): Download[]
  killEngine (): Promise<void>
  /** an nginx that has the files on disk, at the place of the cache */
  bare (): Promise<{ base: string, stop: () => void }>
  close (): Promise<void>
}

/** Waits until nothing comes in any more: what a cache goes on fetching counts as well. */
async function settled (lab: CacheLab): Promise<number> {
  let before = await lab.wanBytes()
  for (let quiet = 0; quiet < 3;) {
    await delay(150)
    const now = await lab.wanBytes()
    // an ARP answer now and then is no download
    quiet = now - before < 2_000 ? quiet + 1 : 0
    before = now
  }
  return before
}

const bareConf = (dir: string, root: string): string => `daemon off; user root; worker_processes 1; worker_priority -5; pid ${dir}/bare.pid; error_log ${dir}/bare.err;
events { worker_connections 4096; }
http {
  access_log off;
  client_body_temp_path ${dir}/b1; proxy_temp_path ${dir}/b2; fastcgi_temp_path ${dir}/b3; uwsgi_temp_path ${dir}/b4; scgi_temp_path ${dir}/b5;
  sendfile on; tcp_nopush on; keepalive_requests 100000;
  server { listen ${LAB_SPEC.ownAddress}:80; root ${root}; }
}
`

/** @param part of the original's sizes and number of packages */
export async function createInstallSite (dir: string, nodeCount: number, part: number): Promise<InstallSite> {
  await mkdir(dir, { recursive: true })
  const lab = await createCacheLab(dir, nodeCount, {
    delayed: true,
    program: [join(import.meta.dirname, 'kickstart.ts'), LAB_SPEC.frontendAddress, '8080'],
    locations: `location = /ks.cfg { proxy_pass http://${LAB_SPEC.frontendAddress}:8080; proxy_set_header X-Node $remote_addr; }`
  })
  const workload = await writeWorkload(join(dir, 'www'), part)
  const driver = makeDriver(dir)
  const kickstartUrl = (index: number): string => `${FRONTEND}/ks.cfg?mac=${macOf(index)}`
  const kickstart = (index: number): Download => ({ url: kickstartUrl(index), bytes: 8_192, sha256: null })
  await countSingleFrames()
  await countDirect()

  const measure = async (list: readonly Errand[], kickstarts: number, meanwhile?: () => Promise<void>): Promise<Measured> => {
    let [before, cpuBefore] = [0, 0]
    let aside: Promise<void> = Promise.resolve()
    const result = await runNodes(join(dir, 'nodes'), list, async () => {
      before = await lab.wanBytes()
      cpuBefore = await cpuSeconds()
      if (meanwhile !== undefined) aside = meanwhile()
    })
    const siteCpuSeconds = await cpuSeconds() - cpuBefore
    await aside
    return { ...result, siteCpuSeconds, wanBytes: await settled(lab) - before - kickstarts }
  }
  const [first] = lab.nodes
  if (first === undefined) throw new Error('a site without nodes')
  const probe = await measure([{ node: first, downloads: Array.from({ length: KICKSTARTS_PROBED }, (_, i) => kickstart(i)) }], 0)
  const kickstartBytes = probe.wanBytes / KICKSTARTS_PROBED

  const site: InstallSite = {
    lab,
    workload,
    driver,
    async cold () {
      await site.off()
      await driver.apply(CACHE, installSpec(workload), AbortSignal.timeout(60_000))
      await ready(driver, workload)
    },
    async preheated () {
      await site.cold()
      if (await preheat(driver, workload)) return 'from the manifest'
      const { failures } = await site.fetchAll([first])
      if (failures.length > 0) throw new Error(failures.join('; '))
      return 'by one node that had installed before'
    },
    off: async () => await driver.remove(CACHE, AbortSignal.timeout(60_000)),
    squid: async () => await startSquid(join(dir, 'squid')),
    async install (nodes, { asNodes = true } = {}) {
      const result = await measure(nodes.map((node, index) => ({ node, downloads: [kickstart(index), ...downloadsOf(FRONTEND, workload.objects)] })), nodes.length * kickstartBytes)
      const wrong = asNodes ? await Promise.all(nodes.slice(0, 2).map(async (node, index) => await kickstartFailure(node, kickstartUrl(index), macOf(index)))) : []
      return { ...result, failures: [...result.failures, ...wrong.filter(one => one !== null)] }
    },
    fetchAll: async (nodes, base = FRONTEND) => await measure(nodes.map(node => ({ node, downloads: downloadsOf(base, workload.objects) })), 0),
    errands: async (list, meanwhile) => await measure(list, 0, meanwhile),
    image: (more = {}) => ({ url: `${FRONTEND}${workload.image.path}`, bytes: workload.image.bytes, sha256: workload.image.sha256, ...more }),
    rest: () => downloadsOf(FRONTEND, workload.objects.filter(object => object !== workload.image)),
    async killEngine () {
      for (const pid of await sitePids()) {
        const command = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')
        if (command.startsWith('nginx')) process.kill(pid, 'SIGKILL')
      }
    },
    async bare () {
      await writeFile(join(dir, 'bare.conf'), bareConf(dir, join(dir, 'www')))
      const child = spawn('ip', ['netns', 'exec', SITE, 'nginx', '-c', join(dir, 'bare.conf'), '-p', dir, '-e', join(dir, 'bare.err')], { stdio: ['ignore', 'inherit', 'inherit'] })
      await delay(300)
      return { base: `http://${LAB_SPEC.ownAddress}`, stop: () => child.kill('SIGTERM') }
    },
    async close () {
      await site.off().catch(() => undefined)
      await lab.close()
    }
  }
  return site
}
