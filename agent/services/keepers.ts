/**
 * Who keepers are. Each has a user of its own: processes of one user may stop each other, read each other's memory and
 * change what the other has in /proc, whatever capabilities they lack.
 */

/**
 * First of our user ids. systemd's table of ids has 1879048192 (0x70000000) to 2147483647 as unused: no distribution gives
 * them out, nor do containers (systemd, doc "Users, Groups, UIDs and GIDs on systemd systems"). They need no entry in
 * /etc/passwd, and the same program has the same on every host.
 */
const FIRST_ID = 0x7000_0000
const KINDS = { forward: 1, snoop: 2, prober: 3, engine: 4, tftp: 5, retained: 6 } as const

/** Of a host there is one keeper of a kind, of a cache one for each VNI, which has 24 bits; so for its engine and what runs beside that. */
export type KeeperKind = keyof typeof KINDS

/** User and group id of a keeper. @param vni of what it keeps, where there is one for each */
export const keeperId = (kind: KeeperKind, vni = 0): number => FIRST_ID + (KINDS[kind] << 24) + vni

/** Whether a user id is one that only we give out. */
export const isKeeperId = (id: number): boolean => id >= FIRST_ID + (1 << 24) && id < FIRST_ID + (16 << 24)

/** What turns the argv of a keeper into that of a process with a user of its own and these capabilities only. */
export function keeperArgv (kind: KeeperKind, capabilities: readonly string[], vni?: number): string[] {
  const id = keeperId(kind, vni)
  const caps = ['-all', ...capabilities.map(one => `+${one}`)].join(',')
  return ['setpriv', `--reuid=${id}`, `--regid=${id}`, '--clear-groups', `--inh-caps=${caps}`, `--ambient-caps=${caps}`, `--bounding-set=${caps}`, '--no-new-privs', '--']
}
