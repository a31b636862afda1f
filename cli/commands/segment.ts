import { spawnSync } from 'node:child_process'
import { open } from 'node:fs/promises'
import type { Command } from 'commander'
import { call } from '../client.ts'
import { agentEndpoint, wantsJson } from '../context.ts'
import { show, table } from '../output.ts'
import { wholeOf } from '../quantity.ts'
import { diagnosisText, pingText } from '../render/segment.ts'
import type { ClusterResource, SegmentPlanResource } from '../../protocol/api.ts'
import type { DiagnosisResource, PingBody, PingResource } from '../../protocol/network-api.ts'
import { InvalidInputError, MusubiError } from '../../protocol/core/errors.ts'
import { CAPTURE_MAX_FRAMES, CAPTURE_MAX_SECONDS, DIAGNOSE_MAX_PINGS } from '../../protocol/core/limits.ts'

interface PingOptions { path?: boolean, count?: string, size?: string, cluster?: string }
interface CaptureOptions { config: string, port: string, count: string, seconds: string, snap: string, write?: string, host?: string, udpTcpPort?: string, proto?: string }

export function addSegmentCommands (program: Command): void {
  const segment = program.command('segment').description('the flat networks of clusters, and what is wrong with them')
  segment.command('list').description('VNI and in-site id of each cluster')
    .addHelpText('after', '\nExample:\n  musubi segment list')
    .action(async (_o: object, command: Command) => {
      show(await call<ClusterResource[]>(agentEndpoint(command), 'GET', '/v1/clusters'), wantsJson(command), clusters =>
        table(['cluster', 'vni', 'cidr', 'in-site ids', 'mtu', 'state'], clusters.map(c => [c.name, String(c.segment.vni), c.cidr, Object.entries(c.segment.ids).map(([s, id]) => `${s}=${id}`).join(' '), String(c.segment.mtuInner), c.state])))
    })

  segment.command('plan <name>').description('what each host is to have of a segment: links, entries, filters')
    .option('--host <host>', 'of one host only')
    .addHelpText('after', '\nIt follows from the document of the cluster that the agent has; nothing is looked at. What differs on a\nhost is mended by its agent, and shown by `musubi agent status`.\n\nExamples:\n  musubi segment plan demo\n  musubi segment plan demo --host tokyo-1')
    .action(async (name: string, o: { host?: string }, command: Command) => {
      const query = o.host === undefined ? '' : `?host=${encodeURIComponent(o.host)}`
      show(await call<SegmentPlanResource>(agentEndpoint(command), 'GET', `/v1/clusters/${encodeURIComponent(name)}/segment${query}`), wantsJson(command), ({ hosts }) =>
        hosts.map(({ host, site, gateway, plan }) => `${host} (${site}${gateway ? ', gateway' : ''})\n${plan}`).join('\n').trimEnd())
    })

  segment.command('ping <from> <to>').description('full-size pings over a segment; with --path each hop, and where it stops')
    .option('--path', 'each hop in turn: its addresses, RTT, and the largest size that passes')
    .option('--count <n>', `pings, at most ${DIAGNOSE_MAX_PINGS}`)
    .option('--size <bytes>', 'of the IP packet, which is not to be broken up; without --path', '1500')
    .option('--cluster <name>', 'where several clusters have both')
    .addHelpText('after', `
Names are those of musubi cluster show: nodes, hosts that are gateways, or sites, which stand for their
gateways. Run it on a gateway of the cluster: pings leave its namespace, towards either end. Ends with 3
when something is lost, or a hop does not let full size pass.

Examples:
  musubi segment ping demo-tokyo-001 demo-osaka-002 --path
  musubi segment ping tokyo osaka --count 20 --size 1500`)
    .action(async (from: string, to: string, o: PingOptions, command: Command) => {
      const body: PingBody = {
        from, to, ...o.path === true ? { path: true } : { size: wholeOf(o.size ?? '1500', '--size', 84, 9_000) },
        ...o.count === undefined ? {} : { count: wholeOf(o.count, '--count', 1, DIAGNOSE_MAX_PINGS) }, ...o.cluster === undefined ? {} : { cluster: o.cluster }
      }
      const result = await call<PingResource>(agentEndpoint(command), 'POST', '/v1/segments/pings', body)
      show(result, wantsJson(command), pingText)
      if (!result.ok) process.exitCode = 3
    })

  segment.command('doctor <cluster>').description('walks this host, the site, the tunnel and the far side of a segment; says where it breaks')
    .addHelpText('after', `
Run it on the host of a node that is not reached, and on the gateways. It changes nothing. Ends with 3
when something does not work; with warnings alone it ends with 0.

Examples:
  musubi segment doctor demo
  musubi segment doctor demo --json | jq -r '.findings[] | [.interface, .address, .port, .bytes] | @tsv'`)
    .action(async (cluster: string, _o: object, command: Command) => {
      const result = await call<DiagnosisResource>(agentEndpoint(command), 'POST', `/v1/segments/${encodeURIComponent(cluster)}/diagnosis`)
      show(result, wantsJson(command), diagnosisText)
      if (!result.ok) process.exitCode = 3
    })

  addCapture(segment)
}

function addCapture (segment: Command): void {
  segment.command('capture <cluster>').description('as root: frames of a segment on this host, as pcap or as text')
    .option('-c, --config <file>', 'configuration', '/etc/musubi/agent.yaml')
    .option('--port <where>', 'wan (to other sites), site (to other hosts of the site), or node (the bridge)', 'node')
    .option('--count <n>', `frames, at most ${CAPTURE_MAX_FRAMES}`, '100')
    .option('--seconds <s>', `ends by then, at most ${CAPTURE_MAX_SECONDS}`, '10')
    .option('--snap <bytes>', 'kept of each frame', '256')
    .option('-w, --write <file>', 'pcap file, mode 0600; it must not be there yet')
    .option('--host <address>', 'only to or from this address')
    .option('--udp-tcp-port <port>', 'only to or from this port')
    .option('--proto <name>', 'only tcp, udp, icmp, icmp6, arp, ip or ip6')
    .addHelpText('after', `
It asks the helper, which shows what passes between guests to root alone and puts on record that it was
asked. Frames times bytes of each must stay below 4 MiB. Without -w tcpdump prints them.

Examples:
  musubi segment capture demo --port wan --seconds 5
  musubi segment capture demo --port node --proto arp --count 20
  musubi segment capture demo --port site --host 10.42.1.2 --snap 1600 --count 1000 -w demo.pcap`)
    .action(async (cluster: string, o: CaptureOptions, command: Command) => {
      const { takeFrames } = await import('../../agent/diagnose/people.ts')
      const port = (['wan', 'site', 'node'] as const).find(one => one === o.port)
      if (port === undefined) throw new InvalidInputError(`--port must be wan, site or node, not "${o.port}"`)
      // before anything is taken: a file that is there is somebody's
      const file = o.write === undefined ? null : await open(o.write, 'wx', 0o600)
      try {
        const taken = await takeFrames(o.config, cluster, {
          port, count: wholeOf(o.count, '--count', 1, CAPTURE_MAX_FRAMES), seconds: wholeOf(o.seconds, '--seconds', 1, CAPTURE_MAX_SECONDS), snapBytes: wholeOf(o.snap, '--snap', 64, 9_216),
          filter: { ...o.host === undefined ? {} : { host: o.host }, ...o.udpTcpPort === undefined ? {} : { port: wholeOf(o.udpTcpPort, '--udp-tcp-port', 1, 65_535) }, ...o.proto === undefined ? {} : { proto: o.proto } }
        })
        const { pcap, ...told } = taken
        const bytes = Buffer.from(pcap, 'base64')
        await file?.writeFile(bytes)
        if (wantsJson(command)) { show(file === null ? taken : { ...told, file: o.write }, true, () => ''); return }
        process.stderr.write(`${told.frames} frames at ${told.link}${told.space === null ? '' : ` in namespace ${told.space}`}${file === null ? '' : `, in ${o.write ?? ''}`}\n`)
        if (file === null && told.frames > 0) printFrames(bytes)
      } finally {
        await file?.close()
      }
    })
}

function printFrames (pcap: Buffer): void {
  // what guests send is taken apart by a program that has given up root
  const result = spawnSync('tcpdump', ['-n', '-e', '-r', '-'], { input: pcap, stdio: ['pipe', 'inherit', 'ignore'] })
  if (result.error !== undefined) throw new MusubiError('COMMAND_FAILED', `tcpdump: ${result.error.message}`, { hint: 'apt-get install tcpdump, or -w FILE' })
}
