/** One object of each kind, as documents of clusters make them. */
import type { DesiredObject } from '../protocol/core/desired.ts'

const MAC = '52:54:00:00:00:01'

export const SAMPLES: readonly DesiredObject[] = [
  { kind: 'volume', name: '01234567.data', spec: { sizeMiB: 64, iqn: 'iqn.2026-11.org.musubi:01234567-0000-4000-8000-000000000000.data', portalAddress: '192.0.2.1', chap: { user: 'musubi-01234567.data', secret: '0123456789abcdef' }, allow: ['192.0.2.2'] } },
  {
    kind: 'tunnel', name: 'wg',
    spec: {
      listenPort: 51820, secondPort: 51829, address: '100.64.0.1', keyEpoch: 2,
      peers: [
        { site: 'osaka', publicKey: `${'A'.repeat(42)}A=`, endpoint: '198.51.100.7:51820', address: '100.64.0.2' },
        { site: 'kyoto', publicKey: `${'A'.repeat(42)}E=`, endpoint: '203.0.113.9:51820', address: '100.64.0.3', tracks: [{ track: 1, publicKey: `${'A'.repeat(42)}I=`, endpoint: '[2001:db8::7]:51821', draining: true }] }
      ]
    }
  },
  { kind: 'segment', name: '01234567.segment', spec: { cluster: 'demo', vni: 0x201, site: { segmentId: 1000, localAddress: '192.0.2.1', remoteAddresses: ['192.0.2.2'] }, compute: true, gateway: { address: '10.42.255.1/16', bridgeMac: '02:00:00:00:02:01', tunnel: { localAddress: '100.64.0.1', remoteAddresses: ['100.64.0.2'] } }, known: { antiSpoof: true, members: [{ role: 'frontend', mac: '52:54:00:00:00:01', address: '10.42.0.1', where: 'host' }, { role: 'node', mac: '52:54:00:00:01:01', address: '10.42.1.1', where: 'host', tap: 'mzt00020101' }, { role: 'node', mac: '52:54:00:00:02:02', address: '10.42.2.2', where: 'remote', via: '100.64.0.2' }] } } },
  { kind: 'frontend', name: '01234567.frontend', spec: { cluster: 'demo', clusterId: '01234567-0000-4000-8000-000000000000', vni: 0x201, name: 'demo-fe', address: '10.42.0.1/16', mac: MAC, domain: 'demo.musubi', image: { digest: `sha256:${'0'.repeat(64)}` }, nodes: [{ name: 'demo-tokyo-001', mac: '52:54:00:00:00:02', ip: '10.42.1.1', site: 'tokyo' }], sshPublicKey: 'ssh-ed25519 AAAA musubi demo' } },
  { kind: 'cache', name: '01234567.cache', spec: { cluster: 'demo', vni: 0x201, frontendAddress: '10.42.0.1', ownAddress: '10.42.255.1', bridgeMac: '02:00:00:00:02:01', ports: [80], maxSizeMiB: 1024 } },
  { kind: 'domain', name: '01234567.demo-tokyo-001', spec: { cluster: 'demo', clusterId: '01234567-0000-4000-8000-000000000000', node: 'demo-tokyo-001', uuid: '6d1f1d3a-6a0a-4f0a-9d32-0c1a2b3c4d5e', vcpus: 1, memoryMiB: 512, mac: MAC, bridge: 'mzb000201', tap: 'mzt00020101', volumes: [{ name: 'data', iqn: 'iqn.2026-11.org.musubi:01234567.data', portalAddress: '192.0.2.1', portalPort: 3260, chap: { user: 'musubi-01234567.data', secret: '0123456789abcdef' } }] } }
]
