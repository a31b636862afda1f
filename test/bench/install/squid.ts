/**
 * What the original had in the place of the cache: Squid on the gateway, transparent, concurrent requests for one object collapsed into
 * one, node-specific files never cached. Debian's 5.7; it takes connections by NAT, as was usual, so its requests come from the
 * gateway's own address.
 */
import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { run } from '../../../agent/exec.ts'
import { LAB_SPEC, SITE } from '../cache-lab.ts'

const PORT = 3128
const TABLE = 'lab_squid'

const conf = (dir: string): string => `http_port ${PORT} intercept
http_port 127.0.0.1:3127
visible_hostname lab
cache_effective_user proxy
cache_effective_group proxy
pid_filename ${dir}/squid.pid
coredump_dir ${dir}
access_log none
cache_log ${dir}/cache.log
cache_store_log none
pinger_enable off
dns_nameservers 127.0.0.1
shutdown_lifetime 1 seconds
maximum_object_size 20 GB
cache_mem 64 MB
maximum_object_size_in_memory 512 KB
cache_dir aufs ${dir}/store 8000 16 256
collapsed_forwarding on
quick_abort_min -1 KB
range_offset_limit none
acl kickstarts urlpath_regex ^/ks\\.cfg
cache deny kickstarts
acl frontend dst ${LAB_SPEC.frontendAddress}
http_access allow frontend
http_access deny all
refresh_pattern . 0 20% 4320
`

const rules = (): string => `table bridge ${TABLE} {
  chain lift {
    type filter hook prerouting priority -300; policy accept;
    iifname "host0" ip daddr ${LAB_SPEC.frontendAddress} tcp dport 80 meta pkttype set host ether daddr set ${LAB_SPEC.bridgeMac}
  }
}
table ip ${TABLE} {
  chain take {
    type nat hook prerouting priority -100; policy accept;
    iifname "br0" ip daddr ${LAB_SPEC.frontendAddress} tcp dport 80 redirect to :${PORT}
  }
}
`

/** Starts it with an empty store. @returns what stops it and takes its rules away */
export async function startSquid (dir: string): Promise<() => Promise<void>> {
  await rm(dir, { recursive: true, force: true })
  await mkdir(join(dir, 'store'), { recursive: true })
  const file = join(dir, 'squid.conf')
  await writeFile(file, conf(dir))
  await run('chown', ['-R', 'proxy:proxy', dir])
  await run('squid', ['-N', '-z', '-f', file, '-n', 'lab'], { netns: SITE, timeoutMs: 60_000 })
  const child: ChildProcess = spawn('ip', ['netns', 'exec', SITE, 'squid', '-N', '-f', file, '-n', 'lab'], { stdio: 'ignore' })
  const ended = once(child, 'exit')
  const stop = async (): Promise<void> => {
    for (const family of ['bridge', 'ip']) await run('nft', ['delete', 'table', family, TABLE], { netns: SITE, okCodes: [1] })
    child.kill('SIGKILL')
    await ended
    await rm(dir, { recursive: true, force: true })
  }
  for (let tries = 0; tries < 100; tries++) {
    if ((await run('ss', ['-Hltn', `sport = :${PORT}`], { netns: SITE })).stdout !== '') {
      await run('nft', ['-f', '-'], { netns: SITE, input: rules() })
      return stop
    }
    await delay(100)
  }
  await stop()
  throw new Error('squid does not start')
}
