import { createHash } from 'node:crypto'
import type { CachePlan } from './plan.ts'

/** Waiting for the first download of an object is what the cache is for: longer than any slow link needs. */
const COLLAPSE_SECONDS = 600
/** A frontend that says nothing for so long is asked again, by the node's own request: others wait for this one. */
const SILENT_SECONDS = 60
/** Idle connections to the frontend that are kept open for static fetches. */
const POOL_SIZE = 32
/** Shorter than usual servers keep theirs (nginx: 75 s), so that the frontend seldom closes first. */
const POOL_IDLE_SECONDS = 60
/**
 * Whatever a frontend answers to a static fetch but the object: the node gets what it is told itself. Left out, and so passed on
 * from the fetch, are those that nginx ends the node's connection with (400, 413, 414, 500, 501), and of which it keeps headers (401);
 * 416 has a way of its own, as nginx also says it itself.
 */
const OTHER_ANSWERS = '301 302 303 307 308 402 403 404 405 406 407 408 409 410 411 412 415 421 422 423 424 425 426 428 429 431 451 502 503 504 505 506 507 508 511'
/** Codes that nginx never makes itself nor passes on from here: they say which way a request goes. */
const WAYS = { listed: 463, named: 464, validated: 465 } as const

/** Path of the internal request for a validator; nobody has such a path, so nothing of a frontend is hidden by it. */
export const checkPath = (plan: CachePlan): string => `/.musubi-${createHash('sha256').update(`check ${plan.spec.clusterId ?? plan.spec.cluster} ${plan.spec.vni}`).digest('hex').slice(0, 24)}`

/** Path of the internal request that leaves a line for the fetcher when an object is asked for; nobody has such a path either. */
const askedPath = (plan: CachePlan): string => `${checkPath(plan)}-asked`

/** What one intercepted port of the frontend needs: its pool, and a server with all classes. @param requestsPerNode at once */
export function renderPort (plan: CachePlan, { port, listenPort }: CachePlan['listeners'][number], requestsPerNode: number): string {
  const { frontendAddress } = plan.spec
  const [check, asked] = [checkPath(plan), askedPath(plan)]
  const scope = plan.spec.clusterId ?? `${plan.spec.vni}`
  return `
  upstream mz_static_${port} {
    server ${frontendAddress}:${port} max_fails=0;
    keepalive ${POOL_SIZE};
    keepalive_timeout ${POOL_IDLE_SECONDS}s;
    keepalive_requests 100000;
  }
  # questions have connections of their own: a frontend that sends a body after all leaves it in them, not before an object
  upstream mz_check_${port} {
    server ${frontendAddress}:${port} max_fails=0;
    keepalive ${POOL_SIZE};
    keepalive_timeout ${POOL_IDLE_SECONDS}s;
    keepalive_requests 100000;
  }
  # nobody: leads to the frontend as the node sent it
  upstream mz_refuse_${port} { server ${frontendAddress}:${port} down; }

  server {
    listen 127.0.0.1:${listenPort} backlog=1024;
    set $mz_port ${port};
    limit_conn mz_nodes ${requestsPerNode};

    location / {
      set $mz_way dynamic;
      set $mz_go $mz_class;
      # no room, no store: straight on
      if (!-f ${plan.paths.room}) { set $mz_go dynamic; }
${Object.entries(WAYS).map(([way, code]) => `      error_page ${code} = @${way};\n      if ($mz_go = ${way}) { return ${code}; }`).join('\n')}
${dynamic(plan, port)}    }

    # as above, for what turned out to be nothing to keep
    location @dynamic {
      set $mz_way dynamic;
${dynamic(plan, port)}    }

    # a verified index says what it is: kept under its digest, wherever it lies
    location @listed {
      set $mz_way listed;
      # a line at the end of the request would come when the node has it all
      mirror ${asked};
      mirror_request_body off;
      proxy_pass http://mz_static_${port};
      proxy_cache_key "L $mz_digest $slice_range";
${nodeless()}${mixed(plan)}${kept(plan)}    }

    # its name says what it is
    location @named {
      set $mz_way named;
      proxy_pass http://mz_static_${port};
      proxy_cache_key "N ${port} $mz_host $request_uri $slice_range";
${nodeless()}${mixed(plan)}${kept(plan)}    }

    # the frontend says at each request which one it is
    location @validated {
      set $mz_way validated;
      auth_request ${check};
      auth_request_set $mz_v_etag $upstream_http_etag;
      auth_request_set $mz_v_modified $upstream_http_last_modified;
      auth_request_set $mz_v_vary $upstream_http_vary;
      auth_request_set $mz_v_control $upstream_http_cache_control;
      auth_request_set $mz_v_cookie $upstream_http_set_cookie;
      auth_request_set $mz_v_length $upstream_http_content_length;
      # what is no HTTP has no status that the question could end with
      error_page 500 = @dynamic;
      proxy_pass http://mz_\${mz_v_pool}_${port};
      proxy_cache_key "V ${scope} ${port} $mz_host $request_uri $mz_v_etag $mz_v_modified $mz_v_length $slice_range";
      proxy_set_header Host $mz_host;
      proxy_set_header Connection "";
      proxy_set_header If-Match $mz_v_match;
      proxy_set_header If-Unmodified-Since $mz_v_since;
${kept(plan)}    }
    location = ${check} {
      internal;
      proxy_pass http://mz_check_${port}$request_uri;
      proxy_method HEAD;
      proxy_bind ${plan.spec.ownAddress};
      proxy_pass_request_body off;
      proxy_set_header Content-Length "";
      proxy_set_header Host $mz_host;
      proxy_set_header Connection "";
      proxy_set_header Range "";
      proxy_set_header If-Range "";
      proxy_set_header If-Match "";
      proxy_set_header If-None-Match "";
      proxy_set_header If-Modified-Since "";
      proxy_set_header If-Unmodified-Since "";
      proxy_read_timeout ${SILENT_SECONDS}s;
      proxy_intercept_errors on;
      error_page 300 400 500 501 ${OTHER_ANSWERS} 401 413 414 416 = @unknown;
    }
    location = ${asked} {
      internal;
      access_log ${plan.paths.partsLog} parts if=$mz_asks;
      return 200 "";
    }
    # the one answer that leaves the node's connection, and the headers of its answer, alone
    location @unknown { return 403; }
    # headers of the object, and no page of nginx's own, which it takes for an empty text that is written out
    location @beyond { return 416 $mz_nothing; }
  }
`
}

/** The node's own address, one connection each, nothing kept, nothing held back. */
const dynamic = (plan: CachePlan, port: number): string => `      proxy_pass http://${plan.spec.frontendAddress}:${port};
      proxy_bind $mz_from transparent;
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
`

/** What is the same for all nodes is asked for without anything of the node that happens to be the first: else it could choose what all get. */
const nodeless = (): string => `      proxy_pass_request_headers off;
      proxy_set_header Host $mz_host;
      proxy_set_header Connection "";
      proxy_set_header User-Agent musubi;
`

/** Parts of one object may be those of an earlier cluster's frontend, with its ETag: nginx ends an answer whose parts have two of them. */
const mixed = ({ spec }: CachePlan): string => spec.retain === undefined ? '' : '      proxy_hide_header ETag;\n'

/** Once, in parts, through warm connections from the gateway's own address. */
const kept = (plan: CachePlan): string => `      error_page ${OTHER_ANSWERS} = @dynamic;
      error_page 416 = $mz_beyond;
      proxy_intercept_errors on;
      slice ${plan.sliceBytes};
      proxy_bind ${plan.spec.ownAddress};
      proxy_set_header Range $slice_range;
      proxy_cache mz;
      proxy_cache_methods GET HEAD;
      proxy_cache_valid 200 206 365d;
      proxy_ignore_headers Cache-Control Expires Vary X-Accel-Redirect X-Accel-Expires X-Accel-Limit-Rate X-Accel-Buffering X-Accel-Charset;
      proxy_no_cache $mz_unsized $mz_secret $mz_huge $mz_other;
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
      proxy_read_timeout ${SILENT_SECONDS}s;
      add_header X-Musubi-Store $mz_tell always;
      add_header Accept-Ranges $mz_ranges;
`
