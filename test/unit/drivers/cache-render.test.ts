import t from 'tap'
import { nftComment, renderNft, renderNftRemoval } from '../../../agent/drivers/cache/nft.ts'
import { renderNginxConf } from '../../../agent/drivers/cache/nginx-conf.ts'
import { planCache, serviceNames, vniOfService } from '../../../agent/drivers/cache/plan.ts'
import type { CacheSpec } from '../../../protocol/core/desired.ts'

// What is rendered is fixed here letter by letter: a change of it is a decision, not a side effect.

const SPEC: CacheSpec = {
  cluster: 'demo',
  vni: 0x2a,
  frontendAddress: '10.42.0.1',
  ownAddress: '10.42.255.2',
  bridgeMac: '02:00:00:00:b1:01',
  ports: [8080, 80],
  maxSizeMiB: 2048
}

const NGINX = String.raw`# made by musubi for cluster demo; changes are overwritten
daemon off;
worker_processes 1;
# all nodes of the site wait for this one process, and virtual machines may fill the processors
worker_priority -5;
pid /var/lib/x/engine/nginx.pid;
lock_file /var/lib/x/engine/nginx.lock;
error_log /var/lib/x/engine/error.log warn;

events {
  worker_connections 4096;
}

http {
  # as little of nginx's own mind as possible: nodes talk to their frontend
  server_tokens off;
  merge_slashes off;
  underscores_in_headers on;
  ignore_invalid_headers off;
  large_client_header_buffers 8 64k;
  client_max_body_size 0;
  client_body_timeout 600s;
  send_timeout 600s;
  reset_timedout_connection on;
  sendfile on;
  tcp_nopush on;
  default_type "";

  client_body_temp_path /var/lib/x/engine/body;
  proxy_temp_path /var/lib/x/engine/proxy;
  fastcgi_temp_path /var/lib/x/engine/fastcgi;
  uwsgi_temp_path /var/lib/x/engine/uwsgi;
  scgi_temp_path /var/lib/x/engine/scgi;

  # one line per request; the parts of an object are subrequests, whose own length is 0
  log_format mz escape=json '{"at":$msec,"node":"$remote_addr","class":"$mz_class","method":"$request_method",'
    '"target":"$request_uri","status":$status,"asked":$request_length,"sent":$bytes_sent,'
    '"store":"$upstream_cache_status","fetched":"$upstream_bytes_received"}';
  access_log /var/lib/x/engine/access.log mz;
  log_subrequest on;

  map "$request_method" $mz_is_method { default 0; "" 0; "~^(GET|HEAD)$" 1; }
  map "$request_uri" $mz_is_path { default 0; "" 0; "~^/images/(?!.{512})(?!(?:.*/)?\\.)(?=.*[0-9a-f]{64})(?:[A-Za-z0-9._:@+~/-]|%3[Aa])+$" 1; }
  map "$http_authorization$http_cookie$http_proxy_authorization$http_cache_control$http_pragma$http_expect$http_upgrade$http_transfer_encoding$http_x_http_method_override" $mz_is_headers { default 0; "" 1; "~^$" 1; }
  map "$http_content_length" $mz_is_length { default 0; "" 1; "~^0?$" 1; }
  map "$http_range" $mz_is_range { default 0; "" 1; "~^(bytes=(\\d+-\\d*|-\\d+))?$" 1; }
  map "$mz_is_method$mz_is_path$mz_is_headers$mz_is_length$mz_is_range" $mz_class { default dynamic; "11111" static; }
  # a body that ends with its connection may have been cut off
  map $upstream_http_content_length $mz_unsized { default 0; "" 1; }
  map $http_host $mz_host { default $http_host; "" 10.42.0.1; }
  map $http_upgrade $mz_connection { default upgrade; "" close; }

  proxy_cache_path /var/lib/x/engine/store levels=1:2 keys_zone=mz:10m max_size=2048m min_free=64m inactive=30d use_temp_path=off;
  proxy_http_version 1.1;
  proxy_redirect off;
  proxy_connect_timeout 60s;
  proxy_pass_header Date;
  proxy_pass_header Server;
  proxy_pass_header X-Accel-Redirect;
  proxy_pass_header X-Accel-Expires;
  proxy_pass_header X-Accel-Limit-Rate;
  proxy_pass_header X-Accel-Buffering;
  proxy_pass_header X-Accel-Charset;
  proxy_ignore_headers X-Accel-Redirect X-Accel-Expires X-Accel-Limit-Rate X-Accel-Buffering X-Accel-Charset;

  server {
    listen 127.0.0.1:3129;
    access_log off;
    location / { return 204; }
  }

  upstream mz_static_80 {
    server 10.42.0.1:80 max_fails=0;
    keepalive 16;
    keepalive_timeout 60s;
    keepalive_requests 100000;
  }

  server {
    listen 127.0.0.1:3130 backlog=1024;

    # dynamic: the node's own address, one connection each, nothing kept, nothing held back
    location / {
      error_page 418 = @static;
      if ($mz_class = static) { return 418; }
      proxy_pass http://10.42.0.1:80;
      proxy_bind $remote_addr transparent;
      proxy_set_header Host $mz_host;
      proxy_set_header Connection $mz_connection;
      proxy_set_header Upgrade $http_upgrade;
      proxy_request_buffering off;
      proxy_buffering off;
      proxy_buffer_size 64k;
      proxy_buffers 8 32k;
      proxy_next_upstream off;
      proxy_read_timeout 3600s;
      proxy_send_timeout 3600s;
    }

    # static: once, in parts, through warm connections from the gateway's own address
    location @static {
      slice 16777216;
      proxy_pass http://mz_static_80;
      proxy_bind 10.42.255.2;
      proxy_set_header Host $mz_host;
      proxy_set_header Connection "";
      proxy_set_header Accept-Encoding "";
      proxy_set_header Range $slice_range;
      proxy_cache mz;
      proxy_cache_key "80 $mz_host $request_uri $slice_range";
      proxy_cache_methods GET HEAD;
      proxy_cache_valid 200 206 365d;
      proxy_no_cache $mz_unsized;
      proxy_cache_use_stale off;
      proxy_cache_lock on;
      proxy_cache_lock_timeout 600s;
      proxy_cache_lock_age 600s;
      proxy_ignore_client_abort on;
      proxy_buffers 16 32k;
      proxy_buffer_size 32k;
      proxy_busy_buffers_size 64k;
      proxy_max_temp_file_size 0;
      proxy_next_upstream error timeout;
      proxy_next_upstream_tries 3;
      proxy_read_timeout 600s;
    }
  }
}
`

const NFT = `table bridge mz_cache
delete table bridge mz_cache
table ip mz_cache
delete table ip mz_cache
table bridge mz_cache {
  comment "78b340e35f137a0a"
  set live {
    type inet_service
    flags timeout
  }
  chain lift {
    type filter hook prerouting priority -300; policy accept;
    iifname { "host0", "site0m" } ip daddr 10.42.0.1 tcp dport { 80, 8080 } jump from_nodes
    iifname "wan0m" ip saddr 10.42.0.1 tcp sport { 80, 8080 } meta pkttype set host ether daddr set 02:00:00:00:b1:01
  }
  chain from_nodes {
    tcp flags & (syn | ack) == syn tcp dport != @live accept
    meta pkttype set host ether daddr set 02:00:00:00:b1:01
  }
}
table ip mz_cache {
  comment "78b340e35f137a0a"
  chain divert {
    type filter hook prerouting priority -150; policy accept;
    iifname "br0" ip protocol tcp socket transparent 1 meta mark set 0x6d7a accept
    iifname "br0" ip daddr 10.42.0.1 tcp dport 80 tcp flags & (syn | ack) == syn tproxy to 127.0.0.1:3130 meta mark set 0x6d7a accept
    iifname "br0" ip daddr 10.42.0.1 tcp dport 8080 tcp flags & (syn | ack) == syn tproxy to 127.0.0.1:3131 meta mark set 0x6d7a accept
  }
}
`

t.test('the nginx configuration of one port', t => {
  t.equal(renderNginxConf(planCache({ ...SPEC, ports: [80] }, '/var/lib/x')), NGINX)
  t.end()
})

t.test('the interception of two ports', t => {
  t.equal(renderNft(planCache(SPEC, '/var/lib/x')), NFT)
  t.end()
})

t.test('each port has its own socket, pool and server; the order in the spec means nothing', t => {
  const plan = planCache(SPEC, '/var/lib/x')
  t.same(plan.listeners, [{ port: 80, listenPort: 3130 }, { port: 8080, listenPort: 3131 }])
  const text = renderNginxConf(plan)
  for (const { port, listenPort } of plan.listeners) {
    t.match(text, `listen 127.0.0.1:${listenPort} `)
    t.match(text, `upstream mz_static_${port} {`)
  }
  const swapped = planCache({ ...SPEC, ports: [80, 8080] }, '/var/lib/x')
  t.equal(renderNginxConf(swapped), text)
  t.equal(renderNft(swapped), renderNft(plan))
  t.end()
})

t.test('a pool of connections never bears the address of a node', t => {
  const locations = renderNginxConf(planCache(SPEC, '/var/lib/x')).match(/location [^{]+\{(?:[^{}]|\{[^{}]*\})*\}/g) ?? []
  t.equal(locations.filter(block => block.includes('mz_static_')).length, 2)
  t.equal(locations.filter(block => block.includes('$remote_addr transparent')).length, 2)
  t.same(locations.filter(block => block.includes('mz_static_') && block.includes('transparent')), [])
  t.end()
})

t.test('the comment of the tables tells plans apart', t => {
  const plan = planCache(SPEC, '/var/lib/x')
  t.match(nftComment(plan), /^[0-9a-f]{16}$/)
  t.equal(nftComment(plan), nftComment(planCache(SPEC, '/elsewhere')))
  t.not(nftComment(plan), nftComment(planCache({ ...SPEC, ports: [80] }, '/var/lib/x')))
  t.not(nftComment(plan), nftComment(planCache({ ...SPEC, bridgeMac: '02:00:00:00:b1:02' }, '/var/lib/x')))
  t.end()
})

t.test('removal names both tables', t => {
  t.equal(renderNftRemoval(), 'table bridge mz_cache\ndelete table bridge mz_cache\ntable ip mz_cache\ndelete table ip mz_cache\n')
  t.same(serviceNames(0x2a), { engine: 'mz-cache-00002a', prober: 'mz-cacheprobe-00002a' })
  t.same(Object.values(serviceNames(0x2a)).map(vniOfService), [0x2a, 0x2a])
  t.same(['mz-dnsmasq-00002a', 'mz-cache-2a', 'xmz-cache-00002a'].map(vniOfService), [null, null, null])
  t.end()
})

t.test('nothing that could end up as a directive or a rule is rendered', t => {
  const bad: Array<[string, Partial<CacheSpec>]> = [
    ['an address with more in it', { frontendAddress: '10.42.0.1; }' }],
    ['a name for an address', { frontendAddress: 'frontend' }],
    ['octets out of range', { ownAddress: '10.42.0.256' }],
    ['octal-looking octets', { ownAddress: '10.042.0.1' }],
    ['five octets', { ownAddress: '10.42.0.1.1' }],
    ['own address that is the frontend\'s', { ownAddress: '10.42.0.1' }],
    ['a MAC in capitals', { bridgeMac: '02:00:00:00:B1:01' }],
    ['a MAC with a rule behind it', { bridgeMac: '02:00:00:00:b1:01 drop' }],
    ['no port', { ports: [] }],
    ['a port twice', { ports: [80, 80] }],
    ['port 0', { ports: [0] }],
    ['port 65536', { ports: [65_536] }],
    ['half a port', { ports: [80.5] }],
    ['too many ports', { ports: Array.from({ length: 17 }, (_, i) => i + 1) }],
    ['no room', { maxSizeMiB: 0 }],
    ['VNI 0', { vni: 0 }],
    ['a VNI of more than 24 bits', { vni: 0x100_0000 }]
  ]
  for (const [what, change] of bad) t.throws(() => planCache({ ...SPEC, ...change }, '/var/lib/x'), { code: 'INVALID_INPUT' }, what)
  for (const dir of ['relative', '/with blank', '/with;semicolon', '/with$variable', '/with\nline']) {
    t.throws(() => planCache(SPEC, dir), { code: 'INVALID_INPUT' }, JSON.stringify(dir))
  }
  t.notMatch(renderNginxConf(planCache({ ...SPEC, cluster: 'a\nuser nobody;' }, '/var/lib/x')), /^user nobody/m, 'a cluster\'s name stays in its comment')
  t.end()
})
