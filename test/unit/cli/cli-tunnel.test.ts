/** What people see of a tunnel, from what a driver and other gateways say. */
import t from 'tap'
import { tunnelResource, type TunnelFacts } from '../../../agent/tunnel/view.ts'
import { rotationText, tunnelText } from '../../../cli/render/tunnel.ts'
import { TunnelSchema } from '../../../protocol/network-api.ts'
import { Compile } from 'typebox/compile'

const NOW = 1_000_000_000
const key = (n: number): string => Buffer.alloc(32, n).toString('base64')
const facts = (part: Partial<TunnelFacts> = {}): TunnelFacts => ({
  host: 'tokyo-1', site: 'tokyo', endpoint: '192.0.2.1:51820', address: '100.64.0.1', maxAgeHours: 168, nowMs: NOW, observed: null, problems: [], gateways: [], published: [],
  own: { epoch: 0, tracks: [], exchanging: false, oldestMs: null, overdue: false }, ...part
})
const full = facts({
  own: { epoch: 2, exchanging: true, overdue: false, oldestMs: 3 * 3_600_000, tracks: [{ track: 0, publicKey: key(1), draining: true, epoch: 1, madeMs: 5 }, { track: 1, publicKey: key(2), draining: false, epoch: 2, madeMs: 6 }] },
  published: [{ track: 0, publicKey: key(1), draining: true, endpoint: '192.0.2.1:51820' }, { track: 1, publicKey: key(2), draining: false, endpoint: '192.0.2.1:51821' }],
  gateways: [
    { site: 'osaka', host: 'osaka-1', peer: 'p', tunnelPublicKey: key(9), address: '100.64.0.2', heard: true, tracks: [{ track: 1, publicKey: key(3), endpoint: '192.0.2.9:51821', draining: false }] },
    { site: 'kyoto', host: 'kyoto-1', peer: 'q', tunnelPublicKey: key(8), address: '100.64.0.3', heard: false, tracks: null }
  ],
  observed: {
    healthy: false, detail: {
      mtu: 1420, waiting: ['100.64.0.2 still uses track 0, which is being given up'], missing: [], problems: ['a black hole'],
      tracks: [{ track: 0, interface: 'mzwg0', mode: 'userspace', pid: 7 }, { track: 1, interface: 'mzwg1', mode: 'userspace', pid: 8 }],
      peers: [{ site: 'osaka', address: '100.64.0.2', track: 1, inUse: true, publicKey: key(3), endpoint: '192.0.2.9:51821', latestHandshake: NOW / 1000 - 12, rxBytes: 5, txBytes: 6, pathMtu: 1500 }]
    }
  }
})

t.test('what is shown has the form that is promised, whatever the driver says', t => {
  const schema = Compile(TunnelSchema)
  for (const [i, one] of [facts(), full, facts({ observed: { healthy: true, detail: { tracks: 'none', peers: [null, 4, { address: [] }], mtu: 'x', waiting: [1] } } })].entries()) t.ok(schema.Check(tunnelResource(one)), String(i))
  t.match(tunnelResource(full), { state: 'changing', keyAgeMs: 10_800_000, tracks: [{ interface: 'mzwg0', draining: true }, { endpoint: '192.0.2.1:51821', pid: 8 }], gateways: [{ keyFrom: 'record', sessions: [{ handshakeAgeMs: 12_000, pathMtu: 1500, inUse: true }] }, { keyFrom: 'document', sessions: [] }], problems: ['a black hole'] })
  t.equal(tunnelResource(facts()).state, 'none')
  t.end()
})

t.test('people see who was heard, what is in use and what is waited for', t => {
  const text = tunnelText(tunnelResource(full))
  for (const part of [
    /Tunnel of tokyo-1 \(tokyo\), 100\.64\.0\.1: changing, MTU 1420/, /Keys of epoch 2, being exchanged; the oldest is 3 h old, exchanged after 7 d/, /0 +mzwg0 +userspace .*given up/, /1 +mzwg1 +userspace +192\.0\.2\.1:51821/,
    /osaka +osaka-1 +100\.64\.0\.2 +1 +in use +192\.0\.2\.9:51821 +12 s +1500 +heard, key from record/, /kyoto +kyoto-1 +100\.64\.0\.3 .*not heard, key from document/, /^waits: 100\.64\.0\.2 still uses track 0/m, /^! a black hole/m
  ]) t.match(text, part)
  t.match(tunnelText(tunnelResource(facts())), /no cluster needs it/)
  t.match(rotationText({ epoch: 4, unheard: [{ site: 'osaka', host: 'gw' }] }), /epoch 4;.*\n! gw of osaka will not hear of it now/)
  t.end()
})
