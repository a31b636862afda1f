import t from 'tap'
import { checkFrontendSpec, parseNetwork, renderBootScript, renderDnsmasq, renderNginx, renderNodeFiles, renderProfile } from '../../../agent/drivers/boot/render.ts'
import type { ImageManifest } from '../../../agent/images/manifest.ts'
import type { FrontendSpec } from '../../../protocol/core/desired.ts'

const PATHS = { nginxDir: '/state/nginx', www: '/state/www', dnsmasqLog: '/state/dnsmasq.log' }
const hex = (digit: string): string => digit.repeat(64)
const MANIFEST: ImageManifest = {
  format: 1,
  recipe: hex('0'),
  suite: 'bookworm',
  kernelRelease: '6.1.0-1-cloud-amd64',
  cmdline: 'console=ttyS0 quiet',
  files: [
    { name: 'vmlinuz', sizeBytes: 1, sha256: hex('a') },
    { name: 'initrd.img', sizeBytes: 2, sha256: hex('b') },
    { name: 'root.squashfs', sizeBytes: 3, sha256: hex('c') }
  ]
}
const NODE = { name: 'c1-tokyo-001', mac: '02:6d:7a:00:01:01', ip: '10.42.1.1', site: 'tokyo' }
const SPEC: FrontendSpec = {
  cluster: 'c1',
  clusterId: 'c1-0123',
  vni: 0x201,
  name: 'c1-frontend',
  address: '10.42.0.1/16',
  mac: '02:6d:7a:00:00:01',
  domain: 'c1.musubi',
  image: { digest: `sha256:${hex('d')}` },
  nodes: [NODE, { name: 'c1-tsukuba-001', mac: '02:6d:7a:00:02:01', ip: '10.42.2.1', site: 'tsukuba' }],
  sshPublicKey: 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFo me@here'
}

t.test('cards on the segment of a site: names for all, addresses by the profile, only near ones beside them', t => {
  const [tokyo, tsukuba] = SPEC.nodes
  if (tokyo === undefined || tsukuba === undefined) throw new Error('no nodes')
  const near = { ...tokyo, local: { mac: '02:6d:7b:00:01:01', address: '10.43.1.1/16' } }
  const far = { ...tsukuba, local: { mac: '02:6d:7b:00:02:01', address: '10.43.2.1/16' } }
  const spec = { ...SPEC, nodes: [near, far] }
  t.doesNotThrow(() => { checkFrontendSpec(spec) })
  const added = (text: string, before: string): string[] => text.split('\n').filter(line => !before.split('\n').includes(line))
  t.strictSame(added(renderDnsmasq(spec, PATHS), renderDnsmasq(SPEC, PATHS)), [
    'host-record=c1-tokyo-001-local.c1.musubi,c1-tokyo-001-local,10.43.1.1', 'host-record=c1-tsukuba-001-local.c1.musubi,c1-tsukuba-001-local,10.43.2.1'
  ], 'no DHCP for them')
  t.strictSame(added(renderProfile(spec, near), renderProfile(SPEC, tokyo)), ['local 02:6d:7b:00:01:01 10.43.1.1/16', 'host 10.43.1.1 c1-tokyo-001-local.c1.musubi c1-tokyo-001-local'])
  t.strictSame(renderNodeFiles(spec, MANIFEST).get('v1/boot/02-6d-7a-00-01-01.ipxe'), renderNodeFiles(SPEC, MANIFEST).get('v1/boot/02-6d-7a-00-01-01.ipxe'), 'it boots as before')
  const refused = (change: Partial<typeof near>, why: RegExp): void => { t.throws(() => { checkFrontendSpec({ ...spec, nodes: [{ ...near, ...change }, far] }) }, { code: 'INVALID_INPUT', message: why }) }
  refused({ local: { mac: '02:6d:7b:00:01:01 x', address: '10.43.1.1/16' } }, /no MAC/)
  refused({ local: { mac: '02:6d:7b:00:01:01', address: '10.43.1.1' } }, /no IPv4 address with prefix length/)
  refused({ local: { mac: '02:6d:7b:00:01:01', address: '10.43.1.1/16\nlocal x' } }, /no IPv4 address with prefix length/)
  refused({ local: { mac: near.mac, address: '10.43.1.1/16' } }, /given twice/)
  refused({ local: far.local }, /given twice/)
  refused({ name: `a${'b'.repeat(59)}` }, /too long/)
  t.end()
})

t.test('dnsmasq: fixed leases, names without upstream, script for iPXE, TFTP for the rest, one advertisement', t => {
  t.equal(renderDnsmasq(SPEC, PATHS), `# made by Musubi from the desired state; changes are lost
keep-in-foreground
pid-file
user=dnsmasq
group=nogroup
log-facility=/state/dnsmasq.log
interface=eth0
except-interface=lo
bind-dynamic
# names: this cluster only, no upstream
no-resolv
no-hosts
domain=c1.musubi
local=/c1.musubi/
host-record=c1-frontend.c1.musubi,c1-frontend,10.42.0.1
host-record=c1-tokyo-001.c1.musubi,c1-tokyo-001,10.42.1.1
host-record=c1-tsukuba-001.c1.musubi,c1-tsukuba-001,10.42.2.1
# addresses: fixed, for ever, and nothing to remember between runs
dhcp-authoritative
leasefile-ro
dhcp-range=10.42.0.0,static,255.255.0.0,infinite
dhcp-option=option:dns-server,10.42.0.1
dhcp-option=option:router
dhcp-option=option:mtu,1500
dhcp-host=02:6d:7a:00:01:01,10.42.1.1,c1-tokyo-001,infinite
dhcp-host=02:6d:7a:00:02:01,10.42.2.1,c1-tsukuba-001,infinite
# iPXE loads a script by HTTP; other ROMs load iPXE first
dhcp-match=set:ipxe,175
dhcp-match=set:efi64,option:client-arch,7
dhcp-boot=tag:ipxe,http://10.42.0.1/v1/boot/\${netX/mac:hexhyp}.ipxe
dhcp-boot=tag:!ipxe,tag:efi64,snponly.efi
dhcp-boot=tag:!ipxe,tag:!efi64,undionly.kpxe
# iPXE need not wait for a second, proxy DHCP server
dhcp-option=encap:175,176,1b
enable-tftp
tftp-root=/usr/lib/ipxe
# without a router advertisement iPXE waits 13 s for one; lifetime 0: not a default router
enable-ra
dhcp-range=::,constructor:eth0,ra-only
ra-param=eth0,10,0
`)
  t.end()
})

t.test('nginx: images for ever, phases 204 and logged, scripts logged, all else never stored', t => {
  const text = renderNginx(PATHS)
  const location = (head: string): string => {
    const start = text.indexOf(`    location ${head} {`)
    return start === -1 ? '' : text.slice(start, text.indexOf('\n    }\n', start))
  }
  t.match(text, /root \/state\/www;/)
  t.match(location('/images/'), /add_header Cache-Control "public, max-age=31536000, immutable";/)
  t.match(location('~ ^/v1/phase/(?<phase>[a-z]+)$'), /limit_req zone=phase burst=20 nodelay;\n {6}limit_req zone=phases burst=1000 nodelay;\n {6}access_log \/state\/nginx\/phases\.log phase if=\$counted;/)
  t.match(location('~ ^/v1/phase/(?<phase>[a-z]+)$'), /try_files \/none =204;/)
  t.match(location('~ ^/v1/boot/(?<mac>[0-9a-f-]+)\\.ipxe$'), /access_log \/state\/nginx\/phases\.log phase if=\$counted;/)
  t.match(location('~ ^/v1/boot/(?<mac>[0-9a-f-]+)\\.ipxe$'), /limit_req zone=phases burst=1000 nodelay;/)
  t.match(text, /limit_req_zone \$server_name zone=phases:32k rate=50r\/s;/, 'one for all addresses: a node has as many as it likes')
  t.match(text, /server_name \w+;/, 'an empty name would not be counted')
  t.match(text, /map \$status \$counted \{ 429 0; default 1; \}/, 'what is refused leaves no line')
  t.match(text, /limit_req_log_level info;/, 'nor one in the log of errors')
  for (const head of ['~ ^/v1/phase/(?<phase>[a-z]+)$', '~ ^/v1/boot/(?<mac>[0-9a-f-]+)\\.ipxe$', '/v1/', '/']) {
    t.match(location(head), /Cache-Control "no-store" always;/, head)
  }
  t.notMatch(text, /\buser\b/, 'it starts without privileges')
  t.end()
})

t.test('the boot script names kernel, initrd and root by their digests', t => {
  t.equal(renderBootScript(SPEC, MANIFEST, NODE), `#!ipxe
echo Musubi: c1-tokyo-001.c1.musubi
set tries:int32 0
:again
kernel http://10.42.0.1/images/sha256-${hex('a')}/vmlinuz initrd=initrd.img console=ttyS0 quiet musubi.fe=10.42.0.1 musubi.root=/images/sha256-${hex('c')}/root.squashfs BOOTIF=01-02-6d-7a-00-01-01 || goto failed
initrd --name initrd.img http://10.42.0.1/images/sha256-${hex('b')}/initrd.img || goto failed
boot || goto failed
:failed
imgfree
inc tries
iseq \${tries} 5 && goto stop ||
sleep \${tries}
goto again
:stop
imgfetch http://10.42.0.1/v1/phase/failed?mac=02:6d:7a:00:01:01&reason=kernel-unreachable ||
echo Musubi: kernel or initrd cannot be fetched; power-cycle this node to try again
sleep 100000000
`)
  t.end()
})

t.test('the profile names the node and knows everybody', t => {
  t.equal(renderProfile(SPEC, NODE), `hostname c1-tokyo-001
domain c1.musubi
cluster c1-0123
site tokyo
host 10.42.0.1 c1-frontend.c1.musubi c1-frontend
host 10.42.1.1 c1-tokyo-001.c1.musubi c1-tokyo-001
host 10.42.2.1 c1-tsukuba-001.c1.musubi c1-tsukuba-001
authorized-key ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFo me@here
`)
  t.end()
})

t.test('two files for each node', t => {
  t.strictSame([...renderNodeFiles(SPEC, MANIFEST).keys()], [
    'v1/boot/02-6d-7a-00-01-01.ipxe', 'v1/profile/02-6d-7a-00-01-01', 'v1/boot/02-6d-7a-00-02-01.ipxe', 'v1/profile/02-6d-7a-00-02-01', 'v1/preheat.json'
  ])
  t.end()
})

t.test('networks', t => {
  const network = parseNetwork('10.42.0.1/16')
  t.match(network, { address: '10.42.0.1', network: '10.42.0.0', netmask: '255.255.0.0' })
  t.ok(network?.contains('10.42.255.3'))
  t.notOk(network?.contains('10.43.0.1'))
  t.match(parseNetwork('192.168.7.130/25'), { network: '192.168.7.128', netmask: '255.255.255.128' })
  for (const bad of ['10.42.0.1', '10.42.0.1/31', '10.42.0.1/0', '10.42.0/16', '10.42.0.1/16/1', '10.42.0.1/', 'fd00::1/64']) t.equal(parseNetwork(bad), null, bad)
  t.end()
})

t.test('a spec that could break out of a configuration line is refused by name', t => {
  checkFrontendSpec(SPEC)
  const refused = (change: Partial<FrontendSpec>, message: RegExp): void => {
    t.throws(() => { checkFrontendSpec({ ...SPEC, ...change }) }, { code: 'INVALID_INPUT', message })
  }
  refused({ name: 'a\ndhcp-script=/bin/sh' }, /is no host name/)
  refused({ domain: 'c1/#' }, /is no domain/)
  refused({ mac: '02:6D:7A:00:00:01' }, /no MAC address in lower case/)
  refused({ address: '10.42.0.1' }, /no IPv4 address with prefix length/)
  refused({ sshPublicKey: 'ssh-ed25519 AAAA\nhostname evil' }, /ssh public key is malformed/)
  refused({ nodes: [{ ...NODE, name: 'x y' }] }, /node name "x y"/)
  refused({ nodes: [{ ...NODE, ip: '10.43.0.9' }] }, /10\.43\.0\.9 is not on 10\.42\.0\.1\/16/)
  refused({ nodes: [NODE, { ...NODE, name: 'other', ip: '10.42.1.2' }] }, /02:6d:7a:00:01:01 is given twice/)
  refused({ nodes: [{ ...NODE, ip: '10.42.0.1' }] }, /10\.42\.0\.1 is given twice/)
  t.end()
})

t.test('caches learn what nodes will ask for', t => {
  const text = renderNodeFiles(SPEC, MANIFEST).get('v1/preheat.json') ?? ''
  t.strictSame(JSON.parse(text), {
    objects: [
      { path: `/images/sha256-${hex('a')}/vmlinuz`, size: 1, sha256: hex('a') },
      { path: `/images/sha256-${hex('b')}/initrd.img`, size: 2, sha256: hex('b') },
      { path: `/images/sha256-${hex('c')}/root.squashfs`, size: 3, sha256: hex('c') }
    ]
  })
  t.end()
})
