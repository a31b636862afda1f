import { spawn } from 'node:child_process'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { run } from '../../agent/exec.ts'

const RELAY = join(import.meta.dirname, '..', '..', 'lab', 'scripts', 'relay.py')
/** Debian's own: another Python that comes first in PATH may lack modules. */
const PYTHON = '/usr/bin/python3'
const WAN = 'wan'
const OFFLOADS = ['tso', 'gso', 'gro', 'tx', 'rx', 'sg'].flatMap(name => [name, 'off'])

/** What lies between the two gateways. */
export interface CacheWan {
  /** limits the path from the frontend, in Mbit/s; null lifts it */
  limit (mbitPerS: number | null): Promise<void>
  /** @throws Error without `delayed` */
  setRtt (rttMs: number): Promise<void>
  close (): void
}

/** Runs ip commands in one namespace (`''`: this one), one a line. */
export async function ip (namespace: string, lines: string): Promise<void> {
  await run('ip', [...(namespace === '' ? [] : ['-n', namespace]), '-batch', '-'], { input: `${lines.trim().split('\n').map(line => line.trim()).join('\n')}\n` })
}

/**
 * Joins `gwa` (10.98.0.1, the frontend's) and `gwb` by `u0` each: a wire, or one with a delay that can be set, made by
 * the lab's relay as not every kernel has netem. The relay moves some 400 Mbit/s.
 */
export async function joinGateways (dir: string, delayed: boolean): Promise<CacheWan> {
  if (!delayed) await ip('gwa', 'link add u0 type veth peer name u0 netns gwb')
  else {
    await ip('', `netns add ${WAN}`)
    await ip(WAN, `link set lo up
      link add wa type veth peer name u0 netns gwa
      link add wb type veth peer name u0 netns gwb
      link set wa up
      link set wb up`)
    // the relay moves single frames as they are on a wire
    for (const [netns, link] of [[WAN, 'wa'], [WAN, 'wb'], ['gwa', 'u0'], ['gwb', 'u0']] as const) await run('ethtool', ['-K', link, ...OFFLOADS], { netns })
  }
  for (const [index, gateway] of ['gwa', 'gwb'].entries()) await ip(gateway, `addr add 10.98.0.${index + 1}/24 dev u0\nlink set u0 up`)

  const file = join(dir, 'delay-ms')
  const log = join(dir, 'relay.log')
  await writeFile(file, '0\n')
  await writeFile(log, '')
  const relay = delayed ? spawn('ip', ['netns', 'exec', WAN, 'sh', '-c', 'exec "$@" 2>"$0"', log, PYTHON, '-I', RELAY, 'wa', 'wb', file], { stdio: ['ignore', 'inherit', 'inherit'] }) : null
  for (let tries = 0; relay !== null && !(await readFile(log, 'utf8')).includes('ready'); tries++) {
    if (tries > 100) throw new Error(`the delay relay does not start: ${await readFile(log, 'utf8')}`)
    await delay(50)
  }
  return {
    async limit (mbitPerS) {
      await run('tc', ['-n', 'gwa', 'qdisc', 'del', 'dev', 'u0', 'root'], { okCodes: [2] })
      if (mbitPerS !== null) await run('tc', ['-n', 'gwa', 'qdisc', 'add', 'dev', 'u0', 'root', 'tbf', 'rate', `${mbitPerS}mbit`, 'burst', '256kb', 'latency', '100ms'])
    },
    async setRtt (rttMs) {
      if (relay === null) throw new Error('this lab has no delay: make it with `delayed`')
      await writeFile(file, `${rttMs / 2}\n`)
      relay.kill('SIGHUP')
    },
    close () { relay?.kill('SIGKILL') }
  }
}
