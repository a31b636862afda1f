import { CLASS_RULES } from './classes.ts'
import type { ClassRule } from './classes.ts'
import { SLICE_BYTES } from './plan.ts'
import type { CachePlan } from './plan.ts'

/** Waiting for the first download of an object is what the cache is for: longer than any slow link needs. */
const COLLAPSE_SECONDS = 600
/** Idle connections to the frontend that are kept open for static fetches. */
const POOL_SIZE = 16
/** Shorter than usual servers keep theirs (nginx: 75 s), so that the frontend seldom closes first. */
const POOL_IDLE_SECONDS = 60

/** The nginx configuration of one cache. Pure: equal plans give equal text. */
export function renderNginxConf (plan: CachePlan): string {
  const { spec, paths } = plan
  return `# made by musubi for cluster ${commentSafe(spec.cluster)}; changes are overwritten
daemon off;
worker_processes 1;
# all nodes of the site wait for this one process, and virtual machines may fill the processors
worker_priority -5;
pid ${paths.pid};
lock_file ${paths.engine}/nginx.lock;
error_log ${paths.errorLog} warn;

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

  client_body_temp_path ${paths.engine}/body;
  proxy_temp_path ${paths.engine}/proxy;
  fastcgi_temp_path ${paths.engine}/fastcgi;
  uwsgi_temp_path ${paths.engine}/uwsgi;
  scgi_temp_path ${paths.engine}/scgi;

  # one line per request; the parts of an object are subrequests, whose own length is 0
  log_format mz escape=json '{"at":$msec,"node":"$remote_addr","class":"$mz_class","method":"$request_method",'
    '"target":"$request_uri","status":$status,"asked":$request_length,"sent":$bytes_sent,'
    '"store":"$upstream_cache_status","fetched":"$upstream_bytes_received"}';
  access_log ${paths.log} mz;
  log_subrequest on;

${CLASS_RULES.map(renderRule).join('\n')}
  map "${CLASS_RULES.map(rule => `$mz_is_${rule.name}`).join('')}" $mz_class { default dynamic; "${'1'.repeat(CLASS_RULES.length)}" static; }
  # a body that ends with its connection may have been cut off
  map $upstream_http_content_length $mz_unsized { default 0; "" 1; }
  map $http_host $mz_host { default $http_host; "" ${spec.frontendAddress}; }
  map $http_upgrade $mz_connection { default upgrade; "" close; }

  proxy_cache_path ${paths.store} levels=1:2 keys_zone=mz:10m max_size=${spec.maxSizeMiB}m min_free=64m inactive=30d use_temp_path=off;
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
    listen 127.0.0.1:${plan.healthPort};
    access_log off;
    location / { return 204; }
  }
${plan.listeners.map(listener => renderPort(plan, listener)).join('')}}
`
}

/** What one intercepted port of the frontend needs: its pool, and a server with both classes. */
function renderPort (plan: CachePlan, { port, listenPort }: CachePlan['listeners'][number]): string {
  const { frontendAddress, ownAddress } = plan.spec
  return `
  upstream mz_static_${port} {
    server ${frontendAddress}:${port} max_fails=0;
    keepalive ${POOL_SIZE};
    keepalive_timeout ${POOL_IDLE_SECONDS}s;
    keepalive_requests 100000;
  }

  server {
    listen 127.0.0.1:${listenPort} backlog=1024;

    # dynamic: the node's own address, one connection each, nothing kept, nothing held back
    location / {
      error_page 418 = @static;
      if ($mz_class = static) { return 418; }
      proxy_pass http://${frontendAddress}:${port};
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
      slice ${SLICE_BYTES};
      proxy_pass http://mz_static_${port};
      proxy_bind ${ownAddress};
      proxy_set_header Host $mz_host;
      proxy_set_header Connection "";
      proxy_set_header Accept-Encoding "";
      proxy_set_header Range $slice_range;
      proxy_cache mz;
      proxy_cache_key "${port} $mz_host $request_uri $slice_range";
      proxy_cache_methods GET HEAD;
      proxy_cache_valid 200 206 365d;
      proxy_no_cache $mz_unsized;
      proxy_cache_use_stale off;
      proxy_cache_lock on;
      proxy_cache_lock_timeout ${COLLAPSE_SECONDS}s;
      proxy_cache_lock_age ${COLLAPSE_SECONDS}s;
      proxy_ignore_client_abort on;
      proxy_buffers 16 32k;
      proxy_buffer_size 32k;
      proxy_busy_buffers_size 64k;
      proxy_max_temp_file_size 0;
      proxy_next_upstream error timeout;
      proxy_next_upstream_tries 3;
      proxy_read_timeout ${COLLAPSE_SECONDS}s;
    }
  }
`
}

/** One rule as a map. nginx tries no regular expression on an empty value: that verdict is written out. */
function renderRule (rule: ClassRule): string {
  const empty = rule.accept.test('') ? 1 : 0
  return `  map "${rule.source}" $mz_is_${rule.name} { default 0; "" ${empty}; "~${nginxPattern(rule.accept)}" 1; }`
}

/** A regular expression inside a quoted nginx parameter: backslashes and quotes are its own there. */
function nginxPattern (pattern: RegExp): string {
  return pattern.source.replaceAll('\\/', '/').replaceAll('\\', '\\\\').replaceAll('"', '\\"')
}

const commentSafe = (text: string): string => text.replaceAll(/[^\x20-\x7e]/g, '?')
