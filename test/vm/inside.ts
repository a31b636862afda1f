/** A test file that runs itself once more inside namespaces of its own, where the kernel has what it is about. */
import { readFile } from 'node:fs/promises'
import t from 'tap'
import type { Test } from 'tap'
import { run, runJson } from '../../agent/exec.ts'
import { enterPod } from '../host/network-pod.ts'

const INSIDE = 'inside'
/** Programs start slowly on an emulated processor, and more so on a busy machine. */
export const CALL_TIMEOUT_MS = 120_000
export const FILE_TIMEOUT_MS = 580_000

/** Whether this is the guest, or a machine with a kernel of that kind. */
export const isAble = async (): Promise<boolean> => process.getuid?.() === 0 && (await readFile('/proc/modules', 'utf8').catch(() => '')).includes('8021q ')
export const ELSEWHERE = 'this kernel has no 802.1Q: runs in the guest of npm run test:vm'

/** A command that must succeed; its standard output. */
export const ok = async (line: string): Promise<string> => {
  const [file = '', ...args] = line.split(' ')
  return (await run(file, args)).stdout
}

/** Links, namespaces and tables of ours. */
export async function leftovers (): Promise<string[]> {
  const links = await runJson('ip', ['-json', 'link', 'show']) as Array<{ ifname: string }>
  return [...links.map(({ ifname }) => ifname), ...(await ok('ip netns list')).split('\n'), ...(await ok('nft list tables')).split('\n')].filter((name) => /^(mz|table \w+ mz_)/.test(name))
}

/** @param file path of the test file itself */
export async function inside (file: string, what: string, test: (t: Test) => Promise<void>): Promise<void> {
  t.setTimeout(FILE_TIMEOUT_MS)
  if (process.argv[2] === INSIDE) {
    await enterPod()
    await t.test(what, test)
  } else if (!await isAble()) {
    t.pass(what, { skip: ELSEWHERE })
  } else {
    const unshare = ['--net', '--mount', '--uts', '--pid', '--fork', '--kill-child', '--mount-proc']
    t.spawn('unshare', [...unshare, process.execPath, ...process.execArgv, file, INSIDE], { timeout: FILE_TIMEOUT_MS }, 'inside namespaces of its own')
  }
}
