import { INSIDE, decide } from './classes.ts'
import type { ClassRule } from './classes.ts'
import { renderPort } from './nginx-port.ts'
import type { CachePlan } from './plan.ts'

/** Parts of objects larger than this, in decimal digits of their length, are told to the fetcher: 10 MB and more. */
const LARGE_DIGITS = 8
/** Requests of one node at once, each with a connection to the frontend: what one node holds open is not to be all that there is for others. */
const REQUESTS_PER_NODE = 512
/** A worker with an earlier list of digests ends what it still does so long after the list changed. */
const OLD_WORKER_SECONDS = 14_400
/** What verified indexes may list: a bucket holds the longest path that is looked up. */
const LISTED_HASH = 'map_hash_max_size 262144;\n  map_hash_bucket_size 1024;'

/** The nginx configuration of one cache. Pure: equal plans give equal text. */
export function renderNginxConf (plan: CachePlan): string {
  const { spec, paths } = plan
  return `# made by musubi for cluster ${commentSafe(spec.cluster)}; changes are overwritten
daemon off;
worker_processes 1;
# all nodes of the site wait for this one process, and virtual machines may fill the processors
worker_priority -5;
worker_shutdown_timeout ${OLD_WORKER_SECONDS}s;
pid ${paths.pid};
lock_file ${paths.engine}/nginx.lock;
error_log ${paths.errorLog} warn;

events {
  worker_connections 8192;
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
  # what is kept fails by name: it goes to the frontend as the node sent it
  recursive_error_pages on;

  client_body_temp_path ${paths.engine}/body;
  proxy_temp_path ${paths.engine}/proxy;
  fastcgi_temp_path ${paths.engine}/fastcgi;
  uwsgi_temp_path ${paths.engine}/uwsgi;
  scgi_temp_path ${paths.engine}/scgi;

  ${LISTED_HASH}

  # beyond that a node's connection is closed; the fetcher has bounds of its own
  limit_conn_zone $mz_node zone=mz_nodes:1m;
  limit_conn_status 444;
  limit_conn_log_level notice;
  map $remote_addr $mz_node { default $binary_remote_addr; 127.0.0.1 ""; }

  # one line per request; the parts of an object are subrequests, whose own length is 0
  log_format mz escape=json '{"at":$msec,"node":"$remote_addr","class":"$mz_way","method":"$request_method",'
    '"target":"$request_uri","status":$status,"asked":$request_length,"sent":$bytes_sent,'
    '"store":"$upstream_cache_status","fetched":"$upstream_bytes_received"}';
  # what indexes name when it is asked for and when it came, and parts of large objects: for who fetches the next ones ahead of the nodes
  log_format parts escape=json '$mz_port\t$mz_host\t$request_uri\t$upstream_http_content_range\t$mz_way\t$upstream_cache_status\t$mz_digest';
  access_log ${paths.log} mz;
  access_log ${paths.partsLog} parts if=$mz_part;
  log_subrequest on;
  map "$remote_addr $mz_way $upstream_cache_status $upstream_http_content_range" $mz_part { volatile; default ""; "~^(?!127\\.0\\.0\\.1 )\\S+ (listed MISS .*|(?:listed|named|validated) \\S* bytes \\d+-\\d+/\\d{${LARGE_DIGITS},15})$" 1; }
  map $remote_addr $mz_asks { default 1; 127.0.0.1 ""; }
  # the fetcher is told what its request cost; nobody else is
  map $remote_addr $mz_tell { volatile; default ""; 127.0.0.1 "$mz_way $upstream_cache_status"; }
  # lost with the parts of an object, unless all of it is sent
  map $http_range $mz_ranges { volatile; default $upstream_http_accept_ranges; "" ""; }
  map $remote_addr $mz_from { default $remote_addr; 127.0.0.1 ${spec.ownAddress}; }

${renderClasses(plan)}
  # a body that ends with its connection may have been cut off
  map $upstream_http_content_length $mz_unsized { default 0; "" 1; }
  # a part that is longer than parts are, or an object that has no room: neither is on its way to the store when its nodes are gone
  map "$upstream_status:$upstream_http_content_length" $mz_huge { volatile; default 0; "~\\b206:(?:${above(plan.sliceBytes)})$" 1; "~\\b200:(?:${above(spec.maxSizeMiB * 1024 * 1024)})$" 1; }
  # a frontend that does not care for If-Match may send another object than the one whose name the key bears
  map "$mz_way:$mz_v_match|$mz_v_since|$upstream_http_etag|$upstream_http_last_modified" $mz_other { volatile; default 1; "~^(?!validated:)" 0; "~^validated:([^|]+)\\|\\|\\1\\|" 0; "~^validated:\\|([^|]+)\\|[^|]*\\|\\1$" 0; }
  map "$upstream_http_cache_control" $mz_secret { volatile; default 0; "~*(private|no-store)" 1; }
  map $http_host $mz_host { default $http_host; "" ${spec.frontendAddress}; }
  # it is nginx that says so, of parts that came; else the frontend has said it to the cache, and says it to the node as well
  map $upstream_status $mz_beyond { volatile; default @dynamic; 200 @beyond; 206 @beyond; "" @beyond; }
  map "" $mz_nothing { default ""; }
  map $http_upgrade $mz_connection { default upgrade; "" close; }

${renderValidators()}
  # by way of proxy_temp_path: a store that is deleted is made again when a part of it is whole
  proxy_cache_path ${paths.store} levels=1:2 keys_zone=mz:10m max_size=${spec.maxSizeMiB}m min_free=64m inactive=30d;
  proxy_http_version 1.1;
  proxy_redirect off;
  proxy_connect_timeout 60s;
  proxy_pass_header Date;
  proxy_pass_header Server;
  # what a frontend says of the store is nothing that the fetcher is to believe
  proxy_hide_header X-Musubi-Store;
  proxy_pass_header X-Accel-Redirect;
  proxy_pass_header X-Accel-Expires;
  proxy_pass_header X-Accel-Limit-Rate;
  proxy_pass_header X-Accel-Buffering;
  proxy_pass_header X-Accel-Charset;
  proxy_ignore_headers X-Accel-Redirect X-Accel-Expires X-Accel-Limit-Rate X-Accel-Buffering X-Accel-Charset;

  server {
    listen 127.0.0.1:${plan.healthPort};
    access_log off;
    location / { return 204; }
  }
${plan.listeners.map(listener => renderPort(plan, listener, REQUESTS_PER_NODE)).join('')}}
`
}

/** The rules, and the class that follows from their verdicts, each combination written out. */
function renderClasses (plan: CachePlan): string {
  const { every, never, fresh, named, kept } = plan.rules
  const { spec } = plan
  const verdicts = [false, true]
  const lines: string[] = []
  for (const a of verdicts) for (const b of verdicts) for (const c of verdicts) for (const d of verdicts) for (const e of verdicts) {
    const found = decide({ never: a, fresh: b, listed: c, named: d, kept: e })
    if (found !== 'dynamic') lines.push(`    "${'1'.repeat(every.length)}:${[a, b, c, d, e].map(Number).join('')}" ${found};`)
  }
  const hosts = [spec.frontendAddress, ...(spec.hosts ?? [])].flatMap(host => plan.listeners.map(({ port }) => `"${host}:${port}" 1;`).concat(`${host} 1;`))
  return `${[...every, never, fresh, named, kept].map(renderRule).join('\n')}
  # the digest that a verified index gives; under other names the frontend may have other objects
  map $http_host $mz_is_host { default 0; "" 1; ${[...new Set(hosts)].join(' ')} }
  map "$mz_port:$request_uri" $mz_entry { default ""; include ${plan.paths.listed.replace(/.$/, '[$&]')}; }
  map "$mz_entry $mz_port:$request_uri" $mz_digest { default ""; "~^([0-9a-f]{64}) (\\S+) \\2$" $1; }
  map "$mz_is_host:$mz_digest" $mz_is_listed { default 0; "~^1:[0-9a-f]{64}$" 1; }
  map "${every.map(rule => `$mz_is_${rule.name}`).join('')}:$mz_is_never$mz_is_fresh$mz_is_listed$mz_is_named$mz_is_kept" $mz_class {
    default dynamic;
${lines.join('\n')}
  }`
}

/**
 * What the frontend's answer to a HEAD must be like for an object to be kept under its validator. A weak
 * ETag does not tell bytes apart (RFC 9110, section 8.8.3); a date alone does not tell variants apart.
 */
function renderValidators (): string {
  return String.raw`  map $mz_v_etag $mz_v_tag { volatile; default 2; "" 0; "~^\"[^\"\\s]+\"$" 1; }
  map $mz_v_modified $mz_v_date { volatile; default 1; "" 0; }
  map $mz_v_vary $mz_v_variants { volatile; default 1; "" 0; "~\*" 2; }
  map $mz_v_control $mz_v_secret { volatile; default 0; "~*(private|no-store)" 1; }
  map $mz_v_cookie $mz_v_person { volatile; default 1; "" 0; }
  # nginx has an answer of its own to a range that begins behind the end, and parts of nothing cannot be asked for
  map "$http_range:$mz_v_length" $mz_v_sized { volatile; default 0; "~${nginxPattern(INSIDE)}" 1; }
  map "$mz_v_tag$mz_v_date$mz_v_variants$mz_v_secret$mz_v_person$mz_v_sized" $mz_v_pool { volatile; default refuse; "~^1.[01]001$" static; 010001 static; }
  map $mz_v_tag $mz_v_match { volatile; default ""; 1 $mz_v_etag; }
  map $mz_v_tag $mz_v_since { volatile; default ""; 0 $mz_v_modified; }
`
}

/** One rule as a map. nginx tries no regular expression on an empty value: that verdict is written out. */
function renderRule (rule: ClassRule): string {
  const empty = rule.accept.test('') ? 1 : 0
  return `  map "${rule.source}" $mz_is_${rule.name} { default 0; "" ${empty}; "~${nginxPattern(rule.accept)}" 1; }`
}

/** Pattern of the whole numbers that are larger than `least`, in digits, without anchors. Pure. */
export function above (least: number): string {
  const digits = String(least)
  const larger = Array.from(digits).flatMap((digit, i) => digit === '9' ? [] : [`${digits.slice(0, i)}[${Number(digit) + 1}-9]\\d{${digits.length - i - 1}}`])
  return `0*(?:${[`\\d{${digits.length + 1},}`, ...larger].join('|')})`
}

/** A regular expression inside a quoted nginx parameter: backslashes and quotes are its own there. */
function nginxPattern (pattern: RegExp): string {
  return pattern.source.replaceAll('\\/', '/').replaceAll('\\', '\\\\').replaceAll('"', '\\"')
}

const commentSafe = (text: string): string => text.replaceAll(/[^\x20-\x7e]/g, '?')
