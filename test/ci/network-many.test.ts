/** Many large segments on one host: all of them are seen, and one too many takes none of the others along. */
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { createSegmentDriver } from '../../agent/drivers/network/segment.ts'
import { run } from '../../agent/exec.ts'
import { createPidfileServices } from '../../agent/services/pidfile.ts'
import { enterPod } from '../host/network-pod.ts'
import type { SegmentMember, SegmentSpec } from '../../protocol/core/desired.ts'

const SEGMENTS = 32
const hex = (n: number): string => n.toString(16).padStart(2, '0')
const far = { where: 'remote', via: '10.77.0.1' } as const
const spec = (vni: number): SegmentSpec => ({
  cluster: `c${vni}`, vni, site: { segmentId: vni, localAddress: '10.77.0.2', remoteAddresses: ['10.77.0.1'] }, compute: true,
  known: { antiSpoof: true, members: [
    { role: 'frontend', mac: '52:54:00:00:00:01', address: '10.42.0.1', ...far },
    { role: 'gateway', mac: '52:54:00:01:00:01', address: '10.42.255.1', where: 'site', via: '10.77.0.1' },
    { role: 'node', mac: '52:54:00:02:00:01', address: '10.42.1.1', where: 'host', tap: `mzt${vni.toString(16).padStart(6, '0')}01` },
    ...Array.from({ length: 255 }, (_, n): SegmentMember => ({ role: 'node', mac: `52:54:00:03:00:${hex(n)}`, address: `10.42.2.${n}`, ...far }))
  ] }
})

async function serve (): Promise<void> {
  await enterPod()
  for (const line of ['link add name eth0 type veth peer name eth9', 'link set dev eth9 up', 'address add 10.77.0.2/24 dev eth0', 'link set dev eth0 up']) await run('ip', line.split(' '))
  const driver = createSegmentDriver({ stateDir: '/run/state', services: createPidfileServices({ dir: '/run/state/services' }) })
  const signal = (): AbortSignal => AbortSignal.timeout(60_000)
  for (let n = 0; n < SEGMENTS; n++) await driver.apply(`c${n}`, spec(0x200 + n), signal())
  const healthy = (await driver.observe(signal())).filter((one) => one.healthy).length
  await driver.remove('c0', signal())
  process.stdout.write(`${healthy} ${(await driver.observe(signal())).length}`)
  process.exit(0)
}

if (process.argv[2] === 'serve') await serve()
else {
  t.setTimeout(120_000)
  t.test('many large segments', { skip: process.getuid?.() === 0 ? false : 'needs root' }, async (t) => {
    const { stdout } = await run('unshare', ['--net', '--mount', '--uts', '--pid', '--fork', '--kill-child', '--mount-proc', process.execPath, fileURLToPath(import.meta.url), 'serve'], { timeoutMs: 100_000 })
    t.equal(stdout, `${SEGMENTS} ${SEGMENTS - 1}`)
  })
}
