import { readdir, readFile, readlink } from 'node:fs/promises'
import { processesOfPod, type PodProcess } from '../lab/process.ts'

/** A process of ours on a host of a lab, as the kernel sees it. */
export interface OurProcess extends PodProcess {
  uid: number
  /** effective, permitted, inheritable, ambient and bounding set: all zero is none */
  capabilities: string
  /** TCP, UDP, raw and packet sockets that it has open */
  sockets: string[]
}

const TABLES = ['tcp', 'tcp6', 'udp', 'udp6', 'udplite', 'udplite6', 'raw', 'raw6', 'packet'] as const
/** The column of a table in /proc/net that has the inode. */
const inodeOf = (table: string, line: string): string | undefined => line.trim().split(/\s+/)[table === 'packet' ? 8 : 9]

/** Sockets of the network of one process, in the network namespace that it is in: `tcp 12345`. */
export async function networkSockets (pid: number): Promise<string[]> {
  const fds = await readdir(`/proc/${pid}/fd`).catch(() => [])
  const links = await Promise.all(fds.map(async fd => await readlink(`/proc/${pid}/fd/${fd}`).catch(() => '')))
  const inodes = new Set(links.flatMap(link => /^socket:\[(\d+)\]$/.exec(link)?.[1] ?? []))
  const found = await Promise.all(TABLES.map(async table => {
    const text = await readFile(`/proc/${pid}/net/${table}`, 'utf8').catch(() => '')
    return text.split('\n').slice(1).map(line => inodeOf(table, line)).filter(inode => inode !== undefined && inodes.has(inode)).map(inode => `${table} ${inode ?? ''}`)
  }))
  return found.flat()
}

/** Our own programs on a host: daemons, and what of the work tree runs beside them; not nginx and its like, which come with the system. */
export async function ourProcesses (initPid: number, tree: string): Promise<OurProcess[]> {
  const all = await processesOfPod(initPid)
  const ours = all.filter(({ argv }) => argv[0] === 'musubi helper' || argv.some(word => [`${tree}/cli/`, `${tree}/agent/`, `${tree}/coordinator/`].some(dir => word.startsWith(dir)) || /\/packaging\/\.\.\/cli\//.test(word)))
  return await Promise.all(ours.filter(({ argv }) => !/\/(ba|da)?sh$/.test(argv[0] ?? '')).map(async (one): Promise<OurProcess> => {
    const status = await readFile(`/proc/${one.pid}/status`, 'utf8').catch(() => '')
    const capabilities = [...status.matchAll(/^Cap\w+:\t([0-9a-f]+)$/gm)].map(([, set = '']) => set).join(' ')
    return { ...one, uid: Number(/^Uid:\t\d+\t(\d+)/m.exec(status)?.[1] ?? -1), capabilities, sockets: await networkSockets(one.pid) }
  }))
}
