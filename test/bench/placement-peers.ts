/** What placement is held against: HiGHS, which proves an optimum, and hail of Ganeti, which places as in production. */
import { spawn, spawnSync } from 'node:child_process'
import type { Resources } from '../../protocol/core/capacity.ts'
import type { Instance } from './placement-instances.ts'

const PYTHON = '/usr/bin/python3'
const HAIL = '/usr/lib/ganeti/iallocators/hail'

/**
 * Most VMs that fit: one 0/1 variable for each VM and host, by `scipy.optimize.milp`, which is HiGHS.
 * stdin: instances; stdout: a line for each, what was found and what was proved that nothing exceeds.
 */
const SOLVER = `
import json, sys
import numpy as np
from scipy.optimize import milp, LinearConstraint, Bounds
from scipy.sparse import lil_matrix
given = json.load(sys.stdin)
for hosts, vms in given["instances"]:
    m, n = len(hosts), len(vms)
    a = lil_matrix((n + m * 3, n * m))
    for i in range(n):
        for h in range(m):
            a[i, i * m + h] = 1
            for d in range(3):
                a[n + h * 3 + d, i * m + h] = vms[i][d] / hosts[h][d]
    r = milp(-np.ones(n * m), integrality=np.ones(n * m), bounds=Bounds(0, 1), constraints=LinearConstraint(a.tocsr(), -np.inf, np.ones(n + m * 3)), options={"time_limit": given["seconds"]})
    bound = n if r.mip_dual_bound is None else int(np.floor(-r.mip_dual_bound + 1e-6))
    print(json.dumps([0 if r.x is None else int(round(-r.fun)), bound]), flush=True)
`

const vector = ({ vcpus, memoryMib, diskMib }: Resources): number[] => [vcpus, memoryMib / 256, diskMib / 1024]

/** @param seconds for each instance  @returns of each what HiGHS found, and the bound that it proved: where they differ, time was over  @throws Error when it cannot be run */
export async function optima (instances: readonly Instance[], seconds: number): Promise<Array<{ found: number, bound: number }>> {
  const child = spawn(PYTHON, ['-c', SOLVER], { stdio: ['pipe', 'pipe', 'inherit'], timeout: (instances.length * seconds * 2 + 60) * 1000 })
  child.stdin.end(JSON.stringify({ seconds, instances: instances.map(({ hosts, vms }) => [hosts.map(vector), vms.map(vector)]) }))
  let text = ''
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => { text += chunk })
  const code = await new Promise<number | null>((resolve, reject) => { child.once('error', reject).once('close', resolve) })
  const lines = text.split('\n').filter(line => line !== '').map(line => JSON.parse(line) as [number, number])
  if (code !== 0 || lines.length !== instances.length) throw new Error(`the solver ended with ${code ?? 'a signal'} after ${lines.length} of ${instances.length} instances; is it installed (apt-get install python3-scipy)?`)
  return lines.map(([found, bound], i) => ({ found, bound: instances[i]?.perfect === true ? instances[i].vms.length : bound }))
}

/** hail takes what leaves something: with one MiB more on a host, what fits exactly is taken too. */
const SLACK_MIB = 1
const GROUP = 'g'

const limits = (size: number, count: number): object => ({ 'memory-size': size, 'cpu-count': count, 'disk-size': size, 'disk-count': count, 'nic-count': count, 'spindle-use': count })
/** Nothing is too large or too small, one vCPU for each of the host's. */
const POLICY = {
  minmax: [{ min: { ...limits(1, 0), 'cpu-count': 1, 'spindle-use': 1 }, max: limits(1_000_000_000, 100_000) }], std: { ...limits(1, 0), 'cpu-count': 1, 'spindle-use': 1 },
  'disk-templates': ['plain'], 'vcpu-ratio': 1, 'spindle-ratio': 1e9
}

interface Used { memoryMib: number, diskMib: number }

/** A request as `gnt-instance add` makes it: an instance with one disk, without mirror. */
const instanceOf = (name: string, { vcpus, memoryMib, diskMib }: Resources): object => ({
  type: 'allocate', name, memory: memoryMib, vcpus, disks: [{ size: diskMib, mode: 'rw', spindles: 0 }], disk_space_total: diskMib, spindle_use: 1,
  nics: [], os: 'none', tags: [], hypervisor: 'xen-pvm', disk_template: 'plain', required_nodes: 1
})

/** `enabled_hypervisors` names one for which hail sets no memory aside (it does 4 GiB for KVM). */
const clusterOf = (hosts: readonly Resources[], used: readonly Used[], instances: Readonly<Record<string, object>>, request: object): string => JSON.stringify({
  version: 2, cluster_name: 'c', cluster_tags: [], enabled_hypervisors: ['xen-pvm'], ipolicy: POLICY,
  nodegroups: { [GROUP]: { name: 'default', alloc_policy: 'preferred', networks: [], ipolicy: POLICY, tags: [] } },
  nodes: Object.fromEntries(hosts.map(({ vcpus, memoryMib, diskMib }, h) => [`h${h}`, {
    total_memory: memoryMib + SLACK_MIB, reserved_memory: 0, free_memory: memoryMib + SLACK_MIB - (used[h]?.memoryMib ?? 0), total_disk: diskMib + SLACK_MIB, free_disk: diskMib + SLACK_MIB - (used[h]?.diskMib ?? 0),
    total_cpus: vcpus, reserved_cpus: 0, i_pri_memory: used[h]?.memoryMib ?? 0, i_pri_up_memory: used[h]?.memoryMib ?? 0, total_spindles: 0, free_spindles: 0,
    primary_ip: '10.0.0.1', secondary_ip: '10.0.0.1', tags: [], group: GROUP, offline: false, drained: false, master_candidate: true, master_capable: true, vm_capable: true, hv_state: {}, disk_state: {},
    ndparams: { spindle_count: 1, exclusive_storage: false, oob_program: '', ovs: false, ovs_name: '', ovs_link: '', ssh_port: 22, cpu_speed: 1 }
  }])),
  instances, request
})

interface Answer { success: boolean, info: string, result: unknown[] }

function hail (args: readonly string[], input: string): { stdout: string, ms: number } {
  const from = performance.now()
  const { stdout, stderr, status, error } = spawnSync(HAIL, args, { input, encoding: 'utf8', timeout: 30_000 })
  const ms = performance.now() - from
  if (error !== undefined) throw new Error(`hail cannot be run (${error.message}); is it installed (apt-get install ganeti-htools)?`)
  if (status !== 0 && stdout === '') throw new Error(`hail ended with ${status ?? 'a signal'}: ${stderr.slice(0, 300)}`)
  return { stdout, ms }
}

/** No look at whether a host's failure could be borne; limits of the policy hold. */
const FLAGS = ['--no-capacity-checks', '-'] as const

/** How long it takes to start and end, ms. */
export const hailStartMs = (): number => hail(['--version'], '').ms

/** One VM after the other, a process each; what it refuses is left out. @returns indices of `vms` that it placed */
export function hailPlaced (hosts: readonly Resources[], vms: readonly Resources[], order: readonly number[]): number[] {
  const used = hosts.map((): Used => ({ memoryMib: 0, diskMib: 0 }))
  const instances: Record<string, object> = {}
  const placed: number[] = []
  for (const i of order) {
    const vm = vms[i] as Resources
    const request = instanceOf(`i${i}`, vm)
    const answer = JSON.parse(hail(FLAGS, clusterOf(hosts, used, instances, request)).stdout) as Answer
    const host = answer.success ? answer.result[0] : undefined
    if (typeof host !== 'string') {
      if (!/Fail(?:Mem|Disk|CPU)/.test(answer.info)) throw new Error(`hail refuses for another reason than room: ${answer.info.slice(0, 300)}`)
      continue
    }
    const on = used[Number(host.slice(1))] as Used
    on.memoryMib += vm.memoryMib
    on.diskMib += vm.diskMib
    instances[`i${i}`] = { ...request, admin_state: 'up', nodes: [host], forthcoming: false }
    placed.push(i)
  }
  return placed
}

/** All of these, which it is known to take in this order, in one process: how long, ms. */
export function hailManyMs (hosts: readonly Resources[], vms: readonly Resources[], order: readonly number[]): number {
  const request = { type: 'multi-allocate', instances: order.map(i => instanceOf(`i${i}`, vms[i] as Resources)) }
  const { stdout, ms } = hail(FLAGS, clusterOf(hosts, [], {}, request))
  const answer = JSON.parse(stdout) as Answer
  if (!answer.success) throw new Error(`hail refuses together what it took one by one: ${answer.info.slice(0, 300)}`)
  return ms
}
