/** The filter of WireGuard's ports, on real links in a namespace without a name. */
import t from 'tap'
import { renderTable } from '../../agent/drivers/network/tunnel/ports.ts'
import { run } from '../../agent/exec.ts'

t.setTimeout(60_000)

const OWN = '100.64.0.1'
const FAR = '100.64.0.9'
const PORTS = [51_820, 51_821] as const
/** The table comes by standard input; one datagram from each of some ports goes to an address behind mzwg0. */
const SEND = `set -e
nft -f -
ip link set dev lo up
ip link add name mzwg0 type veth peer name other
echo 1 | tee /proc/sys/net/ipv6/conf/mzwg0/disable_ipv6 > /dev/null
ip link set dev other up
ip link set dev mzwg0 arp off up
ip address add ${OWN}/32 dev mzwg0
ip route add ${FAR}/32 dev mzwg0
for port in "$@"; do
  perl -MIO::Socket::INET -e 'my $s = IO::Socket::INET->new(Proto => "udp", LocalPort => $ARGV[0], PeerAddr => "${FAR}", PeerPort => 51820) or die $@; send $s, "x" x 148, 0' "$port" 2>&1
done
ip -json -statistics link show dev mzwg0`

t.test('what WireGuard itself sends never goes into a tunnel', { skip: process.getuid?.() === 0 ? false : 'needs root' }, async t => {
  const sent = async (ports: readonly number[], table: string): Promise<number> => {
    const { stdout } = await run('unshare', ['--net', 'sh', '-c', SEND, 'sh', ...ports.map(String)], { input: table, timeoutMs: 20_000 })
    const [link] = JSON.parse(stdout.slice(stdout.indexOf('['))) as Array<{ stats64: { tx: { packets: number } } }>
    return link?.stats64.tx.packets ?? Number.NaN
  }
  const table = renderTable(OWN, PORTS)
  t.equal(await sent(PORTS, ''), 2, 'a peer that says it is at an address inside tunnels: every packet would come back to be wrapped again')
  t.equal(await sent(PORTS, table), 0)
  t.equal(await sent([4_789], table), 1, 'what belongs into it goes there')
})
