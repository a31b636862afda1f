/** Sites behind real address translation and a real firewall: network namespaces and nftables. */
import { spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { privateKeyToProtobuf } from '@libp2p/crypto/keys'
import t, { type Test } from 'tap'
import { startPod, type Pod } from '../../lab/pod.ts'
import { createKit, type Kit, type KitMember } from '../trust-kit.ts'
import type { Known, Operation, Operations } from './nat-member.ts'

const skip = process.getuid?.() === 0 ? false : 'needs root to make namespaces'
const MEMBER = join(import.meta.dirname, 'nat-member.ts')

/**
 * The world: `wan` (192.0.2.0/24) with the hosts `main` and `open`; behind routers `n1` and `n2`,
 * which translate and drop what was not asked for, the hosts `g1` and `g2`.
 *
 * @param ports how the routers choose ports: nothing keeps them where possible
 */
async function buildWorld (pod: Pod, ports: '' | 'fully-random'): Promise<void> {
  const batch = async (lines: string[]): Promise<void> => { await pod.exec(['ip', '-batch', '-'], { input: `${lines.join('\n')}\n` }) }
  const names = ['wan', 'main', 'open', 'n1', 'n2', 'g1', 'g2']
  await batch(names.map(name => `netns add ${name}`))
  const within = async (netns: string, lines: string[]): Promise<void> => { await pod.exec(['ip', '-n', netns, '-batch', '-'], { input: `${['link set lo up', ...lines].join('\n')}\n` }) }
  const onWan = ['main', 'open', 'n1', 'n2']
  await within('wan', ['link add wan0 up type bridge stp_state 0 forward_delay 0', ...onWan.flatMap(name => [`link add ${name} type veth peer name wan netns ${name}`, `link set ${name} up master wan0`])])
  const onWanAddress = (last: number): string[] => [`addr add 192.0.2.${last}/24 dev wan`, 'link set wan up']
  await within('main', onWanAddress(9))
  await within('open', onWanAddress(8))
  for (const i of [1, 2]) {
    await within(`n${i}`, [...onWanAddress(i), `link add lan type veth peer name eth0 netns g${i}`, `addr add 10.${i}.0.1/24 dev lan`, 'link set lan up'])
    await within(`g${i}`, [`addr add 10.${i}.0.2/24 dev eth0`, 'link set eth0 up', `route add default via 10.${i}.0.1`])
    await pod.exec(['sysctl', '-q', '-w', 'net.ipv4.ip_forward=1'], { netns: `n${i}` })
    const rules = `
      table ip translate {
        chain post {
          type nat hook postrouting priority srcnat;
          oifname "wan" masquerade ${ports}
        }
      }
      table ip firewall {
        chain through {
          type filter hook forward priority filter; policy drop;
          ct state established,related accept
          iifname "lan" accept
        }
        chain me {
          type filter hook input priority filter; policy drop;
          ct state established,related accept
          iifname "lan" accept
        }
      }`
    await pod.exec(['nft', '-f', '-'], { netns: `n${i}`, input: rules })
  }
}

interface Member { known: Known, stop (): Promise<void>, do<O extends Operation> (op: O, args: Operations[O]['in']): Promise<Operations[O]['out']> }

async function startMember (t: Test, pod: Pod, netns: string, kit: Kit, member: KitMember, options: { address: string, peers?: Known[], relay?: boolean, reachable?: boolean }): Promise<Member> {
  const child = spawn('nsenter', ['-t', String(pod.pid), '-n', '-m', '--wdns=/', '--', 'ip', 'netns', 'exec', netns, process.execPath, MEMBER], { stdio: ['pipe', 'pipe', 'inherit'], env: { PATH: process.env['PATH'] } })
  const ended = new Promise<void>(resolve => { child.once('exit', () => { resolve() }) })
  const stop = async (): Promise<void> => {
    child.kill('SIGKILL')
    await ended
  }
  t.teardown(stop)
  const waiting = new Map<number, PromiseWithResolvers<unknown>>()
  createInterface({ input: child.stdout }).on('line', line => {
    const { id, value, error } = JSON.parse(line) as { id: number, value?: unknown, error?: string }
    if (error === undefined) waiting.get(id)?.resolve(value)
    else waiting.get(id)?.reject(new Error(`${netns}: ${error}`))
    waiting.delete(id)
  })
  let last = 0
  const order = async <O extends Operation>(op: O, args: Operations[O]['in']): Promise<Operations[O]['out']> => {
    const answer = Promise.withResolvers<unknown>()
    waiting.set(++last, answer)
    child.stdin.write(`${JSON.stringify({ id: last, op, args })}\n`)
    return await answer.promise as Operations[O]['out']
  }
  const chain = member.chain.map(bytes => Buffer.from(bytes).toString('base64'))
  const { address, peers = [], relay = false, reachable = true } = options
  const addresses = await order('start', {
    peerId: member.peerId, key: Buffer.from(privateKeyToProtobuf(member.key)).toString('base64'), federation: kit.federation, chain,
    listen: `/ip4/${address}/tcp/4001`, peers, relay, reachable
  })
  return { known: { peerId: member.peerId, addresses, chain }, stop, do: order }
}

async function eventually (what: string, check: () => Promise<boolean>, timeoutMs = 20_000): Promise<void> {
  for (const end = performance.now() + timeoutMs; !await check().catch(() => false);) {
    if (performance.now() > end) throw new Error(`not within ${timeoutMs} ms: ${what}`)
    await sleep(100)
  }
}

const plan = {
  coordinators: ['main'],
  sites: ['tokyo', 'osaka', 'kyoto'].map(name => ({ name, hosts: [{ name: 'gw1', roles: ['gateway'] as const }] }))
}

interface World { pod: Pod, main: Member, open: Member, tokyo: Member, osaka: Member }

/** Tokyo and Osaka are behind routers; both have told the other which relays reach them. */
async function startWorld (t: Test, ports: '' | 'fully-random'): Promise<World> {
  const dir = await mkdtemp('/tmp/mznat-')
  t.teardown(async () => { await rm(dir, { recursive: true, force: true }) })
  const pod = await startPod({ name: 'nat', dir: join(dir, 'pod') })
  t.teardown(async () => { await pod.stop() })
  await buildWorld(pod, ports)
  const kit = await createKit(plan)
  const main = await startMember(t, pod, 'main', kit, kit.member('main'), { address: '192.0.2.9', relay: true })
  const peers = [main.known]
  const [open, tokyo, osaka] = await Promise.all([
    startMember(t, pod, 'open', kit, kit.member('kyoto/gw1'), { address: '192.0.2.8', peers }),
    startMember(t, pod, 'g1', kit, kit.member('tokyo/gw1'), { address: '10.1.0.2', peers, reachable: false }),
    startMember(t, pod, 'g2', kit, kit.member('osaka/gw1'), { address: '10.2.0.2', peers, reachable: false })
  ])
  const relayed = async (member: Member): Promise<Known> => ({ ...member.known, addresses: await member.do('relayAddresses', null) })
  await eventually('both are reached through the relay', async () => (await relayed(tokyo)).addresses.length > 0 && (await relayed(osaka)).addresses.length > 0)
  for (const [inside, router] of [['10.1.0.2', '192.0.2.1'], ['10.2.0.2', '192.0.2.2']] as const) {
    for (const target of [inside, router]) await t.rejects(pod.exec(['timeout', '0.5', 'bash', '-c', `</dev/tcp/${target}/4001`], { netns: 'open' }), `nobody connects to ${target}`)
  }
  await tokyo.do('learn', await relayed(osaka))
  await osaka.do('learn', await relayed(tokyo))
  await open.do('learn', await relayed(tokyo))
  return { pod, main, open, tokyo, osaka }
}

void t.test('two sites behind translation that keeps ports: through the relay at first, then directly', { skip }, async t => {
  const { main, tokyo, osaka } = await startWorld(t, '')
  t.equal(await tokyo.do('ask', osaka.known.peerId), 'hello', 'at once')
  await eventually('a hole is punched', async () => await tokyo.do('path', osaka.known.peerId) === 'direct' && await osaka.do('path', tokyo.known.peerId) === 'direct')
  t.equal(await osaka.do('ask', tokyo.known.peerId), 'hello')
  await main.stop()
  await eventually('the relay is gone', async () => (await tokyo.do('relayAddresses', null)).length === 0)
  t.equal(await tokyo.do('ask', osaka.known.peerId), 'hello', 'without any relay')
  t.equal(await tokyo.do('path', osaka.known.peerId), 'direct')
})

void t.test('where ports are translated at random the relay stays, and a site that can be reached is reached directly', { skip }, async t => {
  const { open, tokyo, osaka } = await startWorld(t, 'fully-random')
  t.equal(await tokyo.do('ask', osaka.known.peerId), 'hello')
  t.equal(await open.do('ask', tokyo.known.peerId), 'hello', 'from outside, through the relay')
  t.equal(await open.do('path', tokyo.known.peerId), 'relay')
  await tokyo.do('learn', open.known)
  await eventually('tokyo connects to who can be reached', async () => await open.do('path', tokyo.known.peerId) === 'direct' && await tokyo.do('path', open.known.peerId) === 'direct')
  t.equal(await open.do('ask', tokyo.known.peerId), 'hello')
  await eventually('the attempt to punch a hole has failed', async () => [...await tokyo.do('log', null), ...await osaka.do('log', null)].some(text => /^no direct connection: (tokyo|osaka)/.test(text)))
  t.equal(await tokyo.do('path', osaka.known.peerId), 'relay')
  t.equal(await osaka.do('ask', tokyo.known.peerId), 'hello', 'the relayed connection is as before')
})
