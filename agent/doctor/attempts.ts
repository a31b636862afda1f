import type { KernelPart } from '../inventory/kernel.ts'
import { CommandError, run } from '../exec.ts'

export type Tried = 'works' | { error: string }

interface Attempt {
  program: 'ip' | 'nft'
  lines: readonly string[]
  /** part without which this says nothing */
  needs?: KernelPart
  /** what a success prints, where the kernel accepts the order and does not follow it */
  proof?: RegExp
}

const ATTEMPT_TIMEOUT_MS = 10_000
const BRIDGE = 'link add name b type bridge'
const CHAIN = ['add table inet t', 'add chain inet t c { type filter hook prerouting priority -150; policy accept; }']

const ATTEMPTS: Partial<Record<KernelPart, Attempt>> = {
  bridge: { program: 'ip', lines: [BRIDGE] },
  veth: { program: 'ip', lines: ['link add name v type veth peer name w'] },
  vxlan: { program: 'ip', lines: ['link add name x type vxlan id 1 dstport 4789'] },
  macvlan: { program: 'ip', lines: [BRIDGE, 'link add link b name m type macvlan mode passthru'], needs: 'bridge' },
  '8021q': { program: 'ip', lines: [BRIDGE, 'link add link b name b.5 type vlan id 5'], needs: 'bridge' },
  'vlan-filtering': { program: 'ip', lines: ['link add name b type bridge vlan_filtering 1', 'link show dev b'], needs: 'bridge', proof: /"vlan_filtering":1/ },
  wireguard: { program: 'ip', lines: ['link add name g type wireguard'] },
  tun: { program: 'ip', lines: ['tuntap add mode tap name p'] },
  nftables: { program: 'nft', lines: ['add table inet t', 'add table bridge t'] },
  tproxy: { program: 'nft', lines: [...CHAIN, 'add rule inet t c meta l4proto tcp tproxy ip to 127.0.0.1:1'], needs: 'nftables' }
}

/**
 * Tries kernel features, each in a network namespace without a name that ends with its command:
 * nothing of this host changes, but that the kernel loads the module, as it would in use.
 *
 * @returns what was tried, without what hangs on a part that failed; `namespaces` is why none can be made
 */
export async function tryKernel (programs: ReadonlySet<string>, signal: AbortSignal): Promise<{ namespaces: string | null, tried: Map<KernelPart, Tried> }> {
  const tried = new Map<KernelPart, Tried>()
  if (!programs.has('unshare')) return { namespaces: null, tried }
  const namespaces = await inNamespace(['true'], '', signal)
  if ('error' in namespaces) return { namespaces: namespaces.error, tried }
  const attempts = Object.entries(ATTEMPTS) as Array<[KernelPart, Attempt]>
  const able = attempts.filter(([, { program }]) => programs.has(program))
  await Promise.all(able.filter(([, { needs }]) => needs === undefined).map(attempt))
  await Promise.all(able.filter(([, { needs }]) => needs !== undefined && tried.get(needs) === 'works').map(attempt))
  return { namespaces: null, tried }

  async function attempt ([part, { program, lines, proof }]: [KernelPart, Attempt]): Promise<void> {
    const argv = program === 'ip' ? ['ip', '-json', '-details', '-batch', '-'] : ['nft', '--file', '-']
    const result = await inNamespace(argv, lines.map(line => `${line}\n`).join(''), signal)
    tried.set(part, 'error' in result ? result : proof?.test(result.stdout) === false ? { error: 'the kernel ignores it' } : 'works')
  }
}

async function inNamespace (argv: readonly string[], input: string, signal: AbortSignal): Promise<{ stdout: string } | { error: string }> {
  try {
    return await run('unshare', ['--net', ...argv], { signal, input, timeoutMs: ATTEMPT_TIMEOUT_MS })
  } catch (error) {
    if (!(error instanceof CommandError) || signal.aborted) throw error
    // what the kernel said, without which line of the batch it was
    const said = error.stderr.trim().split('\n').find(line => !line.startsWith('Command failed')) ?? ''
    return { error: said === '' ? error.message : said.replace(/^(?:Error: |RTNETLINK answers: |unshare: )/, '').replace(/\.$/, '') }
  }
}
