import { isIPv4 } from 'node:net'
import { InvalidInputError } from '../../../protocol/core/errors.ts'
import { MAX_NODES_PER_CLUSTER } from '../../../protocol/core/limits.ts'
import type { FrontendSpec } from '../../../protocol/core/desired.ts'
import { PREHEAT_PATH } from '../../../protocol/core/plan.ts'
import { IMAGE_FILES } from '../../images/manifest.ts'
import type { ImageManifest } from '../../images/manifest.ts'

/** Where a frontend keeps its files; absolute paths. */
export interface FrontendPaths {
  /** `phases.log`, `error.log`, `nginx.pid`, `tmp/`: nginx writes here, nobody else */
  nginxDir: string
  /** document root */
  www: string
  dnsmasqLog: string
}

/** Debian's ipxe package; the only folder that TFTP serves. */
export const IPXE_DIR = '/usr/lib/ipxe'

const LABEL = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/
const CLUSTER_ID = /^[A-Za-z0-9-]{1,64}$/
const MAC = /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/
const SSH_KEY = /^(ssh|ecdsa|sk)-[a-zA-Z0-9@.-]+ [A-Za-z0-9+/=]+( [\x20-\x7e]*)?$/

/** Everything below is text in configuration files: nothing may break out of its line. @throws InvalidInputError */
export function checkFrontendSpec (spec: FrontendSpec): void {
  const must = (ok: boolean, what: string): void => {
    if (!ok) throw new InvalidInputError(`frontend ${JSON.stringify(spec.name)}: ${what}`)
  }
  must(LABEL.test(spec.name), 'its name is no host name')
  must(CLUSTER_ID.test(spec.clusterId), `${JSON.stringify(spec.clusterId)} is no cluster id`)
  must(spec.domain.length <= 253 && spec.domain.split('.').every(label => LABEL.test(label)), `"${spec.domain}" is no domain`)
  must(MAC.test(spec.mac), `"${spec.mac}" is no MAC address in lower case`)
  const network = parseNetwork(spec.address)
  must(network !== null, `"${spec.address}" is no IPv4 address with prefix length`)
  must(SSH_KEY.test(spec.sshPublicKey), 'its ssh public key is malformed')
  must(spec.nodes.length <= MAX_NODES_PER_CLUSTER, `more than ${MAX_NODES_PER_CLUSTER} nodes`)
  for (const node of spec.nodes) {
    must(LABEL.test(node.name), `node name ${JSON.stringify(node.name)} is no host name`)
    must(LABEL.test(node.site), `node ${node.name}: ${JSON.stringify(node.site)} is no site name`)
    must(MAC.test(node.mac), `node ${node.name}: "${node.mac}" is no MAC address in lower case`)
    if (node.local !== undefined) {
      must(MAC.test(node.local.mac), `node ${node.name}: "${node.local.mac}" is no MAC address in lower case`)
      must(parseNetwork(node.local.address) !== null, `node ${node.name}: "${node.local.address}" is no IPv4 address with prefix length`)
    }
    must(isIPv4(node.ip) && network !== null && network.contains(node.ip), `node ${node.name}: ${node.ip} is not on ${spec.address}`)
  }
  const locals = localHosts(spec.nodes)
  must(locals.every(({ name }) => LABEL.test(name)), 'a node\'s name is too long for one on a site-local segment')
  for (const values of [
    [spec.name, ...spec.nodes.map(node => node.name), ...locals.map(({ name }) => name)],
    [spec.mac, ...spec.nodes.flatMap(node => [node.mac, ...node.local === undefined ? [] : [node.local.mac]])],
    [network?.address ?? '', ...spec.nodes.map(node => node.ip), ...locals.map(({ ip }) => ip)]
  ]) {
    const twice = values.find((value, index) => values.indexOf(value) !== index)
    must(twice === undefined, `${twice ?? ''} is given twice`)
  }
}

/** What nodes are called on the segment that does not leave their site. */
const localHosts = (nodes: FrontendSpec['nodes']): Array<{ name: string, ip: string }> =>
  nodes.flatMap(({ name, local }) => local === undefined ? [] : [{ name: `${name}-local`, ip: local.address.split('/')[0] ?? '' }])

export interface Network {
  /** own address without prefix length */
  address: string
  network: string
  netmask: string
  contains (ip: string): boolean
}

/** Reads `10.42.0.1/16`; null when it is no such thing or the network is useless (prefix over 30). */
export function parseNetwork (cidr: string): Network | null {
  const [address, length, rest] = cidr.split('/')
  const prefix = Number(length)
  if (address === undefined || rest !== undefined || !isIPv4(address) || !/^\d{1,2}$/.test(length ?? '') || prefix < 1 || prefix > 30) return null
  const mask = (0xffff_ffff << (32 - prefix)) >>> 0
  const number = (ip: string): number => ip.split('.').reduce((sum, part) => sum * 256 + Number(part), 0)
  const text = (value: number): string => [24, 16, 8, 0].map(shift => (value >>> shift) & 255).join('.')
  const base = (number(address) & mask) >>> 0
  return { address, network: text(base), netmask: text(mask), contains: ip => ((number(ip) & mask) >>> 0) === base }
}

/** The frontend's own address without prefix length. @throws InvalidInputError */
function frontendAddress (spec: FrontendSpec): string {
  return requireNetwork(spec).address
}

function requireNetwork (spec: FrontendSpec): Network {
  const network = parseNetwork(spec.address)
  if (network === null) throw new InvalidInputError(`"${spec.address}" is no IPv4 address with prefix length`)
  return network
}

/** MAC as it stands in URLs: hyphens need no escaping anywhere. */
const macInUrl = (mac: string): string => mac.replaceAll(':', '-')

/** DHCP for the known nodes only, names, and TFTP for boot ROMs that are not iPXE. */
export function renderDnsmasq (spec: FrontendSpec, paths: FrontendPaths): string {
  const { address, network, netmask } = requireNetwork(spec)
  const hosts = [{ name: spec.name, ip: address }, ...spec.nodes, ...localHosts(spec.nodes)]
  return [
    '# made by Musubi from the desired state; changes are lost',
    'keep-in-foreground',
    'pid-file',
    'user=dnsmasq',
    'group=nogroup',
    `log-facility=${paths.dnsmasqLog}`,
    'interface=eth0',
    'except-interface=lo',
    'bind-dynamic',
    '# names: this cluster only, no upstream',
    'no-resolv',
    'no-hosts',
    `domain=${spec.domain}`,
    `local=/${spec.domain}/`,
    ...hosts.map(host => `host-record=${host.name}.${spec.domain},${host.name},${host.ip}`),
    '# addresses: fixed, for ever, and nothing to remember between runs',
    'dhcp-authoritative',
    'leasefile-ro',
    `dhcp-range=${network},static,${netmask},infinite`,
    `dhcp-option=option:dns-server,${address}`,
    'dhcp-option=option:router',
    'dhcp-option=option:mtu,1500',
    ...spec.nodes.map(node => `dhcp-host=${node.mac},${node.ip},${node.name},infinite`),
    '# iPXE loads a script by HTTP; other ROMs load iPXE first',
    'dhcp-match=set:ipxe,175',
    'dhcp-match=set:efi64,option:client-arch,7',
    `dhcp-boot=tag:ipxe,http://${address}/v1/boot/\${netX/mac:hexhyp}.ipxe`,
    'dhcp-boot=tag:!ipxe,tag:efi64,snponly.efi',
    'dhcp-boot=tag:!ipxe,tag:!efi64,undionly.kpxe',
    '# iPXE need not wait for a second, proxy DHCP server',
    'dhcp-option=encap:175,176,1b',
    'enable-tftp',
    `tftp-root=${IPXE_DIR}`,
    '# without a router advertisement iPXE waits 13 s for one; lifetime 0: not a default router',
    'enable-ra',
    'dhcp-range=::,constructor:eth0,ra-only',
    'ra-param=eth0,10,0',
    ''
  ].join('\n')
}

/** Static files with ranges and validators; phases answered 204 and logged; the rest is never stored by a cache. */
export function renderNginx (paths: FrontendPaths): string {
  const { nginxDir, www } = paths
  return `# made by Musubi from the desired state; changes are lost
daemon off;
worker_processes 1;
pid ${nginxDir}/nginx.pid;
error_log ${nginxDir}/error.log warn;
events { worker_connections 2048; }
http {
  default_type application/octet-stream;
  client_body_temp_path ${nginxDir}/tmp/body;
  proxy_temp_path ${nginxDir}/tmp/proxy;
  fastcgi_temp_path ${nginxDir}/tmp/fastcgi;
  uwsgi_temp_path ${nginxDir}/tmp/uwsgi;
  scgi_temp_path ${nginxDir}/tmp/scgi;
  server_tokens off;
  sendfile on;
  tcp_nopush on;
  keepalive_timeout 75s;
  keepalive_requests 10000;
  client_max_body_size 1k;
  # a node that floods its phases fills no disk; nor do many, or one under many addresses
  limit_req_zone $binary_remote_addr zone=phase:1m rate=5r/s;
  limit_req_zone $server_name zone=phases:32k rate=50r/s;
  limit_req_status 429;
  limit_req_log_level info;
  map $status $counted { 429 0; default 1; }
  log_format phase escape=json '{"at":$msec,"mac":"$mac","phase":"$phase","reason":"$arg_reason","from":"$remote_addr"}';
  access_log off;
  server {
    listen 80;
    server_name frontend;
    root ${www};
    location /images/ {
      add_header Cache-Control "public, max-age=31536000, immutable";
    }
    location ~ ^/v1/phase/(?<phase>[a-z]+)$ {
      set $mac $arg_mac;
      limit_req zone=phase burst=20 nodelay;
      limit_req zone=phases burst=1000 nodelay;
      access_log ${nginxDir}/phases.log phase if=$counted;
      add_header Cache-Control "no-store" always;
      try_files /none =204;
    }
    location ~ ^/v1/boot/(?<mac>[0-9a-f-]+)\\.ipxe$ {
      set $phase script;
      limit_req zone=phase burst=20 nodelay;
      limit_req zone=phases burst=1000 nodelay;
      access_log ${nginxDir}/phases.log phase if=$counted;
      default_type text/plain;
      add_header Cache-Control "no-store" always;
    }
    location /v1/ {
      default_type text/plain;
      add_header Cache-Control "no-store" always;
    }
    location / {
      add_header Cache-Control "no-store" always;
      return 404;
    }
  }
}
`
}

/** URL path of a file of an image: named by its own content, so a cache may keep it for ever. */
export function imagePath (manifest: ImageManifest, name: ImageManifest['files'][number]['name']): string {
  const file = manifest.files.find(entry => entry.name === name)
  if (file === undefined) throw new InvalidInputError(`the image manifest does not name ${name}`)
  return `/images/sha256-${file.sha256}/${name}`
}

/** The iPXE script of one node: kernel and initrd, tried five times, then reported as failed. */
export function renderBootScript (spec: FrontendSpec, manifest: ImageManifest, node: FrontendSpec['nodes'][number]): string {
  const address = frontendAddress(spec)
  const kernel = `http://${address}${imagePath(manifest, 'vmlinuz')}`
  const initrd = `http://${address}${imagePath(manifest, 'initrd.img')}`
  const args = ['initrd=initrd.img', manifest.cmdline, `musubi.fe=${address}`, `musubi.root=${imagePath(manifest, 'root.squashfs')}`, `BOOTIF=01-${macInUrl(node.mac)}`]
  return [
    '#!ipxe',
    `echo Musubi: ${node.name}.${spec.domain}`,
    'set tries:int32 0',
    ':again',
    `kernel ${kernel} ${args.join(' ')} || goto failed`,
    `initrd --name initrd.img ${initrd} || goto failed`,
    'boot || goto failed',
    ':failed',
    'imgfree',
    'inc tries',
    'iseq ${tries} 5 && goto stop ||',
    'sleep ${tries}',
    'goto again',
    ':stop',
    `imgfetch http://${address}/v1/phase/failed?mac=${node.mac}&reason=kernel-unreachable ||`,
    'echo Musubi: kernel or initrd cannot be fetched; power-cycle this node to try again',
    'sleep 100000000',
    ''
  ].join('\n')
}

/** What makes a node itself: `key value` lines that the initrd reads, never runs. */
export function renderProfile (spec: FrontendSpec, node: FrontendSpec['nodes'][number]): string {
  // what is at other sites cannot be reached on this one's own segment
  const near = localHosts(spec.nodes.filter(one => one.site === node.site))
  const hosts = [{ name: spec.name, ip: frontendAddress(spec) }, ...spec.nodes, ...near]
  return [
    `hostname ${node.name}`,
    `domain ${spec.domain}`,
    `cluster ${spec.clusterId}`,
    `site ${node.site}`,
    ...(node.local === undefined ? [] : [`local ${node.local.mac} ${node.local.address}`]),
    ...hosts.map(host => `host ${host.ip} ${host.name}.${spec.domain} ${host.name}`),
    `authorized-key ${spec.sshPublicKey}`,
    ''
  ].join('\n')
}

/** What every node will ask for, in that order, for caches to fetch before: the manifest that their fetcher reads. */
export function renderPreheat (manifest: ImageManifest): string {
  const objects = IMAGE_FILES.flatMap(name => manifest.files.filter(file => file.name === name)).map(({ name, sizeBytes, sha256 }) => ({ path: imagePath(manifest, name), size: sizeBytes, sha256 }))
  return `${JSON.stringify({ objects })}\n`
}

/** All files below the document root that depend on the nodes, or on the image, by relative path. */
export function renderNodeFiles (spec: FrontendSpec, manifest: ImageManifest): Map<string, string> {
  const files = new Map<string, string>()
  for (const node of spec.nodes) {
    files.set(`v1/boot/${macInUrl(node.mac)}.ipxe`, renderBootScript(spec, manifest, node))
    files.set(`v1/profile/${macInUrl(node.mac)}`, renderProfile(spec, node))
  }
  files.set(PREHEAT_PATH.slice(1), renderPreheat(manifest))
  return files
}
